//! What came of each way to a relay, for whoever has to explain it.

use std::collections::BTreeMap;

use super::relays::RelayTransport;
use crate::turn::client;

/// What came of a way to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No connection to the server could be made.
    Unreachable,
    /// The server did not answer.
    Silent,
    /// The server said no.
    Refused,
    /// The connection to the server ended.
    Lost,
    /// The server gave a relayed address, but nothing came through it.
    Allocated,
}

impl Trouble {
    pub(super) fn of(failure: client::Failure) -> Self {
        if failure == client::Failure::TimedOut {
            Self::Silent
        } else {
            Self::Refused
        }
    }
}

/// What came of each transport that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tried(BTreeMap<RelayTransport, Trouble>);

impl Tried {
    /// Notes what came of a transport; of several servers the one that came furthest counts.
    pub(super) fn note(&mut self, transport: RelayTransport, trouble: Trouble) {
        let known = self.0.entry(transport).or_insert(trouble);
        *known = trouble.max(*known);
    }

    /// Each transport that was tried, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = (RelayTransport, Trouble)> {
        self.0
            .iter()
            .map(|(transport, trouble)| (*transport, *trouble))
    }
}

impl FromIterator<(RelayTransport, Trouble)> for Tried {
    fn from_iter<I: IntoIterator<Item = (RelayTransport, Trouble)>>(outcomes: I) -> Self {
        let mut tried = Self::default();
        for (transport, trouble) in outcomes {
            tried.note(transport, trouble);
        }
        tried
    }
}
