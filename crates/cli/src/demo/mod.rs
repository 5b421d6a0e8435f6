//! `postern demo`: the whole of it on this machine, with the real programs and the
//! kernel's own NATs, in namespaces that reach nothing else.

mod drawing;
mod programs;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use postern_lab::netns::{Topology, Unavailable, World, enter};
use postern_lab::sim::Nat;

use self::programs::{Receiving, Sending, Serving};
use crate::failure::Failure;

/// Options of `postern demo`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How much to send: bytes, or a number with kB, MB or GB
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = parse_size)]
    size: u64,
}

/// The name of the file that is sent.
const FILE: &str = "photo.jpg";

/// Runs the demonstration. Must be called while the process has one thread.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    enter().map_err(|error| unavailable(&error))?;
    show(arguments.size).map_err(|error| Failure::failed("demo", format!("{error:#}")))
}

fn unavailable(error: &Unavailable) -> Failure {
    Failure::failed(
        "namespaces",
        format!("the demonstration needs network namespaces of its own: {error}"),
    )
}

fn show(size: u64) -> Result<()> {
    let directory = tempfile::tempdir().context("no temporary directory could be made")?;
    let (from, to) = (
        directory.path().join(FILE),
        directory.path().join("received"),
    );
    std::fs::create_dir(&to).context("no directory for the received file could be made")?;
    fill(&from, size).with_context(|| format!("no file of {size} bytes could be written"))?;

    let world = World::build(&Topology::two_homes(Nat::default(), Nat::default()))
        .context("the little internet could not be built")?;
    say(&drawing::network(&world)?)?;
    let done = transfer(&world, &from, &to)?;
    ensure!(
        is_same(&from, &to.join(FILE))?,
        "the file that arrived is not the one that was sent"
    );

    let through_server = server_bytes(&world)?;
    say(&drawing::outcome(&done, size, through_server))?;
    ensure!(
        through_server < size.max(MINIMUM_TRAFFIC),
        "the file passed the server, but should not have"
    );
    Ok(())
}

/// Introducing two peers takes a few kilobytes whatever they send.
const MINIMUM_TRAFFIC: u64 = 200_000;

/// What the demonstration tells at its end.
#[derive(Debug)]
struct Done {
    path: String,
    seconds: f64,
}

fn transfer(world: &World, from: &Path, to: &Path) -> Result<Done> {
    let began = Instant::now();
    let step = |text: &str| say(&format!("{:7.3} s  {text}", began.elapsed().as_secs_f64()));

    let server = Serving::start(world)?;
    step("server  waits for people who look for each other")?;
    let mut sending = Sending::start(world, &server.url, from)?;
    step(&format!("alice   postern send {FILE}"))?;
    let code = sending.code()?;
    step(&format!("alice   reads the code aloud: {code}"))?;
    let mut receiving = Receiving::start(world, &server.url, &code, to)?;
    step(&format!("bob     postern receive {code}"))?;
    let path = receiving.path()?;
    step(&format!("bob     {}", path.sentence))?;
    let seconds = receiving.finish()?;
    step(&format!("bob     has {FILE}"))?;
    sending.finish()?;
    step("alice   knows that bob has it")?;
    Ok(Done {
        path: path.words,
        seconds,
    })
}

/// Bytes that the server's counters have seen in both directions.
fn server_bytes(world: &World) -> Result<u64> {
    let counters = world
        .counters("server")
        .context("the server's counters cannot be read")?;
    Ok(counters.values().map(|counter| counter.bytes).sum())
}

/// Writes random bytes, so that nothing on the way could have guessed or compressed them.
fn fill(path: &Path, size: u64) -> io::Result<()> {
    let mut random = File::open("/dev/urandom")?.take(size);
    let mut file = File::create(path)?;
    io::copy(&mut random, &mut file).map(drop)
}

fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("{} is missing", path.display()));
    let (mut one, mut other) = (open(one)?, open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = read_full(&mut one, &mut left)?;
        if count != read_full(&mut other, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("standard output is closed")
}

/// Reads "100MB", "1 GB", "12kB" or a number of bytes.
fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default().trim();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        _ => bail!("a size is a number, alone or with kB, MB or GB"),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .context("a size begins with a whole number")?;
    number.checked_mul(factor).context("the size is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse_size("0").unwrap(), 0);
        assert_eq!(parse_size("12kB").unwrap(), 12_000);
        assert_eq!(parse_size("100MB").unwrap(), 100_000_000);
        assert_eq!(parse_size("1 GB").unwrap(), 1_000_000_000);
    }

    #[test]
    fn what_is_no_size_is_refused_in_words() {
        assert!(parse_size("many").is_err());
        assert!(parse_size("10 apples").is_err());
        assert!(parse_size("99999999999GB").is_err());
    }
}
