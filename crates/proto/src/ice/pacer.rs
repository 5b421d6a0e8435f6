//! Ta: the time between two new transactions (RFC 8445 section 14.2).

use std::time::{Duration, Instant};

use super::after;

/// The RFC's lower limit, which protects NATs and access links.
const MIN_TA: Duration = Duration::from_millis(5);

/// Grants one transaction every Ta; time unused is not saved up.
#[derive(Debug)]
pub(super) struct Pacer {
    ta: Duration,
    next: Instant,
}

impl Pacer {
    pub(super) fn new(now: Instant, ta: Duration) -> Self {
        Self {
            ta: ta.max(MIN_TA),
            next: now,
        }
    }

    pub(super) fn ta(&self) -> Duration {
        self.ta
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.next <= now
    }

    pub(super) fn spend(&mut self, now: Instant) {
        self.next = after(now, self.ta);
    }
}
