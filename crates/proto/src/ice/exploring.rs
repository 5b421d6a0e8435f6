//! Better paths while one works, make before break: what is new on either side is checked beside the
//! selected pair, and takes its place if it is better by a margin.
//!
//! New is a host that was added, a candidate that was told, or an address from which the peer
//! checks, each after a direct pair had been selected. RFC 8445 restarts for that; a standard
//! peer answers these checks as any others, and a nomination in place of the first one makes
//! it use the new pair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::candidate::{COMPONENT, Candidate, CandidateKind, unscoped};
use super::config::Role;
use super::pair::{Pair, PairKey};

/// So long something new is checked.
const LASTS: Duration = Duration::from_secs(10);

/// A pair has been selected for so long before what the peer tells is news: what comes earlier
/// belongs to the session's beginning. Hosts are told at once, in the hello: one that is told later
/// is news at any time, and with it what is said meanwhile.
const REST: Duration = Duration::from_secs(2);

/// A host has been there for so long before it takes the place of one that works: interfaces come up in
/// steps, and some go again at once.
const STABLE: Duration = Duration::from_secs(1);

/// Between two replacements of pairs that work.
const DWELL: Duration = Duration::from_secs(2);

/// News that is looked at at a time, of each kind.
const MAX_NEWS: usize = 16;

/// A preferred pair may be so much slower: twice, and this much more.
const SLOWER: Duration = Duration::from_millis(20);

/// Another one must need two thirds of the round trip, and be this much faster then.
const FASTER: Duration = Duration::from_millis(5);

/// What is new since a pair was selected.
#[derive(Debug, Default)]
pub(super) struct Exploring {
    /// Hosts, and since when they are there.
    bases: BTreeMap<SocketAddr, Instant>,
    remotes: BTreeSet<SocketAddr>,
    /// Whether a host that the peer has told is among these: other addresses of it will follow.
    told_host: bool,
    until: Option<Instant>,
    /// When what had failed was tried again.
    retried: Option<Instant>,
}

impl Exploring {
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Whether a pair of these two is new.
    pub(super) fn has(&self, base: SocketAddr, remote: SocketAddr) -> bool {
        self.is_new_base(base) || self.remotes.contains(&unscoped(remote))
    }

    pub(super) fn is_new_base(&self, base: SocketAddr) -> bool {
        self.bases.contains_key(&unscoped(base))
    }

    fn forget(&mut self, base: SocketAddr) {
        self.bases.remove(&unscoped(base));
    }
}

impl Agent {
    /// A host has been added.
    pub(super) fn on_new_base(&mut self, now: Instant, base: SocketAddr) {
        let exploring = &mut self.exploring;
        if self.components.is_single() && exploring.bases.len() < MAX_NEWS {
            exploring.bases.insert(unscoped(base), now);
            self.explore(now);
        }
    }

    /// The peer has told of an address, or checks from it.
    pub(super) fn on_new_remote(&mut self, now: Instant, remote: SocketAddr) {
        let known = self.remotes.find(remote);
        let is_host = known.is_some_and(|known| known.kind == CandidateKind::Host);
        let exploring = &mut self.exploring;
        if self.components.is_single() && exploring.remotes.len() < MAX_NEWS {
            exploring.remotes.insert(unscoped(remote));
            exploring.told_host |= is_host;
            self.explore(now);
        }
    }

    fn explore(&mut self, now: Instant) {
        let exploring = &mut self.exploring;
        exploring.until = Some(after(now, LASTS));
        if exploring.retried.is_none_or(|at| after(at, DWELL) <= now) {
            exploring.retried = Some(now);
            self.list
                .retry(|pair| pair.is_direct() && exploring.has(pair.key.local, pair.key.remote));
        }
        self.pair_all();
    }

    /// Whether a check on a pair that was not seen before may mean that the peer has another address.
    pub(super) fn may_be_news(&self, pair: PairKey) -> bool {
        let base = self
            .locals
            .base(pair.local)
            .is_some_and(|base| base.kind == CandidateKind::Host);
        let remote = self.remotes.find(pair.remote);
        let relayed = remote.is_some_and(|remote| remote.kind == CandidateKind::Relayed);
        let known = !self.list.keys_to(unscoped(pair.remote)).is_empty();
        base && !known && !relayed && !self.locals.is_socket(pair.local)
    }

    /// Forgets addresses of the peer that have come to nothing, the oldest first, and their pairs, where
    /// more would not be remembered: of a session that goes on, the latest are what counts.
    pub(super) fn make_room_for_news(&mut self) {
        while self.remotes.is_full() || self.list.is_nearly_full() {
            let list = &self.list;
            let used = |remote: &Candidate| {
                let mut pairs = list
                    .iter()
                    .filter(|p| unscoped(p.key.remote) == remote.address);
                pairs.any(|pair| !pair.is_idle())
            };
            let Some(forgotten) = self.remotes.forget_oldest(|remote| !used(remote)) else {
                return;
            };
            for key in self.list.keys_to(forgotten) {
                self.forget_checks(key);
                self.list.remove(key);
            }
        }
    }

    /// Whether a direct pair has been selected and the session's beginning is over.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        let since = self.components.get(COMPONENT);
        let since = since.and_then(|progress| progress.nomination.selected_at());
        self.is_settled() && since.is_some_and(|since| after(since, REST) <= now)
    }

    /// Whether what the peer tells, or checks from, may be news. Where mappings end again and again it is
    /// not before there is some rest: each look at what is new costs the next one.
    pub(super) fn takes_news(&self, now: Instant) -> bool {
        self.is_at_rest(now) || self.is_settled() && self.exploring.told_host
    }

    /// Whether a candidate is told because the peer's network has changed.
    pub(super) fn is_told_as_news(&self, now: Instant, candidate: &Candidate) -> bool {
        let is_host = |candidate: &Candidate| candidate.kind == CandidateKind::Host;
        // Another port of the same host is there because a mapping ends, not a network.
        let same =
            |known: &Candidate| is_host(known) && known.address.ip() == candidate.address.ip();
        let host = is_host(candidate) && !self.remotes.iter().any(same);
        self.takes_news(now) || self.is_settled() && host
    }

    /// Whether servers are asked, and pairs checked, from this base: from all as long as no direct pair
    /// is selected.
    pub(super) fn looks_from(&self, base: SocketAddr) -> bool {
        !self.is_settled() || self.exploring.is_new_base(base)
    }

    /// A base is no more.
    pub(super) fn end_exploring_from(&mut self, base: SocketAddr) {
        self.exploring.forget(base);
    }

    /// Nominates a pair that is better than the selected one, and ends what has lasted long enough.
    /// Without a direct pair everything is checked anyway.
    pub(super) fn run_exploring(&mut self, now: Instant) {
        if !self.exploring.is_on() {
            return;
        }
        if !self.is_settled() {
            self.exploring = Exploring::default();
        } else if self.exploring.until.is_some_and(|until| until <= now) {
            self.exploring = Exploring::default();
            self.tidy_up(now);
        } else {
            self.nominate_better(now);
        }
    }

    fn nominate_better(&mut self, now: Instant) {
        let better = self.better().filter(|(due, _)| *due <= now);
        if let (Some((_, key)), Some(progress)) = (better, self.components.get_mut(COMPONENT)) {
            progress.nomination.begin(key);
            self.list.trigger(key);
        }
    }

    /// The pair that is better than the selected one, and when it takes its place.
    fn better(&self) -> Option<(Instant, PairKey)> {
        let progress = self.components.get(COMPONENT)?;
        let selected = self.list.get(progress.selected?)?;
        let idle = self.role == Role::Controlling && !progress.nomination.is_any_pending();
        let new = |pair: &&Pair| self.exploring.has(pair.key.local, pair.key.remote);
        let valid = self.list.valid().filter(|_| idle).filter(new);
        let best = valid.filter(|pair| self.is_better(pair, selected));
        let key = best.max_by_key(|pair| (pair.rank(), pair.priority))?.key;
        let dwelt = after(progress.nomination.selected_at()?, DWELL);
        let since = self.exploring.bases.get(&unscoped(key.local));
        let stable = since.map(|since| after(*since, STABLE));
        Some((stable.map_or(dwelt, |stable| stable.max(dwelt)), key))
    }

    /// Whether one pair is better than another that works, by a margin.
    fn is_better(&self, new: &Pair, old: &Pair) -> bool {
        if new.key == old.key || new.rank() != old.rank() {
            return new.rank() > old.rank();
        }
        if self.is_outdated(new.key.local) {
            return false;
        }
        if self.is_outdated(old.key.local) || self.is_told_in_its_place(new.key, old.key) {
            return true;
        }
        let rtt = |pair: &Pair| self.rtt(&pair.path());
        let (Some(of_new), Some(of_old)) = (rtt(new), self.floor(old.key).or_else(|| rtt(old)))
        else {
            return new.priority > old.priority;
        };
        match new.priority > old.priority {
            true => of_new <= of_old.saturating_mul(2).saturating_add(SLOWER),
            false => {
                let longer = of_new.saturating_mul(3).checked_div(2).unwrap_or(of_new);
                longer.saturating_add(FASTER) <= of_old
            }
        }
    }

    /// A peer that tells of another port at the address that is in use has reason to: its mapping is
    /// about to end.
    fn is_told_in_its_place(&self, new: PairKey, old: PairKey) -> bool {
        let place = |key: PairKey| self.remotes.place(key.remote);
        let later = place(new).is_some_and(|new| place(old).is_some_and(|old| old < new));
        new.remote.ip() == old.remote.ip() && new.local == old.local && later
    }

    pub(super) fn exploring_timeout(&self) -> Option<Instant> {
        let until = self.exploring.until?;
        let better = self.better().map(|(due, _)| due);
        Some(better.map_or(until, |due| due.min(until)))
    }
}
