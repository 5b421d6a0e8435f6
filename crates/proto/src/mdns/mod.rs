//! Multicast DNS (RFC 6762) for names of candidates: finding the addresses of the peer's, and
//! telling those of ours.
//!
//! A [`Node`] is on some links at once. What it is asked for it asks on all of them, three times
//! within five seconds, and answers count from hosts on the link alone. What it publishes it
//! announces, and tells whoever asks, on the links of that address, until it is withdrawn.
//!
//! Left out are probing, since nobody else has the name (draft-ietf-mmusic-mdns-ice-candidates,
//! section 3.1.1), a cache, and the bit that asks for a unicast answer: several programs of a host
//! listen at the port, and only one of them would get that.

mod node;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use postern_wire::mdns::{GROUP_V4, GROUP_V6, HostName, PORT};

use crate::portmap::is_on_link;

pub use node::Node;

/// Links of a node; of more the first ones are used.
pub const MAX_LINKS: usize = 32;
/// Names that are looked up at once, as many as an agent waits for.
pub const MAX_ASKED: usize = crate::ice::MAX_REMOTE_NAMES;
/// Names that a node publishes, as many as an agent has host candidates.
pub const MAX_PUBLISHED: usize = crate::ice::MAX_HOSTS;

/// A network of this machine, in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Names the link and its socket: an address of the interface, and [`PORT`].
    pub local: SocketAddr,
    /// The number of the interface.
    pub interface: u32,
    /// The addresses of the interface in this family, with the lengths of their prefixes.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Where everybody on the link is told and asked.
    #[must_use]
    pub fn group(&self) -> SocketAddr {
        match self.local {
            SocketAddr::V4(_) => SocketAddr::new(GROUP_V4.into(), PORT),
            SocketAddr::V6(_) => SocketAddrV6::new(GROUP_V6, PORT, 0, self.interface).into(),
        }
    }

    /// Whether an address is one of this link's hosts, of this one too (RFC 6762 section 11).
    fn has(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|(own, prefix)| *own == address || is_on_link(*own, *prefix, address))
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The look-up of a name has ended.
    Resolved {
        /// The name.
        name: HostName,
        /// The address, if somebody has told, and told one alone.
        address: Option<IpAddr>,
    },
}
