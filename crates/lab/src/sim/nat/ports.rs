//! The choice of an external port.

use super::{Allocation, Nat, Ports};
use crate::sim::random::Stream;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Random draws before the search goes on in order, so that a nearly full range ends
/// the search instead of prolonging it.
const RANDOM_DRAWS: u32 = 64;

/// Chooses external ports; holds the counter or the blocks that the choice needs.
#[derive(Debug)]
pub(super) struct Allocator {
    allocation: Allocation,
    parity: bool,
    random: Stream,
    cursor: u32,
    blocks: BTreeMap<IpAddr, u32>,
    /// New flows a second of everybody else behind the NAT.
    foreign_flows: u16,
    /// When the next of them comes; unknown until the first flow of ours.
    next_foreign: Option<Instant>,
}

impl Allocator {
    pub(super) const fn new(nat: &Nat, random: Stream) -> Self {
        Self {
            allocation: nat.allocation,
            parity: nat.parity,
            random,
            cursor: 0,
            blocks: BTreeMap::new(),
            foreign_flows: nat.foreign_flows,
            next_foreign: None,
        }
    }

    /// A port for a new mapping of `internal`, or `None` when all are taken.
    pub(super) fn port(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        self.serve_foreign_flows(now);
        let parity = self.parity;
        let fits = |port: u16| (!parity || port % 2 == internal.port() % 2) && is_free(port);
        match self.allocation {
            Allocation::Preserving if fits(internal.port()) => Some(internal.port()),
            Allocation::Preserving => self.any(Ports::ALL, fits),
            Allocation::Random(ports) => self.any(ports, fits),
            Allocation::Sequential { ports, step } => self.next(ports, step, fits),
            Allocation::Block { ports, size } => {
                let block = self.block(internal.ip(), ports, size)?;
                self.any(block, fits)
            }
        }
    }

    /// Lets the flows of others that came since the last one take their ports: a Poisson
    /// process. They matter where ports are given in order; they are gone by the time the
    /// counter comes round.
    fn serve_foreign_flows(&mut self, now: Instant) {
        let Allocation::Sequential { ports, step } = self.allocation else {
            return;
        };
        while self.foreign_flows > 0 && self.next_foreign.is_none_or(|next| next <= now) {
            if self.next_foreign.is_some() {
                self.cursor = (self.cursor + u32::from(step)) % ports.count();
            }
            let pause = Duration::from_secs_f64(self.random.exponential(self.foreign_flows));
            self.next_foreign = Some(self.next_foreign.unwrap_or(now) + pause);
        }
    }

    /// A random port of the range for a flow that cannot have the one it should, and
    /// for the sources that have to be told apart.
    pub(super) fn any(&mut self, ports: Ports, fits: impl Fn(u16) -> bool) -> Option<u16> {
        let count = ports.count();
        let draws = (0..RANDOM_DRAWS).map(|_| self.draw(count));
        let drawn = draws.map(|offset| ports.nth(offset)).find(|&p| fits(p));
        drawn.or_else(|| {
            let start = self.draw(count);
            (0..count).map(|i| ports.nth(start + i)).find(|&p| fits(p))
        })
    }

    fn draw(&mut self, count: u32) -> u32 {
        u32::try_from(self.random.below(u64::from(count))).unwrap_or(0)
    }

    fn next(&mut self, ports: Ports, step: u16, fits: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in 0..ports.count() {
            let port = ports.nth(self.cursor);
            self.cursor = (self.cursor + u32::from(step)) % ports.count();
            if fits(port) {
                return Some(port);
            }
        }
        None
    }

    /// The block of an internal address, handed out in order of first use.
    fn block(&mut self, internal: IpAddr, ports: Ports, size: u16) -> Option<Ports> {
        let next = u32::try_from(self.blocks.len()).ok()?;
        let index = *self.blocks.entry(internal).or_insert(next);
        let size = u32::from(size.max(1));
        let first = index.checked_mul(size)?;
        (first + size <= ports.count()).then(|| Ports {
            first: ports.nth(first),
            last: ports.nth(first + size - 1),
        })
    }
}
