//! The client's machine and some gateways, in virtual time.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most events are told on as they are"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_proto::portmap::{
    Client, Config, Event, Exchange, ExchangeId, Failure, Known, Listener, Mapping, MappingId,
    Probe, ProbeId, Probed, Protocols, Wish,
};
use postern_proto::{Datagram, Transmit};
use postern_wire::probe::{Answer, Outcome, Verdict};
use postern_wire::transport::Transport;
use postern_wire::upnp::http::{Bounds, Collector};

use super::fake::{Gateway, HttpAnswer, Sent};
use super::personality::Personality;

/// The client's socket.
pub const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)), 4321);
/// The default router.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));
/// Another router on the link.
pub const OTHER_GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
/// The same with IPv6.
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2a45, 0x45, 1, 0, 0, 0, 0, 0x10);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2a45, 0x45, 1, 0, 0, 0, 0, 1);

/// How long a datagram is under way.
const LATENCY: Duration = Duration::from_micros(200);

/// What goes wrong with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is lost; a connection breaks.
    Drop,
    /// Garbage arrives in its place.
    Garbage,
    /// The client is killed in this moment, and what it has sent is under way.
    Kill,
}

/// A server that looks at mappings from outside, and who listens inside.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// Whether the server answers.
    pub answers: bool,
    /// The address that it sees the client at. What is mapped at another one it does not reach.
    pub sees: IpAddr,
    /// Whether the port is opened for the probe, and if not, whose it is.
    pub listener: Option<Listener>,
    /// How many probes there were.
    pub probes: usize,
}

impl Default for Outside {
    fn default() -> Self {
        Self {
            answers: true,
            sees: [45, 45, 1, 1].into(),
            listener: None,
            probes: 0,
        }
    }
}

/// How long the server waits for an answer of the port.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something under way.
#[derive(Debug, Clone)]
enum Parcel {
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    Request(Exchange),
    Answer(ExchangeId, Option<Vec<u8>>),
    Probe(Probe),
    Probed(ProbeId, Probed),
}

/// A client, some gateways, and what is under way between them.
#[derive(Debug)]
pub struct Play {
    /// Virtual time.
    pub now: Instant,
    /// The machine.
    pub client: Client,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// What the machine has told, exchanges left out.
    pub events: Vec<Event>,
    /// What it has asked to be written down.
    pub journal: Vec<Mapping>,
    /// How many messages there were.
    pub messages: usize,
    /// What looks at mappings from outside.
    pub outside: Outside,
    fault: Option<(usize, Fault)>,
    dead: bool,
    abandoned: BTreeSet<ExchangeId>,
    wire: BTreeMap<(Instant, u64), Parcel>,
    sequence: u64,
    seed: u8,
}

impl Play {
    /// A client on a link with these gateways. It begins to look around.
    #[must_use]
    pub fn new(now: Instant, gateways: Vec<(IpAddr, Personality)>) -> Self {
        Self::with(now, gateways, Protocols::ALL)
    }

    /// The same, with these protocols only.
    #[must_use]
    pub fn with(now: Instant, gateways: Vec<(IpAddr, Personality)>, protocols: Protocols) -> Self {
        Self::build(now, gateways, config(CLIENT, GATEWAY, protocols))
    }

    /// The same, and the client knows what worked before.
    #[must_use]
    pub fn knowing(
        now: Instant,
        gateways: Vec<(IpAddr, Personality)>,
        known: Option<Known>,
    ) -> Self {
        let config = config(CLIENT, GATEWAY, Protocols::ALL);
        Self::build(now, gateways, Config { known, ..config })
    }

    /// A client that has its mappings looked at from outside.
    #[must_use]
    pub fn verified(now: Instant, gateways: Vec<(IpAddr, Personality)>) -> Self {
        let mut config = config(CLIENT, GATEWAY, Protocols::ALL);
        config.verify = true;
        Self::build(now, gateways, config)
    }

    /// A client with an IPv6 address, and its router with these ways.
    #[must_use]
    pub fn v6(now: Instant, personality: Personality) -> Self {
        let local = SocketAddr::new(CLIENT_V6.into(), CLIENT.port());
        let router = GATEWAY_V6.into();
        Self::build(
            now,
            vec![(router, personality)],
            config(local, router, Protocols::ALL),
        )
    }

    fn build(now: Instant, gateways: Vec<(IpAddr, Personality)>, config: Config) -> Self {
        let make = |(address, personality)| Gateway::new(now, address, personality);
        let mut play = Self {
            now,
            client: Client::new(now, [1; 32], config),
            gateways: gateways.into_iter().map(make).collect(),
            events: Vec::new(),
            journal: Vec::new(),
            messages: 0,
            outside: Outside::default(),
            fault: None,
            dead: false,
            abandoned: BTreeSet::new(),
            wire: BTreeMap::new(),
            sequence: 0,
            seed: 1,
        };
        play.drain();
        play
    }

    /// Lets this go wrong with the message of this number, the first being 0.
    pub const fn inject(&mut self, message: usize, fault: Fault) {
        self.fault = Some((message, fault));
    }

    /// Whether the client was killed.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.dead
    }

    /// Starts another client in place of the one that was killed. It knows what was written
    /// down, and nothing else.
    pub fn revive(&mut self) {
        self.seed += 1;
        let config = config(CLIENT, GATEWAY, Protocols::ALL);
        self.client = Client::new(self.now, [self.seed; 32], config);
        self.dead = false;
        self.wire.clear();
        self.drain();
    }

    /// The wish that all tests have: TCP port 4000, 4001 outside, for an hour.
    #[must_use]
    pub fn wish() -> Wish {
        Wish {
            transport: Transport::Tcp,
            internal_port: 4000,
            external_port: 4001,
            exact: false,
            lifetime: 3600,
            must_end: false,
            description: "postern lab: a description of more than 32 characters".to_owned(),
            internal_host: None,
            nonce: None,
        }
    }

    /// Wants a mapping.
    pub fn map(&mut self, wish: Wish) -> MappingId {
        let id = self.client.map(self.now, wish);
        self.drain();
        id
    }

    /// Does something with the machine and carries out what it wants.
    pub fn with_client<T>(&mut self, act: impl FnOnce(&mut Client, Instant) -> T) -> T {
        let result = act(&mut self.client, self.now);
        self.drain();
        result
    }

    /// Sends datagrams of a gateway's own accord.
    pub fn send(&mut self, datagrams: Vec<Sent>) {
        for (from, to, payload) in datagrams {
            self.post(LATENCY, Parcel::Datagram(from, to, payload));
        }
    }

    /// Runs until something is so, at most for this long; whether it is so.
    pub fn run_until(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !done(self) {
            let timer = self.client.poll_timeout().filter(|_| !self.dead);
            let parcel = self.wire.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timer
                .into_iter()
                .chain(parcel)
                .min()
                .filter(|at| *at <= end)
            else {
                self.now = end;
                return done(self);
            };
            self.now = next.max(self.now);
            if let Some(entry) = self.wire.first_entry()
                && entry.key().0 <= self.now
            {
                let parcel = entry.remove();
                self.deliver(parcel);
            } else if !self.dead {
                self.client.handle_timeout(self.now);
                self.drain();
            }
        }
        true
    }

    /// Runs for this long.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until the mapping is told to stand, or to fail; which.
    pub fn outcome(&mut self) -> Option<Result<Mapping, Failure>> {
        let told = |event: &Event| match event {
            Event::Made(_, mapping) => Some(Ok(mapping.clone())),
            Event::Failed(_, why) => Some(Err(*why)),
            _ => None,
        };
        let seen = self.events.len();
        self.run_until(Duration::from_secs(60), |play| {
            play.dead
                || play
                    .events
                    .iter()
                    .skip(seen)
                    .any(|event| told(event).is_some())
        });
        self.events.iter().skip(seen).find_map(told)
    }

    /// Every mapping of every gateway.
    pub fn rows(&mut self) -> Vec<(Transport, u16, super::Row)> {
        let now = self.now;
        self.gateways
            .iter_mut()
            .flat_map(|gateway| gateway.rows(now))
            .collect()
    }

    fn post(&mut self, wait: Duration, parcel: Parcel) {
        self.sequence += 1;
        self.wire.insert((self.now + wait, self.sequence), parcel);
    }

    /// Sends what the machine wants sent, and notes what it tells.
    fn drain(&mut self) {
        while let Some(Transmit {
            local,
            remote,
            payload,
        }) = self.client.poll_transmit()
        {
            self.post(LATENCY, Parcel::Datagram(local, remote, payload));
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Exchange(exchange) => self.post(LATENCY, Parcel::Request(exchange)),
                Event::Probe(probe) => self.post(LATENCY, Parcel::Probe(probe)),
                Event::Abandoned(id) => drop(self.abandoned.insert(id)),
                Event::Endless(_, ref mapping) => {
                    self.journal.push(mapping.clone());
                    self.events.push(event);
                }
                event => self.events.push(event),
            }
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let number = self.messages;
        self.messages += 1;
        let fault = self
            .fault
            .filter(|(at, _)| *at == number)
            .map(|(_, fault)| fault);
        if fault == Some(Fault::Kill) {
            self.dead = true;
        }
        match parcel {
            Parcel::Datagram(from, to, payload) => self.deliver_datagram(from, to, payload, fault),
            Parcel::Request(exchange) => self.deliver_request(&exchange, fault),
            Parcel::Answer(id, bytes) => {
                let bytes = match fault {
                    Some(Fault::Drop) => None,
                    Some(Fault::Garbage) => {
                        Some(b"HTTP/1.1 200 OK\r\n\r\n<a><b>\0garbage".to_vec())
                    }
                    Some(Fault::Kill) | None => bytes,
                };
                self.answer(id, bytes);
            }
            Parcel::Probe(probe) => self.look(probe, fault),
            Parcel::Probed(id, probed) => {
                if !self.dead {
                    self.client.handle_probed(self.now, id, probed);
                    self.drain();
                }
            }
        }
    }

    /// The server looks at a port.
    fn look(&mut self, probe: Probe, fault: Option<Fault>) {
        self.outside.probes += 1;
        let (now, seen) = (self.now, self.outside.sees);
        let key = (probe.transport, probe.external_port);
        let reaches = |gateway: &mut Gateway| {
            let services = &gateway.personality.services;
            let is_here = services
                .iter()
                .any(|service| service.external == seen.to_string());
            is_here && gateway.leads_in(now, key)
        };
        let arrived = self.gateways.iter_mut().any(reaches);
        let outcome = match (arrived, probe.transport) {
            (false, _) => Outcome::Silent,
            (true, Transport::Tcp) => Outcome::Connected,
            (true, Transport::Udp) => Outcome::Echoed,
        };
        let heard = self.outside.answers && fault != Some(Fault::Drop);
        let verdict = if fault == Some(Fault::Garbage) {
            Verdict::Outcome(Outcome::Unknown)
        } else {
            Verdict::Outcome(outcome)
        };
        let listener = self.outside.listener;
        let probed = Probed {
            listener: listener.unwrap_or(Listener::Ours {
                arrived: arrived && heard,
            }),
            answer: heard.then_some(Answer {
                address: seen,
                verdict,
            }),
        };
        let wait = if arrived { LATENCY } else { PATIENCE };
        self.post(wait, Parcel::Probed(probe.id, probed));
    }

    fn deliver_datagram(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
        fault: Option<Fault>,
    ) {
        let payload = match fault {
            Some(Fault::Drop) => return,
            Some(Fault::Garbage) => payload.iter().map(|byte| byte ^ 0x5a).collect(),
            Some(Fault::Kill) | None => payload,
        };
        let now = self.now;
        let to_client = to.ip() == self.local().ip()
            || (to.ip().is_multicast() && from.ip() != self.local().ip());
        if to_client {
            let datagram = Datagram {
                local: to,
                remote: from,
                payload: &payload,
            };
            if !self.dead {
                self.client.handle_input(now, datagram);
                self.drain();
            }
            return;
        }
        for index in 0..self.gateways.len() {
            let sent = self.gateways[index].datagram(now, from, to, &payload);
            self.send(sent);
        }
    }

    fn local(&self) -> SocketAddr {
        match self.gateways.first() {
            Some(gateway) if gateway.address.is_ipv6() => {
                SocketAddr::new(IpAddr::V6(CLIENT_V6), CLIENT.port())
            }
            _ => CLIENT,
        }
    }

    fn deliver_request(&mut self, exchange: &Exchange, fault: Option<Fault>) {
        let now = self.now;
        let request = match fault {
            Some(Fault::Drop) => None,
            Some(Fault::Garbage) => Some(b"\x16\x03garbage\r\n\r\n".to_vec()),
            Some(Fault::Kill) | None => Some(exchange.request.clone()),
        };
        let place = |gateway: &&mut Gateway| {
            gateway.address == exchange.to.ip() && gateway.port == exchange.to.port()
        };
        let gateway = self.gateways.iter_mut().find(place);
        let (wait, bytes) = match (gateway, request) {
            (Some(gateway), Some(request)) => {
                let wait = gateway.personality.delay;
                match gateway.http(now, exchange.from, &request) {
                    HttpAnswer::Bytes(bytes) => (wait, Some(bytes)),
                    HttpAnswer::Refused => (LATENCY, None),
                }
            }
            // Nobody is there, and nobody says so.
            (None, _) => (exchange.timeout + LATENCY, None),
            (Some(_), None) => (LATENCY, None),
        };
        self.post(wait, Parcel::Answer(exchange.id, bytes));
    }

    fn answer(&mut self, id: ExchangeId, bytes: Option<Vec<u8>>) {
        if self.dead || self.abandoned.remove(&id) {
            return;
        }
        let response = bytes.and_then(|bytes| {
            let mut collector = Collector::response(Bounds::default());
            collector.push(&bytes).ok()?;
            collector.into_response().ok()
        });
        self.client.handle_response(self.now, id, response);
        self.drain();
    }
}

fn config(local: SocketAddr, gateway: IpAddr, protocols: Protocols) -> Config {
    Config {
        local,
        prefix: if local.is_ipv4() { 24 } else { 64 },
        scope: 1,
        gateway: Some(gateway),
        protocols,
        location: None,
        verify: false,
        search: true,
        only_gateway: false,
        known: None,
    }
}
