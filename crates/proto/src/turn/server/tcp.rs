//! TCP relays (RFC 6062 section 5).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, ErrorCode, Method};
use postern_wire::turn::{AddressFamily, ConnectionId, XorPeerAddress};
use rand_core::RngCore;

use super::accounts::Resource;
use super::allocation::{Pending, relay_id};
use super::deadlines::Deadline;
use super::dispatch::{Answer, Caller};
use super::permit::canonical;
use super::reject::Reject;
use super::request::{Authenticated, Connect, ConnectionBind};
use super::types::{AllocationId, PeerAddr, PeerConnection, RelayId, RelayTransport};
use super::{ConnectError, Event, Server, later};

/// How long a peer may take to accept a connection, and a client to bind one: RFC 6062
/// sections 5.2 and 5.3.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most connections of one allocation, whatever the quotas: a client has as many
/// streams to us, of which no address has more than 65,535.
const MAX_CONNECTIONS: usize = 1024;

/// Connections with peers by CONNECTION-ID.
#[derive(Debug, Default)]
pub(super) struct Connections {
    by_id: BTreeMap<u32, Connection>,
}

#[derive(Debug)]
struct Connection {
    relay: RelayId,
    peer: PeerAddr,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The peer has not accepted; the Connect request waits.
    Connecting { pending: Pending, until: Instant },
    /// The client has not bound it.
    Unbound { until: Instant },
    /// The bytes flow.
    Bound,
}

impl State {
    const fn until(self) -> Option<Instant> {
        match self {
            Self::Connecting { until, .. } | Self::Unbound { until } => Some(until),
            Self::Bound => None,
        }
    }
}

impl Server {
    /// Connect (RFC 6062 section 5.2).
    pub(super) fn connect(
        &mut self,
        now: Instant,
        caller: &Caller,
        Authenticated { session, request }: &Authenticated<Connect>,
    ) -> Answer {
        let id = self.own(now, caller, session)?;
        let peer = canonical(request.peer);
        self.check_connect(id, peer)?;
        self.settle(id, caller);
        let until = later(now, TIMEOUT);
        let pending = caller.pending();
        let relay = relay_id(id, AddressFamily::of(peer.0.ip()));
        let state = State::Connecting { pending, until };
        let connection = self
            .open_connection(relay, peer, state)
            .ok_or(Reject::NO_CAPACITY)?;
        if let Some(from) = self.bound_address(relay) {
            self.events.push_back(Event::Connect {
                connection: PeerConnection(connection),
                relay,
                from,
                to: peer,
            });
        }
        Ok(None)
    }

    fn check_connect(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Reject> {
        let allocation = self.table.get(id).ok_or(Reject::MISMATCH)?;
        if allocation.transport != RelayTransport::Tcp {
            return Err(Reject::BAD_REQUEST);
        }
        if allocation.connections.contains_key(&peer) {
            return Err(Reject::new(ErrorCode::CONNECTION_ALREADY_EXISTS));
        }
        self.check_family_of(id, peer)?;
        if peer.0.port() == 0 || !self.may_reach(RelayTransport::Tcp, peer) {
            return Err(Reject::FORBIDDEN);
        }
        Ok(())
    }

    fn bound_address(&self, relay: RelayId) -> Option<std::net::SocketAddr> {
        let allocation = self.table.get(relay.allocation)?;
        allocation
            .relays
            .get(relay.family)
            .map(|relay| relay.bound())
    }

    /// Takes the result of [`Event::Connect`].
    pub fn handle_connected(
        &mut self,
        now: Instant,
        PeerConnection(id): PeerConnection,
        result: Result<(), ConnectError>,
    ) {
        let Some(connection) = self.connections.by_id.get_mut(&id) else {
            return;
        };
        let State::Connecting { pending, until } = connection.state else {
            return;
        };
        let allocation = connection.relay.allocation;
        if result.is_err() {
            self.forget_connection(id);
            self.refuse_connect(allocation, pending);
            return;
        }
        let state = State::Unbound {
            until: later(now, TIMEOUT),
        };
        connection.state = state;
        self.deadlines.remove(until, Deadline::Connection(id));
        self.watch(id, state);
        self.stats.answered(Method::CONNECT, 0);
        let response =
            Builder::new(Class::Success, Method::CONNECT, pending.id).attribute(&ConnectionId(id));
        self.answer_late(allocation, pending, response);
    }

    fn refuse_connect(&mut self, allocation: AllocationId, pending: Pending) {
        let reject = Reject::new(ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE);
        self.stats.answered(Method::CONNECT, reject.error.code());
        let response = Builder::new(Class::Error, Method::CONNECT, pending.id);
        self.answer_late(allocation, pending, reject.describe(response));
    }

    /// A peer has connected to the listener of a TCP relay. `None`: close the connection at
    /// once. Else do not read from it before [`Event::Splice`]; the client is told (RFC
    /// 6062 section 5.3).
    pub fn handle_peer_connected(
        &mut self,
        now: Instant,
        relay: RelayId,
        peer: PeerAddr,
    ) -> Option<PeerConnection> {
        let peer = canonical(peer);
        let allocation = self.table.get(relay.allocation)?;
        let may = allocation.is_live(now)
            && allocation.transport == RelayTransport::Tcp
            && relay.family == AddressFamily::of(peer.0.ip())
            && allocation.relays.get(relay.family).is_some()
            && allocation.permissions.is_live(now, peer.0.ip())
            && !allocation.connections.contains_key(&peer)
            && self.may_come(peer);
        let client = allocation.client;
        if !may {
            self.stats.attempts_refused = self.stats.attempts_refused.wrapping_add(1);
            return None;
        }
        let until = later(now, TIMEOUT);
        let id = self.open_connection(relay, peer, State::Unbound { until })?;
        let indication = self.indication_id();
        let payload = Builder::new(Class::Indication, Method::CONNECTION_ATTEMPT, indication)
            .attribute(&ConnectionId(id))
            .attribute(&XorPeerAddress(peer.0))
            .build();
        self.send(client, payload);
        Some(PeerConnection(id))
    }

    /// A permission for one of our own addresses is for the relays there.
    fn may_come(&self, peer: PeerAddr) -> bool {
        self.may_reach(RelayTransport::Tcp, peer)
    }

    /// ConnectionBind (RFC 6062 section 5.4): from another connection of the same user.
    pub(super) fn connection_bind(
        &mut self,
        now: Instant,
        caller: &Caller,
        Authenticated { session, request }: &Authenticated<ConnectionBind>,
    ) -> Answer {
        let ConnectionId(id) = request.id;
        let is_data_connection =
            caller.client.transport.is_stream() && self.table.of_client(&caller.client).is_none();
        let connection = self
            .connections
            .by_id
            .get_mut(&id)
            .filter(|_| is_data_connection)
            .ok_or(Reject::BAD_REQUEST)?;
        let owner = self.table.get(connection.relay.allocation);
        let owner = owner.filter(|allocation| allocation.is_live(now));
        if owner.ok_or(Reject::BAD_REQUEST)?.session.account != session.account {
            return Err(Reject::new(ErrorCode::WRONG_CREDENTIALS));
        }
        let State::Unbound { until } = connection.state else {
            return Err(Reject::BAD_REQUEST);
        };
        connection.state = State::Bound;
        self.deadlines.remove(until, Deadline::Connection(id));
        self.events.push_back(Event::Splice {
            connection: PeerConnection(id),
            client: caller.client,
        });
        Ok(Some(caller.success()))
    }

    /// Whether `bytes` may pass on a joined connection now; if not, the driver waits a
    /// while. Both directions count.
    pub fn connection_data(
        &mut self,
        now: Instant,
        PeerConnection(id): PeerConnection,
        bytes: usize,
    ) -> bool {
        let Some(connection) = self.connections.by_id.get(&id) else {
            return false;
        };
        self.spend(now, connection.relay.allocation, bytes)
    }

    /// So many bytes have passed on connections, which may have ended since.
    pub const fn connections_carried(&mut self, to_peers: u64, to_clients: u64) {
        let stats = &mut self.stats;
        stats.carried_to_peers = stats.carried_to_peers.wrapping_add(to_peers);
        stats.carried_to_clients = stats.carried_to_clients.wrapping_add(to_clients);
    }

    /// A connection with a peer has ended, or the client's that is joined to it.
    pub fn handle_connection_closed(&mut self, PeerConnection(id): PeerConnection) {
        let Some(connection) = self.connections.by_id.get(&id) else {
            return;
        };
        match connection.state {
            State::Connecting { pending, .. } => {
                let allocation = connection.relay.allocation;
                self.forget_connection(id);
                self.refuse_connect(allocation, pending);
            }
            State::Unbound { .. } | State::Bound => self.forget_connection(id),
        }
    }

    /// Nobody came in time: the peer to accept, or the client to bind.
    pub(super) fn on_connection_due(&mut self, id: u32) {
        let Some(connection) = self.connections.by_id.get(&id) else {
            return;
        };
        let (allocation, state) = (connection.relay.allocation, connection.state);
        self.end_connection(id);
        if let State::Connecting { pending, .. } = state {
            self.refuse_connect(allocation, pending);
        }
    }

    /// Draws an id and counts the connection; `None` if there are too many.
    fn open_connection(&mut self, relay: RelayId, peer: PeerAddr, state: State) -> Option<u32> {
        let allocation = self.table.get(relay.allocation)?;
        if allocation.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let holder = allocation.holder;
        if !self
            .shared
            .accounts()
            .take(&self.config.quotas, holder, Resource::Connection)
        {
            return None;
        }
        let id = self.draw_connection_id();
        let connection = Connection { relay, peer, state };
        self.connections.by_id.insert(id, connection);
        self.stats.connections = self.stats.connections.saturating_add(1);
        if let Some(allocation) = self.table.get_mut(relay.allocation) {
            allocation.connections.insert(peer, id);
        }
        self.watch(id, state);
        Some(id)
    }

    fn draw_connection_id(&mut self) -> u32 {
        loop {
            let id = self.rng.next_u32();
            if id != 0 && !self.connections.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    fn watch(&mut self, id: u32, state: State) {
        if let Some(until) = state.until() {
            self.deadlines.add(until, Deadline::Connection(id));
        }
    }

    /// Ends a connection, here and at the driver.
    pub(super) fn end_connection(&mut self, id: u32) {
        if self.connections.by_id.contains_key(&id) {
            self.forget_connection(id);
            let connection = PeerConnection(id);
            self.events.push_back(Event::CloseConnection { connection });
        }
    }

    fn forget_connection(&mut self, id: u32) {
        let Some(connection) = self.connections.by_id.remove(&id) else {
            return;
        };
        self.stats.connections = self.stats.connections.saturating_sub(1);
        if let Some(until) = connection.state.until() {
            self.deadlines.remove(until, Deadline::Connection(id));
        }
        if let Some(allocation) = self.table.get_mut(connection.relay.allocation) {
            allocation.connections.remove(&connection.peer);
            let holder = allocation.holder;
            self.shared
                .accounts()
                .give_back(holder, Resource::Connection);
        }
    }

    pub(super) fn connections_of(&self, id: AllocationId) -> Vec<u32> {
        self.table
            .get(id)
            .map(|allocation| allocation.connections.values().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn end_connections_of(&mut self, relay: RelayId) {
        for id in self.connections_of(relay.allocation) {
            let connection = self.connections.by_id.get(&id);
            if connection.is_some_and(|connection| connection.relay == relay) {
                self.end_connection(id);
            }
        }
    }
}
