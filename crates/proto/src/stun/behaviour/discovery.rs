//! The machine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    Builder, ChangeRequest, Class, Message, Method, OtherAddress, Padding, TransactionId,
    XorMappedAddress, is_stun,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::findings::Findings;
use super::probes::{Probe, Probes, Running};
use crate::portmap::is_public;
use crate::punch::{Classifier, Filtering, Mapping, NatReport, Sample};
use crate::stun::random_transaction_id;
use crate::{Datagram, Transmit, Verdict};

/// The most servers that are asked; more are ignored.
pub const MAX_SERVERS: usize = 4;

/// After the first answer the others have so long to show that they know more.
const GRACE: Duration = Duration::from_millis(150);

/// Larger than a frame of Ethernet, and than what any tunnel adds to it.
const LARGE: u16 = 2000;

/// What a request is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// How the main socket is mapped towards a server.
    Map,
    /// The second socket's own mapping, without which silence means nothing.
    FilterBase,
    /// Whether an answer from another address comes in.
    FilterAddress,
    /// Whether an answer from another port comes in.
    FilterPort,
    /// How one more socket is mapped.
    Sample,
    /// A packet to the address of another socket of ours.
    Hairpin,
    /// A request larger than a frame.
    Fragments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered yet.
    Asking,
    /// Somebody has; others may answer until then.
    Choosing(Instant),
    /// The tests with the server that was chosen are under way.
    Testing,
    /// The last one.
    Hairpin,
    Done,
}

/// What a discovery reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A server has answered for the first time: UDP gets out.
    Reachable {
        /// The server.
        server: SocketAddr,
        /// The address at which it sees the main socket.
        mapped: SocketAddr,
    },
    /// It is over; nothing more will be sent.
    Done(Box<Findings>),
}

/// Finds out what is between this host and its STUN servers; see the [module](super).
///
/// The caller opens the sockets: at least three for all tests, 16 or more for a good estimate of
/// how ports are given. It hands over every datagram that they receive.
#[derive(Debug)]
pub struct Discovery {
    rng: ChaCha20Rng,
    locals: Vec<SocketAddr>,
    probes: Probes<Test>,
    stage: Stage,
    /// The server that the tests are done with, and its other endpoint if it has one.
    chosen: Option<(SocketAddr, Option<SocketAddr>)>,
    answers: Vec<(SocketAddr, Option<SocketAddr>)>,
    classifier: Classifier,
    filtering: Filters,
    third: Option<SocketAddr>,
    hairpin: Option<bool>,
    fragments: Option<bool>,
    round_trip: Option<Duration>,
    lost: u32,
    asked: u32,
    mapped: Vec<SocketAddr>,
    events: VecDeque<Event>,
}

/// What came in at the second socket: yes, no or not known yet.
#[derive(Debug, Clone, Copy, Default)]
struct Filters {
    base: bool,
    from_address: Option<bool>,
    from_port: Option<bool>,
    /// The server's other address, and its other port, answer when they are asked: that nothing
    /// came from them means something.
    other_address: bool,
    other_port: bool,
}

impl Discovery {
    /// Begins: asks up to [`MAX_SERVERS`] servers from the first of `locals`. All addresses must
    /// be of one family; others are ignored.
    #[must_use]
    pub fn new(
        now: Instant,
        seed: [u8; 32],
        locals: Vec<SocketAddr>,
        servers: &[SocketAddr],
    ) -> Self {
        let mut this = Self {
            rng: ChaCha20Rng::from_seed(seed),
            locals,
            probes: Probes::default(),
            stage: Stage::Asking,
            chosen: None,
            answers: Vec::new(),
            classifier: Classifier::default(),
            filtering: Filters::default(),
            third: None,
            hairpin: None,
            fragments: None,
            round_trip: None,
            lost: 0,
            asked: 0,
            mapped: Vec::new(),
            events: VecDeque::new(),
        };
        for server in servers.iter().take(MAX_SERVERS) {
            this.ask(0, *server, Test::Map);
        }
        this.work(now);
        this
    }

    /// A datagram arrived at one of the sockets.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if !is_stun(datagram.payload) {
            return Verdict::NotMine;
        }
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        let verdict = match message.class() {
            Class::Request => self.on_request(&message),
            Class::Success | Class::Error => self.on_response(now, &datagram, &message),
            Class::Indication => Verdict::NotMine,
        };
        self.work(now);
        verdict
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.probes.poll_transmit()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let choosing = match self.stage {
            Stage::Choosing(until) => Some(until),
            Stage::Asking | Stage::Testing | Stage::Hairpin | Stage::Done => None,
        };
        let probes = self.probes.poll_timeout();
        [choosing, probes].into_iter().flatten().min()
    }

    /// What is known by now.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let nat = self.classifier.report().map(|nat| NatReport {
            filtering: self.filtering.behaviour(),
            ..nat
        });
        let main = self.locals.first();
        let translated = self.mapped.first().map(|mapped| Some(mapped) != main);
        let two_addresses = self
            .chosen
            .and_then(|(server, other)| Some((server, other?)))
            .filter(|_| self.filtering.other_address);
        Findings {
            reachable: !self.answers.is_empty(),
            round_trip: self.round_trip,
            loss: (self.asked > 0).then(|| f64::from(self.lost) / f64::from(self.asked)),
            mapped: self.mapped.clone(),
            translated,
            nat,
            hairpin: self.hairpin,
            paired: self.classifier.is_paired(),
            fragments: self.fragments,
            two_addresses,
            samples: self.classifier.len(),
        }
    }
}

/// Answers.
impl Discovery {
    /// A packet of ours has come back from the NAT.
    fn on_request(&mut self, message: &Message<'_>) -> Verdict {
        let id = message.transaction_id();
        let ours = self.probes.get(id);
        if !ours.is_some_and(|running| running.probe.test == Test::Hairpin) {
            return Verdict::NotMine;
        }
        self.probes.take(id);
        self.hairpin = Some(true);
        Verdict::Consumed
    }

    fn on_response(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> Verdict {
        let id = message.transaction_id();
        let Some(running) = self.probes.get(id) else {
            return Verdict::NotMine;
        };
        let (test, asked) = (running.probe.test, running.probe.remote);
        if running.probe.local != datagram.local || test == Test::Hairpin {
            return Verdict::NotMine;
        }
        let from_elsewhere = matches!(test, Test::FilterAddress | Test::FilterPort);
        if !from_elsewhere && datagram.remote != asked {
            return Verdict::NotMine;
        }
        let Some(running) = self.probes.take(id) else {
            return Verdict::NotMine;
        };
        self.learn_round_trip(now, &running);
        let success = message.class() == Class::Success;
        match test {
            Test::Map => self.on_mapped(now, &running, message),
            Test::FilterBase | Test::Sample => self.on_sample(&running, message),
            Test::FilterAddress if success => {
                let other = datagram.remote.ip() != asked.ip();
                self.filtering.from_address = other.then_some(true);
            }
            Test::FilterPort if success => {
                let other = datagram.remote.port() != asked.port();
                self.filtering.from_port = other.then_some(true);
            }
            Test::Fragments if success => self.fragments = Some(true),
            // The server does not do what it was asked for.
            Test::FilterAddress | Test::FilterPort | Test::Fragments | Test::Hairpin => {}
        }
        if test == Test::FilterBase && success {
            self.filtering.base = true;
        }
        Verdict::Consumed
    }

    fn learn_round_trip(&mut self, now: Instant, running: &Running<Test>) {
        self.asked = self.asked.saturating_add(1);
        if running.sent > 1 {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let round_trip = now.saturating_duration_since(running.first_sent);
        let least = self.round_trip.map_or(round_trip, |r| r.min(round_trip));
        self.round_trip = Some(least);
        self.probes.learn_round_trip(round_trip);
    }

    fn on_mapped(&mut self, now: Instant, running: &Running<Test>, message: &Message<'_>) {
        let server = running.probe.remote;
        let Some(mapped) = self.sample(running, message) else {
            return;
        };
        self.note_end(server);
        let is_first = self.answers.is_empty();
        if !self.mapped.contains(&mapped) {
            self.mapped.push(mapped);
        }
        let other = message.get::<OtherAddress>().ok().flatten();
        let other = other.map(|OtherAddress(other)| other);
        self.answers
            .push((server, other.filter(|other| is_other(server, *other))));
        if is_first {
            let until = now.checked_add(GRACE).unwrap_or(now);
            self.stage = Stage::Choosing(until);
            self.events.push_back(Event::Reachable { server, mapped });
        }
    }

    fn note_end(&mut self, end: SocketAddr) {
        if let Some((server, Some(other))) = self.chosen {
            self.filtering.other_address |= end == other;
            self.filtering.other_port |= end.ip() == server.ip() && end.port() == other.port();
        }
    }

    fn on_sample(&mut self, running: &Running<Test>, message: &Message<'_>) {
        let mapped = self.sample(running, message);
        if Some(&running.probe.local) == self.locals.get(2) {
            self.third = mapped;
        }
    }

    fn sample(&mut self, running: &Running<Test>, message: &Message<'_>) -> Option<SocketAddr> {
        let mapped = message.get::<XorMappedAddress>().ok().flatten();
        let XorMappedAddress(mapped) = mapped?;
        if mapped.is_ipv4() != running.probe.local.is_ipv4() {
            return None;
        }
        self.classifier.add(Sample {
            local: running.probe.local,
            server: running.probe.remote,
            mapped,
            sent: running.first_sent,
        });
        Some(mapped)
    }
}

/// What is asked next.
impl Discovery {
    fn work(&mut self, now: Instant) {
        for given_up in self.probes.work(now) {
            self.on_silence(given_up.probe.test);
        }
        loop {
            let before = self.stage;
            self.step(now);
            if self.stage == before {
                break;
            }
        }
        // What the step has asked for goes out at once.
        for given_up in self.probes.work(now) {
            self.on_silence(given_up.probe.test);
        }
    }

    fn step(&mut self, now: Instant) {
        match self.stage {
            Stage::Asking if self.probes.is_idle() => self.finish(),
            Stage::Choosing(until) if until <= now || self.all_have_answered() => {
                self.begin_tests();
            }
            Stage::Testing if self.probes.is_idle() => self.begin_hairpin(),
            Stage::Hairpin if self.hairpin == Some(true) || self.probes.is_idle() => self.finish(),
            Stage::Asking | Stage::Choosing(_) | Stage::Testing | Stage::Hairpin | Stage::Done => {}
        }
    }

    fn all_have_answered(&self) -> bool {
        !self.probes.tests().any(|test| *test == Test::Map)
            || self.answers.iter().any(|(_, other)| other.is_some())
    }

    fn on_silence(&mut self, test: Test) {
        if !self.answers.is_empty() && matches!(test, Test::Sample | Test::FilterBase) {
            self.asked = self.asked.saturating_add(1);
            self.lost = self.lost.saturating_add(1);
        }
        match test {
            Test::FilterAddress => self.filtering.from_address = Some(false),
            Test::FilterPort => self.filtering.from_port = Some(false),
            Test::Fragments => self.fragments = Some(false),
            Test::Hairpin => self.on_hairpin_silence(),
            Test::Map | Test::FilterBase | Test::Sample => {}
        }
    }

    /// All tests with the best of the servers that have answered.
    fn begin_tests(&mut self) {
        self.stage = Stage::Testing;
        let mut answers = self.answers.iter();
        let best = answers.clone().find(|(_, other)| other.is_some());
        let Some(&(server, other)) = best.or_else(|| answers.next()) else {
            return;
        };
        self.chosen = Some((server, other));
        if let Some(other) = other {
            let ends = [
                SocketAddr::new(other.ip(), server.port()),
                other,
                SocketAddr::new(server.ip(), other.port()),
            ];
            for end in ends {
                self.ask(0, end, Test::Map);
            }
        }
        if self.locals.len() > 1 {
            self.ask(1, server, Test::FilterBase);
            if other.is_some() {
                self.ask(1, server, Test::FilterAddress);
                self.ask(1, server, Test::FilterPort);
            }
        }
        for index in 2..self.locals.len() {
            self.ask(index, server, Test::Sample);
        }
        if other.is_some() {
            self.ask(0, server, Test::Fragments);
        }
    }

    /// The packets that the NAT is to turn round go both ways: what the filter of one mapping
    /// does not let in, because that one has sent to another mapped address, the other may.
    fn begin_hairpin(&mut self) {
        self.stage = Stage::Hairpin;
        let (Some(main), Some(third)) = (self.mapped.first().copied(), self.third) else {
            return;
        };
        if self.locals.first() == Some(&main) {
            return;
        }
        self.ask(0, third, Test::Hairpin);
        self.ask(2, main, Test::Hairpin);
    }

    /// Silence means that nothing is turned round only if it could have come in: where each
    /// endpoint has a mapping of its own that lets in only whom it has sent to, it could not.
    fn on_hairpin_silence(&mut self) {
        let nat = self.findings().nat;
        let could = nat.is_some_and(|nat| {
            nat.mapping == Mapping::EndpointIndependent
                || nat.filtering == Filtering::EndpointIndependent
        });
        if self.hairpin.is_none() && could {
            self.hairpin = Some(false);
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        self.probes = Probes::default();
        let findings = Box::new(self.findings());
        self.events.push_back(Event::Done(findings));
    }

    fn ask(&mut self, socket: usize, remote: SocketAddr, test: Test) {
        let Some(local) = self.locals.get(socket).copied() else {
            return;
        };
        if local.is_ipv4() != remote.is_ipv4() {
            return;
        }
        let id = random_transaction_id(&mut self.rng);
        let payload = request(id, test);
        let probe = Probe {
            test,
            local,
            remote,
            payload,
        };
        self.probes.add(id, probe);
    }
}

impl Filters {
    /// Section 4.4 of RFC 5780. That nothing came in means something only where an answer from
    /// the server itself did.
    const fn behaviour(self) -> Filtering {
        let dependent = matches!(self.from_address, Some(false)) && self.other_address && self.base;
        match (self.from_address, self.from_port) {
            (Some(true), _) => Filtering::EndpointIndependent,
            (_, Some(true)) if dependent => Filtering::AddressDependent,
            (_, Some(false)) if dependent && self.other_port => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        }
    }
}

fn request(id: TransactionId, test: Test) -> Vec<u8> {
    let from = |ip| ChangeRequest { ip, port: true };
    let (change, padding) = match test {
        Test::FilterAddress => (Some(from(true)), None),
        Test::FilterPort => (Some(from(false)), None),
        Test::Fragments => (None, Padding::new(LARGE).ok()),
        Test::Map | Test::FilterBase | Test::Sample | Test::Hairpin => (None, None),
    };
    Builder::new(Class::Request, Method::BINDING, id)
        .maybe_attribute(change.as_ref())
        .maybe_attribute(padding.as_ref())
        .build()
}

/// Whether an OTHER-ADDRESS can be what it says: another address and another port of the same
/// family, to which a packet may go. A server on the internet names no address of the client's
/// own network.
pub fn is_other(server: SocketAddr, other: SocketAddr) -> bool {
    let unusable = other.ip().is_unspecified() || other.ip().is_multicast() || other.port() == 0;
    let differs = other.ip() != server.ip() && other.port() != server.port();
    let foreign = is_public(other.ip()) || !is_public(server.ip());
    !unusable && foreign && differs && other.is_ipv4() == server.is_ipv4()
}
