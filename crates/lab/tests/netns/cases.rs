//! The cases.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use postern_lab::netns::{BuildError, Case, Home, Ipv6, Server, Topology, World, assert_isolated};
use postern_lab::sim::{
    Allocation, Filtering, Hairpin, Link, Mapping, Nat, Pipe, Ports, Timeouts, Unsolicited, seed,
};

use crate::probe::{
    ANY, PATIENCE, ROUNDS, Reflectors, address, heard_until, seen_by, socket, source,
};

pub(crate) const ALL: &[Case] = postern_lab::cases!(
    the_process_has_left_the_machines_network,
    plain_masquerade_keeps_the_port_and_drops_strangers,
    every_mapping_and_filtering_behaves_as_named,
    sequential_ports_follow_one_another_under_every_mapping,
    random_ports_stay_in_their_block_under_every_mapping,
    an_accepting_router_lets_strangers_reach_itself,
    a_hairpinning_router_shows_the_external_source,
    carriers_give_each_host_a_block_of_ports,
    an_idle_mapping_is_forgotten_in_time,
    two_plain_homes_punch_through_to_each_other,
    tcp_crosses_the_nat_outwards_and_is_counted,
    a_firewalled_ipv6_home_lets_in_only_answers,
    a_program_runs_on_its_host_and_sees_only_its_interfaces,
    a_program_dies_with_the_thread_that_started_it,
    a_delayed_link_delays_each_way,
    a_lossy_link_loses_its_share_and_the_same_one_again,
    a_delayed_link_carries_bulk_data_unharmed,
    a_link_that_is_taken_down_carries_nothing,
    homes_may_use_the_same_private_network,
    an_impossible_topology_is_refused,
    dropping_the_world_takes_it_down,
);

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

fn the_process_has_left_the_machines_network() {
    assert_eq!(assert_isolated(), Ok(()));
}

fn plain_masquerade_keeps_the_port_and_drops_strangers() {
    let world = two_homes(Nat::default());
    let server = socket(&world, "server", 0, 3478);
    let stranger = world.udp("server", ANY).unwrap();
    let alice = world.udp("alice", ANY).unwrap();
    let seen = seen_by(&server, &alice);
    let port = alice.local_addr().unwrap().port();
    assert_eq!(
        seen,
        SocketAddr::new(world.addresses("red").unwrap()[0], port)
    );
    stranger.send_to(b"let me in", seen).unwrap();
    let heard = heard_until(&server, seen, &alice);
    assert!(
        heard.iter().all(|h| h.from == address(&server)),
        "{heard:?}"
    );
}

fn every_mapping_and_filtering_behaves_as_named() {
    let ports = Ports {
        first: 30_000,
        last: 31_999,
    };
    let allocations = [
        Allocation::Preserving,
        Allocation::Random(Ports::ALL),
        Allocation::Sequential { ports, step: 2 },
        Allocation::Block { ports, size: 512 },
    ];
    for allocation in allocations {
        let nat = |mapping, filtering| Nat {
            allocation,
            ..Nat::new(mapping, filtering)
        };
        let all = MAPPINGS.map(|mapping| FILTERINGS.map(|filtering| nat(mapping, filtering)));
        assert_behave_as_named(all.as_flattened());
    }
}

fn assert_behave_as_named(nats: &[Nat]) {
    let world = homes(nats);
    let reflectors = Reflectors::new(&world);
    for (index, nat) in nats.iter().enumerate() {
        let host = format!("host{index}");
        let mapping = reflectors.mapping(&world, &host);
        let filtering = reflectors.filtering(&world, &host);
        let found = (mapping, filtering);
        assert_eq!(found, (nat.mapping, nat.filtering), "{nat:?}");
    }
}

fn sequential_ports_follow_one_another_under_every_mapping() {
    let ports = Ports {
        first: 30_000,
        last: 30_999,
    };
    let nats = with_allocation(Allocation::Sequential { ports, step: 2 });
    let world = homes(&nats);
    let reflectors = Reflectors::new(&world);
    for (index, nat) in nats.iter().enumerate() {
        let host = format!("host{index}");
        assert_eq!(reflectors.mapping(&world, &host), nat.mapping, "{nat:?}");
        let first = reflectors.fresh_port(&world, &host);
        let second = reflectors.fresh_port(&world, &host);
        assert_eq!(second, first + 2, "{nat:?}");
    }
}

fn random_ports_stay_in_their_block_under_every_mapping() {
    let ports = Ports {
        first: 40_000,
        last: 41_023,
    };
    let nats = with_allocation(Allocation::Random(ports));
    let world = homes(&nats);
    let reflectors = Reflectors::new(&world);
    for (index, nat) in nats.iter().enumerate() {
        let host = format!("host{index}");
        assert_eq!(reflectors.mapping(&world, &host), nat.mapping, "{nat:?}");
        let ports: BTreeSet<u16> = (0..16)
            .map(|_| reflectors.fresh_port(&world, &host))
            .collect();
        assert!(ports.iter().all(|port| (40_000..=41_023).contains(port)));
        assert!(ports.len() > 8, "{ports:?}");
    }
}

fn an_accepting_router_lets_strangers_reach_itself() {
    for (unsolicited, expected) in [(Unsolicited::Drop, false), (Unsolicited::Accept, true)] {
        let nat = Nat {
            unsolicited,
            ..Nat::default()
        };
        let world = two_homes(nat);
        assert_eq!(router_hears_a_stranger(&world), expected, "{unsolicited:?}");
    }
}

fn router_hears_a_stranger(world: &World) -> bool {
    let router = world.udp("red", SocketAddr::new(ANY.ip(), 5351)).unwrap();
    let [server, stranger] = [3478, 3479].map(|port| socket(world, "server", 0, port));
    let address_of_router = seen_by(&server, &router);
    (0..ROUNDS).any(|_| {
        stranger
            .send_to(b"map me a port", address_of_router)
            .unwrap();
        let heard = heard_until(&server, address_of_router, &router);
        heard.iter().any(|h| h.from == address(&stranger))
    })
}

fn a_hairpinning_router_shows_the_external_source() {
    for allocation in [Allocation::Preserving, Allocation::Random(Ports::ALL)] {
        let nat = Nat {
            filtering: Filtering::EndpointIndependent,
            hairpin: Hairpin::ExternalSource,
            allocation,
            ..Nat::default()
        };
        let mut topology = Topology::two_homes(nat, nat);
        topology.homes[0].hosts.push("carol".to_owned());
        let world = World::build(&topology).unwrap();
        let server = socket(&world, "server", 0, 3478);
        let [alice, carol] = ["alice", "carol"].map(|host| world.udp(host, ANY).unwrap());
        let (outer_alice, outer_carol) = (seen_by(&server, &alice), seen_by(&server, &carol));
        assert_eq!(source(&alice, outer_carol, &carol), outer_alice);
        assert_eq!(source(&carol, outer_alice, &alice), outer_carol);
    }
}

fn carriers_give_each_host_a_block_of_ports() {
    let ports = Ports {
        first: 50_000,
        last: 51_999,
    };
    let nat = Nat {
        allocation: Allocation::Block { ports, size: 1000 },
        ..Nat::default()
    };
    let mut topology = Topology::two_homes(nat, nat);
    topology.homes[0].hosts.push("carol".to_owned());
    let world = World::build(&topology).unwrap();
    let server = socket(&world, "server", 0, 3478);
    for (host, block) in [("alice", 50_000..=50_999), ("carol", 51_000..=51_999)] {
        let inside = world.udp(host, ANY).unwrap();
        assert!(block.contains(&seen_by(&server, &inside).port()), "{host}");
    }
}

fn an_idle_mapping_is_forgotten_in_time() {
    let timeout = Duration::from_secs(3);
    let nat = Nat {
        allocation: Allocation::Random(Ports::ALL),
        timeouts: Timeouts {
            unreplied: timeout,
            replied: timeout,
            ..Timeouts::default()
        },
        ..Nat::default()
    };
    let world = two_homes(nat);
    let server = socket(&world, "server", 0, 3478);
    let alice = world.udp("alice", ANY).unwrap();
    let first = seen_by(&server, &alice);
    assert_eq!(seen_by(&server, &alice), first);
    std::thread::sleep(timeout + Duration::from_secs(1));
    assert_ne!(seen_by(&server, &alice), first);
}

fn two_plain_homes_punch_through_to_each_other() {
    let world = two_homes(Nat::default());
    let server = socket(&world, "server", 0, 3478);
    let [alice, bob] = ["alice", "bob"].map(|host| world.udp(host, ANY).unwrap());
    let (outer_alice, outer_bob) = (seen_by(&server, &alice), seen_by(&server, &bob));
    alice.send_to(b"opens red", outer_bob).unwrap();
    assert_eq!(source(&bob, outer_alice, &alice), outer_bob);
    assert_eq!(source(&alice, outer_bob, &bob), outer_alice);
}

fn tcp_crosses_the_nat_outwards_and_is_counted() {
    let world = two_homes(Nat::default());
    let address = SocketAddr::new(world.addresses("server").unwrap()[0], 443);
    world.watch("server", "web", "tcp dport 443").unwrap();
    let listener = world.run("server", || TcpListener::bind(address)).unwrap();
    let listener = listener.unwrap();
    let connect = || TcpStream::connect_timeout(&address, PATIENCE);
    let connection = world.run("alice", connect).unwrap().unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), world.addresses("red").unwrap()[0]);
    drop(connection);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0, "the last packet is in");
    let counters = world.counters("server").unwrap();
    assert!(counters["tcp_in"].packets >= 2, "{counters:?}");
    assert_eq!(counters["web"].packets, counters["tcp_in"].packets);
    assert_eq!(counters["udp_in"].packets, 0);
    assert!(world.traffic("red").unwrap()["wan"].sent_packets >= 2);
}

fn a_firewalled_ipv6_home_lets_in_only_answers() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    for home in &mut topology.homes {
        home.ipv6 = Ipv6::Firewalled;
    }
    let world = World::build(&topology).unwrap();
    let [alice, bob] = ["alice", "bob"].map(|host| {
        let address = world.addresses(host).unwrap()[1];
        world.udp(host, SocketAddr::new(address, 0)).unwrap()
    });
    let [server, stranger] = [3478, 3479].map(|port| socket(&world, "server", 1, port));
    let alices = address(&alice);
    assert_eq!(seen_by(&server, &alice), alices, "no address is translated");
    stranger.send_to(b"unasked", alices).unwrap();
    let heard = heard_until(&server, alices, &alice);
    assert!(
        heard.iter().all(|h| h.from == address(&server)),
        "{heard:?}"
    );
    bob.send_to(b"opens blue", alices).unwrap();
    assert_eq!(source(&alice, address(&bob), &bob), alices);
    assert_eq!(source(&bob, alices, &alice), address(&bob));
}

fn a_program_runs_on_its_host_and_sees_only_its_interfaces() {
    let world = two_homes(Nat::default());
    let mut command = world.command("alice", "ls").unwrap();
    let output = command.arg("/sys/class/net").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "eth0\nlo\n");
    let mut command = world.command("bob", "cat").unwrap();
    let output = command.arg("/proc/net/route").output().unwrap();
    let gateway = "0102A8C0";
    assert!(String::from_utf8_lossy(&output.stdout).contains(gateway));
}

fn a_program_dies_with_the_thread_that_started_it() {
    let world = two_homes(Nat::default());
    let mut command = world.command("alice", "sleep").unwrap();
    command.arg("60").stdout(Stdio::null());
    let starter = std::thread::spawn(move || command.spawn().unwrap());
    let mut child = starter.join().unwrap();
    let start = Instant::now();
    assert!(!child.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn a_delayed_link_delays_each_way() {
    let delay = Duration::from_millis(15);
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::with_latency(delay);
    topology.homes[1].link = Link::with_latency(delay);
    let world = World::build(&topology).unwrap();
    let [alice, bob, server] = ["alice", "bob", "server"].map(|h| world.udp(h, ANY).unwrap());
    let server_port = address(&server).port();
    let server_address = SocketAddr::new(world.addresses("server").unwrap()[0], server_port);
    let round_trip = |from: &UdpSocket| {
        let start = Instant::now();
        let peer = source(from, server_address, &server);
        source(&server, peer, from);
        (start.elapsed(), peer)
    };
    let (_, outer_alice) = round_trip(&alice);
    assert_close(2 * delay, || round_trip(&alice).0);
    let (_, outer_bob) = round_trip(&bob);
    alice.send_to(b"opens red", outer_bob).unwrap();
    assert_close(2 * delay, || {
        let start = Instant::now();
        assert_eq!(source(&bob, outer_alice, &alice), outer_bob);
        start.elapsed()
    });
}

fn a_lossy_link_loses_its_share_and_the_same_one_again() {
    let arrived = numbers_that_cross_a_lossy_link();
    assert!((130..170).contains(&arrived.len()), "{}", arrived.len());
    assert!(arrived.is_sorted());
    assert_eq!(numbers_that_cross_a_lossy_link(), arrived);
}

fn numbers_that_cross_a_lossy_link() -> Vec<u16> {
    let nat = Nat {
        unsolicited: Unsolicited::Accept,
        ..Nat::default()
    };
    let mut topology = Topology::two_homes(nat, nat);
    topology.seed = seed(7);
    topology.homes[0].link.up = Pipe {
        loss: 0.25,
        ..Pipe::default()
    };
    let world = World::build(&topology).unwrap();
    let server = socket(&world, "server", 0, 3478);
    let alice = socket(&world, "alice", 0, 3478);
    introduce_neighbours(&world, &server, &alice);
    for number in 0..200 {
        let digits = number.to_string();
        alice.send_to(digits.as_bytes(), address(&server)).unwrap();
    }
    let heard = heard_until(&alice, address(&server), &server);
    let numbers = heard.iter().filter_map(|h| h.words.parse().ok());
    numbers.collect()
}

/// The kernel keeps few packets for a neighbour it has yet to find: all find each other
/// by packets that go inwards, where none is lost.
fn introduce_neighbours(world: &World, server: &UdpSocket, alice: &UdpSocket) {
    let router = world.udp("red", SocketAddr::new(ANY.ip(), 5351)).unwrap();
    let outside = SocketAddr::new(world.addresses("red").unwrap()[0], 5351);
    source(server, outside, &router);
    source(&router, address(alice), alice);
}

fn a_delayed_link_carries_bulk_data_unharmed() {
    const BYTES: usize = 16 << 20;
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::with_latency(Duration::from_millis(2));
    let world = World::build(&topology).unwrap();
    let address = SocketAddr::new(world.addresses("server").unwrap()[0], 443);
    let listener = world.run("server", || TcpListener::bind(address)).unwrap();
    let listener = listener.unwrap();
    let data: Vec<u8> = (0..BYTES).map(|i| ((i * i) >> 7) as u8).collect();
    let connect = || TcpStream::connect_timeout(&address, PATIENCE);
    let mut sender = world.run("alice", connect).unwrap().unwrap();
    let mut received = Vec::with_capacity(BYTES);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::Write::write_all(&mut sender, &data).unwrap();
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let (mut receiver, _) = listener.accept().unwrap();
        std::io::Read::read_to_end(&mut receiver, &mut received).unwrap();
    });
    assert!(received == data);
}

fn a_link_that_is_taken_down_carries_nothing() {
    let world = two_homes(Nat::default());
    let server = socket(&world, "server", 0, 3478);
    let [alice, bob] = ["alice", "bob"].map(|host| world.udp(host, ANY).unwrap());
    seen_by(&server, &alice);
    let blue = seen_by(&server, &bob);
    world.ip("red", "link set dev wan down\n").unwrap();
    let _ = alice.send_to(b"anybody?", address(&server));
    let heard = heard_until(&bob, address(&server), &server);
    assert!(heard.iter().all(|h| h.from == blue), "{heard:?}");
}

fn homes_may_use_the_same_private_network() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[1].lan = topology.homes[0].lan;
    let world = World::build(&topology).unwrap();
    assert_eq!(world.ipv4("alice").unwrap(), world.ipv4("bob").unwrap());
    let server = socket(&world, "server", 0, 3478);
    let [alice, bob] = ["alice", "bob"].map(|host| world.udp(host, ANY).unwrap());
    assert_ne!(seen_by(&server, &alice).ip(), seen_by(&server, &bob).ip());
}

fn an_impossible_topology_is_refused() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[1].hosts = vec!["alice".to_owned()];
    let refused = World::build(&topology);
    assert!(matches!(refused, Err(BuildError::Name(name)) if name == "alice"));
    let world = two_homes(Nat::default());
    let unknown = world.command("carol", "ls");
    assert!(matches!(unknown, Err(BuildError::Unknown(name)) if name == "carol"));
}

fn dropping_the_world_takes_it_down() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    eventually("the main thread is alone", || threads() == 1);
    let before = files();
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::with_latency(Duration::from_millis(1));
    let world = World::build(&topology).unwrap();
    assert!(files() > before);
    drop(world);
    assert_eq!(files(), before);
    eventually("the threads are gone", || threads() == 1);
}

fn two_homes(nat: Nat) -> World {
    World::build(&Topology::two_homes(nat, nat)).unwrap()
}

/// A home with one host for each translator, and a server with three addresses.
fn homes(nats: &[Nat]) -> World {
    let home = |(index, nat): (usize, &Nat)| {
        let (name, host) = (format!("home{index}"), format!("host{index}"));
        Home::new(&name, &[&host], 1, *nat)
    };
    let mut server = Server::new("server");
    server.addresses = 3;
    let topology = Topology {
        servers: vec![server],
        homes: nats.iter().enumerate().map(home).collect(),
        ..Topology::default()
    };
    World::build(&topology).unwrap()
}

/// One translator for each mapping, with the same way to choose ports.
fn with_allocation(allocation: Allocation) -> Vec<Nat> {
    let nat = |mapping| Nat {
        allocation,
        ..Nat::new(mapping, Filtering::AddressAndPortDependent)
    };
    MAPPINGS.map(nat).to_vec()
}

/// The kernel lists a thread for a moment after it was joined.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A timer may be late on a busy machine, but not always, and never early.
fn assert_close(expected: Duration, mut measure: impl FnMut() -> Duration) {
    const ATTEMPTS: usize = 200;
    let close = expected..expected + Duration::from_millis(10);
    let mut times = Vec::new();
    while !times.last().is_some_and(|time| close.contains(time)) {
        assert!(times.len() < ATTEMPTS, "{times:?}");
        times.push(measure());
        assert!(times.iter().all(|time| *time >= expected), "{times:?}");
    }
}
