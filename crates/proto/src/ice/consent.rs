//! Consent freshness (RFC 7675): data goes only where somebody still wants it.

use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::after;
use super::agent::Agent;
use super::candidate::COMPONENT;
use super::checks::Outcome;
use super::event::Event;
use super::pair::{PairKey, Path};
use super::transactions::{Purpose, consent_policy};

/// The consent on one pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consent {
    expires: Instant,
    pub(super) next: Instant,
    /// The checks after the latest answer: when the first was sent, and how many there are.
    unanswered: Option<(Instant, u32)>,
    /// The shortest round trip: what waits in queues of ours does not count against the path.
    floor: Option<Duration>,
}

/// With data in flight at least so many checks must have got no answer. Whoever slept, or had
/// no time, asks again before it draws conclusions from the clock.
const LEAST_UNANSWERED: u32 = 4;

impl Consent {
    /// A check has been sent; the next one is due at `next`.
    pub(super) fn asked(&mut self, now: Instant, next: Instant) {
        let (since, count) = self.unanswered.unwrap_or((now, 0));
        self.unanswered = Some((since, count.saturating_add(1)));
        self.next = next;
    }

    /// A check has been answered.
    pub(super) fn answered(&mut self, expires: Instant) {
        self.expires = expires;
        self.unanswered = None;
    }

    fn measured(&mut self, rtt: Option<Duration>) {
        self.floor = self.floor.into_iter().chain(rtt).min();
    }
}

impl Agent {
    /// A successful check is the first consent (RFC 7675 section 5.1).
    pub(super) fn begin_consent(&mut self, now: Instant, key: PairKey) {
        let consent = Consent {
            expires: after(now, self.config.consent_expiry),
            next: self.next_consent(now, key),
            unanswered: None,
            floor: None,
        };
        self.consents.insert(key, consent);
    }

    /// Says whether data is in flight on the selected pair: then its silence is noticed sooner
    /// ([`Config::busy_consent_interval`](super::Config::busy_consent_interval)).
    pub fn set_busy(&mut self, now: Instant, busy: bool) {
        let became = busy && !self.busy;
        self.busy = busy;
        if let (true, Some(in_use)) = (became, self.in_use(COMPONENT)) {
            self.ask_at_once(now, in_use);
        }
    }

    /// There is reason to doubt the pair.
    fn ask_at_once(&mut self, now: Instant, key: PairKey) {
        let before = self.kept.as_mut().and_then(|kept| kept.consent_mut(key));
        for consent in self.consents.get_mut(&key).into_iter().chain(before) {
            consent.next = consent.next.min(now);
        }
    }

    /// The pair is in use from now on, perhaps by much.
    pub(super) fn hasten_consent(&mut self, now: Instant, key: PairKey) {
        let next = self.next_consent(now, key);
        let before = self.kept.as_mut().and_then(|kept| kept.consent_mut(key));
        for consent in self.consents.get_mut(&key).into_iter().chain(before) {
            consent.next = consent.next.min(next);
        }
    }

    /// The shortest round trip of a pair whose consent is kept.
    pub(super) fn floor(&self, key: PairKey) -> Option<Duration> {
        self.consents.get(&key)?.floor
    }

    /// Whether consent to send on this pair is known.
    pub fn has_consent(&self, path: &Path) -> bool {
        let (local, remote) = (path.local, path.remote);
        let key = PairKey { local, remote };
        self.consents.contains_key(&key) || self.kept_pair(key).is_some()
    }

    /// Until when there is consent to send on this pair, unless the peer answers before.
    pub fn consent_until(&self, path: &Path) -> Option<Instant> {
        let (local, remote) = (path.local, path.remote);
        let key = PairKey { local, remote };
        let before = self.kept.as_ref().and_then(|kept| kept.consent(key));
        Some(self.consents.get(&key).or(before)?.expires)
    }

    /// Whether silence on the pair is to be noticed soon: data is in flight on it, or would be if
    /// another path had not just been lost; or the peer may have left it.
    fn is_busy_on(&self, key: PairKey) -> bool {
        let in_use = self.in_use(COMPONENT);
        (self.busy && in_use.is_none_or(|used| used == key)) || self.is_suspicious()
    }

    /// From here on one pair is used, and the best relayed one waits behind it.
    pub(super) fn keep_only_consent(&mut self, now: Instant, key: PairKey) {
        let component = self.component(key);
        let standby = self.standby(component);
        let (list, exploring) = (&self.list, &self.exploring);
        let other = |key: &PairKey| list.get(*key).is_some_and(|p| p.component != component);
        let new = |key: &PairKey| exploring.has(key.local, key.remote);
        self.consents
            .retain(|pair, _| *pair == key || Some(*pair) == standby || other(pair) || new(pair));
        if !self.consents.contains_key(&key) {
            self.begin_consent(now, key);
        }
    }

    /// The best relayed pair that works.
    fn standby(&self, component: u16) -> Option<PairKey> {
        let kept = self.consents.keys().filter_map(|key| self.list.get(*key));
        let kept = kept.filter(|pair| pair.component == component);
        let relayed = kept.filter(|pair| pair.is_relayed() && pair.valid.is_some());
        Some(relayed.max_by_key(|pair| pair.priority)?.key)
    }

    /// Whether no relay waits behind the selected pair.
    pub(super) fn wants_standby(&self, component: u16) -> bool {
        self.standby(component).is_none()
    }

    /// The answer to a consent check. Errors are not consent, nor its end.
    pub(super) fn on_consent(
        &mut self,
        now: Instant,
        key: PairKey,
        outcome: &Outcome,
        rtt: Option<Duration>,
    ) {
        if !matches!(outcome, Outcome::Success { .. }) {
            return;
        }
        if let Some(consent) = self.consents.get_mut(&key) {
            consent.answered(after(now, self.config.consent_expiry));
            consent.measured(rtt);
        }
        if let Some(pair) = self.list.get_mut(key)
            && let Some(valid) = &mut pair.valid
        {
            valid.rtt = rtt;
        }
    }

    /// Sends the consent checks that are due and gives up the pairs that are silent.
    pub(super) fn run_consent(&mut self, now: Instant) {
        let all: Vec<_> = self.consents.iter().map(|(key, c)| (*key, *c)).collect();
        for (key, consent) in all {
            if self.consent_ends(key, &consent) <= now {
                self.on_lost(now, key);
            } else if consent.next <= now {
                self.renew_consent(now, key);
            }
        }
    }

    /// When [`run_consent`](Self::run_consent) has something to do.
    pub(super) fn consent_timeout(&self) -> Option<Instant> {
        let all = self.consents.iter();
        let times = all.map(|(key, c)| self.consent_ends(*key, c).min(c.next));
        times.min()
    }

    pub(super) fn consent_ends(&self, key: PairKey, consent: &Consent) -> Instant {
        match consent.unanswered {
            Some((since, count)) if self.is_busy_on(key) && count >= LEAST_UNANSWERED => {
                let ends = after(since, self.config.busy_consent_expiry);
                ends.min(consent.expires)
            }
            _ => consent.expires,
        }
    }

    fn renew_consent(&mut self, now: Instant, pair: PairKey) {
        let next = self.next_consent(now, pair);
        if let Some(consent) = self.consents.get_mut(&pair) {
            consent.asked(now, next);
        }
        let policy = consent_policy(self.config.consent_expiry);
        self.request(now, pair, Purpose::Consent { pair }, policy);
    }

    /// When the check after one that is sent now is due.
    pub(super) fn next_consent(&mut self, now: Instant, key: PairKey) -> Instant {
        after(now, self.consent_pause(key))
    }

    /// The interval times 0.8 to 1.2, so that many sessions do not keep step.
    fn consent_pause(&mut self, key: PairKey) -> Duration {
        let permille = self.rng.next_u32().checked_rem(401).unwrap_or(0);
        let factor = permille.saturating_add(800);
        let interval = match self.is_busy_on(key) {
            true => self.config.busy_consent_interval,
            false => self.config.consent_interval,
        };
        let scaled = interval.saturating_mul(factor).checked_div(1000);
        scaled.unwrap_or(interval).max(Duration::from_millis(1))
    }

    /// Sends nothing on a pair any more. When no other is left, all pairs are checked again.
    pub(super) fn on_lost(&mut self, now: Instant, key: PairKey) {
        let path = self.list.get(key).map(super::pair::Pair::path);
        let component = self.component(key);
        self.consents.remove(&key);
        self.list.fail(key);
        self.transactions.cancel(|purpose| match purpose {
            Purpose::Check { pair, .. } | Purpose::Consent { pair } => *pair == key,
            Purpose::Gather { .. } | Purpose::Sample { .. } | Purpose::Kept { .. } => false,
        });
        let kept = self.kept_pair(key).is_some();
        self.events.extend(path.filter(|_| !kept).map(Event::Lost));
        let selected = self.selected_on(component);
        let none = selected.is_none() && !self.list.has_valid(component);
        if selected == Some(key) || none {
            self.start_over(now, component);
        }
    }
}
