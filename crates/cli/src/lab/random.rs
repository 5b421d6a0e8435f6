//! Random worlds by the thousand, or one of them packet by packet.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use postern_lab::sim::scenario::{Meeting, describe};
use postern_lab::sim::survey::{Forecast, Survey, Tally, world};
use postern_lab::sim::{matrix, seed};
use serde::Serialize;

use super::on_all_processors;
use crate::failure::Failure;
use crate::output::Output;

/// Worlds that a thread takes at a time.
const SHARE: u64 = 200;

/// Options of `postern lab random`.
#[derive(Debug, Args)]
pub(super) struct Random {
    /// How many networks; their seeds are 0 and up
    #[arg(long, value_name = "NUMBER", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,

    /// The network of one seed: what it is, what may be expected, and every packet
    #[arg(long, value_name = "NUMBER", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Table {
    seeds: u64,
    classes: Vec<Row>,
    /// The seeds of networks in which something else happened than has to.
    surprises: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    class: &'static str,
    runs: u32,
    direct: u32,
    rate: f64,
    rate_low: f64,
    rate_high: f64,
    /// What the oracle allows.
    expected_low: f64,
    expected_high: f64,
    median_ms: Option<u32>,
    p99_ms: Option<u32>,
    most_datagrams: u64,
}

pub(super) fn run(random: &Random) -> Result<(), Failure> {
    if let Some(number) = random.seed {
        return tell(number, random.json);
    }
    let starts: Vec<u64> = (0..random.seeds).step_by(SHARE as usize).collect();
    let surveys = on_all_processors(&starts, |start| {
        let mut survey = Survey::default();
        survey.extend(*start..random.seeds.min(start + SHARE));
        survey
    });
    let mut survey = Survey::default();
    surveys.into_iter().for_each(|part| survey.merge(part));
    let rows = survey
        .tallies()
        .map(|(class, tally)| row(class.as_str(), tally));
    let table = Table {
        seeds: random.seeds,
        classes: rows.collect(),
        surprises: survey.surprises().iter().map(|s| s.seed).collect(),
    };
    Output::new(random.json).report(&table, &sentences(&table, &survey))?;
    let unlikely: Vec<_> = survey.unlikely().map(|(class, _)| class.as_str()).collect();
    if table.surprises.is_empty() && unlikely.is_empty() {
        return Ok(());
    }
    let seeds = table.surprises.len();
    let why = format!(
        "{seeds} networks and {} kinds of networks are not what they should be: {}",
        unlikely.len(),
        unlikely.join(", ")
    );
    Err(Failure::failed("different", why))
}

fn row(class: &'static str, tally: &Tally) -> Row {
    let (rate, rate_low, rate_high) = tally.rate();
    let (expected_low, expected_high) = tally.expected();
    Row {
        class,
        runs: tally.runs,
        direct: tally.direct,
        rate,
        rate_low,
        rate_high,
        expected_low,
        expected_high,
        median_ms: tally.time_ms(50),
        p99_ms: tally.time_ms(99),
        most_datagrams: tally.most_datagrams,
    }
}

fn sentences(table: &Table, survey: &Survey) -> String {
    let mut text = format!(
        "{:<26} {:>7} {:>9} {:>19} {:>19} {:>9} {:>9} {:>8}",
        "kind", "runs", "direct", "95 % interval", "possible", "median", "99 %", "packets"
    );
    for row in &table.classes {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let range = |low, high| format!("{} – {}", percent(low), percent(high));
        let ms = |time: Option<u32>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let _ = write!(
            text,
            "\n{:<26} {:>7} {:>9} {:>19} {:>19} {:>9} {:>9} {:>8}",
            row.class,
            row.runs,
            percent(row.rate),
            range(row.rate_low, row.rate_high),
            range(row.expected_low, row.expected_high),
            ms(row.median_ms),
            ms(row.p99_ms),
            row.most_datagrams
        );
    }
    for surprise in survey.surprises() {
        let found = if surprise.direct { "a" } else { "no" };
        let (seed, class) = (surprise.seed, surprise.class.as_str());
        let _ = write!(
            text,
            "\n{class}: {found} direct path, see postern lab random --seed {seed}"
        );
    }
    text
}

#[derive(Debug, Serialize)]
struct Story {
    seed: u64,
    class: &'static str,
    expected_low: f64,
    expected_high: f64,
    direct: bool,
    technique: Option<&'static str>,
    time_ms: Option<u128>,
}

/// One world from beginning to end.
fn tell(number: u64, json: bool) -> Result<(), Failure> {
    let homes = world(seed(number));
    let forecast = Forecast::of(&homes);
    let run = matrix::run(&homes, number);
    let story = Story {
        seed: number,
        class: forecast.class.as_str(),
        expected_low: forecast.least,
        expected_high: forecast.most,
        direct: run.direct.is_some(),
        technique: run.direct.map(|(_, technique)| technique.as_str()),
        time_ms: run.direct.map(|(time, _)| time.as_millis()),
    };
    let mut text = format!("{homes:#?}\n");
    if !json {
        let mut meeting = Meeting::new(&homes, Instant::now(), seed(number));
        meeting.world().trace(describe);
        meeting.run(Duration::from_secs(60));
        text.push_str(&meeting.world().trace_lines().join("\n"));
        let how = run.direct.map_or("no direct path", |(_, how)| how.as_str());
        let (class, least, most) = (story.class, forecast.least, forecast.most);
        let _ = write!(
            text,
            "\n{class}, {least:.3} to {most:.3} of these are direct: {how}"
        );
    }
    Output::new(json).report(&story, &text)
}
