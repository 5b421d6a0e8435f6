//! What the two sides of a connection tell each other beside its data: candidates that came
//! later, in streams of one direction.
//!
//! Programs use streams in both directions only. A peer of an older version allows none of the
//! others, so nothing is ever sent to it.

use std::sync::Arc;
use std::time::Duration;

use noq::{Connection, RecvStream};
use postern_wire::signal::PeerMessage;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Messages that wait to be told. What comes from gathering at once fits; what does not is told
/// when the two meet again, or not at all.
const QUEUE: usize = 64;

/// Messages told together.
const BATCH: usize = 16;

/// Bytes of one stream: as many messages as are told together, of the size of a candidate.
const MAX_STREAM: usize = 16 * 1024;

/// A peer that does not finish a stream in this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The session's end.
#[derive(Debug)]
pub(crate) struct Aside {
    outgoing: mpsc::Sender<PeerMessage>,
    incoming: mpsc::Receiver<PeerMessage>,
}

/// The connection's end: while one of them is there, the two sides can tell each other something.
/// The tasks hold the connection, so they must end with it.
#[derive(Debug)]
pub(crate) struct Ears([AbortHandle; 2]);

impl Drop for Ears {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Aside {
    /// Begins to listen on a connection that stands.
    pub(crate) fn begin(connection: &Connection) -> (Self, Arc<Ears>) {
        let (outgoing, to_tell) = mpsc::channel(QUEUE);
        let (heard, incoming) = mpsc::channel(QUEUE);
        let telling = tokio::spawn(tell(connection.clone(), to_tell)).abort_handle();
        let hearing = tokio::spawn(hear(connection.clone(), heard)).abort_handle();
        (
            Self { outgoing, incoming },
            Arc::new(Ears([telling, hearing])),
        )
    }

    /// Tells the peer, as soon as there is a path.
    pub(crate) fn tell(&self, message: PeerMessage) {
        if self.outgoing.try_send(message).is_err() {
            tracing::debug!("there is too much to tell the other side, or no way");
        }
    }

    /// What the peer tells next; `None` when it cannot any more.
    pub(crate) async fn heard(&mut self) -> Option<PeerMessage> {
        self.incoming.recv().await
    }
}

async fn tell(connection: Connection, mut messages: mpsc::Receiver<PeerMessage>) {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, BATCH).await > 0 {
        let lines = batch.drain(..).map(|message| message.to_json() + "\n");
        let text: String = lines.collect();
        let Ok(mut stream) = connection.open_uni().await else {
            return;
        };
        if stream.write_all(text.as_bytes()).await.is_err() || stream.finish().is_err() {
            return;
        }
    }
}

async fn hear(connection: Connection, heard: mpsc::Sender<PeerMessage>) {
    while let Ok(stream) = connection.accept_uni().await {
        for message in read(stream).await {
            if heard.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// The messages of a stream; those that this version does not know are passed over.
async fn read(mut stream: RecvStream) -> Vec<PeerMessage> {
    let Ok(Ok(text)) = timeout(PATIENCE, stream.read_to_end(MAX_STREAM)).await else {
        return Vec::new();
    };
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let messages = lines.filter_map(|line| PeerMessage::parse(line).ok());
    messages.take(BATCH).collect()
}
