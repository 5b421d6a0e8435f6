//! What the agent does with connections, with a clock that the test moves.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, XorMappedAddress};
use postern_wire::transport::Transport;

use super::{MAX_TCP_CONNECTIONS, MAX_TCP_STUN_SERVERS, TcpAction, TcpEnds, TcpEvent, is_base};
use crate::Datagram;
use crate::ice::tests::epoch;
use crate::ice::{Agent, Candidate, Config, Credentials, Event, Role};

const HOST: &str = "10.0.0.1:5000";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn agent(tcp: bool) -> Agent {
    let mut agent = Agent::new(epoch(), [7; 32], Role::Controlling, Config::default());
    if tcp {
        agent.add_tcp_host(epoch(), at(HOST));
    }
    agent
}

fn meet(agent: &mut Agent, candidates: &[&str]) {
    let credentials = Credentials {
        ufrag: "abcd".into(),
        pwd: "0123456789abcdef01234567".into(),
    };
    agent.set_remote_credentials(epoch(), credentials);
    for line in candidates {
        agent.add_remote_candidate(epoch(), line.parse().unwrap());
    }
}

const SO: &str = "candidate:1 1 tcp 5 203.0.113.1 7 typ srflx raddr 10.0.0.9 rport 7 tcptype so";
const ACTIVE: &str = "candidate:2 1 tcp 5 203.0.113.2 9 typ host tcptype active";

fn connects(agent: &mut Agent) -> Vec<TcpEnds> {
    let actions = std::iter::from_fn(|| agent.poll_tcp());
    actions
        .filter_map(|action| match action {
            TcpAction::Connect { ends, .. } => Some(ends),
            TcpAction::Close(_) | TcpAction::Renew(_) => None,
        })
        .collect()
}

fn told(agent: &mut Agent) -> Vec<Candidate> {
    let events = std::iter::from_fn(|| agent.poll_event());
    events
        .filter_map(|event| match event {
            Event::LocalCandidate(candidate) => Some(candidate),
            _ => None,
        })
        .collect()
}

#[test]
fn without_a_port_for_tcp_nothing_of_it_is_told_or_done() {
    let mut agent = agent(false);
    meet(&mut agent, &[SO, ACTIVE]);
    agent.handle_timeout(epoch() + Duration::from_secs(1));
    assert_eq!(agent.poll_tcp(), None);
    assert_eq!(told(&mut agent), []);
}

#[test]
fn a_port_makes_an_active_a_passive_and_a_simultaneous_open_candidate() {
    let lines: Vec<_> = told(&mut agent(true))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lines,
        [
            "candidate:th0active 1 tcp 1524629503 10.0.0.1 9 typ host tcptype active",
            "candidate:th0passive 1 tcp 1520435199 10.0.0.1 5000 typ host tcptype passive",
            "candidate:th0so 1 tcp 1516240895 10.0.0.1 5000 typ host tcptype so",
        ]
    );
}

#[test]
fn connections_go_to_passive_and_simultaneous_open_candidates_only() {
    let mut agent = agent(true);
    meet(&mut agent, &[ACTIVE, SO]);
    agent.handle_timeout(epoch() + Duration::from_secs(1));
    let ends = TcpEnds {
        local: at(HOST),
        remote: at("203.0.113.1:7"),
    };
    assert_eq!(connects(&mut agent), [ends]);
}

#[test]
fn udp_goes_first() {
    let mut agent = agent(true);
    agent.add_host(epoch(), at("10.0.0.1:6000"));
    meet(&mut agent, &[SO]);
    agent.handle_timeout(epoch() + Duration::from_millis(249));
    assert_eq!(connects(&mut agent), []);
    agent.handle_timeout(epoch() + Duration::from_millis(250));
    assert_eq!(connects(&mut agent).len(), 1);
}

/// The times between a refusal and the next try.
fn pauses(seed: u8, tries: usize) -> Vec<Duration> {
    let mut agent = Agent::new(epoch(), [seed; 32], Role::Controlling, Config::default());
    agent.add_tcp_host(epoch(), at(HOST));
    meet(&mut agent, &[SO]);
    let mut now = epoch();
    let mut pauses = Vec::new();
    while pauses.len() < tries {
        let ends = connects(&mut agent)[0];
        let refused = now + Duration::from_millis(30);
        agent.handle_tcp(refused, ends, TcpEvent::Refused);
        now = next_connect(&mut agent, refused);
        pauses.push(now - refused);
    }
    pauses
}

fn next_connect(agent: &mut Agent, mut now: Instant) -> Instant {
    let connects = |action: &TcpAction| matches!(action, TcpAction::Connect { .. });
    while !agent.tcp.actions.iter().any(connects) {
        now = agent.poll_timeout().unwrap().max(now);
        agent.handle_timeout(now);
    }
    now
}

#[test]
fn a_refused_side_tries_again_at_once_then_after_random_times_and_then_slowly() {
    let all = pauses(1, 45);
    let (first, one) = all.split_first().unwrap();
    assert_eq!(*first, Duration::ZERO);
    let (quick, slow) = one.split_at(38);
    assert!(quick.iter().all(|p| p.as_millis() < 10), "{quick:?}");
    assert!(
        slow.iter().all(|p| (1000..1010).contains(&p.as_millis())),
        "{slow:?}"
    );
    let different: BTreeSet<_> = quick.iter().collect();
    assert_eq!(different.len(), quick.len());
    assert_ne!(all, pauses(2, 45));
}

/// The ports that are wanted in place of others until the peer's address is refused for ever.
fn renewals(mut on_renewal: impl FnMut(&mut Agent, Instant)) -> Vec<(Duration, SocketAddr)> {
    let mut agent = agent(true);
    meet(&mut agent, &[SO]);
    let (mut now, mut wanted) = (epoch(), Vec::new());
    while now < epoch() + Duration::from_secs(20) {
        agent.handle_timeout(now);
        while let Some(action) = agent.poll_tcp() {
            match action {
                TcpAction::Connect { ends, .. } => {
                    agent.handle_tcp(now, ends, TcpEvent::Refused);
                }
                TcpAction::Renew(local) => {
                    wanted.push((now - epoch(), local));
                    on_renewal(&mut agent, now);
                }
                TcpAction::Close(_) => {}
            }
        }
        now += Duration::from_millis(10);
    }
    wanted
}

#[test]
fn a_port_that_is_refused_and_gets_nowhere_is_joined_by_another_a_few_times() {
    let wanted = renewals(|_, _| ());
    assert_eq!(wanted.len(), 3, "{wanted:?}");
    assert!(wanted.iter().all(|(_, local)| *local == at(HOST)));
    let first = wanted[0].0.as_millis();
    assert!((1190..1300).contains(&first), "{first} ms");
}

#[test]
fn the_new_port_is_told_and_connected_from() {
    let new = at("10.0.0.1:5001");
    let mut lines = Vec::new();
    let mut from = BTreeSet::new();
    renewals(|agent, now| {
        agent.add_tcp_host(now, new);
        lines.extend(told(agent));
        from.extend(connects(agent).iter().map(|ends| ends.local));
    });
    assert!(lines.iter().any(|candidate| candidate.address == new));
    assert!(from.contains(&new), "{from:?}");
}

#[test]
fn strangers_get_few_connections_and_only_for_a_while() {
    let mut agent = agent(true);
    let mut open = BTreeSet::new();
    for port in 1..1000 {
        let ends = TcpEnds {
            local: at(HOST),
            remote: ([203, 0, 113, 9], port).into(),
        };
        open.extend(
            agent
                .handle_tcp(epoch(), ends, TcpEvent::Accepted)
                .map(|_| ends),
        );
        while let Some(TcpAction::Close(ends)) = agent.poll_tcp() {
            open.remove(&ends);
        }
        assert!(open.len() <= MAX_TCP_CONNECTIONS);
    }
    agent.handle_timeout(epoch() + Duration::from_secs(10));
    while let Some(TcpAction::Close(ends)) = agent.poll_tcp() {
        open.remove(&ends);
    }
    assert_eq!(open, BTreeSet::new());
}

const SERVER: &str = "45.45.0.1:3478";

fn to_server() -> TcpEnds {
    TcpEnds {
        local: at(HOST),
        remote: at(SERVER),
    }
}

/// The server answers on the connection that was opened to it.
fn answer(agent: &mut Agent, now: Instant, mapped: &str) -> SocketAddr {
    let base = agent.handle_tcp(now, to_server(), TcpEvent::Connected);
    let base = base.unwrap();
    let request = agent.poll_transmit().unwrap();
    assert_eq!((request.local, request.remote), (base, at(SERVER)));
    let id = Message::parse(&request.payload).unwrap().transaction_id();
    let answer = Builder::new(Class::Success, Method::BINDING, id)
        .attribute(&XorMappedAddress(at(mapped)))
        .build();
    let datagram = Datagram {
        local: base,
        remote: at(SERVER),
        payload: &answer,
    };
    agent.handle_input(now, datagram);
    base
}

fn is_reflexive(candidate: &Candidate) -> bool {
    candidate.kind == crate::ice::CandidateKind::ServerReflexive
}

#[test]
fn a_mapping_is_asked_for_again_when_the_server_has_closed_the_connection() {
    let mut agent = agent(true);
    agent.add_tcp_stun_server(epoch(), at(SERVER));
    let mut now = epoch();
    for (round, mapped) in ["203.0.113.5:5000", "203.0.113.5:5000", "203.0.113.5:5001"]
        .into_iter()
        .enumerate()
    {
        now = next_connect(&mut agent, now);
        assert_eq!(connects(&mut agent), [to_server()]);
        answer(&mut agent, now, mapped);
        let told: Vec<_> = told(&mut agent).into_iter().filter(is_reflexive).collect();
        assert_eq!(told.len(), usize::from(round != 1), "only what is new");
        now += Duration::from_secs(30);
        agent.handle_tcp(now, to_server(), TcpEvent::Closed);
        let again = agent.poll_timeout().unwrap() - now;
        assert!((15_000..15_200).contains(&again.as_millis()), "{again:?}");
    }
}

#[test]
fn a_server_that_never_answers_is_left_alone() {
    let mut agent = agent(true);
    agent.add_tcp_stun_server(epoch(), at(SERVER));
    let mut now = epoch();
    for _ in 0..2 {
        now = next_connect(&mut agent, now);
        assert_eq!(connects(&mut agent), [to_server()]);
        agent.handle_tcp(now, to_server(), TcpEvent::Refused);
    }
    agent.handle_timeout(now + Duration::from_secs(100));
    assert_eq!(connects(&mut agent), []);
}

#[test]
fn a_port_asks_few_servers() {
    let mut agent = agent(true);
    for port in 1..9 {
        agent.add_tcp_stun_server(epoch(), ([45, 45, 0, 1], port).into());
    }
    let mut asked = BTreeSet::new();
    for milliseconds in 0..1000 {
        agent.handle_timeout(epoch() + Duration::from_millis(milliseconds));
        asked.extend(connects(&mut agent));
    }
    assert_eq!(asked.len(), MAX_TCP_STUN_SERVERS);
}

#[test]
fn two_agents_of_one_program_give_connections_different_bases() {
    let bases = [1, 2].map(|seed| {
        let mut agent = Agent::new(epoch(), [seed; 32], Role::Controlling, Config::default());
        agent.add_tcp_host(epoch(), at(HOST));
        let ends = TcpEnds {
            local: at(HOST),
            remote: at("203.0.113.9:9"),
        };
        agent.handle_tcp(epoch(), ends, TcpEvent::Accepted).unwrap()
    });
    assert_ne!(bases[0], bases[1]);
    assert!(bases.iter().all(|base| is_base(*base)));
    assert!(!is_base(at(HOST)) && !is_base(at("[fd70::1]:1")));
}

#[test]
fn a_port_of_a_gateway_is_told_as_passive_and_again_after_a_restart() {
    let mut agent = agent(true);
    meet(&mut agent, &[]);
    told(&mut agent);
    let mapping = |base: &str, mapped: &str| (at(base), at(mapped));
    for (base, mapped) in [
        (HOST, "45.45.1.1:9000"),
        (HOST, "45.45.1.1:9000"),
        (HOST, "45.45.1.1:0"),
        (HOST, HOST),
        ("10.0.0.9:5000", "45.45.1.1:9001"),
    ] {
        agent.add_mapped(epoch(), Transport::Tcp, mapping(base, mapped));
    }
    let line = "candidate:tm0passive 1 tcp 1180696575 45.45.1.1 9000 typ srflx raddr 10.0.0.1 \
                rport 5000 tcptype passive";
    let lines: Vec<_> = told(&mut agent).iter().map(ToString::to_string).collect();
    assert_eq!(lines, [line]);
    assert!(agent.restart(epoch()));
    let again = told(&mut agent);
    assert!(again.iter().any(|candidate| candidate.to_string() == line));
}

#[test]
fn a_port_of_the_peers_gateway_is_tried_as_one_that_listens() {
    const PASSIVE: &str = "candidate:1 1 tcp 5 45.45.1.1 9000 typ srflx raddr 10.0.0.9 rport 7 \
                           tcptype passive";
    let mut agent = agent(true);
    meet(&mut agent, &[PASSIVE]);
    let mut now = epoch();
    for _ in 0..2 {
        now = next_connect(&mut agent, now);
        let ends = connects(&mut agent)[0];
        assert_eq!(ends.remote, at("45.45.1.1:9000"));
        agent.handle_tcp(now, ends, TcpEvent::Refused);
    }
    agent.handle_timeout(now + Duration::from_secs(100));
    assert_eq!(connects(&mut agent), []);
}
