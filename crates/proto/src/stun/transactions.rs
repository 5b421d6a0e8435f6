use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Class, Message, TransactionId, is_stun};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::{Datagram, Transmit, Verdict};

/// The most requests that may wait for a response at once: an ICE agent with all its
/// pairs in progress stays below, and a caller that loops by mistake does not grow.
pub const MAX_OUTSTANDING: usize = 1024;

/// A transaction id from the owner's generator: 96 bits that an attacker off the path
/// cannot guess (RFC 8489 section 5).
#[must_use]
pub fn random_transaction_id(rng: &mut ChaCha20Rng) -> TransactionId {
    let mut id = [0; 12];
    rng.fill_bytes(&mut id);
    TransactionId(id)
}

/// When a request is sent again and when it is given up (RFC 8489 section 6.2.1).
///
/// With the default values it is sent at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s and given
/// up at 39.5 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetransmitPolicy {
    /// RTO: the wait after the first transmission; it doubles after each. Default 500 ms.
    pub initial_rto: Duration,
    /// Rc: how often the request is sent, at least once. Default 7.
    pub rc: u32,
    /// Rm: how many times `initial_rto` to wait after the last transmission. Default 16.
    pub rm: u32,
}

impl Default for RetransmitPolicy {
    fn default() -> Self {
        Self {
            initial_rto: Duration::from_millis(500),
            rc: 7,
            rm: 16,
        }
    }
}

impl RetransmitPolicy {
    /// How long to wait after transmission number `sent`, counted from 1.
    fn wait_after(&self, sent: u32) -> Duration {
        if sent >= self.rc {
            return self.initial_rto.saturating_mul(self.rm);
        }
        let doublings = sent.saturating_sub(1);
        self.initial_rto
            .saturating_mul(2_u32.saturating_pow(doublings))
    }
}

/// A request to send until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where it is sent from.
    pub local: SocketAddr,
    /// Where it goes, and the only address a response is accepted from.
    pub remote: SocketAddr,
    /// The transaction id that `payload` carries.
    pub id: TransactionId,
    /// The whole message, as [`Builder`](postern_wire::stun::Builder) made it. All
    /// transmissions are identical.
    pub payload: Vec<u8>,
    /// When to send it again.
    pub policy: RetransmitPolicy,
}

/// Why a request was not taken: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// [`MAX_OUTSTANDING`] requests wait for a response.
    #[error("too many STUN requests at once")]
    TooMany,
    /// A request with the same transaction id waits for a response.
    #[error("the STUN transaction id is in use")]
    DuplicateId,
}

/// A response that completed a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Which transaction.
    pub id: TransactionId,
    /// Where the response arrived; ICE compares it with where the request was sent from
    /// (RFC 8445 section 7.2.5.2.1).
    pub local: SocketAddr,
    /// Where it came from: where the request went.
    pub remote: SocketAddr,
    /// The round-trip time, if the request was sent only once: otherwise nobody knows
    /// which transmission was answered.
    pub rtt: Option<Duration>,
    /// The whole message; it parses.
    pub payload: Vec<u8>,
}

/// How a transaction ended. Each ends once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A success response came.
    Success(Response),
    /// An error response came.
    Error(Response),
    /// No response came in time.
    TimedOut {
        /// Which transaction.
        id: TransactionId,
        /// Where the request was sent from.
        local: SocketAddr,
        /// Where it went.
        remote: SocketAddr,
    },
}

/// Client transactions over UDP.
///
/// A response counts if it has the transaction id of a request that waits, and comes from
/// where that request went. Anything else is [`Verdict::NotMine`].
#[derive(Debug, Default)]
pub struct Transactions {
    pending: BTreeMap<TransactionId, Pending>,
    deadlines: BTreeSet<(Instant, TransactionId)>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Pending {
    request: Request,
    first_sent: Instant,
    /// How often it was sent, or would have been had it not been cancelled.
    sent: u32,
    cancelled: bool,
    deadline: Instant,
}

impl Transactions {
    /// No transactions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request, and again as its policy says until it is answered or given up.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if there are too many, or the transaction id is in use.
    pub fn request(&mut self, now: Instant, request: Request) -> Result<(), RequestError> {
        if self.pending.contains_key(&request.id) {
            return Err(RequestError::DuplicateId);
        }
        if self.pending.len() >= MAX_OUTSTANDING {
            return Err(RequestError::TooMany);
        }
        let id = request.id;
        self.transmits.push_back(transmit(&request));
        let deadline = after(now, request.policy.wait_after(1));
        self.deadlines.insert((deadline, id));
        let pending = Pending {
            request,
            first_sent: now,
            sent: 1,
            cancelled: false,
            deadline,
        };
        self.pending.insert(id, pending);
        Ok(())
    }

    /// The response that this datagram is, if it completes a transaction.
    ///
    /// A caller whose requests carry a key verifies the response before it hands the
    /// datagram to [`Self::handle_input`]. One that does not verify is dropped as if it
    /// had never come, and the request goes on (RFC 8489 section 9.1.4).
    #[must_use]
    pub fn response<'a>(&self, datagram: &Datagram<'a>) -> Option<Message<'a>> {
        if !is_stun(datagram.payload) {
            return None;
        }
        let message = Message::parse(datagram.payload).ok()?;
        let pending = self.pending.get(&message.transaction_id())?;
        let answers = matches!(message.class(), Class::Success | Class::Error);
        (answers && pending.request.remote == datagram.remote).then_some(message)
    }

    /// Whether a request with this transaction id waits for a response.
    #[must_use]
    pub fn is_pending(&self, id: TransactionId) -> bool {
        self.pending.contains_key(&id)
    }

    /// How many requests wait for a response.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// Stops sending a request again, but still takes its response, until it would have
    /// been given up (RFC 8445 section 7.3.1.4). Then [`Event::TimedOut`] follows.
    pub fn cancel(&mut self, id: TransactionId) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.cancelled = true;
        }
    }

    /// Drops a transaction: its response is not taken and no event follows.
    pub fn forget(&mut self, id: TransactionId) {
        self.remove(id);
    }

    /// Takes what arrived. [`Verdict::Consumed`] if it completed a transaction.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let Some(message) = self.response(&datagram) else {
            return Verdict::NotMine;
        };
        let (id, class) = (message.transaction_id(), message.class());
        if let Some(pending) = self.remove(id) {
            self.complete(now, class, &pending, datagram);
        }
        Verdict::Consumed
    }

    /// Sends again, or gives up, what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.remove(&(deadline, id));
            self.on_deadline(now, id);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next transaction that ended.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn remove(&mut self, id: TransactionId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        Some(pending)
    }

    fn complete(&mut self, now: Instant, class: Class, pending: &Pending, datagram: Datagram<'_>) {
        let response = Response {
            id: pending.request.id,
            local: datagram.local,
            remote: datagram.remote,
            rtt: pending.rtt(now),
            payload: datagram.payload.to_vec(),
        };
        self.events.push_back(if class == Class::Success {
            Event::Success(response)
        } else {
            Event::Error(response)
        });
    }

    fn on_deadline(&mut self, now: Instant, id: TransactionId) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        if pending.sent >= pending.request.policy.rc {
            self.give_up(id);
            return;
        }
        pending.sent = pending.sent.saturating_add(1);
        pending.deadline = after(now, pending.request.policy.wait_after(pending.sent));
        self.deadlines.insert((pending.deadline, id));
        if !pending.cancelled {
            self.transmits.push_back(transmit(&pending.request));
        }
    }

    fn give_up(&mut self, id: TransactionId) {
        if let Some(Pending { request, .. }) = self.pending.remove(&id) {
            self.events.push_back(Event::TimedOut {
                id,
                local: request.local,
                remote: request.remote,
            });
        }
    }
}

impl Pending {
    fn rtt(&self, now: Instant) -> Option<Duration> {
        (self.sent == 1).then(|| now.saturating_duration_since(self.first_sent))
    }
}

fn transmit(request: &Request) -> Transmit {
    Transmit {
        local: request.local,
        remote: request.remote,
        payload: request.payload.clone(),
    }
}

/// `now` plus a wait; a wait beyond what the clock can express is none.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests;
