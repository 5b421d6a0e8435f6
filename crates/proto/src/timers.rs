//! All deadlines of a machine, in one ordered structure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// One deadline for each thing.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    queue: BTreeSet<(Instant, T)>,
    set: BTreeMap<T, Instant>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            queue: BTreeSet::new(),
            set: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Sets a deadline in place of the one there was.
    pub(crate) fn set(&mut self, timer: T, at: Instant) {
        self.clear(timer);
        self.set.insert(timer, at);
        self.queue.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, timer: T) {
        if let Some(at) = self.set.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(crate) fn clear_all(&mut self) {
        self.set.clear();
        self.queue.clear();
    }

    pub(crate) fn is_set(&self, timer: T) -> bool {
        self.set.contains_key(&timer)
    }

    /// Takes a deadline that has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<T> {
        let (at, timer) = *self.queue.first()?;
        (at <= now).then(|| {
            self.clear(timer);
            timer
        })
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}
