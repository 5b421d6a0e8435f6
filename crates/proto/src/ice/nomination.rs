//! Nomination and the end of the checks (RFC 8445 section 8).

use std::time::Instant;

use super::after;
use super::agent::Agent;
use super::config::Role;
use super::event::Event;
use super::pair::{Pair, PairKey, State};

/// The progress of regular nomination on the controlling side (section 8.1.1).
#[derive(Debug, Default)]
pub(super) struct Nomination {
    /// When the first pair became valid.
    first_valid: Option<Instant>,
    /// The pair whose check carries USE-CANDIDATE, until it is answered.
    pending: Option<PairKey>,
}

impl Nomination {
    pub(super) fn is_pending(&self, key: PairKey) -> bool {
        self.pending == Some(key)
    }

    pub(super) fn on_valid(&mut self, now: Instant) {
        self.first_valid.get_or_insert(now);
    }

    /// The nominating check may have failed: the next best pair is to be nominated.
    pub(super) fn on_failed(&mut self, key: PairKey) {
        self.pending = self.pending.filter(|pending| *pending != key);
    }

    /// The role has changed.
    pub(super) fn abandon(&mut self) {
        self.pending = None;
    }
}

impl Agent {
    /// Nominates the best valid pair as soon as no better one is still being checked, or
    /// after [`Config::nomination_delay`](super::Config::nomination_delay).
    pub(super) fn nominate(&mut self, now: Instant) {
        let due = self.nomination_timeout().is_some_and(|due| due <= now);
        if let Some(best) = self.nominee()
            && (due || !self.may_be_beaten(best))
        {
            let key = best.key;
            self.nomination.pending = Some(key);
            self.list.trigger(key);
        }
    }

    /// When nomination waits no longer.
    pub(super) fn nomination_timeout(&self) -> Option<Instant> {
        self.nominee()?;
        let first = self.nomination.first_valid?;
        Some(after(first, self.config.nomination_delay))
    }

    /// The best valid pair, when it is on us to nominate one.
    fn nominee(&self) -> Option<&Pair> {
        let idle = self.nomination.pending.is_none() && self.selected.is_none();
        let ours = self.role == Role::Controlling && idle;
        let best = self.list.valid().max_by_key(|pair| pair.priority);
        best.filter(|_| ours)
    }

    /// An ordinary check of the pair has succeeded. A nominating one that still waited for its
    /// turn went with it; one on its way goes on.
    pub(super) fn resume_nomination(&mut self, key: PairKey) {
        if !self.transactions.nominates(key) {
            self.nomination.on_failed(key);
        }
    }

    fn may_be_beaten(&self, best: &Pair) -> bool {
        self.list.iter().any(|pair| {
            pair.priority > best.priority
                && matches!(
                    pair.state,
                    State::Frozen | State::Waiting | State::InProgress
                )
        })
    }

    /// Section 8.1.1 and 7.3.1.5: a valid pair is nominated. The best nominated one is selected.
    pub(super) fn select(&mut self, now: Instant, key: PairKey) {
        self.nomination.on_failed(key);
        if let Some(pair) = self.list.get_mut(key) {
            pair.nominated = pair.valid.is_some();
        }
        let nominated = self.list.valid().filter(|pair| pair.nominated);
        let Some(best) = nominated.max_by_key(|pair| pair.priority) else {
            return;
        };
        if self.selected != Some(best.key) {
            let (key, path) = (best.key, best.path());
            self.selected = Some(key);
            self.events.push_back(Event::Selected(path));
            self.conclude(now, key);
        }
    }

    /// Section 8.1.2: the other checks end.
    fn conclude(&mut self, now: Instant, selected: PairKey) {
        self.keep_only_consent(now, selected);
        self.list.conclude();
        self.transactions
            .cancel(|purpose| matches!(purpose, super::transactions::Purpose::Check { .. }));
    }
}
