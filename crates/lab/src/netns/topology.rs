//! A little internet as data.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Servers and homes around one core router.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// Hosts with public addresses.
    pub servers: Vec<Server>,
    /// Hosts behind a router each.
    pub homes: Vec<Home>,
}

/// A host with public addresses, without a firewall. Its traffic is counted by
/// protocol, see [`World::counters`](super::World::counters).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the world; at most 12 letters, digits or hyphens.
    pub name: String,
    /// How many addresses it has in each family, 1 to 200.
    pub addresses: u8,
    /// Its cable to the core router.
    pub link: Link,
}

/// A home: a router that translates addresses, and the hosts behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Home {
    /// The router's name in the world; at most 12 letters, digits or hyphens.
    pub name: String,
    /// The names of the hosts; they get the addresses from `192.168.lan.10` on.
    pub hosts: Vec<String>,
    /// The third number of the home's IPv4 network. Two homes may use the same.
    pub lan: u8,
    /// How the router treats IPv4.
    pub nat: Nat,
    /// Whether the home has IPv6.
    pub ipv6: Ipv6,
    /// The router's cable to the core router.
    pub link: Link,
}

/// How a router translates UDP over IPv4, in the words of RFC 4787. TCP is always
/// translated with the kernel's plain masquerade and filtered by connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// When two flows of one internal endpoint share an external port (section 4.1).
    pub mapping: Mapping,
    /// Who may send to a mapping (section 5).
    pub filtering: Filtering,
    /// Which external port a new mapping gets (section 4.2).
    pub allocation: Allocation,
    /// What the router does with packets that belong to no mapping.
    pub inbound: Inbound,
}

/// When flows from one internal address and port share an external port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mapping {
    /// Always.
    EndpointIndependent,
    /// When they go to the same address.
    AddressDependent,
    /// When they go to the same address and port.
    AddressAndPortDependent,
}

/// Who may send to an external port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that were sent to from that port.
    AddressDependent,
    /// Addresses and ports that were sent to from that port.
    AddressAndPortDependent,
}

/// Which external port a new mapping gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// The internal port, when it is free.
    Preserving,
    /// Any port of a range.
    Random {
        /// The range; with 1024 ports it models the port blocks of carriers.
        ports: RangeInclusive<u16>,
    },
    /// One port after the other, starting again at the end of the range.
    Sequential {
        /// The range, at most 4096 ports.
        ports: RangeInclusive<u16>,
    },
}

/// What a router does with packets from outside that belong to no mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inbound {
    /// Nothing at all, as home routers do.
    Drop,
    /// Answers that the port is unreachable (ICMP), or with a reset to TCP.
    Reject,
    /// Lets them in to the router itself, as a machine with plain masquerade and no
    /// firewall does. The router then forgets to preserve ports under simultaneous
    /// probing.
    Accept,
}

/// Whether a home has IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipv6 {
    /// It has none.
    None,
    /// Its hosts have a public and a unique local address; the router lets in only what
    /// belongs to a flow that began inside.
    Firewalled,
}

/// What a cable adds to the kernel's own speed; the default adds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Link {
    /// Time a packet takes in each direction, in steps of about 0.1 ms.
    pub delay: Duration,
    /// The share of packets lost in each direction, 0.0 to 1.0.
    pub loss: f64,
    /// Seeds the choice of lost packets.
    pub seed: u64,
}

impl Topology {
    /// A server named `server`, and the homes `red` with the host `alice` and `blue`
    /// with the host `bob`.
    pub fn two_homes(red: Nat, blue: Nat) -> Self {
        let homes = vec![
            Home::new("red", &["alice"], 1, red),
            Home::new("blue", &["bob"], 2, blue),
        ];
        Self {
            servers: vec![Server::new("server")],
            homes,
        }
    }
}

impl Server {
    /// A server with one address in each family and a plain cable.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            addresses: 1,
            link: Link::default(),
        }
    }
}

impl Home {
    /// A home without IPv6 and with a plain cable.
    pub fn new(name: &str, hosts: &[&str], lan: u8, nat: Nat) -> Self {
        Self {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            lan,
            nat,
            ipv6: Ipv6::None,
            link: Link::default(),
        }
    }
}

impl Nat {
    /// What Linux does with one `masquerade` rule behind a firewall: endpoint-independent
    /// mapping that preserves ports, address-and-port-dependent filtering.
    pub fn masquerade() -> Self {
        Self::new(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
        )
    }

    /// A translator with the given behaviour that drops what belongs to no mapping. It
    /// preserves ports if its mapping is endpoint-independent; otherwise its ports are
    /// random.
    pub fn new(mapping: Mapping, filtering: Filtering) -> Self {
        let allocation = match mapping {
            Mapping::EndpointIndependent => Allocation::Preserving,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent => Allocation::any_port(),
        };
        Self {
            mapping,
            filtering,
            allocation,
            inbound: Inbound::Drop,
        }
    }
}

impl Allocation {
    /// Random over all ports that need no privilege.
    pub fn any_port() -> Self {
        Self::Random {
            ports: 1024..=65535,
        }
    }
}

impl Mapping {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
    ];
}

impl Filtering {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
    ];
}

impl Link {
    /// A cable that delays by `delay` in each direction and loses nothing.
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Whether it adds nothing.
    pub fn is_plain(&self) -> bool {
        self.delay.is_zero() && self.loss <= 0.0
    }
}
