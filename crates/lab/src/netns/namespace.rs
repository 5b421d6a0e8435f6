//! One network namespace without a name, and how to work inside it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};

use super::build::BuildError;
use super::enter::assert_isolated;
use super::{sys, tool};

/// A handle on a network namespace; the namespace lives as long as a handle, a thread
/// or a program in it.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Makes an empty namespace with its loopback interface up.
    pub(super) fn new() -> Result<Self, BuildError> {
        let file = on_thread(|| {
            assert_isolated().map_err(BuildError::NotIsolated)?;
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok::<_, BuildError>(File::open("/proc/thread-self/ns/net")?)
        })??;
        let file = Arc::new(file);
        let namespace = Self { file };
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Runs a closure on a thread inside the namespace and waits for it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Starts a thread inside the namespace.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let namespace = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            namespace.enter()?;
            Ok(work())
        })
    }

    /// A program that will run inside the namespace and die with the thread that
    /// started it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        sys::start_inside(&mut command, Arc::clone(&self.file));
        command
    }

    /// Runs lines of `ip` commands inside.
    pub(super) fn ip(&self, batch: &str) -> Result<(), BuildError> {
        Ok(self.run(|| tool::ip(batch))??)
    }

    /// Loads nftables rules inside.
    pub(super) fn nft(&self, rules: &str) -> Result<(), BuildError> {
        Ok(self.run(|| tool::nft(rules))??)
    }

    /// Writes a setting below `/proc/sys/net` inside.
    pub(super) fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        let said = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        self.run(|| fs::write(&path, value).map_err(said))?
    }

    /// A path by which `ip`, a child of this process, can name the namespace.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn enter(&self) -> io::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }
}

/// Runs a closure on a thread of its own, because a namespace once entered sticks to
/// the thread.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        Ok(match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
