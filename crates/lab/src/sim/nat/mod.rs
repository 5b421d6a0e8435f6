//! What a router does with the packets that cross it, as data.
//!
//! The words are those of RFC 4787. The state is kept like a connection tracker keeps
//! it: a *mapping* joins an internal endpoint to an external one, a *session* joins a
//! mapping to one remote endpoint. An inbound packet that the filter lets in makes a
//! session of its own, so the answer leaves from the external port that was hit,
//! whatever the mapping behaviour would give a new flow. Without it an
//! endpoint-dependent mapping with endpoint-independent filtering could never answer a
//! stranger; Linux NATs do. [`Nat::tracks_inbound`] turns it off.
//!
//! External ports are not overloaded (RFC 4787, REQ-3) unless told: at one moment an
//! external endpoint belongs to one internal endpoint.

mod ports;
mod table;

pub(crate) use table::{NatTable, Refusal, Translated};

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Which remote endpoints share a mapping (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// One mapping for every destination.
    EndpointIndependent,
    /// One mapping for each destination address.
    AddressDependent,
    /// One mapping for each destination address and port.
    AddressAndPortDependent,
}

impl Mapping {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
    ];

    /// The RFC's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// From whom a mapping accepts packets (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// From everybody.
    EndpointIndependent,
    /// From addresses that the mapping has sent to.
    AddressDependent,
    /// From addresses and ports that the mapping has sent to.
    AddressAndPortDependent,
}

impl Filtering {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
    ];

    /// The RFC's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndpointIndependent => Mapping::EndpointIndependent.as_str(),
            Self::AddressDependent => Mapping::AddressDependent.as_str(),
            Self::AddressAndPortDependent => Mapping::AddressAndPortDependent.as_str(),
        }
    }
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port; not below `first`.
    pub last: u16,
}

impl Ports {
    /// 1024 to 65535: what a NAT can use at most (RFC 4787, section 4.2.2).
    pub const ALL: Self = Self {
        first: 1024,
        last: 65535,
    };

    pub(crate) fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }

    /// The port `offset` after the first, wrapping at the end.
    pub(crate) fn nth(self, offset: u32) -> u16 {
        let within = u16::try_from(offset % self.count()).unwrap_or(0);
        self.first.saturating_add(within)
    }
}

/// How a new mapping gets its external port (RFC 4787, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// The internal port where it is free, else a random free one from 1024 to 65535.
    Preserving,
    /// A random free port of the range.
    Random(Ports),
    /// The next free port of the range, `step` after the one before.
    Sequential {
        /// Where the counter starts and wraps.
        ports: Ports,
        /// Distance from one port to the next; not 0.
        step: u16,
    },
    /// Carriers' port blocks (RFC 7422): each internal address has `size` contiguous
    /// ports of the range for itself and gets random ones among them.
    Block {
        /// The range that is cut into blocks.
        ports: Ports,
        /// Ports in a block; not 0.
        size: u16,
    },
}

/// What becomes of a packet from inside to the router's own external address
/// (RFC 4787, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpin {
    /// It is dropped.
    Off,
    /// It comes back inside with its internal source (against REQ-9: the answer takes
    /// the short way and has a source that the asker does not know). No filter applies.
    InternalSource,
    /// It comes back inside with its external source (REQ-9), subject to the filter.
    ExternalSource,
}

/// What becomes of a packet from outside that no mapping or filter lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsolicited {
    /// It disappears.
    Drop,
    /// The router takes it as its own, as a Linux NAT without a firewall on its input
    /// does. Nobody answers, but the flow is remembered: while it is, no mapping may
    /// send from that external endpoint to that remote endpoint, and a flow that would
    /// have is given another port. A TCP packet is answered with a RST, which ends what
    /// was remembered.
    Accept,
    /// A TCP packet is answered with a RST; others disappear.
    Reset,
    /// A TCP packet is answered with ICMP port unreachable; others disappear.
    PortUnreachable,
}

/// How long idle state lives (RFC 4787, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Of a session in which only one side has spoken.
    pub unreplied: Duration,
    /// Of a session in which both have.
    pub replied: Duration,
    /// Whether packets from outside keep a session alive too; packets from inside
    /// always do (REQ-6).
    pub inbound_refresh: bool,
    /// Longest life of a mapping even in use, as some carriers impose.
    pub lifetime: Option<Duration>,
}

impl Default for Timeouts {
    /// 30 s unreplied, 120 s replied, refreshed by both directions: Linux.
    fn default() -> Self {
        Self {
            unreplied: Duration::from_secs(30),
            replied: Duration::from_secs(120),
            inbound_refresh: true,
            lifetime: None,
        }
    }
}

impl Timeouts {
    /// Of TCP: 2 min until answered, then 2 h 4 min (RFC 5382, REQ-5).
    pub const TCP: Self = Self {
        unreplied: Duration::from_secs(120),
        replied: Duration::from_secs(7440),
        inbound_refresh: true,
        lifetime: None,
    };
}

/// A network address translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    /// Which remote endpoints share a mapping.
    pub mapping: Mapping,
    /// From whom a mapping accepts packets.
    pub filtering: Filtering,
    /// How a new mapping gets its port.
    pub allocation: Allocation,
    /// Whether an even internal port gets an even external one, and an odd one an odd
    /// one (RFC 4787, section 4.2.2).
    pub parity: bool,
    /// Whether flows to different remote endpoints may share an external port, against
    /// REQ-3 but as Linux does. It matters where ports are few.
    pub overload: bool,
    /// Whether a flow that began outside keeps the external port by which it came in, whatever
    /// the mapping behaviour gives a new flow. Connection trackers, Linux's for one, work like
    /// that; a NAT that asks its mappings alone answers from another port.
    pub tracks_inbound: bool,
    /// New flows a second of everybody else behind the NAT, at random times. They take
    /// ports where those are given in order.
    pub foreign_flows: u16,
    /// Packets from inside to the external address.
    pub hairpin: Hairpin,
    /// Packets from outside that nothing lets in.
    pub unsolicited: Unsolicited,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Idle times of TCP.
    pub tcp_timeouts: Timeouts,
    /// Sessions it can hold, of UDP and of TCP; past that, new flows are dropped.
    pub capacity: usize,
}

impl Nat {
    /// A NAT of this behaviour as home routers have it: endpoint-independent mappings
    /// preserve the port, the others draw random ones from the full range; no hairpin;
    /// unsolicited packets are dropped.
    #[must_use]
    pub fn new(mapping: Mapping, filtering: Filtering) -> Self {
        let allocation = match mapping {
            Mapping::EndpointIndependent => Allocation::Preserving,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent => {
                Allocation::Random(Ports::ALL)
            }
        };
        Self {
            mapping,
            filtering,
            allocation,
            parity: false,
            overload: false,
            tracks_inbound: true,
            foreign_flows: 0,
            hairpin: Hairpin::Off,
            unsolicited: Unsolicited::Drop,
            timeouts: Timeouts::default(),
            tcp_timeouts: Timeouts::TCP,
            capacity: 65_536,
        }
    }
}

impl Default for Nat {
    /// Endpoint-independent mapping, address-and-port-dependent filtering: a plain
    /// Linux masquerade behind a dropping input.
    fn default() -> Self {
        Self::new(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

/// A stateful firewall: filters like a NAT, changes no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firewall {
    /// From whom an inside endpoint that has sent something accepts packets.
    pub filtering: Filtering,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Sessions it can hold; past that, new flows are dropped.
    pub capacity: usize,
}

impl Default for Firewall {
    /// Address-and-port-dependent filtering, as RFC 6092 expects of home routers.
    fn default() -> Self {
        Self {
            filtering: Filtering::AddressAndPortDependent,
            timeouts: Timeouts::default(),
            capacity: 65_536,
        }
    }
}

/// What a router does with one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// Nothing of this family passes.
    #[default]
    Closed,
    /// Everything passes unchanged.
    Open,
    /// Unchanged, but only what inside has asked for.
    Firewall(Firewall),
    /// Translated.
    Nat(Nat),
    /// As [`Router::v4`](crate::sim::Router::v4) only: translated for hosts that have IPv6 alone
    /// (RFC 6146). They reach IPv4 endpoints under the well-known prefix, [`synthesised`].
    Nat64(Nat),
}

/// The first 96 bits of 64:ff9b::/96, the well-known prefix (RFC 6052 section 2.1).
const WELL_KNOWN: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// How a host behind a NAT64 reaches an IPv4 endpoint; an IPv6 one stays as it is.
#[must_use]
pub fn synthesised(endpoint: SocketAddr) -> SocketAddr {
    let IpAddr::V4(v4) = endpoint.ip() else {
        return endpoint;
    };
    let [a, b, c, d] = v4.octets().map(u16::from);
    let [p0, p1, p2, p3, p4, p5] = WELL_KNOWN;
    let v6 = Ipv6Addr::new(p0, p1, p2, p3, p4, p5, a << 8 | b, c << 8 | d);
    SocketAddr::new(v6.into(), endpoint.port())
}

/// The IPv4 endpoint that an IPv6 one stands for.
pub(crate) fn embedded(endpoint: SocketAddr) -> Option<SocketAddr> {
    let IpAddr::V6(v6) = endpoint.ip() else {
        return None;
    };
    let segments = v6.segments();
    let [.., high, low] = segments;
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    let is_well_known = segments.starts_with(&WELL_KNOWN);
    is_well_known.then(|| SocketAddr::new(IpAddr::from([a, b, c, d]), endpoint.port()))
}
