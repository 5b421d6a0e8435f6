//! Allocations at TURN servers: addresses of this side that always work.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::signal::{RelayServer, turn_address};
use postern_wire::turn::ChannelNumber;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::turn::client::{self, Client, Credentials};
use crate::{Datagram, Transmit, Verdict};

/// Relays that one attempt uses at a time: one per address family.
const MAX_RELAYS: usize = 2;

/// What happened at a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// This side can be reached at the relayed address.
    Allocated(Relay),
    /// What the relay sent in the channel comes from the peer, and the other way round.
    Bound {
        relayed: SocketAddr,
        peer: SocketAddr,
        channel: ChannelNumber,
    },
    /// The channel is no more.
    Unbound {
        relayed: SocketAddr,
        peer: SocketAddr,
    },
    /// A peer sent this without a channel.
    Data {
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    },
    /// The relayed address is gone.
    Ended { relayed: SocketAddr },
}

/// A relayed transport address, and how it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relay {
    /// The address of this machine that talks to the server.
    pub base: SocketAddr,
    /// The TURN server.
    pub server: SocketAddr,
    /// The address at which peers reach this side.
    pub relayed: SocketAddr,
}

#[derive(Debug)]
struct Allocation {
    client: Client,
    base: SocketAddr,
    server: SocketAddr,
    relayed: Option<SocketAddr>,
}

/// The allocations of one attempt.
#[derive(Debug, Default)]
pub(super) struct Relays {
    allocations: Vec<Allocation>,
    offered: bool,
    transmits: VecDeque<Transmit>,
}

impl Relays {
    /// Asks each server for an allocation, one for each address family, from a host address
    /// of that family.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        rng: &mut ChaCha20Rng,
        hosts: &[SocketAddr],
        servers: &[RelayServer],
    ) {
        self.offered |= !servers.is_empty();
        for server in servers {
            let Some(address) = turn_address(&server.uri) else {
                continue;
            };
            let known = |a: &Allocation| a.server.is_ipv4() == address.is_ipv4();
            let base = hosts.iter().find(|host| fits(**host, address));
            let credentials = Credentials::new(&server.username, &server.password);
            let (Some(&base), Ok(credentials)) = (base, credentials) else {
                continue;
            };
            if self.allocations.len() < MAX_RELAYS && !self.allocations.iter().any(known) {
                self.allocate(now, rng, base, address, credentials);
            }
        }
    }

    fn allocate(
        &mut self,
        now: Instant,
        rng: &mut ChaCha20Rng,
        base: SocketAddr,
        server: SocketAddr,
        credentials: Credentials,
    ) {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let config = client::Config::new(base, server, Some(credentials));
        self.allocations.push(Allocation {
            client: Client::new(now, seed, config),
            base,
            server,
            relayed: None,
        });
    }

    /// Whether the server offered any.
    pub(super) fn were_offered(&self) -> bool {
        self.offered
    }

    /// Whether an answer of a server is still awaited.
    pub(super) fn is_gathering(&self) -> bool {
        self.allocations
            .iter()
            .any(|allocation| allocation.relayed.is_none())
    }

    pub(super) fn has(&self, relayed: SocketAddr) -> bool {
        self.allocations.iter().any(|a| a.relayed == Some(relayed))
    }

    pub(super) fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        for allocation in &mut self.allocations {
            let verdict = allocation.client.handle_input(now, datagram);
            if verdict != Verdict::NotMine {
                return verdict;
            }
        }
        Verdict::NotMine
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for allocation in &mut self.allocations {
            allocation.client.handle_timeout(now);
        }
    }

    /// Sends to a peer from a relayed address.
    pub(super) fn send(
        &mut self,
        now: Instant,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
    ) {
        let allocation = self
            .allocations
            .iter_mut()
            .find(|a| a.relayed == Some(relayed));
        let Some(allocation) = allocation else { return };
        match allocation.client.send(now, peer, payload) {
            Ok(transmit) => self.transmits.extend(transmit),
            Err(error) => tracing::debug!(%error, "a datagram for the relay was dropped"),
        }
    }

    /// Keeps the channel of a peer, whose datagrams do not pass through here.
    pub(super) fn keep(&mut self, now: Instant, relayed: SocketAddr, peer: SocketAddr) {
        let allocation = self
            .allocations
            .iter_mut()
            .find(|a| a.relayed == Some(relayed));
        if let Some(allocation) = allocation {
            let _ = allocation.client.channel_of(now, peer);
        }
    }

    /// Gives the allocations back.
    pub(super) fn close(&mut self, now: Instant) {
        for allocation in &mut self.allocations {
            allocation.client.close(now);
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        let mut clients = self.allocations.iter_mut();
        let from_client = clients.find_map(|allocation| allocation.client.poll_transmit());
        from_client.or_else(|| self.transmits.pop_front())
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let mut allocations = self.allocations.iter_mut();
        let event = allocations.find_map(Allocation::poll_event);
        if let Some(Event::Ended { relayed }) = event {
            self.allocations.retain(|a| a.relayed != Some(relayed));
        }
        event
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = self
            .allocations
            .iter()
            .filter_map(|a| a.client.poll_timeout());
        timeouts.min()
    }
}

impl Allocation {
    /// The next event that concerns the attempt; others are passed over.
    fn poll_event(&mut self) -> Option<Event> {
        while let Some(event) = self.client.poll_event() {
            let event = self.translate(event);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn translate(&mut self, event: client::Event) -> Option<Event> {
        if let client::Event::Allocated(allocation) = event {
            self.relayed = Some(allocation.relayed);
            return Some(Event::Allocated(Relay {
                base: self.base,
                server: self.server,
                relayed: allocation.relayed,
            }));
        }
        if let client::Event::Failed(failure) = &event {
            tracing::debug!(%failure, server = %self.server, "the relay is of no use");
        }
        let relayed = self.relayed?;
        match event {
            client::Event::Data { peer, payload } => Some(Event::Data {
                relayed,
                peer,
                payload,
            }),
            client::Event::ChannelBound { peer, channel } => Some(Event::Bound {
                relayed,
                peer,
                channel,
            }),
            client::Event::ChannelEnded { peer, .. } => Some(Event::Unbound { relayed, peer }),
            client::Event::Failed(_) | client::Event::Closed => Some(Event::Ended { relayed }),
            client::Event::Allocated(_)
            | client::Event::Moved
            | client::Event::Redirected { .. }
            | client::Event::Icmp { .. }
            | client::Event::Permitted(_)
            | client::Event::PeerRefused { .. }
            | client::Event::Connected { .. }
            | client::Event::ConnectionAttempt { .. }
            | client::Event::ConnectionBound { .. }
            | client::Event::ConnectionFailed { .. } => None,
        }
    }
}

/// Whether a socket at `host` can talk to `server`.
fn fits(host: SocketAddr, server: SocketAddr) -> bool {
    host.is_ipv4() == server.is_ipv4() && host.ip().is_loopback() == server.ip().is_loopback()
}
