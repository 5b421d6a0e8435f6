//! Ctrl-C, and the requests to terminate and to read the configuration again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits until the user, or the system, wants the program to stop. From the call on, and not
/// only from when the future is first polled, the wish is heard. Must be called inside a tokio
/// runtime.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let mut signals = Signals::new(false);
    async move {
        signals.next().await;
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To stop at once.
    End,
    /// To stop when nobody minds.
    Drain,
    /// To read the configuration again.
    Reload,
}

/// The signals that have a meaning for the program.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    reloads: bool,
}

impl Signals {
    /// `reloads` says whether there is a configuration to read again. If there is none, a
    /// hang-up means that the terminal has gone; whoever started the program with `nohup`
    /// does not mind.
    pub(crate) fn new(reloads: bool) -> Self {
        let hangup = SignalKind::hangup();
        let listens = reloads || !is_ignored(hangup);
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
            hangup: listens.then(|| signal(hangup).ok()).flatten(),
            reloads,
        }
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            () = received(&mut self.interrupt) => Wish::End,
            () = received(&mut self.terminate) => Wish::Drain,
            () = received(&mut self.hangup) => {
                if self.reloads { Wish::Reload } else { Wish::End }
            }
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (kind.as_raw_value() - 1);
    ignored.is_some_and(|mask| mask & bit != 0)
}
