//! Ctrl-C and the request to terminate.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits until the user, or the system, wants the program to stop.
pub(crate) async fn interrupted() {
    tokio::select! {
        () = stopped() => {}
        () = hung_up() => {}
    }
}

/// The terminal has gone; whoever started the program with `nohup` does not mind.
async fn hung_up() {
    let hangup = signal_unless_ignored(SignalKind::hangup());
    match hangup {
        Some(mut hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
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

async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
