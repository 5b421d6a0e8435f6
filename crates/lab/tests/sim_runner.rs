//! Machines in the simulated internet.

mod sim_support;

use postern_lab::sim::{Link, Machine, Nat, Runner};
use postern_proto::{Datagram, Transmit, Verdict};
use sim_support::{Lab, at, home};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const SERVER: &str = "45.45.0.1:7";

/// Sends a question every second once it is told to, or answers questions.
#[derive(Default)]
struct Talker {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    next: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<&'static str>,
}

impl Talker {
    fn at(local: &str) -> Self {
        Self {
            local: Some(at(local)),
            ..Self::default()
        }
    }

    fn say(&mut self, remote: SocketAddr, payload: &[u8]) {
        self.transmits.extend(self.local.map(|local| Transmit {
            local,
            remote,
            payload: payload.to_vec(),
        }));
    }
}

impl Machine for Talker {
    type Event = &'static str;
    type Signal = SocketAddr;

    fn handle_input(&mut self, _now: Instant, datagram: Datagram<'_>) -> Verdict {
        if Some(datagram.local) != self.local {
            return Verdict::NotMine;
        }
        if datagram.payload == b"question" {
            self.say(datagram.remote, b"answer");
            self.events.push_back("asked");
        } else {
            self.events.push_back("answered");
        }
        Verdict::Consumed
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.next = Some(now + SECOND);
        if let Some(remote) = self.remote {
            self.say(remote, b"question");
        }
    }

    fn handle_signal(&mut self, now: Instant, remote: SocketAddr) {
        self.remote = Some(remote);
        self.next = Some(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn poll_event(&mut self) -> Option<&'static str> {
        self.events.pop_front()
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.next
    }
}

/// A home 10 ms away from the server.
fn distant_home() -> Lab {
    let mut lab = home(Nat::default());
    let outer = lab.world.outer(lab.router);
    let link = Link::with_latency(Duration::from_millis(10));
    lab.world.set_link(outer, link);
    lab
}

#[test]
fn machines_converse_at_the_speed_of_the_links() {
    let Lab {
        world,
        server,
        alice,
        ..
    } = distant_home();
    let start = world.now();
    let mut runner = Runner::new(world);
    let asker = runner.add(alice, Talker::at("192.168.1.10:5000"));
    runner.add(server, Talker::at(SERVER));
    runner.signal(start + SECOND, asker, at(SERVER));

    let mut log = Vec::new();
    while let Some(occurrence) = runner.next_event(start + SECOND * 3) {
        log.push((occurrence.event, (occurrence.at - start).as_millis()));
    }
    let expected = [
        ("asked", 1010),
        ("answered", 1020),
        ("asked", 2010),
        ("answered", 2020),
    ];
    assert_eq!(log, expected);
    assert_eq!(runner.now(), start + SECOND * 3);
}

#[test]
fn a_datagram_is_offered_until_a_machine_wants_it() {
    let Lab {
        world,
        server,
        alice,
        ..
    } = distant_home();
    let start = world.now();
    let mut runner = Runner::new(world);
    let asker = runner.add(alice, Talker::at("192.168.1.10:5000"));
    runner.add(server, Talker::at("45.45.0.1:6"));
    let seventh = runner.add(server, Talker::at(SERVER));
    runner.signal(start, asker, at(SERVER));
    let asked = runner.run_until(start + SECOND, |o| o.event == "asked");
    assert_eq!(asked.unwrap().machine, seventh);
}

#[test]
fn a_run_ends_at_its_deadline() {
    let Lab { world, alice, .. } = distant_home();
    let start = world.now();
    let mut runner = Runner::new(world);
    let asker = runner.add(alice, Talker::at("192.168.1.10:5000"));
    runner.signal(start, asker, at("45.45.0.9:1"));
    assert_eq!(runner.run_until(start + SECOND * 5, |_| true), None);
    assert_eq!(runner.now(), start + SECOND * 5);
    assert_eq!(runner.world().host_counters(alice).sent, 6);
}
