//! What a NAT does, in the words of RFC 4787.

use std::net::SocketAddr;

/// Which remote endpoints share a mapping (RFC 4787 section 4.1), as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mapping {
    /// Nothing is known: one server at one port was asked.
    #[default]
    Unknown,
    /// All do.
    EndpointIndependent,
    /// All ports of an address do; whether all addresses do is unknown, because servers at one
    /// address only were asked.
    PortIndependent,
    /// All ports of an address do, different addresses do not.
    AddressDependent,
    /// None do.
    AddressAndPortDependent,
    /// Different addresses do not; whether ports of one do is unknown.
    EndpointDependent,
}

impl Mapping {
    /// Known to give different remote endpoints different mappings.
    #[must_use]
    pub const fn is_dependent(self) -> bool {
        matches!(
            self,
            Self::AddressDependent | Self::AddressAndPortDependent | Self::EndpointDependent
        )
    }

    /// Whether ports of one address get different mappings, or may, of a NAT that is known to map
    /// endpoint-dependently.
    #[must_use]
    pub const fn may_depend_on_ports(self) -> bool {
        matches!(
            self,
            Self::AddressAndPortDependent | Self::EndpointDependent
        )
    }

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint_independent",
            Self::PortIndependent => "port_independent",
            Self::AddressDependent => "address_dependent",
            Self::AddressAndPortDependent => "address_and_port_dependent",
            Self::EndpointDependent => "endpoint_dependent",
        }
    }
}

/// From whom a mapping accepts packets (RFC 4787 section 5), as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Finding out takes a server with two addresses.
    #[default]
    Unknown,
    /// From everybody.
    EndpointIndependent,
    /// From addresses that it has sent to.
    AddressDependent,
    /// From addresses and ports that it has sent to.
    AddressAndPortDependent,
}

impl Filtering {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint_independent",
            Self::AddressDependent => "address_dependent",
            Self::AddressAndPortDependent => "address_and_port_dependent",
        }
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest; not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port that a NAT gives (RFC 4787 section 4.2.2).
    pub const ALL: Self = Self {
        first: 1024,
        last: u16::MAX,
    };

    /// How many ports: 1 to 65,536.
    #[must_use]
    pub fn count(self) -> u32 {
        let distance = self.last.saturating_sub(self.first);
        u32::from(distance).saturating_add(1)
    }

    /// The port so many after the first; the last one beyond that.
    pub(super) fn nth(self, offset: u32) -> u16 {
        let offset = u16::try_from(offset).unwrap_or(u16::MAX);
        self.first.saturating_add(offset).min(self.last)
    }
}

/// How a new mapping gets its port (RFC 4787 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allocation {
    /// Too few mappings were seen.
    #[default]
    Unknown,
    /// It is the internal port, where that is free.
    Preserving,
    /// It is `step` after the one before.
    Sequential {
        /// The distance; negative where the NAT counts down.
        step: i16,
        /// The last port that was seen.
        last: u16,
        /// New mappings a second of everybody else behind the NAT, about.
        foreign_flows: u16,
    },
    /// It is a random one of these.
    Random(PortRange),
}

impl Allocation {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Preserving => "preserving",
            Self::Sequential { .. } => "sequential",
            Self::Random(_) => "random",
        }
    }

    /// Whether the port of the next mapping can be told to within a few.
    #[must_use]
    pub const fn is_predictable(self) -> bool {
        matches!(self, Self::Preserving | Self::Sequential { .. })
    }
}

/// Everything known about the NATs in front of a host, which look like one from the inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatReport {
    /// The address at which a STUN server saw the host's main socket.
    pub mapped: SocketAddr,
    /// Which remote endpoints share a mapping.
    pub mapping: Mapping,
    /// From whom a mapping accepts packets.
    pub filtering: Filtering,
    /// How a new mapping gets its port.
    pub allocation: Allocation,
    /// Even ports are mapped to even ones and odd ports to odd ones (RFC 4787 section
    /// 4.2.2).
    pub parity: bool,
}

impl NatReport {
    /// Whether there is a NAT: a host whose STUN servers see its own address has none.
    #[must_use]
    pub fn is_nat(&self) -> bool {
        let maps_nothing = self.mapping == Mapping::EndpointIndependent;
        !(maps_nothing && self.allocation == Allocation::Unknown)
    }
}
