//! Ctrl-C, and the requests to terminate and to read the configuration again.
//!
//! A thread waits for them. The runtime's own signals get lost that come after their handler is
//! installed and before somebody listens, and wait for a turn of a runtime that has much to do.

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{self, Handle};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Waits until the user, or the system, wants the program to stop. From the call on, and not
/// only from when the future is first polled, the wish is heard.
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
    /// Ends without any where the system allows none.
    numbers: UnboundedReceiver<i32>,
    handle: Option<Handle>,
    reloads: bool,
}

impl Signals {
    /// `reloads` says whether there is a configuration to read again. If there is none, a
    /// hang-up means that the terminal has gone; whoever started the program with `nohup`
    /// does not mind.
    pub(crate) fn new(reloads: bool) -> Self {
        let hangup = reloads || !is_ignored(SIGHUP);
        let wanted = [SIGINT, SIGTERM]
            .into_iter()
            .chain(hangup.then_some(SIGHUP));
        let (sender, numbers) = mpsc::unbounded_channel();
        let handle = listen(wanted, sender)
            .inspect_err(|error| tracing::warn!(%error, "signals cannot be heard"))
            .ok();
        Self {
            numbers,
            handle,
            reloads,
        }
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Wish {
        match self.numbers.recv().await {
            Some(SIGTERM) => Wish::Drain,
            Some(SIGHUP) if self.reloads => Wish::Reload,
            Some(_) => Wish::End,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.close();
        }
    }
}

/// Sends on the numbers of these signals until the handle is closed.
fn listen(
    wanted: impl Iterator<Item = i32>,
    sender: UnboundedSender<i32>,
) -> std::io::Result<Handle> {
    let mut signals = iterator::Signals::new(wanted)?;
    let handle = signals.handle();
    let body = move || {
        // Nobody who listens any more closes the handle, too.
        signals.forever().all(|number| sender.send(number).is_ok());
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(body)?;
    Ok(handle)
}

fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (signal - 1);
    ignored.is_some_and(|mask| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_before_anybody_waits_is_heard_and_in_order() {
        let mut signals = Signals::new(true);
        for (number, wish) in [
            (SIGTERM, Wish::Drain),
            (SIGHUP, Wish::Reload),
            (SIGINT, Wish::End),
        ] {
            signal_hook::low_level::raise(number).unwrap();
            assert_eq!(signals.next().await, wish);
        }
    }
}
