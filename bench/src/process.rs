//! What a process costs, and on which processor it runs.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use postern_lab::netns::Program;

use crate::sys;

/// Processor time of all threads of a process so far, in microseconds.
pub fn cpu_micros(id: u32) -> Result<f64> {
    let mut total = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
        total += nanos.unwrap_or(0.0);
    }
    Ok(total / 1000.0)
}

/// The memory of a process that is resident, in bytes, counted exactly.
pub fn resident(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/smaps_rollup");
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("no Rss")?.parse()?;
    Ok(kilobytes * 1024.0)
}

/// Lets this process and those it starts have this many files open.
pub fn need_files(count: u64) -> Result<()> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    anyhow::ensure!(
        most >= count,
        "needs {count} open files, and the limit (ulimit -Hn) is {most}"
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, now.max(count), most)?)
}

/// Who runs on which of the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first processor: what makes load.
    Load,
    /// The last one, which is another if there are two: the server.
    Server,
}

/// Keeps this thread, and what it starts, on the processor of `role`.
pub fn pin(role: Role) -> Result<()> {
    let allowed = allowed()?;
    let processor = match role {
        Role::Load => allowed.first(),
        Role::Server => allowed.last(),
    };
    let mut set = CpuSet::new();
    set.set(*processor.context("no processor")?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The processors that this process may use: looked up before a thread is pinned.
fn allowed() -> Result<&'static [usize]> {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    if let Some(allowed) = ALLOWED.get() {
        return Ok(allowed);
    }
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let all = (0..CpuSet::count()).filter(|index| set.is_set(*index).unwrap_or(false));
    Ok(ALLOWED.get_or_init(|| all.collect()))
}

/// Starts a program on the processor of the server; it ends with this thread.
pub fn start(mut command: Command) -> Result<Program> {
    let name = Path::new(command.get_program()).display().to_string();
    sys::end_with_this_thread(&mut command);
    pin(Role::Server)?;
    let started = Program::start(command);
    pin(Role::Load)?;
    started.with_context(|| format!("{name} does not start"))
}
