//! Requests that wait for their response.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_wire::stun::TransactionId;
use postern_wire::turn::{ChannelNumber, ConnectionId};

use super::auth::Challenge;
use super::config::Transport;
use crate::stun::{self, RetransmitPolicy};
use crate::{Datagram, Transmit};

/// What a request is for. There is at most one for each purpose at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Allocate,
    Refresh,
    /// A Refresh with the mobility ticket, from a new address.
    Move,
    /// A Refresh with lifetime 0.
    Delete,
    Permit(IpAddr),
    Bind(ChannelNumber),
    Connect(SocketAddr),
    BindConnection(ConnectionId),
}

impl Purpose {
    /// When to send it again. Over a stream once, with the time a datagram has in all (RFC 8489
    /// section 6.2.2). Nobody waits long for the end of an allocation, which ends anyway.
    fn policy(self, transport: Transport) -> RetransmitPolicy {
        match (transport, self) {
            (Transport::Stream, Self::Delete) => once(Duration::from_secs(5)),
            (Transport::Stream, _) => once(Duration::from_millis(39_500)),
            (Transport::Datagram, Self::Delete) => RetransmitPolicy {
                rc: 3,
                rm: 4,
                ..RetransmitPolicy::default()
            },
            (Transport::Datagram, _) => RetransmitPolicy::default(),
        }
    }
}

fn once(wait: Duration) -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: wait,
        rc: 1,
        rm: 1,
    }
}

/// A request and how it was made.
#[derive(Debug, Clone)]
pub(super) struct Outstanding {
    pub(super) purpose: Purpose,
    pub(super) local: SocketAddr,
    /// What sealed it.
    pub(super) challenge: Option<Arc<Challenge>>,
    /// How many nonces were stale before this one.
    pub(super) stale: u8,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    stun: stun::Transactions,
    waiting: BTreeMap<TransactionId, Outstanding>,
    busy: BTreeMap<Purpose, TransactionId>,
}

impl Requests {
    pub(super) fn is_busy(&self, purpose: Purpose) -> bool {
        self.busy.contains_key(&purpose)
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        id: TransactionId,
        outstanding: Outstanding,
        (remote, transport): (SocketAddr, Transport),
        payload: Vec<u8>,
    ) {
        let request = stun::Request {
            local: outstanding.local,
            remote,
            id,
            payload,
            policy: outstanding.purpose.policy(transport),
        };
        match self.stun.request(now, request) {
            Ok(()) => {
                self.busy.insert(outstanding.purpose, id);
                self.waiting.insert(id, outstanding);
            }
            // The bounds of permissions, channels and connections are below the limit.
            Err(error) => tracing::debug!(%error, "a request was not sent"),
        }
    }

    /// The request that this response answers.
    pub(super) fn find(&self, datagram: &Datagram<'_>) -> Option<(TransactionId, &Outstanding)> {
        let id = self.stun.response(datagram)?.transaction_id();
        let outstanding = self.waiting.get(&id)?;
        (outstanding.local == datagram.local).then_some((id, outstanding))
    }

    pub(super) fn end(&mut self, id: TransactionId) {
        self.stun.forget(id);
        if let Some(outstanding) = self.waiting.remove(&id) {
            self.busy.remove(&outstanding.purpose);
        }
    }

    pub(super) fn forget(&mut self, purpose: Purpose) {
        if let Some(id) = self.busy.get(&purpose) {
            self.end(*id);
        }
    }

    /// Forgets everything, what has not been sent yet included.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next request that was given up.
    pub(super) fn poll_expired(&mut self) -> Option<Purpose> {
        while let Some(event) = self.stun.poll_event() {
            if let stun::Event::TimedOut { id, .. } = event
                && let Some(outstanding) = self.waiting.remove(&id)
            {
                self.busy.remove(&outstanding.purpose);
                return Some(outstanding.purpose);
            }
        }
        None
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now);
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.stun.poll_transmit()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.stun.poll_timeout()
    }
}
