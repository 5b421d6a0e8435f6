//! Ctrl-C and the request to terminate.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits until the user, or the system, wants the program to stop. From the call on, and not
/// only from when the future is first polled, the wish is heard. Must be called inside a tokio
/// runtime.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let interrupt = signal(SignalKind::interrupt()).ok();
    let terminate = signal(SignalKind::terminate()).ok();
    // The terminal has gone; whoever started the program with `nohup` does not mind.
    let hangup = signal_unless_ignored(SignalKind::hangup());
    async {
        tokio::select! {
            () = raised(interrupt) => {}
            () = raised(terminate) => {}
            () = raised(hangup) => {}
        }
    }
}

async fn raised(signal: Option<Signal>) {
    match signal {
        Some(mut signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

fn signal_unless_ignored(kind: SignalKind) -> Option<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (kind.as_raw_value() - 1);
    if ignored.is_some_and(|mask| mask & bit != 0) {
        return None;
    }
    signal(kind).ok()
}
