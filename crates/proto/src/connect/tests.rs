//! Two connectors, a network that is a list, and a clock.

#![expect(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    reason = "a test's clock begins somewhere, and a test may panic"
)]

use super::connector::Handshake;
use super::*;
use crate::Datagram;
use crate::ice::Path;
use crate::punch::{Technique, Techniques};
use crate::signal::RendezvousEvent;
use postern_wire::signal::{Fingerprint, PeerMessage};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

mod changes;
mod mapping;

const CREATOR: usize = 0;
const JOINER: usize = 1;

/// One way, for datagrams as for messages.
const LATENCY: Duration = Duration::from_millis(10);

/// What is under way to a side.
enum Packet {
    Datagram(crate::Transmit),
    Message(PeerMessage),
}

struct Pair {
    now: Instant,
    start: Instant,
    sides: [Connector; 2],
    /// Datagrams get through.
    open: bool,
    /// Messages get through.
    introduced: bool,
    under_way: Vec<(Instant, usize, Packet)>,
    events: [Vec<Event>; 2],
    /// Datagrams of the connection, sent and received at each look.
    traffic: (u64, u64),
    moved: [Traffic; 2],
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let side = |number: u8| {
            let config = ConnectorConfig {
                tcp_hosts: Vec::new(),
                is_creator: usize::from(number) == CREATOR,
                fingerprint: Fingerprint([number; 32]),
                hosts: vec![SocketAddr::from(([192, 168, 1, number + 1], 5000))],
                allow_loopback: false,
                policy: PathPolicy::Any,
                relay_transports: RelayTransports::default(),
                punch: false,
                stun: Vec::new(),
                disabled: Techniques::NONE,
            };
            Connector::new(now, [number; 32], &config)
        };
        Self {
            now,
            start: now,
            sides: [side(0), side(1)],
            open: true,
            introduced: true,
            under_way: Vec::new(),
            events: [Vec::new(), Vec::new()],
            traffic: (0, 0),
            moved: [Traffic::default(); 2],
        }
    }

    /// Both sides have been greeted by a server without STUN, and know each other.
    fn authenticate(&mut self) {
        for side in &mut self.sides {
            side.handle_signal(self.now, RendezvousEvent::Welcome { stun: vec![] });
            side.handle_signal(self.now, RendezvousEvent::Authenticated);
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn drain(&mut self) {
        for side in [CREATOR, JOINER] {
            while let Some(transmit) = self.sides[side].poll_transmit() {
                if self.open {
                    self.send(side, Packet::Datagram(transmit));
                }
            }
            while let Some(event) = self.sides[side].poll_event() {
                if let Event::Tell(message) = &event
                    && self.introduced
                {
                    self.send(side, Packet::Message(message.clone()));
                }
                if event == Event::Measure {
                    self.measure(side);
                }
                self.events[side].push(event);
            }
        }
    }

    fn measure(&mut self, side: usize) {
        self.moved[side].sent += self.traffic.0;
        self.moved[side].received += self.traffic.1;
        self.sides[side].handle_traffic(self.now, self.moved[side]);
    }

    fn send(&mut self, from: usize, packet: Packet) {
        self.under_way.push((self.now + LATENCY, 1 - from, packet));
    }

    /// Moves on to the next thing that happens; `false` when nothing will.
    fn step(&mut self) -> bool {
        self.drain();
        let timeouts = self.sides.iter().filter_map(Connector::poll_timeout);
        let arrivals = self.under_way.iter().map(|(at, ..)| *at);
        let Some(next) = timeouts.chain(arrivals).min() else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        let (due, rest) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.under_way = rest;
        for (_, side, packet) in due {
            self.deliver(side, packet);
        }
        for side in &mut self.sides {
            side.handle_timeout(now);
        }
        self.drain();
        true
    }

    fn deliver(&mut self, side: usize, packet: Packet) {
        let now = self.now;
        match packet {
            Packet::Message(message) => {
                self.sides[side].handle_signal(now, RendezvousEvent::Message(message));
            }
            Packet::Datagram(transmit) => {
                let datagram = Datagram {
                    local: transmit.remote,
                    remote: transmit.local,
                    payload: &transmit.payload,
                };
                self.sides[side].handle_input(now, datagram);
            }
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end && self.step() {}
    }

    fn run_until(&mut self, side: usize, happened: impl Fn(&Event) -> bool) {
        while !self.events[side].iter().any(&happened) {
            assert!(self.step(), "nothing happens any more");
            assert!(
                self.elapsed() < Duration::from_secs(100),
                "it never happened"
            );
        }
    }

    fn failure(&mut self, side: usize) -> Failure {
        self.run_until(side, |event| matches!(event, Event::Failed(_)));
        match self.events[side].pop() {
            Some(Event::Failed(failure)) => failure,
            other => panic!("not the last event: {other:?}"),
        }
    }

    fn count(&self, side: usize, of: impl Fn(&Event) -> bool) -> usize {
        self.events[side].iter().filter(|event| of(event)).count()
    }
}

fn is_connect(event: &Event) -> bool {
    matches!(event, Event::Connect { .. })
}

fn is_report(event: &Event) -> bool {
    matches!(event, Event::Tell(PeerMessage::Report(_)))
}

#[test]
fn the_creator_opens_the_connection_to_whom_the_hello_named() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    let named = |event: &Event| matches!(event, Event::Connect { peer, .. } if *peer == Fingerprint([1; 32]));
    assert_eq!(pair.count(CREATOR, named), 1);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.count(JOINER, is_connect), 0);
    let accepts = |event: &Event| *event == Event::Accept(Fingerprint([0; 32]));
    assert_eq!(pair.count(JOINER, accepts), 1);
}

#[test]
fn the_path_is_admitted_before_the_connection_is_opened_on_it() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    let admitted = pair.events[CREATOR]
        .iter()
        .position(|event| matches!(event, Event::Admit(_)));
    let opened = pair.events[CREATOR].iter().position(is_connect);
    assert!(admitted.unwrap() < opened.unwrap());
}

#[test]
fn a_handshake_that_gets_no_answer_is_tried_again() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    pair.run_for(Duration::from_secs(5));
    assert!(pair.count(CREATOR, is_connect) >= 3);
    pair.sides[CREATOR].handle_connected(pair.now);
    let before = pair.count(CREATOR, is_connect);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.count(CREATOR, is_connect), before);
}

#[test]
fn a_valid_path_without_a_connection_fails_within_15_s() {
    let mut pair = Pair::new();
    pair.authenticate();
    assert_eq!(pair.failure(CREATOR), Failure::Handshake);
    assert!(pair.elapsed() <= Duration::from_secs(15));
}

#[test]
fn a_final_failure_of_the_handshake_ends_the_attempt_at_once() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    pair.sides[CREATOR].handle_handshake_failed(pair.now, true);
    assert_eq!(pair.failure(CREATOR), Failure::Handshake);
    assert!(pair.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_peer_that_proves_the_code_and_says_nothing_is_given_up_within_15_s() {
    let mut pair = Pair::new();
    pair.introduced = false;
    pair.authenticate();
    assert_eq!(pair.failure(JOINER), Failure::PeerSilent);
    assert!(pair.elapsed() <= Duration::from_secs(15));
}

#[test]
fn without_a_path_both_sides_hear_what_the_other_saw_within_15_s() {
    let mut pair = Pair::new();
    pair.open = false;
    pair.authenticate();
    for side in [CREATOR, JOINER] {
        let Failure::NoPath {
            ours,
            theirs,
            relay: NoRelay::NotOffered,
            looked: true,
            explanation,
        } = pair.failure(side)
        else {
            panic!("not for want of a path");
        };
        assert!(ours.checks_sent > 0);
        assert!(theirs.unwrap().checks_sent > 0);
        assert_eq!(pair.count(side, is_report), 1);
        assert_eq!(explanation.reach, Reach::Unreached);
        assert_eq!(explanation.cause, Some(Cause::Filtered));
        let [host] = explanation.tried[..] else {
            panic!("{explanation:?}");
        };
        assert_eq!(host.technique, Technique::Host);
        assert_eq!(host.result, TriedResult::Failed);
        assert_eq!(u64::from(host.probes), u64::from(ours.checks_sent));
    }
    assert!(pair.elapsed() <= Duration::from_secs(15));
}

#[test]
fn the_loss_of_the_server_after_the_hellos_is_named_when_nothing_comes_of_it() {
    let mut pair = Pair::new();
    pair.open = false;
    pair.authenticate();
    pair.run_for(Duration::from_secs(1));
    for side in &mut pair.sides {
        side.handle_signalling_lost(pair.now);
    }
    assert_eq!(pair.failure(CREATOR), Failure::ServerLost);
    assert_eq!(pair.failure(JOINER), Failure::ServerLost);
}

#[test]
fn what_ended_the_mailbox_is_named_and_not_the_end_of_the_connection_after_it() {
    let mut pair = Pair::new();
    pair.open = false;
    pair.authenticate();
    pair.run_for(Duration::from_secs(1));
    let left = crate::signal::Failure::PeerLeft;
    pair.sides[CREATOR].handle_signal(pair.now, RendezvousEvent::Failed(left));
    pair.sides[CREATOR].handle_signalling_lost(pair.now);
    assert_eq!(pair.failure(CREATOR), Failure::PeerLeft);
}

#[test]
fn the_loss_of_the_server_does_not_hurt_a_connection() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    for side in &mut pair.sides {
        side.handle_connected(pair.now);
        side.handle_signalling_lost(pair.now);
    }
    pair.run_for(Duration::from_secs(60));
    assert_eq!(
        pair.count(CREATOR, |event| matches!(event, Event::Failed(_))),
        0
    );
}

fn admitted(event: &Event) -> Option<Path> {
    let Event::Admit(path) = event else {
        return None;
    };
    Some(*path)
}

#[test]
fn who_is_connected_before_any_check_of_its_own_succeeded_knows_by_which_path() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(JOINER, |event| matches!(event, Event::Admit(_)));
    let admitted = pair.events[JOINER].iter().find_map(admitted);
    let path = admitted.unwrap();
    let now = pair.now;
    let joiner = &mut pair.sides[JOINER];
    joiner.handle_connected(now);
    assert_eq!(joiner.explain(now).reach, Reach::Unreached);
    joiner.handle_first_path(path.local, path.remote);
    assert!(matches!(joiner.explain(now).reach, Reach::Direct(_)));
}

/// How long it takes to leave a path that has fallen silent, when this much is sent and
/// received before that at every look.
fn leaves_after(sent: u64, received: u64) -> Duration {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    for side in &mut pair.sides {
        side.handle_connected(pair.now);
    }
    pair.traffic = (sent, received);
    pair.run_for(Duration::from_secs(5));
    pair.open = false;
    pair.traffic = (0, 0);
    let silent = pair.now;
    let revoked = |event: &Event| matches!(event, Event::Revoke(_));
    assert_eq!(pair.count(CREATOR, revoked), 0);
    pair.run_until(CREATOR, revoked);
    pair.now - silent
}

#[test]
fn a_silent_path_is_left_within_two_seconds_by_who_sends_or_receives_much() {
    for (sent, received) in [(100, 10), (2, 100)] {
        let took = leaves_after(sent, received);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn a_silent_path_that_is_hardly_used_is_left_within_eight_seconds() {
    let took = leaves_after(1, 1);
    let seconds = Duration::from_secs(5)..Duration::from_secs(8);
    assert!(seconds.contains(&took), "{took:?}");
}

#[test]
fn the_mailbox_is_left_once_the_path_is_selected_and_all_candidates_are_told() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    for side in &mut pair.sides {
        side.handle_connected(pair.now);
    }
    pair.run_for(Duration::from_secs(2));
    for side in [CREATOR, JOINER] {
        assert_eq!(pair.count(side, |event| *event == Event::LeaveMailbox), 1);
    }
}

#[test]
fn a_second_hello_changes_nothing() {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    let Some(Event::Tell(PeerMessage::Hello(hello))) = pair.events[JOINER].first() else {
        panic!("the hello is the first thing that is told");
    };
    let mut forged = hello.clone();
    forged.fingerprint = Fingerprint([9; 32]);
    let message = RendezvousEvent::Message(PeerMessage::Hello(forged));
    pair.sides[CREATOR].handle_signal(pair.now, message);
    pair.run_for(Duration::from_secs(5));
    let to_another = |event: &Event| matches!(event, Event::Connect { peer, .. } if *peer != Fingerprint([1; 32]));
    assert_eq!(pair.count(CREATOR, to_another), 0);
}

#[test]
fn a_goodbye_before_the_connection_ends_the_attempt() {
    let mut pair = Pair::new();
    pair.authenticate();
    let reason = postern_wire::signal::ByeReason::Cancelled;
    let message = RendezvousEvent::Message(PeerMessage::Bye { reason });
    pair.sides[JOINER].handle_signal(pair.now, message);
    assert_eq!(pair.failure(JOINER), Failure::PeerLeft);
}

#[test]
fn an_attempt_that_is_cancelled_says_goodbye() {
    let mut pair = Pair::new();
    pair.open = false;
    pair.authenticate();
    pair.run_for(Duration::from_secs(1));
    pair.sides[CREATOR].cancel(pair.now);
    assert_eq!(pair.failure(JOINER), Failure::PeerLeft);
    assert!(pair.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_relayed_candidate_that_hides_what_is_behind_it_is_understood() {
    let line = "candidate:1 1 udp 1 45.45.0.1 50000 typ relay raddr 0.0.0.0 rport 9";
    let candidate: ice::Candidate = line.parse().expect("a candidate");
    assert_eq!(candidate.related, Some(([0, 0, 0, 0], 9).into()));
}

/// The nomination of a relayed pair is under way when a direct path is found, and ends after it.
#[test]
fn a_relay_whose_nomination_was_overtaken_is_not_gone_back_to() {
    let path = |port, kind| Path {
        local: ([192, 168, 1, 2], 1000).into(),
        remote: ([45, 45, 0, 1], port).into(),
        local_kind: kind,
        remote_kind: kind,
    };
    let relayed = path(1, ice::CandidateKind::Relayed);
    let direct = path(2, ice::CandidateKind::Host);
    let pair = Pair::new();
    let (now, [mut creator, _]) = (pair.now, pair.sides);
    creator.on_valid(now, relayed, None);
    creator.handshake = Some(Handshake {
        path: relayed,
        patience: now,
    });
    creator.handle_connected(now);
    creator.on_valid(now, direct, None);
    creator.on_selected(now, relayed);
    assert_eq!(creator.paths.wanted(), Some(direct));
    creator.on_selected(now, direct);
    assert_eq!(creator.paths.wanted(), Some(direct));
    // From now on nomination decides.
    creator.on_selected(now, relayed);
    assert_eq!(creator.paths.wanted(), Some(relayed));
}
