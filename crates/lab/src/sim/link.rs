//! Links: what happens to a packet between two nodes.

use super::random::Stream;
use std::time::{Duration, Instant};

/// A cable between an interface and its network: one [`Pipe`] for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// From the interface to the network.
    pub up: Pipe,
    /// From the network to the interface.
    pub down: Pipe,
}

impl Link {
    /// The same in both directions.
    #[must_use]
    pub const fn symmetric(pipe: Pipe) -> Self {
        Self {
            up: pipe,
            down: pipe,
        }
    }

    /// A perfect link with this one-way latency in both directions.
    #[must_use]
    pub fn with_latency(latency: Duration) -> Self {
        Self::symmetric(Pipe {
            latency,
            ..Pipe::default()
        })
    }
}

/// One direction of a link. The default is perfect: no delay, no loss, no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pipe {
    /// One-way delay of every packet.
    pub latency: Duration,
    /// Additional delay, uniform between zero and this.
    pub jitter: Duration,
    /// Probability from 0 to 1 that a packet is lost.
    pub loss: f64,
    /// Probability from 0 to 1 that a packet arrives twice.
    pub duplication: f64,
    /// Whether jitter may change the order of packets.
    pub reordering: bool,
    /// Throughput limit in bytes a second, headers included; `None` is unlimited.
    pub rate: Option<u64>,
    /// Longest time a packet may wait for its turn when `rate` is set; beyond it the
    /// queue is full and the packet is lost.
    pub queue: Duration,
}

/// A pipe at work.
#[derive(Debug)]
pub(crate) struct Conduit {
    pipe: Pipe,
    random: Stream,
    busy_until: Instant,
    last_arrival: Instant,
}

impl Conduit {
    pub(crate) const fn new(pipe: Pipe, random: Stream, start: Instant) -> Self {
        Self {
            pipe,
            random,
            busy_until: start,
            last_arrival: start,
        }
    }

    /// Changes the pipe for packets sent from here on.
    pub(crate) const fn set_pipe(&mut self, pipe: Pipe) {
        self.pipe = pipe;
    }

    /// When a packet of `bytes` that enters at `now` arrives: never, once or twice.
    pub(crate) fn transit(&mut self, now: Instant, bytes: u64) -> Vec<Instant> {
        let Some(departure) = self.depart(now, bytes) else {
            return Vec::new();
        };
        if self.random.chance(self.pipe.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.random.chance(self.pipe.duplication));
        (0..copies).map(|_| self.arrival(departure)).collect()
    }

    /// When the last byte has left, or `None` when the queue is full.
    fn depart(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let Some(rate) = self.pipe.rate else {
            return Some(now);
        };
        let begin = self.busy_until.max(now);
        if begin.duration_since(now) > self.pipe.queue {
            return None;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let duration = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.busy_until = begin + duration;
        Some(self.busy_until)
    }

    fn arrival(&mut self, departure: Instant) -> Instant {
        let jitter = u64::try_from(self.pipe.jitter.as_nanos()).unwrap_or(u64::MAX);
        let extra = Duration::from_nanos(self.random.below(jitter));
        let mut arrival = departure + self.pipe.latency + extra;
        if !self.pipe.reordering {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        arrival
    }
}
