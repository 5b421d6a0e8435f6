//! A client, a server that obeys the test, and a clock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::unwrap_in_result,
    reason = "a test may panic, and looks at one kind of event"
)]

mod allocating;
mod hostile;
mod keeping;
mod moving;
mod real;
mod relaying;
mod server;
mod tcp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, TransactionId};
use postern_wire::turn::{ChannelData, ChannelNumber, Data, XorPeerAddress};

use super::*;
use crate::{Datagram, Transmit, Verdict};
use server::{Auth, PASSWORD, Server, USER};

/// Some instant to count from.
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time has to begin somewhere"
)]
pub(super) fn epoch() -> Instant {
    Instant::now()
}

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

const LOCAL: &str = "10.0.0.2:5000";
const SERVER: &str = "192.0.2.1:3478";
const PEER: &str = "203.0.113.5:7000";

fn config() -> Config {
    let credentials = Credentials::new(USER, PASSWORD).unwrap();
    Config::new(at(LOCAL), at(SERVER), Some(credentials))
}

/// Client and server, 10 ms apart.
struct World {
    start: Instant,
    now: Instant,
    client: Client,
    server: Server,
    /// What is on its way to the server and to the client.
    wire: VecDeque<(Instant, Way, SocketAddr, Vec<u8>)>,
    events: Vec<(Duration, Event)>,
    sent: Vec<(Duration, Transmit)>,
    /// Answers are cut into pieces of this many bytes.
    piece: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl World {
    fn new(auth: Auth, config: Config) -> Self {
        let start = epoch();
        let mut world = Self {
            start,
            now: start,
            client: Client::new(start, [7; 32], config),
            server: Server::new(auth),
            wire: VecDeque::new(),
            events: Vec::new(),
            sent: Vec::new(),
            piece: usize::MAX,
        };
        world.drain();
        world
    }

    /// An allocation with SHA-256.
    fn allocated() -> Self {
        let mut world = Self::new(Auth::Sha256, config());
        world.run(secs(1));
        assert!(world.client.allocation().is_some());
        world
    }

    /// With a permission for the peer.
    fn permitted() -> Self {
        let mut world = Self::allocated();
        world.client.permit(world.now, at(PEER).ip()).unwrap();
        world.run(secs(1));
        world
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            let (from, due) = (transmit.local, self.now + ms(10));
            self.sent.push((self.elapsed(), transmit.clone()));
            self.wire.push_back((due, Way::Up, from, transmit.payload));
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push((self.elapsed(), event));
        }
    }

    fn run(&mut self, time: Duration) {
        self.drain();
        let end = self.now + time;
        loop {
            let wire = self.wire.front().map(|(due, ..)| *due);
            let next = wire.into_iter().chain(self.client.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if wire == Some(next) {
                let (_, way, address, payload) = self.wire.pop_front().unwrap();
                self.deliver(way, address, &payload);
            } else {
                self.client.handle_timeout(self.now);
            }
            self.drain();
        }
        self.now = end;
    }

    fn deliver(&mut self, way: Way, address: SocketAddr, payload: &[u8]) {
        if way == Way::Up {
            let answer = self.server.handle(self.start, self.now, address, payload);
            let due = self.now + ms(10);
            if let Some(answer) = answer {
                self.wire.push_back((due, Way::Down, address, answer));
            }
            return;
        }
        for piece in payload.chunks(self.piece) {
            self.input(address, piece);
        }
    }

    fn input(&mut self, local: SocketAddr, payload: &[u8]) -> Verdict {
        let datagram = Datagram {
            local,
            remote: self.client.server(),
            payload,
        };
        let verdict = self.client.handle_input(self.now, datagram);
        self.drain();
        verdict
    }

    fn send(&mut self, peer: &str, data: &[u8]) {
        if let Some(transmit) = self.client.send(self.now, at(peer), data).unwrap() {
            let due = self.now + ms(10);
            let from = transmit.local;
            self.wire.push_back((due, Way::Up, from, transmit.payload));
        }
        self.run(ms(100));
    }

    fn data_from(&mut self, peer: &str, data: &[u8]) -> Verdict {
        let indication = Builder::new(Class::Indication, Method::DATA, TransactionId([9; 12]))
            .attribute(&XorPeerAddress(at(peer)))
            .attribute(&Data(data))
            .build();
        self.input(self.client.local(), &indication)
    }

    fn has(&self, event: &Event) -> bool {
        self.events.iter().any(|(_, e)| e == event)
    }

    fn failure(&self) -> Option<Failure> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Failed(failure) => Some(*failure),
            _ => None,
        })
    }

    /// When requests of a method were carried out.
    fn done(&self, method: Method) -> Vec<u64> {
        let done = self.server.done.iter().filter(|(_, m)| *m == method);
        done.map(|(at, _)| at.as_secs()).collect()
    }
}

fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let channel = ChannelNumber::new(number).unwrap();
    ChannelData { channel, data }.to_datagram()
}

fn parse(bytes: &[u8]) -> Message<'_> {
    Message::parse(bytes).unwrap()
}
