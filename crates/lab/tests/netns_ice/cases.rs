//! The cases.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_lab::netns::{Case, Home, Ipv6, Plan, Reflector, Server, Topology, World, meet};
use postern_lab::sim::{Filtering, Link, Mapping, Nat};
use postern_proto::ice::{Config, Path, Report};

pub(crate) const ALL: &[Case] = postern_lab::cases!(
    plain_linux_homes_connect_directly,
    plain_linux_homes_connect_over_slow_links,
    homes_with_one_private_network_connect,
    firewalled_ipv6_homes_connect,
    plain_ice_connects_the_pairs_that_it_can_and_no_others,
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

/// How long to try where there is a path, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to try where there is none: far longer than a session takes that succeeds.
const HOPELESS: Duration = Duration::from_secs(6);

fn plain_linux_homes_connect_directly() {
    let topology = Topology::two_homes(Nat::default(), Nat::default());
    assert_connects_through_the_routers(&topology);
}

fn plain_linux_homes_connect_over_slow_links() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    for home in &mut topology.homes {
        home.link = Link::with_latency(Duration::from_millis(15));
    }
    assert_connects_through_the_routers(&topology);
}

fn homes_with_one_private_network_connect() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[1].lan = topology.homes[0].lan;
    topology.homes[1].hosts.insert(0, "dave".to_owned());
    assert_connects_through_the_routers(&topology);
}

fn firewalled_ipv6_homes_connect() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    for home in &mut topology.homes {
        home.ipv6 = Ipv6::Firewalled;
    }
    let world = World::build(&topology).unwrap();
    let stun = stun_server(&world, 1);
    let _server = Reflector::start(&world, "server", &[stun]).unwrap();
    let [alice, bob] = connect(&world, ["alice", "bob"], stun, PATIENCE);
    assert_eq!(alice.unwrap().remote.ip(), address(&world, "bob", 1));
    assert_eq!(bob.unwrap().remote.ip(), address(&world, "alice", 1));
}

fn plain_ice_connects_the_pairs_that_it_can_and_no_others() {
    let nats: Vec<Nat> = MAPPINGS
        .iter()
        .flat_map(|&mapping| FILTERINGS.map(|filtering| Nat::new(mapping, filtering)))
        .collect();
    let world = every_pair(&nats);
    let stun = stun_server(&world, 0);
    let _server = Reflector::start(&world, "server", &[stun]).unwrap();
    let rows = 0..nats.len();
    let pairs = rows.flat_map(|row| (0..nats.len()).map(move |column| (row, column)));
    let surprises: Vec<String> = std::thread::scope(|scope| {
        let (world, nats) = (&world, &nats);
        let start = |pair| scope.spawn(move || try_pair(world, stun, nats, pair));
        let sessions: Vec<_> = pairs.map(start).collect();
        let ends = sessions.into_iter().map(|session| session.join().unwrap());
        ends.flatten().collect()
    });
    assert!(surprises.is_empty(), "{surprises:#?}");
}

/// A surprise, if the two behave differently from what the words of RFC 4787 promise.
fn try_pair(
    world: &World,
    stun: SocketAddr,
    nats: &[Nat],
    (row, column): (usize, usize),
) -> Option<String> {
    let hosts = [format!("left{row}"), format!("right{column}")];
    let pair = [&nats[row], &nats[column]];
    let expected = plain_ice_connects(pair[0], pair[1]);
    let patience = if expected { PATIENCE } else { HOPELESS };
    let outcomes = connect(world, [&hosts[0], &hosts[1]], stun, patience);
    let [left, right] = outcomes.each_ref().map(Result::is_ok);
    (left != expected || right != expected).then(|| {
        let behaviour = pair.map(|nat| (nat.mapping, nat.filtering));
        format!("{behaviour:?}: expected {expected}, got {outcomes:?}")
    })
}

/// One side lets everybody in, or one side has one address for everybody and lets in whom
/// it has sent to from any port, or both have one address for everybody.
fn plain_ice_connects(left: &Nat, right: &Nat) -> bool {
    let independent = |nat: &Nat| nat.mapping == Mapping::EndpointIndependent;
    let open = |nat: &Nat| nat.filtering == Filtering::EndpointIndependent;
    let wide = |nat: &Nat| nat.filtering != Filtering::AddressAndPortDependent;
    let helps = |nat: &Nat| open(nat) || independent(nat) && wide(nat);
    helps(left) || helps(right) || independent(left) && independent(right)
}

/// For each translator a home on the left and one on the right.
fn every_pair(nats: &[Nat]) -> World {
    let home = |side: &str, index: usize, nat: &Nat| {
        let (name, host) = (format!("{side}-home{index}"), format!("{side}{index}"));
        Home::new(&name, &[&host], 1, *nat)
    };
    let both = |(index, nat)| [home("left", index, nat), home("right", index, nat)];
    let topology = Topology {
        servers: vec![Server::new("server")],
        homes: nats.iter().enumerate().flat_map(both).collect(),
        ..Topology::default()
    };
    World::build(&topology).unwrap()
}

fn assert_connects_through_the_routers(topology: &Topology) {
    let world = World::build(topology).unwrap();
    let stun = stun_server(&world, 0);
    let _server = Reflector::start(&world, "server", &[stun]).unwrap();
    let [alice, bob] = connect(&world, ["alice", "bob"], stun, PATIENCE);
    assert_eq!(alice.unwrap().remote.ip(), address(&world, "blue", 0));
    assert_eq!(bob.unwrap().remote.ip(), address(&world, "red", 0));
}

fn stun_server(world: &World, index: usize) -> SocketAddr {
    SocketAddr::new(address(world, "server", index), 3478)
}

/// Plain ICE: nobody punches.
fn connect(
    world: &World,
    hosts: [&str; 2],
    stun: SocketAddr,
    patience: Duration,
) -> [Result<Path, Report>; 2] {
    let plan = Plan {
        stun: vec![stun],
        config: Config {
            patience,
            ..Config::default()
        },
        stagger: Duration::ZERO,
        seed: 0,
    };
    meet(world, hosts, &plan).unwrap().sides
}

fn address(world: &World, node: &str, index: usize) -> IpAddr {
    world.addresses(node).unwrap()[index]
}
