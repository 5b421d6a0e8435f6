//! What sending and receiving have in common.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use postern::transfer::Summary;
use postern::{Connection, Endpoint, PathInfo, RecvStream, SendStream, ServerUrl};

use crate::failure::{Failure, chain};
use crate::interrupt::interrupted;
use crate::output::{Event, Output};

/// How long the last datagrams may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// The endpoint of a task, which outlives it so that the peer can be told of its end.
#[derive(Debug, Default)]
pub(crate) struct Stage(OnceLock<Endpoint>);

impl Stage {
    /// Makes the endpoint; it can reach peers on this machine if the server is on it.
    pub(crate) fn bind(&self, server: &ServerUrl) -> Result<Endpoint, Failure> {
        let endpoint = if server.is_loopback() {
            Endpoint::bind_with_loopback()
        } else {
            Endpoint::bind()
        };
        let endpoint = endpoint.map_err(|error| Failure::failed("system", chain(&error)))?;
        Ok(self.0.get_or_init(|| endpoint).clone())
    }

    /// Waits until the peer has been told, but not for ever.
    async fn finish(&self) {
        if let Some(endpoint) = self.0.get() {
            let _ = tokio::time::timeout(FAREWELL, endpoint.finish()).await;
        }
    }
}

/// Runs a task until it ends or the user interrupts, which drops it: unfinished files
/// are removed and the peer is told.
pub(crate) async fn until_interrupted(
    output: Output,
    stage: &Stage,
    task: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let result = tokio::select! {
        result = task => result,
        () = interrupted() => Err(Failure::interrupted()),
    };
    stage.finish().await;
    result.map_err(|failure| failure.in_json(output.is_json()))
}

/// The stream of a transfer; the creator of the code opens it.
pub(crate) async fn open(connection: &Connection) -> Result<(SendStream, RecvStream), Failure> {
    let stream = match connection.is_creator() {
        true => connection.open_bi().await,
        false => connection.accept_bi().await,
    };
    stream.map_err(|error| {
        Failure::peer(
            "not_connected",
            format!("the other side went away: {error}"),
        )
    })
}

/// Tells the peer that the connection is over.
pub(crate) fn end(connection: &Connection, done: bool) {
    let (code, reason) = if done { (0, "done") } else { (1, "failed") };
    connection.close(code, reason);
}

/// A size for people: decimal, three digits.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// A transfer that is complete.
#[derive(Debug)]
pub(crate) struct Outcome {
    summary: Summary,
    seconds: f64,
    path: PathInfo,
}

impl Outcome {
    pub(crate) fn new(summary: Summary, began: Instant, connection: &Connection) -> Self {
        Self {
            summary,
            seconds: began.elapsed().as_secs_f64(),
            path: connection.path(),
        }
    }

    /// Tells it; `verb` is "Sent" or "Received".
    pub(crate) fn tell(&self, output: Output, verb: &str) {
        let Self {
            summary,
            seconds,
            path,
        } = self;
        let event = Event::Done {
            bytes: summary.bytes,
            files: summary.files,
            seconds: *seconds,
            path: path.kind.as_str(),
        };
        let files = if summary.files == 1 {
            "1 file"
        } else {
            &format!("{} files", summary.files)
        };
        let rate = size((summary.bytes as f64 / seconds.max(0.001)) as u64);
        let amount = size(summary.bytes);
        output.say(
            &event,
            &format!("{verb} {files}, {amount} in {seconds:.1} s ({rate}/s)."),
        );
    }
}
