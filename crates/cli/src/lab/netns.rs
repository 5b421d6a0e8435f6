//! The table behind real Linux NATs, beside the simulator's.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::Result;
use postern_lab::netns::{enter, run_twin};
use postern_lab::sim::matrix::{Cell, End, Figures, Situation};
use postern_lab::sim::scenario::TwoHomes;
use serde::Serialize;

use super::{BUDGET, Matrix, draw, in_threads, programs, sentences};
use crate::failure::Failure;
use crate::output::Output;

/// Worlds at a time. Agents send 500 packets a second each: with more of them a small machine would
/// be late.
const WORLDS: usize = 3;
/// Meetings of the twin in the simulator.
const TWINS: u64 = 5;

#[derive(Debug, Serialize)]
struct Table<'a> {
    seeds: u64,
    cells: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    /// How most meetings ended in the simulator: `plain`, `predicted`, `birthday`, `relayed`.
    simulated: &'static str,
    /// Whether it is the same.
    same: bool,
}

/// Must be called while the process has one thread.
pub(super) fn run(matrix: &Matrix) -> Result<(), Failure> {
    enter().map_err(|error| {
        let why = format!("real NATs need network namespaces: {error}");
        Failure::failed("namespaces", why)
    })?;
    let seeds = matrix.seeds.unwrap_or(1);
    let situations = matrix.situations();
    let measured = in_threads(WORLDS, &situations, |s| measure(s, seeds));
    let measured: Result<Vec<_>, _> = measured.into_iter().collect();
    let (cells, twins): (Vec<_>, Vec<_>) = measured
        .map_err(|error| Failure::failed("netns", format!("{error:#}")))?
        .into_iter()
        .unzip();
    let caption = format!("{seeds} meetings each behind real Linux NATs, 30 ms one way. {BUDGET}");
    draw(matrix.svg.as_deref(), &cells, &caption)?;
    report(matrix.json, seeds, &cells, &twins)
}

fn measure(situation: &Situation, seeds: u64) -> Result<(Figures, End)> {
    let homes = &situation.homes;
    let twin = Cell::measure(homes, 0..TWINS).end();
    let mut cell = Cell::default();
    meet(&mut cell, homes, 0..seeds)?;
    if cell.end() != twin {
        // Birthdays leave a few of 1,000 meetings apart: what most of three times as many do counts.
        meet(&mut cell, homes, seeds..seeds.saturating_mul(3))?;
    }
    Ok((cell.figures(&situation.left, &situation.right), twin))
}

fn meet(cell: &mut Cell, homes: &TwoHomes, numbers: Range<u64>) -> Result<()> {
    for number in numbers {
        cell.add(&if homes.relay {
            programs::meet(homes)?
        } else {
            run_twin(homes, number)?.run
        });
    }
    Ok(())
}

fn report(json: bool, seeds: u64, cells: &[Figures], twins: &[End]) -> Result<(), Failure> {
    let mut text = sentences(cells);
    let mut different = 0;
    for (cell, twin) in cells
        .iter()
        .zip(twins)
        .filter(|(cell, twin)| cell.end != **twin)
    {
        different += 1;
        let (left, right, here) = (&cell.left, &cell.right, cell.end.as_str());
        let there = twin.as_str();
        let _ = write!(
            text,
            "\n{left} x {right} is {here}, but {there} in the simulator"
        );
    }
    let table = Table {
        seeds,
        cells: cells
            .iter()
            .zip(twins)
            .map(|(f, twin)| row(f, *twin))
            .collect(),
    };
    Output::new(json).report(&table, &text)?;
    match different {
        0 => Ok(()),
        _ => Err(Failure::failed(
            "different",
            format!("{different} pairs end differently in the simulator"),
        )),
    }
}

fn row(figures: &Figures, twin: End) -> Row<'_> {
    Row {
        simulated: twin.as_str(),
        same: figures.end == twin,
        figures,
    }
}
