//! What plain checks have cost and brought, technique by technique.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::pair::{Pair, PairKey, State};
use crate::punch::Technique;

/// What one technique of plain checks has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// What it is.
    pub technique: Technique,
    /// Checks sent, without repetitions; over TCP connections that were to be opened, too.
    pub checks: u32,
    /// How it stands.
    pub state: TallyState,
    /// From its first check to its first success or, without one, until it was left.
    pub elapsed: Duration,
}

/// How a technique stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TallyState {
    /// A pair is valid, or was.
    Succeeded,
    /// Checks are still unanswered or to come.
    Running,
    /// Nothing was answered.
    Failed,
    /// It was left when another one had succeeded.
    Left,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    checks: u32,
    began: Instant,
    latest: Instant,
    succeeded: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// As many as there are techniques at most.
    counts: BTreeMap<Technique, Count>,
    /// When a direct pair was valid, or patience ended.
    over: Option<Instant>,
    /// Whether datagrams have passed without a relay.
    datagrams: bool,
}

impl Tallies {
    fn checked(&mut self, now: Instant, technique: Technique) {
        let count = self.counts.entry(technique).or_insert(Count {
            checks: 0,
            began: now,
            latest: now,
            succeeded: false,
        });
        if !count.succeeded {
            count.checks = count.checks.saturating_add(1);
            count.latest = now;
        }
    }

    /// A check made as one technique has shown that it is another: the check counts there.
    fn succeeded(&mut self, now: Instant, asked: Technique, found: Technique) {
        let began = self.counts.get(&asked).map_or(now, |count| count.began);
        if asked != found {
            self.uncount(asked);
            self.checked(now, found);
        }
        if let Some(count) = self.counts.get_mut(&found).filter(|count| !count.succeeded) {
            count.began = count.began.min(began);
            count.latest = now;
            count.succeeded = true;
        }
        if found != Technique::Relay {
            self.end(now);
        }
    }

    /// What checks were made as is something else, as an answer shows: one counts there.
    pub(super) fn renamed(&mut self, now: Instant, asked: Technique, found: Technique) {
        let began = self.counts.get(&asked).map_or(now, |count| count.began);
        self.uncount(asked);
        self.checked(now, found);
        if let Some(count) = self.counts.get_mut(&found) {
            count.began = count.began.min(began);
        }
    }

    fn end(&mut self, now: Instant) {
        self.over.get_or_insert(now);
    }

    fn uncount(&mut self, technique: Technique) {
        if let Some(count) = self.counts.get_mut(&technique) {
            count.checks = count.checks.saturating_sub(1);
            if count.checks == 0 {
                self.counts.remove(&technique);
            }
        }
    }
}

impl Agent {
    /// What plain checks have come to by `now`, in the order of [`Technique::ALL`]. What punching
    /// sends is in [`punch_report`](Self::punch_report).
    pub fn tallies(&self, now: Instant) -> Vec<Tally> {
        let counts = self.tallies.counts.iter();
        let over = self.tallies.over.unwrap_or(now);
        let end = |count: &Count| if count.succeeded { count.latest } else { over };
        let tally = |(technique, count): (&Technique, &Count)| Tally {
            technique: *technique,
            checks: count.checks,
            state: self.state_of(*technique, count),
            elapsed: end(count).saturating_duration_since(count.began),
        };
        counts.map(tally).collect()
    }

    fn state_of(&self, technique: Technique, count: &Count) -> TallyState {
        let waits = |pair: &Pair| !matches!(pair.state, State::Succeeded | State::Failed);
        let of_it = |pair: &&Pair| self.technique(&pair.path()) == technique;
        let connecting = technique == Technique::Tcp && self.tcp.is_trying();
        if count.succeeded {
            TallyState::Succeeded
        } else if self.is_settled() {
            TallyState::Left
        } else if !self.failed && (connecting || self.list.iter().filter(of_it).any(waits)) {
            TallyState::Running
        } else {
            TallyState::Failed
        }
    }

    pub(super) fn tally_end(&mut self, now: Instant) {
        self.tallies.end(now);
    }

    /// A connection is being opened to the peer.
    pub(super) fn tally_connect(&mut self, now: Instant) {
        self.tallies.checked(now, Technique::Tcp);
    }

    pub(super) fn tally_check(&mut self, now: Instant, key: PairKey) {
        if let Some(technique) = self.plain_technique(key) {
            self.tallies.checked(now, technique);
        }
    }

    /// `asked` is what the pair was taken for before its check succeeded.
    pub(super) fn tally_success(&mut self, now: Instant, asked: Option<Technique>, key: PairKey) {
        if let (Some(asked), Some(found)) = (asked, self.plain_technique(key)) {
            self.tallies.succeeded(now, asked, found);
            let streams = [Technique::Relay, Technique::Tcp, Technique::Reversal];
            self.tallies.datagrams |=
                self.tcp.base(key.local).is_none() && !streams.contains(&found);
        }
    }

    /// Whether a plain check has passed as a datagram, and without a relay.
    pub fn has_passed_datagrams(&self) -> bool {
        self.tallies.datagrams
    }

    /// What a pair is, unless punching made it. One that has a port for each direction may be found by
    /// plain checks as well.
    pub(super) fn plain_technique(&self, key: PairKey) -> Option<Technique> {
        let pair = self.list.get(key)?;
        let plain = self.is_asymmetric(key) && !self.locals.is_socket(key.local);
        (plain || !self.is_punched(key)).then(|| self.technique(&pair.path()))
    }
}
