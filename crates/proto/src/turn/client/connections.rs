//! Connections with peers over a TCP relay (RFC 6062).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::Message;
use postern_wire::turn::{ConnectionId, XorPeerAddress};

use super::after;
use super::config::{MAX_CONNECTIONS, Relay};
use super::data::canonical;
use super::event::{Event, Failure};
use super::machine::Client;
use super::requests::Purpose;
use super::stream::Reassembly;
use super::timers::Timer;
use crate::{Datagram, Verdict};

/// How long server and peer wait for the data connection (RFC 6062 section 5.2).
const BIND_WITHIN: Duration = Duration::from_secs(30);
/// How long to leave a peer alone that did not take a connection (section 4.3).
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why a connection cannot be asked for or bound: the caller's fault, or too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// There is no allocation that relays TCP.
    #[error("no TCP allocation")]
    NotAllocated,
    /// A connection to this peer is being made.
    #[error("a connection to this peer is being made")]
    Busy,
    /// The last attempt was less than ten seconds ago.
    #[error("too early for another attempt")]
    TooEarly,
    /// [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS) are being made.
    #[error("too many connections at once")]
    TooMany,
    /// No connection with this id waits to be bound, or its 30 s are over.
    #[error("no such connection")]
    Unknown,
    /// The local address is that of another connection to the server.
    #[error("the local address is in use")]
    SameAddress,
}

/// A connection that is to be bound.
#[derive(Debug)]
struct Connection {
    peer: SocketAddr,
    /// The data connection's local address, as soon as it is open.
    local: Option<SocketAddr>,
    stream: Reassembly,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    waiting: BTreeMap<ConnectionId, Connection>,
    by_local: BTreeMap<SocketAddr, ConnectionId>,
    /// Peers that are being connected to (`true`), or were in vain.
    peers: BTreeMap<SocketAddr, bool>,
}

impl Connections {
    pub(super) fn local_of(&self, id: ConnectionId) -> Option<SocketAddr> {
        self.waiting.get(&id)?.local
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_CONNECTIONS || self.peers.len() >= MAX_CONNECTIONS
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.waiting.remove(&id)?;
        if let Some(local) = connection.local {
            self.by_local.remove(&local);
        }
        Some(connection)
    }
}

impl Client {
    /// Asks the server to connect to a peer. [`Event::Connected`] or
    /// [`Event::ConnectionFailed`] follows.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], and nothing is asked.
    pub fn connect(&mut self, now: Instant, peer: SocketAddr) -> Result<(), ConnectError> {
        let peer = canonical(peer);
        if self.allocation().is_none() || self.config.relay == Relay::Udp {
            return Err(ConnectError::NotAllocated);
        }
        match self.connections.peers.get(&peer) {
            Some(true) => return Err(ConnectError::Busy),
            Some(false) => return Err(ConnectError::TooEarly),
            None if self.connections.is_full() => return Err(ConnectError::TooMany),
            None => {}
        }
        self.connections.peers.insert(peer, true);
        self.ask(now, Purpose::Connect(peer));
        Ok(())
    }

    /// Says that a data connection to the server is open, over the same transport and from
    /// `local`, so that it can be bound. What arrives on it goes to
    /// [`handle_input`](Self::handle_input) until [`Event::ConnectionBound`].
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: close the data connection.
    pub fn bind_connection(
        &mut self,
        now: Instant,
        id: ConnectionId,
        local: SocketAddr,
    ) -> Result<(), ConnectError> {
        if local == self.config.local || self.connections.by_local.contains_key(&local) {
            return Err(ConnectError::SameAddress);
        }
        let connection = self.connections.waiting.get_mut(&id);
        let connection = connection.filter(|c| c.local.is_none());
        connection.ok_or(ConnectError::Unknown)?.local = Some(local);
        self.connections.by_local.insert(local, id);
        self.ask(now, Purpose::BindConnection(id));
        Ok(())
    }

    /// Says that the data connection could not be opened or was closed before it was bound.
    pub fn abandon_connection(&mut self, id: ConnectionId) {
        self.requests.forget(Purpose::BindConnection(id));
        self.timers.clear(Timer::Connection(id));
        self.connections.remove(id);
    }

    /// What arrives on a data connection before it is bound.
    pub(super) fn on_unbound_input(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
    ) -> Option<Verdict> {
        let id = *self.connections.by_local.get(&datagram.local)?;
        let connection = self.connections.waiting.get_mut(&id)?;
        connection.stream.push(datagram.payload);
        match connection.stream.next() {
            Err(_) => self.on_connection_failed(id, Failure::Malformed),
            Ok(None) => {}
            Ok(Some(message)) => {
                let payload = &message;
                self.on_response(
                    now,
                    &Datagram {
                        payload,
                        ..*datagram
                    },
                );
            }
        }
        Some(Verdict::Consumed)
    }

    pub(super) fn on_connected(&mut self, now: Instant, peer: SocketAddr, message: &Message<'_>) {
        self.connections.peers.remove(&peer);
        match message.get::<ConnectionId>() {
            Ok(Some(id)) if self.await_binding(now, id, peer) => {
                self.events.push_back(Event::Connected { peer, id });
            }
            Ok(_) | Err(_) => self.events.push_back(Event::ConnectionFailed {
                peer,
                id: None,
                failure: Failure::Malformed,
            }),
        }
    }

    pub(super) fn on_connect_refused(&mut self, now: Instant, peer: SocketAddr, failure: Failure) {
        self.connections.peers.insert(peer, false);
        let retry = after(now, RETRY_AFTER);
        self.timers.set(Timer::Connect(peer), retry);
        let id = None;
        self.events
            .push_back(Event::ConnectionFailed { peer, id, failure });
    }

    /// A ConnectionAttempt indication: only from peers that we have permitted.
    pub(super) fn on_attempt(&mut self, now: Instant, message: &Message<'_>) {
        let (Ok(Some(XorPeerAddress(peer))), Ok(Some(id))) = (message.get(), message.get()) else {
            return;
        };
        let peer = canonical(peer);
        let wanted = self.config.relay == Relay::Tcp && self.touch_permission(now, peer.ip());
        if wanted && self.await_binding(now, id, peer) {
            self.events.push_back(Event::ConnectionAttempt { peer, id });
        }
    }

    fn await_binding(&mut self, now: Instant, id: ConnectionId, peer: SocketAddr) -> bool {
        let known = self.connections.waiting.contains_key(&id);
        if known || self.connections.waiting.len() >= MAX_CONNECTIONS {
            return false;
        }
        let connection = Connection {
            peer,
            local: None,
            stream: Reassembly::default(),
        };
        self.connections.waiting.insert(id, connection);
        self.timers
            .set(Timer::Connection(id), after(now, BIND_WITHIN));
        true
    }

    pub(super) fn on_connection_bound(&mut self, id: ConnectionId) {
        self.timers.clear(Timer::Connection(id));
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        if let Some(local) = connection.local {
            self.events.push_back(Event::ConnectionBound {
                id,
                peer: connection.peer,
                local,
                early: connection.stream.rest().to_vec(),
            });
        }
    }

    pub(super) fn on_connection_failed(&mut self, id: ConnectionId, failure: Failure) {
        self.requests.forget(Purpose::BindConnection(id));
        self.timers.clear(Timer::Connection(id));
        if let Some(connection) = self.connections.remove(id) {
            let (peer, id) = (connection.peer, Some(id));
            self.events
                .push_back(Event::ConnectionFailed { peer, id, failure });
        }
    }

    pub(super) fn on_connect_timer(&mut self, peer: SocketAddr) {
        self.connections.peers.remove(&peer);
    }
}
