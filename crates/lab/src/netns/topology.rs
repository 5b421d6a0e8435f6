//! A little internet as data.

use crate::sim::{Link, Nat};

/// Servers and homes around one core router.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    /// Hosts with public addresses.
    pub servers: Vec<Server>,
    /// Hosts behind a router each.
    pub homes: Vec<Home>,
    /// Decides which packets the links lose.
    pub seed: [u8; 32],
}

/// A host with public addresses, without a firewall. Its traffic is counted by
/// protocol, see [`World::counters`](super::World::counters).
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name in the world; at most 12 letters, digits or hyphens.
    pub name: String,
    /// How many addresses it has in each family, 1 to 200.
    pub addresses: u8,
    /// Its cable to the core router. A perfect one has the kernel's own speed.
    pub link: Link,
}

/// A home: a router that translates addresses, and the hosts behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Home {
    /// The router's name in the world; at most 12 letters, digits or hyphens.
    pub name: String,
    /// The names of the hosts; they get the addresses from `192.168.lan.10` on.
    pub hosts: Vec<String>,
    /// The third number of the home's IPv4 network. Two homes may use the same.
    pub lan: u8,
    /// How the router treats UDP over IPv4. TCP gets the kernel's plain masquerade.
    ///
    /// A real router cannot preserve parity, limit a mapping's life, ignore inbound
    /// refreshes, or hairpin behind a filter: [`World::build`](super::World::build)
    /// refuses these. It also ignores `capacity`, which belongs to the machine. And it may
    /// give one external port to several internal endpoints that send to different remote
    /// ones, where the mapping is not endpoint-independent and ports are drawn at random.
    pub nat: Nat,
    /// Whether the home has IPv6.
    pub ipv6: Ipv6,
    /// The router's cable to the core router, or to the one that it is behind. A perfect one has
    /// the kernel's own speed.
    pub link: Link,
    /// The home, earlier in the list, in whose network the router is: a carrier's, say. It has
    /// IPv4 only then, and no blocks of ports there.
    pub behind: Option<String>,
}

/// Whether a home has IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// It has none.
    None,
    /// Its hosts have a public and a unique local address; the router lets in only what
    /// belongs to a flow that began inside.
    Firewalled,
}

impl Topology {
    /// A server named `server`, and the homes `red` with the host `alice` and `blue`
    /// with the host `bob`.
    #[must_use]
    pub fn two_homes(red: Nat, blue: Nat) -> Self {
        let homes = vec![
            Home::new("red", &["alice"], 1, red),
            Home::new("blue", &["bob"], 2, blue),
        ];
        Self {
            servers: vec![Server::new("server")],
            homes,
            ..Self::default()
        }
    }
}

impl Server {
    /// A server with one address in each family and a perfect cable.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            addresses: 1,
            link: Link::default(),
        }
    }
}

impl Home {
    /// A home without IPv6 and with a perfect cable.
    #[must_use]
    pub fn new(name: &str, hosts: &[&str], lan: u8, nat: Nat) -> Self {
        Self {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            lan,
            nat,
            ipv6: Ipv6::None,
            link: Link::default(),
            behind: None,
        }
    }
}
