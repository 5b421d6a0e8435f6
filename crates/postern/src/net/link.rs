//! Links to TURN servers: a UDP socket of its own, or a TCP or TLS stream.
//!
//! A server tells allocations apart by the addresses and ports of both ends, so each
//! allocation has a link, and links share nothing. A task reads each link: what QUIC is to
//! get goes to QUIC's socket, a check of a peer to the agents, everything else to the
//! session that owns the link. Writing never waits: what a full link does not take is lost,
//! as on any network.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_proto::connect::LinkId;
use postern_wire::turn::{CHANNEL_HEADER_LEN, ChannelData, ChannelNumber, channel_header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::delivery::Delivery;
use super::mux::{Inlets, is_transient};
use crate::turn::{MessageReader, MessageSender, MessageWriter};

/// Bytes of a datagram from a server: what an Ethernet carries.
const DATAGRAM: usize = 1500;

/// Trains that are received at once.
const BATCH: usize = 8;

/// What can be read and written as a stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A way to a server that has been opened.
pub(crate) enum Opened {
    /// A socket for this server alone.
    Datagrams(Box<dyn AsyncUdpSocket>),
    /// A stream, and its own address.
    Stream(Box<dyn Stream>, SocketAddr),
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Datagrams(_) => "Datagrams",
            Self::Stream(..) => "Stream",
        })
    }
}

/// Tells the links of an endpoint apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkKey(u64);

impl LinkKey {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a link brings to its session.
#[derive(Debug)]
pub(crate) enum LinkInput {
    /// A datagram, or the next whole message of a stream.
    Message(LinkId, Bytes),
    /// The link is gone.
    Closed(LinkId),
}

/// Where what arrives on a link goes.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    pub(crate) link: LinkId,
    pub(crate) inlets: Inlets,
    pub(crate) session: mpsc::Sender<LinkInput>,
}

/// An open link. It closes when it is dropped; a stream writes what is queued before.
#[derive(Debug)]
pub(crate) struct Link {
    key: LinkKey,
    local: SocketAddr,
    way: LinkWay,
    tasks: Vec<AbortHandle>,
}

#[derive(Debug)]
enum LinkWay {
    Datagrams {
        socket: Arc<Mutex<Box<dyn AsyncUdpSocket>>>,
        server: SocketAddr,
        /// For what the session sends.
        sender: Mutex<Pin<Box<dyn UdpSender>>>,
    },
    Stream(MessageSender),
}

impl Link {
    /// Begins to read and write. Must be called inside a tokio runtime.
    pub(crate) fn start(opened: Opened, server: SocketAddr, outlet: Outlet) -> io::Result<Self> {
        match opened {
            Opened::Datagrams(socket) => Self::over_datagrams(socket, server, outlet),
            Opened::Stream(stream, local) => Ok(Self::over_stream(stream, local, outlet)),
        }
    }

    fn over_datagrams(
        socket: Box<dyn AsyncUdpSocket>,
        server: SocketAddr,
        outlet: Outlet,
    ) -> io::Result<Self> {
        let key = LinkKey::next();
        let local = socket.local_addr()?;
        let sender = Mutex::new(socket.create_sender());
        let socket = Arc::new(Mutex::new(socket));
        let sorter = Sorter::new(key, outlet);
        let reading = tokio::spawn(read_datagrams(socket.clone(), server, sorter));
        Ok(Self {
            key,
            local,
            way: LinkWay::Datagrams {
                socket,
                server,
                sender,
            },
            tasks: vec![reading.abort_handle()],
        })
    }

    fn over_stream(stream: Box<dyn Stream>, local: SocketAddr, outlet: Outlet) -> Self {
        let key = LinkKey::next();
        let (reader, writer) = tokio::io::split(stream);
        let (sender, writer) = MessageWriter::new(writer);
        let (link, session) = (outlet.link, outlet.session.clone());
        let sorter = Sorter::new(key, outlet);
        let reading = tokio::spawn(read_stream(MessageReader::new(reader), sorter));
        // Writing ends by itself when nobody sends any more.
        tokio::spawn(async move {
            if let Err(error) = writer.run().await {
                tracing::debug!(%error, "the stream to a relay broke");
                let _ = session.send(LinkInput::Closed(link)).await;
            }
        });
        Self {
            key,
            local,
            way: LinkWay::Stream(sender),
            tasks: vec![reading.abort_handle()],
        }
    }

    pub(super) fn key(&self) -> LinkKey {
        self.key
    }

    /// Our end.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends what the session has for the server: a datagram, or whole messages.
    pub(crate) async fn send(&self, payload: Vec<u8>) {
        match &self.way {
            LinkWay::Stream(sender) => drop(sender.send(payload.into())),
            LinkWay::Datagrams { server, sender, .. } => {
                let transmit = datagrams_to(*server, &payload, None);
                let sent = poll_fn(|cx| lock(sender).as_mut().poll_send(&transmit, cx));
                // An unreachable server shows in that it does not answer.
                let _ = sent.await;
            }
        }
    }

    /// Sends a train of QUIC in a channel. A stream takes it, or loses it, at once; `sender`
    /// is of whoever sends, and serves one link of datagrams after the other.
    pub(super) fn poll_send(
        &self,
        sender: &mut Option<TrainSender>,
        transmit: &Transmit<'_>,
        channel: ChannelNumber,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        match &self.way {
            LinkWay::Stream(stream) => {
                let framed = frame_for_stream(transmit.contents, size, channel);
                if !stream.send(framed) {
                    tracing::trace!("a train for a relay was lost");
                }
                Poll::Ready(Ok(()))
            }
            LinkWay::Datagrams { socket, server, .. } => {
                sender.take_if(|sender| sender.key != self.key);
                let sender = sender.get_or_insert_with(|| TrainSender {
                    key: self.key,
                    sender: lock(socket).create_sender(),
                    framed: Vec::new(),
                });
                sender.poll_send(*server, transmit, channel, cx)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn to_nowhere() -> Self {
        let (sender, _) = MessageWriter::new(tokio::io::sink());
        Self {
            key: LinkKey::next(),
            local: ([127, 0, 0, 1], 1).into(),
            way: LinkWay::Stream(sender),
            tasks: Vec::new(),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn datagrams_to(server: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
    Transmit {
        destination: server,
        ecn: None,
        contents,
        segment_size,
        src_ip: None,
    }
}

/// Sends QUIC's trains over one link of datagrams.
#[derive(Debug)]
pub(super) struct TrainSender {
    key: LinkKey,
    sender: Pin<Box<dyn UdpSender>>,
    /// A train with its channel headers, kept to be used again.
    framed: Vec<u8>,
}

impl TrainSender {
    fn poll_send(
        &mut self,
        server: SocketAddr,
        transmit: &Transmit<'_>,
        channel: ChannelNumber,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        frame(transmit.contents, size, channel, &mut self.framed);
        let segment_size = transmit.segment_size.map(|size| size + CHANNEL_HEADER_LEN);
        let mut framed = datagrams_to(server, &self.framed, segment_size);
        framed.ecn = transmit.ecn;
        self.sender.as_mut().poll_send(&framed, cx)
    }
}

/// Puts the channel header in front of each datagram of a train.
fn frame(train: &[u8], size: usize, channel: ChannelNumber, framed: &mut Vec<u8>) {
    framed.clear();
    for datagram in train.chunks(size.max(1)) {
        let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        framed.extend_from_slice(&channel_header(channel, length));
        framed.extend_from_slice(datagram);
    }
}

/// The same with the padding that streams want (RFC 8656 section 12.5).
fn frame_for_stream(train: &[u8], size: usize, channel: ChannelNumber) -> Bytes {
    let count = train.len().div_ceil(size.max(1));
    let mut framed = BytesMut::with_capacity(train.len() + count * (CHANNEL_HEADER_LEN + 3));
    for datagram in train.chunks(size.max(1)) {
        let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        framed.extend_from_slice(&channel_header(channel, length));
        framed.extend_from_slice(datagram);
        framed.resize(framed.len().next_multiple_of(4), 0);
    }
    framed.freeze()
}

/// Says for each message of a link where it goes.
struct Sorter {
    key: LinkKey,
    link: LinkId,
    session: mpsc::Sender<LinkInput>,
    delivery: Delivery,
}

impl Sorter {
    fn new(key: LinkKey, outlet: Outlet) -> Self {
        Self {
            key,
            link: outlet.link,
            session: outlet.session,
            delivery: Delivery::new(outlet.inlets),
        }
    }

    /// Takes a message. `true` if it is for the session.
    async fn take(&mut self, message: &[u8]) -> bool {
        let Ok(ChannelData { channel, data }) = ChannelData::parse(message) else {
            return true;
        };
        // The machine knows a new channel before the table does.
        let relays = &self.delivery.inlets.relays;
        let Some(path) = relays.path_of(self.key, channel) else {
            return true;
        };
        self.delivery.take(path, data).await;
        false
    }

    /// Nothing more has arrived for the moment.
    async fn flush(&mut self) {
        self.delivery.flush().await;
    }

    /// Hands a message to the session. On a stream nothing may be lost, and a session that is
    /// behind slows the server down.
    async fn pass_on(&self, message: Bytes) -> io::Result<()> {
        let input = LinkInput::Message(self.link, message);
        let sent = self.session.send(input).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn close(&self) {
        let _ = self.session.send(LinkInput::Closed(self.link)).await;
    }
}

async fn read_stream(
    mut reader: MessageReader<tokio::io::ReadHalf<Box<dyn Stream>>>,
    mut sorter: Sorter,
) {
    let result = loop {
        let next = match reader.buffered() {
            Ok(None) => {
                sorter.flush().await;
                reader.next().await
            }
            buffered => buffered,
        };
        let message = match next {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if sorter.take(&message).await
            && let Err(error) = sorter.pass_on(message).await
        {
            break Err(error);
        }
    };
    tracing::debug!(?result, "a relay's stream has ended");
    sorter.close().await;
}

async fn read_datagrams(
    socket: Arc<Mutex<Box<dyn AsyncUdpSocket>>>,
    server: SocketAddr,
    mut sorter: Sorter,
) {
    let segments = lock(&socket).max_receive_segments().get();
    let mut buffers = vec![vec![0; (DATAGRAM * segments).min(64 * 1024)]; BATCH];
    let mut metas = [RecvMeta::default(); BATCH];
    loop {
        let received = receive(&socket, &mut buffers, &mut metas).await;
        let received = match received {
            Ok(received) => received,
            Err(error) if is_transient(&error) => continue,
            Err(error) => {
                tracing::debug!(%error, "the socket to a relay broke");
                break sorter.close().await;
            }
        };
        for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
            if (meta.addr.ip(), meta.addr.port()) != (server.ip(), server.port()) {
                continue;
            }
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                if sorter.take(datagram).await {
                    let _ = sorter.pass_on(Bytes::copy_from_slice(datagram)).await;
                }
            }
        }
        sorter.flush().await;
    }
}

async fn receive(
    socket: &Mutex<Box<dyn AsyncUdpSocket>>,
    buffers: &mut [Vec<u8>],
    metas: &mut [RecvMeta],
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        lock(socket).poll_recv(cx, &mut slices, metas)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: u16) -> ChannelNumber {
        ChannelNumber::new(number).unwrap()
    }

    #[test]
    fn what_is_framed_is_unframed_again() {
        let mut framed = Vec::new();
        frame(&[7; 250], 100, channel(0x4001), &mut framed);
        assert_eq!(framed.len(), 250 + 3 * CHANNEL_HEADER_LEN);
        let read = |datagram| ChannelData::parse(datagram).map(|read| (read.channel, read.data));
        assert_eq!(read(&framed[..104]), Ok((channel(0x4001), &[7; 100][..])));
        assert_eq!(read(&framed[208..]), Ok((channel(0x4001), &[7; 50][..])));
        assert!(read(&framed[208..220]).is_err());
        assert!(read(&[0x40, 1, 0]).is_err());
    }

    #[tokio::test]
    async fn what_is_framed_for_a_stream_is_read_from_it_as_the_same_datagrams() {
        let framed = frame_for_stream(&[7; 251], 101, channel(0x4001));
        assert_eq!(framed.len(), 108 + 108 + 56);
        let mut reader = MessageReader::new(&framed[..]);
        let mut lengths = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            lengths.push(ChannelData::parse(&message).unwrap().data.len());
        }
        assert_eq!(lengths, [101, 101, 49]);
    }
}
