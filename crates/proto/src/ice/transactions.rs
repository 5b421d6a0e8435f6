//! Requests that wait for their response: what each is for, and for how long it is worth waiting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{ChangeRequest, TransactionId};

use super::candidate::unscoped;
use super::config::Role;
use super::pair::PairKey;
use super::punching::SAMPLE_RTO;
use crate::stun::{self, Request, RetransmitPolicy};
use crate::{Datagram, Transmit};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A connectivity check, sent in this role, perhaps with USE-CANDIDATE.
    Check {
        pair: PairKey,
        role: Role,
        nominate: bool,
    },
    /// A consent check.
    Consent { pair: PairKey },
    /// One of the session before the latest restart.
    Kept { pair: PairKey },
    /// A Binding request to a STUN server.
    Gather {
        base: SocketAddr,
        server: SocketAddr,
    },
    /// The same from a socket that was opened to look at the NAT; `change` says from where else
    /// the answer is to come.
    Sample {
        base: SocketAddr,
        server: SocketAddr,
        change: Option<ChangeRequest>,
    },
}

impl Purpose {
    /// Where the request leaves from and where it goes.
    fn way(&self) -> PairKey {
        match *self {
            Self::Check { pair, .. } | Self::Consent { pair } | Self::Kept { pair } => pair,
            Self::Gather { base, server } | Self::Sample { base, server, .. } => {
                PairKey::new(base, server)
            }
        }
    }

    /// Whether a response came the way back that the request went (RFC 8445 section 7.2.5.2.1).
    pub(super) fn is_symmetric(&self, datagram: &Datagram<'_>) -> bool {
        let way = self.way();
        unscoped(datagram.local) == unscoped(way.local)
            && PairKey::new(way.local, datagram.remote) == way
    }
}

/// An ordinary check: 7 times, 39.5 s with an RTO of 500 ms (RFC 8489 section 6.2.1).
pub(super) fn check_policy(rto: Duration) -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: rto,
        ..RetransmitPolicy::default()
    }
}

/// A nominating check: four times within 3.5 s, and 2 s more. The pair worked a moment ago; if it
/// does not any longer, the next best is wanted soon.
pub(super) fn nomination_policy(rto: Duration) -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: rto,
        rc: 4,
        rm: 4,
    }
}

/// A request to a STUN server: four times within 3.5 s, and 4 s more; the refresh tries again.
pub(super) fn gather_policy(rto: Duration) -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: rto,
        rc: 4,
        rm: 8,
    }
}

/// A look at the NAT: three times within 0.75 s, and 1 s more. Others of its kind serve as well.
pub(super) fn sample_policy() -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: SAMPLE_RTO,
        rc: 3,
        rm: 4,
    }
}

/// A consent check: once, since the next one is a new transaction (RFC 7675 section 5.1).
pub(super) fn consent_policy(expiry: Duration) -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: expiry,
        rc: 1,
        rm: 1,
    }
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    stun: stun::Transactions,
    waiting: BTreeMap<TransactionId, Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    purpose: Purpose,
    /// Not sent again, but an answer still counts (RFC 8445 section 7.3.1.4).
    cancelled: bool,
}

impl Transactions {
    /// Sends a request and waits for its response.
    pub(super) fn start(&mut self, now: Instant, purpose: Purpose, request: Request) {
        let id = request.id;
        let waiting = Waiting {
            purpose,
            cancelled: false,
        };
        match self.stun.request(now, request) {
            Ok(()) => _ = self.waiting.insert(id, waiting),
            // At most two requests a pair and one a STUN server wait at once, which is
            // fewer than the limit, and ids are random.
            Err(error) => tracing::debug!(%error, "a request was not sent"),
        }
    }

    /// What the request with this id is for.
    pub(super) fn purpose(&self, id: TransactionId) -> Option<Purpose> {
        self.waiting.get(&id).map(|waiting| waiting.purpose)
    }

    /// Ends a transaction that this datagram answers. The round trip is unknown when the request was
    /// sent more than once.
    pub(super) fn complete(
        &mut self,
        now: Instant,
        id: TransactionId,
        datagram: &Datagram<'_>,
    ) -> Option<Duration> {
        let way = self.waiting.remove(&id)?.purpose.way();
        let remote = way.remote;
        self.stun.handle_input(
            now,
            Datagram {
                remote,
                ..*datagram
            },
        );
        match self.stun.poll_event()? {
            stun::Event::Success(response) | stun::Event::Error(response) => response.rtt,
            stun::Event::TimedOut { .. } => None,
        }
    }

    /// Another session begins: what was asked of STUN servers is asked again, and checks are void. The
    /// consent checks become those of the session before.
    pub(super) fn restart(&mut self) {
        let void: Vec<_> = self.waiting.keys().copied().collect();
        for id in void {
            self.forget(id);
        }
    }

    /// Drops a transaction.
    pub(super) fn forget(&mut self, id: TransactionId) {
        self.waiting.remove(&id);
        self.stun.forget(id);
    }

    /// Stops sending the requests that `which` picks. Those that had been cancelled before are
    /// dropped, so that a peer cannot make them pile up.
    pub(super) fn cancel(&mut self, which: impl Fn(&Purpose) -> bool) {
        let picked = self.waiting.iter().filter(|(_, w)| which(&w.purpose));
        let picked: Vec<_> = picked.map(|(id, w)| (*id, w.cancelled)).collect();
        for (id, cancelled) in picked {
            if cancelled {
                self.forget(id);
            } else {
                self.stun.cancel(id);
                self.waiting.entry(id).and_modify(|w| w.cancelled = true);
            }
        }
    }

    /// Sends again, or gives up, what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now);
    }

    /// The next request that got no answer, unless it had been cancelled: then that says
    /// nothing.
    pub(super) fn poll_expired(&mut self) -> Option<Purpose> {
        while let Some(event) = self.stun.poll_event() {
            if let stun::Event::TimedOut { id, .. } = event
                && let Some(waiting) = self.waiting.remove(&id)
                && !waiting.cancelled
            {
                return Some(waiting.purpose);
            }
        }
        None
    }

    /// The next datagram to send.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.stun.poll_transmit()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.stun.poll_timeout()
    }

    /// The number of requests to STUN servers on their way.
    pub(super) fn gathering(&self) -> usize {
        let gather = |w: &&Waiting| matches!(w.purpose, Purpose::Gather { .. });
        self.waiting.values().filter(gather).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::tests::epoch;

    fn start(transactions: &mut Transactions, now: Instant, id: u8, policy: RetransmitPolicy) {
        let (local, remote) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let pair = PairKey { local, remote };
        let request = Request {
            local,
            remote,
            id: TransactionId([id; 12]),
            payload: vec![7],
            policy,
        };
        transactions.start(now, Purpose::Consent { pair }, request);
    }

    /// The times in milliseconds at which something is sent, and when it is given up.
    fn times(policy: RetransmitPolicy) -> Vec<u128> {
        let now = epoch();
        let mut transactions = Transactions::default();
        start(&mut transactions, now, 1, policy);
        let mut times = Vec::new();
        while let Some(due) = transactions.timeout() {
            times.push(due.duration_since(now).as_millis());
            transactions.handle_timeout(due);
        }
        assert!(transactions.poll_expired().is_some());
        times
    }

    #[test]
    fn each_purpose_has_its_own_patience() {
        let rto = Duration::from_millis(500);
        let ordinary = [500, 1500, 3500, 7500, 15500, 31500, 39500];
        assert_eq!(times(check_policy(rto)), ordinary);
        assert_eq!(times(nomination_policy(rto)), [500, 1500, 3500, 5500]);
        assert_eq!(times(gather_policy(rto)), [500, 1500, 3500, 7500]);
        assert_eq!(times(consent_policy(rto)), [500]);
    }

    #[test]
    fn a_cancelled_request_waits_once_more_and_then_no_longer() {
        let mut transactions = Transactions::default();
        let now = epoch();
        start(&mut transactions, now, 1, RetransmitPolicy::default());
        transactions.cancel(|_| true);
        assert!(transactions.purpose(TransactionId([1; 12])).is_some());
        start(&mut transactions, now, 2, RetransmitPolicy::default());
        transactions.cancel(|_| true);
        assert!(transactions.purpose(TransactionId([1; 12])).is_none());
        assert!(transactions.purpose(TransactionId([2; 12])).is_some());
        transactions.handle_timeout(now + Duration::from_secs(60));
        assert_eq!(transactions.poll_expired(), None);
    }
}
