//! Where this machine is: its interfaces, routers, and what translates IPv6 for it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use postern_proto::ice::Nat64Prefix;

use crate::net::Advertised;
use crate::portmap::default_routers;

use super::udp::route_to;

/// Most interfaces and routers that are told: a machine of containers has hundreds.
const MAX_TOLD: usize = 32;

/// How interfaces of tunnels are called where the system does not tell what they are.
const TUNNELS: [&str; 9] = [
    "tun",
    "tap",
    "wg",
    "utun",
    "ppp",
    "ipsec",
    "tailscale",
    "zt",
    "nordlynx",
];

/// What is known without asking anybody outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The interfaces that are up and have an address, without loopback.
    pub interfaces: Vec<Interface>,
    /// The routers of default routes, the preferred ones first.
    pub routers: Vec<Router>,
    /// The interface through which packets to the server leave.
    pub way_out: Option<String>,
    /// The prefix of the NAT64 that the resolver knows of (RFC 7050), as address and length.
    pub nat64: Option<String>,
    /// The HTTP proxy that was used, without its password.
    pub proxy: Option<String>,
}

/// An interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is the end of a tunnel: a VPN, as a rule.
    pub tunnel: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A router that leads everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// Its address.
    pub address: IpAddr,
    /// The interface that leads to it.
    pub interface: String,
}

impl Network {
    /// The tunnel through which everything leaves, by its interface's name.
    #[must_use]
    pub fn tunnel(&self) -> Option<&str> {
        let out = self.way_out.as_deref()?;
        let mut interfaces = self.interfaces.iter();
        let through = interfaces.find(|interface| interface.name == out)?;
        through.tunnel.then_some(out)
    }

    /// The different routers of IPv4; several confuse, because only one of them is used.
    #[must_use]
    pub fn ipv4_routers(&self) -> Vec<IpAddr> {
        let mut routers: Vec<IpAddr> = self.routers.iter().map(|router| router.address).collect();
        routers.retain(IpAddr::is_ipv4);
        routers.sort_unstable();
        routers.dedup();
        routers
    }
}

/// The NAT64 that a machine with these addresses reaches IPv4 through.
pub(super) async fn translator(addresses: &[IpAddr]) -> Option<Nat64Prefix> {
    match addresses.iter().any(IpAddr::is_ipv4) {
        true => None,
        false => Advertised::listen().find_any().await,
    }
}

/// Looks around, and asks routers and the resolver about NAT64 if nobody has.
pub(super) async fn look(proxy: Option<String>, nat64: Option<Nat64Prefix>) -> Network {
    let nat64 = match nat64 {
        Some(known) => Some(known),
        None => Advertised::listen().find_any().await,
    };
    let routers = default_routers();
    let routers = routers
        .into_iter()
        .map(|(interface, address)| Router { address, interface });
    Network {
        interfaces: interfaces(),
        routers: routers.take(MAX_TOLD).collect(),
        way_out: None,
        nat64: nat64.map(|prefix| prefix.to_string()),
        proxy,
    }
}

/// The interface that leads to one of the servers.
pub(super) async fn way_out(interfaces: &[Interface], servers: &[SocketAddr]) -> Option<String> {
    let from = route_to(servers).await?;
    let mut interfaces = interfaces.iter();
    let through = interfaces.find(|interface| interface.addresses.contains(&from));
    through.map(|interface| interface.name.clone())
}

fn interfaces() -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for found in if_addrs::get_if_addrs().unwrap_or_default() {
        if found.is_loopback() {
            continue;
        }
        let mut known = interfaces.iter_mut();
        if let Some(interface) = known.find(|interface| interface.name == found.name) {
            interface.addresses.push(found.ip());
        } else if interfaces.len() < MAX_TOLD {
            interfaces.push(Interface {
                tunnel: is_tunnel(&found.name),
                addresses: vec![found.ip()],
                name: found.name,
            });
        }
    }
    interfaces
}

/// What the kernel says, or else the name.
fn is_tunnel(name: &str) -> bool {
    let class = Path::new("/sys/class/net").join(name);
    let kind = std::fs::read_to_string(class.join("uevent")).unwrap_or_default();
    class.join("tun_flags").exists()
        || kind.contains("DEVTYPE=wireguard")
        || is_named_as_tunnel(name)
}

fn is_named_as_tunnel(name: &str) -> bool {
    TUNNELS.iter().any(|prefix| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_known_by_their_names() {
        for name in ["tun0", "wg0", "wg-home", "utun4", "tailscale0", "ppp0"] {
            assert!(is_named_as_tunnel(name), "{name}");
        }
        for name in [
            "eth0",
            "wlan0",
            "wgether",
            "enp3s0",
            "docker0",
            "tunnelwerk",
        ] {
            assert!(!is_named_as_tunnel(name), "{name}");
        }
    }

    #[test]
    fn everything_leaves_through_a_tunnel_only_if_the_way_out_is_one() {
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            tunnel: is_named_as_tunnel(name),
            addresses: Vec::new(),
        };
        let mut network = Network {
            interfaces: vec![interface("eth0"), interface("wg0")],
            way_out: Some("eth0".to_owned()),
            ..Network::default()
        };
        assert_eq!(network.tunnel(), None);
        network.way_out = Some("wg0".to_owned());
        assert_eq!(network.tunnel(), Some("wg0"));
    }
}
