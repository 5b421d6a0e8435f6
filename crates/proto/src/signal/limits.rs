//! How much one address may do, and what is remembered of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// `duration` after `now`; `now` itself at the end of time, which no clock reaches.
pub(crate) fn later(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}

/// At most `count` at once, and as many again in every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 allows none.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// `count` a minute.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self {
            count,
            per: Duration::from_secs(60),
        }
    }
}

/// Measures a rate with one number (the generic cell rate algorithm): the time at which
/// all that was taken has been earned again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter(Instant);

impl Meter {
    pub(crate) const fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Takes one, unless there is none.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let Some(step) = rate.per.checked_div(rate.count) else {
            return false;
        };
        let earned = later(self.0.max(now), step);
        let allowed = earned.saturating_duration_since(now) <= rate.per;
        if allowed {
            self.0 = earned;
        }
        allowed
    }

    /// When it is as good as new.
    pub(crate) const fn earned(self) -> Instant {
        self.0
    }
}

/// Whom a limit counts: an IPv4 address, or the 64 bits of an IPv6 address that a
/// network gives to one customer or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    /// Its bytes: 4 of IPv4, 8 of IPv6.
    pub(super) fn octets(self) -> Vec<u8> {
        match self {
            Self::V4(ip) => ip.to_be_bytes().to_vec(),
            Self::V6(ip) => ip.to_be_bytes().to_vec(),
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// What one source has open and has done.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) clients: u32,
    pub(super) mailboxes: u32,
    pub(super) connections: Meter,
    pub(super) allocations: Meter,
    pub(super) joins: Meter,
    pub(super) messages: Meter,
    idle_since: Instant,
}

impl Usage {
    const fn new(now: Instant) -> Self {
        Self {
            clients: 0,
            mailboxes: 0,
            connections: Meter::new(now),
            allocations: Meter::new(now),
            joins: Meter::new(now),
            messages: Meter::new(now),
            idle_since: now,
        }
    }
}

/// What is remembered of every source: those that are connected, and as many of the
/// others as there is room for, the latest first.
#[derive(Debug)]
pub(super) struct Sources {
    limit: usize,
    forget_after: Duration,
    usage: BTreeMap<Source, Usage>,
    /// Sources without a client, by the time the last one left.
    idle: BTreeSet<(Instant, Source)>,
}

impl Sources {
    /// At most `limit` sources, each forgotten `forget_after` its last client left.
    pub(super) const fn new(limit: usize, forget_after: Duration) -> Self {
        Self {
            limit,
            forget_after,
            usage: BTreeMap::new(),
            idle: BTreeSet::new(),
        }
    }

    /// The source of a new client; `None` if there is no room to remember it.
    pub(super) fn enter(&mut self, now: Instant, source: Source) -> Option<&mut Usage> {
        self.forget(now);
        if !self.usage.contains_key(&source) && self.usage.len() >= self.limit {
            let (_, oldest) = self.idle.pop_first()?;
            self.usage.remove(&oldest);
        }
        let usage = self.usage.entry(source);
        let usage = usage.or_insert_with(|| Usage::new(now));
        self.idle.remove(&(usage.idle_since, source));
        Some(usage)
    }

    /// Notes that a source may have no client.
    pub(super) fn leave(&mut self, now: Instant, source: Source) {
        if let Some(usage) = self.usage.get_mut(&source)
            && usage.clients == 0
        {
            usage.idle_since = now;
            self.idle.insert((now, source));
        }
    }

    pub(super) fn of(&mut self, source: Source) -> Option<&mut Usage> {
        self.usage.get_mut(&source)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, source)) = self.idle.first().copied()
            && later(since, self.forget_after) <= now
        {
            self.idle.pop_first();
            self.usage.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::tests::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_allows_its_count_at_once_and_then_one_each_step() {
        let now = epoch();
        let mut meter = Meter::new(now);
        let rate = Rate::per_minute(6);
        let taken = (0..10).filter(|_| meter.take(now, rate)).count();
        assert_eq!(taken, 6);
        assert!(!meter.take(now + 9 * SECOND, rate));
        assert!(meter.take(now + 10 * SECOND, rate));
        assert!(!meter.take(now + 10 * SECOND, rate));
    }

    #[test]
    fn a_rate_of_none_allows_none() {
        let now = epoch();
        assert!(!Meter::new(now).take(now, Rate::per_minute(0)));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_source_and_a_mapped_ipv4_is_ipv4() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn a_full_table_forgets_the_source_that_left_first_and_none_that_is_there() {
        let now = epoch();
        let mut sources = Sources::new(2, 60 * SECOND);
        for n in [1, 2] {
            sources.enter(now, Source::V4(n)).unwrap().clients = 1;
        }
        assert!(sources.enter(now, Source::V4(3)).is_none());
        sources.of(Source::V4(2)).unwrap().clients = 0;
        sources.leave(now, Source::V4(2));
        assert!(sources.enter(now, Source::V4(3)).is_some());
        assert!(sources.of(Source::V4(1)).is_some());
        assert!(sources.of(Source::V4(2)).is_none());
    }

    #[test]
    fn a_source_is_forgotten_when_its_time_has_passed() {
        let now = epoch();
        let mut sources = Sources::new(2, 60 * SECOND);
        sources.enter(now, Source::V4(1));
        sources.leave(now, Source::V4(1));
        sources.enter(now + 60 * SECOND, Source::V4(2));
        assert!(sources.of(Source::V4(1)).is_none());
    }
}
