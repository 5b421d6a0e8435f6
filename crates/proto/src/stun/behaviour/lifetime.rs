//! How long an idle mapping lives (RFC 5780 section 4.6).
//!
//! A mapping is made, left alone, and then the server is asked, from another socket and with
//! RESPONSE-PORT, to answer to it: if nothing arrives, it was gone. Many mappings wait for
//! different times side by side, so that it takes twice the lifetime and not ten times as long
//! as a search by halves would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    Builder, Class, Message, Method, ResponsePort, TransactionId, XorMappedAddress, is_stun,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::probes::{Probe, Probes};
use crate::stun::random_transaction_id;
use crate::{Datagram, Transmit, Verdict};

/// The first round waits so many seconds: around what RFC 4787 asks for (120, REQ-5) and what
/// is met outside (30, 60, 300).
const FIRST_ROUND: [u64; 9] = [15, 25, 35, 55, 70, 115, 130, 185, 305];

/// Bounds that are so close together are an answer.
const CLOSE_ENOUGH: Duration = Duration::from_secs(5);

/// What the measurement reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeEvent {
    /// A mapping was left alone for so long and then still there, or not.
    Waited {
        /// How long.
        idle: Duration,
        /// Whether it was still there.
        alive: bool,
    },
    /// It is over.
    Done {
        /// A mapping has lived so long.
        at_least: Duration,
        /// A mapping has not lived so long; `None` if all that were tried have.
        at_most: Option<Duration>,
    },
    /// The server does not answer, or not to another port: nothing can be said.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Open(usize),
    Ask(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Idle { port: u16, until: Instant },
    Asking,
    Ended(Option<bool>),
}

#[derive(Debug)]
struct Trial {
    local: SocketAddr,
    idle: Duration,
    state: State,
}

impl Trial {
    const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }
}

/// Measures the lifetime of idle mappings with a server that speaks RFC 5780; see the
/// [module](super). It takes about twice the lifetime, and ten minutes at most.
#[derive(Debug)]
pub struct Lifetime {
    rng: ChaCha20Rng,
    server: SocketAddr,
    asker: SocketAddr,
    sockets: Vec<SocketAddr>,
    trials: Vec<Trial>,
    probes: Probes<Test>,
    at_least: Duration,
    at_most: Option<Duration>,
    rounds: u32,
    done: bool,
    events: VecDeque<LifetimeEvent>,
}

impl Lifetime {
    /// Begins. The first of `locals` asks, each of the others holds a mapping: ten sockets are
    /// as many as are used.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], locals: Vec<SocketAddr>, server: SocketAddr) -> Self {
        let mut sockets = locals;
        let asker = match sockets.is_empty() {
            true => server,
            false => sockets.remove(0),
        };
        let mut this = Self {
            rng: ChaCha20Rng::from_seed(seed),
            server,
            asker,
            sockets,
            trials: Vec::new(),
            probes: Probes::default(),
            at_least: Duration::ZERO,
            at_most: None,
            rounds: 0,
            done: false,
            events: VecDeque::new(),
        };
        this.begin_round(FIRST_ROUND.map(Duration::from_secs).to_vec());
        this.work(now);
        this
    }

    /// A datagram arrived at one of the sockets.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if !is_stun(datagram.payload) || datagram.remote != self.server {
            return Verdict::NotMine;
        }
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        let Some(running) = self.probes.get(message.transaction_id()) else {
            return Verdict::NotMine;
        };
        let test = running.probe.test;
        let (Test::Open(index) | Test::Ask(index)) = test;
        let at = self.trials.get(index).map(|trial| trial.local);
        let answers = matches!(message.class(), Class::Success | Class::Error);
        if !answers || (at != Some(datagram.local) && message.class() == Class::Success) {
            return Verdict::NotMine;
        }
        self.probes.take(message.transaction_id());
        match (test, message.class()) {
            (Test::Open(index), Class::Success) => self.on_opened(now, index, &message),
            (Test::Ask(index), Class::Success) => self.end(index, Some(true)),
            (Test::Open(index) | Test::Ask(index), _) => self.end(index, None),
        }
        self.work(now);
        Verdict::Consumed
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
    pub fn poll_event(&mut self) -> Option<LifetimeEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        let idle = self.trials.iter().filter_map(|trial| match trial.state {
            State::Idle { until, .. } => Some(until),
            State::Opening | State::Asking | State::Ended(_) => None,
        });
        [idle.min(), self.probes.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn begin_round(&mut self, waits: Vec<Duration>) {
        self.rounds = self.rounds.saturating_add(1);
        let trials = waits.into_iter().zip(&self.sockets);
        let trials = trials.map(|(idle, local)| Trial {
            local: *local,
            idle,
            state: State::Opening,
        });
        self.trials = trials.collect();
        for index in 0..self.trials.len() {
            let local = self.trials.get(index).map_or(self.asker, |t| t.local);
            self.ask(local, Test::Open(index), None);
        }
    }

    fn on_opened(&mut self, now: Instant, index: usize, message: &Message<'_>) {
        let mapped = message.get::<XorMappedAddress>().ok().flatten();
        let Some(trial) = self.trials.get_mut(index) else {
            return;
        };
        trial.state = match (mapped, now.checked_add(trial.idle)) {
            (Some(XorMappedAddress(mapped)), Some(until)) => State::Idle {
                port: mapped.port(),
                until,
            },
            _ => State::Ended(None),
        };
    }

    fn end(&mut self, index: usize, alive: Option<bool>) {
        let Some(trial) = self.trials.get_mut(index) else {
            return;
        };
        trial.state = State::Ended(alive);
        if let Some(alive) = alive {
            let idle = trial.idle;
            self.events.push_back(LifetimeEvent::Waited { idle, alive });
        }
    }

    fn work(&mut self, now: Instant) {
        if self.done {
            return;
        }
        for index in 0..self.trials.len() {
            self.wake(now, index);
        }
        for given_up in self.probes.work(now) {
            match given_up.probe.test {
                Test::Open(index) => self.end(index, None),
                Test::Ask(index) => self.end(index, Some(false)),
            }
        }
        self.cut_off();
        if self.trials.iter().all(Trial::has_ended) {
            self.end_round(now);
        }
    }

    /// Asks for an answer to a mapping that was left alone long enough.
    fn wake(&mut self, now: Instant, index: usize) {
        let Some(trial) = self.trials.get_mut(index) else {
            return;
        };
        if let State::Idle { port, until } = trial.state
            && until <= now
        {
            trial.state = State::Asking;
            self.ask(self.asker, Test::Ask(index), Some(port));
        }
    }

    /// Once a mapping was gone and everything shorter is known, what waits longer tells nothing
    /// new.
    fn cut_off(&mut self) {
        let dead = |trial: &&Trial| trial.state == State::Ended(Some(false));
        let dead = self.trials.iter().filter(dead).map(|trial| trial.idle);
        let Some(dead) = dead.min() else {
            return;
        };
        let mut shorter = self.trials.iter().filter(|trial| trial.idle < dead);
        if shorter.all(Trial::has_ended) {
            for trial in self.trials.iter_mut().filter(|trial| !trial.has_ended()) {
                trial.state = State::Ended(None);
            }
            self.probes = Probes::default();
        }
    }

    fn end_round(&mut self, now: Instant) {
        let mut results: Vec<_> = self
            .trials
            .iter()
            .filter_map(|trial| match trial.state {
                State::Ended(Some(alive)) => Some((trial.idle, alive)),
                State::Opening | State::Idle { .. } | State::Asking | State::Ended(None) => None,
            })
            .collect();
        if results.is_empty() {
            return self.finish(LifetimeEvent::Failed);
        }
        results.sort_unstable();
        let dead = results.iter().find(|(_, alive)| !alive).map(|(t, _)| *t);
        let alive = results.iter().filter(|(idle, alive)| {
            let before = dead.is_none_or(|dead| *idle < dead);
            *alive && before
        });
        let alive = alive.map(|(idle, _)| *idle).max();
        self.at_least = self.at_least.max(alive.unwrap_or_default());
        self.at_most = [self.at_most, dead].into_iter().flatten().min();
        let waits = self.between();
        if self.rounds >= 2 || waits.is_empty() {
            let (at_least, at_most) = (self.at_least, self.at_most);
            return self.finish(LifetimeEvent::Done { at_least, at_most });
        }
        self.begin_round(waits);
        self.work(now);
    }

    /// Times between the bounds, as far from each other as the sockets allow.
    fn between(&self) -> Vec<Duration> {
        let Some(gap) = self
            .at_most
            .and_then(|most| most.checked_sub(self.at_least))
        else {
            return Vec::new();
        };
        if gap <= CLOSE_ENOUGH {
            return Vec::new();
        }
        let count = u32::try_from(self.sockets.len()).unwrap_or(1).max(1);
        let step = gap
            .checked_div(count.saturating_add(1))
            .unwrap_or(CLOSE_ENOUGH)
            .max(Duration::from_secs(1));
        let nth = |n: u32| self.at_least.saturating_add(step.saturating_mul(n));
        let inside = |wait: &Duration| self.at_most.is_none_or(|most| *wait < most);
        (1..=count).map(nth).filter(inside).collect()
    }

    fn finish(&mut self, event: LifetimeEvent) {
        self.done = true;
        self.events.push_back(event);
    }

    fn ask(&mut self, local: SocketAddr, test: Test, port: Option<u16>) {
        let id = random_transaction_id(&mut self.rng);
        let probe = Probe {
            test,
            local,
            remote: self.server,
            payload: request(id, port),
            ahead: None,
        };
        self.probes.add(id, probe);
    }
}

fn request(id: TransactionId, port: Option<u16>) -> Vec<u8> {
    Builder::new(Class::Request, Method::BINDING, id)
        .maybe_attribute(port.map(ResponsePort).as_ref())
        .build()
}
