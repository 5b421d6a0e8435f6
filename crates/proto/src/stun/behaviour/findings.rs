//! What a discovery has found.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::punch::{Filtering, NatReport};

/// Everything that a [`Discovery`](super::Discovery) knows. `None` is unknown, never "no".
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// Whether any server has answered.
    pub reachable: bool,
    /// The shortest round trip that was seen.
    pub round_trip: Option<Duration>,
    /// Requests that were sent once and not answered, out of all that a server that answers
    /// was sent once: 0 to 1.
    pub loss: Option<f64>,
    /// The addresses at which servers saw the main socket, each once.
    pub mapped: Vec<SocketAddr>,
    /// Whether an address is translated on the way; false where servers see the host's own.
    pub translated: Option<bool>,
    /// What the NATs do, which look like one from the inside. `filtering` is what a firewall
    /// does, too, where nothing is translated.
    pub nat: Option<NatReport>,
    /// Whether a packet to one of the host's own mapped addresses comes back to it (RFC 4787
    /// section 6); `None` where nothing is translated, and where mapping and filtering hide it.
    pub hairpin: Option<bool>,
    /// Whether all mappings of this host have the same IP address, "paired" in RFC 4787
    /// section 4.1.
    pub paired: Option<bool>,
    /// Whether datagrams larger than a frame arrive in both directions (RFC 4787 section 11).
    pub fragments: Option<bool>,
    /// The server that answered with two addresses, and its other endpoint.
    pub two_addresses: Option<(SocketAddr, SocketAddr)>,
    /// How many mappings were sampled.
    pub samples: usize,
}

impl Findings {
    /// From whom packets come in, as far as it is known.
    #[must_use]
    pub fn filtering(&self) -> Filtering {
        self.nat.map_or(Filtering::Unknown, |nat| nat.filtering)
    }

    /// The public address of the main socket.
    #[must_use]
    pub fn public_ip(&self) -> Option<IpAddr> {
        self.mapped.first().map(SocketAddr::ip)
    }
}
