//! From a relayed path to a direct one: while only a relay works, the direct pairs that have
//! failed are checked again from time to time.

use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::pair::State;

/// The first pause after all direct checks have failed; it doubles with each round.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest pause: networks change rarely, and a round costs seven datagrams a pair.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Upgrade {
    next: Option<Instant>,
    rounds: u32,
}

impl Agent {
    /// Begins a round that is due, or sets its time when the last one has ended.
    pub(super) fn run_upgrade(&mut self, now: Instant) {
        if !self.is_connected() || self.is_settled() {
            self.upgrade = Upgrade::default();
        } else if self.is_checking_directly() {
            self.upgrade.next = None;
        } else if self.upgrade.next.is_some_and(|next| next <= now) {
            self.upgrade.next = None;
            self.upgrade.rounds = self.upgrade.rounds.saturating_add(1);
            self.list.retry_direct();
        } else if self.upgrade.next.is_none() {
            let factor = 2_u32.saturating_pow(self.upgrade.rounds);
            let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
            self.upgrade.next = Some(after(now, pause));
        }
    }

    pub(super) fn upgrade_timeout(&self) -> Option<Instant> {
        self.upgrade.next
    }

    fn is_checking_directly(&self) -> bool {
        self.list.iter().any(|pair| {
            let at_work = matches!(
                pair.state,
                State::Frozen | State::Waiting | State::InProgress
            );
            pair.is_direct() && (at_work || pair.valid.is_some())
        })
    }
}
