//! `postern lab`: what the simulated internet says about the agents, and what real NATs say.

mod ice;
#[cfg(target_os = "linux")]
mod netns;
mod random;

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, Subcommand};
use postern_lab::sim::matrix::{Cell, Figures, Situation, situations, svg};
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
    /// Let two peers meet behind every pair of routers, in a simulated internet or behind real ones
    Matrix(Matrix),
    /// Speak ICE with an agent of any make, and echo what it sends
    Ice(Box<ice::Ice>),
    /// Let two peers meet in random networks, and compare what they find with what is possible
    Random(random::Random),
}

#[derive(Debug, Args)]
struct Matrix {
    /// How many meetings for each pair; the same seeds give the same figures [default: 20, and 1 with --netns]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: Option<u64>,

    /// Behind real Linux NATs, in network namespaces, and say where the simulator differs
    #[cfg(target_os = "linux")]
    #[arg(long, conflicts_with = "untracked")]
    netns: bool,

    /// Only pairs whose names contain this, like "EIM/APDF x seq"
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// With routers that answer strangers from a new port, not from the one that was hit
    #[arg(long)]
    untracked: bool,

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

/// Must be called while the process has one thread.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Matrix(matrix) => table(matrix),
        Command::Random(random) => random::run(random),
        Command::Ice(arguments) => crate::on_runtime(ice::run(arguments)),
    }
}

fn table(matrix: &Matrix) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    if matrix.netns {
        return netns::run(matrix);
    }
    let seeds = matrix.seeds.unwrap_or(20);
    let measure = |situation: &Situation| Cell::measure(&situation.homes, 0..seeds);
    let situations = matrix.situations();
    let measured = on_all_processors(&situations, measure);
    let cells: Vec<_> = situations
        .iter()
        .zip(measured)
        .map(|(situation, cell)| cell.figures(&situation.left, &situation.right))
        .collect();
    let caption = format!(
        "{seeds} meetings each (seeds from 0), 30 ms one way. Times until both sides have a path. {BUDGET}"
    );
    draw(matrix.svg.as_deref(), &cells, &caption)?;
    let table = Table {
        seeds,
        cells: &cells,
    };
    Output::new(matrix.json).report(&table, &sentences(&cells))
}

/// What a side may do at most, for captions.
const BUDGET: &str = "A side may send 500 packets/s and 1,500 probes from 256 sockets; 4,500 where both ranges are below 2,049 ports.";

impl Matrix {
    fn situations(&self) -> Vec<Situation> {
        let wanted = |situation: &Situation| {
            let name = format!("{} x {}", situation.left, situation.right);
            self.only.as_ref().is_none_or(|only| name.contains(only))
        };
        let all = situations().into_iter().filter(wanted);
        if self.untracked {
            all.map(Situation::untracked).collect()
        } else {
            all.collect()
        }
    }
}

fn draw(file: Option<&Path>, cells: &[Figures], caption: &str) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, svg(cells, caption)).map_err(|error| {
        let why = format!("{} cannot be written: {error}", file.display());
        Failure::failed("output", why)
    })
}

fn on_all_processors<S: Sync, T: Send>(items: &[S], work: impl Fn(&S) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    in_threads(threads, items, work)
}

/// Does something with all items, so many at a time; results in their order.
fn in_threads<S: Sync, T: Send>(
    threads: usize,
    items: &[S],
    measure: impl Fn(&S) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return done;
            };
            done.push((index, measure(item)));
        }
    };
    let mut measured: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(Result::unwrap_or_default).collect()
    });
    measured.sort_by_key(|(index, _)| *index);
    measured.into_iter().map(|(_, measured)| measured).collect()
}

fn sentences(cells: &[Figures]) -> String {
    let mut text = format!(
        "{:<14} {:<14} {:<15} {:>8} {:>19} {:>9} {:>9} {:>7} {:>7} {:>8}",
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
            "\n{:<14} {:<14} {:<15} {:>8} {:>19} {:>9} {:>9} {:>7} {:>7} {:>8}",
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
    let direct = cells.iter().filter(|cell| cell.end.is_direct()).count();
    let _ = write!(text, "\n{direct} of {} pairs connect directly", cells.len());
    text
}
