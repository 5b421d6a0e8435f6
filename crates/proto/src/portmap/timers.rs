//! All deadlines, in one ordered structure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::types::{ExchangeId, MappingId, Protocol};

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Ask the default gateway again.
    Probe(Protocol),
    /// Search again.
    Search,
    /// Whoever was a little later than the first has had its time.
    Collected,
    /// Gateways that are slow to describe themselves have had their time.
    Patience,
    /// Everybody has had the time to answer.
    Settled,
    /// Look around once more.
    Again,
    /// A mapping: send again, renew, try again.
    Mapping(MappingId),
    /// It ends.
    Expiry(MappingId),
    /// An exchange has had its time.
    Exchange(ExchangeId),
    /// A gateway may have forgotten everything: look.
    Check,
}

/// One deadline for each thing.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    set: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets a deadline in place of the one there was.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.clear(timer);
        self.set.insert(timer, at);
        self.queue.insert((at, timer));
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.set.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.set.contains_key(&timer)
    }

    /// Takes a deadline that has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.queue.first()?;
        (at <= now).then(|| {
            self.clear(timer);
            timer
        })
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}
