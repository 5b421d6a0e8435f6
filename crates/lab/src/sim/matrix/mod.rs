//! The table of NAT pairs: how often, how fast and at what price two agents connect.
//!
//! ```
//! use postern_lab::sim::matrix::{Cell, homes, kinds};
//!
//! let kinds = kinds();
//! let cell = Cell::measure(&homes(kinds[2].nat, kinds[5].nat), 0..2);
//! assert_eq!(cell.direct(), 2);
//! ```

mod drawing;
mod situations;

pub use drawing::svg;
pub use situations::{Kind, Situation, block, homes, kinds, sequential, situations, strictest};

use super::random::seed;
use super::scenario::{Meeting, Signalling, TwoHomes};
use postern_proto::punch::{MAX_PROBES, Technique, Tried};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// One meeting.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// From the moment when the later side had the other's credentials and candidates to that
    /// at which both had a valid pair, and how the pair was found; `None` without one.
    pub direct: Option<(Duration, Technique)>,
    /// The same where the pair that was selected leads through a relay.
    pub relayed: Option<Duration>,
    /// Whether the path is a TCP connection.
    pub is_tcp: bool,
    /// Probes beyond plain checks, of the side that sent more.
    pub probes: u32,
    /// Sockets opened for them, of the side that opened more.
    pub sockets: u32,
    /// All datagrams of the side that sent more, until it had selected a path or given up.
    pub datagrams: u64,
}

/// Lets two agents meet.
#[must_use]
pub fn run(homes: &TwoHomes, number: u64) -> Run {
    let mut meeting = Meeting::new(homes, Instant::now(), seed(number));
    let outcome = meeting.run(Duration::from_secs(60));
    let stagger = match homes.signalling {
        Signalling::Together { stagger } => stagger,
        Signalling::Trickled(_) => Duration::ZERO,
    };
    let tried = [0, 1].map(|side| meeting.agent(side).punch_report().tried);
    let techniques = [0, 1].map(|side| {
        let path = outcome.sides[side].selected?;
        Some(meeting.agent(side).technique(&path))
    });
    let [left, right] = techniques;
    let found = outcome
        .both_valid_after()
        .zip(left.max(right))
        .map(|(time, technique)| (time.saturating_sub(stagger), technique))
        .filter(|_| outcome.is_connected());
    let is_tcp = [0, 1].iter().any(|side| {
        let path = outcome.sides[*side].selected;
        path.is_some_and(|path| meeting.agent(*side).tcp_ends(path.local).is_some())
    });
    Run {
        is_tcp,
        ..Run::new(found, &tried, meeting.datagrams())
    }
}

impl Run {
    /// From what both sides have tried, and the datagrams of the one that sent more.
    pub(crate) fn new(
        found: Option<(Duration, Technique)>,
        tried: &[Vec<Tried>; 2],
        datagrams: u64,
    ) -> Self {
        let is_relay = |found: &(Duration, Technique)| found.1 == Technique::Relay;
        let most = |what: fn(&Tried) -> u32| {
            let sums = tried.iter().map(|side| side.iter().map(what).sum());
            sums.max().unwrap_or(0)
        };
        Self {
            direct: found.filter(|found| !is_relay(found)),
            relayed: found.filter(is_relay).map(|(time, _)| time),
            is_tcp: false,
            probes: most(|tried| tried.probes),
            sockets: most(|tried| tried.sockets),
            datagrams,
        }
    }

    /// How it ended.
    #[must_use]
    pub fn end(&self) -> End {
        match (self.direct, self.relayed) {
            (Some(_), _) if self.is_tcp => End::Tcp,
            (Some((_, technique)), _) => End::of(technique),
            (None, Some(_)) => End::Relayed,
            (None, None) => End::Apart,
        }
    }
}

/// How a meeting ended, as far as it does not depend on who was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// With a pair that plain ICE finds.
    Plain,
    /// With a port that was predicted.
    Predicted,
    /// With a port that was met by trying many.
    Birthday,
    /// With a port for each direction.
    Asymmetric,
    /// With a TCP connection.
    Tcp,
    /// Through the relay.
    Relayed,
    /// Without a path: there is no relay in most of these worlds, where it would be one
    /// that is relayed.
    Apart,
}

impl End {
    /// Techniques that are not named here are ways to a pair of plain checks.
    fn of(technique: Technique) -> Self {
        match technique.as_str() {
            "predicted" => Self::Predicted,
            "birthday" => Self::Birthday,
            "asymmetric" => Self::Asymmetric,
            "tcp" | "reversal" => Self::Tcp,
            "relay" => Self::Relayed,
            _ => Self::Plain,
        }
    }

    /// Whether there was a direct path.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        !matches!(self, Self::Relayed | Self::Apart)
    }

    /// In lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Predicted => "predicted",
            Self::Birthday => "birthday",
            Self::Asymmetric => "asymmetric",
            Self::Tcp => "tcp",
            Self::Relayed => "relayed",
            Self::Apart => "apart",
        }
    }
}

/// Many meetings behind the same two NATs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    runs: usize,
    techniques: BTreeMap<Technique, usize>,
    ends: BTreeMap<End, usize>,
    /// Of the direct ones, sorted.
    times: Vec<Duration>,
    /// How many of them took no more probes than are allowed everywhere.
    frugal: usize,
    /// Of the relayed ones, sorted.
    relayed: Vec<Duration>,
    probes: Vec<u32>,
    sockets: u32,
    datagrams: u64,
}

impl Cell {
    /// Runs one meeting for each seed.
    #[must_use]
    pub fn measure(homes: &TwoHomes, seeds: Range<u64>) -> Self {
        let mut cell = Self::default();
        for number in seeds {
            cell.add(&run(homes, number));
        }
        cell
    }

    /// Adds a meeting.
    pub fn add(&mut self, run: &Run) {
        self.runs += 1;
        *self.ends.entry(run.end()).or_default() += 1;
        if let Some((time, technique)) = run.direct {
            let place = self.times.partition_point(|known| *known <= time);
            self.times.insert(place, time);
            self.frugal += usize::from(run.probes <= MAX_PROBES);
            *self.techniques.entry(technique).or_default() += 1;
        }
        if let Some(time) = run.relayed {
            let place = self.relayed.partition_point(|known| *known <= time);
            self.relayed.insert(place, time);
        }
        self.probes.push(run.probes);
        self.sockets = self.sockets.max(run.sockets);
        self.datagrams = self.datagrams.max(run.datagrams);
    }

    /// Meetings.
    #[must_use]
    pub const fn runs(&self) -> usize {
        self.runs
    }

    /// Those that ended with a direct path.
    #[must_use]
    pub const fn direct(&self) -> usize {
        self.times.len()
    }

    /// Those that had one within this time.
    #[must_use]
    pub fn direct_within(&self, limit: Duration) -> usize {
        self.times.partition_point(|time| *time <= limit)
    }

    /// The commonest technique; `None` where most had to be relayed.
    #[must_use]
    pub fn technique(&self) -> Option<Technique> {
        let direct = self.direct() * 2 >= self.runs && self.runs > 0;
        let most = self.techniques.iter().max_by_key(|(_, count)| **count);
        most.map(|(technique, _)| *technique).filter(|_| direct)
    }

    /// How most meetings ended; where most were not direct, how most of those did.
    #[must_use]
    pub fn end(&self) -> End {
        let direct = self.direct() * 2 >= self.runs && self.runs > 0;
        let counted = self
            .ends
            .iter()
            .filter(|(end, _)| end.is_direct() == direct);
        let most = counted.max_by_key(|(_, count)| **count);
        most.map_or(End::Apart, |(end, _)| *end)
    }

    /// The time that so many hundredths of the direct ones stayed within.
    #[must_use]
    pub fn time(&self, percent: usize) -> Option<Duration> {
        let last = self.times.len().checked_sub(1)?;
        self.times.get(last * percent / 100).copied()
    }

    /// The most probes that a side sent in one meeting.
    #[must_use]
    pub fn most_probes(&self) -> u32 {
        self.probes.iter().copied().max().unwrap_or(0)
    }

    /// The most sockets that a side opened in one meeting.
    #[must_use]
    pub const fn most_sockets(&self) -> u32 {
        self.sockets
    }

    /// The most datagrams that a side sent in one meeting.
    #[must_use]
    pub const fn most_datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The share of direct meetings, and the 95 % confidence interval of it (Wilson's).
    #[must_use]
    pub fn rate(&self) -> (f64, f64, f64) {
        wilson(self.direct(), self.runs)
    }

    /// The cell as numbers to keep.
    #[must_use]
    pub fn figures(&self, left: &str, right: &str) -> Figures {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (rate, low, high) = self.rate();
        Figures {
            left: left.to_owned(),
            right: right.to_owned(),
            technique: match self.end() {
                End::Tcp => Technique::Tcp.as_str(),
                End::Plain
                | End::Predicted
                | End::Birthday
                | End::Asymmetric
                | End::Relayed
                | End::Apart => self.technique().unwrap_or(Technique::Relay).as_str(),
            },
            end: self.end(),
            runs: self.runs,
            direct: self.direct(),
            rate,
            rate_low: low,
            rate_high: high,
            median_ms: self.time(50).map(ms),
            p99_ms: self.time(99).map(ms),
            direct_1500: self.frugal,
            relayed_ms: self.relayed.get(self.relayed.len() / 2).copied().map(ms),
            most_probes: self.most_probes(),
            most_sockets: self.sockets,
            most_datagrams: self.datagrams,
        }
    }
}

/// A share, and the 95 % confidence interval of what it is a sample of (Wilson's).
pub(super) fn wilson(of: usize, runs: usize) -> (f64, f64, f64) {
    const Z: f64 = 1.96;
    if runs == 0 {
        return (0.0, 0.0, 1.0);
    }
    let n = runs as f64;
    let p = of as f64 / n;
    let denominator = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / denominator;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / denominator;
    (p, (centre - half).max(0.0), (centre + half).min(1.0))
}

/// A cell of the table in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The left NAT.
    pub left: String,
    /// The right NAT.
    pub right: String,
    /// How most meetings ended: a technique, or `relay`.
    pub technique: &'static str,
    /// The same, coarser, and whether the path is a TCP connection.
    #[serde(skip)]
    pub end: End,
    /// Meetings.
    pub runs: usize,
    /// Those with a direct path.
    pub direct: usize,
    /// Their share, 0 to 1.
    pub rate: f64,
    /// The lower end of its 95 % confidence interval.
    pub rate_low: f64,
    /// The upper end.
    pub rate_high: f64,
    /// The median time to a direct path.
    pub median_ms: Option<f64>,
    /// The time that 99 of 100 stayed within.
    pub p99_ms: Option<f64>,
    /// Those that took a side no more than 1,500 probes.
    pub direct_1500: usize,
    /// The median time to a relayed path of those that have none but that.
    pub relayed_ms: Option<f64>,
    /// The most probes of a side beyond plain checks.
    pub most_probes: u32,
    /// The most sockets that a side opened.
    pub most_sockets: u32,
    /// The most datagrams that a side sent.
    pub most_datagrams: u64,
}
