//! What a gateway grants.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Instant;

use postern_wire::pcp::Nonce;
use postern_wire::transport::Transport;

use super::config::Mac;
use crate::turn::server::Cidr;

/// A lease. A number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaseId(pub(super) u64);

impl LeaseId {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address that the request came from, which the driver has seen itself.
    pub address: IpAddr,
    /// The hardware address that the neighbour table has for it.
    pub mac: Option<Mac>,
}

/// From where a mapping may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Which remote addresses.
    pub network: Cidr,
    /// Which remote port; `None` is every one.
    pub port: Option<u16>,
}

/// What is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A port of the outside address leads to a host inside, over IPv4.
    Mapping {
        /// The outside port; never 0.
        external_port: u16,
    },
    /// A flow from inside to one remote endpoint leaves from a port of the outside address
    /// that is known in advance (PCP's PEER), over IPv4.
    Peer {
        /// The outside port; never 0.
        external_port: u16,
        /// The remote endpoint.
        remote: SocketAddrV4,
    },
    /// A host inside may be reached at its own address, over IPv6.
    Pinhole,
    /// The same from one remote endpoint (PCP's PEER).
    PeerPinhole {
        /// The remote endpoint.
        remote: SocketAddrV6,
    },
}

impl Kind {
    /// The outside port, if there is one.
    #[must_use]
    pub const fn external_port(self) -> Option<u16> {
        match self {
            Self::Mapping { external_port } | Self::Peer { external_port, .. } => {
                Some(external_port)
            }
            Self::Pinhole | Self::PeerPinhole { .. } => None,
        }
    }
}

/// The protocol that a lease was asked for with. Each changes only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// UPnP-IGD, where whoever may map for a host may change its mappings.
    Upnp,
    /// NAT-PMP, where a host changes its own.
    NatPmp,
    /// PCP, where whoever knows the nonce does.
    Pcp(Nonce),
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// TCP or UDP.
    pub transport: Transport,
    /// What is opened.
    pub kind: Kind,
    /// The host inside and its port.
    pub internal: SocketAddr,
    /// From where it may be reached; from everywhere if there is none.
    pub filters: Vec<Filter>,
    /// Who asked.
    pub owner: IpAddr,
    /// With which protocol.
    pub origin: Origin,
    /// What the client calls it: anything at all, at most
    /// [`MAX_DESCRIPTION`](super::MAX_DESCRIPTION) bytes.
    pub description: String,
    /// Whether it is open: UPnP has mappings that are not.
    pub enabled: bool,
    /// When it ends; `None` if it does not.
    pub expires: Option<Instant>,
}

impl Lease {
    /// Seconds that it still lives, rounded up; 0 for one that does not end.
    #[must_use]
    pub fn seconds_left(&self, now: Instant) -> u32 {
        let Some(expires) = self.expires else {
            return 0;
        };
        let left = expires.saturating_duration_since(now);
        let partial = u64::from(left.subsec_nanos() > 0);
        let seconds = left.as_secs().saturating_add(partial);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}
