//! Nomination and the end of the checks (RFC 8445 section 8).

use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::config::Role;
use super::event::Event;
use super::pair::{Pair, PairKey, State};

/// Nominations that come within this time of the first belong together.
const SETTLED: Duration = Duration::from_secs(1);

/// The progress of regular nomination on the controlling side (section 8.1.1).
#[derive(Debug, Default)]
pub(super) struct Nomination {
    /// When the first pair became valid.
    first_valid: Option<Instant>,
    /// When the selected pair was selected.
    selected_at: Option<Instant>,
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

    /// A nominating check has been answered or given up.
    pub(super) fn settle(&mut self, key: PairKey) {
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

    fn may_be_beaten(&self, best: &Pair) -> bool {
        self.list.iter().any(|pair| {
            pair.priority > best.priority
                && matches!(
                    pair.state,
                    State::Frozen | State::Waiting | State::InProgress
                )
        })
    }

    /// Sections 8.1.1 and 7.3.1.5: a pair has been nominated. It is selected if it is valid.
    pub(super) fn select(&mut self, now: Instant, key: PairKey) {
        self.nomination.settle(key);
        let Some(pair) = self.list.get(key).filter(|pair| pair.valid.is_some()) else {
            return;
        };
        if self.is_replaced_by(now, pair) {
            let path = pair.path();
            self.deselect();
            self.selected = Some(key);
            self.nomination.selected_at = Some(now);
            self.events.push_back(Event::Selected(path));
            self.conclude(now, key);
        }
    }

    /// Whether a nominated pair takes the place of the selected one: nominations that come
    /// together are an aggressive peer's (RFC 5245 section 8.1.1.2), and the best counts. One that comes
    /// alone and later is a peer's that gave up its first choice.
    fn is_replaced_by(&self, now: Instant, nominated: &Pair) -> bool {
        let Some(selected) = self.selected.and_then(|key| self.list.get(key)) else {
            return true;
        };
        let settled = self.nomination.selected_at.map(|at| after(at, SETTLED));
        nominated.key != selected.key
            && (nominated.priority > selected.priority || settled.is_some_and(|at| at <= now))
    }

    /// The peer may nominate the pair again.
    fn deselect(&mut self) {
        if let Some(pair) = self.selected.and_then(|key| self.list.get_mut(key)) {
            pair.use_candidate = false;
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
