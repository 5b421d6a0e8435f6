//! From a topology to namespaces, cables, addresses, routes and rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::enter::assert_isolated;
use super::link::Forwarder;
use super::namespace::Namespace;
use super::rules::{self, FIRST_HOST, LAN, WAN};
use super::tool::ToolError;
use super::topology::{Home, Ipv6, Server, Topology};
use crate::sim::Link;

/// The core router's name in every world.
pub(super) const CORE: &str = "internet";

/// Interface names have at most 15 bytes, and routers put a prefix before a name.
const NAME_MAX: usize = 12;

/// Networks `45.45.1.0/24` to `45.45.250.0/24`.
const ATTACHED_MAX: usize = 250;

/// Hosts of a home take the addresses from 10 up.
const HOSTS_MAX: usize = 200;

/// Why a world could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The process is still in the machine's own network.
    #[error("{0}")]
    NotIsolated(&'static str),
    /// A name is empty, too long, used twice, or has characters other than letters,
    /// digits and hyphens.
    #[error("the name {0:?} cannot be used in a world")]
    Name(String),
    /// There is no host with this name.
    #[error("there is no {0:?} in this world")]
    Unknown(String),
    /// More servers, homes, hosts or addresses than there are numbers for, or none.
    #[error("too many servers, homes, hosts or addresses, or none where one is needed")]
    Size,
    /// A port range is empty, longer than `nft` loads in reasonable time, or too short
    /// for a block for every host.
    #[error("a port range of the NAT is empty, too long, or too short for its blocks")]
    Ports,
    /// The kernel's translator cannot do this; the simulator can.
    #[error("real Linux NATs do not do {0}")]
    Unsupported(&'static str),
    /// `ip` or `nft` did not do its work.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The system refused something else.
    #[error("cannot build the network: {0}")]
    Io(#[from] io::Error),
}

/// One namespace of the world.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) namespace: Namespace,
    /// Its own addresses, the one that peers should see first; a router's external ones.
    pub(super) addresses: Vec<IpAddr>,
}

/// What building yields; the world owns it.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) forwarders: Vec<Forwarder>,
    seed: [u8; 32],
}

pub(super) fn build(topology: &Topology) -> Result<Parts, BuildError> {
    assert_isolated().map_err(BuildError::NotIsolated)?;
    check_names(topology)?;
    check_sizes(topology)?;
    let mut parts = Parts {
        seed: topology.seed,
        ..Parts::default()
    };
    let core = parts.add(CORE, Vec::new())?;
    forward(&core)?;
    let mut number = 1;
    for server in &topology.servers {
        attach_server(&mut parts, &core, number, server)?;
        number += 1;
    }
    for (index, home) in topology.homes.iter().enumerate() {
        let before = &topology.homes[..index];
        match &home.behind {
            None => attach_home(&mut parts, &core, number, home)?,
            Some(outer) => attach_behind(&mut parts, number, home, (outer, before))?,
        }
        number += 1;
    }
    Ok(parts)
}

fn check_names(topology: &Topology) -> Result<(), BuildError> {
    let servers = topology.servers.iter().map(|server| &server.name);
    let homes = topology.homes.iter();
    let inside = homes.flat_map(|home| std::iter::once(&home.name).chain(&home.hosts));
    let mut names = vec![CORE];
    for name in servers.chain(inside) {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let fits = (1..=NAME_MAX).contains(&name.len());
        if !fits || !name.chars().all(legal) || names.contains(&name.as_str()) {
            return Err(BuildError::Name(name.clone()));
        }
        names.push(name);
    }
    Ok(())
}

fn check_sizes(topology: &Topology) -> Result<(), BuildError> {
    let attached = topology.servers.len() + topology.homes.len();
    let addresses = |server: &Server| (1..=HOSTS_MAX).contains(&server.addresses.into());
    let hosts = |home: &Home| home.hosts.len() <= HOSTS_MAX;
    if attached > ATTACHED_MAX
        || !topology.servers.iter().all(addresses)
        || !topology.homes.iter().all(hosts)
    {
        return Err(BuildError::Size);
    }
    Ok(())
}

impl Parts {
    fn add(&mut self, name: &str, addresses: Vec<IpAddr>) -> Result<Namespace, BuildError> {
        let namespace = Namespace::new()?;
        prepare_ipv6(&namespace)?;
        let node = Node {
            namespace: namespace.clone(),
            addresses,
        };
        self.nodes.insert(name.to_owned(), node);
        Ok(namespace)
    }

    /// Lays a cable from the interface `node` of one namespace to `net`, nearer to the
    /// core, of another.
    fn cable(
        &mut self,
        node: (&Namespace, &str),
        net: (&Namespace, &str),
        link: Link,
    ) -> Result<(), BuildError> {
        if link == Link::default() {
            return node.0.ip(&veth(node.1, net.1, net.0));
        }
        let number = self.forwarders.len() as u64;
        let forwarder = Forwarder::lay(node, net, link, (self.seed, number))?;
        self.forwarders.push(forwarder);
        Ok(())
    }
}

/// New namespaces take after the machine's: what it says about IPv6 is not meant for the
/// world. An address is usable at once, without asking the neighbours about it.
fn prepare_ipv6(namespace: &Namespace) -> io::Result<()> {
    for interfaces in ["all", "default"] {
        for (name, value) in [
            ("disable_ipv6", "0"),
            ("accept_dad", "0"),
            ("accept_ra", "0"),
        ] {
            namespace.set(&format!("ipv6/conf/{interfaces}/{name}"), value)?;
        }
    }
    Ok(())
}

/// The command that makes a cable whose other end is in another namespace.
pub(super) fn veth(near_name: &str, far_name: &str, far: &Namespace) -> String {
    let path = far.path();
    format!("link add name {near_name} type veth peer name {far_name} netns {path}\n")
}

fn forward(router: &Namespace) -> Result<(), BuildError> {
    // Where the machine has bridges filter like routers, they translate, too, and then send nothing
    // back to where it came from: a host would not reach itself through the router. Other machines
    // do not know the setting.
    let _ = router.set("bridge/bridge-nf-call-iptables", "0");
    router.set("ipv4/ip_forward", "1")?;
    router.set("ipv6/conf/all/forwarding", "1")?;
    Ok(())
}

fn attach_server(
    parts: &mut Parts,
    core: &Namespace,
    number: u8,
    server: &Server,
) -> Result<(), BuildError> {
    let last = server.addresses + 1;
    let v4 = (2..=last).map(|host| IpAddr::from(public4(number, host)));
    let v6 = (2..=last).map(|host| IpAddr::from(public6(number, host)));
    let addresses: Vec<IpAddr> = v4.chain(v6).collect();
    let node = parts.add(&server.name, addresses.clone())?;
    let port = port_of(number);
    parts.cable((&node, "eth0"), (core, &port), server.link)?;
    core.ip(&core_side(number))?;
    node.ip(&public_side("eth0", number, &addresses))?;
    node.nft(rules::COUNTING)
}

fn attach_home(
    parts: &mut Parts,
    core: &Namespace,
    number: u8,
    home: &Home,
) -> Result<(), BuildError> {
    let outside = [
        IpAddr::from(public4(number, 2)),
        IpAddr::from(public6(number, 2)),
    ];
    let router = parts.add(&home.name, outside.to_vec())?;
    let port = port_of(number);
    parts.cable((&router, WAN), (core, &port), home.link)?;
    core.ip(&core_side(number))?;
    router.ip(&public_side(WAN, number, &outside))?;
    if home.ipv6 == Ipv6::Firewalled {
        let gateway = public6(number, 2);
        core.ip(&format!(
            "route add {} via {gateway}\n",
            home_prefix6(number)
        ))?;
    }
    furnish(parts, &router, number, home, public4(number, 2))
}

/// A router whose outside is in the network of another one: of the home named `outer`, which is
/// among those built `before`.
fn attach_behind(
    parts: &mut Parts,
    number: u8,
    home: &Home,
    (outer, before): (&str, &[Home]),
) -> Result<(), BuildError> {
    let unknown = || BuildError::Unknown(outer.to_owned());
    let known = before.iter().find(|home| home.name == outer);
    let known = known.ok_or_else(unknown)?;
    if home.ipv6 != Ipv6::None {
        return Err(BuildError::Unsupported("IPv6 behind two routers"));
    }
    let of_outer = |home: &&Home| home.behind.as_deref() == Some(outer);
    let neighbours = known.hosts.len() + before.iter().filter(of_outer).count();
    let index = u8::try_from(neighbours).map_err(|_| BuildError::Size)?;
    let last = FIRST_HOST.checked_add(index).ok_or(BuildError::Size)?;
    let outside = Ipv4Addr::new(192, 168, known.lan, last);
    let gateway = parts.nodes.get(outer).ok_or_else(unknown)?;
    let gateway = gateway.namespace.clone();
    let router = parts.add(&home.name, vec![outside.into()])?;
    let port = format!("h-{}", home.name);
    parts.cable((&router, WAN), (&gateway, &port), home.link)?;
    gateway.ip(&bridged(&port))?;
    let up = interface(WAN, &[outside.into()]);
    router.ip(&format!(
        "{up}route add default via 192.168.{}.1\n",
        known.lan
    ))?;
    furnish(parts, &router, number, home, outside)
}

/// What is inside a home, and its rules.
fn furnish(
    parts: &mut Parts,
    router: &Namespace,
    number: u8,
    home: &Home,
    outside: Ipv4Addr,
) -> Result<(), BuildError> {
    forward(router)?;
    router.ip(&lan_bridge(number, home))?;
    for (index, name) in (FIRST_HOST..).zip(&home.hosts) {
        attach_host(parts, router, number, home, (index, name))?;
    }
    router.nft(&rules::router(home, outside)?)?;
    for (setting, value) in rules::timeouts(&home.nat) {
        router.set(setting, &value)?;
    }
    Ok(())
}

/// Puts the end of a cable into the network of a home.
fn bridged(port: &str) -> String {
    format!("link set dev {port} master {LAN}\nlink set dev {port} up\n")
}

fn attach_host(
    parts: &mut Parts,
    router: &Namespace,
    number: u8,
    home: &Home,
    (index, name): (u8, &str),
) -> Result<(), BuildError> {
    let mut addresses = vec![IpAddr::from(Ipv4Addr::new(192, 168, home.lan, index))];
    if home.ipv6 == Ipv6::Firewalled {
        addresses.push(home6(number, index).into());
        addresses.push(local6(number, index).into());
    }
    let host = parts.add(name, addresses.clone())?;
    let port = format!("h-{name}");
    parts.cable((&host, "eth0"), (router, &port), Link::default())?;
    router.ip(&bridged(&port))?;
    let mut batch = interface("eth0", &addresses);
    let _ = writeln!(batch, "route add default via 192.168.{}.1", home.lan);
    if home.ipv6 == Ipv6::Firewalled {
        let _ = writeln!(batch, "route add ::/0 via {}", home6(number, 1));
    }
    host.ip(&batch)
}

fn lan_bridge(number: u8, home: &Home) -> String {
    let mut addresses = vec![IpAddr::from(Ipv4Addr::new(192, 168, home.lan, 1))];
    if home.ipv6 == Ipv6::Firewalled {
        addresses.push(home6(number, 1).into());
        addresses.push(local6(number, 1).into());
    }
    format!(
        "link add name {LAN} type bridge\n{}",
        interface(LAN, &addresses)
    )
}

fn core_side(number: u8) -> String {
    let addresses = [public4(number, 1).into(), public6(number, 1).into()];
    interface(&port_of(number), &addresses)
}

fn public_side(name: &str, number: u8, addresses: &[IpAddr]) -> String {
    let (v4, v6) = (public4(number, 1), public6(number, 1));
    let up = interface(name, addresses);
    format!("{up}route add default via {v4}\nroute add ::/0 via {v6}\n")
}

/// Gives an interface its addresses and takes it up.
fn interface(name: &str, addresses: &[IpAddr]) -> String {
    let mut batch = String::new();
    for address in addresses {
        let _ = match address {
            IpAddr::V4(_) => writeln!(batch, "addr add {address}/24 dev {name}"),
            IpAddr::V6(_) => writeln!(batch, "addr add {address}/64 dev {name} nodad"),
        };
    }
    let _ = writeln!(batch, "link set dev {name} up");
    batch
}

fn port_of(number: u8) -> String {
    format!("port{number}")
}

fn public4(number: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(45, 45, number, host)
}

fn public6(number: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2a45, 0x45, number.into(), 0, 0, 0, 0, host.into())
}

fn home6(number: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2a45, 0x45, number.into(), 1, 0, 0, 0, host.into())
}

fn home_prefix6(number: u8) -> String {
    format!("{}/64", home6(number, 0))
}

fn local6(number: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd45, 0x45, number.into(), 1, 0, 0, 0, host.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Nat;

    fn named(names: &[&str]) -> Topology {
        let home = Home::new("red", names, 1, Nat::default());
        Topology {
            servers: vec![Server::new("server")],
            homes: vec![home],
            ..Topology::default()
        }
    }

    #[test]
    fn names_are_used_once() {
        assert!(check_names(&named(&["alice", "bob"])).is_ok());
        for name in ["server", "red", "internet", "", "a b", "much-too-long-name"] {
            assert!(check_names(&named(&[name])).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_world_is_not_built_in_the_machines_own_network() {
        let refused = build(&named(&["alice"]));
        assert!(matches!(refused, Err(BuildError::NotIsolated(_))));
    }

    #[test]
    fn a_server_needs_an_address() {
        let mut topology = named(&[]);
        topology.servers[0].addresses = 0;
        assert!(matches!(check_sizes(&topology), Err(BuildError::Size)));
    }
}
