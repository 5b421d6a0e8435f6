//! Two connectors that have TCP only, on one network; a connection stands as soon as it is wanted.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::signal::Fingerprint;
use postern_wire::transport::Transport;

use crate::Datagram;
use crate::connect::{Connector, ConnectorConfig, Event, PathPolicy, RelayTransports};
use crate::ice::tcp::{TcpAction, TcpEnds, TcpEvent};
use crate::punch::{Technique, Techniques};
use crate::signal::RendezvousEvent;

struct Pair {
    now: Instant,
    sides: [Connector; 2],
    /// The bases of each side, with those of the other side's end.
    bases: [BTreeMap<SocketAddr, SocketAddr>; 2],
    events: [Vec<Event>; 2],
    /// Whether each is behind a router that lets nobody in. That of the second leads [`OPEN`] to it.
    routers: bool,
}

fn host(side: usize) -> SocketAddr {
    ([192, 168, 1, [1, 2][side]], 5000).into()
}

/// A port of the second's router.
const OPEN: ([u8; 4], u16) = ([45, 45, 2, 2], 9000);

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
    fn new(policies: [PathPolicy; 2]) -> Self {
        let now = Instant::now();
        let sides = [0, 1].map(|side: usize| {
            let number = u8::try_from(side).unwrap();
            let config = ConnectorConfig {
                is_creator: side == 0,
                fingerprint: Fingerprint([number; 32]),
                hosts: Vec::new(),
                tcp_hosts: vec![host(side)],
                allow_loopback: false,
                policy: policies[side],
                relay_transports: RelayTransports::default(),
                punch: false,
                stun: Vec::new(),
                disabled: Techniques::NONE,
            };
            let mut connector = Connector::new(now, [number; 32], &config);
            connector.handle_signal(now, RendezvousEvent::Welcome { stun: vec![] });
            connector.handle_signal(now, RendezvousEvent::Authenticated);
            connector
        });
        Self {
            now,
            sides,
            bases: [BTreeMap::new(), BTreeMap::new()],
            events: [Vec::new(), Vec::new()],
            routers: false,
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            while self.deliver(0) | self.deliver(1) {}
            self.now += Duration::from_millis(5);
            for side in &mut self.sides {
                side.handle_timeout(self.now);
            }
        }
    }

    /// Whether there was something.
    fn deliver(&mut self, from: usize) -> bool {
        if let Some(event) = self.sides[from].poll_event() {
            if let Event::Tell(message) = &event {
                let event = RendezvousEvent::Message(message.clone());
                self.sides[1 - from].handle_signal(self.now, event);
            } else if let Event::Tcp(TcpAction::Connect { ends, framed }) = &event {
                assert!(framed);
                self.connect(from, *ends);
            }
            self.events[from].push(event);
            return true;
        }
        let Some(transmit) = self.sides[from].poll_transmit() else {
            return false;
        };
        if let Some(base) = self.bases[from].get(&transmit.local) {
            let datagram = Datagram {
                local: *base,
                remote: self.seen(from),
                payload: &transmit.payload,
            };
            self.sides[1 - from].handle_input(self.now, datagram);
        }
        true
    }

    fn connect(&mut self, from: usize, ends: TcpEnds) {
        if self.routers && ends.remote != OPEN.into() {
            self.sides[from].handle_tcp(self.now, ends, TcpEvent::Refused);
            return;
        }
        let there = TcpEnds {
            local: host(1 - from),
            remote: self.seen(from),
        };
        let accepted = self.sides[1 - from].handle_tcp(self.now, there, TcpEvent::Accepted);
        let Some(theirs) = accepted else {
            self.sides[from].handle_tcp(self.now, ends, TcpEvent::Failed);
            return;
        };
        let ours = self.sides[from].handle_tcp(self.now, ends, TcpEvent::Connected);
        let ours = ours.unwrap();
        self.bases[from].insert(ours, theirs);
        self.bases[1 - from].insert(theirs, ours);
    }

    /// Where the other side sees a connection of this one come from.
    fn seen(&self, from: usize) -> SocketAddr {
        match (self.routers, from) {
            (false, _) => host(from),
            (true, 0) => ([45, 45, 1, 1], 40_000).into(),
            (true, _) => OPEN.into(),
        }
    }

    fn connects(&self) -> Vec<crate::ice::Path> {
        let events = self.events[0].iter();
        let path = |event: &Event| {
            if let Event::Connect { path, .. } = event {
                Some(*path)
            } else {
                None
            }
        };
        events.filter_map(path).collect()
    }
}

#[test]
fn the_connection_is_opened_over_tcp_where_there_is_nothing_else() {
    let mut pair = Pair::new([PathPolicy::Any; 2]);
    pair.run_for(Duration::from_secs(1));
    let path = pair.connects()[0];
    let ends = pair.sides[0].tcp_ends(path.local).unwrap();
    assert_eq!((ends.local, ends.remote), (host(0), path.remote));
    let (technique, probes, sockets) = pair.sides[0].technique(&path);
    assert_eq!((technique, probes, sockets), (Technique::Tcp, 0, 0));
    let admitted = |event: &Event| matches!(event, Event::Admit(_));
    assert!(pair.events[1].iter().any(admitted));
}

#[test]
fn a_port_of_a_router_leads_in_where_nothing_else_does() {
    for opened in [false, true] {
        let mut pair = Pair::new([PathPolicy::Any; 2]);
        pair.routers = true;
        let mapping = opened.then_some((host(1), OPEN.into()));
        pair.sides[1].handle_mapping(pair.now, Transport::Tcp, mapping);
        pair.run_for(Duration::from_secs(1));
        let Some(path) = pair.connects().first().copied() else {
            assert!(!opened);
            continue;
        };
        assert!(opened);
        assert_eq!(path.remote, OPEN.into());
        assert_eq!(pair.sides[0].technique(&path).0, Technique::Mapped);
        let admitted = pair.events[1].iter().find_map(|event| match event {
            Event::Admit(path) => Some(*path),
            _ => None,
        });
        let (technique, ..) = pair.sides[1].technique(&admitted.unwrap());
        assert_eq!(technique, Technique::Mapped);
    }
}

#[test]
fn a_connection_that_ends_takes_its_path_with_it() {
    let mut pair = Pair::new([PathPolicy::Any; 2]);
    pair.run_for(Duration::from_secs(1));
    let path = pair.connects()[0];
    let ends = pair.sides[0].tcp_ends(path.local).unwrap();
    pair.sides[0].handle_tcp(pair.now, ends, TcpEvent::Closed);
    pair.deliver(0);
    assert!(pair.events[0].contains(&Event::Revoke(path)));
    assert_eq!(pair.sides[0].tcp_ends(path.local), None);
}

#[test]
fn who_uses_relays_only_neither_tells_a_port_nor_accepts_a_connection() {
    let mut pair = Pair::new([PathPolicy::RelayOnly, PathPolicy::Any]);
    pair.run_for(Duration::from_secs(1));
    let ends = TcpEnds {
        local: host(0),
        remote: host(1),
    };
    let accepted = pair.sides[0].handle_tcp(pair.now, ends, TcpEvent::Accepted);
    assert_eq!(accepted, None);
    let wants_tcp = |event: &Event| matches!(event, Event::Tcp(_));
    assert!(!pair.events.iter().flatten().any(wants_tcp));
}

#[test]
fn nothing_is_accepted_after_the_end() {
    let mut pair = Pair::new([PathPolicy::Any; 2]);
    pair.sides[0].cancel(pair.now);
    let ends = TcpEnds {
        local: host(0),
        remote: host(1),
    };
    let accepted = pair.sides[0].handle_tcp(pair.now, ends, TcpEvent::Accepted);
    assert_eq!(accepted, None);
}
