//! An attempt at work.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::super::Shuffle;
use super::super::budget::is_forbidden;
use super::super::nat::{Allocation, PortRange};
use super::super::plan::{Lead, Part, Plan};
use super::{Action, Expected, Message, Prediction, Puncher, Tried, pace};

/// Datagrams that may leave at once when the timer was late.
const BURST: u32 = 8;
/// Ports that a prediction may name.
const MAX_PREDICTED: u16 = 64;
/// A prediction is checked so often: a datagram may be lost.
const FOLLOWED: usize = 2;
/// How long a prediction has to succeed before the next one is made.
const PREDICTION_WAIT: Duration = Duration::from_millis(400);
/// The time to live of the first datagrams that open a mapping and are not to arrive: it
/// passes one NAT of ours. A router that takes unasked packets for its own would remember
/// theirs, and then give the peer's answer another port.
const FIRST_TTL: u8 = 2;
/// Each round sends them one hop further, for there may be several NATs in a row. The last one
/// lets them arrive: the peer may have tried their ports before they were open.
const ROUNDS: u32 = 4;
/// The time to live of those that have one round only: three NATs of ours.
const FAR_TTL: u8 = 4;
/// Sockets of a prediction: one to look before, one to open, one to look after.
const BRACKET: usize = 3;

/// An attempt that has begun, or waits for its sockets.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) plan: Plan,
    /// Whether the first datagrams that open a mapping are kept from arriving.
    primer: bool,
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
    /// The port of the peer's to which all sockets send, and how many have.
    target: Option<SocketAddr>,
    answered: usize,
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
        (base, peer): (SocketAddr, SocketAddr),
        primer: bool,
        rng: &mut ChaCha20Rng,
    ) -> Self {
        let ports = plan.part.ports().map_or(1, PortRange::count);
        Self {
            primer,
            base,
            peer,
            begun: now,
            ends: now.checked_add(plan.duration()).unwrap_or(now),
            next: None,
            sockets: Vec::new(),
            opened: 0,
            shuffle: Shuffle::new(ports, rng.next_u64()),
            place: 0,
            target: None,
            answered: 0,
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

    /// Datagrams sent so far.
    pub(super) const fn sent(&self) -> u32 {
        self.sent
    }

    /// Sockets opened so far.
    pub(super) const fn opened(&self) -> u32 {
        self.opened
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
            Part::Follow | Part::Renew { .. } => !self.follow.is_empty(),
            Part::Open { .. } => self.place <= sockets.saturating_mul(ROUNDS),
            Part::Probe { probes, .. }
            | Part::Spray { probes, .. }
            | Part::OpenThenProbe { probes, .. }
            | Part::OpenAndProbe { probes, .. } => self.place < probes,
        }
    }

    /// Whether the peer has one port for all of ours, and it is not known yet.
    pub(super) fn awaits_port(&self) -> bool {
        let answers = matches!(self.plan.part, Part::Spray { answers: true, .. });
        answers && self.target.is_none() && self.next.is_some()
    }

    /// A check of the peer has come from this port. All sockets are to send there.
    pub(super) fn answer(&mut self, from: SocketAddr) {
        if self.awaits_port() && from.ip() == self.peer.ip() {
            self.target = Some(from);
        }
    }

    /// The next socket's datagram to that port; the main socket's is the last.
    fn answer_next(&mut self) -> Option<Way> {
        let remote = self.target?;
        let sockets = self.sockets.iter().copied();
        let local = sockets.chain([self.base]).nth(self.answered)?;
        self.answered = self.answered.saturating_add(1);
        Some(Way {
            local,
            remote,
            ttl: None,
        })
    }

    /// The next datagram.
    fn take(&mut self) -> Option<Way> {
        while self.has_more() {
            let place = self.place;
            self.place = place.saturating_add(1);
            let way = self.answer_next().or_else(|| self.way(place));
            if let Some(Way { remote, .. }) = way
                && (remote == self.peer || !is_forbidden(remote.port()))
            {
                return way;
            }
        }
        None
    }

    fn way(&mut self, place: u32) -> Option<Way> {
        let to = |local, remote| Way {
            local,
            remote,
            ttl: None,
        };
        match self.plan.part {
            Part::Predict { .. } => None,
            Part::Follow | Part::Renew { .. } => {
                let port = self.follow.pop_front()?;
                Some(to(self.base, SocketAddr::new(self.peer.ip(), port)))
            }
            // First the plain check again: the peer's filter may have been closed yet, and opens
            // for all ports of an address in many routers.
            Part::Open { .. } => match place.checked_sub(1) {
                Some(number) => self.opening(number),
                None => Some(to(self.base, self.peer)),
            },
            Part::Probe { ports, .. } => Some(to(self.base, self.random_port(ports, place))),
            Part::Spray { ports, lead, .. } => {
                let place = match (lead, place.checked_sub(self.lead_of(lead))) {
                    (Lead::Open, None) => return self.opening(place),
                    (Lead::Probe(_), None) => {
                        return Some(to(self.base, self.random_port(ports, place)));
                    }
                    (_, rest) => rest?,
                };
                // Each time round the ports, each is checked from another socket: from the same one
                // it would be the same flow.
                let round = place.checked_div(ports.count())?;
                let within = place.checked_rem(ports.count())?;
                let local = self.socket(within.saturating_add(round))?;
                Some(to(local, self.random_port(ports, place)))
            }
            Part::OpenThenProbe { ports, .. } => {
                let sockets = u32::try_from(self.sockets.len()).ok()?;
                let ttl = self.primer.then_some(FAR_TTL);
                match place.checked_sub(sockets) {
                    None => self.opening(place).map(|way| Way { ttl, ..way }),
                    Some(probed) => Some(to(self.base, self.random_port(ports, probed))),
                }
            }
            Part::OpenAndProbe { ports, sockets, .. } => {
                let turn = place >> 1;
                let openings = sockets.saturating_mul(2);
                if place & 1 == 0 && turn < openings {
                    return self.opening(turn);
                }
                let probed = place.saturating_sub(openings.min(turn.saturating_add(1)));
                Some(to(self.base, self.random_port(ports, probed)))
            }
        }
    }

    /// How many datagrams come first.
    fn lead_of(&self, lead: Lead) -> u32 {
        let sockets = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        match lead {
            Lead::Nothing => 0,
            Lead::Open => sockets.saturating_mul(ROUNDS),
            Lead::Probe(probes) => probes,
        }
    }

    /// A datagram that opens a mapping towards the peer and does not arrive there.
    fn opening(&self, number: u32) -> Option<Way> {
        let sockets = u32::try_from(self.sockets.len()).ok()?;
        let round = number.checked_div(sockets)?;
        Some(Way {
            local: self.socket(number)?,
            remote: self.peer,
            ttl: self.ttl_of(round),
        })
    }

    fn ttl_of(&self, round: u32) -> Option<u8> {
        let arrives = !self.primer || round >= ROUNDS.saturating_sub(1);
        let further = u8::try_from(round).ok().filter(|_| !arrives)?;
        Some(FIRST_TTL.saturating_add(further))
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

/// A datagram's way.
#[derive(Debug, Clone, Copy)]
struct Way {
    local: SocketAddr,
    remote: SocketAddr,
    ttl: Option<u8>,
}

impl Part {
    const fn follows(&self) -> bool {
        matches!(self, Self::Follow | Self::Renew { .. })
    }

    const fn ports(&self) -> Option<PortRange> {
        match *self {
            Self::Renew { .. } | Self::Predict { .. } | Self::Follow | Self::Open { .. } => None,
            Self::Probe { ports, .. }
            | Self::Spray { ports, .. }
            | Self::OpenThenProbe { ports, .. }
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
            Part::Follow | Part::Renew { .. } => {
                let renews = attempt.plan.part != Part::Follow;
                attempt.predict_at = renews.then_some(now);
                if let Some(prediction) = self.prediction.take() {
                    attempt.follow.extend(ports_of(&prediction));
                }
            }
            Part::Open { .. }
            | Part::Probe { .. }
            | Part::Spray { .. }
            | Part::OpenThenProbe { .. }
            | Part::OpenAndProbe { .. } => {}
        }
    }

    /// Where the attempt that runs would have use for a port of the peer's that is the same for all of
    /// ours: at this address.
    pub fn awaits_port_at(&self) -> Option<IpAddr> {
        let attempt = self.attempt.as_ref().filter(|a| a.awaits_port())?;
        Some(attempt.peer.ip())
    }

    /// A check of the peer has come from there.
    pub fn on_port(&mut self, now: Instant, from: SocketAddr) {
        if let Some(attempt) = &mut self.attempt {
            attempt.answer(from);
        }
        self.handle_timeout(now);
    }

    pub(super) fn run_attempt(&mut self, now: Instant) {
        self.ask_for_bracket(now);
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        while let Some(next) = attempt.next
            && next <= now
            && let Some(Way { local, remote, ttl }) = attempt.take()
        {
            attempt.sent = attempt.sent.saturating_add(1);
            attempt.pass_time(now, next);
            self.actions.push_back(Action::Probe { local, remote, ttl });
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
            Some(attempt) if attempt.next.is_some() && attempt.plan.part.follows() => {
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
        let (times, count) = match attempt.plan.part {
            Part::Predict { times } => (times, BRACKET),
            Part::Renew { times } => (times, 1),
            Part::Follow
            | Part::Open { .. }
            | Part::Probe { .. }
            | Part::Spray { .. }
            | Part::OpenThenProbe { .. }
            | Part::OpenAndProbe { .. } => return,
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
            count,
            attempt: true,
        });
    }

    /// Opens a mapping towards the peer between two that the STUN server sees, as closely as
    /// possible.
    pub(super) fn predict_from(&mut self, now: Instant, sockets: &[SocketAddr]) {
        let Some(attempt) = &mut self.attempt else {
            return self.close(|socket| sockets.contains(&socket));
        };
        attempt.predict_at = now.checked_add(PREDICTION_WAIT);
        let (server, before, local, after) = match (self.server, sockets) {
            (Some(server), &[before, local, after]) => (server, before, local, after),
            (Some(server), &[local]) => (server, local, local, local),
            _ => return self.close(|socket| sockets.contains(&socket)),
        };
        let opened = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        attempt.opened = attempt.opened.saturating_add(opened);
        attempt.sent = attempt.sent.saturating_add(1);
        // Between two samples the order matters more than where the datagram ends.
        let round = attempt.predictions.saturating_sub(1);
        let probe = Action::Probe {
            local,
            remote: attempt.peer,
            ttl: attempt.ttl_of(round).filter(|_| before == after),
        };
        let allocation = self.local.map(|nat| nat.allocation);
        if local != before && allocation == Some(Allocation::Preserving) {
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
        let sample = |local| Action::Sample {
            local,
            server,
            change: None,
        };
        if before == after {
            return self.actions.extend([probe, sample(local)]);
        }
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
        let same = bracket.before.0 == bracket.after.0;
        attempt.bracket = None;
        if same {
            return self.tell_prediction(Prediction {
                first: low,
                step: 1,
                count: 1,
            });
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]

    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use rand_core::SeedableRng;

    use super::super::super::Technique;
    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(45, 45, host, 2).into(), port)
    }

    fn attempt(part: Part) -> Attempt {
        let plan = Plan {
            technique: Technique::Birthday,
            part,
            probability: 0.5,
            grace: Duration::ZERO,
        };
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let ends = (at(1, 1000), at(2, 40_000));
        let mut attempt = Attempt::new(Instant::now(), plan, ends, true, &mut rng);
        attempt.sockets = (2000..2256).map(|port| at(1, port)).collect();
        attempt.next = Some(Instant::now());
        attempt
    }

    /// What a NAT of one port for all of ours and a strict filter is passed with: a hit tells
    /// that port, and then every socket opens a mapping towards it.
    #[test]
    fn all_sockets_answer_the_port_that_has_hit_and_the_budget_stays_what_it_is() {
        let mut attempt = attempt(Part::Spray {
            sockets: 256,
            ports: PortRange::ALL,
            probes: 1500,
            answers: true,
            lead: Lead::Nothing,
        });
        for _ in 0..300 {
            attempt.take().unwrap();
        }
        attempt.answer(at(9, 7777));
        assert!(attempt.awaits_port(), "another host is not the peer's NAT");
        attempt.answer(at(2, 7777));
        attempt.answer(at(2, 8888));
        let answers: Vec<_> = (0..257).map(|_| attempt.take().unwrap()).collect();
        assert!(answers.iter().all(|way| way.remote == at(2, 7777)));
        let from: BTreeSet<_> = answers.iter().map(|way| way.local).collect();
        assert_eq!(from.len(), 257, "each socket once, the main one too");
        let rest = std::iter::from_fn(|| attempt.take()).count();
        assert!((900..=943).contains(&rest), "{rest} of 1500 are left");
    }

    #[test]
    fn the_side_with_one_port_for_all_opens_its_mappings_and_probes_from_the_main_socket() {
        let mut attempt = attempt(Part::OpenThenProbe {
            sockets: 256,
            ports: PortRange::ALL,
            probes: 1500,
        });
        let ways: Vec<_> = std::iter::from_fn(|| attempt.take()).collect();
        let (opened, probed) = ways.split_at(256);
        assert!(
            opened
                .iter()
                .all(|w| w.remote == at(2, 40_000) && w.ttl == Some(FAR_TTL))
        );
        assert!(
            probed
                .iter()
                .all(|w| w.local == at(1, 1000) && w.ttl.is_none())
        );
        let ports: BTreeSet<_> = probed.iter().map(|way| way.remote).collect();
        assert_eq!(ports.len(), probed.len(), "no port twice");
        assert!(probed.len() > 1200 && probed.len() <= 1244);
    }

    /// Where it is not known whether one side maps endpoint-dependently: first as if it did not.
    #[test]
    fn both_sides_guess_after_one_has_opened_and_the_other_has_probed() {
        let ports = PortRange {
            first: 40_000,
            last: 40_799,
        };
        let ways = |lead| {
            let mut attempt = attempt(Part::Spray {
                sockets: 64,
                ports,
                probes: 1500,
                answers: false,
                lead,
            });
            attempt.sockets.truncate(64);
            std::iter::from_fn(move || attempt.take()).collect::<Vec<_>>()
        };
        let opening = ways(Lead::Open);
        let (opened, sprayed) = opening.split_at(256);
        assert!(opened.iter().all(|way| way.remote == at(2, 40_000)));
        assert_eq!(opened.iter().filter(|way| way.ttl.is_none()).count(), 64);
        let probing = ways(Lead::Probe(300));
        let (probed, rest) = probing.split_at(300);
        assert!(probed.iter().all(|way| way.local == at(1, 1000)));
        for sprayed in [sprayed, rest] {
            let flows: BTreeSet<_> = sprayed.iter().map(|way| (way.local, way.remote)).collect();
            assert_eq!(flows.len(), sprayed.len());
            assert!(sprayed.iter().all(|way| way.local != at(1, 1000)));
        }
        assert_eq!((opening.len(), probing.len()), (1500, 1500));
    }

    /// A second probe of the same port from the same socket would be the same flow, and buy nothing.
    #[test]
    fn no_two_probes_of_many_sockets_are_the_same_flow() {
        for (ports, probes) in [
            (700, 1500),
            (703, 1500),
            (767, 4500),
            (800, 4500),
            (63, 1500),
        ] {
            let ports = PortRange {
                first: 40_000,
                last: 39_999 + ports,
            };
            let sockets = 64;
            let plan = Plan {
                technique: Technique::Birthday,
                part: Part::Spray {
                    sockets,
                    ports,
                    probes,
                    answers: false,
                    lead: Lead::Nothing,
                },
                probability: 0.5,
                grace: Duration::ZERO,
            };
            let local = |port| SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), port);
            let ends = (
                local(1),
                SocketAddr::new(Ipv4Addr::new(45, 45, 2, 2).into(), 40_000),
            );
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let mut attempt = Attempt::new(Instant::now(), plan, ends, true, &mut rng);
            attempt.sockets = (1..=u16::try_from(sockets).unwrap()).map(local).collect();
            let ways = std::iter::from_fn(|| attempt.take());
            let flows: BTreeSet<_> = ways.map(|way| (way.local, way.remote)).collect();
            assert_eq!(flows.len(), usize::try_from(probes).unwrap(), "{ports:?}");
        }
    }
}
