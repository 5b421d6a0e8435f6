//! From what STUN servers saw to what the NAT does.

use std::net::SocketAddr;
use std::time::Instant;

use super::budget::MAX_SAMPLES;
use super::nat::{Allocation, Filtering, Mapping, NatReport, PortRange};

/// The largest distance between ports that follow each other: a step, and the flows of others
/// that came in between.
const MAX_DISTANCE: i32 = 128;
/// Mappings needed before anything is said about how ports are given.
const MIN_PORTS: usize = 3;
/// Mappings needed before parity is: seven coins agree once in 128 times.
const MIN_FOR_PARITY: usize = 8;
/// Below this a range of ports is not worth telling from one that is a little larger.
const LEAST_BLOCK: u32 = 16;

/// One mapping: `server` saw packets from `local` come from `mapped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The host's own address and port.
    pub local: SocketAddr,
    /// Who looked.
    pub server: SocketAddr,
    /// What it saw.
    pub mapped: SocketAddr,
    /// When the request was sent, which is the order in which the mappings were made.
    pub sent: Instant,
}

/// Collects samples of one host's NAT and says what they mean.
///
/// The samples of one local port at several servers tell the mapping behaviour, those of several
/// local ports how ports are chosen. It works with one server, and then says that the rest is
/// unknown.
#[derive(Debug, Default)]
pub struct Classifier {
    samples: Vec<Sample>,
}

impl Classifier {
    /// Adds a sample. Those beyond [`MAX_SAMPLES`] and repetitions are ignored.
    pub fn add(&mut self, sample: Sample) {
        let same = |s: &Sample| (s.local, s.server) == (sample.local, sample.server);
        if self.samples.len() < MAX_SAMPLES && !self.samples.iter().any(same) {
            self.samples.push(sample);
            self.samples.sort_by_key(|sample| sample.sent);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// What the samples say; `None` without any. The first local address to have been sampled
    /// is taken for the main one.
    #[must_use]
    pub fn report(&self) -> Option<NatReport> {
        let first = self.samples.first()?;
        Some(NatReport {
            mapped: first.mapped,
            mapping: self.mapping(),
            filtering: Filtering::Unknown,
            allocation: self.allocation(),
            parity: self.parity(),
        })
    }

    /// Whether all mappings have one IP address ("paired" IP address pooling, RFC 4787 section
    /// 4.1); `None` with fewer than two of the host's sockets.
    #[must_use]
    pub fn is_paired(&self) -> Option<bool> {
        let first = self.samples.first()?;
        let mut others = self.samples.iter().filter(|s| s.local != first.local);
        others.next()?;
        let same = |s: &Sample| s.mapped.ip() == first.mapped.ip();
        Some(self.samples.iter().all(same))
    }

    fn mapping(&self) -> Mapping {
        if self.maps_nothing() {
            return Mapping::EndpointIndependent;
        }
        let (mut by_port, mut by_address) = (None, None);
        for (a, b) in self.pairs().filter(|(a, b)| a.local == b.local) {
            let same = a.mapped == b.mapped;
            let same_address = a.server.ip() == b.server.ip();
            let same_port = a.server.port() == b.server.port();
            match (same_address, same) {
                (true, _) => note(&mut by_port, !same),
                (false, true) => {
                    note(&mut by_address, false);
                    if !same_port {
                        note(&mut by_port, false);
                    }
                }
                (false, false) => note(&mut by_address, true),
            }
        }
        match (by_address, by_port) {
            (_, Some(true)) => Mapping::AddressAndPortDependent,
            (Some(true), Some(false)) => Mapping::AddressDependent,
            (Some(true), None) => Mapping::EndpointDependent,
            // A NAT that tells ports apart tells addresses apart, too.
            (Some(false), _) => Mapping::EndpointIndependent,
            (None, Some(false)) => Mapping::PortIndependent,
            (None, None) => Mapping::Unknown,
        }
    }

    /// Whether there is no NAT.
    fn maps_nothing(&self) -> bool {
        self.samples.iter().all(|s| s.local == s.mapped)
    }

    fn pairs(&self) -> impl Iterator<Item = (&Sample, &Sample)> {
        let from = |n: usize| self.samples.iter().skip(n.saturating_add(1));
        let all = self.samples.iter().enumerate();
        all.flat_map(move |(n, a)| from(n).map(move |b| (a, b)))
    }

    /// The first sample of each mapping, in the order in which they were made.
    fn mappings(&self) -> Vec<&Sample> {
        let mut mappings: Vec<&Sample> = Vec::new();
        for sample in &self.samples {
            let same = |m: &&Sample| (m.local, m.mapped) == (sample.local, sample.mapped);
            if !mappings.iter().any(same) {
                mappings.push(sample);
            }
        }
        mappings
    }

    fn allocation(&self) -> Allocation {
        let mappings = self.mappings();
        if self.maps_nothing() {
            return Allocation::Unknown;
        }
        if self.preserves() {
            return Allocation::Preserving;
        }
        if mappings.len() < MIN_PORTS {
            return Allocation::Unknown;
        }
        let ports: Vec<_> = mappings.iter().map(|m| m.mapped.port()).collect();
        sequential(&mappings).unwrap_or_else(|| Allocation::Random(range_of(&ports)))
    }

    /// Whether the first mapping of nearly every local port has that port: now and then it is
    /// somebody else's.
    fn preserves(&self) -> bool {
        let mut locals: Vec<&Sample> = Vec::new();
        for sample in &self.samples {
            if !locals.iter().any(|known| known.local == sample.local) {
                locals.push(sample);
            }
        }
        let kept = locals.iter();
        let kept = kept.filter(|s| s.local.port() == s.mapped.port()).count();
        kept > 0 && kept.saturating_mul(4) >= locals.len().saturating_mul(3)
    }

    fn parity(&self) -> bool {
        let same = |s: &&Sample| (s.local.port() ^ s.mapped.port()) & 1 == 0;
        let mappings = self.mappings();
        mappings.len() >= MIN_FOR_PARITY && mappings.iter().all(same)
    }
}

fn note(known: &mut Option<bool>, depends: bool) {
    *known = Some(known.unwrap_or(false) || depends);
}

/// Ports that follow each other, if three in four do.
fn sequential(mappings: &[&Sample]) -> Option<Allocation> {
    let port = |sample: &Sample| i32::from(sample.mapped.port());
    let next = mappings.iter().skip(1);
    let steps: Vec<_> = mappings.iter().zip(next).collect();
    let distances = steps.iter().map(|(a, b)| port(b).saturating_sub(port(a)));
    let distances: Vec<_> = distances.collect();
    let ups = distances.iter().filter(|d| **d > 0).count();
    let up = ups.saturating_mul(2) > distances.len();
    let near = |d: &&i32| d.abs() <= MAX_DISTANCE && **d != 0 && (**d > 0) == up;
    let near: Vec<_> = distances.iter().filter(near).copied().collect();
    if near.len() < 2 || near.len().saturating_mul(4) < distances.len().saturating_mul(3) {
        return None;
    }
    let step = near.iter().fold(0, |step, d| common_divisor(step, d.abs()));
    let last = mappings.last()?;
    let first = mappings.first()?;
    let foreign: i32 = near
        .iter()
        .map(|d| d.abs().checked_div(step).unwrap_or(1).saturating_sub(1))
        .sum();
    let elapsed = last.sent.saturating_duration_since(first.sent);
    let step = i16::try_from(step).ok()?;
    Some(Allocation::Sequential {
        step: if up { step } else { step.saturating_neg() },
        last: last.mapped.port(),
        foreign_flows: rate(foreign, elapsed.as_secs_f64()),
    })
}

fn rate(count: i32, seconds: f64) -> u16 {
    if count <= 0 || seconds <= 0.0 {
        return 0;
    }
    // The conversion saturates.
    (f64::from(count) / seconds).round() as u16
}

fn common_divisor(a: i32, b: i32) -> i32 {
    if b == 0 {
        a
    } else {
        common_divisor(b, a.checked_rem(b).unwrap_or(0))
    }
}

/// The range that random ports were drawn from.
///
/// Of n ports drawn from R the lowest and the highest are about R (n - 1) / (n + 1) apart, so
/// the range reaches about one gap beyond each of them. Carriers cut blocks of a power of two:
/// one that is aligned is taken instead where it is nearly as large, and else the size where
/// it is nearly the same.
fn range_of(ports: &[u16]) -> PortRange {
    let first = ports.iter().min().copied().unwrap_or(0);
    let last = ports.iter().max().copied().unwrap_or(u16::MAX);
    let seen = PortRange { first, last };
    let gaps = u32::try_from(ports.len())
        .unwrap_or(u32::MAX)
        .saturating_sub(1);
    let gap = seen.count().checked_div(gaps).unwrap_or(0);
    let gap = u16::try_from(gap).unwrap_or(u16::MAX);
    let least = if first < 1024 { 0 } else { 1024 };
    let wide = PortRange {
        first: first.saturating_sub(gap).max(least),
        last: last.saturating_add(gap),
    };
    aligned(seen, wide).unwrap_or_else(|| rounded(seen, wide))
}

/// The range cut down to a power of two that holds all ports seen, if that takes less than a
/// ninth of it away.
fn rounded(seen: PortRange, wide: PortRange) -> PortRange {
    let size = seen.count().checked_next_power_of_two();
    let surplus = size.and_then(|size| wide.count().checked_sub(size));
    match surplus {
        Some(surplus) if surplus < wide.count().checked_div(9).unwrap_or(0) => {
            let below = u16::try_from(surplus >> 1).unwrap_or(0);
            let above = u16::try_from(surplus.saturating_sub(surplus >> 1)).unwrap_or(0);
            PortRange {
                first: wide.first.saturating_add(below).min(seen.first),
                last: wide.last.saturating_sub(above).max(seen.last),
            }
        }
        Some(_) | None => wide,
    }
}

/// The smallest aligned block of a power of two that holds all ports seen, unless it is an
/// eighth larger than the range that they suggest: with 32 samples one block in fifty looks so
/// small, while ranges of other sizes lie within a larger block by chance, and every probe beyond
/// them is wasted.
fn aligned(seen: PortRange, wide: PortRange) -> Option<PortRange> {
    let mut size = LEAST_BLOCK;
    while size <= 65_536 {
        let mask = size.saturating_sub(1);
        let start = u32::from(seen.first) & !mask;
        let end = start | mask;
        if u32::from(seen.last) <= end {
            let allowed = wide.count().saturating_mul(9).checked_div(8)?;
            let first = u16::try_from(start).ok()?;
            let first = if first < 1024 && wide.first >= 1024 {
                1024
            } else {
                first
            };
            let last = u16::try_from(end).ok()?;
            return (size <= allowed).then_some(PortRange { first, last });
        }
        size = size.saturating_mul(2);
    }
    None
}
