//! The rows of `make bench-turn`.

mod cost;
mod data;
mod latency;
mod streams;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use crate::options::{Rows, rounds};
use crate::process::{self, Role};
use crate::report::{Goal, Report, Row, say};
use crate::subject::{Programs, Server, Subject, coturn_version};

/// More files than any row has open.
const FILES: u64 = 10_000;

/// Measures all rows that are wanted with this program `postern`, and writes the report.
pub fn run(postern: &Path) -> Result<()> {
    let mut bench = Bench::new(postern)?;
    data::rows(&mut bench)?;
    streams::rows(&mut bench)?;
    cost::rows(&mut bench)?;
    latency::rows(&mut bench)?;
    bench.finish()
}

/// One quantity of a row's samples.
struct Head {
    name: String,
    unit: &'static str,
    goals: Vec<Goal>,
}

impl Head {
    fn new(name: impl Into<String>, unit: &'static str, goals: &[Goal]) -> Self {
        Self {
            name: name.into(),
            unit,
            goals: goals.to_vec(),
        }
    }
}

/// A sample has a value for each head.
type Sample<'a> = dyn Fn(&Server) -> Result<Vec<f64>> + 'a;

/// Who is measured, and how.
struct Contender<'a> {
    name: &'static str,
    subject: Subject,
    /// Whether each sample needs a server of its own.
    fresh: bool,
    sample: Box<Sample<'a>>,
}

impl<'a> Contender<'a> {
    fn new(subject: Subject, sample: impl Fn(&Server) -> Result<Vec<f64>> + 'a) -> Self {
        let name = match subject {
            Subject::Postern => "postern",
            Subject::Coturn => "coturn",
            Subject::Limit(_) => "limit",
        };
        Self {
            name,
            subject,
            // A limit does not forget its clients, whose ports others may get.
            fresh: matches!(subject, Subject::Limit(_)),
            sample: Box::new(sample),
        }
    }

    fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }
}

struct Bench {
    programs: Programs,
    coturn: bool,
    rounds: u32,
    wanted: Rows,
    report: Report,
    failures: usize,
}

impl Bench {
    fn new(postern: &Path) -> Result<Self> {
        process::need_files(FILES)?;
        let coturn = coturn_version();
        let rounds = rounds()?;
        let version = coturn
            .as_deref()
            .unwrap_or("not installed: measured without it");
        say(&format!("medians of {rounds}; coturn {version}\n\n"))?;
        let report = Report::new("turn");
        process::pin(Role::Load)?;
        Ok(Self {
            programs: Programs::new(postern)?,
            coturn: coturn.is_some(),
            rounds,
            wanted: Rows::from_environment(),
            report: report.with("coturn", version),
            failures: 0,
        })
    }

    /// Measures the contenders, the first of which is ours, in turn in every round.
    fn measure(&mut self, heads: &[Head], contenders: Vec<Contender<'_>>) -> Result<()> {
        if !heads.iter().any(|head| self.wanted.wants(&head.name)) {
            return Ok(());
        }
        let mut contenders: Vec<_> = contenders
            .into_iter()
            .filter(|contender| self.coturn || contender.subject != Subject::Coturn)
            .map(|contender| (contender, Vec::new()))
            .collect();
        let ours = contenders.first().map(|(contender, _)| contender.name);
        self.take_samples(&heads[0].name, &mut contenders)?;
        // Without ours there is nothing to compare.
        if contenders.first().map(|(contender, _)| contender.name) != ours {
            return Ok(());
        }
        for (index, head) in heads.iter().enumerate() {
            let mut row = Row::new(&head.name, head.unit).goals(&head.goals);
            for (contender, samples) in &contenders {
                let values = samples.iter().map(|values| values[index]);
                row = row.subject(contender.name, values.collect());
            }
            self.report.add(&row)?;
        }
        Ok(())
    }

    /// A contender that fails gets one more chance, with a new server; then it is left out and
    /// the others go on.
    fn take_samples(
        &mut self,
        row: &str,
        contenders: &mut Vec<(Contender<'_>, Vec<Vec<f64>>)>,
    ) -> Result<()> {
        let mut running = BTreeMap::new();
        for _ in 0..self.rounds {
            let mut index = 0;
            while let Some((contender, samples)) = contenders.get_mut(index) {
                let name = contender.name;
                let mut result = sample(&self.programs, &mut running, contender);
                if let Err(error) = &result {
                    say(&format!("{row}: {name}, again: {error:#}\n"))?;
                    running.clear();
                    result = sample(&self.programs, &mut running, contender);
                }
                match result {
                    Ok(values) => {
                        samples.push(values);
                        index += 1;
                    }
                    Err(error) => {
                        say(&format!("{row}: {name} failed: {error:#}\n"))?;
                        self.failures += 1;
                        contenders.remove(index);
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.report.save()?;
        if self.failures > 0 {
            bail!("{} measurements failed", self.failures);
        }
        Ok(())
    }
}

/// One sample, on a server that runs already unless it has to be a fresh one.
fn sample(
    programs: &Programs,
    running: &mut BTreeMap<bool, Server>,
    contender: &Contender<'_>,
) -> Result<Vec<f64>> {
    if contender.fresh {
        return (contender.sample)(&programs.start(contender.subject)?);
    }
    let ours = contender.subject == Subject::Postern;
    if let Some(server) = running.get(&ours) {
        return (contender.sample)(server);
    }
    let server = programs.start(contender.subject)?;
    (contender.sample)(running.entry(ours).or_insert(server))
}
