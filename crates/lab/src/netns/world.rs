//! The world that was built, and what can be done in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;

use super::build::{self, BuildError, Node, Parts};
use super::namespace::Namespace;
use super::topology::{Home, Topology};
use super::traffic::{Counter, InterfaceTraffic, parse_counters, parse_interfaces};
use super::{rules, tool};

/// Namespaces, cables and NATs; dropping it takes them down.
///
/// A node is a server, a home's router, a host, or the core router `internet`, by name.
#[derive(Debug)]
pub struct World {
    parts: Parts,
    homes: Vec<Home>,
}

impl World {
    /// Builds the world that `topology` describes; it works when this returns.
    ///
    /// # Errors
    ///
    /// [`BuildError`]: [`enter`](super::enter) was not called, the topology does not make
    /// sense, or the system refused.
    pub fn build(topology: &Topology) -> Result<Self, BuildError> {
        let parts = build::build(topology)?;
        let homes = topology.homes.clone();
        Ok(Self { parts, homes })
    }

    /// The names of all nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.parts.nodes.keys().map(String::as_str)
    }

    /// A node's addresses: IPv4 first, then public IPv6, then unique local IPv6. A home
    /// router's are those on its outside. The core router has none of its own.
    ///
    /// # Errors
    ///
    /// [`BuildError::Unknown`] if there is no such node.
    pub fn addresses(&self, node: &str) -> Result<&[IpAddr], BuildError> {
        Ok(&self.node(node)?.addresses)
    }

    /// A node's first IPv4 address.
    ///
    /// # Errors
    ///
    /// [`BuildError::Unknown`] if there is no such node or it has no such address.
    pub fn ipv4(&self, node: &str) -> Result<Ipv4Addr, BuildError> {
        let first = self.addresses(node)?.first();
        match first {
            Some(IpAddr::V4(address)) => Ok(*address),
            Some(IpAddr::V6(_)) | None => Err(BuildError::Unknown(node.to_owned())),
        }
    }

    /// A program that runs on a node when it is started.
    ///
    /// It is killed when the thread that started it ends, and so with this process: start
    /// it from a thread that lives as long as it should, which a blocking-pool thread of
    /// tokio does not. For tokio, convert it: `tokio::process::Command::from`.
    ///
    /// # Errors
    ///
    /// [`BuildError::Unknown`] if there is no such node.
    pub fn command(&self, node: &str, program: &str) -> Result<Command, BuildError> {
        Ok(self.namespace(node)?.command(program))
    }

    /// Runs `work` on a thread inside a node and waits for its result. Sockets made in
    /// there belong to the node for good, wherever they are used.
    ///
    /// # Errors
    ///
    /// [`BuildError::Unknown`] if there is no such node, [`BuildError::Io`] if the thread
    /// could not be started.
    pub fn run<T: Send>(
        &self,
        node: &str,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, BuildError> {
        Ok(self.namespace(node)?.run(work)?)
    }

    /// Starts a thread inside a node; threads that it starts, such as an async runtime's,
    /// are inside too.
    ///
    /// # Errors
    ///
    /// As [`World::run`]; the thread itself yields an error if it could not get inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        node: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<io::Result<T>>, BuildError> {
        Ok(self.namespace(node)?.spawn(node, work)?)
    }

    /// A UDP socket of a node, bound to `address`, which may leave the port to the system.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or the address cannot be bound.
    pub fn udp(&self, node: &str, address: SocketAddr) -> Result<UdpSocket, BuildError> {
        Ok(self.run(node, || UdpSocket::bind(address))??)
    }

    /// What each interface of a node has received and sent. A home router's are `wan` and
    /// `lan`, a server's or host's `eth0`.
    ///
    /// # Errors
    ///
    /// As [`World::run`].
    pub fn traffic(&self, node: &str) -> Result<BTreeMap<String, InterfaceTraffic>, BuildError> {
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        Ok(parse_interfaces(&self.run(node, read)??))
    }

    /// What a server's counters have counted: `tcp_in`, `tcp_out`, `udp_in`, `udp_out`,
    /// loopback left out, and those added with [`World::watch`]. Other nodes have none.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `nft` failed.
    pub fn counters(&self, server: &str) -> Result<BTreeMap<String, Counter>, BuildError> {
        let json = self.run(server, || tool::nft_list(&["-j", "list", "counters"]))??;
        parse_counters(&json).map_err(|error| BuildError::Io(error.into()))
    }

    /// Adds a counter to a server for packets in both directions that match an nftables
    /// expression such as `udp dport 3478`.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `nft` did not understand.
    pub fn watch(&self, server: &str, counter: &str, matching: &str) -> Result<(), BuildError> {
        self.namespace(server)?
            .nft(&rules::watch(counter, matching))
    }

    /// Runs lines of `ip` commands on a node, to take a link down, say.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `ip` refused.
    pub fn ip(&self, node: &str, batch: &str) -> Result<(), BuildError> {
        self.namespace(node)?.ip(batch)
    }

    /// Loads nftables rules on a node, to block something, say. The names of a home
    /// router's tables are `firewall` and `nat`, of a server's `count`.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `nft` refused.
    pub fn nft(&self, node: &str, rules: &str) -> Result<(), BuildError> {
        self.namespace(node)?.nft(rules)
    }

    /// A host leaves its home for another: it loses its interface and gets one behind this home's
    /// router, with this IPv4 address of that home's network.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `ip` refused.
    pub fn roam(&self, host: &str, router: &str, address: Ipv4Addr) -> Result<(), BuildError> {
        let (host_space, router_space) = (self.namespace(host)?, self.namespace(router)?);
        let port = format!("r-{host}");
        host_space.ip("link del dev eth0\n")?;
        host_space.ip(&build::veth("eth0", &port, router_space))?;
        let lan = rules::LAN;
        router_space.ip(&format!(
            "link set dev {port} master {lan}\nlink set dev {port} up\n"
        ))?;
        let [a, b, c, _] = address.octets();
        host_space.ip(&format!(
            "link set dev eth0 up\naddr add {address}/24 dev eth0\n\
             route add default via {a}.{b}.{c}.1\n"
        ))
    }

    /// A host gets one more interface, behind this home's router, with this IPv4 address of that home's
    /// network. What has this source leaves through it, and the rest where it did.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `ip` refused.
    pub fn plug_in(
        &self,
        host: &str,
        interface: &str,
        router: &str,
        address: Ipv4Addr,
    ) -> Result<(), BuildError> {
        /// Of a routing table for the interface.
        const TABLE: u32 = 101;
        let (host_space, router_space) = (self.namespace(host)?, self.namespace(router)?);
        let port = format!("p-{host}");
        host_space.ip(&build::veth(interface, &port, router_space))?;
        let lan = rules::LAN;
        router_space.ip(&format!(
            "link set dev {port} master {lan}\nlink set dev {port} up\n"
        ))?;
        let [a, b, c, _] = address.octets();
        host_space.ip(&format!(
            "link set dev {interface} up\naddr add {address}/24 dev {interface}\n\
             route add default via {a}.{b}.{c}.1 dev {interface} table {TABLE}\n\
             rule add from {address} table {TABLE}\n"
        ))
    }

    /// A home's router, one without IPv6, loses power: nothing passes, and it forgets its rules and, where it
    /// translates as most do (endpoint-independently and keeping ports), its mappings.
    ///
    /// # Errors
    ///
    /// As [`World::run`], or `ip` or `nft` refused.
    pub fn power_off(&self, router: &str) -> Result<(), BuildError> {
        let (wan, lan) = (rules::WAN, rules::LAN);
        let space = self.namespace(router)?;
        space.ip(&format!(
            "link set dev {lan} down\nlink set dev {wan} down\n"
        ))?;
        space.nft("flush ruleset\n")
    }

    /// It is back, with this address outside: the one that it had, or another of the same network.
    ///
    /// # Errors
    ///
    /// As [`World::power_off`].
    pub fn power_on(&self, router: &str, outside: Ipv4Addr) -> Result<(), BuildError> {
        let unknown = || BuildError::Unknown(router.to_owned());
        let home = self.homes.iter().find(|home| home.name == router);
        let rules = rules::router(home.ok_or_else(unknown)?, outside)?;
        let (wan, lan) = (rules::WAN, rules::LAN);
        let [a, b, c, _] = outside.octets();
        let space = self.namespace(router)?;
        space.nft(&rules)?;
        space.ip(&format!(
            "addr flush dev {wan}\naddr add {outside}/24 dev {wan}\nlink set dev {wan} up\n\
             route add default via {a}.{b}.{c}.1\nlink set dev {lan} up\n"
        ))
    }

    fn namespace(&self, node: &str) -> Result<&Namespace, BuildError> {
        Ok(&self.node(node)?.namespace)
    }

    fn node(&self, name: &str) -> Result<&Node, BuildError> {
        let node = self.parts.nodes.get(name);
        node.ok_or_else(|| BuildError::Unknown(name.to_owned()))
    }
}
