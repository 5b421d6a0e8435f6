//! The way to the server: a connected UDP socket, DTLS on it, or a stream.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};
use postern_wire::uri::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, ReadHalf, WriteHalf, split};
use tokio::net::UdpSocket;

use super::options::Server;
use super::transport::{ServerStream, TransportError};
use crate::dtls::DtlsSocket;

/// Bytes read at once, more than any datagram has.
const READ: usize = 64 * 1024;

/// Datagrams that wait for a full socket; further ones are lost.
const MAX_DATAGRAMS: usize = 64;

/// Bytes that wait for a slow server before nothing more is taken from the user.
const ENOUGH: usize = 256 * 1024;

/// An open way to the server.
#[derive(Debug)]
pub(super) struct Link {
    io: Io,
    local: SocketAddr,
    server: SocketAddr,
    buffer: Vec<u8>,
    /// How many bytes of the buffer have been read and not taken.
    read: usize,
}

#[derive(Debug)]
enum Io {
    Udp {
        socket: UdpSocket,
        waiting: VecDeque<Vec<u8>>,
    },
    Dtls(Box<DtlsSocket>),
    Stream(Box<Stream>),
}

#[derive(Debug)]
struct Stream {
    reader: ReadHalf<ServerStream>,
    writer: WriteHalf<ServerStream>,
    waiting: BytesMut,
    unflushed: bool,
}

impl Link {
    /// Opens the way to a server: to `at`, or to the first of its addresses that answers.
    pub(super) async fn open(
        server: &Server,
        at: Option<SocketAddr>,
    ) -> Result<Self, TransportError> {
        match server.transport {
            Transport::Udp => {
                let address = at.or_else(|| server.target.addresses.first().copied());
                Self::over_udp(server, address).await
            }
            Transport::Tcp => {
                let stream = match at {
                    Some(at) => ServerStream::connect_at(&server.target, at).await?,
                    None => ServerStream::connect(&server.target).await?,
                };
                Ok(Self::over(stream))
            }
        }
    }

    async fn over_udp(
        server: &Server,
        address: Option<SocketAddr>,
    ) -> Result<Self, TransportError> {
        let connected = match address {
            Some(address) => connect_udp(address).await,
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let connected = connected.map_err(|source| TransportError::Unreachable {
            server: server.target.to_string(),
            transport: "UDP",
            source,
        });
        let (socket, local, remote) = connected?;
        let io = match &server.target.tls {
            Some(trust) => {
                let dtls = DtlsSocket::connect(socket, &server.target.host, trust).await?;
                Io::Dtls(Box::new(dtls))
            }
            None => Io::Udp {
                socket,
                waiting: VecDeque::new(),
            },
        };
        Ok(Self::new(io, local, remote))
    }

    fn over(stream: ServerStream) -> Self {
        let (local, server) = (stream.local(), stream.server());
        let (reader, writer) = split(stream);
        let stream = Stream {
            reader,
            writer,
            waiting: BytesMut::new(),
            unflushed: false,
        };
        let io = Io::Stream(Box::new(stream));
        Self::new(io, local, server)
    }

    fn new(io: Io, local: SocketAddr, server: SocketAddr) -> Self {
        let buffer = vec![0; READ];
        Self {
            io,
            local,
            server,
            buffer,
            read: 0,
        }
    }

    /// Whether errors are what anybody may have said (ICMP), and the way is there still.
    pub(super) fn is_connectionless(&self) -> bool {
        matches!(self.io, Io::Udp { .. })
    }

    /// Says farewell where that is a message.
    pub(super) fn close(&mut self) {
        if let Io::Dtls(socket) = &mut self.io {
            socket.close();
        }
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Whether more may be sent without anything being lost.
    pub(super) fn has_room(&self) -> bool {
        match &self.io {
            Io::Udp { waiting, .. } => waiting.is_empty(),
            Io::Dtls(_) => true,
            Io::Stream(stream) => stream.waiting.len() < ENOUGH,
        }
    }

    /// Sends a datagram, or a piece of the stream, as soon as it goes.
    pub(super) fn send(&mut self, payload: Vec<u8>) {
        match &mut self.io {
            Io::Udp { socket, waiting } => {
                let full = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
                let later = !waiting.is_empty() || socket.try_send(&payload).is_err_and(full);
                if later && waiting.len() < MAX_DATAGRAMS {
                    waiting.push_back(payload);
                }
            }
            Io::Dtls(socket) => {
                if let Err(error) = socket.send(&payload) {
                    tracing::debug!(%error, "a datagram was not sent over DTLS");
                }
            }
            Io::Stream(stream) => stream.waiting.extend_from_slice(&payload),
        }
    }

    /// Waits until there is something for [`Link::read`], or something that waited has been
    /// sent. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// What the system says about the way; `UnexpectedEof` if the server has closed it.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        match &mut self.io {
            Io::Udp { socket, waiting } => udp_ready(socket, waiting).await,
            Io::Dtls(socket) => {
                let datagram = socket.recv().await?;
                let datagram = datagram.ok_or(io::ErrorKind::UnexpectedEof)?;
                let to = self.buffer.iter_mut();
                to.zip(&datagram).for_each(|(to, from)| *to = *from);
                self.read = datagram.len();
                Ok(())
            }
            Io::Stream(stream) => stream.ready(&mut self.buffer, &mut self.read).await,
        }
    }

    /// What has arrived: a datagram, or a piece of the stream.
    ///
    /// # Errors
    ///
    /// What the system says: for UDP an answer of the network to what was sent.
    pub(super) fn read(&mut self) -> io::Result<Option<&[u8]>> {
        let read = match &mut self.io {
            Io::Udp { socket, .. } => match socket.try_recv(&mut self.buffer) {
                Ok(length) => Some(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => return Err(error),
            },
            Io::Dtls(_) | Io::Stream(_) => {
                Some(std::mem::take(&mut self.read)).filter(|length| *length > 0)
            }
        };
        Ok(read.and_then(|length| self.buffer.get(..length)))
    }
}

async fn connect_udp(server: SocketAddr) -> io::Result<(UdpSocket, SocketAddr, SocketAddr)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let local = socket.local_addr()?;
    Ok((socket, local, server))
}

async fn udp_ready(socket: &UdpSocket, waiting: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
    let mut interest = Interest::READABLE | Interest::ERROR;
    if !waiting.is_empty() {
        interest |= Interest::WRITABLE;
    }
    let ready = socket.ready(interest).await?;
    if ready.is_error() {
        let taken = socket.try_io(Interest::ERROR, || match socket.take_error()? {
            Some(error) => Err(error),
            None => Err(io::ErrorKind::WouldBlock.into()),
        });
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    if ready.is_writable() {
        while let Some(payload) = waiting.front() {
            match socket.try_send(payload) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A datagram that does not go is lost, as it may be anywhere.
                Ok(_) | Err(_) => _ = waiting.pop_front(),
            }
        }
    }
    Ok(())
}

impl Stream {
    async fn ready(&mut self, buffer: &mut [u8], read: &mut usize) -> io::Result<()> {
        let Self {
            reader,
            writer,
            waiting,
            unflushed,
        } = self;
        let busy = !waiting.is_empty() || *unflushed;
        let write = async {
            if waiting.is_empty() {
                writer.flush().await?;
                *unflushed = false;
                return Ok(());
            }
            *unflushed = true;
            let written = writer.write(waiting).await?;
            waiting.advance(written);
            Ok(())
        };
        tokio::select! {
            length = reader.read(buffer) => {
                *read = length?;
                let open = *read > 0;
                open.then_some(()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            written = write, if busy => written,
        }
    }
}
