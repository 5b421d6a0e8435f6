//! Progress: a bar on a terminal, lines for programs, nothing otherwise.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use postern::Connection;
use postern::transfer::Progress as Amount;
use postern::{PathInfo, RelayTransport};

use crate::output::{Event, Output};

/// Least time between two progress events: at most 4 a second.
const INTERVAL: Duration = Duration::from_millis(250);

/// What the bar shows.
const TEMPLATE: &str = "[{bar:30}] {percent:>3}%  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";

/// Shows how a transfer goes on.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            bar: None,
            began: None,
            last: None,
        }
    }

    /// Seconds since the other side agreed and the first bytes moved.
    pub(crate) fn seconds(&self) -> f64 {
        self.began
            .map_or(0.0, |began| began.elapsed().as_secs_f64())
    }

    /// Shows an amount, unless the last one was shown just now. The first call begins: the
    /// time that people take to agree is nobody's speed.
    pub(crate) fn show(&mut self, amount: Amount) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            self.bar = self.output.has_terminal().then(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(amount.total.unwrap_or(amount.bytes));
            bar.set_position(amount.bytes);
        }
        if !self.output.is_json() || self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        let bytes = amount.bytes;
        let total = amount.total.unwrap_or(bytes);
        self.output.say(&Event::Progress { bytes, total }, "");
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.with_style(style.progress_chars("=> "))
}

/// Tells the path in use, and every change of it, until the task is aborted.
pub(crate) fn follow_paths(output: Output, connection: &Connection) -> tokio::task::AbortHandle {
    let mut paths = connection.paths();
    let mut last = *paths.borrow_and_update();
    tell(output, last, true);
    let task = tokio::spawn(async move {
        while paths.changed().await.is_ok() {
            let path = *paths.borrow_and_update();
            let is_other = path.to_string() != last.to_string();
            tell(output, path, is_other);
            last = path;
        }
    });
    task.abort_handle()
}

/// People are told of another path, and not how the same one came about.
fn tell(output: Output, path: PathInfo, is_other: bool) {
    let event = Event::Path {
        kind: path.kind.as_str(),
        protocol: path.protocol.as_str(),
        technique: path.technique.as_str(),
        probes: path.probes,
        sockets: path.sockets,
        relay: path.relay.map(RelayTransport::as_str),
        local: path.local.to_string(),
        remote: path.remote.to_string(),
        elapsed_ms: u64::try_from(path.elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    let line = is_other.then(|| format!("Connected: {path}."));
    output.say(&event, line.as_deref().unwrap_or_default());
}
