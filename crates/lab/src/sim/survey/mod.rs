//! Random worlds by the thousand, and whether the agents do in them what is possible.
//!
//! ```
//! use postern_lab::sim::survey::Survey;
//!
//! let mut survey = Survey::default();
//! survey.extend(0..20);
//! assert_eq!(survey.surprises(), []);
//! ```

mod draw;
mod oracle;

pub use draw::world;
pub use oracle::{Class, Forecast};

use super::matrix::{End, Run, run, wilson};
use super::random::seed;
use std::collections::BTreeMap;

/// Deviations of a class from its forecast, in standard deviations, that chance alone brings
/// about once in 30,000 times.
const TOLERANCE: f64 = 4.0;

/// What came of the worlds of a class.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tally {
    /// Worlds.
    pub runs: u32,
    /// Those with a direct path.
    pub direct: u32,
    /// How many to expect at least, and the variance of that.
    least: (f64, f64),
    /// How many to expect at most, and the variance of that.
    most: (f64, f64),
    /// How they ended.
    pub ends: BTreeMap<End, u32>,
    /// Times to a direct path in milliseconds, not in order.
    pub times_ms: Vec<u32>,
    /// The most datagrams of a side.
    pub most_datagrams: u64,
}

/// A world in which something else happened than has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surprise {
    /// Its seed.
    pub seed: u64,
    /// What it is.
    pub class: Class,
    /// Whether there was a direct path.
    pub direct: bool,
}

/// Many worlds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Survey {
    tallies: BTreeMap<Class, Tally>,
    surprises: Vec<Surprise>,
}

impl Extend<u64> for Survey {
    fn extend<T: IntoIterator<Item = u64>>(&mut self, seeds: T) {
        seeds.into_iter().for_each(|number| self.visit(number));
    }
}

impl Survey {
    /// Lets two agents meet in the world of a seed.
    fn visit(&mut self, number: u64) {
        let homes = world(seed(number));
        let forecast = Forecast::of(&homes);
        let run = run(&homes, number);
        let direct = run.direct.is_some();
        let wrong = if direct {
            forecast.most <= 0.0
        } else {
            forecast.least >= 1.0
        };
        if wrong || forecast.connects && run.end() == End::Apart {
            self.surprises.push(Surprise {
                seed: number,
                class: forecast.class,
                direct,
            });
        }
        self.tallies
            .entry(forecast.class)
            .or_default()
            .add(&forecast, &run);
    }

    /// Adds what another one has seen.
    pub fn merge(&mut self, other: Self) {
        for (class, tally) in other.tallies {
            self.tallies.entry(class).or_default().merge(tally);
        }
        self.surprises.extend(other.surprises);
        self.surprises.sort_by_key(|surprise| surprise.seed);
    }

    /// By class.
    pub fn tallies(&self) -> impl Iterator<Item = (Class, &Tally)> {
        self.tallies.iter().map(|(class, tally)| (*class, tally))
    }

    /// Worlds in which something else happened than has to.
    #[must_use]
    pub fn surprises(&self) -> &[Surprise] {
        &self.surprises
    }

    /// Classes in which fewer paths were direct than the forecast says, or more, by more than
    /// chance explains.
    pub fn unlikely(&self) -> impl Iterator<Item = (Class, &Tally)> {
        self.tallies().filter(|(_, tally)| !tally.is_likely())
    }
}

impl Tally {
    fn add(&mut self, forecast: &Forecast, run: &Run) {
        self.runs += 1;
        let note = |(mean, variance): &mut (f64, f64), chance: f64| {
            *mean += chance;
            *variance += chance * (1.0 - chance);
        };
        note(&mut self.least, forecast.least);
        note(&mut self.most, forecast.most);
        *self.ends.entry(run.end()).or_default() += 1;
        self.most_datagrams = self.most_datagrams.max(run.datagrams);
        if let Some((time, _)) = run.direct {
            self.direct += 1;
            let milliseconds = u32::try_from(time.as_millis());
            self.times_ms.push(milliseconds.unwrap_or(u32::MAX));
        }
    }

    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.direct += other.direct;
        for (own, more) in [(&mut self.least, other.least), (&mut self.most, other.most)] {
            *own = (own.0 + more.0, own.1 + more.1);
        }
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        self.times_ms.extend(other.times_ms);
        self.most_datagrams = self.most_datagrams.max(other.most_datagrams);
    }

    fn is_likely(&self) -> bool {
        let direct = f64::from(self.direct);
        let (least, most) = (self.least, self.most);
        direct >= least.0 - TOLERANCE * least.1.sqrt().max(0.5)
            && direct <= most.0 + TOLERANCE * most.1.sqrt().max(0.5)
    }

    /// The shares that the forecast allows, 0 to 1.
    #[must_use]
    pub fn expected(&self) -> (f64, f64) {
        let runs = f64::from(self.runs.max(1));
        (self.least.0 / runs, self.most.0 / runs)
    }

    /// The share with a direct path, and its 95 % confidence interval.
    #[must_use]
    pub fn rate(&self) -> (f64, f64, f64) {
        wilson(self.direct as usize, self.runs as usize)
    }

    /// The time in milliseconds that so many hundredths of the direct ones stayed within.
    #[must_use]
    pub fn time_ms(&self, percent: usize) -> Option<u32> {
        let mut times = self.times_ms.clone();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get(last * percent / 100).copied()
    }
}
