//! What an operator wants to know.

use std::collections::BTreeMap;

use postern_wire::stun::Method;

use super::types::{Load, RelayTransport, Transport};

/// What there is, and what has been counted since the server was made.
///
/// It grows with the number of methods and error codes, not with what clients do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Allocations now, by the transport of the client and that of the relay.
    pub allocations: BTreeMap<(Transport, RelayTransport), u32>,
    /// Connections with peers now (RFC 6062).
    pub connections: u32,
    /// Binding requests and indications (STUN), answered or not.
    pub bindings: u64,
    /// Answers, by the method of the request and the error code, 0 for success. Those to
    /// strangers that their network had not earned, and that were not sent, count too.
    pub answers: BTreeMap<(Method, u16), u64>,
    /// Data passed on to peers, and not yet sent: the network may lose it.
    pub to_peers: Traffic,
    /// Data passed on to clients.
    pub to_clients: Traffic,
    /// Data without a live permission, in either direction.
    pub without_permission: Traffic,
    /// Data beyond a rate, in either direction.
    pub beyond_rate: Traffic,
    /// Bytes passed on to peers on connections (RFC 6062).
    pub carried_to_peers: u64,
    /// Bytes passed on to clients on connections.
    pub carried_to_clients: u64,
    /// Peers that connected to a TCP relay and were turned away.
    pub attempts_refused: u64,
}

impl Stats {
    /// Adds what another server has counted: each shard has one.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.allocations {
            let sum = self.allocations.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        for (kind, count) in &other.answers {
            let sum = self.answers.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.connections = self.connections.saturating_add(other.connections);
        let sums = [
            (&mut self.bindings, other.bindings),
            (&mut self.carried_to_peers, other.carried_to_peers),
            (&mut self.carried_to_clients, other.carried_to_clients),
            (&mut self.attempts_refused, other.attempts_refused),
        ];
        for (sum, more) in sums {
            *sum = sum.wrapping_add(more);
        }
        self.to_peers.add(other.to_peers);
        self.to_clients.add(other.to_clients);
        self.without_permission.add(other.without_permission);
        self.beyond_rate.add(other.beyond_rate);
    }

    /// How many allocations there are.
    #[must_use]
    pub fn allocation_count(&self) -> u32 {
        self.allocations
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(super) fn allocated(&mut self, client: Transport, relay: RelayTransport) {
        let count = self.allocations.entry((client, relay)).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn ended(&mut self, client: Transport, relay: RelayTransport) {
        let count = self.allocations.entry((client, relay)).or_default();
        *count = count.saturating_sub(1);
    }

    pub(super) fn answered(&mut self, method: Method, code: u16) {
        let count = self.answers.entry((method, code)).or_default();
        *count = count.wrapping_add(1);
    }
}

/// Datagrams of data. The counters may run over as counters do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub packets: u64,
    /// The bytes of data in them.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, load: Load) {
        let wide = |count| u64::try_from(count).unwrap_or(u64::MAX);
        self.add(Self {
            packets: wide(load.packets),
            bytes: wide(load.bytes),
        });
    }

    const fn add(&mut self, more: Self) {
        self.packets = self.packets.wrapping_add(more.packets);
        self.bytes = self.bytes.wrapping_add(more.bytes);
    }
}
