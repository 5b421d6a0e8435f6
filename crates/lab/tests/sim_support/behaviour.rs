//! A discovery behind simulated routers.

use super::{SERVER, WAN, at, ip, masquerade};
use postern_lab::sim::{
    Allocation, Filtering, HostId, Link, Machine, Mapping, Nat, Ports, Router, Runner, World, seed,
};
use postern_proto::punch::{self, NatReport, PortRange};
use postern_proto::stun::behaviour::{Discovery, Event, Findings, Lifetime, LifetimeEvent};
use postern_proto::stun::{Alternate, BindingServer};
use postern_proto::{Datagram, Transmit, Verdict};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) const MAPPINGS: [Mapping; 3] = [
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];
pub(crate) const FILTERINGS: [Filtering; 3] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
];
pub(crate) const BLOCK: Ports = Ports {
    first: 20_480,
    last: 21_503,
};

/// A machine of this world.
pub(crate) enum Node {
    Server(BindingServer),
    Client(Box<Discovery>),
    Patient(Box<Lifetime>),
}

pub(crate) enum Said {
    Discovery(Event),
    Lifetime(LifetimeEvent),
}

impl Machine for Node {
    type Event = Said;
    type Signal = ();

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self {
            Self::Server(server) => server.handle_input(now, datagram),
            Self::Client(client) => client.handle_input(now, datagram),
            Self::Patient(client) => client.handle_input(now, datagram),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Server(_) => {}
            Self::Client(client) => client.handle_timeout(now),
            Self::Patient(client) => client.handle_timeout(now),
        }
    }

    fn handle_signal(&mut self, _: Instant, (): ()) {}

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Server(server) => server.poll_transmit(),
            Self::Client(client) => client.poll_transmit(),
            Self::Patient(client) => client.poll_transmit(),
        }
    }

    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        match self {
            Self::Client(client) => client.poll_limited(),
            Self::Server(_) | Self::Patient(_) => None,
        }
    }

    fn poll_event(&mut self) -> Option<Said> {
        match self {
            Self::Server(_) => None,
            Self::Client(client) => client.poll_event().map(Said::Discovery),
            Self::Patient(client) => client.poll_event().map(Said::Lifetime),
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Server(_) => None,
            Self::Client(client) => client.poll_timeout(),
            Self::Patient(client) => client.poll_timeout(),
        }
    }
}

/// A host at home, with servers on the internet.
pub(crate) struct House {
    pub(crate) world: World,
    pub(crate) host: HostId,
    pub(crate) address: &'static str,
    pub(crate) internet: Vec<IpAddr>,
    pub(crate) server: BindingServer,
    pub(crate) asked: Vec<SocketAddr>,
}

pub(crate) fn link(delay: u64) -> Link {
    Link::with_latency(Duration::from_millis(delay))
}

/// A server with two addresses, as RFC 5780 wants it.
pub(crate) fn two_addresses() -> BindingServer {
    let alternate = Alternate {
        primary: at("45.45.0.1:3478"),
        secondary: at("45.45.0.2:3479"),
    };
    BindingServer::new()
        .with_allowance(None)
        .with_alternates(vec![alternate])
}

impl House {
    pub(crate) fn new(number: u64, routers: &[Router], address: &'static str) -> Self {
        let mut world = World::new(Instant::now(), seed(number));
        let mut network = world.core();
        for router in routers {
            let id = world.add_router("router", network, router);
            network = world.inside(id);
        }
        let host = world.add_host("host");
        world.attach(host, network, &[ip(address)], link(10));
        Self {
            world,
            host,
            address,
            internet: SERVER.map(ip).to_vec(),
            server: two_addresses(),
            asked: vec![at("45.45.0.1:3478")],
        }
    }

    pub(crate) fn behind(number: u64, nat: Nat) -> Self {
        Self::new(number, &[masquerade(WAN, nat)], "192.168.1.10")
    }

    pub(crate) fn sockets(&self, count: u16) -> Vec<SocketAddr> {
        // As systems give them: neither in order, nor even and odd by turns.
        let port = |n: u16| 40_000 + n.wrapping_mul(7_919).wrapping_add(n / 3) % 20_000;
        let sockets = (0..count).map(|n| SocketAddr::new(ip(self.address), port(n)));
        sockets.collect()
    }

    fn runner(self, client: Node) -> Runner<Node> {
        let Self {
            mut world,
            host,
            internet,
            server,
            ..
        } = self;
        let core = world.core();
        let outside = world.add_host("server");
        world.attach(outside, core, &internet, link(20));
        let mut runner = Runner::new(world);
        runner.add(outside, Node::Server(server));
        runner.add(host, client);
        runner
    }

    /// What a discovery with this many sockets finds, and how long it took.
    pub(crate) fn discover(self, sockets: u16) -> (Findings, Duration) {
        let begun = self.world.now();
        let sockets = self.sockets(sockets);
        let discovery = Discovery::new(begun, seed(7), sockets, &self.asked);
        let mut runner = self.runner(Node::Client(Box::new(discovery)));
        let deadline = begun + Duration::from_secs(30);
        while let Some(said) = runner.next_event(deadline) {
            if let Said::Discovery(Event::Done(findings)) = said.event {
                return (*findings, said.at - begun);
            }
        }
        panic!("the discovery has no end");
    }

    pub(crate) fn lifetime(self) -> (LifetimeEvent, Duration) {
        let begun = self.world.now();
        let (sockets, server) = (self.sockets(10), self.asked[0]);
        let lifetime = Lifetime::new(begun, seed(7), sockets, server);
        let mut runner = self.runner(Node::Patient(Box::new(lifetime)));
        let deadline = begun + Duration::from_secs(3600);
        while let Some(said) = runner.next_event(deadline) {
            match said.event {
                Said::Lifetime(end @ (LifetimeEvent::Done { .. } | LifetimeEvent::Failed)) => {
                    return (end, said.at - begun);
                }
                Said::Lifetime(LifetimeEvent::Waited { .. }) | Said::Discovery(_) => {}
            }
        }
        panic!("the measurement has no end");
    }
}

pub(crate) fn name(mapping: Mapping) -> punch::Mapping {
    match mapping {
        Mapping::EndpointIndependent => punch::Mapping::EndpointIndependent,
        Mapping::AddressDependent => punch::Mapping::AddressDependent,
        Mapping::AddressAndPortDependent => punch::Mapping::AddressAndPortDependent,
    }
}

pub(crate) fn filter(filtering: Filtering) -> punch::Filtering {
    match filtering {
        Filtering::EndpointIndependent => punch::Filtering::EndpointIndependent,
        Filtering::AddressDependent => punch::Filtering::AddressDependent,
        Filtering::AddressAndPortDependent => punch::Filtering::AddressAndPortDependent,
    }
}

pub(crate) fn report(findings: &Findings) -> NatReport {
    findings.nat.unwrap()
}

/// Whether what was found about ports is what the router does.
pub(crate) fn is_right(found: punch::Allocation, allocation: Allocation) -> bool {
    let close = |found: PortRange, real: u32| {
        let found = found.count();
        found <= real * 2 && real <= found * 2
    };
    match (found, allocation) {
        (punch::Allocation::Preserving, Allocation::Preserving) => true,
        (punch::Allocation::Sequential { step, .. }, Allocation::Sequential { step: s, .. }) => {
            i32::from(step) == i32::from(s)
        }
        (punch::Allocation::Random(range), Allocation::Random(ports)) => {
            close(range, u32::from(ports.last - ports.first) + 1)
        }
        (punch::Allocation::Random(range), Allocation::Block { size, .. }) => {
            close(range, u32::from(size))
        }
        _ => false,
    }
}
