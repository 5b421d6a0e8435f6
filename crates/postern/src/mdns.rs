//! Multicast DNS on the links of this machine: the driver of [`Node`].

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll};

use postern_proto::mdns::{Event, Link, Node};
use postern_proto::{Datagram, Transmit};
use postern_wire::mdns::{HostName, PORT};
use socket2::Socket;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::clock::{self, until};
use crate::net::listener;
use crate::portmap::is_forbidden;

/// Longer ones are pages of services.
const MAX_DATAGRAM: usize = 2048;

/// Messages do not depend on how far they have come, and leave so that they could not have come
/// from elsewhere (RFC 6762 section 11).
const HOPS: u32 = 255;

/// Why names cannot be told or looked up.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The guard of tests: this is the machine's own network.
    #[error(
        "this is the machine's own network, and tests may only use multicast DNS in namespaces"
    )]
    Guarded,
    /// No network of this machine knows multicast.
    #[error("multicast DNS cannot be used on any network of this machine")]
    NoLink(#[source] Option<io::Error>),
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// A host of multicast DNS, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mdns {
    node: Node,
    sockets: BTreeMap<SocketAddr, UdpSocket>,
    /// The interfaces of our addresses.
    interfaces: BTreeMap<IpAddr, u32>,
}

impl Mdns {
    /// Listens on every link. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`NamesError::Guarded`] and [`NamesError::NoLink`].
    pub(crate) fn open() -> Result<Self, NamesError> {
        if is_forbidden() {
            return Err(NamesError::Guarded);
        }
        let addresses = if_addrs::get_if_addrs().map_err(|e| NamesError::NoLink(Some(e)))?;
        let mut sockets = BTreeMap::new();
        let mut failure = None;
        let mut links = links(&addresses);
        links.retain(|link| match socket(link) {
            Ok(socket) => sockets.insert(link.local, socket).is_none(),
            Err(error) => {
                tracing::debug!(link = %link.local, %error, "a link without multicast DNS");
                failure = Some(error);
                false
            }
        });
        if links.is_empty() {
            return Err(NamesError::NoLink(failure));
        }
        let interfaces = addresses.iter();
        Ok(Self {
            node: Node::new(links),
            sockets,
            interfaces: interfaces
                .filter_map(|interface| Some((interface.ip(), interface.index?)))
                .collect(),
        })
    }

    /// Makes a name for an address of this machine, and tells it to whoever asks; if that cannot be
    /// done, the name is one that nobody finds.
    ///
    /// # Errors
    ///
    /// [`NamesError::Entropy`].
    pub(crate) fn publish(&mut self, address: IpAddr) -> Result<HostName, NamesError> {
        let mut octets = [0; 16];
        getrandom::fill(&mut octets)?;
        let name = HostName::random(octets);
        if let Some(interface) = self.interfaces.get(&address) {
            self.node.publish(clock::now(), name, address, *interface);
            self.send();
        }
        Ok(name)
    }

    /// Looks a name up: [`next`](Self::next) tells what came of it.
    pub(crate) fn ask(&mut self, name: HostName) {
        self.node.ask(clock::now(), name);
    }

    /// Waits until a look-up has ended, and answers meanwhile. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> (HostName, Option<IpAddr>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            self.send();
            if let Some(Event::Resolved { name, address }) = self.node.poll_event() {
                return (name, address);
            }
            let timeout = self.node.poll_timeout();
            let received = poll_fn(|cx| receive(&self.sockets, &mut buffer, cx));
            tokio::select! {
                (local, remote, length) = received => {
                    let payload = buffer.get(..length).unwrap_or_default();
                    let datagram = Datagram { local, remote, payload };
                    self.node.handle_input(clock::now(), datagram);
                }
                () = until(timeout) => self.node.handle_timeout(clock::now()),
            }
        }
    }

    fn send(&mut self) {
        while let Some(transmit) = self.node.poll_transmit() {
            let Transmit {
                local,
                remote,
                payload,
            } = transmit;
            let socket = self.sockets.get(&local);
            // What does not fit into the system's buffer is lost like any datagram.
            if let Some(Err(error)) = socket.map(|socket| socket.try_send_to(&payload, remote)) {
                tracing::debug!(%local, %error, "a message of multicast DNS was not sent");
            }
        }
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        self.node.withdraw();
        self.send();
    }
}

fn receive(
    sockets: &BTreeMap<SocketAddr, UdpSocket>,
    buffer: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<(SocketAddr, SocketAddr, usize)> {
    for (local, socket) in sockets {
        let mut free = ReadBuf::new(buffer);
        // An error is an ICMP message about an earlier datagram.
        if let Poll::Ready(Ok(remote)) = socket.poll_recv_from(cx, &mut free) {
            return Poll::Ready((*local, remote, free.filled().len()));
        }
    }
    Poll::Pending
}

/// One link for each interface and family, but for loopback.
fn links(interfaces: &[if_addrs::Interface]) -> Vec<Link> {
    let mut links: BTreeMap<(u32, bool), Link> = BTreeMap::new();
    for interface in interfaces.iter().filter(|i| !i.is_loopback()) {
        let (ip, Some(index)) = (interface.ip(), interface.index) else {
            continue;
        };
        let (prefix, local) = match (&interface.addr, ip) {
            (if_addrs::IfAddr::V6(v6), IpAddr::V6(ip)) => {
                (v6.prefixlen, SocketAddrV6::new(ip, PORT, 0, index).into())
            }
            (if_addrs::IfAddr::V4(v4), _) => (v4.prefixlen, SocketAddr::new(ip, PORT)),
            (if_addrs::IfAddr::V6(v6), IpAddr::V4(_)) => (v6.prefixlen, SocketAddr::new(ip, PORT)),
        };
        let link = links.entry((index, ip.is_ipv4())).or_insert_with(|| Link {
            local,
            interface: index,
            networks: Vec::new(),
        });
        link.networks.push((ip, prefix));
    }
    links.into_values().collect()
}

/// A socket that hears the group on a link and nothing else, and sends there.
fn socket(link: &Link) -> io::Result<UdpSocket> {
    let socket: Socket = listener(link.group(), link.local.ip(), link.interface)?;
    // Other programs of this machine have names, too.
    match link.local.ip() {
        IpAddr::V4(address) => {
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(HOPS)?;
            socket.set_multicast_loop_v4(true)?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(link.interface)?;
            socket.set_multicast_hops_v6(HOPS)?;
            socket.set_multicast_loop_v6(true)?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v6(false)?;
        }
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}
