//! An attempt at work.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::super::Shuffle;
use super::super::budget::is_forbidden;
use super::super::nat::{Allocation, PortRange};
use super::super::plan::{Part, Plan};
use super::{Action, Expected, Message, Prediction, Puncher, Tried, pace};

/// Datagrams that may leave at once when the timer was late.
const BURST: u32 = 8;
/// Ports that a prediction may name.
const MAX_PREDICTED: u16 = 64;
/// A prediction is checked so often: a datagram may be lost.
const FOLLOWED: usize = 2;
/// How long a prediction has to succeed before the next one is made.
const PREDICTION_WAIT: Duration = Duration::from_millis(400);
/// Sockets of a prediction: one to look before, one to open, one to look after.
const BRACKET: usize = 3;

/// An attempt that has begun, or waits for its sockets.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) plan: Plan,
    base: SocketAddr,
    peer: SocketAddr,
    begun: Instant,
    ends: Instant,
    /// Set once its sockets are there.
    next: Option<Instant>,
    sockets: Vec<SocketAddr>,
    opened: u32,
    shuffle: Shuffle,
    place: u32,
    sent: u32,
    bracket: Option<Bracket>,
    predictions: u32,
    predict_at: Option<Instant>,
    follow: VecDeque<u16>,
}

/// A mapping between two that a STUN server sees.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    before: (SocketAddr, Option<u16>),
    after: (SocketAddr, Option<u16>),
}

impl Attempt {
    pub(super) fn new(
        now: Instant,
        plan: Plan,
        base: SocketAddr,
        peer: SocketAddr,
        rng: &mut ChaCha20Rng,
    ) -> Self {
        let ports = plan.part.ports().map_or(1, PortRange::count);
        Self {
            base,
            peer,
            begun: now,
            ends: now.checked_add(plan.duration()).unwrap_or(now),
            next: None,
            sockets: Vec::new(),
            opened: 0,
            shuffle: Shuffle::new(ports, rng.next_u64()),
            place: 0,
            sent: 0,
            bracket: None,
            predictions: 0,
            predict_at: None,
            follow: VecDeque::new(),
            plan,
        }
    }

    pub(super) fn outcome(&self, now: Instant, succeeded: bool) -> Tried {
        Tried {
            technique: self.plan.technique,
            succeeded,
            probes: self.sent,
            sockets: self.opened,
            elapsed: now.saturating_duration_since(self.begun),
            probability: self.plan.probability,
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let next = self.next?;
        let next = Some(next).filter(|_| self.has_more());
        [next, self.predict_at, Some(self.ends)]
            .into_iter()
            .flatten()
            .min()
    }

    fn has_more(&self) -> bool {
        let sockets = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        match self.plan.part {
            Part::Predict { .. } => false,
            Part::Follow => !self.follow.is_empty(),
            Part::Open { .. } => self.place < sockets,
            Part::Probe { probes, .. }
            | Part::Spray { probes, .. }
            | Part::OpenAndProbe { probes, .. } => self.place < probes,
        }
    }

    /// The next datagram: from where and where to.
    fn take(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        while self.has_more() {
            let place = self.place;
            self.place = place.saturating_add(1);
            let way = self.way(place);
            if let Some((_, remote)) = way
                && (remote == self.peer || !is_forbidden(remote.port()))
            {
                return way;
            }
        }
        None
    }

    fn way(&mut self, place: u32) -> Option<(SocketAddr, SocketAddr)> {
        match self.plan.part {
            Part::Predict { .. } => None,
            Part::Follow => {
                let port = self.follow.pop_front()?;
                Some((self.base, SocketAddr::new(self.peer.ip(), port)))
            }
            Part::Open { .. } => Some((self.socket(place)?, self.peer)),
            Part::Probe { ports, .. } => Some((self.base, self.random_port(ports, place))),
            Part::Spray { ports, .. } => {
                // The second time round the ports, each is checked from another socket.
                let round = place.checked_div(ports.count()).unwrap_or(0);
                let local = self.socket(place.saturating_add(round))?;
                Some((local, self.random_port(ports, place)))
            }
            Part::OpenAndProbe { ports, sockets, .. } => {
                let turn = place >> 1;
                if place & 1 == 0 && turn < sockets {
                    return Some((self.socket(turn)?, self.peer));
                }
                let probed = place.saturating_sub(sockets.min(turn.saturating_add(1)));
                Some((self.base, self.random_port(ports, probed)))
            }
        }
    }

    fn socket(&self, number: u32) -> Option<SocketAddr> {
        let count = self.sockets.len();
        let index = usize::try_from(number).ok()?.checked_rem(count)?;
        self.sockets.get(index).copied()
    }

    fn random_port(&self, ports: PortRange, place: u32) -> SocketAddr {
        SocketAddr::new(self.peer.ip(), ports.nth(self.shuffle.at(place)))
    }

    fn pass_time(&mut self, now: Instant, sent_at: Instant) {
        let late = now.checked_sub(pace().saturating_mul(BURST));
        let next = sent_at.checked_add(pace());
        self.next = next.max(late);
    }
}

impl Part {
    const fn ports(&self) -> Option<PortRange> {
        match *self {
            Self::Predict { .. } | Self::Follow | Self::Open { .. } => None,
            Self::Probe { ports, .. }
            | Self::Spray { ports, .. }
            | Self::OpenAndProbe { ports, .. } => Some(ports),
        }
    }
}

/// Running.
impl Puncher {
    pub(super) fn begin_attempt(&mut self, now: Instant, sockets: Vec<SocketAddr>) {
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.next.is_none()) else {
            return self.close(|socket| sockets.contains(&socket));
        };
        attempt.opened = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        attempt.sockets = sockets;
        attempt.next = Some(now);
        let duration = attempt.plan.duration();
        attempt.ends = now.checked_add(duration).unwrap_or(now);
        match attempt.plan.part {
            Part::Predict { .. } => attempt.predict_at = Some(now),
            Part::Follow => {
                if let Some(prediction) = self.prediction.take() {
                    attempt.follow.extend(ports_of(&prediction));
                }
            }
            Part::Open { .. }
            | Part::Probe { .. }
            | Part::Spray { .. }
            | Part::OpenAndProbe { .. } => {}
        }
    }

    pub(super) fn run_attempt(&mut self, now: Instant) {
        self.ask_for_bracket(now);
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        while let Some(next) = attempt.next
            && next <= now
            && let Some((local, remote)) = attempt.take()
        {
            attempt.sent = attempt.sent.saturating_add(1);
            attempt.pass_time(now, next);
            self.actions.push_back(Action::Probe { local, remote });
        }
        if attempt.next.is_some() && attempt.ends <= now {
            self.end_attempt(now, false);
        }
    }
}

/// Prediction.
impl Puncher {
    /// The peer has told ports: they are checked, if that is our part.
    pub(super) fn follow(&mut self, now: Instant, prediction: Prediction) {
        match &mut self.attempt {
            Some(attempt) if attempt.next.is_some() && attempt.plan.part == Part::Follow => {
                attempt.follow.clear();
                attempt.follow.extend(ports_of(&prediction));
                attempt.next = attempt.next.max(Some(now));
            }
            Some(_) | None => self.prediction = Some(prediction),
        }
    }

    fn ask_for_bracket(&mut self, now: Instant) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let Part::Predict { times } = attempt.plan.part else {
            return;
        };
        if attempt.predict_at.is_none_or(|at| at > now) {
            return;
        }
        attempt.predict_at = None;
        if attempt.predictions >= times {
            return;
        }
        attempt.predictions = attempt.predictions.saturating_add(1);
        let base = attempt.base;
        self.expected.push_back(Expected::Prediction);
        self.actions.push_back(Action::OpenSockets {
            base,
            count: BRACKET,
            attempt: true,
        });
    }

    /// Opens a mapping towards the peer between two that the STUN server sees, as closely as
    /// possible.
    pub(super) fn predict_from(&mut self, now: Instant, sockets: &[SocketAddr]) {
        let Some(attempt) = &mut self.attempt else {
            return self.close(|socket| sockets.contains(&socket));
        };
        let (Some(server), &[before, local, after]) = (self.server, sockets) else {
            attempt.predict_at = now.checked_add(PREDICTION_WAIT);
            return self.close(|socket| sockets.contains(&socket));
        };
        attempt.opened = attempt.opened.saturating_add(3);
        attempt.sent = attempt.sent.saturating_add(1);
        attempt.predict_at = now.checked_add(PREDICTION_WAIT);
        let remote = attempt.peer;
        let probe = Action::Probe { local, remote };
        let allocation = self.local.map(|nat| nat.allocation);
        if allocation == Some(Allocation::Preserving) {
            self.actions.push_back(probe);
            self.tell_prediction(Prediction {
                first: local.port(),
                step: 1,
                count: 1,
            });
            return;
        }
        attempt.bracket = Some(Bracket {
            before: (before, None),
            after: (after, None),
        });
        let sample = |local| Action::Sample { local, server };
        self.actions.extend([sample(before), probe, sample(after)]);
    }

    /// A STUN server has seen a neighbour of the mapping.
    pub(super) fn on_bracket(
        &mut self,
        now: Instant,
        local: SocketAddr,
        mapped: Option<SocketAddr>,
    ) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let Some(bracket) = &mut attempt.bracket else {
            return;
        };
        for (socket, port) in [&mut bracket.before, &mut bracket.after] {
            if *socket == local {
                *port = mapped.map(|mapped| mapped.port());
            }
        }
        let (Some(low), Some(high)) = (bracket.before.1, bracket.after.1) else {
            return;
        };
        attempt.bracket = None;
        match self
            .local
            .and_then(|nat| between(nat.allocation, low, high))
        {
            Some(prediction) => {
                attempt.predict_at = now.checked_add(PREDICTION_WAIT);
                self.tell_prediction(prediction);
            }
            // The counter has begun anew, or too many came in between.
            None => attempt.predict_at = Some(now),
        }
    }

    fn tell_prediction(&mut self, prediction: Prediction) {
        let message = Message::Prediction(prediction);
        self.actions.push_back(Action::Tell(message));
    }
}

/// The ports between two of a sequence.
fn between(allocation: Allocation, low: u16, high: u16) -> Option<Prediction> {
    let Allocation::Sequential { step, .. } = allocation else {
        return None;
    };
    let distance = i32::from(high).checked_sub(i32::from(low))?;
    let places = distance.checked_div(i32::from(step))?;
    let count = u16::try_from(places).ok()?.checked_sub(1)?;
    (1..=MAX_PREDICTED).contains(&count).then_some(Prediction {
        first: low.saturating_add_signed(step),
        step,
        count,
    })
}

/// The ports of a prediction, as often as each is checked.
fn ports_of(prediction: &Prediction) -> Vec<u16> {
    let Prediction { first, step, count } = *prediction;
    let mut ports = Vec::new();
    let mut port = first;
    for _ in 0..count.min(MAX_PREDICTED) {
        ports.push(port);
        port = port.saturating_add_signed(step);
    }
    let all = ports.len().saturating_mul(FOLLOWED);
    ports.iter().copied().cycle().take(all).collect()
}
