//! Nomination and the end of the checks (RFC 8445 section 8).

use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::candidate::COMPONENT;
use super::config::Role;
use super::event::Event;
use super::pair::{Pair, PairKey, State};
use super::transactions::Purpose;

/// Nominations that come within this time of the first belong together.
const SETTLED: Duration = Duration::from_secs(1);

/// The progress of regular nomination on the controlling side (section 8.1.1).
#[derive(Debug, Default)]
pub(super) struct Nomination {
    /// When the first pair became valid.
    first_valid: Option<Instant>,
    /// When the first one without a relay did.
    first_direct: Option<Instant>,
    /// When the selected pair was selected.
    selected_at: Option<Instant>,
    /// The pair whose check carries USE-CANDIDATE, until it is answered.
    pending: Option<PairKey>,
}

impl Nomination {
    pub(super) fn is_pending(&self, key: PairKey) -> bool {
        self.pending == Some(key)
    }

    pub(super) fn on_valid(&mut self, now: Instant, direct: bool) {
        self.first_valid.get_or_insert(now);
        if direct {
            self.first_direct.get_or_insert(now);
        }
    }

    pub(super) fn is_any_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When the selected pair was selected.
    pub(super) fn selected_at(&self) -> Option<Instant> {
        self.selected_at
    }

    /// The pair is being nominated.
    pub(super) fn begin(&mut self, key: PairKey) {
        self.pending = Some(key);
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
    /// after [`Config::nomination_delay`](super::Config::nomination_delay). A direct pair that becomes
    /// valid after a relayed one was nominated is nominated in its place; RFC 8445 section
    /// 8.1.1 nominates once, but a peer that follows it loses nothing: both pairs work.
    pub(super) fn nominate(&mut self, now: Instant) {
        for component in self.components.ids() {
            let due = self.nomination_due(component).is_some_and(|due| due <= now);
            let best = self.nominee(component);
            let best = best.filter(|best| due || !self.may_be_beaten(best));
            let key = best.map(|pair| pair.key);
            if let (Some(key), Some(progress)) = (key, self.components.get_mut(component)) {
                progress.nomination.begin(key);
                self.list.trigger(key);
            }
        }
    }

    /// When nomination waits no longer.
    pub(super) fn nomination_timeout(&self) -> Option<Instant> {
        let ids = self.components.ids();
        ids.filter_map(|id| self.nomination_due(id)).min()
    }

    fn nomination_due(&self, component: u16) -> Option<Instant> {
        let nomination = &self.components.get(component)?.nomination;
        if !self.nominee(component)?.is_direct() {
            let first = nomination.first_valid?;
            return Some(after(first, self.config.relayed_nomination_delay));
        }
        let first = nomination.first_direct?;
        Some(after(first, self.config.nomination_delay))
    }

    /// The best valid pair, when it is on us to nominate one.
    fn nominee(&self, component: u16) -> Option<&Pair> {
        let progress = self.components.get(component)?;
        let idle = progress.nomination.pending.is_none() && !self.is_settled_on(component);
        let ours = self.role == Role::Controlling && idle;
        let best = self.list.valid().filter(|pair| pair.component == component);
        let best = best.max_by_key(|pair| {
            let symmetric = !self.is_asymmetric(pair.key);
            (pair.rank(), symmetric, pair.priority)
        });
        let selected = progress.selected.and_then(|key| self.list.get(key));
        let selected = selected.map(Pair::rank);
        best.filter(|best| ours && selected.is_none_or(|selected| selected < best.rank()))
    }

    fn may_be_beaten(&self, best: &Pair) -> bool {
        self.list.iter().any(|pair| {
            pair.priority > best.priority
                && pair.component == best.component
                && matches!(
                    pair.state,
                    State::Frozen | State::Waiting | State::InProgress
                )
        })
    }

    /// Sections 8.1.1 and 7.3.1.5: a pair has been nominated. It is selected if it is valid.
    pub(super) fn select(&mut self, now: Instant, key: PairKey) {
        self.settle_nomination(key);
        let Some(pair) = self.list.get(key).filter(|pair| pair.valid.is_some()) else {
            return;
        };
        if self.is_replaced_by(now, pair) {
            let (path, component) = (pair.path(), pair.component);
            self.deselect(component);
            if let Some(progress) = self.components.get_mut(component) {
                progress.selected = Some(key);
                progress.nomination.selected_at = Some(now);
            }
            self.end_kept(component);
            if component == COMPONENT {
                self.note_used(now, key.local);
            }
            self.events.push_back(Event::Selected(path));
            self.conclude(now, key);
            // A peer that has given up a direct path for a relayed one has moved, and what it told
            // meanwhile has not been paired yet.
            self.pair_all();
            self.hasten_consent(now, key);
            self.punch_selected(key);
        }
    }

    /// Whether a nominated pair takes the place of the selected one: nominations that come
    /// together are an aggressive peer's (RFC 5245 section 8.1.1.2), and the best counts. One that comes
    /// alone and later is a peer's that gave up its first choice.
    fn is_replaced_by(&self, now: Instant, nominated: &Pair) -> bool {
        let Some(progress) = self.components.get(nominated.component) else {
            return false;
        };
        let Some(selected) = progress.selected.and_then(|key| self.list.get(key)) else {
            return true;
        };
        let settled = progress.nomination.selected_at.map(|at| after(at, SETTLED));
        nominated.key != selected.key
            && (nominated.priority > selected.priority || settled.is_some_and(|at| at <= now))
    }

    /// The peer may nominate the pair again.
    fn deselect(&mut self, component: u16) {
        let selected = self.selected_on(component);
        if let Some(pair) = selected.and_then(|key| self.list.get_mut(key)) {
            pair.use_candidate = false;
        }
    }

    /// Section 8.1.2: the other checks end, unless the selected pair is relayed.
    fn conclude(&mut self, now: Instant, selected: PairKey) {
        let component = self.component(selected);
        if self.is_settled_on(component) {
            self.keep_only_consent(now, selected);
            if component == COMPONENT {
                self.retire_tcp(now);
            }
            let wanted = self.wants_standby(component);
            let exploring = &self.exploring;
            let keep = |pair: &Pair| {
                let new = exploring.has(pair.key.local, pair.key.remote);
                pair.component != component || new || wanted && pair.is_relayed()
            };
            self.list.conclude(keep);
            let list = &self.list;
            self.transactions.cancel(|purpose| match purpose {
                Purpose::Check { pair, .. } => !list.get(*pair).is_some_and(keep),
                Purpose::Consent { .. }
                | Purpose::Kept { .. }
                | Purpose::Gather { .. }
                | Purpose::Sample { .. } => false,
            });
        }
    }

    /// A relay has been found to wait behind the selected pair: now all checks end.
    pub(super) fn tidy_up(&mut self, now: Instant) {
        let selected: Vec<_> = self.components.selected().collect();
        for key in selected {
            self.conclude(now, key);
        }
    }

    /// A nominating check of the pair, if there is one, has been answered or given up.
    pub(super) fn settle_nomination(&mut self, key: PairKey) {
        for progress in self.components.iter_mut() {
            progress.nomination.settle(key);
        }
    }
}
