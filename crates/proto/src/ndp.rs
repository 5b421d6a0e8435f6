//! Prefixes of translators that routers advertise (RFC 8781).
//!
//! [`Prefixes`] takes the options of each advertisement with the router that has sent it, and knows
//! which prefix holds. Whoever feeds it has checked that the router is on the link: a kernel does.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use postern_wire::ndp::{Pref64, prefixes};

use crate::ice::Nat64Prefix;

/// Prefixes that are remembered: of a few routers, on a few links. Further ones take the place of
/// those heard of longest ago.
const MAX_KNOWN: usize = 16;

/// Who advertises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// The number of the interface.
    pub interface: u32,
    /// The router's address on that link.
    pub address: Ipv6Addr,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    router: Router,
    prefix: Nat64Prefix,
    until: Instant,
}

/// What routers have advertised.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// In the order in which they were last heard of.
    known: Vec<Known>,
}

impl Prefixes {
    /// The prefix that holds: of several, the one that was heard of last.
    #[must_use]
    pub fn current(&self) -> Option<Nat64Prefix> {
        self.known.last().map(|known| known.prefix)
    }

    /// Takes the options of an advertisement, or some of them.
    pub fn handle_options(&mut self, now: Instant, router: Router, options: &[u8]) {
        for Pref64 {
            prefix,
            length,
            lifetime,
        } in prefixes(options)
        {
            let Ok(prefix) = Nat64Prefix::new(prefix, length) else {
                tracing::debug!(%prefix, length, "ignored a prefix that a router advertised");
                continue;
            };
            let same = |known: &Known| (known.router, known.prefix) == (router, prefix);
            self.known.retain(|known| !same(known));
            let lifetime = Duration::from_secs(lifetime.into());
            if let Some(until) = now.checked_add(lifetime).filter(|until| *until > now) {
                self.known.push(Known {
                    router,
                    prefix,
                    until,
                });
            }
        }
        let surplus = self.known.len().saturating_sub(MAX_KNOWN);
        self.known.drain(..surplus);
        self.handle_timeout(now);
    }

    /// Forgets what routers have said that are none any longer.
    pub fn retain(&mut self, is_router: impl Fn(Router) -> bool) {
        self.known.retain(|known| is_router(known.router));
    }

    /// Forgets what has ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.known.retain(|known| known.until > now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.known.iter().map(|known| known.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Router = router(1);
    const SECOND: Router = router(2);

    const fn router(number: u16) -> Router {
        Router {
            interface: 3,
            address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number),
        }
    }

    fn prefix(number: u16) -> Nat64Prefix {
        let address = Ipv6Addr::new(0x64, 0xff9b, 1, number, 0, 0, 0, 0);
        Nat64Prefix::new(address, 96).unwrap()
    }

    fn option(number: u16, lifetime: u16) -> [u8; 16] {
        let prefix = Ipv6Addr::new(0x64, 0xff9b, 1, number, 0, 0, 0, 0);
        let option = Pref64 {
            prefix,
            length: 96,
            lifetime,
        };
        option.to_bytes()
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_prefix_holds_for_its_lifetime_which_starts_anew_each_time() {
        let now = start();
        let mut prefixes = Prefixes::default();
        prefixes.handle_options(now, FIRST, &option(1, 16));
        assert_eq!(prefixes.current(), Some(prefix(1)));
        assert_eq!(prefixes.poll_timeout(), Some(now + secs(16)));
        prefixes.handle_options(now + secs(10), FIRST, &option(1, 16));
        prefixes.handle_timeout(now + secs(25));
        assert_eq!(prefixes.current(), Some(prefix(1)));
        prefixes.handle_timeout(now + secs(26));
        assert_eq!((prefixes.current(), prefixes.poll_timeout()), (None, None));
    }

    #[test]
    fn a_router_takes_back_its_own_prefix_alone() {
        let now = start();
        let mut prefixes = Prefixes::default();
        for router in [FIRST, SECOND] {
            prefixes.handle_options(now, router, &option(1, 600));
        }
        prefixes.handle_options(now, SECOND, &option(2, 600));
        assert_eq!(prefixes.current(), Some(prefix(2)));
        prefixes.handle_options(now, SECOND, &[option(1, 0), option(2, 0)].concat());
        assert_eq!(prefixes.current(), Some(prefix(1)));
        prefixes.handle_options(now, FIRST, &option(1, 0));
        assert_eq!(prefixes.current(), None);
    }

    #[test]
    fn what_a_router_said_that_is_gone_is_forgotten() {
        let now = start();
        let mut prefixes = Prefixes::default();
        prefixes.handle_options(now, FIRST, &option(1, 600));
        prefixes.handle_options(now, SECOND, &option(2, 600));
        prefixes.retain(|router| router == FIRST);
        assert_eq!(prefixes.current(), Some(prefix(1)));
    }

    #[test]
    fn prefixes_are_bounded_and_the_latest_stay() {
        let now = start();
        let mut prefixes = Prefixes::default();
        for number in 0..1000 {
            prefixes.handle_options(now, router(number), &option(number, 600));
        }
        assert_eq!(prefixes.known.len(), MAX_KNOWN);
        assert_eq!(prefixes.current(), Some(prefix(999)));
    }
}
