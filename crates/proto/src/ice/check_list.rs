//! The check list: which pair is checked next (RFC 8445 section 6.1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::after;
use super::candidate::{Candidate, unscoped};
use super::config::{MAX_PAIRS, Role};
use super::pair::{Pair, PairKey, State};

/// How long a triggered check is not replaced by another: longer than the round trip of a
/// path worth having.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// With so many pairs room is made for what is new in a session that goes on.
const NEARLY_FULL: usize = MAX_PAIRS * 4 / 5;

/// All pairs, and the queue of triggered checks (section 6.1.4.1).
#[derive(Debug)]
pub(super) struct CheckList {
    role: Role,
    pairs: BTreeMap<PairKey, Pair>,
    triggered: VecDeque<PairKey>,
    /// Whose turn it is among ordinary checks.
    turn: Turn,
    /// Ordinary checks of pairs to a mapping of the peer wait.
    held: bool,
}

/// Ordinary checks alternate between the best pair of all, the best one that does not lead to a
/// host candidate, and the best one from a relayed candidate, if there is one.
///
/// Section 6.1.4.2 takes the best of all each time. Peers with several interfaces each (VPNs,
/// containers) would then spend a second on host addresses of networks that do not meet before
/// they try the reflexive address that works. The peer sees nothing but an earlier check. The
/// relay, with the lowest priority of all, is what works in any case, so it is not left to
/// the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Any,
    NotToHost,
    FromRelay,
}

impl CheckList {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            pairs: BTreeMap::new(),
            triggered: VecDeque::new(),
            turn: Turn::Any,
            held: false,
        }
    }

    pub(super) fn get(&self, key: PairKey) -> Option<&Pair> {
        self.pairs.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: PairKey) -> Option<&mut Pair> {
        self.pairs.get_mut(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.values()
    }

    /// Whether ordinary checks of the pairs that [are held](Pair::is_held) wait.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.pairs.values_mut()
    }

    /// Whether a pair is in the valid list.
    pub(super) fn is_valid(&self, key: PairKey) -> bool {
        self.get(key).is_some_and(|pair| pair.valid.is_some())
    }

    /// The pairs of the valid list.
    pub(super) fn valid(&self) -> impl Iterator<Item = &Pair> {
        self.iter().filter(|pair| pair.valid.is_some())
    }

    /// Whether a component has one.
    pub(super) fn has_valid(&self, component: u16) -> bool {
        self.valid().any(|pair| pair.component == component)
    }

    /// Adds a pair that signalling or gathering made, unless it is there or not better than
    /// any of a full list.
    pub(super) fn add(&mut self, base: &Candidate, remote: &Candidate) {
        let pair = Pair::new(base, remote, self.role);
        if !self.pairs.contains_key(&pair.key) && self.make_room(Some(&pair)) {
            self.insert(pair);
        }
    }

    /// Adds a pair on which a check has arrived (section 7.3.1.4); an idle one gives way to
    /// it. False if the list is full of pairs at work.
    pub(super) fn add_seen(&mut self, base: &Candidate, remote: &Candidate) -> bool {
        let pair = Pair::new(base, remote, self.role);
        if self.pairs.contains_key(&pair.key) {
            return true;
        }
        let room = self.make_room(None);
        if room {
            self.insert(pair);
        }
        room
    }

    /// Applies what signalling says about a remote candidate to its pairs.
    pub(super) fn update_remote(&mut self, remote: &Candidate) {
        let role = self.role;
        let same = |key: &PairKey| *key == PairKey::new(key.local, remote.address);
        for (_, pair) in self.pairs.iter_mut().filter(|(key, _)| same(key)) {
            pair.set_remote(remote, role);
        }
    }

    /// Computes all priorities again (section 7.3.1.1); checks that carry the old role are
    /// made again.
    pub(super) fn set_role(&mut self, role: Role) {
        self.role = role;
        for pair in self.pairs.values_mut() {
            pair.set_role(role);
            if pair.state == State::InProgress {
                pair.state = State::Waiting;
            }
        }
    }

    /// Puts the pair at the end of the triggered-check queue.
    pub(super) fn trigger(&mut self, key: PairKey) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.state = State::Waiting;
            if !self.triggered.contains(&key) {
                self.triggered.push_back(key);
            }
        }
    }

    /// Whether a triggered check of the pair waits, or is running and may still be answered.
    pub(super) fn is_triggered(&self, now: Instant, pair: &Pair) -> bool {
        let running = pair.state == State::InProgress && pair.triggered;
        let answerable = |at| now < after(at, ANSWER_WAIT);
        (running && pair.checked_at.is_some_and(answerable)) || self.triggered.contains(&pair.key)
    }

    /// Whether a triggered check waits.
    pub(super) fn has_triggered(&self) -> bool {
        !self.triggered.is_empty()
    }

    /// Sets a pair to Succeeded and unfreezes the pairs with its foundation (section 7.2.5.3.3).
    pub(super) fn succeed(&mut self, key: PairKey) {
        self.triggered.retain(|queued| *queued != key);
        let Some(pair) = self.pairs.get_mut(&key) else {
            return;
        };
        pair.state = State::Succeeded;
        let foundation = pair.foundation.clone();
        self.thaw(|pair| pair.foundation == foundation);
    }

    /// Sets a pair to Failed (section 7.2.5.4) and takes it out of the valid list.
    pub(super) fn fail(&mut self, key: PairKey) {
        self.triggered.retain(|queued| *queued != key);
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.state = State::Failed;
            pair.valid = None;
            pair.use_candidate = false;
        }
    }

    /// Whether [`next`](Self::next) has a pair to check.
    pub(super) fn has_next(&self) -> bool {
        !self.triggered.is_empty()
            || self.best_waiting().is_some()
            || self.pairs.values().any(|pair| self.may_thaw(pair))
    }

    /// Takes the pair to check next, which is In-Progress then (section 6.1.4.2): a triggered
    /// one, else a waiting one, else a frozen one.
    pub(super) fn next(&mut self) -> Option<PairKey> {
        let triggered = self.triggered.pop_front();
        let key = triggered.or_else(|| self.next_ordinary())?;
        let pair = self.pairs.get_mut(&key)?;
        pair.state = State::InProgress;
        pair.triggered = triggered.is_some();
        Some(key)
    }

    fn next_ordinary(&mut self) -> Option<PairKey> {
        if self.best_waiting().is_none() {
            self.thaw_idle_foundations();
        }
        let best = self.best_waiting();
        if self.turn == Turn::FromRelay && self.best(Pair::is_from_relay).is_none() {
            self.turn = Turn::Any;
        }
        let (next, turn) = match self.turn {
            Turn::Any => (best, Turn::NotToHost),
            Turn::NotToHost => (
                self.best(|pair| !pair.is_to_host()).or(best),
                Turn::FromRelay,
            ),
            Turn::FromRelay => (self.best(Pair::is_from_relay).or(best), Turn::Any),
        };
        self.turn = turn;
        next
    }

    /// The number of pairs that wait or are being checked: N of section 14.3.
    pub(super) fn active(&self) -> usize {
        let active = |pair: &&Pair| matches!(pair.state, State::Waiting | State::InProgress);
        self.iter().filter(active).count()
    }

    /// Ends all ordinary checks (section 8.1.2) but those of pairs to keep: a pair has been
    /// selected.
    pub(super) fn conclude(&mut self, keep: impl Fn(&Pair) -> bool) {
        let pairs = &self.pairs;
        self.triggered
            .retain(|key| pairs.get(key).is_some_and(&keep));
        self.pairs.retain(|_, pair| {
            let unchecked = matches!(pair.state, State::Frozen | State::Waiting);
            !unchecked || pair.use_candidate || pair.valid.is_some() || keep(pair)
        });
        for pair in self.pairs.values_mut().filter(|pair| !keep(pair)) {
            if pair.state == State::InProgress && pair.valid.is_none() && !pair.use_candidate {
                pair.state = State::Failed;
            }
        }
    }

    /// Makes every pair wait for a check again that is not known to work: the selected one has been
    /// lost. A pair that the peer has nominated stays so, because a peer that noticed first
    /// has nominated already.
    pub(super) fn reopen(&mut self, works: impl Fn(&Pair) -> bool) {
        for pair in self.pairs.values_mut().filter(|pair| !works(pair)) {
            pair.state = State::Waiting;
            pair.valid = None;
        }
    }

    /// Makes the direct pairs wait for a check again that have failed.
    pub(super) fn retry_direct(&mut self) {
        self.retry(Pair::is_direct);
    }

    /// Makes pairs wait for a check again that have failed.
    pub(super) fn retry(&mut self, which: impl Fn(&Pair) -> bool) {
        let failed = self
            .pairs
            .values_mut()
            .filter(|pair| pair.state == State::Failed);
        for pair in failed.filter(|pair| which(pair)) {
            pair.state = State::Waiting;
        }
    }

    fn insert(&mut self, mut pair: Pair) {
        if self.starts_waiting(&pair) {
            pair.state = State::Waiting;
        }
        self.pairs.insert(pair.key, pair);
    }

    /// RFC 8838 section 12: a new pair waits when its foundation has succeeded, when it is the best
    /// of its foundation, or when no other of its foundation is at work.
    fn starts_waiting(&self, new: &Pair) -> bool {
        let mut idle = true;
        let mut best = true;
        for pair in self.iter().filter(|p| p.foundation == new.foundation) {
            if pair.state == State::Succeeded {
                return true;
            }
            idle &= !matches!(pair.state, State::Waiting | State::InProgress);
            best &= pair.priority < new.priority;
        }
        idle || best
    }

    /// The pairs of a base.
    pub(super) fn keys_from(&self, base: SocketAddr) -> Vec<PairKey> {
        let from = |key: &&PairKey| unscoped(key.local) == unscoped(base);
        let keys = self.pairs.keys().filter(from);
        keys.copied().collect()
    }

    /// The pairs to an address of the peer.
    pub(super) fn keys_to(&self, remote: SocketAddr) -> Vec<PairKey> {
        let to = |key: &&PairKey| unscoped(key.remote) == remote;
        self.pairs.keys().filter(to).copied().collect()
    }

    /// Whether soon none would be added but in the place of a worse one.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.pairs.len() >= NEARLY_FULL
    }

    pub(super) fn remove(&mut self, key: PairKey) {
        self.pairs.remove(&key);
        self.triggered.retain(|queued| *queued != key);
    }

    /// Drops the idle pair of the lowest priority when the list is full, if it is below
    /// the given priority. The relay's pairs, which have the lowest of all, go last.
    fn make_room(&mut self, new: Option<&Pair>) -> bool {
        if self.pairs.len() < MAX_PAIRS {
            return true;
        }
        let idle = self.iter().filter(|pair| pair.is_idle());
        let worst = idle.min_by_key(|pair| (pair.is_fallback(), pair.priority));
        let Some(worst) = worst else {
            return false;
        };
        let rank = (worst.is_fallback(), worst.priority);
        if new.is_some_and(|new| (new.is_fallback(), new.priority) <= rank) {
            return false;
        }
        self.remove(worst.key);
        true
    }

    fn best_waiting(&self) -> Option<PairKey> {
        self.best(|_| true)
    }

    fn best(&self, which: impl Fn(&Pair) -> bool) -> Option<PairKey> {
        let waiting = self.iter().filter(|pair| pair.state == State::Waiting);
        let waiting = waiting.filter(|pair| !(self.held && pair.is_held()));
        let best = waiting
            .filter(|pair| which(pair))
            .max_by_key(|pair| pair.priority);
        best.map(|pair| pair.key)
    }

    fn may_thaw(&self, frozen: &Pair) -> bool {
        let held = self.held && frozen.is_held();
        frozen.state == State::Frozen
            && !held
            && !self.iter().any(|pair| {
                pair.foundation == frozen.foundation
                    && matches!(pair.state, State::Waiting | State::InProgress)
            })
    }

    /// Sets the best frozen pair of each foundation to Waiting of which no pair is at work.
    fn thaw_idle_foundations(&mut self) {
        let mut frozen: Vec<_> = self.iter().filter(|pair| self.may_thaw(pair)).collect();
        frozen.sort_by_key(|pair| std::cmp::Reverse(pair.priority));
        let mut foundations = BTreeSet::new();
        frozen.retain(|pair| foundations.insert(&pair.foundation));
        let keys: BTreeSet<_> = frozen.iter().map(|pair| pair.key).collect();
        self.thaw(|pair| keys.contains(&pair.key));
    }

    fn thaw(&mut self, which: impl Fn(&Pair) -> bool) {
        let frozen = self.pairs.values_mut().filter(|p| p.state == State::Frozen);
        for pair in frozen.filter(|pair| which(pair)) {
            pair.state = State::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::candidate::CandidateKind;

    fn candidate(foundation: &str, priority: u32, port: u16) -> Candidate {
        Candidate {
            foundation: foundation.into(),
            component: 1,
            priority,
            address: ([192, 0, 2, 1], port).into(),
            kind: CandidateKind::Host,
            related: None,
            tcp: None,
        }
    }

    /// A list with one base and the remote candidates given as (foundation, priority).
    fn list(remotes: &[(&str, u32)]) -> CheckList {
        let mut list = CheckList::new(Role::Controlling);
        let base = candidate("b", 500, 1);
        for (n, (foundation, priority)) in (1000..).zip(remotes) {
            list.add(&base, &candidate(foundation, *priority, n));
        }
        list
    }

    fn port(key: Option<PairKey>) -> Option<u16> {
        key.map(|key| key.remote.port())
    }

    #[test]
    fn pairs_are_checked_by_priority_one_of_each_foundation_first() {
        let mut list = list(&[("x", 9), ("x", 8), ("y", 7), ("z", 10)]);
        assert_eq!(port(list.next()), Some(1003));
        assert_eq!(port(list.next()), Some(1000));
        assert_eq!(port(list.next()), Some(1002));
        assert!(!list.has_next(), "x waits for the first check of x");
        assert_eq!(list.next(), None);
    }

    #[test]
    fn every_other_check_goes_to_an_address_beyond_the_peers_network() {
        let mut list = list(&[("w", 9), ("x", 8), ("y", 7)]);
        let reflexive = Candidate {
            kind: CandidateKind::ServerReflexive,
            ..candidate("z", 1, 7)
        };
        list.add(&candidate("b", 500, 1), &reflexive);
        let order: Vec<_> = std::iter::from_fn(|| port(list.next())).collect();
        assert_eq!(order, [1000, 7, 1001, 1002]);
    }

    #[test]
    fn a_success_unfreezes_its_foundation_and_so_does_a_failure_when_nothing_waits() {
        let mut list = list(&[("x", 9), ("x", 8), ("x", 7)]);
        let first = list.next().unwrap();
        list.fail(first);
        let second = list.next().unwrap();
        assert_eq!(second.remote.port(), 1001);
        assert!(!list.has_next());
        list.succeed(second);
        assert_eq!(port(list.next()), Some(1002));
    }

    #[test]
    fn a_triggered_check_goes_before_all_others_and_only_once() {
        let mut list = list(&[("x", 9), ("y", 8), ("z", 7)]);
        let key = PairKey::new(([192, 0, 2, 1], 1).into(), ([192, 0, 2, 1], 1002).into());
        list.trigger(key);
        list.trigger(key);
        assert_eq!(list.next(), Some(key));
        assert_eq!(port(list.next()), Some(1000));
    }

    #[test]
    fn a_trickled_pair_waits_unless_its_foundation_is_at_work() {
        let mut list = list(&[("x", 9)]);
        list.add(&candidate("b", 500, 1), &candidate("x", 5, 7));
        list.add(&candidate("b", 500, 1), &candidate("y", 5, 8));
        let state = |p| {
            list.iter()
                .find(|pair| pair.key.remote.port() == p)
                .unwrap()
                .state
        };
        assert_eq!(state(7), State::Frozen);
        assert_eq!(state(8), State::Waiting);
    }

    #[test]
    fn a_full_list_keeps_the_best_pairs_and_makes_room_for_one_that_was_seen() {
        let names: Vec<_> = (0..MAX_PAIRS).map(|n| format!("f{n}")).collect();
        let remotes: Vec<_> = names
            .iter()
            .zip(100..)
            .map(|(f, p)| (f.as_str(), p))
            .collect();
        let mut list = list(&remotes);
        let base = candidate("b", 500, 1);
        let has = |list: &CheckList, p| list.iter().any(|pair| pair.key.remote.port() == p);
        list.add(&base, &candidate("low", 99, 7));
        assert!(!has(&list, 7));
        list.add(&base, &candidate("high", 499, 8));
        assert!(has(&list, 8) && !has(&list, 1000), "the worst gave way");
        assert!(list.add_seen(&base, &candidate("seen", 1, 9)));
        assert!(has(&list, 9) && !has(&list, 1001));
        assert_eq!(list.iter().count(), MAX_PAIRS);
    }

    #[test]
    fn a_change_of_role_changes_priorities_and_repeats_running_checks() {
        let mut list = list(&[("x", 9)]);
        let before = list.iter().next().unwrap().priority;
        let key = list.next();
        list.set_role(Role::Controlled);
        assert_ne!(list.iter().next().unwrap().priority, before);
        assert_eq!(list.next(), key);
    }
}
