//! How fast a host may ask for changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::config::Quotas;

/// Hosts that are remembered: a /20 of them. Beyond, the ones that have been quiet longest
/// are forgotten, which gives them a full burst again.
const MAX_HOSTS: usize = 4096;

/// When each host's bucket will be full again.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<IpAddr, Instant>);

impl Rates {
    /// Whether a host may make one more change now.
    pub(super) fn allow(&mut self, now: Instant, host: IpAddr, quotas: &Quotas) -> bool {
        let Some(each) = Duration::from_secs(1).checked_div(quotas.changes_per_second) else {
            return true;
        };
        let full = self.0.get(&host).copied().unwrap_or(now).max(now);
        let burst = each.saturating_mul(quotas.burst);
        if full.saturating_duration_since(now) > burst {
            return false;
        }
        self.make_room(now);
        if let Some(full) = full.checked_add(each) {
            self.0.insert(host, full);
        }
        true
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < MAX_HOSTS {
            return;
        }
        self.0.retain(|_, full| *full > now);
        if self.0.len() >= MAX_HOSTS {
            self.0.clear();
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_burst_and_then_its_rate() {
        let quotas = Quotas {
            changes_per_second: 10,
            burst: 5,
            ..Quotas::default()
        };
        let now = Instant::now();
        let host = "192.168.1.10".parse().unwrap();
        let mut rates = Rates::default();
        let allowed =
            |rates: &mut Rates, now| (0..100).filter(|_| rates.allow(now, host, &quotas)).count();
        assert_eq!(allowed(&mut rates, now), 6);
        assert_eq!(allowed(&mut rates, now + Duration::from_secs(1)), 6);
        assert_eq!(
            allowed(&mut rates, now + Duration::from_millis(1200)),
            2,
            "two tenths of ten a second"
        );
    }

    #[test]
    fn no_rate_is_no_limit() {
        let quotas = Quotas {
            changes_per_second: 0,
            ..Quotas::default()
        };
        let now = Instant::now();
        let mut rates = Rates::default();
        let host = "192.168.1.10".parse().unwrap();
        assert!((0..10_000).all(|_| rates.allow(now, host, &quotas)));
    }
}
