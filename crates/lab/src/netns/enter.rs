//! Leaving the machine's own network before anything is built.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::sys;
use super::tool::{ToolError, find};

/// The network namespace that the process was started in: its device and inode.
static MACHINE: OnceLock<(u64, u64)> = OnceLock::new();

const THIS_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The environment variable by which a program is told in which network it must not search
/// for gateways (`postern::portmap::GUARD`).
pub const GUARD: &str = "POSTERN_NETWORK_GUARD";

/// Switches that forbid user namespaces, with the value that does so.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "kernel.unprivileged_userns_clone",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
    ),
    (
        "user.max_user_namespaces",
        "/proc/sys/user/max_user_namespaces",
        "0",
    ),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ),
];

/// Why there can be no network namespaces here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The process already has threads, which the kernel does not let it take along.
    #[error(
        "the process already runs {threads} threads: namespaces are entered before the first one"
    )]
    Threads {
        /// How many there are, this one included.
        threads: usize,
    },
    /// The system does not allow namespaces.
    #[error("this system does not let a program make network namespaces ({errno}); {hint}")]
    Forbidden {
        /// What the kernel answered.
        errno: Errno,
        /// Which switch to look at, as half a sentence.
        hint: String,
    },
    /// A file below `/proc` could not be read or written.
    #[error("cannot set up a user namespace: {path}: {source}")]
    Proc {
        /// The file.
        path: &'static str,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A program that builds the world is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Moves this process into a network and mount namespace of its own, and into a user
/// namespace in which it is root unless it already may do without.
///
/// Call it first thing in `main`: the process must have one thread. A second call does
/// nothing.
///
/// # Errors
///
/// [`Unavailable`] is one sentence to show: the process has threads, the system forbids
/// user namespaces, or `ip` or `nft` is not installed.
pub fn enter() -> Result<(), Unavailable> {
    if assert_isolated().is_ok() {
        return Ok(());
    }
    find("ip")?;
    find("nft")?;
    refuse_threads()?;
    let machine = identity().map_err(|source| proc_error(THIS_NAMESPACE, source))?;
    let name = fs::read_link(THIS_NAMESPACE);
    let name = name.map_err(|source| proc_error(THIS_NAMESPACE, source))?;
    unshare_everything()?;
    // Programs that are started from here on are refused there, whatever goes wrong.
    sys::set_guard(GUARD, &name);
    detach_mounts()?;
    let _ = MACHINE.set(machine);
    Ok(())
}

/// Says whether the calling thread is outside the network that the process was started
/// in: nothing may be built or sent by the lab before.
///
/// # Errors
///
/// One sentence: [`enter`] was not called, or the thread is still in that network.
pub fn assert_isolated() -> Result<(), &'static str> {
    let machine = MACHINE
        .get()
        .ok_or("the lab refuses to run in the machine's own network: call netns::enter first")?;
    match identity() {
        Ok(here) if here != *machine => Ok(()),
        _ => Err("the lab refuses to run in the machine's own network"),
    }
}

fn identity() -> std::io::Result<(u64, u64)> {
    let metadata = fs::metadata(THIS_NAMESPACE)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn refuse_threads() -> Result<(), Unavailable> {
    const TASKS: &str = "/proc/self/task";
    let threads = fs::read_dir(TASKS)
        .map_err(|source| proc_error(TASKS, source))?
        .count();
    if threads > 1 {
        return Err(Unavailable::Threads { threads });
    }
    Ok(())
}

/// Root of the machine needs no user namespace; root of a container often does, because
/// it has no `CAP_SYS_ADMIN`.
fn unshare_everything() -> Result<(), Unavailable> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if geteuid().is_root() && unshare(own).is_ok() {
        return Ok(());
    }
    let (user, group) = (geteuid(), getegid());
    unshare(own | CloneFlags::CLONE_NEWUSER).map_err(forbidden)?;
    write_proc("/proc/self/setgroups", "deny")?;
    write_proc("/proc/self/uid_map", &format!("0 {user} 1"))?;
    write_proc("/proc/self/gid_map", &format!("0 {group} 1"))
}

/// Mounts made in here stay in here.
fn detach_mounts() -> Result<(), Unavailable> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let none = None::<&str>;
    mount(none, "/", none, private, none).map_err(forbidden)
}

fn write_proc(path: &'static str, text: &str) -> Result<(), Unavailable> {
    fs::write(path, text).map_err(|source| {
        if source.kind() == ErrorKind::PermissionDenied {
            forbidden(Errno::EPERM)
        } else {
            proc_error(path, source)
        }
    })
}

fn proc_error(path: &'static str, source: std::io::Error) -> Unavailable {
    Unavailable::Proc { path, source }
}

fn forbidden(errno: Errno) -> Unavailable {
    Unavailable::Forbidden {
        errno,
        hint: hint(|path| fs::read_to_string(path).ok()),
    }
}

/// Names the switches that are set to forbid, or all of them when none explains it.
fn hint(read: impl Fn(&Path) -> Option<String>) -> String {
    let mut text = String::new();
    for (name, path, forbids) in SWITCHES {
        if read(Path::new(path)).is_some_and(|value| value.trim() == forbids) {
            let joint = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{joint}{name} is {forbids}");
        }
    }
    if text.is_empty() {
        let names = SWITCHES.map(|(name, _, _)| name).join(", ");
        return format!(
            "run as root, or look at the sysctls {names} and, in a container, at its seccomp profile"
        );
    }
    text.push_str(": run as root, or change it with sysctl -w");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_names_the_switch_that_is_set() {
        let text = hint(|path| {
            path.ends_with("max_user_namespaces")
                .then(|| "0\n".to_owned())
        });
        assert_eq!(
            text,
            "user.max_user_namespaces is 0: run as root, or change it with sysctl -w"
        );
    }

    #[test]
    fn hint_names_every_switch_when_none_explains_the_refusal() {
        let text = hint(|_| None);
        assert!(SWITCHES.iter().all(|(name, _, _)| text.contains(name)));
    }

    #[test]
    fn a_process_that_has_not_entered_is_not_isolated() {
        assert!(assert_isolated().is_err());
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        let second = std::thread::spawn(std::thread::park);
        assert!(matches!(refuse_threads(), Err(Unavailable::Threads { .. })));
        second.thread().unpark();
    }
}
