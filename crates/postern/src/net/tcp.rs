//! TCP without a relay: the ports of this side, and connections with peers and STUN servers.
//!
//! The agent decides which connections there are ([`postern_proto::ice::tcp`]). Each has a *base*, an
//! address that stands for it: QUIC and the agent send on it as from any local address, and what
//! arrives on it has it as its local address. Reading and writing are those of a relay's stream,
//! with another frame around each datagram (RFC 4571).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use noq_udp::Transmit;
use postern_proto::ice::tcp::TcpEnds;
use postern_wire::framing;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::delivery::Delivery;
use super::mux::Inlets;
use super::paths::AddressPair;
use crate::os;
use crate::turn::{MessageReader, MessageSender, MessageWriter};

/// Connections that wait to be accepted: an agent has room for 32, and strangers can come again.
const BACKLOG: i32 = 16;

/// What is written at once, in bytes. Checks go before what waits, but not before this.
const WRITE: usize = 32 * 1024;

/// What the system takes beyond what is in flight, in bytes: it is sent before the next check. Where
/// 1 Mbit/s leaves, this and a write take 0.4 s, which the agent's patience with a silent path
/// allows for.
const UNSENT: u32 = 16 * 1024;

/// How long a connection may take to come about. A SYN is repeated meanwhile, and as long as
/// there is one under way, that of the other side is an answer to it: it is not given up before
/// the agent's patience is at its end.
const CONNECT: Duration = Duration::from_secs(15);

/// Listens on one port of each family in which there are addresses, and says where these can be
/// connected to: addresses of both families in turn, since an agent keeps the first few. What
/// cannot be listened on is left out. Must be called inside a tokio runtime.
pub(crate) fn listen(ips: &[IpAddr]) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let families: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let mut listeners = Vec::new();
    let hosts = families.map(|any| {
        let mut own = ips.iter().filter(|ip| ip.is_ipv4() == any.is_ipv4());
        let wanted = own.clone().next().is_some();
        let listener = wanted.then(|| listener(SocketAddr::new(any, 0)));
        match listener {
            Some(Ok((listener, port))) => {
                listeners.push(listener);
                own.by_ref().map(|&ip| SocketAddr::new(ip, port)).collect()
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "no port for TCP could be had");
                Vec::new()
            }
            None => Vec::new(),
        }
    });
    (listeners, alternate(hosts))
}

/// The first of each, the second of each, and so on.
fn alternate([one, two]: [Vec<SocketAddr>; 2]) -> Vec<SocketAddr> {
    let longest = one.len().max(two.len());
    let nth = |n: usize| [one.get(n), two.get(n)].into_iter().flatten().copied();
    (0..longest).flat_map(nth).collect()
}

fn listener(address: SocketAddr) -> io::Result<(TcpListener, u16)> {
    let socket = socket_at(address)?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Opens a connection from a port that is listened on: its mapping is what the peer has been told.
///
/// # Errors
///
/// What the system says, and `TimedOut`.
pub(crate) async fn connect(ends: TcpEnds) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket_at(ends.local)?.into());
    let stream = timeout(CONNECT, socket.connect(ends.remote)).await??;
    prepare(&stream)?;
    Ok(stream)
}

/// A socket that shares its port with others of this program.
fn socket_at(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a connection is to be, whoever opened it.
///
/// # Errors
///
/// What the system says.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A connection is closed when nothing on it is of use any more. An orderly end would keep its
    // two ends from being connected again for a minute, should the path that replaced it fail.
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    if let Err(error) = os::set_unsent_limit(stream, UNSENT) {
        tracing::debug!(%error, "the system keeps what is not sent yet");
    }
    Ok(())
}

/// The connections of an endpoint, by their bases. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<RwLock<BTreeMap<SocketAddr, Arc<Stream>>>>);

#[derive(Debug)]
struct Stream {
    sender: MessageSender,
    /// Whether each message has its length before it; those of a STUN server tell their own.
    framed: bool,
    reading: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Streams {
    /// Begins to read and write a connection. `ended` gets its base when there is nothing more to be
    /// read, or it cannot be written. Must be called inside a tokio runtime.
    pub(crate) fn open(
        &self,
        stream: TcpStream,
        path: AddressPair,
        framed: bool,
        inlets: &Inlets,
        ended: mpsc::Sender<SocketAddr>,
    ) {
        let (reader, writer) = stream.into_split();
        let reader = match framed {
            true => MessageReader::framed(reader),
            false => MessageReader::new(reader),
        };
        let (sender, writer) = MessageWriter::with_batch(writer, WRITE);
        let delivery = Delivery::new(inlets.clone());
        let broken = ended.clone();
        let reading = tokio::spawn(async move {
            let result = read(reader, path, delivery).await;
            tracing::debug!(?result, "a connection has ended");
            let _ = ended.send(path.local).await;
        });
        // Writing ends by itself when nobody sends any more.
        tokio::spawn(async move {
            if let Err(error) = writer.run().await {
                tracing::debug!(%error, "a connection broke");
                let _ = broken.send(path.local).await;
            }
        });
        let stream = Stream {
            sender,
            framed,
            reading: reading.abort_handle(),
        };
        self.write().insert(path.local, Arc::new(stream));
    }

    /// Forgets a connection; it closes when what is queued has been written.
    pub(crate) fn close(&self, base: SocketAddr) {
        self.write().remove(&base);
    }

    /// Sends a message of the agent, before all data. What does not fit is lost, as on any network.
    pub(crate) fn send(&self, base: SocketAddr, message: &[u8]) {
        if let Some(stream) = self.get(base) {
            let framed = if stream.framed {
                frame(message, message.len())
            } else {
                Bytes::copy_from_slice(message)
            };
            stream.sender.send_first(framed);
        }
    }

    /// Sends a train of QUIC, or loses it.
    pub(super) fn send_train(&self, base: SocketAddr, transmit: &Transmit<'_>) {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        if let Some(stream) = self.get(base)
            && !stream.sender.send(frame(transmit.contents, size))
        {
            tracing::trace!("a train for a connection was lost");
        }
    }

    fn get(&self, base: SocketAddr) -> Option<Arc<Stream>> {
        let streams = self.0.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(&base).cloned()
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<SocketAddr, Arc<Stream>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts its length before each datagram of a train.
fn frame(train: &[u8], size: usize) -> Bytes {
    let count = train.len().div_ceil(size.max(1));
    let mut framed = BytesMut::with_capacity(train.len() + count * framing::HEADER);
    for datagram in train.chunks(size.max(1)) {
        if let Some(header) = framing::header(datagram) {
            framed.extend_from_slice(&header);
            framed.extend_from_slice(datagram);
        }
    }
    framed.freeze()
}

async fn read(
    mut reader: MessageReader<OwnedReadHalf>,
    path: AddressPair,
    mut delivery: Delivery,
) -> io::Result<()> {
    loop {
        let next = match reader.buffered()? {
            None => {
                delivery.flush().await;
                reader.next().await?
            }
            buffered => buffered,
        };
        match next {
            Some(message) => delivery.take(path, &message).await,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn both_families_have_their_turns() {
        let [a, b, c] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "10.0.0.1:2"].map(at);
        assert_eq!(alternate([vec![a, b], vec![c]]), [a, c, b]);
        assert_eq!(alternate([vec![], vec![c]]), [c]);
    }

    #[test]
    fn a_train_is_framed_datagram_by_datagram() {
        let framed = frame(&[7; 5], 2);
        assert_eq!(framed[..], [0, 2, 7, 7, 0, 2, 7, 7, 0, 1, 7]);
    }

    #[tokio::test]
    async fn nothing_is_listened_on_without_an_address() {
        let (listeners, hosts) = listen(&[]);
        assert!(listeners.is_empty() && hosts.is_empty());
    }

    #[tokio::test]
    async fn connections_leave_from_the_port_that_is_listened_on() {
        let (ours, hosts) = listen(&[HERE]);
        let (theirs, others) = listen(&[HERE]);
        let ends = |n: usize| TcpEnds {
            local: hosts[0],
            remote: others[n],
        };
        let stream = connect(ends(0)).await.unwrap();
        let (accepted, from) = theirs[0].accept().await.unwrap();
        assert_eq!(from, hosts[0]);
        drop((stream, accepted));
        // What is closed leaves nothing behind: the same two ends can be connected again.
        let stream = connect(ends(0)).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), hosts[0]);
        drop(ours);
    }
}
