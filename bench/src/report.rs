//! The report of a benchmark: a table for people, JSON for programs.
//!
//! ```json
//! {"rows": [{"name": "…", "unit": "…", "subject": "postern", "samples": [1.0],
//!            "median": 1.0, "ratio_to": "coturn", "ratio": 0.5}],
//!  "machine": {"cpus": 2, "model": "…", "kernel": "…", "load": "…"}, "date": 1700000000}
//! ```
//!
//! The first subject of a row has an entry for each of the others, its references, which
//! follow with an entry of their own each. `date` is in seconds since 1970.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Map, Value, json};

/// What a row should reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// The median of the first subject, at most.
    AtMost(f64),
    /// The same, at least.
    AtLeast(f64),
    /// Its ratio to this reference, at most.
    RatioAtMost(&'static str, f64),
    /// Its ratio to this reference, at least.
    RatioAtLeast(&'static str, f64),
}

/// One quantity, measured on several subjects.
#[derive(Debug, Clone)]
pub struct Row {
    name: String,
    unit: &'static str,
    subjects: Vec<(String, Vec<f64>)>,
    goals: Vec<Goal>,
}

impl Row {
    /// A row without subjects.
    #[must_use]
    pub fn new(name: &str, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            subjects: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Adds a subject; the first one is compared with all that follow.
    #[must_use]
    pub fn subject(mut self, name: &str, samples: Vec<f64>) -> Self {
        self.subjects.push((name.to_owned(), samples));
        self
    }

    /// Adds what should be reached.
    #[must_use]
    pub fn goals(mut self, goals: &[Goal]) -> Self {
        self.goals.extend_from_slice(goals);
        self
    }

    fn median(&self) -> f64 {
        let first = self.subjects.first();
        first.map_or(f64::NAN, |(_, samples)| median(samples))
    }

    fn ratio(&self, reference: &str) -> Option<f64> {
        let (_, samples) = self.subjects.iter().find(|(name, _)| name == reference)?;
        Some(self.median() / median(samples))
    }

    fn entries(&self) -> Vec<Value> {
        let entry = |(subject, samples): &(String, Vec<f64>), ratio_to: &str, ratio: f64| {
            json!({
                "name": self.name, "unit": self.unit, "subject": subject, "samples": samples,
                "median": median(samples), "ratio_to": ratio_to, "ratio": ratio,
            })
        };
        let Some((first, references)) = self.subjects.split_first() else {
            return Vec::new();
        };
        if references.is_empty() {
            return vec![entry(first, &first.0, 1.0)];
        }
        let ours = references.iter();
        let ours = ours.map(|r| entry(first, &r.0, self.median() / median(&r.1)));
        let theirs = references.iter().map(|r| entry(r, &r.0, 1.0));
        ours.chain(theirs).collect()
    }

    /// The name, then a line for each subject.
    fn table(&self) -> String {
        let mut text = format!("{} ({})\n", self.name, self.unit);
        for (index, (subject, samples)) in self.subjects.iter().enumerate() {
            let _ = write!(text, "    {subject:28} {:>10}", digits(median(samples)));
            let _ = write!(text, "   {:>22}", spread(samples));
            if index > 0 {
                let ratio = self.median() / median(samples);
                let _ = write!(text, "   ratio {ratio:.2}");
            }
            text.push('\n');
        }
        for goal in &self.goals {
            if let Some((words, reached)) = self.judge(*goal) {
                let verdict = if reached { "reached" } else { "MISSED" };
                let _ = writeln!(text, "    goal: {words}: {verdict}");
            }
        }
        text
    }

    /// The goal in words and whether it is reached; nothing if its reference is missing.
    fn judge(&self, goal: Goal) -> Option<(String, bool)> {
        Some(match goal {
            Goal::AtMost(most) => (format!("at most {most}"), self.median() <= most),
            Goal::AtLeast(least) => (format!("at least {least}"), self.median() >= least),
            Goal::RatioAtMost(to, most) => (
                format!("ratio to {to} at most {most:.2}"),
                self.ratio(to)? <= most,
            ),
            Goal::RatioAtLeast(to, least) => (
                format!("ratio to {to} at least {least:.2}"),
                self.ratio(to)? >= least,
            ),
        })
    }
}

/// All rows of a benchmark.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    entries: Vec<Value>,
    also: Map<String, Value>,
    machine: Value,
}

impl Report {
    /// An empty report, for `target/bench/NAME.json`, with the machine's state as it is now.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            entries: Vec::new(),
            also: Map::new(),
            machine: machine(),
        }
    }

    /// Adds a field beside `rows`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.also.insert(field.to_owned(), value.into());
        self
    }

    /// Adds a row and prints it.
    pub fn add(&mut self, row: &Row) -> Result<()> {
        self.entries.extend(row.entries());
        say(&row.table())
    }

    /// Writes the file below the directory of the workspace.
    pub fn save(self) -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        std::fs::create_dir_all(&directory)?;
        let file = format!("{}.json", self.name);
        let text = serde_json::to_string_pretty(&self.value()?)?;
        std::fs::write(directory.join(&file), text)?;
        say(&format!("written to target/bench/{file}\n"))
    }

    fn value(self) -> Result<Value> {
        let date = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut report = self.also;
        report.insert("rows".to_owned(), self.entries.into());
        report.insert("machine".to_owned(), self.machine);
        report.insert("date".to_owned(), date.into());
        Ok(report.into())
    }
}

/// Prints a text of the report.
pub fn say(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

/// The one in the middle.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample below which this share of all is; NaN if there are none.
#[must_use]
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut values = samples.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    let last = values.len().saturating_sub(1);
    values.get(index.min(last)).copied().unwrap_or(f64::NAN)
}

fn spread(samples: &[f64]) -> String {
    let least = quantile(samples, 0.0);
    let most = quantile(samples, 1.0);
    format!("{} to {}", digits(least), digits(most))
}

/// Three digits that say something.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// What it was measured on, without a name.
fn machine() -> Value {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let information = read("/proc/cpuinfo");
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, name)| name);
    json!({
        "cpus": cpus,
        "model": model,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load": read("/proc/loadavg"),
    })
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::new("cost", "µs")
            .subject("postern", vec![3.0, 1.0, 2.0])
            .subject("coturn", vec![8.0])
            .subject("limit", vec![1.0])
            .goals(&[
                Goal::AtMost(2.0),
                Goal::RatioAtMost("limit", 1.5),
                Goal::RatioAtLeast("coturn", 0.3),
                Goal::RatioAtMost("absent", 1.0),
            ])
    }

    #[test]
    fn the_first_subject_is_compared_with_every_other() {
        let entries = row().entries();
        let brief = |entry: &Value| {
            let word = |field: &str| entry[field].as_str().unwrap().to_owned();
            (word("subject"), word("ratio_to"), entry["ratio"].as_f64())
        };
        let expected = [
            ("postern", "coturn", 0.25),
            ("postern", "limit", 2.0),
            ("coturn", "coturn", 1.0),
            ("limit", "limit", 1.0),
        ];
        let expected = expected.map(|(a, b, ratio)| (a.to_owned(), b.to_owned(), Some(ratio)));
        assert_eq!(entries.iter().map(brief).collect::<Vec<_>>(), expected);
        assert_eq!(entries[0]["median"], 2.0);
        assert_eq!(entries[0]["samples"], json!([3.0, 1.0, 2.0]));
    }

    #[test]
    fn goals_are_judged_where_their_reference_was_measured() {
        let text = row().table();
        assert!(text.contains("at most 2: reached"), "{text}");
        assert!(
            text.contains("ratio to limit at most 1.50: MISSED"),
            "{text}"
        );
        assert!(
            text.contains("ratio to coturn at least 0.30: MISSED"),
            "{text}"
        );
        assert!(!text.contains("absent"), "{text}");
    }

    #[test]
    fn a_report_says_what_it_was_measured_on_and_when() {
        let mut report = Report::new("test").with("bytes", 7);
        report.add(&row()).unwrap();
        let value = report.value().unwrap();
        assert_eq!(value["rows"].as_array().map(Vec::len), Some(4));
        assert_eq!(value["bytes"], 7);
        assert!(value["date"].as_u64() > Some(1_700_000_000));
        assert!(value["machine"]["cpus"].as_u64() > Some(0));
    }

    #[test]
    fn quantiles_are_samples() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 0.5), 3.0);
        assert_eq!(quantile(&samples, 0.99), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
