//! What travels on the links and what arrives.

use super::HostId;
use super::tcp::Segment;
use postern_proto::Datagram;
use std::net::SocketAddr;
use std::time::Instant;

/// The time to live that a host gives a packet unless told otherwise.
pub(crate) const DEFAULT_TTL: u8 = 64;

/// A packet on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address and port, as seen where the packet is.
    pub src: SocketAddr,
    /// Destination address and port, as seen where the packet is.
    pub dst: SocketAddr,
    /// Routers it may still pass; every router and the core takes one.
    pub ttl: u8,
    /// What it carries.
    pub body: Body,
}

/// The transport protocol of a packet and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A UDP payload.
    Udp(Vec<u8>),
    /// A TCP segment, or an ICMP error about one.
    Tcp(Segment),
}

impl Packet {
    /// A UDP packet with the default time to live (64).
    #[must_use]
    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            ttl: DEFAULT_TTL,
            body: Body::Udp(payload),
        }
    }

    /// A TCP packet with the default time to live.
    pub(crate) const fn tcp(src: SocketAddr, dst: SocketAddr, segment: Segment) -> Self {
        Self {
            src,
            dst,
            ttl: DEFAULT_TTL,
            body: Body::Tcp(segment),
        }
    }

    /// The answer of somebody on the way to a TCP packet that goes no further.
    pub(crate) fn bounced(&self, answer: Segment) -> Option<Self> {
        match &self.body {
            Body::Tcp(segment) if !segment.is_error() => {
                Some(Self::tcp(self.dst, self.src, answer))
            }
            Body::Tcp(_) | Body::Udp(_) => None,
        }
    }

    /// Bytes of payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Udp(payload) => payload,
            Body::Tcp(segment) => segment.payload(),
        }
    }

    /// Bytes on the link: payload, transport header and network header.
    pub(crate) fn wire_length(&self) -> u64 {
        let transport = match self.body {
            Body::Udp(_) => 8,
            Body::Tcp(_) => 20,
        };
        let headers = transport + if self.dst.is_ipv4() { 20 } else { 40 };
        u64::try_from(self.payload().len()).unwrap_or(u64::MAX - headers) + headers
    }
}

/// A datagram that arrived at a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When it arrived.
    pub at: Instant,
    /// Where it arrived.
    pub host: HostId,
    /// The host's address and port it was sent to.
    pub local: SocketAddr,
    /// The source as the host sees it.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

impl Delivery {
    /// The delivery as the input of a state machine.
    #[must_use]
    pub fn datagram(&self) -> Datagram<'_> {
        Datagram {
            local: self.local,
            remote: self.remote,
            payload: &self.payload,
        }
    }
}
