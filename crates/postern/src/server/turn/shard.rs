//! A thread that owns a TURN machine, one of the server's shards, and its UDP sockets.
//!
//! It is a thread of its own, not a task: between two datagrams lies nothing but the
//! machine and one system call for a whole train. What is a stream comes from tasks, as
//! [`Command`]s.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use postern_proto::turn::server::{Event, OpenError, RelayTransport, Server, Transmit, Transport};
use tokio::sync::mpsc;

use super::batch::Batch;
use super::commands::{Command, Remote};
use super::connections::Connections;
use super::sockets::{Sockets, Via, WAKER};
use super::streams::Streams;
use crate::clock;
use crate::os::trains::Inbox;

/// Commands taken before the sockets have their turn again.
const COMMANDS: usize = 256;

/// Pause after the poll has failed, so that a fault that stays cannot keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The thread's state.
pub(super) struct Shard {
    pub(super) poll: Poll,
    pub(super) machine: Server,
    /// Whether there are relays; else only STUN is answered.
    pub(super) relays: bool,
    pub(super) sockets: Sockets,
    /// What was received last; shared so that it can be read while the rest changes.
    pub(super) inbox: Arc<Inbox>,
    pub(super) batch: Batch,
    pub(super) streams: Streams,
    pub(super) connections: Connections,
    pub(super) commands: mpsc::Receiver<Command>,
    /// All shards.
    pub(super) remote: Remote,
    /// Sockets that may have more to read.
    pub(super) ready: BTreeSet<usize>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Shard {
    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.wait(&mut events) {
                tracing::warn!(%error, "the relay's poll failed");
                std::thread::sleep(ERROR_PAUSE);
            }
            self.take_commands();
            self.serve_sockets();
            self.on_time();
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = if self.ready.is_empty() && self.commands.is_empty() {
            let deadline = self.machine.poll_timeout();
            deadline.map(|deadline| deadline.saturating_duration_since(clock::now()))
        } else {
            Some(Duration::ZERO)
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter().filter(|event| event.token() != WAKER) {
            let Token(token) = event.token();
            self.ready.insert(token);
            if event.is_error() {
                self.on_error(event.token());
            }
        }
        Ok(())
    }

    /// Every socket that is ready gets one batch, then it is the next one's turn.
    fn serve_sockets(&mut self) {
        for token in std::mem::take(&mut self.ready) {
            if self.serve(Token(token)) {
                self.ready.insert(token);
            }
        }
    }

    /// Whether there may be more.
    fn serve(&mut self, token: Token) -> bool {
        let Some(via) = self.sockets.of(token) else {
            return false;
        };
        let (Some(socket), Some(inbox)) = (self.sockets.get(via), Arc::get_mut(&mut self.inbox))
        else {
            return false;
        };
        let (received, more) = match socket.receive(inbox) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                // An earlier datagram's error is told once; what waits behind it is to be
                // read.
                self.on_error(token);
                return true;
            }
        };
        let now = clock::now();
        let inbox = Arc::clone(&self.inbox);
        for train in (0..received).filter_map(|index| inbox.train(index)) {
            match via {
                Via::Listener(_) => self.on_client_train(now, via, &train),
                Via::Relay(relay) => self.on_peer_train(now, relay, &train),
            }
        }
        drop(inbox);
        self.flush();
        more
    }

    fn on_error(&mut self, token: Token) {
        if let Some(Via::Relay(relay)) = self.sockets.of(token) {
            self.tell_errors(clock::now(), relay);
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        self.batch.flush(&self.sockets, &self.inbox);
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            let now = clock::now();
            self.obey(now, command);
            self.drain(now);
            self.flush();
        }
    }

    fn on_time(&mut self) {
        let due = self.machine.poll_timeout();
        if due.is_none() {
            return;
        }
        let now = clock::now();
        if due.is_some_and(|due| due <= now) {
            self.machine.handle_timeout(now);
            self.drain(now);
            self.flush();
        }
    }

    /// Does what the machine wants.
    pub(super) fn drain(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.machine.poll_transmit() {
                self.answer(transmit);
            }
            let Some(event) = self.machine.poll_event() else {
                return;
            };
            self.carry_out(now, event);
        }
    }

    fn answer(&mut self, Transmit { client, payload }: Transmit) {
        if client.transport != Transport::Udp {
            self.streams.send(&client, payload);
            return;
        }
        self.send_to_client(&client, [&payload]);
    }

    fn carry_out(&mut self, now: Instant, event: Event) {
        match event {
            Event::OpenRelay {
                relay,
                transport: RelayTransport::Udp,
                address,
            } => {
                let result = self.sockets.open_relay(relay, address);
                let result = result.map_err(|error| open_error(&error));
                self.machine.handle_relay_opened(now, relay, result);
            }
            Event::OpenRelay {
                relay,
                transport: RelayTransport::Tcp,
                address,
            } => {
                let result = self.connections.listen(relay, address);
                let result = result.map_err(|error| open_error(&error));
                self.machine.handle_relay_opened(now, relay, result);
            }
            Event::CloseRelay { relay } => {
                self.flush();
                self.sockets.close_relay(relay);
                self.connections.close_listener(relay);
            }
            Event::Connect {
                connection,
                from,
                to,
                ..
            } => self.connections.connect(connection, from, to.0),
            Event::Splice { connection, client } => self.join(connection, &client),
            Event::CloseConnection { connection } => {
                if let Some(client) = self.connections.close(connection) {
                    self.streams.remove(&client);
                }
            }
        }
    }
}

fn open_error(error: &io::Error) -> OpenError {
    tracing::debug!(%error, "a relay could not be opened");
    if error.kind() == io::ErrorKind::AddrInUse {
        OpenError::AddressInUse
    } else {
        OpenError::Unavailable
    }
}
