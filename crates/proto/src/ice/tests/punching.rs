//! What a path is called that was punched.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at one kind of event"
)]

use std::net::SocketAddr;

use postern_wire::stun::{
    Builder, Class, IceControlled, Message, Method, Priority, Punched, TransactionId, Username,
    XorMappedAddress,
};

use super::super::*;
use super::ms;
use super::net::Pair;
use crate::Verdict;
use crate::punch::{
    self, Allocation, Filtering, Mapping, NatReport, PortRange, Technique, Techniques,
};

const OURS: &str = "45.45.1.1:1000";
/// The ports that the peer's NAT draws from.
const PORTS: PortRange = PortRange {
    first: 20_000,
    last: 20_999,
};

fn theirs(port: u16) -> SocketAddr {
    SocketAddr::from(([45, 45, 2, 2], port))
}

/// An agent without a NAT that probes the ports of a peer behind a random one, of which nothing is
/// heard.
fn probing() -> Pair {
    let config = Config {
        punch: true,
        disabled: Techniques::NONE,
        ..Config::default()
    };
    let mut pair = Pair::with(config, (Role::Controlling, Role::Controlled));
    pair.host_a(OURS);
    pair.gather();
    pair.run(ms(100));
    let nat = NatReport {
        mapped: theirs(2000),
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::Unknown,
        allocation: Allocation::Random(PORTS),
        parity: false,
    };
    pair.link_a();
    pair.a
        .agent
        .handle_punch(pair.now, punch::Message::Nat(nat));
    pair.run(ms(300));
    let asked = |event: &Event| matches!(event, Event::OpenSockets { attempt: true, .. });
    assert!(pair.a.first(asked).is_some());
    pair.a.agent.sockets_opened(pair.now, Some(Vec::new()));
    pair.drain();
    pair.run(ms(200));
    pair
}

/// The peer's check arrives from a port, saying so if that is the way of a guess; what the path is
/// called by then.
fn called(pair: &mut Pair, port: u16, guessed: bool) -> Technique {
    let punched = Punched {
        guessed,
        asymmetric: false,
    };
    let before = pair.a.events.len();
    check(pair, port, Some(punched));
    let seen = pair.a.events[before..]
        .iter()
        .find_map(|(_, event)| match event {
            Event::PeerSeen(path) => Some(*path),
            _ => None,
        });
    pair.a.agent.technique(&seen.unwrap())
}

/// The peer's check arrives from a port.
fn check(pair: &mut Pair, port: u16, punched: Option<Punched>) {
    let (a, b) = (&pair.a.agent, &pair.b.agent);
    let username = format!(
        "{}:{}",
        a.local_credentials().ufrag,
        b.local_credentials().ufrag
    );
    let check = Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
        .attribute(&Username::new(&username).unwrap())
        .attribute(&IceControlled(1))
        .attribute(&Priority(5))
        .maybe_attribute(punched.as_ref())
        .message_integrity(a.local_credentials().pwd.as_bytes())
        .fingerprint()
        .build();
    let from = theirs(port).to_string();
    assert_eq!(pair.inject(&from, OURS, check), Some(Verdict::Consumed));
}

/// The peer answers the check of a port, perhaps from a socket of its attempt.
fn answer(pair: &mut Pair, port: u16, guessed: bool) {
    let mut sent = pair.a.sent.iter();
    let probe = sent.find(|(_, t)| t.remote == theirs(port)).unwrap();
    let id = Message::parse(&probe.1.payload).unwrap().transaction_id();
    let answer = Builder::new(Class::Success, Method::BINDING, id)
        .attribute(&XorMappedAddress(OURS.parse().unwrap()))
        .attribute(&Punched {
            guessed,
            asymmetric: false,
        })
        .message_integrity(pair.b.agent.local_credentials().pwd.as_bytes())
        .fingerprint()
        .build();
    pair.inject(&theirs(port).to_string(), OURS, answer);
}

fn probed(pair: &Pair, port: u16) -> bool {
    pair.a.sent.iter().any(|(_, t)| t.remote == theirs(port))
}

/// The peer may use it at once, and our own check waits for its turn.
#[test]
fn a_path_that_a_probe_has_met_has_its_name_when_the_peers_check_arrives() {
    let mut pair = probing();
    let met = (PORTS.first..=PORTS.last).find(|port| probed(&pair, *port));
    let met = met.unwrap();
    assert_eq!(called(&mut pair, met, false), Technique::Birthday);
    let (probes, sockets) = pair.a.agent.punch_spent();
    assert!(
        (50..200).contains(&probes),
        "{probes} of the attempt that runs"
    );
    assert_eq!(sockets, 0);
}

#[test]
fn a_path_that_the_peer_has_guessed_has_its_name_and_one_that_nobody_has_is_a_plain_one() {
    let mut pair = probing();
    let mut others = (PORTS.first..=PORTS.last).filter(|port| !probed(&pair, *port));
    let (one, another) = (others.next().unwrap(), others.next().unwrap());
    assert_eq!(called(&mut pair, one, true), Technique::Birthday);
    assert_eq!(called(&mut pair, another, false), Technique::PeerReflexive);
}

/// The peer's first valid pair may be another one than ours.
#[test]
fn what_an_attempt_has_met_last_is_its_fruit_as_well() {
    let mut pair = probing();
    let mut ports = (PORTS.first..=PORTS.last).filter(|port| probed(&pair, *port));
    let (first, second) = (ports.next().unwrap(), ports.next().unwrap());
    answer(&mut pair, first, false);
    assert!(pair.a.valid_at().is_some());
    assert_eq!(called(&mut pair, second, false), Technique::Birthday);
}

/// Of 256 random ports one is a told one in one of 126 meetings, where flows to different endpoints
/// share ports,
/// and then it is a plain check that has met it.
#[test]
fn a_plain_check_that_a_socket_of_the_peers_attempt_answers_has_met_by_chance() {
    for (guessed, technique) in [(true, Technique::Birthday), (false, Technique::Host)] {
        let mut pair = probing();
        let line = "candidate:1 1 udp 2130706431 45.45.2.2 2000 typ host";
        let candidate = line.parse().unwrap();
        pair.a.agent.add_remote_candidate(pair.now, candidate);
        pair.drain();
        pair.run(ms(100));
        answer(&mut pair, 2000, guessed);
        let path = pair.a.events.iter().find_map(|(_, event)| match event {
            Event::Valid { path, .. } => Some(*path),
            _ => None,
        });
        assert_eq!(pair.a.agent.technique(&path.unwrap()), technique);
    }
}

/// It was written before the peer had told what its NAT does, say, and has been repeated since.
#[test]
fn the_answer_to_a_check_of_a_peer_of_ours_says_whose_socket_it_is_although_the_check_does_not() {
    let mut pair = probing();
    check(&mut pair, 2000, None);
    pair.drain();
    let answers = pair.a.sent.iter().filter_map(|(_, transmit)| {
        let message = Message::parse(&transmit.payload).ok()?;
        let is_answer = message.class() == Class::Success && transmit.remote == theirs(2000);
        is_answer.then(|| message.get::<Punched>().unwrap())
    });
    let answers: Vec<_> = answers.collect();
    let plain = Punched::default();
    assert_eq!(answers, [Some(plain)]);
}
