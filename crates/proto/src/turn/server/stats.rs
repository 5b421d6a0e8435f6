//! What an operator wants to know.

use std::collections::BTreeMap;

use postern_wire::stun::Method;

use super::types::{RelayTransport, Transport};

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
    /// Bytes of data passed on to peers.
    pub to_peers: u64,
    /// Bytes of data passed on to clients.
    pub to_clients: u64,
    /// Bytes of data without a live permission, in either direction.
    pub without_permission: u64,
    /// Bytes of data beyond a rate, in either direction.
    pub beyond_rate: u64,
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
            (&mut self.to_peers, other.to_peers),
            (&mut self.to_clients, other.to_clients),
            (&mut self.without_permission, other.without_permission),
            (&mut self.beyond_rate, other.beyond_rate),
            (&mut self.attempts_refused, other.attempts_refused),
        ];
        for (sum, more) in sums {
            *sum = sum.wrapping_add(more);
        }
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

/// Adds bytes to a counter, which may run over as counters do.
pub(super) fn count(counter: &mut u64, bytes: usize) {
    *counter = counter.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
}
