//! How fast a file crosses from one host to another, and what it costs: the real
//! program, and a bare TCP copy of the same file as the limit, in turn, in one run.
//!
//! `make bench-transfer` prints the table and writes `target/bench/transfer.json`.
//! `SIZE=200000000 ROUNDS=3` make it shorter.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use postern_bench::options::{rounds, variable};
use postern_bench::report::{Report, Row, say};
use postern_lab::netns::{Program, Server, Topology, World, enter};
use postern_lab::sim::{Link, Pipe};
use serde_json::Value;

/// Everything that is waited for comes sooner.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the bare copy listens.
const COPY_PORT: u16 = 9000;

/// One transfer: how long it took, and the processor time of both ends.
#[derive(Debug, Clone, Copy)]
struct Sample {
    mbytes_per_s: f64,
    cpu_s_per_gb: f64,
}

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return say("skipped: it runs with `make bench-transfer`\n");
    }
    enter()?;
    let size = variable("SIZE", 1_000_000_000)?;
    let mut report = Report::new("transfer").with("bytes", size);
    let bench = Bench::prepare(size)?;
    let (mut program, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..rounds()? {
        program.push(bench.program()?);
        copy.push(bench.bare_copy()?);
    }
    for row in rows(&program, &copy) {
        report.add(&row)?;
    }
    report.save()
}

/// The cable to the right host: perfect unless DELAY (milliseconds one way), LOSS (a share
/// from 0 to 1) or RATE (Mbit/s, with a queue of 100 ms) are set.
fn link() -> Result<Link> {
    let rate: u64 = variable("RATE", 0)?;
    Ok(Link::symmetric(Pipe {
        latency: Duration::from_millis(variable("DELAY", 0)?),
        loss: variable("LOSS", 0.0)?,
        rate: (rate > 0).then_some(rate * 125_000),
        queue: Duration::from_millis(if rate > 0 { 100 } else { 0 }),
        ..Pipe::default()
    }))
}

/// Two hosts with a router between them, and a file in memory.
struct Bench {
    world: World,
    directory: tempfile::TempDir,
    size: u64,
}

impl Bench {
    fn prepare(size: u64) -> Result<Self> {
        let mut servers = ["left", "right"].map(Server::new).to_vec();
        servers[1].link = link()?;
        let world = World::build(&Topology {
            servers,
            ..Topology::default()
        })?;
        let memory = Path::new("/dev/shm");
        let directory = tempfile::tempdir_in(if memory.is_dir() {
            memory
        } else {
            Path::new("/tmp")
        })?;
        let mut random = File::open("/dev/urandom")?.take(size);
        io::copy(
            &mut random,
            &mut File::create(directory.path().join("file"))?,
        )?;
        std::fs::create_dir(directory.path().join("received"))?;
        Ok(Self {
            world,
            directory,
            size,
        })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }

    fn received(&self) -> PathBuf {
        self.directory.path().join("received")
    }

    fn start(&self, node: &str, arguments: impl FnOnce(&mut Command)) -> Result<Program> {
        let mut command = self.world.command(node, env!("CARGO_BIN_EXE_postern"))?;
        arguments(&mut command);
        command.arg("--json");
        Ok(Program::start(command)?)
    }

    fn program(&self) -> Result<Sample> {
        let address = self.world.ipv4("left")?.to_string();
        let mut server = self.start("left", |command| {
            command.args(["server", "--listen", &address]);
        })?;
        let url = text(&event(&mut server, "ready")?, "url")?;
        let before = usage(UsageWho::RUSAGE_CHILDREN)?;
        let mut sender = self.start("left", |command| {
            command.args(["send", "--server", &url]).arg(self.file());
        })?;
        let code = text(&event(&mut sender, "code")?, "code")?;
        let mut receiver = self.start("right", |command| {
            command.args(["receive", "--yes", "--server", &url, "--output"]);
            command.arg(self.received()).arg(&code);
        })?;
        let done = event(&mut receiver, "done")?;
        for end in [receiver.end(PATIENCE)?, sender.end(PATIENCE)?] {
            if !end.is_some_and(|status| status.success()) {
                bail!("the transfer failed");
            }
        }
        let cpu = usage(UsageWho::RUSAGE_CHILDREN)? - before;
        std::fs::remove_file(self.received().join("file"))?;
        let seconds = done["seconds"].as_f64().context("no duration")?;
        Ok(self.sample(seconds, cpu))
    }

    /// Reads, sends, receives and writes the file with nothing else done to it.
    fn bare_copy(&self) -> Result<Sample> {
        let address = SocketAddr::new(self.world.ipv4("right")?.into(), COPY_PORT);
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), COPY_PORT);
        let listener = self.world.run("right", || TcpListener::bind(any))??;
        let before = usage(UsageWho::RUSAGE_SELF)?;
        let began = Instant::now();
        let (from, to) = (self.file(), self.received().join("copy"));
        let target = to.clone();
        let receiving = std::thread::spawn(move || -> io::Result<u64> {
            let (stream, _) = listener.accept()?;
            copy(stream, File::create(target)?)
        });
        let sending = self.world.run("left", || TcpStream::connect(address))??;
        copy(File::open(from)?, sending)?;
        let received = receiving
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))??;
        let seconds = began.elapsed().as_secs_f64();
        let cpu = usage(UsageWho::RUSAGE_SELF)? - before;
        std::fs::remove_file(to)?;
        assert_eq!(received, self.size, "the bare copy lost bytes");
        Ok(self.sample(seconds, cpu))
    }

    fn sample(&self, seconds: f64, cpu: f64) -> Sample {
        let size = self.size as f64;
        Sample {
            mbytes_per_s: size / seconds / 1e6,
            cpu_s_per_gb: cpu / (size / 1e9),
        }
    }
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        to.write_all(&buffer[..count])?;
        total += count as u64;
    }
}

fn event(program: &mut Program, name: &str) -> Result<Value> {
    let event = program.event(name, PATIENCE);
    event.with_context(|| format!("no \"{name}\" came"))
}

fn text(event: &Value, field: &str) -> Result<String> {
    let text = event[field].as_str().context("a field is missing")?;
    Ok(text.to_owned())
}

/// User and system time in seconds.
fn usage(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

fn rows(program: &[Sample], copy: &[Sample]) -> [Row; 2] {
    let row = |name: &str, unit: &'static str, of: fn(&Sample) -> f64| {
        Row::new(name, unit)
            .subject("postern", program.iter().map(of).collect())
            .subject("bare TCP copy", copy.iter().map(of).collect())
    };
    [
        row("speed", "MB/s", |sample| sample.mbytes_per_s),
        row("processor time of both ends", "s/GB", |sample| {
            sample.cpu_s_per_gb
        }),
    ]
}
