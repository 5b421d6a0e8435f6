//! Who is connected to whom.

use super::link::{Conduit, Link};
use super::random::Stream;
use super::router::{Router, RouterNode};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

/// A network: the core or the inside of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkId(usize);

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(usize);

/// A router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouterId(usize);

/// A host's or a router's place in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceId(usize);

/// What an interface belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Host(HostId),
    Router(RouterId),
}

#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) device: Device,
    pub(crate) network: NetworkId,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) up: Conduit,
    pub(crate) down: Conduit,
    pub(crate) running: bool,
}

#[derive(Debug)]
struct HostNode {
    name: String,
    interfaces: Vec<InterfaceId>,
}

#[derive(Debug, Default)]
struct NetworkNode {
    gateway: Option<RouterId>,
    routes: BTreeMap<IpAddr, InterfaceId>,
}

/// Added to the number of a stream of chance for TCP.
const TCP_STREAMS: u64 = 1 << 32;

/// All nodes and how they hang together.
#[derive(Debug)]
pub(crate) struct Topology {
    start: Instant,
    seed: [u8; 32],
    streams: u64,
    networks: Vec<NetworkNode>,
    hosts: Vec<HostNode>,
    routers: Vec<RouterNode>,
    interfaces: Vec<Interface>,
}

impl Topology {
    pub(crate) const CORE: NetworkId = NetworkId(0);

    pub(crate) fn new(start: Instant, seed: [u8; 32]) -> Self {
        Self {
            start,
            seed,
            streams: 0,
            networks: vec![NetworkNode::default()],
            hosts: Vec::new(),
            routers: Vec::new(),
            interfaces: Vec::new(),
        }
    }

    pub(crate) fn add_host(&mut self, name: &str) -> HostId {
        self.hosts.push(HostNode {
            name: name.to_owned(),
            interfaces: Vec::new(),
        });
        HostId(self.hosts.len() - 1)
    }

    pub(crate) fn add_network(&mut self) -> NetworkId {
        self.networks.push(NetworkNode::default());
        NetworkId(self.networks.len() - 1)
    }

    pub(crate) fn attach(
        &mut self,
        host: HostId,
        network: NetworkId,
        addresses: &[IpAddr],
        link: Link,
    ) -> InterfaceId {
        let interface = self.plug(Device::Host(host), network, addresses, link);
        self.hosts[host.0].interfaces.push(interface);
        interface
    }

    pub(crate) fn add_router(
        &mut self,
        name: &str,
        network: NetworkId,
        router: &Router,
    ) -> RouterId {
        let id = RouterId(self.routers.len());
        let outer = self.plug(Device::Router(id), network, &router.outside, router.link);
        let inside = self.add_network();
        self.networks[inside.0].gateway = Some(id);
        let random = [self.streams_of_gate(), self.streams_of_gate()];
        self.routers
            .push(RouterNode::new(name, outer, inside, router, random));
        id
    }

    /// Takes the addresses of an interface out of its network: another may have them then.
    pub(crate) fn withdraw(&mut self, id: InterfaceId) {
        let interface = &mut self.interfaces[id.0];
        let addresses = std::mem::take(&mut interface.addresses);
        let mut network = interface.network;
        let mut via = id;
        loop {
            let routes = &mut self.networks[network.0].routes;
            routes.retain(|address, through| !(*through == via && addresses.contains(address)));
            let Some(gateway) = self.gateway(network) else {
                return;
            };
            via = self.routers[gateway.0].outer;
            network = self.interfaces[via.0].network;
        }
    }

    /// Gives an interface other addresses.
    pub(crate) fn renumber(&mut self, id: InterfaceId, addresses: &[IpAddr]) {
        self.withdraw(id);
        let network = self.interfaces[id.0].network;
        self.interfaces[id.0].addresses = addresses.to_vec();
        for &address in addresses {
            self.announce(network, address, id);
        }
    }

    pub(crate) fn interface(&mut self, id: InterfaceId) -> &mut Interface {
        &mut self.interfaces[id.0]
    }

    pub(crate) fn router(&mut self, id: RouterId) -> &mut RouterNode {
        &mut self.routers[id.0]
    }

    pub(crate) fn inside(&self, id: RouterId) -> NetworkId {
        self.routers[id.0].inside
    }

    pub(crate) fn gateway(&self, network: NetworkId) -> Option<RouterId> {
        self.networks[network.0].gateway
    }

    pub(crate) fn route(&self, network: NetworkId, address: IpAddr) -> Option<InterfaceId> {
        self.networks[network.0].routes.get(&address).copied()
    }

    pub(crate) fn host_name(&self, id: HostId) -> &str {
        &self.hosts[id.0].name
    }

    pub(crate) fn first_interface(&self, id: HostId) -> InterfaceId {
        self.hosts[id.0].interfaces[0]
    }

    pub(crate) fn router_name(&self, id: RouterId) -> &str {
        &self.routers[id.0].name
    }

    /// The addresses of a host's running interfaces, in the order of attachment.
    pub(crate) fn addresses(&self, host: HostId) -> Vec<IpAddr> {
        let running = self.running(host);
        running.flat_map(|(_, i)| i.addresses.clone()).collect()
    }

    /// The running interface of a host that has an address.
    pub(crate) fn interface_with(&self, host: HostId, address: IpAddr) -> Option<InterfaceId> {
        let mut running = self.running(host);
        running
            .find(|(_, interface)| interface.addresses.contains(&address))
            .map(|(id, _)| id)
    }

    fn running(&self, host: HostId) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        let ids = self.hosts[host.0].interfaces.iter();
        ids.map(|&id| (id, &self.interfaces[id.0]))
            .filter(|(_, interface)| interface.running)
    }

    fn plug(
        &mut self,
        device: Device,
        network: NetworkId,
        addresses: &[IpAddr],
        link: Link,
    ) -> InterfaceId {
        let id = InterfaceId(self.interfaces.len());
        let up = Conduit::new(link.up, self.stream(), self.start);
        let down = Conduit::new(link.down, self.stream(), self.start);
        self.interfaces.push(Interface {
            device,
            network,
            addresses: addresses.to_vec(),
            up,
            down,
            running: true,
        });
        for &address in addresses {
            self.announce(network, address, id);
        }
        id
    }

    /// Makes an address reachable in its network, and in the outer ones as far as the
    /// routers between leave addresses as they are.
    fn announce(&mut self, network: NetworkId, address: IpAddr, via: InterfaceId) {
        let before = self.networks[network.0].routes.insert(address, via);
        assert!(before.is_none(), "{address} is in this network already");
        let Some(gateway) = self.gateway(network) else {
            return;
        };
        let router = &self.routers[gateway.0];
        if router.keeps_addresses(address.is_ipv4()) {
            let outer = router.outer;
            self.announce(self.interfaces[outer.0].network, address, outer);
        }
    }

    /// One for UDP and one for TCP, which draws from far away: what UDP meets does not depend
    /// on there being a TCP.
    fn streams_of_gate(&mut self) -> [Stream; 2] {
        let udp = self.stream();
        let tcp = Stream::new(self.seed, self.streams | TCP_STREAMS);
        [udp, tcp]
    }

    fn stream(&mut self) -> Stream {
        self.streams += 1;
        Stream::new(self.seed, self.streams)
    }
}
