//! What two peers tell each other about their NATs, in order to punch through them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::frame::{ParseError, require};

/// Ports that a [`Prediction`] may name.
pub const MAX_PREDICTED_PORTS: u16 = 64;

/// What a NAT does (RFC 4787), as far as the side behind it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// The address at which a STUN server saw the side's main socket.
    pub mapped: SocketAddr,
    /// Which remote endpoints share a mapping.
    pub mapping: NatMapping,
    /// From whom a mapping accepts packets.
    pub filtering: NatFiltering,
    /// How a new mapping gets its port.
    pub allocation: NatAllocation,
    /// Even ports are mapped to even ones and odd ports to odd ones.
    #[serde(default)]
    pub parity: bool,
}

/// Which remote endpoints share a mapping (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatMapping {
    /// All do.
    EndpointIndependent,
    /// All ports of an address do; whether all addresses do is not known.
    PortIndependent,
    /// All ports of an address do, different addresses do not.
    AddressDependent,
    /// None do.
    AddressAndPortDependent,
    /// Different addresses do not; whether ports of one do is not known.
    EndpointDependent,
    /// Nothing is known, or this version does not know the word.
    #[serde(other)]
    Unknown,
}

/// From whom a mapping accepts packets (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatFiltering {
    /// From everybody.
    EndpointIndependent,
    /// From addresses that it has sent to.
    AddressDependent,
    /// From addresses and ports that it has sent to.
    AddressAndPortDependent,
    /// Nothing is known, or this version does not know the word.
    #[serde(other)]
    Unknown,
}

/// How a new mapping gets its port (RFC 4787 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NatAllocation {
    /// Nothing is known.
    Unknown,
    /// It is the internal port.
    Preserving,
    /// It is `step` after the one before.
    Sequential {
        /// The distance, not 0.
        step: i16,
        /// The last one that was seen.
        last: u16,
        /// New mappings a second of everybody else behind the NAT.
        #[serde(default)]
        foreign_flows: u16,
    },
    /// It is a random one of these.
    Random {
        /// The lowest.
        first: u16,
        /// The highest, not below `first`.
        last: u16,
    },
}

/// Ports of which one is a mapping towards the receiver: `first`, and `count` - 1 more, `step`
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// The likeliest.
    pub first: u16,
    /// From one to the next.
    pub step: i16,
    /// How many, 1 to [`MAX_PREDICTED_PORTS`].
    pub count: u16,
}

impl Nat {
    pub(super) fn check(&self) -> Result<(), ParseError> {
        let good = match self.allocation {
            NatAllocation::Unknown | NatAllocation::Preserving => true,
            NatAllocation::Sequential { step, .. } => step != 0,
            NatAllocation::Random { first, last } => first <= last,
        };
        require(good, "allocation")
    }
}

impl Prediction {
    pub(super) fn check(&self) -> Result<(), ParseError> {
        require((1..=MAX_PREDICTED_PORTS).contains(&self.count), "count")
    }
}
