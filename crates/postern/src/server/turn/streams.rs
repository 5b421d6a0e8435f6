//! The clients that come over TCP, TLS and DTLS, as the shard sees them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use postern_proto::turn::server::{FiveTuple, PeerConnection, ShardIndex};
use postern_wire::turn::{StreamFrame, split_stream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::commands::{Command, Remote};
use super::shard::Shard;

/// Messages that wait for a slow client.
const MAX_MESSAGES: usize = 1024;

/// Bytes that wait for a slow client. What comes beyond is lost, as a datagram would be.
const MAX_WAITING: usize = 512 * 1024;

/// What a client's stream gets.
#[derive(Debug)]
pub(super) enum Outbound {
    Bytes(Vec<u8>),
    /// From now on the stream carries this connection's bytes.
    Join(PeerConnection, TcpStream),
}

/// Takes what is for one stream.
#[derive(Debug, Clone)]
pub(super) struct StreamSender {
    queue: mpsc::Sender<Outbound>,
    waiting: Arc<AtomicUsize>,
}

/// Gives what is for one stream.
#[derive(Debug)]
pub(super) struct StreamReceiver {
    queue: mpsc::Receiver<Outbound>,
    waiting: Arc<AtomicUsize>,
}

/// A queue for one stream.
pub(super) fn channel() -> (StreamSender, StreamReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_MESSAGES);
    let waiting = Arc::<AtomicUsize>::default();
    let sender = StreamSender {
        queue: sender,
        waiting: waiting.clone(),
    };
    let receiver = StreamReceiver {
        queue: receiver,
        waiting,
    };
    (sender, receiver)
}

impl StreamSender {
    fn send(&self, bytes: Vec<u8>) {
        let length = bytes.len();
        if self.waiting.load(Ordering::Relaxed) > MAX_WAITING {
            return;
        }
        self.waiting.fetch_add(length, Ordering::Relaxed);
        if self.queue.try_send(Outbound::Bytes(bytes)).is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
        }
    }
}

impl StreamReceiver {
    /// `None` when the shard has nothing more to say.
    pub(super) async fn next(&mut self) -> Option<Outbound> {
        let outbound = self.queue.recv().await;
        self.count(outbound)
    }

    /// What is there already.
    pub(super) fn next_now(&mut self) -> Option<Outbound> {
        let outbound = self.queue.try_recv().ok();
        self.count(outbound)
    }

    fn count(&self, outbound: Option<Outbound>) -> Option<Outbound> {
        if let Some(Outbound::Bytes(bytes)) = &outbound {
            self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        outbound
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    sender: StreamSender,
    joined: Option<PeerConnection>,
}

/// All streams, which one shard has.
#[derive(Debug)]
pub(super) enum Streams {
    Here(BTreeMap<FiveTuple, Stream>),
    /// The clients of another shard's streams may have moved from here (RFC 8016).
    Elsewhere(Remote),
}

impl Streams {
    pub(super) fn send(&self, client: &FiveTuple, bytes: Vec<u8>) {
        match self {
            Self::Here(streams) => {
                if let Some(stream) = streams.get(client) {
                    stream.sender.send(bytes);
                }
            }
            Self::Elsewhere(remote) => {
                let client = *client;
                let command = Command::ToStream { client, bytes };
                remote.pass_on(ShardIndex::default(), command);
            }
        }
    }

    fn insert(&mut self, client: FiveTuple, sender: StreamSender) {
        if let Self::Here(streams) = self {
            let joined = None;
            streams.insert(client, Stream { sender, joined });
        }
    }

    fn get_mut(&mut self, client: &FiveTuple) -> Option<&mut Stream> {
        match self {
            Self::Here(streams) => streams.get_mut(client),
            Self::Elsewhere(_) => None,
        }
    }

    /// Whether the stream is there to take the connection.
    fn join(&mut self, client: &FiveTuple, connection: PeerConnection, peer: TcpStream) -> bool {
        let Some(stream) = self.get_mut(client) else {
            return false;
        };
        stream.joined = Some(connection);
        let join = Outbound::Join(connection, peer);
        stream.sender.queue.try_send(join).is_ok()
    }

    /// Ends a client's stream by leaving it without a sender.
    pub(super) fn remove(&mut self, client: &FiveTuple) -> Option<PeerConnection> {
        match self {
            Self::Here(streams) => streams.remove(client)?.joined,
            Self::Elsewhere(_) => None,
        }
    }
}

impl Shard {
    pub(super) fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Opened { client, sender } => self.streams.insert(client, sender),
            Command::Messages { client, bytes } => self.on_messages(now, &client, &bytes),
            Command::Datagram { client, bytes } => self.on_message(now, &client, &bytes),
            Command::Spend {
                connection,
                bytes,
                answer,
            } => {
                let may = self.machine.connection_data(now, connection, bytes);
                // Who asked may have ended.
                let _ = answer.send(may);
            }
            Command::Carried {
                to_peers,
                to_clients,
            } => self.machine.connections_carried(to_peers, to_clients),
            Command::Closed { client } => {
                if let Some(connection) = self.streams.remove(&client) {
                    self.connections.close(connection);
                    self.machine.handle_connection_closed(connection);
                }
                match self.machine.elsewhere(&client, &[]) {
                    Some(owner) => self.remote.pass_on(owner, Command::Closed { client }),
                    None => self.machine.handle_client_closed(now, &client),
                }
            }
            Command::Train {
                client,
                stride,
                bytes,
            } => self.on_train(now, &client, stride, &bytes),
            Command::Relayed {
                relay,
                source,
                lengths,
                bytes,
            } => self.on_relayed(now, relay, source, &lengths, &bytes),
            Command::ToStream { client, bytes } => self.streams.send(&client, bytes),
            Command::Change(change) => change.make(now, &mut self.machine),
            Command::Drain(alternates) => self.machine.drain(alternates),
            Command::Count(sender) => drop(sender.send(self.machine.stats().clone())),
            Command::PeerArrived { relay, stream } => self.on_peer(now, relay, stream),
            Command::Connected { connection, result } => {
                self.on_connected(now, connection, result);
            }
        }
    }

    fn on_messages(&mut self, now: Instant, client: &FiveTuple, bytes: &Bytes) {
        let mut rest = &bytes[..];
        while let Ok(frame) = split_stream(rest) {
            let (length, padded) = match frame {
                StreamFrame::Incomplete { .. } => return,
                StreamFrame::Stun { length } => (length, length),
                StreamFrame::ChannelData { length, padded } => (length, padded),
            };
            self.on_message(now, client, rest.get(..length).unwrap_or_default());
            rest = rest.get(padded..).unwrap_or_default();
        }
    }

    pub(super) fn join(&mut self, connection: PeerConnection, client: &FiveTuple) {
        let Some(peer) = self.connections.take(connection, client) else {
            return;
        };
        if !self.streams.join(client, connection, peer) {
            self.connections.close(connection);
            self.machine.handle_connection_closed(connection);
        }
    }
}
