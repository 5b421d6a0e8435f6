//! Newtypes for what has a role.

use std::net::{IpAddr, SocketAddr};

use postern_wire::turn::{AddressFamily, ChannelNumber, RequestedTransport};

use crate::stun::Origin;

/// What carries messages between a client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Datagrams in DTLS records.
    Dtls,
    /// A stream.
    Tcp,
    /// A stream in TLS.
    Tls,
}

impl Transport {
    /// Whether messages are cut from a stream, and ChannelData is padded.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// The client's end of a 5-tuple, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// A peer, as the relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// A relayed transport address, as peers and clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayedAddr(pub SocketAddr);

/// The port of a relayed transport address; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayPort(pub(super) u16);

impl RelayPort {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// What belongs to one client: RFC 8656 section 2.2. The fifth element is the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// Between client and server.
    pub transport: Transport,
    /// The client's address.
    pub client: ClientAddr,
    /// The server's address: an interface's, never the unspecified one.
    pub server: SocketAddr,
}

impl FiveTuple {
    pub(super) const fn origin(&self) -> Origin {
        match self.transport {
            Transport::Udp | Transport::Dtls => Origin::Datagram(self.client.0),
            Transport::Tcp | Transport::Tls => Origin::Stream(self.client.0.ip()),
        }
    }
}

/// What carries data between the server and peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayTransport {
    /// RFC 8656.
    Udp,
    /// RFC 6062.
    Tcp,
}

impl RelayTransport {
    pub(super) const fn requested(
        RequestedTransport(protocol): RequestedTransport,
    ) -> Option<Self> {
        match RequestedTransport(protocol) {
            RequestedTransport::UDP => Some(Self::Udp),
            RequestedTransport::TCP => Some(Self::Tcp),
            RequestedTransport(_) => None,
        }
    }
}

/// One of the machines that are one server together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardIndex(pub u16);

/// An allocation. A number is not used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId {
    pub(super) shard: ShardIndex,
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl AllocationId {
    /// Which shard has it.
    #[must_use]
    pub const fn shard(self) -> ShardIndex {
        self.shard
    }

    /// A small number that no other living allocation of its shard has: an index for a
    /// driver's table.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }
}

/// A relay socket, or a listener of a TCP allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId {
    /// Whose it is.
    pub allocation: AllocationId,
    /// The family of its address.
    pub family: AddressFamily,
}

/// A connection between the relay and a peer (RFC 6062). A number is not used again while
/// the connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerConnection(pub(super) u32);

impl PeerConnection {
    /// Its CONNECTION-ID.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Where data from a client goes: send it from `relay` to `peer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// From this relay socket.
    pub relay: RelayId,
    /// To this peer.
    pub peer: PeerAddr,
    /// The peer is a relayed address of this very server: instead of sending, a driver
    /// may call [`Server::peer_data`](super::Server::peer_data) of the relay's shard for
    /// this relay, with [`Forward::source`] as the peer.
    pub own: Option<RelayId>,
    /// The address that the data comes from, as the peer sees it.
    pub source: RelayedAddr,
    /// Whether the DF bit is to be set.
    pub dont_fragment: bool,
}

/// Where data from a peer goes: send it to `client` in this framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backward {
    /// To this client.
    pub client: FiveTuple,
    /// With this in front.
    pub framing: Framing,
}

/// What precedes data from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A [`channel_header`](postern_wire::turn::channel_header).
    Channel(ChannelNumber),
    /// A [`DataHeader`](postern_wire::turn::DataHeader) with this peer.
    Indication(PeerAddr),
}

/// Whom a limit counts: an IPv4 address, or the /64 of an IPv6 address, which is what one
/// customer has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// How much data comes at once: one datagram, or a train of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// How many datagrams.
    pub packets: usize,
    /// The bytes of data in all of them.
    pub bytes: usize,
}

impl Load {
    /// One datagram with so much data.
    #[must_use]
    pub const fn one(bytes: usize) -> Self {
        Self { packets: 1, bytes }
    }
}
