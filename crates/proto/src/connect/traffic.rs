//! Whether data is in flight, from how much a connection sends and receives.

use std::time::{Duration, Instant};

use super::limits::later;

/// How often the connection is looked at.
const SAMPLE: Duration = Duration::from_millis(300);

/// A connection that moves so many datagrams between two looks has data in flight; what keeps it
/// alive is one each way in four seconds.
const MANY: u64 = 8;

/// So many datagrams sent and nothing received: something is repeated.
const REPEATED: u64 = 2;

/// As long as nothing comes back a relay is asked so often whether it still knows us: one
/// datagram of 100 bytes.
const DOUBT: Duration = Duration::from_secs(1);

/// Data counts as in flight for so long after the latest sign of it. On the side that receives,
/// nothing arrives any more when the path is dead: this must outlast the verdict.
const AFTERGLOW: Duration = Duration::from_secs(3);

/// Datagrams of a connection so far, over all of its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Those that were sent.
    pub sent: u64,
    /// Those that came.
    pub received: u64,
}

/// What the looks at a connection have shown.
#[derive(Debug, Default)]
pub(super) struct Flow {
    next: Option<Instant>,
    last: Traffic,
    /// Sent since something came.
    unanswered: u64,
    busy_until: Option<Instant>,
    doubted: Option<Instant>,
}

impl Flow {
    /// The connection stands.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next = Some(later(now, SAMPLE));
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = Some(later(now, SAMPLE));
        }
        due
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether something is repeated and nothing comes back: true once in [`DOUBT`].
    pub(super) fn is_in_doubt(&mut self, now: Instant) -> bool {
        let recently = |at: Instant| now < later(at, DOUBT);
        let doubts = self.unanswered >= REPEATED && !self.doubted.is_some_and(recently);
        if doubts {
            self.doubted = Some(now);
        }
        doubts
    }

    /// Whether data is in flight.
    pub(super) fn take(&mut self, now: Instant, traffic: Traffic) -> bool {
        let sent = traffic.sent.saturating_sub(self.last.sent);
        let received = traffic.received.saturating_sub(self.last.received);
        self.last = traffic;
        self.unanswered = match received {
            0 => self.unanswered.saturating_add(sent),
            _ => 0,
        };
        if sent.saturating_add(received) >= MANY || (sent > 0 && self.unanswered >= REPEATED) {
            self.busy_until = Some(later(now, AFTERGLOW));
        }
        self.busy_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    /// What is said of a connection after each of these numbers sent and received.
    fn looks(samples: &[(u64, u64)]) -> Vec<bool> {
        let (mut flow, mut total, mut now) = (Flow::default(), Traffic::default(), start());
        flow.begin(now);
        let mut verdicts = Vec::new();
        for (sent, received) in samples {
            now = later(now, SAMPLE);
            assert!(flow.is_due(now));
            total.sent = total.sent.saturating_add(*sent);
            total.received = total.received.saturating_add(*received);
            verdicts.push(flow.take(now, total));
        }
        verdicts
    }

    #[test]
    fn what_keeps_a_connection_alive_is_not_data() {
        let samples: Vec<_> = (0..50)
            .map(|n| (u64::from(n % 13 == 0), u64::from(n % 13 == 1)))
            .collect();
        assert_eq!(looks(&samples), [false; 50]);
    }

    #[test]
    fn much_in_either_direction_is_data_for_three_seconds() {
        for first in [(100, 10), (2, 100)] {
            let samples = [&[first][..], &[(0, 0); 12]].concat();
            let busy = looks(&samples).iter().filter(|busy| **busy).count();
            assert_eq!(busy, 10);
        }
    }

    #[test]
    fn a_little_that_is_sent_again_without_an_answer_is_data() {
        assert_eq!(looks(&[(1, 0), (0, 0), (1, 0)]), [false, false, true]);
        assert_eq!(looks(&[(1, 0), (0, 1), (1, 0)]), [false, false, false]);
    }

    #[test]
    fn it_is_looked_at_in_time_and_not_before() {
        let now = start();
        let mut flow = Flow::default();
        assert_eq!(flow.poll_timeout(), None);
        flow.begin(now);
        assert!(!flow.is_due(now));
        assert_eq!(flow.poll_timeout(), Some(now + SAMPLE));
    }
}
