//! Mappings that live for a limited time, whatever passes: some carriers end them after a minute.
//!
//! STUN servers show it: the base in use has another port at the same address. From then on the
//! next mapping is made before the one in use ends, from a socket of its own, and becomes a
//! candidate as any host's; [`exploring`](super::exploring) moves to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::candidate::{COMPONENT, CandidateKind, unscoped};
use super::event::Event;

/// Shorter lives, and longer ones, have another reason: a router that starts anew, say. RFC 4787
/// section 4.3 wants two minutes at least.
const LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(20)..=Duration::from_secs(900);

/// The next mapping is made at this part of the life, in percent: the end was seen some seconds late,
/// and lives differ.
const PART: u32 = 65;

/// Pause before a renewal that has come to nothing is tried again.
const AGAIN: Duration = Duration::from_secs(8);

/// A socket is closed so long after the pair that used it has been replaced: what is under way on it
/// arrives meanwhile.
const FAREWELL: Duration = Duration::from_secs(5);

/// Sockets opened for mappings at a time: one in use, one to come, one to go.
const MAX_SOCKETS: usize = 3;

/// What is known of the life of mappings.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// What each server sees of each base, and since when.
    seen: BTreeMap<(SocketAddr, SocketAddr), (SocketAddr, Instant)>,
    /// The base in use, or the last that was, and since when.
    used: Option<(SocketAddr, Instant)>,
    /// Whether mappings depended on the destination when the first pair was selected. Later checks
    /// may show another mapping because the one before has ended.
    dependent: Option<bool>,
    /// The shortest life that was seen.
    life: Option<Duration>,
    /// When a socket was asked for last.
    asked: Option<Instant>,
    /// Sockets opened for mappings, and when those not in use any more are closed.
    sockets: BTreeMap<SocketAddr, Option<Instant>>,
}

impl Agent {
    /// What a server sees of a base. Where mappings depend on the destination, those towards servers
    /// say nothing about the one in use.
    pub(super) fn note_life(
        &mut self,
        now: Instant,
        (base, server): (SocketAddr, SocketAddr),
        mapped: SocketAddr,
    ) {
        let disagree = self.locals.servers_disagree();
        let renewal = &mut self.renewal;
        let endpoint_dependent = disagree || renewal.dependent == Some(true);
        let known = renewal.seen.insert((base, server), (mapped, now));
        let Some((before, since)) = known else { return };
        if before == mapped {
            renewal.seen.insert((base, server), (mapped, since));
            return;
        }
        let life = now.saturating_duration_since(since);
        let used = renewal.used.is_some_and(|(used, _)| used == unscoped(base));
        let limited = used && before.ip() == mapped.ip();
        if limited && !endpoint_dependent && LIVES.contains(&life) {
            tracing::debug!(?life, "a mapping has ended");
            renewal.life = Some(renewal.life.map_or(life, |shortest| shortest.min(life)));
        }
    }

    /// A pair is in use from now on.
    pub(super) fn note_used(&mut self, now: Instant, base: SocketAddr) {
        let differs = self.mapping_differs;
        let renewal = &mut self.renewal;
        renewal.dependent.get_or_insert(differs);
        if renewal.used.is_none_or(|(used, _)| used != unscoped(base)) {
            renewal.used = Some((unscoped(base), now));
        }
        for (socket, closes) in &mut renewal.sockets {
            let used = unscoped(*socket) == unscoped(base);
            *closes = (!used).then(|| closes.unwrap_or(after(now, FAREWELL)));
        }
    }

    /// Whether the mapping of this base is one to be replaced: the next one has been asked for.
    pub(super) fn is_outdated(&self, base: SocketAddr) -> bool {
        let asked = self.renewal.asked;
        asked.is_some_and(|asked| self.mapped_since(base).is_some_and(|since| since < asked))
    }

    /// Since when the mapping of a base is there, as servers know it. No server knows of one that
    /// punching opened: not much longer than it is used.
    fn mapped_since(&self, base: SocketAddr) -> Option<Instant> {
        let seen = self.renewal.seen.iter();
        let of_base = seen.filter(|((from, _), _)| unscoped(*from) == unscoped(base));
        let oldest = of_base.map(|(_, (_, since))| *since).min();
        let used = self
            .renewal
            .used
            .filter(|(used, _)| *used == unscoped(base));
        oldest.or_else(|| Some(used?.1))
    }

    /// Whether a pair has been selected before.
    pub(super) fn has_begun(&self) -> bool {
        self.renewal.used.is_some()
    }

    /// When the next mapping is made, of whatever base is in use through a NAT.
    fn renewal_due(&self) -> Option<Instant> {
        let life = self.renewal.life?;
        let path = self.selected().filter(|_| self.is_settled())?;
        let mapped = [CandidateKind::ServerReflexive, CandidateKind::PeerReflexive];
        if !mapped.contains(&path.local_kind) || !self.config.punch {
            return None;
        }
        let part = life.saturating_mul(PART).checked_div(100)?;
        let due = after(self.mapped_since(path.local)?, part);
        let again = self.renewal.asked.map(|asked| after(asked, AGAIN));
        Some(again.map_or(due, |again| due.max(again)))
    }

    /// Asks for a socket when it is time, and closes those that are not used any more.
    pub(super) fn run_renewal(&mut self, now: Instant) {
        if self.renewal_due().is_some_and(|due| due <= now) {
            self.renewal.asked = Some(now);
            let used = self.in_use(COMPONENT).map(|key| key.local);
            let spare = self.renewal.sockets.keys().copied();
            let spare: Vec<_> = spare.filter(|socket| Some(*socket) != used).collect();
            // What came of the last try is of no use.
            for socket in spare {
                self.close_renewed(now, socket);
            }
            if let (Some(base), true) = (used, self.renewal.sockets.len() < MAX_SOCKETS) {
                self.ask_for_sockets(base, 1, false, Wanted::Renewal);
            }
        }
        let closing = self.renewal.sockets.iter();
        let closing = closing.filter(|(_, closes)| closes.is_some_and(|at| at <= now));
        let closing: Vec<_> = closing.map(|(socket, _)| *socket).collect();
        for socket in closing {
            self.close_renewed(now, socket);
        }
    }

    /// The socket that was asked for.
    pub(super) fn on_renewed(&mut self, now: Instant, sockets: Option<&[SocketAddr]>) {
        for socket in sockets.unwrap_or_default() {
            self.renewal.sockets.insert(*socket, None);
            self.add_host(now, *socket);
        }
    }

    /// The address of the machine that they are at is gone.
    pub(super) fn close_renewed_at(&mut self, now: Instant, address: SocketAddr) {
        let renewal = &mut self.renewal;
        renewal.seen.retain(|(base, _), _| *base != address);
        let gone = renewal.sockets.keys().copied();
        let gone: Vec<_> = gone.filter(|s| s.ip() == address.ip()).collect();
        for socket in gone {
            self.close_renewed(now, socket);
        }
    }

    fn close_renewed(&mut self, now: Instant, socket: SocketAddr) {
        self.renewal.sockets.remove(&socket);
        self.renewal.seen.retain(|(base, _), _| *base != socket);
        self.events.push_back(Event::CloseSockets(vec![socket]));
        self.remove_base(now, socket);
    }

    pub(super) fn renewal_timeout(&self) -> Option<Instant> {
        let closing = self.renewal.sockets.values().copied().flatten();
        closing.chain(self.renewal_due()).min()
    }
}

/// What sockets were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Punching,
    Renewal,
}

impl Agent {
    pub(super) fn ask_for_sockets(
        &mut self,
        base: SocketAddr,
        count: usize,
        attempt: bool,
        wanted: Wanted,
    ) {
        self.wanted_sockets.push_back(wanted);
        self.events.push_back(Event::OpenSockets {
            base,
            count,
            attempt,
        });
    }
}
