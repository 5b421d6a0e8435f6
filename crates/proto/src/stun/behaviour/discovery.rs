//! The machine.

mod asking;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{Class, Message, OtherAddress, XorMappedAddress, is_stun};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::findings::Findings;
use super::probes::{Probes, Running};
use crate::portmap::is_public;
use crate::punch::{Classifier, Filtering, NatReport, Sample};
use crate::{Datagram, Transmit, Verdict};

/// The most servers that are asked; more are ignored.
pub const MAX_SERVERS: usize = 4;

/// After the first answer the others have so long to show that they know more.
const GRACE: Duration = Duration::from_millis(150);

/// Routers between this host and the internet that are looked for.
const MAX_HOPS: u8 = 8;

/// The socket from which a packet is sent that may pass no router; the next one's may pass one.
const FIRST_LIMITED: usize = 3;

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
    /// Whether a packet that lives no longer than this opens the filter that is furthest away.
    Distance(u8),
    /// Which router a packet that lives no longer than this reaches.
    Hop(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered yet.
    Asking,
    /// Somebody has; others may answer until then.
    Choosing(Instant),
    /// The tests with the server that was chosen are under way.
    Testing,
    /// Those that take what the others have found.
    Last,
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
    /// The least time to live with which a packet has opened the filter.
    opened: Option<u8>,
    hops: Vec<Option<IpAddr>>,
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
            opened: None,
            hops: Vec::new(),
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

    /// A router said that a datagram of [`Self::poll_limited`] from this socket has lived its
    /// time.
    pub fn handle_hop(&mut self, local: SocketAddr, router: IpAddr) {
        let index = self.locals.iter().position(|known| *known == local);
        let hop = index.and_then(|index| index.checked_sub(FIRST_LIMITED));
        let Some(hop) = hop.filter(|hop| *hop < usize::from(MAX_HOPS)) else {
            return;
        };
        if self.hops.len() <= hop {
            self.hops.resize(hop.saturating_add(1), None);
        }
        if let Some(known) = self.hops.get_mut(hop) {
            *known = Some(router);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.probes.poll_transmit()
    }

    /// The next datagram to send with a time to live of its own, before those of
    /// [`Self::poll_transmit`].
    pub fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        self.probes.poll_limited()
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
            Stage::Asking | Stage::Testing | Stage::Last | Stage::Done => None,
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
            distance: self.opened.and_then(|ttl| ttl.checked_sub(1)),
            hops: self.hops.clone(),
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
        let from_elsewhere = matches!(
            test,
            Test::FilterAddress | Test::FilterPort | Test::Distance(_)
        );
        if !from_elsewhere && datagram.remote != asked {
            return Verdict::NotMine;
        }
        let Some(running) = self.probes.take(id) else {
            return Verdict::NotMine;
        };
        if !from_elsewhere {
            self.learn_round_trip(now, &running);
        }
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
            Test::Distance(ttl) if success && datagram.remote.ip() != asked.ip() => {
                self.opened = Some(self.opened.map_or(ttl, |least| least.min(ttl)));
            }
            // The server does not do what it was asked for.
            Test::FilterAddress
            | Test::FilterPort
            | Test::Fragments
            | Test::Distance(_)
            | Test::Hop(_)
            | Test::Hairpin => {}
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

impl Filters {
    /// That nothing came in means something only where an answer from the server itself did.
    fn behaviour(self) -> Filtering {
        let told = self.other_address && self.base;
        let from_address = self.from_address.filter(|came| *came || told);
        let dependent = from_address == Some(false);
        let told = dependent && (self.other_port || self.from_port == Some(true));
        filtering(from_address, self.from_port.filter(|_| told))
    }
}

/// Section 4.4 of RFC 5780: from whom packets come in, by whether one came from another address
/// than was sent to, and one from another port of the same.
#[must_use]
pub const fn filtering(from_address: Option<bool>, from_port: Option<bool>) -> Filtering {
    match (from_address, from_port) {
        (Some(true), _) => Filtering::EndpointIndependent,
        (_, Some(false)) => Filtering::AddressAndPortDependent,
        (Some(false), Some(true)) => Filtering::AddressDependent,
        (None, Some(true)) | (_, None) => Filtering::Unknown,
    }
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
