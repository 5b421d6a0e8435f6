//! A client's stream: TCP, or TLS within it.
//!
//! Streams are tasks, because TLS is at home there; complete messages go to the shard in
//! as few commands as the reads allow.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postern_proto::turn::server::{FiveTuple, PeerConnection, Transport};
use postern_wire::turn::{StreamFrame, split_stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::commands::{Command, Remote};
use super::joined::{ClientStream, Joined};
use super::streams::{Outbound, StreamReceiver, channel};

/// A client must have proven who it is after so long.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// A client refreshes its allocation within an hour: one that is silent for longer has
/// none.
pub(super) const SILENCE: Duration = Duration::from_secs(65 * 60);

/// A client must take what is written within so long: it is not read from meanwhile.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Bytes written at once.
const WRITE: usize = 64 * 1024;

/// ConnectionBind (RFC 6062): what follows it is not a message.
const CONNECTION_BIND: [u8; 2] = [0x00, 0x0b];

/// The success response to it.
const BOUND: [u8; 2] = [0x01, 0x0b];

/// The error response to it.
const NOT_BOUND: [u8; 2] = [0x01, 0x1b];

/// Success responses that only a client with credentials gets: to Allocate, Refresh and
/// ConnectionBind.
const PROOFS: [[u8; 2]; 3] = [[0x01, 0x03], [0x01, 0x04], BOUND];

/// Whether only a client with credentials is sent this.
pub(super) fn is_proof(message: &[u8]) -> bool {
    PROOFS.iter().any(|proof| message.starts_with(proof))
}

/// Serves a client until its stream ends. It has its `seat` among the streams of its source
/// until it is joined with a peer's connection: then the quota of those is what bounds it.
pub(in crate::server) async fn serve(
    stream: impl ClientStream,
    client: FiveTuple,
    shard: Remote,
    seat: impl Send,
) {
    let (sender, outbound) = channel();
    if !shard.tell(Command::Opened { client, sender }).await {
        return;
    }
    let mut session = Session {
        stream,
        client,
        outbound,
        unread: BytesMut::new(),
        held: false,
        proven: false,
    };
    match session.converse(&shard).await {
        Ok(Some((connection, peer))) => {
            drop(seat);
            session.join(connection, peer, &shard).await;
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a client's stream ended"),
    }
    // The stream is closed after that: its 5-tuple must not come again before.
    shard.tell(Command::Closed { client }).await;
}

struct Session<S> {
    stream: S,
    client: FiveTuple,
    outbound: StreamReceiver,
    unread: BytesMut,
    /// What is unread may not be messages: the answer to ConnectionBind decides.
    held: bool,
    proven: bool,
}

impl<S: ClientStream> Session<S> {
    /// Gives the peer's connection if the stream is to carry it from now on.
    async fn converse(
        &mut self,
        shard: &Remote,
    ) -> io::Result<Option<(PeerConnection, TcpStream)>> {
        let mut deadline = pin!(sleep_until(Instant::now() + SETUP_TIMEOUT));
        loop {
            self.unread.reserve(READ);
            tokio::select! {
                read = self.stream.read_buf(&mut self.unread), if !self.held => {
                    if read? == 0 {
                        return Ok(None);
                    }
                    if self.proven {
                        deadline.as_mut().reset(Instant::now() + SILENCE);
                    }
                }
                outbound = self.outbound.next() => match outbound {
                    Some(outbound) => {
                        if let Some(joined) = self.write(outbound).await? {
                            return Ok(Some(joined));
                        }
                        if self.proven {
                            deadline.as_mut().reset(Instant::now() + SILENCE);
                        }
                    }
                    None => return Ok(None),
                },
                () = &mut deadline => return Err(io::ErrorKind::TimedOut.into()),
            }
            if !self.held && !self.pass_on(shard).await? {
                return Ok(None);
            }
        }
    }

    /// Gives the shard what is complete; `false` if it has stopped.
    async fn pass_on(&mut self, shard: &Remote) -> io::Result<bool> {
        let bytes = self.complete()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        let client = self.client;
        Ok(shard.tell(Command::Messages { client, bytes }).await)
    }

    /// Takes the complete messages out, up to a ConnectionBind request.
    fn complete(&mut self) -> io::Result<Bytes> {
        let mut used: usize = 0;
        while !self.held {
            let rest = self.unread.get(used..).unwrap_or_default();
            let length = match split_stream(rest).map_err(io::Error::other)? {
                StreamFrame::Incomplete { .. } => break,
                StreamFrame::Stun { length } => length,
                StreamFrame::ChannelData { padded, .. } => padded,
            };
            self.held = rest.starts_with(&CONNECTION_BIND);
            used = used.saturating_add(length);
        }
        Ok(self.unread.split_to(used).freeze())
    }

    /// Writes what there is for the client; gives the peer's connection if the stream is
    /// to carry it from now on.
    async fn write(&mut self, first: Outbound) -> io::Result<Option<(PeerConnection, TcpStream)>> {
        let mut bytes = Vec::new();
        let mut next = Some(first);
        let mut joined = None;
        while let Some(outbound) = next {
            match outbound {
                Outbound::Bytes(more) => {
                    // A connection follows unless the request was refused.
                    self.held &= !more.starts_with(&NOT_BOUND);
                    self.proven |= is_proof(&more);
                    bytes.extend(more);
                }
                Outbound::Join(connection, peer) => joined = Some((connection, peer)),
            }
            let full = joined.is_some() || bytes.len() >= WRITE;
            next = (!full).then(|| self.outbound.next_now()).flatten();
        }
        timeout(SEND_TIMEOUT, self.send(&bytes)).await??;
        Ok(joined)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = self.record(rest).min(rest.len());
            let (next, others) = rest.split_at(length);
            self.stream.write_all(next).await?;
            rest = others;
        }
        self.stream.flush().await
    }

    /// How many of these bytes are written at once. Over TLS each message has a record of
    /// its own: clients are about that read one record, take one message out of it and
    /// forget the rest (coturn's).
    fn record(&self, bytes: &[u8]) -> usize {
        if self.client.transport != Transport::Tls {
            return bytes.len();
        }
        match split_stream(bytes) {
            Ok(StreamFrame::Stun { length }) => length,
            Ok(StreamFrame::ChannelData { padded, .. }) => padded,
            Ok(StreamFrame::Incomplete { .. }) | Err(_) => bytes.len(),
        }
    }

    /// Raw bytes both ways, from the first that either side has sent. The shard ends it by
    /// dropping the queue.
    async fn join(&mut self, connection: PeerConnection, mut peer: TcpStream, shard: &Remote) {
        let joined = Joined {
            client: &mut self.stream,
            peer: &mut peer,
            early: &self.unread,
            connection,
            shard,
        };
        joined.relay(self.outbound.next()).await;
    }
}
