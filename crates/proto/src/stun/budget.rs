//! How much may be sent to a network that may not have asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a network's account is kept before it starts again.
const WINDOW: Duration = Duration::from_secs(10);

/// What may be sent to a network in one window beyond what came from it. A bare Binding
/// request of 20 bytes gets 32: this is room for 1,300 of them, a busy carrier-grade NAT,
/// and gives whoever forges the source address 1.6 kB/s.
pub(super) const ALLOWANCE: u64 = 16 * 1024;

/// The most networks with an account: about 10 MB. When it is full the oldest account is
/// dropped, which can only give a network its allowance again.
const MAX_NETWORKS: usize = 65_536;

/// The budget of all servers that count together; `None` is no limit at all.
#[derive(Debug, Clone)]
pub(super) struct SharedBudget(Option<Arc<Mutex<Budget>>>);

impl Default for SharedBudget {
    fn default() -> Self {
        Self::new(Some(ALLOWANCE))
    }
}

impl SharedBudget {
    pub(super) fn new(allowance: Option<u64>) -> Self {
        Self(allowance.map(|allowance| Arc::new(Mutex::new(Budget::new(allowance)))))
    }

    /// See [`Budget::allow`].
    pub(super) fn allow(
        &self,
        now: Instant,
        source: IpAddr,
        received: usize,
        reply: usize,
    ) -> bool {
        self.0.as_ref().is_none_or(|budget| {
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.allow(now, source, received, reply)
        })
    }
}

/// Bytes received from and sent to each network: a /24 of IPv4, a /56 of IPv6.
#[derive(Debug)]
struct Budget {
    /// Bytes of a window.
    allowance: u64,
    accounts: BTreeMap<Network, Account>,
    by_age: BTreeSet<(Instant, Network)>,
}

impl Budget {
    const fn new(allowance: u64) -> Self {
        Self {
            allowance,
            accounts: BTreeMap::new(),
            by_age: BTreeSet::new(),
        }
    }

    /// Accounts for a datagram from `source` and says whether `reply` bytes may go back;
    /// if so they are accounted for too.
    fn allow(&mut self, now: Instant, source: IpAddr, received: usize, reply: usize) -> bool {
        let allowance = self.allowance;
        let account = self.account(now, Network::of(source));
        account.received = account.received.saturating_add(bytes(received));
        let sent = account.sent.saturating_add(bytes(reply));
        let allowed = sent <= account.received.saturating_add(allowance);
        if allowed {
            account.sent = sent;
        }
        allowed
    }

    fn account(&mut self, now: Instant, network: Network) -> &mut Account {
        let since = self.accounts.get(&network).map(|account| account.since);
        if since.is_some_and(|since| now.saturating_duration_since(since) >= WINDOW) {
            self.close(network);
        }
        if !self.accounts.contains_key(&network) {
            self.make_room();
            self.by_age.insert((now, network));
        }
        self.accounts.entry(network).or_insert(Account {
            since: now,
            received: 0,
            sent: 0,
        })
    }

    fn close(&mut self, network: Network) {
        if let Some(account) = self.accounts.remove(&network) {
            self.by_age.remove(&(account.since, network));
        }
    }

    fn make_room(&mut self) {
        while self.accounts.len() >= MAX_NETWORKS {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                return;
            };
            self.accounts.remove(&oldest);
        }
    }
}

#[derive(Debug)]
struct Account {
    since: Instant,
    received: u64,
    sent: u64,
}

/// What one customer, or one forger's victim, has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4([u8; 3]),
    V6([u8; 7]),
}

impl Network {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::server::tests::start;

    /// Bare Binding requests from `source` that are answered before one is not.
    fn spend(budget: &mut Budget, now: Instant, source: &str) -> usize {
        let source = source.parse().unwrap();
        (0..10_000)
            .take_while(|_| budget.allow(now, source, 20, 32))
            .count()
    }

    /// Spends all there is. What is refused still earns its own size, so that a few more
    /// are answered when nothing of the allowance is left.
    fn had_allowance(budget: &mut Budget, now: Instant, source: &str) -> bool {
        spend(budget, now, source) > 2
    }

    #[test]
    fn a_network_gets_what_it_sent_and_the_allowance() {
        let mut budget = Budget::new(ALLOWANCE);
        assert_eq!(spend(&mut budget, start(), "203.0.113.1"), 16 * 1024 / 12);
    }

    #[test]
    fn neighbours_share_an_account_and_strangers_do_not() {
        let (mut budget, now) = (Budget::new(ALLOWANCE), start());
        assert!(had_allowance(&mut budget, now, "203.0.113.1"));
        assert!(!had_allowance(&mut budget, now, "203.0.113.200"));
        assert!(!had_allowance(&mut budget, now, "::ffff:203.0.113.7"));
        assert!(had_allowance(&mut budget, now, "203.0.114.1"));
        assert!(had_allowance(&mut budget, now, "2001:db8:1:100::1"));
        assert!(!had_allowance(&mut budget, now, "2001:db8:1:1ff::1"));
        assert!(had_allowance(&mut budget, now, "2001:db8:1:200::1"));
    }

    #[test]
    fn the_account_starts_again_after_ten_seconds() {
        let (mut budget, now) = (Budget::new(ALLOWANCE), start());
        spend(&mut budget, now, "203.0.113.1");
        let just_before = now + WINDOW - Duration::from_millis(1);
        assert!(!had_allowance(&mut budget, just_before, "203.0.113.1"));
        assert!(had_allowance(&mut budget, now + WINDOW, "203.0.113.1"));
    }

    #[test]
    fn the_table_is_bounded_and_drops_the_oldest() {
        let (mut budget, now) = (Budget::new(ALLOWANCE), start());
        for n in 0..u32::try_from(MAX_NETWORKS).unwrap() + 100 {
            let later = now + Duration::from_micros(u64::from(n));
            budget.allow(later, IpAddr::from((n << 8).to_be_bytes()), 20, 32);
        }
        assert_eq!(budget.accounts.len(), MAX_NETWORKS);
        assert_eq!(budget.by_age.len(), MAX_NETWORKS);
        assert!(!budget.accounts.contains_key(&Network::V4([0, 0, 99])));
        assert!(budget.accounts.contains_key(&Network::V4([0, 0, 100])));
    }
}
