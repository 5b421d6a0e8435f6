//! What the agent does with connections, with a clock that the test moves.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{MAX_TCP_CONNECTIONS, TcpAction, TcpEnds, TcpEvent};
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
            TcpAction::Close(_) => None,
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
    while agent.tcp.actions.is_empty() {
        now = agent.poll_timeout().unwrap().max(now);
        agent.handle_timeout(now);
    }
    now
}

#[test]
fn a_refused_side_tries_again_after_random_times_and_then_slowly() {
    let one = pauses(1, 45);
    let (quick, slow) = one.split_at(39);
    assert!(
        quick.iter().all(|p| (10..100).contains(&p.as_millis())),
        "{quick:?}"
    );
    assert!(
        slow.iter().all(|p| (1010..1100).contains(&p.as_millis())),
        "{slow:?}"
    );
    let different: BTreeSet<_> = quick.iter().collect();
    assert_eq!(different.len(), quick.len());
    assert_ne!(one, pauses(2, 45));
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
