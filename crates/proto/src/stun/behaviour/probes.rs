//! Requests under way: when each is sent, sent again and given up.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::TransactionId;

use crate::Transmit;

/// The pause between two datagrams: Ta of RFC 8445 section 14.2 at its least, twice, because
/// all of it goes through one NAT.
const PACE: Duration = Duration::from_millis(10);

/// How long to wait after the first, the second and the last time that a request is sent, at
/// least. A test that is to be silent must be sent more than once, and not for long.
const WAITS: &[Duration] = &[
    Duration::from_millis(250),
    Duration::from_millis(400),
    Duration::from_millis(500),
];

/// A request to be sent, and what it is for.
#[derive(Debug, Clone)]
pub(super) struct Probe<T> {
    pub(super) test: T,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) payload: Vec<u8>,
    /// What goes before it each time.
    pub(super) ahead: Option<Ahead>,
}

/// A datagram that does not get far: for what the routers on its way make of it.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    pub(super) remote: SocketAddr,
    pub(super) payload: Vec<u8>,
    pub(super) ttl: u8,
}

/// A request that is under way, or just was.
#[derive(Debug, Clone)]
pub(super) struct Running<T> {
    pub(super) probe: Probe<T>,
    /// How often it was sent.
    pub(super) sent: usize,
    pub(super) first_sent: Instant,
    due: Instant,
}

/// All of them, sent one after the other in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Probes<T> {
    waiting: VecDeque<(TransactionId, Probe<T>)>,
    running: BTreeMap<TransactionId, Running<T>>,
    next_slot: Option<Instant>,
    /// Added to every wait: networks with long round trips.
    patience: Duration,
    transmits: VecDeque<Transmit>,
    limited: VecDeque<(Transmit, u8)>,
    waits: &'static [Duration],
}

impl<T> Default for Probes<T> {
    fn default() -> Self {
        Self::with_waits(WAITS)
    }
}

impl<T> Probes<T> {
    /// Each is sent as often as there are waits.
    pub(super) const fn with_waits(waits: &'static [Duration]) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            next_slot: None,
            patience: Duration::ZERO,
            transmits: VecDeque::new(),
            limited: VecDeque::new(),
            waits,
        }
    }

    pub(super) fn add(&mut self, id: TransactionId, probe: Probe<T>) {
        self.waiting.push_back((id, probe));
    }

    /// Waits longer where a round trip takes longer than what is waited anyway.
    pub(super) fn learn_round_trip(&mut self, round_trip: Duration) {
        self.patience = self.patience.max(round_trip);
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Running<T>> {
        self.running.get(&id)
    }

    pub(super) fn take(&mut self, id: TransactionId) -> Option<Running<T>> {
        self.running.remove(&id)
    }

    pub(super) fn tests(&self) -> impl Iterator<Item = &T> {
        let waiting = self.waiting.iter().map(|(_, probe)| &probe.test);
        waiting.chain(self.running.values().map(|running| &running.probe.test))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sends what is due; yields the tests that were given up.
    pub(super) fn work(&mut self, now: Instant) -> Vec<Running<T>> {
        let given_up = self.repeat(now);
        while self.next_slot.is_none_or(|slot| slot <= now) {
            let Some((id, probe)) = self.waiting.pop_front() else {
                break;
            };
            self.transmit(&probe);
            self.next_slot = now.checked_add(PACE);
            let running = Running {
                due: self.wait(now, 1),
                probe,
                sent: 1,
                first_sent: now,
            };
            self.running.insert(id, running);
        }
        given_up
    }

    /// Repeats what has not been answered. Repetitions are few and are not paced.
    fn repeat(&mut self, now: Instant) -> Vec<Running<T>> {
        let due = self.running.iter().filter(|(_, r)| r.due <= now);
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        let mut given_up = Vec::new();
        for id in due {
            let Some(mut running) = self.running.remove(&id) else {
                continue;
            };
            if running.sent >= self.waits.len() {
                given_up.push(running);
                continue;
            }
            running.sent = running.sent.saturating_add(1);
            running.due = self.wait(now, running.sent);
            self.transmit(&running.probe);
            self.running.insert(id, running);
        }
        given_up
    }

    fn wait(&self, now: Instant, sent: usize) -> Instant {
        let wait = self.waits.get(sent.saturating_sub(1)).copied();
        let wait = wait.unwrap_or_default().saturating_add(self.patience);
        now.checked_add(wait).unwrap_or(now)
    }

    fn transmit(&mut self, probe: &Probe<T>) {
        if let Some(ahead) = &probe.ahead {
            let transmit = Transmit {
                local: probe.local,
                remote: ahead.remote,
                payload: ahead.payload.clone(),
            };
            self.limited.push_back((transmit, ahead.ttl));
        }
        self.transmits.push_back(Transmit {
            local: probe.local,
            remote: probe.remote,
            payload: probe.payload.clone(),
        });
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// A datagram and its time to live, to be sent before those of [`Self::poll_transmit`].
    pub(super) fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        self.limited.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let slot = (!self.waiting.is_empty())
            .then_some(self.next_slot)
            .flatten();
        let due = self.running.values().map(|running| running.due).min();
        [slot, due].into_iter().flatten().min()
    }
}
