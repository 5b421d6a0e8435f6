//! The bounds of a server.

use std::time::Duration;

use crate::signal::limits::Rate;

/// Settings of [`Mailboxes`](super::Mailboxes). A source is an IPv4 address or an IPv6 network of 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxesConfig {
    /// STUN servers that clients are told, as `stun:ip:port`. Default none.
    pub stun: Vec<String>,
    /// How long a mailbox waits for a joiner. Default 30 minutes.
    pub join_timeout: Duration,
    /// How long a mailbox may exist. Default 1 hour.
    pub lifetime: Duration,
    /// How long a client may say nothing. Default 60 s, three pings of a client.
    pub idle_timeout: Duration,
    /// How long a number is not used again. Default 60 s: who mistypes a digit late does
    /// not spoil somebody else's code.
    pub rest: Duration,
    /// Most clients. Default 16,384.
    pub max_clients: usize,
    /// Most clients of a source. Default 64: an office behind one address.
    pub max_clients_per_source: u32,
    /// Most mailboxes, those whose numbers rest included. Default 16,384.
    pub max_mailboxes: usize,
    /// Most mailboxes made by clients of one source. Default 32.
    pub max_mailboxes_per_source: u32,
    /// Connections of a source. Default 120 a minute.
    pub connections: Rate,
    /// Mailboxes made by a source. Default 30 a minute.
    pub allocations: Rate,
    /// Joins of a source, failed ones included: each could be a guess. Default 30 a
    /// minute.
    pub joins: Rate,
    /// Messages of a source. Default 6,000 a minute.
    pub messages: Rate,
    /// Most messages that pass through one mailbox. Default 1,024.
    pub max_relayed: u32,
    /// Most bytes that pass through one mailbox: it introduces, it does not relay files.
    /// Default 1 MiB.
    pub max_relayed_bytes: usize,
}

impl Default for MailboxesConfig {
    fn default() -> Self {
        Self {
            stun: Vec::new(),
            join_timeout: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(60),
            rest: Duration::from_secs(60),
            max_clients: 16_384,
            max_clients_per_source: 64,
            max_mailboxes: 16_384,
            max_mailboxes_per_source: 32,
            connections: Rate::per_minute(120),
            allocations: Rate::per_minute(30),
            joins: Rate::per_minute(30),
            messages: Rate::per_minute(6_000),
            max_relayed: 1_024,
            max_relayed_bytes: 1024 * 1024,
        }
    }
}

impl MailboxesConfig {
    /// When every meter of a source is surely full again.
    pub(super) fn longest_period(&self) -> Duration {
        [
            self.connections,
            self.allocations,
            self.joins,
            self.messages,
        ]
        .map(|rate| rate.per)
        .into_iter()
        .max()
        .unwrap_or_default()
    }
}
