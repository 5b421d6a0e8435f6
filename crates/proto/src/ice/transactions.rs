//! Requests that wait for their response: retransmission and cancelling (RFC 8489 section 6.2.1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::TransactionId;

use super::after;
use super::config::Role;
use super::pair::PairKey;
use crate::Transmit;

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
    /// A Binding request to a STUN server.
    Gather {
        base: SocketAddr,
        server: SocketAddr,
    },
}

/// How often a request is sent, and how long the answer to the last one may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) rto: Duration,
    pub(super) sends: u32,
    pub(super) last_wait: Duration,
}

impl Schedule {
    /// Rc = 7 and Rm = 16: 39.5 s with an RTO of 500 ms.
    pub(super) fn check(rto: Duration) -> Self {
        Self {
            rto,
            sends: 7,
            last_wait: rto.saturating_mul(16),
        }
    }

    /// Four times within 3.5 s, and 2 s more: the pair worked a moment ago, and if it does
    /// not any longer the next best is wanted soon.
    pub(super) fn nomination(rto: Duration) -> Self {
        Self {
            rto,
            sends: 4,
            last_wait: rto.saturating_mul(4),
        }
    }

    /// Four times within 3.5 s, and 4 s more; the refresh tries again.
    pub(super) fn gather(rto: Duration) -> Self {
        Self {
            rto,
            sends: 4,
            last_wait: rto.saturating_mul(8),
        }
    }

    /// Once: the next consent check is a new transaction (RFC 7675 section 5.1).
    pub(super) fn consent(expiry: Duration) -> Self {
        Self {
            rto: expiry,
            sends: 1,
            last_wait: expiry,
        }
    }
}

/// How long the answer to a cancelled check still counts. A longer round trip than this is
/// no path to use.
const CANCELLED_WAIT: Duration = Duration::from_secs(5);

/// A request on its way.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) purpose: Purpose,
    pub(super) cancelled: bool,
    transmit: Transmit,
    began: Instant,
    sent: u32,
    schedule: Schedule,
    due: Instant,
}

impl Transaction {
    /// The round trip that ends now; unknown when the request was sent more than once.
    pub(super) fn rtt(&self, now: Instant) -> Option<Duration> {
        (self.sent == 1).then(|| now.saturating_duration_since(self.began))
    }

    /// Whether the response came the way back that the request went (RFC 8445 section 7.2.5.2.1).
    pub(super) fn is_symmetric(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let went = PairKey::new(self.transmit.local, self.transmit.remote);
        PairKey::new(self.transmit.local, remote) == went
            && super::candidate::unscoped(local) == super::candidate::unscoped(self.transmit.local)
    }

    /// When to act after the latest sending.
    fn wait(&self) -> Duration {
        if self.cancelled {
            CANCELLED_WAIT
        } else if self.sent >= self.schedule.sends {
            self.schedule.last_wait
        } else {
            let doubled = 1_u32.checked_shl(self.sent.saturating_sub(1));
            self.schedule
                .rto
                .saturating_mul(doubled.unwrap_or(u32::MAX))
        }
    }
}

/// What time has brought.
#[derive(Debug)]
pub(super) enum Due {
    Retransmit(Transmit),
    /// No answer, and none will count any more.
    Expired(Transaction),
}

/// All requests that wait, with their deadlines in order.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    waiting: BTreeMap<TransactionId, Transaction>,
    deadlines: BTreeSet<(Instant, TransactionId)>,
}

impl Transactions {
    /// Notes a request that is sent now.
    pub(super) fn start(
        &mut self,
        now: Instant,
        id: TransactionId,
        purpose: Purpose,
        schedule: Schedule,
        transmit: Transmit,
    ) {
        let transaction = Transaction {
            purpose,
            cancelled: false,
            transmit,
            began: now,
            sent: 1,
            schedule,
            due: now,
        };
        self.schedule(now, id, transaction);
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Transaction> {
        self.waiting.get(&id)
    }

    /// Ends a transaction: its response has arrived.
    pub(super) fn take(&mut self, id: TransactionId) -> Option<Transaction> {
        let transaction = self.waiting.remove(&id)?;
        self.deadlines.remove(&(transaction.due, id));
        Some(transaction)
    }

    /// Stops retransmitting the checks that `which` picks; an answer still counts (RFC 8445
    /// section 7.3.1.4).
    pub(super) fn cancel(&mut self, now: Instant, which: impl Fn(&Purpose) -> bool) {
        let running = |t: &Transaction| !t.cancelled && which(&t.purpose);
        let picked = self.waiting.iter().filter(|(_, t)| running(t));
        let ids: Vec<_> = picked.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(mut transaction) = self.take(id) {
                transaction.cancelled = true;
                self.schedule(now, id, transaction);
            }
        }
    }

    /// What is due at `now`, one at a time.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Due> {
        let &(due, id) = self.deadlines.first()?;
        if due > now {
            return None;
        }
        let mut transaction = self.take(id)?;
        if transaction.cancelled || transaction.sent >= transaction.schedule.sends {
            return Some(Due::Expired(transaction));
        }
        transaction.sent = transaction.sent.saturating_add(1);
        let transmit = transaction.transmit.clone();
        self.schedule(now, id, transaction);
        Some(Due::Retransmit(transmit))
    }

    /// When [`poll`](Self::poll) has something next.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The number of requests to STUN servers on their way.
    pub(super) fn gathering(&self) -> usize {
        let gather = |t: &&Transaction| matches!(t.purpose, Purpose::Gather { .. });
        self.waiting.values().filter(gather).count()
    }

    fn schedule(&mut self, now: Instant, id: TransactionId, mut transaction: Transaction) {
        transaction.due = after(now, transaction.wait());
        self.deadlines.insert((transaction.due, id));
        self.waiting.insert(id, transaction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::tests::epoch;

    const ID: TransactionId = TransactionId([1; 12]);

    fn start(now: Instant, schedule: Schedule) -> Transactions {
        let (local, remote) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let pair = PairKey { local, remote };
        let payload = vec![7];
        let transmit = Transmit {
            local,
            remote,
            payload,
        };
        let mut transactions = Transactions::default();
        transactions.start(now, ID, Purpose::Consent { pair }, schedule, transmit);
        transactions
    }

    /// The times in milliseconds at which something is due.
    fn times(start: Instant, transactions: &mut Transactions) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(due) = transactions.timeout() {
            times.push(due.duration_since(start).as_millis());
            transactions.poll(due).unwrap();
        }
        times
    }

    #[test]
    fn a_check_is_sent_seven_times_and_ends_after_39500_ms() {
        let now = epoch();
        let mut transactions = start(now, Schedule::check(Duration::from_millis(500)));
        let expected = [500, 1500, 3500, 7500, 15500, 31500, 39500];
        assert_eq!(times(now, &mut transactions), expected);
        assert!(transactions.get(ID).is_none());
    }

    #[test]
    fn a_cancelled_check_is_not_repeated_but_its_answer_counts_for_a_while() {
        let now = epoch();
        let mut transactions = start(now, Schedule::check(Duration::from_millis(500)));
        transactions.cancel(now, |_| true);
        assert!(transactions.get(ID).is_some());
        assert_eq!(times(now, &mut transactions), [5000]);
    }

    #[test]
    fn the_round_trip_is_known_only_without_retransmission() {
        let now = epoch();
        let later = |ms| after(now, Duration::from_millis(ms));
        let mut transactions = start(now, Schedule::check(Duration::from_millis(500)));
        let rtt = transactions.get(ID).unwrap().rtt(later(30));
        assert_eq!(rtt, Some(Duration::from_millis(30)));
        transactions.poll(later(500)).unwrap();
        assert_eq!(transactions.get(ID).unwrap().rtt(later(530)), None);
    }
}
