//! One client's DTLS session: records on one side, the shard on the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dimpl::{Dtls, Output};
use postern_proto::turn::server::FiveTuple;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::Wire;
use crate::clock;
use crate::dtls::MAX_CONTENT;
use crate::server::slots::Slot;
use crate::server::turn::client::{SETUP_TIMEOUT, SILENCE, is_proof};
use crate::server::turn::commands::{Command, Remote};
use crate::server::turn::streams::{Outbound, StreamReceiver, channel};

/// Bytes for what dimpl gives, to begin with.
const BUFFER: usize = 2048;

/// How long a session waits for the one that it replaces to end.
const HANDOVER: Duration = Duration::from_secs(5);

/// What a session is made of.
pub(super) struct Session {
    pub(super) dtls: Box<Dtls>,
    pub(super) client: FiveTuple,
    pub(super) wire: Arc<Wire>,
    pub(super) shard: Remote,
    /// What the client sends; the session ends when this does.
    pub(super) datagrams: mpsc::Receiver<Bytes>,
    pub(super) _slot: Slot,
}

impl Session {
    /// Works until the session ends; begins when the one that it replaces has ended.
    pub(super) async fn run(mut self, before: Option<oneshot::Receiver<()>>) {
        if let Some(before) = before {
            // It says nothing: it drops the other end.
            let _ = timeout(HANDOVER, before).await;
        }
        let (sender, outbound) = channel();
        let client = self.client;
        if !self.shard.tell(Command::Opened { client, sender }).await {
            return;
        }
        self.converse(outbound).await;
        if self.dtls.close().is_ok() {
            self.drain();
        }
        self.shard.tell(Command::Closed { client }).await;
    }

    async fn converse(&mut self, mut outbound: StreamReceiver) {
        let mut proven = false;
        let mut end = clock::now() + SETUP_TIMEOUT;
        loop {
            let drained = self.drain();
            for bytes in drained.messages {
                let client = self.client;
                if !self.shard.tell(Command::Datagram { client, bytes }).await {
                    return;
                }
            }
            let Some(due) = drained.due else {
                return;
            };
            let wake = sleep_until(due.min(end).into());
            let fed = tokio::select! {
                datagram = self.datagrams.recv() => match datagram {
                    Some(datagram) => self.feed(Some(&datagram)),
                    None => return,
                },
                message = outbound.next() => match message {
                    Some(Outbound::Bytes(bytes)) => {
                        proven |= is_proof(&bytes);
                        self.send(&bytes)
                    }
                    // A connection with a peer needs a stream.
                    Some(Outbound::Join(..)) | None => return,
                },
                () = wake => {
                    if clock::now() >= end {
                        return;
                    }
                    self.feed(None)
                }
            };
            if let Err(error) = fed {
                tracing::debug!(?error, "a DTLS session failed");
                return;
            }
            if proven {
                end = clock::now() + SILENCE;
            }
        }
    }

    fn feed(&mut self, datagram: Option<&[u8]>) -> Result<(), dimpl::Error> {
        self.dtls.handle_timeout(clock::now())?;
        datagram.map_or(Ok(()), |datagram| self.dtls.handle_packet(datagram))
    }

    fn send(&mut self, message: &[u8]) -> Result<(), dimpl::Error> {
        if message.len() > MAX_CONTENT {
            return Ok(());
        }
        self.dtls.send_application_data(message).map(|_| ())
    }

    /// Sends what is to be sent.
    fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => self.wire.send(&self.client, packet),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::ApplicationData(data) => {
                    drained.messages.push(Bytes::copy_from_slice(data));
                }
                Output::CloseNotify => return drained,
                Output::Timeout(due) => {
                    drained.due = Some(due);
                    return drained;
                }
                Output::Connected | Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => {}
            }
        }
    }
}

#[derive(Default)]
struct Drained {
    messages: Vec<Bytes>,
    /// When dimpl wants to be called again; `None`: the client has said that it is over.
    due: Option<Instant>,
}
