//! The client of RFC 5780 says what the simulated routers do.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod sim_support;

use postern_lab::sim::{
    Allocation, Filtering, Firewall, Gate, Hairpin, HostId, Link, Machine, Mapping, Nat, Pipe,
    Ports, Router, Runner, Timeouts, World, seed,
};
use postern_proto::punch::{self, NatReport};
use postern_proto::stun::behaviour::{Discovery, Event, Findings, Lifetime, LifetimeEvent};
use postern_proto::stun::{Alternate, BindingServer};
use postern_proto::{Datagram, Transmit, Verdict};
use sim_support::{SERVER, WAN, at, ip, masquerade};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MAPPINGS: [Mapping; 3] = [
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];
const FILTERINGS: [Filtering; 3] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
];
const BLOCK: Ports = Ports {
    first: 20_480,
    last: 21_503,
};

/// A machine of this world.
enum Node {
    Server(BindingServer),
    Client(Box<Discovery>),
    Patient(Box<Lifetime>),
}

enum Said {
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
struct House {
    world: World,
    host: HostId,
    address: &'static str,
    server: BindingServer,
    asked: Vec<SocketAddr>,
}

fn link(delay: u64) -> Link {
    Link::with_latency(Duration::from_millis(delay))
}

/// A server with two addresses, as RFC 5780 wants it.
fn two_addresses() -> BindingServer {
    let alternate = Alternate {
        primary: at("45.45.0.1:3478"),
        secondary: at("45.45.0.2:3479"),
    };
    BindingServer::new()
        .with_allowance(None)
        .with_alternates(vec![alternate])
}

impl House {
    fn new(number: u64, routers: &[Router], address: &'static str) -> Self {
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
            server: two_addresses(),
            asked: vec![at("45.45.0.1:3478")],
        }
    }

    fn behind(number: u64, nat: Nat) -> Self {
        Self::new(number, &[masquerade(WAN, nat)], "192.168.1.10")
    }

    fn sockets(&self, count: u16) -> Vec<SocketAddr> {
        // As systems give them: not in order.
        let port = |n: u16| 40_000 + n.wrapping_mul(7_919) % 20_000;
        let sockets = (0..count).map(|n| SocketAddr::new(ip(self.address), port(n)));
        sockets.collect()
    }

    fn runner(self, client: Node) -> Runner<Node> {
        let Self {
            mut world,
            host,
            server,
            ..
        } = self;
        let core = world.core();
        let internet = world.add_host("server");
        world.attach(internet, core, &SERVER.map(ip), link(20));
        let mut runner = Runner::new(world);
        runner.add(internet, Node::Server(server));
        runner.add(host, client);
        runner
    }

    /// What a discovery with this many sockets finds, and how long it took.
    fn discover(self, sockets: u16) -> (Findings, Duration) {
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

    fn lifetime(self) -> (LifetimeEvent, Duration) {
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

fn name(mapping: Mapping) -> punch::Mapping {
    match mapping {
        Mapping::EndpointIndependent => punch::Mapping::EndpointIndependent,
        Mapping::AddressDependent => punch::Mapping::AddressDependent,
        Mapping::AddressAndPortDependent => punch::Mapping::AddressAndPortDependent,
    }
}

fn filter(filtering: Filtering) -> punch::Filtering {
    match filtering {
        Filtering::EndpointIndependent => punch::Filtering::EndpointIndependent,
        Filtering::AddressDependent => punch::Filtering::AddressDependent,
        Filtering::AddressAndPortDependent => punch::Filtering::AddressAndPortDependent,
    }
}

fn report(findings: &Findings) -> NatReport {
    findings.nat.unwrap()
}

/// Whether what was found about ports is what the router does.
fn is_right(found: punch::Allocation, allocation: Allocation) -> bool {
    match (found, allocation) {
        (punch::Allocation::Preserving, Allocation::Preserving) => true,
        (punch::Allocation::Sequential { step, .. }, Allocation::Sequential { step: s, .. }) => {
            i32::from(step) == i32::from(s)
        }
        (punch::Allocation::Random(range), Allocation::Random(ports)) => {
            let (found, real) = (range.count(), u32::from(ports.last - ports.first) + 1);
            found <= real * 2 && real <= found * 2
        }
        _ => false,
    }
}

#[test]
fn every_mapping_filtering_and_allocation_is_found() {
    let allocations = [
        Allocation::Preserving,
        Allocation::Random(Ports::ALL),
        Allocation::Random(BLOCK),
        Allocation::Sequential {
            ports: Ports::ALL,
            step: 1,
        },
        Allocation::Sequential {
            ports: Ports::ALL,
            step: 2,
        },
    ];
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for allocation in allocations {
                let nat = Nat {
                    allocation,
                    ..Nat::new(mapping, filtering)
                };
                let (findings, took) = House::behind(3, nat).discover(28);
                let found = report(&findings);
                assert_eq!(found.mapping, name(mapping), "{nat:?}");
                assert_eq!(found.filtering, filter(filtering), "{nat:?}");
                assert!(is_right(found.allocation, allocation), "{nat:?} {found:?}");
                let seen = mapping == Mapping::EndpointIndependent
                    || filtering == Filtering::EndpointIndependent;
                assert_eq!(findings.hairpin, seen.then_some(false), "{nat:?}");
                assert_eq!(findings.translated, Some(true));
                assert_eq!(findings.paired, Some(true));
                assert_eq!(findings.loss, Some(0.0));
                assert!(took < Duration::from_secs(4), "{took:?}");
            }
        }
    }
}

#[test]
fn ranges_are_estimated_within_a_factor_of_two_in_95_of_100_runs() {
    for size in [512, 1024, 2048, 16_384] {
        let ports = Ports {
            first: 20_000,
            last: 20_000 + (size - 1),
        };
        let nat = Nat {
            allocation: Allocation::Random(ports),
            ..Nat::new(
                Mapping::AddressAndPortDependent,
                Filtering::AddressAndPortDependent,
            )
        };
        let right = |number: &u64| {
            let (findings, _) = House::behind(*number, nat).discover(28);
            is_right(report(&findings).allocation, nat.allocation)
        };
        let right = (0..100).filter(right).count();
        assert!(right >= 95, "{size}: {right} of 100");
    }
}

#[test]
fn a_packet_to_an_own_mapped_address_comes_back_where_the_router_turns_it_round() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for hairpin in [Hairpin::ExternalSource, Hairpin::InternalSource] {
                let nat = Nat {
                    hairpin,
                    ..Nat::new(mapping, filtering)
                };
                let (findings, _) = House::behind(1, nat).discover(6);
                // No packet can know where another one will come from.
                let hidden = mapping != Mapping::EndpointIndependent
                    && filtering != Filtering::EndpointIndependent
                    && hairpin == Hairpin::ExternalSource;
                let expected = (!hidden).then_some(true);
                assert_eq!(findings.hairpin, expected, "{nat:?}");
            }
        }
    }
}

#[test]
fn two_nats_in_a_row_look_like_the_stricter_one() {
    let easy = Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    let strict = Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    for (outer, inner) in [(easy, strict), (strict, easy), (easy, easy)] {
        let routers = [masquerade(WAN, outer), masquerade("100.64.0.7", inner)];
        let house = House::new(2, &routers, "192.168.1.10");
        let found = report(&house.discover(28).0);
        let stricter = if outer == strict { outer } else { inner };
        assert_eq!(found.mapping, name(stricter.mapping));
        assert_eq!(found.filtering, filter(stricter.filtering));
        assert_eq!(found.mapped.ip(), ip(WAN));
    }
}

#[test]
fn without_a_nat_the_address_is_the_own_and_the_firewall_is_still_seen() {
    let house = House::new(1, &[], "45.45.7.7");
    let (findings, _) = house.discover(8);
    assert_eq!(findings.translated, Some(false));
    assert_eq!(
        report(&findings).filtering,
        punch::Filtering::EndpointIndependent
    );
    assert_eq!(findings.hairpin, None);
    assert_eq!(findings.fragments, Some(true));

    let firewall = Router {
        outside: vec![ip(WAN)],
        v4: Gate::Firewall(Firewall::default()),
        ..Router::default()
    };
    let (findings, _) = House::new(1, &[firewall], "45.45.7.7").discover(8);
    assert_eq!(findings.translated, Some(false));
    assert_eq!(
        report(&findings).filtering,
        punch::Filtering::AddressAndPortDependent
    );
}

#[test]
fn where_udp_does_not_get_out_it_says_so_soon() {
    let closed = Router {
        outside: vec![ip(WAN)],
        ..Router::default()
    };
    let (findings, took) = House::new(1, &[closed], "192.168.1.10").discover(28);
    assert_eq!(findings, Findings::default());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn plain_servers_tell_the_mapping_and_leave_the_rest_unknown() {
    let strict = Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    let plain = |nat, asked: &[&str]| {
        let mut house = House::behind(1, nat);
        house.server = BindingServer::new().with_allowance(None);
        house.asked = asked.iter().map(|server| at(server)).collect();
        house.discover(28).0
    };
    let one = plain(strict, &["45.45.0.1:3478"]);
    assert_eq!(report(&one).mapping, punch::Mapping::Unknown);
    assert_eq!(report(&one).filtering, punch::Filtering::Unknown);
    assert_eq!((one.two_addresses, one.fragments), (None, None));
    let two = plain(strict, &["45.45.0.1:3478", "45.45.0.2:3478"]);
    assert_eq!(report(&two).mapping, punch::Mapping::EndpointDependent);
    let easy = plain(Nat::default(), &["45.45.0.1:3478", "45.45.0.2:3478"]);
    assert_eq!(report(&easy).mapping, punch::Mapping::EndpointIndependent);
    assert_eq!(report(&easy).filtering, punch::Filtering::Unknown);
}

#[test]
fn a_second_address_that_nobody_answers_at_proves_nothing() {
    let mut house = House::behind(1, Nat::default());
    let alternate = Alternate {
        primary: at("45.45.0.1:3478"),
        // Nobody has this address.
        secondary: at("45.45.0.9:3479"),
    };
    house.server = BindingServer::new().with_alternates(vec![alternate]);
    let (findings, _) = house.discover(8);
    assert_eq!(report(&findings).filtering, punch::Filtering::Unknown);
    assert_eq!(findings.two_addresses, None);
}

#[test]
fn loss_costs_time_and_no_truth() {
    for number in 0..20 {
        let mut house = House::behind(number, Nat::default());
        let interface = house.world.interface_of(house.host);
        let lossy = Link::symmetric(Pipe {
            latency: Duration::from_millis(30),
            loss: 0.05,
            ..Pipe::default()
        });
        house.world.set_link(interface, lossy);
        let (findings, took) = house.discover(28);
        let found = report(&findings);
        assert_eq!(found.mapping, punch::Mapping::EndpointIndependent);
        assert_eq!(found.filtering, punch::Filtering::AddressAndPortDependent);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn the_lifetime_of_an_idle_mapping_is_bounded_within_seconds() {
    for seconds in [30, 60, 120, 200] {
        let lifetime = Duration::from_secs(seconds);
        let nat = Nat {
            timeouts: Timeouts {
                replied: lifetime,
                unreplied: lifetime,
                ..Timeouts::default()
            },
            ..Nat::default()
        };
        let (end, took) = House::behind(1, nat).lifetime();
        let LifetimeEvent::Done { at_least, at_most } = end else {
            panic!("{end:?}");
        };
        let at_most = at_most.unwrap();
        assert!(at_least <= lifetime && lifetime <= at_most, "{end:?}");
        assert!(at_most - at_least <= lifetime / 6, "{end:?}");
        // The first round, and what is between two of its waits.
        assert!(took < lifetime * 3 + Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn a_mapping_that_outlives_the_measurement_and_a_server_that_cannot_measure_are_said() {
    let nat = Nat {
        timeouts: Timeouts {
            replied: Duration::from_secs(3600),
            ..Timeouts::default()
        },
        ..Nat::default()
    };
    let (end, _) = House::behind(1, nat).lifetime();
    let at_least = Duration::from_secs(305);
    let expected = LifetimeEvent::Done {
        at_least,
        at_most: None,
    };
    assert_eq!(end, expected);
    let mut house = House::behind(1, Nat::default());
    house.server = BindingServer::new();
    assert_eq!(house.lifetime().0, LifetimeEvent::Failed);
}
