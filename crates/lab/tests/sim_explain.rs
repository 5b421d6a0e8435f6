//! Why a path is what it is: two connectors behind NATs in the simulated internet.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and looks at some kinds of events"
)]

mod sim_support;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_lab::sim::{
    Allocation, Filtering, Link, Machine, MachineId, Mapping, Nat, Occurrence, Ports, Runner,
    World, seed,
};
use postern_proto::connect::{
    Attempted, Cause, Connector, ConnectorConfig, Event, Explanation, PathPolicy, Reach,
    RelayTransports, TriedResult,
};
use postern_proto::punch::{self, Technique, Techniques};
use postern_proto::signal::RendezvousEvent;
use postern_proto::stun::{Alternate, BindingServer};
use postern_proto::{Datagram, Transmit, Verdict};
use postern_wire::signal::Fingerprint;
use sim_support::{at, ip, masquerade};

const MS: Duration = Duration::from_millis(1);
/// One way between the two, and through the server.
const ONE_WAY: Duration = Duration::from_millis(30);
/// Both have asked the STUN servers by then.
const BEFORE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

enum Party {
    Peer(Box<Peer>),
    Server(BindingServer),
}

struct Peer {
    connector: Connector,
    events: VecDeque<Event>,
    limited: VecDeque<(Transmit, u8)>,
    /// The port of the next socket.
    port: u16,
}

enum Told {
    Signal(RendezvousEvent),
    Connected,
}

impl Peer {
    fn follow(&mut self, now: Instant) {
        while let Some(event) = self.connector.poll_event() {
            match event {
                Event::OpenSockets { base, count, .. } => {
                    let sockets = (0..count).map(|_| self.socket(base)).collect();
                    self.connector.handle_sockets_opened(now, Some(sockets));
                }
                Event::SendLimited { transmit, ttl } => self.limited.push_back((transmit, ttl)),
                event => self.events.push_back(event),
            }
        }
    }

    fn socket(&mut self, base: SocketAddr) -> SocketAddr {
        self.port += 7;
        SocketAddr::new(base.ip(), self.port)
    }
}

impl Machine for Party {
    type Event = Event;
    type Signal = Told;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self {
            Self::Peer(peer) => {
                let verdict = peer.connector.handle_input(now, datagram);
                peer.follow(now);
                verdict
            }
            Self::Server(server) => server.handle_input(now, datagram),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Self::Peer(peer) = self {
            peer.connector.handle_timeout(now);
            peer.follow(now);
        }
    }

    fn handle_signal(&mut self, now: Instant, told: Told) {
        if let Self::Peer(peer) = self {
            match told {
                Told::Signal(event) => peer.connector.handle_signal(now, event),
                Told::Connected => peer.connector.handle_connected(now),
            }
            peer.follow(now);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => peer.connector.poll_transmit(),
            Self::Server(server) => server.poll_transmit(),
        }
    }

    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        match self {
            Self::Peer(peer) => peer.limited.pop_front(),
            Self::Server(_) => None,
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        match self {
            Self::Peer(peer) => peer.events.pop_front(),
            Self::Server(_) => None,
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => peer.connector.poll_timeout(),
            Self::Server(_) => None,
        }
    }
}

/// How two who look for each other are set up.
struct Setting {
    nats: [Nat; 2],
    /// Addresses of STUN servers that the server names.
    named: usize,
    /// STUN servers that the left side names itself.
    stun: Vec<SocketAddr>,
    /// Whether the server answers from its second address when asked to (RFC 5780).
    two_addresses: bool,
    /// Whether that address is nobody's.
    nobody: bool,
    /// What the left side does not use.
    disabled: Techniques,
}

impl Setting {
    fn new(left: Nat, right: Nat) -> Self {
        Self {
            nats: [left, right],
            named: 2,
            stun: Vec::new(),
            two_addresses: false,
            nobody: false,
            disabled: Techniques::NONE,
        }
    }

    fn config(&self, side: usize) -> ConnectorConfig {
        let left = side == 0;
        ConnectorConfig {
            tcp_hosts: Vec::new(),
            is_creator: left,
            fingerprint: Fingerprint([u8::try_from(side).unwrap(); 32]),
            hosts: vec![at(&format!("192.168.{}.10:5000", side + 1))],
            allow_loopback: false,
            policy: PathPolicy::Any,
            relay_transports: RelayTransports::default(),
            punch: true,
            stun: self.stun.iter().copied().filter(|_| left).collect(),
            disabled: if left {
                self.disabled
            } else {
                Techniques::NONE
            },
        }
    }

    fn server(&self) -> BindingServer {
        let alternate = Alternate {
            primary: at("45.45.0.1:3478"),
            secondary: at(if self.nobody {
                "45.45.0.9:3479"
            } else {
                "45.45.0.2:3479"
            }),
        };
        let alternates = self.two_addresses.then_some(alternate);
        BindingServer::new().with_alternates(alternates.into_iter().collect())
    }

    /// Lets the two meet; what the left and the right side have to say at the end.
    fn meet(&self, number: u8) -> [Explanation; 2] {
        self.meet_in(number).1
    }

    /// The same, and the time from their introduction to their connection.
    fn meet_in(&self, number: u8) -> (Option<Duration>, [Explanation; 2]) {
        let start = Instant::now();
        let mut world = World::new(start, seed(number.into()));
        let core = world.core();
        let server = world.add_host("server");
        let addresses = ["45.45.0.1", "45.45.0.2", "45.45.0.3"].map(ip);
        world.attach(server, core, &addresses, Link::default());
        let mut hosts = Vec::new();
        for (side, nat) in self.nats.iter().enumerate() {
            let home = side + 1;
            let mut router = masquerade(&format!("45.45.{home}.1"), *nat);
            router.link = Link::with_latency(15 * MS);
            let router = world.add_router(&format!("home{home}"), core, &router);
            let host = world.add_host(&format!("host{home}"));
            let address = ip(&format!("192.168.{home}.10"));
            world.attach(host, world.inside(router), &[address], Link::default());
            hosts.push(host);
        }
        let mut runner = Runner::new(world);
        runner.add(server, Party::Server(self.server()));
        let peers = [0, 1].map(|side: usize| {
            let tag = number * 2 + u8::try_from(side).unwrap();
            let mut peer = Peer {
                connector: Connector::new(start, [tag; 32], &self.config(side)),
                events: VecDeque::new(),
                limited: VecDeque::new(),
                port: 40_000,
            };
            peer.follow(start);
            runner.add(hosts[side], Party::Peer(Box::new(peer)))
        });
        Meeting {
            runner,
            peers,
            met: start + BEFORE,
            connected: None,
        }
        .run(&addresses[..self.named])
    }
}

struct Meeting {
    runner: Runner<Party>,
    peers: [MachineId; 2],
    met: Instant,
    connected: Option<Instant>,
}

impl Meeting {
    fn run(mut self, stun: &[IpAddr]) -> (Option<Duration>, [Explanation; 2]) {
        let stun: Vec<_> = stun.iter().map(|ip| format!("stun:{ip}:3478")).collect();
        let start = self.runner.now();
        for peer in self.peers {
            let welcome = RendezvousEvent::Welcome { stun: stun.clone() };
            self.runner.signal(start, peer, Told::Signal(welcome));
            let authenticated = Told::Signal(RendezvousEvent::Authenticated);
            self.runner.signal(self.met, peer, authenticated);
        }
        let deadline = self.met + LIMIT;
        while let Some(Occurrence { at, machine, event }) = self.runner.next_event(deadline) {
            self.on_event(at, machine, event);
        }
        let now = self.runner.now();
        let said = self.peers.map(|peer| match self.runner.machine(peer) {
            Party::Peer(peer) => peer.connector.explain(now),
            Party::Server(_) => unreachable!("a peer is no server"),
        });
        (self.connected.map(|at| at - self.met), said)
    }

    fn on_event(&mut self, at: Instant, machine: MachineId, event: Event) {
        let side = usize::from(machine == self.peers[1]);
        match event {
            Event::Tell(message) => {
                let due = at.max(self.met) + ONE_WAY;
                let told = Told::Signal(RendezvousEvent::Message(message));
                self.runner.signal(due, self.peers[1 - side], told);
            }
            Event::Connect { .. } if self.connected.is_none() => {
                self.connected = Some(at);
                for peer in self.peers {
                    self.runner.signal(at + 2 * ONE_WAY, peer, Told::Connected);
                }
            }
            _ => {}
        }
    }
}

fn strict(allocation: Allocation) -> Nat {
    Nat {
        allocation,
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

fn random() -> Nat {
    strict(Allocation::Random(Ports::ALL))
}

fn counting() -> Nat {
    let (first, last) = (30_000, 31_999);
    let ports = Ports { first, last };
    strict(Allocation::Sequential { ports, step: 2 })
}

fn tried(explanation: &Explanation, technique: Technique) -> Attempted {
    let mut all = explanation.tried.iter();
    let found = all.find(|tried| tried.technique == technique);
    *found.unwrap_or_else(|| panic!("{technique:?} was not tried: {explanation:?}"))
}

fn mapping(explanation: &Explanation) -> punch::Mapping {
    explanation.local.nat.unwrap().mapping
}

#[test]
fn two_random_routers_leave_a_chance_that_is_told_and_does_not_come_true() {
    for explanation in Setting::new(random(), random()).meet(1) {
        assert_eq!(explanation.reach, Reach::Unreached);
        let Some(Cause::Unlikely {
            technique: Technique::Birthday,
            probability,
        }) = explanation.cause
        else {
            panic!("{explanation:?}");
        };
        assert!(probability < 0.001, "{probability}");
        let birthday = tried(&explanation, Technique::Birthday);
        assert_eq!(birthday.result, TriedResult::Failed);
        assert!((1400..=1500).contains(&birthday.probes), "{birthday:?}");
        let reflexive = tried(&explanation, Technique::Reflexive);
        assert_eq!(reflexive.result, TriedResult::Failed);
        assert_eq!(reflexive.probability, None);
        for network in [explanation.local, explanation.remote] {
            assert_eq!(network.udp, Some(true));
            assert!(network.nat.unwrap().mapping.is_dependent());
        }
    }
}

#[test]
fn a_path_beyond_plain_checks_is_explained_by_what_made_it() {
    let worlds = [
        (counting(), Technique::Predicted),
        (random(), Technique::Birthday),
    ];
    for (strict, technique) in worlds {
        for explanation in Setting::new(strict, Nat::default()).meet(2) {
            assert_eq!(
                explanation.reach,
                Reach::Direct(technique),
                "{explanation:?}"
            );
            assert_eq!(explanation.cause, None);
            let hit = tried(&explanation, technique);
            assert_eq!(hit.result, TriedResult::Succeeded, "{explanation:?}");
            assert!(hit.probes > 0 && hit.probability.unwrap() > 0.9, "{hit:?}");
        }
    }
}

#[test]
fn a_plain_path_is_explained_without_attempts() {
    for explanation in Setting::new(Nat::default(), Nat::default()).meet(3) {
        let Reach::Direct(technique) = explanation.reach else {
            panic!("{explanation:?}");
        };
        let plain = [Technique::Reflexive, Technique::PeerReflexive];
        assert!(plain.contains(&technique), "{technique:?}");
        let hit = tried(&explanation, technique);
        assert_eq!(hit.result, TriedResult::Succeeded);
        assert!(hit.elapsed <= 5 * ONE_WAY, "{hit:?}");
        let attempts = |tried: &&Attempted| tried.probability.is_some();
        assert_eq!(explanation.tried.iter().filter(attempts).count(), 0);
    }
}

#[test]
fn what_is_switched_off_is_not_tried_and_its_chance_is_told() {
    let setting = Setting {
        disabled: [Technique::Predicted].into_iter().collect(),
        ..Setting::new(counting(), Nat::default())
    };
    let [left, _] = setting.meet(4);
    assert_eq!(left.cause, Some(Cause::Disabled(Technique::Predicted)));
    let predicted = tried(&left, Technique::Predicted);
    assert_eq!(predicted.result, TriedResult::Disabled);
    assert_eq!((predicted.probes, predicted.elapsed), (0, Duration::ZERO));
    assert!(predicted.probability.unwrap() > 0.9);
}

/// With one server address the ladder is climbed after plain checks had a second; with a
/// second one that the user names, it is known at once what the NAT needs.
#[test]
fn a_second_vantage_point_tells_at_once_what_one_cannot() {
    let with = |stun| Setting {
        named: 1,
        stun,
        ..Setting::new(random(), Nat::default())
    };
    let (one, two) = (with(Vec::new()), with(vec![at("45.45.0.3:3478")]));
    let (late, [blind, _]) = one.meet_in(5);
    let (soon, [seeing, _]) = two.meet_in(5);
    assert_eq!(mapping(&blind), punch::Mapping::Unknown);
    assert_eq!(mapping(&seeing), punch::Mapping::EndpointDependent);
    for explanation in [&blind, &seeing] {
        assert_eq!(explanation.reach, Reach::Direct(Technique::Birthday));
    }
    assert!(late.unwrap() > 1000 * MS, "{late:?}");
    assert!(soon.unwrap() < 1000 * MS, "{soon:?}");
}

/// Behind a NAT of each filter both sides know their own, and have been told the other's, whether the
/// server's second address is among those that are asked anyway or not.
#[test]
fn a_server_with_two_addresses_shows_whom_a_nat_lets_in() {
    let filters = [
        (
            Filtering::EndpointIndependent,
            punch::Filtering::EndpointIndependent,
        ),
        (
            Filtering::AddressDependent,
            punch::Filtering::AddressDependent,
        ),
        (
            Filtering::AddressAndPortDependent,
            punch::Filtering::AddressAndPortDependent,
        ),
    ];
    for (n, (filter, told)) in (6..).zip(filters) {
        for mapping in [
            Mapping::EndpointIndependent,
            Mapping::AddressAndPortDependent,
        ] {
            let left = Nat::new(mapping, filter);
            for named in [1, 2] {
                let setting = Setting {
                    named,
                    two_addresses: true,
                    ..Setting::new(left, Nat::default())
                };
                let [own, others] = setting.meet(n);
                let known = [own.local, others.remote].map(|net| net.nat.unwrap().filtering);
                assert_eq!(known, [told; 2], "{mapping:?} {filter:?} {named}: {own:?}");
            }
        }
    }
}

#[test]
fn a_second_address_that_nobody_has_shows_nothing() {
    let setting = Setting {
        named: 1,
        two_addresses: true,
        nobody: true,
        ..Setting::new(Nat::default(), Nat::default())
    };
    let [own, _] = setting.meet(9);
    assert_eq!(own.local.nat.unwrap().filtering, punch::Filtering::Unknown);
}
