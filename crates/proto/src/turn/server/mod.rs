//! The TURN server (RFC 8656), with TCP relays (RFC 6062) and mobility (RFC 8016).
//!
//! [`Server`] knows no socket, no clock and no thread. It says which relay sockets to
//! open and which connections to make, and is told what became of that. The loop:
//!
//! 1. [`Server::handle_input`] for every datagram of a client and every message cut from
//!    a client's stream ([`split_stream`](postern_wire::turn::split_stream)). If it gives
//!    [`Handled::Forward`], send the data to the peer, or hand it over in process.
//! 2. [`Server::peer_data`] for every datagram at a relay socket; send it to the client
//!    with what [`Framing`] says in front.
//! 3. [`Server::handle_timeout`] when the time of [`Server::poll_timeout`] has come.
//! 4. After each of these, [`Server::poll_transmit`] until `None`, **then**
//!    [`Server::poll_event`] until `None`: the answer to a ConnectionBind request comes
//!    before the raw bytes.
//! 5. Every [`Event`] says what to do and which `handle_*` takes the result.
//!
//! A driver with trains of equal datagrams asks once for each train:
//! [`Server::client_data`] and [`Server::peer_data`] take the bytes of all of it, make no
//! allocation on the heap, and cost two or three look-ups in ordered maps.
//!
//! A driver with several threads has several machines that are one server:
//! [`Server::shards`] and [`Server::elsewhere`].
//!
//! What holds, whatever arrives:
//!
//! - Nothing is kept of a client that has not proven its address and its credentials,
//!   except how much its network was sent.
//! - No data reaches a peer, and none a client, without a live permission for the peer's
//!   IP address; no permission is given for an address that [`PeerPolicy`] denies.
//! - No two allocations have the same relayed transport address.
//! - Nothing that a client can grow is without a bound: [`Quotas`], and the ports.
//!
//! Assumptions: the driver answers every [`Event::OpenRelay`] and [`Event::Connect`];
//! `now` never runs backwards; relay sockets do not take IPv4 on IPv6 sockets.
//!
//! Out of scope: third-party authorisation (RFC 7635); framing of streams and TLS, which
//! are the driver's.

mod accounts;
mod allocate;
mod allocation;
mod config;
mod data;
mod deadlines;
mod dispatch;
mod mobility;
mod permit;
mod policy;
mod ports;
mod refresh;
mod reject;
mod request;
mod shard;
mod shared;
mod stats;
mod table;
mod tcp;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use hmac::{Hmac, Mac};
use postern_wire::stun::TransactionId;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::Sha256;

use crate::stun::{Authenticator, BindingServer, Credentials};

pub use accounts::{Limits, Quotas};
pub use config::{Alternates, Config, RelayAddress};
pub use dispatch::Handled;
pub use policy::{Cidr, CidrError, PeerPolicy};
pub use stats::{Stats, Traffic};
pub use types::{
    AllocationId, Backward, ClientAddr, FiveTuple, Forward, Framing, Load, PeerAddr,
    PeerConnection, RelayId, RelayPort, RelayTransport, RelayedAddr, ShardIndex, Transport,
};

use deadlines::Deadlines;
use policy::PeerVerdict;
use ports::Ports;
use shared::Shared;
use table::Table;
use tcp::Connections;

/// The most messages that wait to be sent: a driver drains them after every input.
const MAX_QUEUED: usize = 1024;

/// A message to send to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom, and from where.
    pub client: FiveTuple,
    /// One STUN message.
    pub payload: Vec<u8>,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bind a UDP socket or a TCP listener, and call [`Server::handle_relay_opened`].
    /// Sockets of a TCP relay need SO_REUSEADDR and SO_REUSEPORT: its connections leave
    /// from the same port.
    OpenRelay {
        /// Its name from now on.
        relay: RelayId,
        /// UDP or TCP.
        transport: RelayTransport,
        /// What to bind to.
        address: SocketAddr,
    },
    /// Close a relay socket or listener, if it was opened.
    CloseRelay {
        /// Which one.
        relay: RelayId,
    },
    /// Connect to a peer from the relay's address, and call
    /// [`Server::handle_connected`].
    Connect {
        /// Its name from now on.
        connection: PeerConnection,
        /// The relay whose address it has.
        relay: RelayId,
        /// What to bind to.
        from: SocketAddr,
        /// The peer.
        to: PeerAddr,
    },
    /// Join a client's connection with a peer's: raw bytes both ways, from the first one
    /// that the peer has sent. When either ends, end both and call
    /// [`Server::handle_connection_closed`]. Account for the bytes with
    /// [`Server::connection_data`].
    Splice {
        /// The peer's connection.
        connection: PeerConnection,
        /// The client's.
        client: FiveTuple,
    },
    /// End a connection with a peer, also while it is being made, and the client's that is
    /// joined to it.
    CloseConnection {
        /// Which one.
        connection: PeerConnection,
    },
}

/// Why a relay could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// Another program has the port: another one may do.
    AddressInUse,
    /// No port would do: no such address, no more sockets.
    Unavailable,
}

/// Why there is no connection with a peer. To the client it is all one: 447.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// The peer refused, or did not answer.
    Failed,
    /// The relay's address and the peer's are connected already, or were a moment ago
    /// (EADDRNOTAVAIL).
    AddressNotAvailable,
}

/// The TURN server: see the [module](self).
#[derive(Debug)]
pub struct Server {
    config: Config,
    started: Instant,
    rng: ChaCha20Rng,
    auth: Authenticator,
    binding: BindingServer,
    shard: ShardIndex,
    shared: Shared,
    table: Table,
    connections: Connections,
    departed: BTreeMap<FiveTuple, TransactionId>,
    deadlines: Deadlines,
    draining: Option<Alternates>,
    stats: Stats,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Server {
    /// A server without allocations. The seed decides nonces, tickets, tokens and ports:
    /// 32 bytes that nobody else knows.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], mut config: Config) -> Self {
        let pool = ChaCha20Rng::from_seed(derive(&seed, "ports"));
        let shared = Shared::new(Ports::new(&config.ports, pool));
        config
            .nonce_key
            .get_or_insert_with(|| derive(&seed, "nonces"));
        let binding = BindingServer::new().with_allowance(config.unproven_allowance);
        Self::shard(now, seed, config, binding, ShardIndex::default(), &shared)
    }

    /// One of the machines of a server; the configuration has a key of nonces.
    fn shard(
        now: Instant,
        seed: [u8; 32],
        mut config: Config,
        binding: BindingServer,
        shard: ShardIndex,
        shared: &Shared,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(derive(&seed, "tokens"));
        let nonce_key = config.nonce_key.unwrap_or_else(|| derive(&seed, "nonces"));
        // Nothing that leaves the server comes from the first block.
        rng.next_u64();
        config.policy = with_own(config.policy.clone(), &config);
        Self {
            auth: Authenticator::new(nonce_key, config.nonce_lifetime, config.credentials.clone()),
            binding: binding.with_alternates(config.discovery.clone()),
            config,
            started: now,
            rng,
            shard,
            shared: shared.clone(),
            table: Table::new(shard, shared.clone()),
            connections: Connections::default(),
            departed: BTreeMap::new(),
            deadlines: Deadlines::default(),
            draining: None,
            stats: Stats::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The next message to send to a client.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Server::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// How many allocations there are, of all shards together.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        self.shared.accounts().allocations()
    }

    /// What there is at this shard, and what has been counted here.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// From now on these are the users. Those that have an allocation keep it.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        self.auth.set_credentials(credentials);
    }

    /// Where clients are sent from now on for which there is no room.
    pub const fn set_overflow(&mut self, alternates: Alternates) {
        self.config.overflow = alternates;
    }

    /// From now on these quotas hold. What is had already stays.
    pub const fn set_quotas(&mut self, quotas: Quotas) {
        self.config.quotas = quotas;
    }

    /// From now on this policy holds, also for peers that were allowed before.
    pub fn set_policy(&mut self, now: Instant, policy: PeerPolicy) {
        self.config.policy = with_own(policy, &self.config);
        for id in self.table.ids() {
            self.drop_forbidden(now, id);
        }
    }

    /// Takes no new allocations: clients are sent to another server with 300, or away with
    /// 508 if there is none for their family.
    pub const fn drain(&mut self, alternates: Alternates) {
        self.draining = Some(alternates);
    }

    /// Seconds since 1970.
    fn unix(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started);
        self.config.unix.saturating_add(elapsed).as_secs()
    }

    /// Whether a peer may be reached; for this server's own addresses and ports only those
    /// that are live relayed addresses.
    fn may_reach(&self, transport: RelayTransport, PeerAddr(peer): PeerAddr) -> bool {
        let policy = &self.config.policy;
        match policy.verdict(peer.ip()) {
            PeerVerdict::Allowed if !policy.is_own_endpoint(peer) => true,
            PeerVerdict::Allowed | PeerVerdict::Own => {
                self.shared.of_relayed(transport, peer).is_some()
            }
            PeerVerdict::Denied => false,
        }
    }
}

/// The policy, with what the server is itself. What listens at the address of relays is
/// behind the NAT that forwards to them, too.
fn with_own(policy: PeerPolicy, config: &Config) -> PeerPolicy {
    let endpoints = config.own_endpoints.iter().copied();
    let policy = endpoints.clone().fold(policy, PeerPolicy::own_endpoint);
    let relays = [config.relay_v4, config.relay_v6];
    relays.into_iter().flatten().fold(policy, |policy, relay| {
        let policy = policy.own(relay.bind).own(relay.advertised);
        endpoints
            .clone()
            .filter(|endpoint| endpoint.ip() == relay.bind)
            .map(|endpoint| SocketAddr::new(relay.advertised, endpoint.port()))
            .fold(policy, PeerPolicy::own_endpoint)
    })
}

/// `duration` after `now`; `now` itself at the end of time, which no clock reaches.
fn later(now: Instant, duration: std::time::Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}

/// A seed for one purpose: what is drawn for one tells nothing of the others.
fn derive(seed: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut block = [0; 64];
    block
        .iter_mut()
        .zip(seed)
        .for_each(|(to, from)| *to = *from);
    Hmac::<Sha256>::new(&block.into())
        .chain_update(purpose)
        .finalize()
        .into_bytes()
        .into()
}
