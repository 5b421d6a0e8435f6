//! The world: time, packets under way, and what happens when they arrive.

use super::link::Link;
use super::packet::{Body, Delivery, Packet};
use super::router::{Forward, Router, hops};
use super::tcp::{Segment, Stack, TcpCall, TcpDelivery};
use super::topology::{Device, HostId, InterfaceId, NetworkId, RouterId, Topology};
use super::trace::{Counters, DropReason, Journal, Node};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// An internet in memory.
#[derive(Debug)]
pub struct World {
    now: Instant,
    sequence: u64,
    events: BTreeMap<(Instant, u64), Event>,
    topology: Topology,
    core_hops: u8,
    journal: Journal,
    stacks: BTreeMap<HostId, Stack>,
    tcp: VecDeque<TcpDelivery>,
}

/// A packet at the end of a link, or a host's TCP that wants to be woken.
#[derive(Debug)]
enum Event {
    AtNetwork(NetworkId, Packet),
    AtInterface(InterfaceId, Packet),
    Alarm(HostId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Building.
impl World {
    /// An empty internet: the core and nothing else. `start` is the origin of virtual
    /// time, `seed` decides everything that is left to chance.
    #[must_use]
    pub fn new(start: Instant, seed: [u8; 32]) -> Self {
        Self {
            now: start,
            sequence: 0,
            events: BTreeMap::new(),
            topology: Topology::new(start, seed),
            core_hops: 1,
            journal: Journal::new(start),
            stacks: BTreeMap::new(),
            tcp: VecDeque::new(),
        }
    }

    /// Changes how many hops the core counts as.
    pub const fn set_core_hops(&mut self, hops: u8) {
        self.core_hops = hops;
    }

    /// The public internet. It has no latency of its own and counts as one hop, unless told.
    #[must_use]
    pub const fn core(&self) -> NetworkId {
        Topology::CORE
    }

    /// Adds a network that leads nowhere: what attaches to it reaches only each other.
    pub fn add_network(&mut self) -> NetworkId {
        self.topology.add_network()
    }

    /// Adds a host without interfaces; `name` appears in the trace.
    pub fn add_host(&mut self, name: &str) -> HostId {
        self.topology.add_host(name)
    }

    /// Connects a host to a network with these addresses.
    ///
    /// # Panics
    /// When the network has one of the addresses already.
    pub fn attach(
        &mut self,
        host: HostId,
        network: NetworkId,
        addresses: &[IpAddr],
        link: Link,
    ) -> InterfaceId {
        self.topology.attach(host, network, addresses, link)
    }

    /// Adds a router whose outside is in `network`; [`World::inside`] is the network
    /// that it makes.
    ///
    /// # Panics
    /// When the network has one of its addresses already, or when it is a NAT and has
    /// no outside address of that family.
    pub fn add_router(&mut self, name: &str, network: NetworkId, router: &Router) -> RouterId {
        self.topology.add_router(name, network, router)
    }

    /// The network behind a router.
    #[must_use]
    pub fn inside(&self, router: RouterId) -> NetworkId {
        self.topology.inside(router)
    }
}

/// Changes while it runs.
impl World {
    /// Gives an interface another link. Packets under way arrive as they would have.
    pub fn set_link(&mut self, interface: InterfaceId, link: Link) {
        let interface = self.topology.interface(interface);
        interface.up.set_pipe(link.up);
        interface.down.set_pipe(link.down);
    }

    /// Takes an interface down or brings it up.
    pub fn set_running(&mut self, interface: InterfaceId, running: bool) {
        self.topology.interface(interface).running = running;
    }

    /// Takes an interface away for good: its addresses are free for others.
    pub fn detach(&mut self, interface: InterfaceId) {
        self.set_running(interface, false);
        self.topology.withdraw(interface);
    }

    /// A host roams: it loses an interface and gets one in another network, or in the same
    /// with other addresses.
    ///
    /// # Panics
    /// When the network has one of the addresses already.
    pub fn roam(
        &mut self,
        from: InterfaceId,
        network: NetworkId,
        addresses: &[IpAddr],
        link: Link,
    ) -> InterfaceId {
        let Device::Host(host) = self.topology.interface(from).device else {
            panic!("routers do not roam");
        };
        self.detach(from);
        self.attach(host, network, addresses, link)
    }

    /// The link of a router to its outer network.
    #[must_use]
    pub fn outer(&mut self, router: RouterId) -> InterfaceId {
        self.topology.router(router).outer
    }

    /// Makes a router forget all mappings and sessions.
    pub fn reboot(&mut self, router: RouterId) {
        self.topology.router(router).reboot();
    }

    /// Makes a router forget all mappings and sessions, and come back with other addresses
    /// outside, as where a provider changes them.
    ///
    /// # Panics
    /// When the outer network has one of the addresses already, or when it is a NAT and gets
    /// no address of that family.
    pub fn renumber(&mut self, router: RouterId, outside: &[IpAddr]) {
        let outer = self.outer(router);
        self.topology.renumber(outer, outside);
        self.topology.router(router).renumber(outside);
    }
}

/// Traffic and time.
impl World {
    /// Virtual time: the latest that the world was advanced to.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Sends a datagram from a host. `from` must be an address of one of its running
    /// interfaces; otherwise the datagram is dropped and counted.
    pub fn send(
        &mut self,
        now: Instant,
        host: HostId,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
    ) {
        self.send_packet(now, host, Packet::udp(from, to, payload.to_vec()));
    }

    /// Sends a packet whose time to live the sender has chosen.
    pub fn send_packet(&mut self, now: Instant, host: HostId, packet: Packet) {
        let now = now.max(self.now);
        let name = self.topology.host_name(host);
        self.journal.line(now, name, "sends", &packet);
        self.journal.count(Node::Host(host)).sent += 1;
        match self.topology.interface_with(host, packet.src.ip()) {
            Some(interface) => self.cross(now, interface, Direction::Up, packet),
            None => self.drop(now, Node::Host(host), DropReason::NoSuchSource, &packet),
        }
    }

    /// Has a host's TCP do something.
    pub fn call_tcp(&mut self, now: Instant, host: HostId, call: TcpCall) {
        let now = now.max(self.now);
        self.with_stack(now, host, |stack| stack.call(now, call));
    }

    /// Gives the TCP packets of a host another time to live than 64.
    pub fn limit_tcp(&mut self, host: HostId, ttl: u8) {
        self.stacks.entry(host).or_default().limit(ttl);
    }

    /// What happened to TCP connections, in order.
    pub fn poll_tcp(&mut self) -> Option<TcpDelivery> {
        self.tcp.pop_front()
    }

    /// When the next packet reaches the end of a link, or a host's TCP repeats one.
    #[must_use]
    pub fn next_event_time(&self) -> Option<Instant> {
        self.events.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Moves time to `to` and returns what arrived at hosts until then, in order.
    ///
    /// A driver that answers deliveries advances to [`World::next_event_time`] at most,
    /// so that its answers leave in time.
    pub fn advance(&mut self, to: Instant) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= to
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at.max(self.now);
            match event {
                Event::AtNetwork(network, packet) => self.on_network(at, network, packet),
                Event::AtInterface(interface, packet) => {
                    deliveries.extend(self.on_interface(at, interface, packet));
                }
                Event::Alarm(host) => self.with_stack(at, host, |s| s.handle_timeout(at)),
            }
        }
        self.now = to.max(self.now);
        deliveries
    }

    fn on_network(&mut self, now: Instant, network: NetworkId, packet: Packet) {
        if network != Topology::CORE {
            return self.on_inside(now, network, packet);
        }
        match hops(packet.clone(), self.core_hops) {
            Ok(packet) => self.deliver(now, network, packet),
            Err(reason) => {
                self.drop(now, Node::Core, reason, &packet);
                if let Some(error) = packet.bounced(Segment::TimeExceeded) {
                    self.deliver(now, network, error);
                }
            }
        }
    }

    fn on_inside(&mut self, now: Instant, network: NetworkId, packet: Packet) {
        let is_local = self.topology.route(network, packet.dst.ip()).is_some();
        match self.topology.gateway(network) {
            Some(router) if !is_local => {
                let forward = self.topology.router(router).on_inside(now, packet.clone());
                let expired = matches!(forward, Err(DropReason::TimeExceeded));
                self.forward(now, router, forward, &packet);
                if let (true, Some(error)) = (expired, packet.bounced(Segment::TimeExceeded)) {
                    self.deliver(now, network, error);
                }
            }
            _ => self.deliver(now, network, packet),
        }
    }

    fn on_interface(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        packet: Packet,
    ) -> Option<Delivery> {
        let (device, running) = {
            let interface = self.topology.interface(interface);
            (interface.device, interface.running)
        };
        match device {
            _ if !running => {
                self.drop(now, node(device), DropReason::InterfaceDown, &packet);
                None
            }
            Device::Host(host) => self.on_host(now, host, packet),
            Device::Router(router) => {
                let forward = self.topology.router(router).on_outside(now, packet.clone());
                let refused = forward.as_ref().err().copied();
                self.forward(now, router, forward, &packet);
                let node = self.topology.router(router);
                if let Some(answer) = refused.and_then(|reason| node.answer(&packet, reason)) {
                    let outer = node.outer;
                    self.cross(now, outer, Direction::Up, answer);
                }
                None
            }
        }
    }

    fn on_host(&mut self, at: Instant, host: HostId, packet: Packet) -> Option<Delivery> {
        let name = self.topology.host_name(host);
        self.journal.line(at, name, "receives", &packet);
        self.journal.count(Node::Host(host)).received += 1;
        let (local, remote) = (packet.dst, packet.src);
        match packet.body {
            Body::Udp(payload) => Some(Delivery {
                at,
                host,
                local,
                remote,
                payload,
            }),
            Body::Tcp(segment) => {
                self.with_stack(at, host, |stack| {
                    stack.handle_packet(at, local, remote, segment);
                });
                None
            }
        }
    }

    /// Does something to a host's TCP, and takes what comes of it.
    fn with_stack(&mut self, at: Instant, host: HostId, act: impl FnOnce(&mut Stack)) {
        let stack = self.stacks.entry(host).or_default();
        let before = stack.timeout();
        act(stack);
        let packets: Vec<_> = std::iter::from_fn(|| stack.poll_packet()).collect();
        while let Some(((local, remote), event)) = stack.poll_event() {
            self.tcp.push_back(TcpDelivery {
                at,
                host,
                local,
                remote,
                event,
            });
        }
        let alarm = stack.timeout().filter(|_| stack.timeout() != before);
        if let Some(alarm) = alarm {
            self.schedule(alarm, Event::Alarm(host));
        }
        for packet in packets {
            self.send_packet(at, host, packet);
        }
    }

    fn forward(
        &mut self,
        now: Instant,
        router: RouterId,
        forward: Result<Forward, DropReason>,
        arrived: &Packet,
    ) {
        match forward {
            Err(reason) => self.drop(now, Node::Router(router), reason, arrived),
            Ok(Forward::Outside(packet)) => {
                self.note_forward(now, router, &packet);
                let outer = self.topology.router(router).outer;
                self.cross(now, outer, Direction::Up, packet);
            }
            Ok(Forward::Inside(packet)) => {
                self.note_forward(now, router, &packet);
                let inside = self.topology.inside(router);
                self.deliver(now, inside, packet);
            }
        }
    }

    fn note_forward(&mut self, now: Instant, router: RouterId, packet: &Packet) {
        self.journal.count(Node::Router(router)).forwarded += 1;
        let name = self.topology.router_name(router);
        self.journal.line(now, name, "forwards", packet);
    }

    /// Hands a packet to the interface that has its destination.
    fn deliver(&mut self, now: Instant, network: NetworkId, packet: Packet) {
        match self.topology.route(network, packet.dst.ip()) {
            Some(interface) => self.cross(now, interface, Direction::Down, packet),
            None => {
                let gateway = self.topology.gateway(network);
                let node = gateway.map_or(Node::Core, Node::Router);
                self.drop(now, node, DropReason::NoRoute, &packet);
            }
        }
    }

    fn cross(&mut self, now: Instant, id: InterfaceId, direction: Direction, packet: Packet) {
        let interface = self.topology.interface(id);
        let owner = node(interface.device);
        if !interface.running {
            return self.drop(now, owner, DropReason::InterfaceDown, &packet);
        }
        let network = interface.network;
        let conduit = match direction {
            Direction::Up => &mut interface.up,
            Direction::Down => &mut interface.down,
        };
        let arrivals = conduit.transit(now, packet.wire_length());
        if arrivals.is_empty() {
            self.drop(now, owner, DropReason::Lost, &packet);
        }
        for at in arrivals {
            let packet = packet.clone();
            self.schedule(
                at,
                match direction {
                    Direction::Up => Event::AtNetwork(network, packet),
                    Direction::Down => Event::AtInterface(id, packet),
                },
            );
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn drop(&mut self, now: Instant, node: Node, reason: DropReason, packet: &Packet) {
        self.journal.drop(node, reason);
        let name = match node {
            Node::Host(host) => self.topology.host_name(host),
            Node::Router(router) => self.topology.router_name(router),
            Node::Core => "core",
        };
        self.journal.drop_line(now, name, reason, packet);
    }
}

/// What can be seen from above.
impl World {
    /// Addresses of a host's running interfaces, in the order of attachment.
    #[must_use]
    pub fn addresses(&self, host: HostId) -> Vec<IpAddr> {
        self.topology.addresses(host)
    }

    /// TCP connections of a host and attempts at some, half-open ones included.
    #[must_use]
    pub fn tcp_connections(&self, host: HostId) -> usize {
        self.stacks.get(&host).map_or(0, Stack::connections)
    }

    /// The first interface that a host was given.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn interface_of(&self, host: HostId) -> InterfaceId {
        self.topology.first_interface(host)
    }

    /// Packets of a host.
    #[must_use]
    pub fn host_counters(&self, host: HostId) -> Counters {
        self.journal.counters(Node::Host(host))
    }

    /// Packets of a router.
    #[must_use]
    pub fn router_counters(&self, router: RouterId) -> Counters {
        self.journal.counters(Node::Router(router))
    }

    /// Live mappings of a router: internal and external endpoint of each.
    pub fn mappings(&mut self, router: RouterId) -> Vec<(SocketAddr, SocketAddr)> {
        let now = self.now;
        let tables = self.topology.router(router).tables();
        tables.flat_map(|table| table.mappings(now)).collect()
    }

    /// Live sessions of a router: what its table holds.
    pub fn sessions(&mut self, router: RouterId) -> usize {
        let now = self.now;
        let tables = self.topology.router(router).tables();
        tables.map(|table| table.sessions(now)).sum()
    }

    /// Keeps a trace from here on; `describe` names a payload in a few words.
    pub fn trace(&mut self, describe: fn(&[u8]) -> String) {
        self.journal.trace(describe);
    }

    /// The trace: one line for each step of each packet, beginning with the
    /// milliseconds since the start. Empty unless [`World::trace`] was called.
    #[must_use]
    pub fn trace_lines(&self) -> &[String] {
        self.journal.lines()
    }
}

const fn node(device: Device) -> Node {
    match device {
        Device::Host(host) => Node::Host(host),
        Device::Router(router) => Node::Router(router),
    }
}
