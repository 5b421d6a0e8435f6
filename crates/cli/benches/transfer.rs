//! How fast a file crosses from one host to another, and what it costs: the real
//! program, and a bare TCP copy of the same file as the limit, in turn, in one run.
//!
//! `make bench-transfer` prints the table and writes `target/bench/transfer.json`.
//! `SIZE=200000000 ROUNDS=3` make it shorter.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use postern_lab::netns::{Program, Server, Topology, World, enter};
use postern_lab::sim::{Link, Pipe};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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
        println!("skipped: the benchmark runs with `make bench-transfer`");
        return Ok(());
    }
    enter()?;
    let (size, rounds) = (number("SIZE", 1_000_000_000)?, number("ROUNDS", 5)?);
    let bench = Bench::prepare(size)?;
    let (mut program, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        program.push(bench.program()?);
        copy.push(bench.bare_copy()?);
    }
    let rows = rows(&program, &copy);
    print(&rows);
    save(&json!({ "rows": rows, "machine": machine(), "date": date()?, "bytes": size }))
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => Ok(text.parse()?),
        Ok(_) | Err(_) => Ok(default),
    }
}

/// The cable to the right host: perfect unless DELAY (milliseconds one way), LOSS (a share
/// from 0 to 1) or RATE (Mbit/s, with a queue of 100 ms) are set.
fn link() -> Result<Link> {
    let loss = std::env::var("LOSS").ok().filter(|text| !text.is_empty());
    let rate = number("RATE", 0)?;
    Ok(Link::symmetric(Pipe {
        latency: Duration::from_millis(number("DELAY", 0)?),
        loss: loss.map_or(Ok(0.0), |text| text.parse())?,
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
                return Err("the transfer failed".into());
            }
        }
        let cpu = usage(UsageWho::RUSAGE_CHILDREN)? - before;
        std::fs::remove_file(self.received().join("file"))?;
        let seconds = done["seconds"].as_f64().ok_or("no duration")?;
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
        let received = receiving.join().map_err(|_| "the receiver panicked")??;
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
    event.ok_or_else(|| format!("no \"{name}\" came").into())
}

fn text(event: &Value, field: &str) -> Result<String> {
    let text = event[field].as_str().ok_or("a field is missing")?;
    Ok(text.to_owned())
}

/// User and system time in seconds.
fn usage(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

fn rows(program: &[Sample], copy: &[Sample]) -> Vec<Value> {
    let row = |name: &str, unit: &str, of: fn(&Sample) -> f64| {
        let reference = median(copy, of);
        let subjects = [("postern", program), ("bare TCP copy", copy)];
        subjects.map(|(subject, samples)| {
            json!({
                "name": name, "unit": unit, "subject": subject,
                "samples": samples.iter().map(of).collect::<Vec<_>>(),
                "median": median(samples, of),
                "ratio_to": "bare TCP copy", "ratio": median(samples, of) / reference,
            })
        })
    };
    let speed = row("speed", "MB/s", |sample| sample.mbytes_per_s);
    let cost = row("processor time of both ends", "s/GB", |sample| {
        sample.cpu_s_per_gb
    });
    [speed, cost].concat()
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(rows: &[Value]) {
    println!("{:28} {:14} {:>10} {:>6}", "", "", "median", "ratio");
    for row in rows {
        let word = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let value = |field: &str| row[field].as_f64().unwrap_or(f64::NAN);
        println!(
            "{:28} {:14} {:>10.2} {:>6.2}  {}",
            word("name"),
            word("subject"),
            value("median"),
            value("ratio"),
            word("unit")
        );
    }
}

fn machine() -> Value {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "cpus": cpus, "kernel": read("/proc/sys/kernel/osrelease"), "load": read("/proc/loadavg") })
}

/// Seconds since 1970: the reader's calendar makes a date of it.
fn date() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn save(report: &Value) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("transfer.json");
    std::fs::write(&path, serde_json::to_string_pretty(report)?)?;
    println!("written to target/bench/transfer.json");
    Ok(())
}
