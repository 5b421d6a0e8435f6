//! `postern lab`: what the simulated internet says about the agents.

mod ice;

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, Subcommand};
use postern_lab::sim::matrix::{Cell, Figures, Pair, pairs, svg};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// Options of `postern lab`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let two peers meet behind every pair of routers, in a simulated internet
    Matrix(Matrix),
    /// Speak ICE with an agent of any make, and echo what it sends
    Ice(Box<ice::Ice>),
}

#[derive(Debug, Args)]
struct Matrix {
    /// How many meetings for each pair; the same seeds give the same figures
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,

    /// Draw the table into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Table<'a> {
    /// The seeds are 0 and up, this many.
    seeds: u64,
    cells: &'a [Figures],
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let matrix = match &arguments.command {
        Command::Matrix(matrix) => matrix,
        Command::Ice(arguments) => return crate::on_runtime(ice::run(arguments)),
    };
    let cells = measure(&pairs(), matrix.seeds);
    if let Some(file) = &matrix.svg {
        let caption = format!(
            "{} meetings each (seeds from 0), 30 ms one way, at most 500 packets/s. Times until both sides have a path.",
            matrix.seeds
        );
        std::fs::write(file, svg(&cells, &caption)).map_err(|error| {
            let why = format!("{} cannot be written: {error}", file.display());
            Failure::failed("output", why)
        })?;
    }
    let table = Table {
        seeds: matrix.seeds,
        cells: &cells,
    };
    Output::new(matrix.json).report(&table, &sentences(&cells))
}

/// Measures all pairs, on all processors.
fn measure(pairs: &[Pair], seeds: u64) -> Vec<Figures> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(pair) = pairs.get(index) else {
                return done;
            };
            let cell = Cell::measure(&pair.homes(), 0..seeds);
            done.push((index, cell.figures(pair.left.name, pair.right.name)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut cells: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(Result::unwrap_or_default).collect()
    });
    cells.sort_by_key(|(index, _)| *index);
    cells.into_iter().map(|(_, figures)| figures).collect()
}

fn sentences(cells: &[Figures]) -> String {
    let mut text = format!(
        "{:<14} {:<14} {:<15} {:>8} {:>17} {:>9} {:>9} {:>7} {:>7} {:>8}",
        "left",
        "right",
        "how",
        "direct",
        "95 % interval",
        "median",
        "99 %",
        "probes",
        "sockets",
        "packets"
    );
    for cell in cells {
        let ms =
            |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let interval = format!("{} – {}", percent(cell.rate_low), percent(cell.rate_high));
        let _ = write!(
            text,
            "\n{:<14} {:<14} {:<15} {:>8} {:>17} {:>9} {:>9} {:>7} {:>7} {:>8}",
            cell.left,
            cell.right,
            cell.technique,
            percent(cell.rate),
            interval,
            ms(cell.median_ms),
            ms(cell.p99_ms),
            cell.most_probes,
            cell.most_sockets,
            cell.most_datagrams
        );
    }
    let direct = cells.iter().filter(|cell| cell.technique != "relay");
    let _ = write!(
        text,
        "\n{} of {} pairs connect directly",
        direct.count(),
        cells.len()
    );
    text
}
