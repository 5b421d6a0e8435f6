//! What the two sides of a connection tell each other beside its data, in streams of one
//! direction.
//!
//! - Candidates that came later.
//! - Datagrams of the connection itself whose path is lost ([`Said::Late`]). QUIC takes what was
//!   under way on a path for lost when something that was sent there later is acknowledged, or
//!   when it has closed the path, which takes seconds. A ping that arrives late by another path
//!   makes it know at once.
//!
//! Programs use streams in both directions only. A peer of an older version allows none of the
//! others, so nothing is ever sent to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use noq::{Connection, RecvStream};
use postern_wire::signal::PeerMessage;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// What begins a stream that holds a datagram. Messages begin with a brace.
const LATE: u8 = 0;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// What the connector tells the peer's.
    Message(PeerMessage),
    /// A datagram of the connection, which its own path does not carry any more.
    Late(Bytes),
}

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
    outgoing: mpsc::Sender<Said>,
    incoming: mpsc::Receiver<Said>,
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

    /// Says it, as soon as there is a path.
    pub(crate) fn say(&self, said: Said) {
        if self.outgoing.try_send(said).is_err() {
            tracing::debug!("there is too much to tell the other side, or no way");
        }
    }

    /// What the peer says next; `None` when it cannot any more.
    pub(crate) async fn heard(&mut self) -> Option<Said> {
        self.incoming.recv().await
    }
}

async fn tell(connection: Connection, mut to_say: mpsc::Receiver<Said>) {
    while let Some(said) = to_say.recv().await {
        let bytes = match said {
            Said::Message(message) => together(message, &mut to_say),
            Said::Late(datagram) => [&[LATE], &datagram[..]].concat(),
        };
        let Ok(mut stream) = connection.open_uni().await else {
            return;
        };
        // In front of data, which may have to wait.
        let _ = stream.set_priority(1);
        if stream.write_all(&bytes).await.is_err() || stream.finish().is_err() {
            return;
        }
    }
}

/// A message and those that wait behind it, one a line.
fn together(first: PeerMessage, waiting: &mut mpsc::Receiver<Said>) -> Vec<u8> {
    let mut lines = first.to_json() + "\n";
    for _ in 1..BATCH {
        match waiting.try_recv() {
            Ok(Said::Message(message)) => lines.push_str(&(message.to_json() + "\n")),
            // It has come too late even for this.
            Ok(Said::Late(_)) => {}
            Err(_) => break,
        }
    }
    lines.into_bytes()
}

/// Reads all streams at once: one that is stuck on a lost path does not keep the others waiting.
/// QUIC bounds how many there are.
async fn hear(connection: Connection, heard: mpsc::Sender<Said>) {
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(said) = streams.next() => {
                for said in said {
                    if heard.send(said).await.is_err() {
                        return;
                    }
                }
            }
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => streams.push(read(stream)),
                Err(_) => return,
            },
        }
    }
}

/// What a stream says; messages that this version does not know are passed over.
async fn read(mut stream: RecvStream) -> Vec<Said> {
    let Ok(Ok(said)) = timeout(PATIENCE, stream.read_to_end(MAX_STREAM)).await else {
        return Vec::new();
    };
    if let Some((&LATE, datagram)) = said.split_first() {
        return vec![Said::Late(Bytes::copy_from_slice(datagram))];
    }
    let lines = said.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| PeerMessage::parse(line).ok());
    messages.map(Said::Message).take(BATCH).collect()
}
