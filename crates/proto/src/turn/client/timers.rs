//! All deadlines of the client, in one ordered structure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use postern_wire::turn::{ChannelNumber, ConnectionId};

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Refresh the allocation.
    Refresh,
    /// The allocation ends.
    Expiry,
    /// A permission is to be refreshed, or ends.
    Permission(IpAddr),
    /// A channel is to be refreshed, ends, or may be used again.
    Channel(ChannelNumber),
    /// A peer may be connected to again.
    Connect(SocketAddr),
    /// A connection has not been bound in time.
    Connection(ConnectionId),
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

    pub(super) fn clear_all(&mut self) {
        self.set.clear();
        self.queue.clear();
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
