//! Between the loss of a path and the next one: signs of it, and checks that do not grow rare.

use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::candidate::COMPONENT;
use super::pair::{Pair, PairKey, State};
use super::transactions::Purpose;

/// Without any path all pairs are checked again so often. A check that goes on by itself is
/// repeated ever more rarely, and a network that comes back would be found seconds later.
const AGAIN: Duration = Duration::from_secs(1);

/// As long as some pairs have not had their turn, those that have wait so much longer.
const NOT_YET: Duration = Duration::from_millis(100);

/// A peer that checks from an address of which nothing was known may have left the one before: the
/// selected path is asked for consent as if data were in flight, for so long.
const SUSPICION: Duration = Duration::from_secs(3);

/// What the agent does about the loss of its paths.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When to check all pairs again.
    next: Option<Instant>,
    suspicious_until: Option<Instant>,
}

impl Recovery {
    /// The last path that worked is gone.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next = Some(after(now, AGAIN));
    }
}

impl Agent {
    /// Checks all pairs again that have not answered, as long as none has.
    pub(super) fn run_recovery(&mut self, now: Instant) {
        self.recovery
            .suspicious_until
            .take_if(|until| *until <= now);
        if self.recovery.next.is_none_or(|next| now < next) {
            return;
        }
        let found = self.list.valid().next().is_some();
        let waits = self.list.iter().any(|pair| pair.state == State::Waiting);
        self.recovery.next = match (found, waits) {
            (true, _) => None,
            (false, true) => Some(after(now, NOT_YET)),
            (false, false) => Some(after(now, AGAIN)),
        };
        if !found && !waits {
            self.transactions
                .cancel(|purpose| matches!(purpose, Purpose::Check { .. }));
            self.list.check_again();
            self.look_at_mappings(now);
        }
    }

    pub(super) fn recovery_timeout(&self) -> Option<Instant> {
        let Recovery {
            next,
            suspicious_until,
        } = self.recovery;
        next.into_iter().chain(suspicious_until).min()
    }

    /// The peer's first check on a pair, while another one is used: it may have moved.
    pub(super) fn suspect(&mut self, now: Instant, seen: PairKey) {
        let Some(selected) = self.in_use(COMPONENT).filter(|selected| *selected != seen) else {
            return;
        };
        if self.list.get(seen).is_some_and(Pair::is_direct) {
            self.recovery.suspicious_until = Some(after(now, SUSPICION));
            self.hasten_consent(now, selected);
        }
    }

    /// Whether the selected path may be dead.
    pub(super) fn is_suspicious(&self) -> bool {
        self.recovery.suspicious_until.is_some()
    }
}

impl super::check_list::CheckList {
    /// Makes every pair wait for a check. Those that are new and frozen, too: a foundation in which
    /// nothing works any more says nothing about them.
    fn check_again(&mut self) {
        for pair in self.iter_mut() {
            pair.state = State::Waiting;
        }
    }
}
