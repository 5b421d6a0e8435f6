//! Connectivity checks that we send, and their responses (RFC 8445 sections 7.2 and 7.2.5).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    AttributeType, Builder, Class, ErrorCode, IceControlled, IceControlling, Message, Method,
    Priority, Punched, TransactionId, UseCandidate, Username, XorMappedAddress,
};

use super::agent::Agent;
use super::candidate::{CandidateKind, unscoped};
use super::config::Role;
use super::credentials::Credentials;
use super::event::Event;
use super::pair::{Pair, PairKey, Valid};
use super::punching::came_from_elsewhere;
use super::tcp::once;
use super::transactions::{Purpose, check_policy, nomination_policy};
use crate::stun::{Request, RetransmitPolicy, random_transaction_id};
use crate::{Datagram, Verdict};

/// The comprehension-required attributes of responses to checks; others make a response
/// unusable (RFC 8489 section 6.3.3).
const KNOWN_IN_RESPONSES: [AttributeType; 3] = [
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
];

impl Agent {
    /// Sends the next check of the check list, if there is one.
    pub(super) fn send_check(&mut self, now: Instant) -> bool {
        if self.peer.is_none() {
            return false;
        }
        let rto = self.rto(self.list.active());
        let Some(pair) = self.list.next() else {
            return false;
        };
        if let Some(pair) = self.list.get_mut(pair) {
            pair.checked_at = Some(now);
        }
        let nominate = self.role == Role::Controlling && self.components.is_pending(pair);
        let policy = if nominate {
            nomination_policy(rto)
        } else {
            check_policy(rto)
        };
        let role = self.role;
        let purpose = Purpose::Check {
            pair,
            role,
            nominate,
        };
        self.counts.checks_sent = self.counts.checks_sent.saturating_add(1);
        self.tally_check(now, pair);
        self.request(now, pair, purpose, policy);
        true
    }

    /// Sends a Binding request to the peer (section 7.2.2).
    pub(super) fn request(
        &mut self,
        now: Instant,
        pair: PairKey,
        purpose: Purpose,
        policy: RetransmitPolicy,
    ) {
        if let Some(peer) = self.peer.clone() {
            let ours = self.credentials.clone();
            self.request_as(now, pair, purpose, policy, (&ours, &peer));
        }
    }

    /// The same in the name of one session or the other: with our credentials and the peer's.
    pub(super) fn request_as(
        &mut self,
        now: Instant,
        pair: PairKey,
        purpose: Purpose,
        policy: RetransmitPolicy,
        credentials: (&Credentials, &Credentials),
    ) {
        let stream = self.tcp.base(pair.local).is_some();
        let policy = if stream { once() } else { policy };
        let id = random_transaction_id(&mut self.rng);
        let nominate = matches!(purpose, Purpose::Check { nominate: true, .. });
        let punched = self.is_peer_of_ours().then(|| Punched {
            guessed: false,
            asymmetric: self.is_heard_elsewhere(pair),
        });
        if let Some(payload) =
            self.check_message_as(id, pair.local, (nominate, punched), credentials)
        {
            let request = Request {
                local: pair.local,
                remote: pair.remote,
                id,
                payload,
                policy,
            };
            self.transactions.start(now, purpose, request);
        }
    }

    pub(super) fn check_message(
        &self,
        id: TransactionId,
        base: SocketAddr,
        punched: Option<Punched>,
    ) -> Option<Vec<u8>> {
        let peer = self.peer.as_ref()?;
        self.check_message_as(id, base, (false, punched), (&self.credentials, peer))
    }

    fn check_message_as(
        &self,
        id: TransactionId,
        base: SocketAddr,
        (nominate, punched): (bool, Option<Punched>),
        (ours, peer): (&Credentials, &Credentials),
    ) -> Option<Vec<u8>> {
        let username = format!("{}:{}", peer.ufrag, ours.ufrag);
        let (controlling, controlled) = match self.role {
            Role::Controlling => (Some(IceControlling(self.tie_breaker)), None),
            Role::Controlled => (None, Some(IceControlled(self.tie_breaker))),
        };
        let priority = self.tcp.check_priority(base);
        let priority = priority.unwrap_or_else(|| self.locals.check_priority(base));
        let message = Builder::new(Class::Request, Method::BINDING, id)
            .attribute(&Username::new(&username).ok()?)
            .attribute(&Priority(priority))
            .maybe_attribute(controlling.as_ref())
            .maybe_attribute(controlled.as_ref())
            .maybe_attribute(nominate.then_some(UseCandidate).as_ref())
            .maybe_attribute(punched.as_ref())
            .message_integrity(peer.pwd.as_bytes())
            .fingerprint();
        Some(message.build())
    }

    /// Any response: ours if we know its transaction.
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> Verdict {
        let id = message.transaction_id();
        let Some(purpose) = self.transactions.purpose(id) else {
            return self.on_probe_response(now, datagram, message);
        };
        let symmetric = purpose.is_symmetric(datagram);
        match purpose {
            Purpose::Gather { base, server } if symmetric => {
                self.transactions.complete(now, id, datagram);
                if self.tcp.base(base).is_some() {
                    self.on_tcp_binding(base, message);
                } else {
                    self.on_binding(now, base, server, message);
                }
            }
            Purpose::Sample {
                base,
                server,
                change: Some(change),
            } => {
                self.transactions.complete(now, id, datagram);
                let came = came_from_elsewhere(datagram.remote, server, change);
                self.on_elsewhere(now, base, came.then_some(true));
            }
            Purpose::Sample { base, .. } if symmetric => {
                self.transactions.complete(now, id, datagram);
                self.on_sampled(now, base, Some(message));
            }
            Purpose::Check { pair, .. }
                if !symmetric && !self.hears_elsewhere(now, pair, datagram, message) =>
            {
                self.on_asymmetric(now, pair, message);
            }
            Purpose::Check { pair, .. } if !symmetric => {
                let datagram = Datagram {
                    remote: pair.remote,
                    ..*datagram
                };
                self.on_peer_response(now, purpose, &datagram, message);
            }
            Purpose::Check { .. } | Purpose::Consent { .. } if symmetric => {
                self.on_peer_response(now, purpose, datagram, message);
            }
            Purpose::Kept { pair } if symmetric => {
                self.on_kept_response(now, pair, datagram, message);
            }
            Purpose::Gather { .. }
            | Purpose::Sample { .. }
            | Purpose::Check { .. }
            | Purpose::Consent { .. }
            | Purpose::Kept { .. } => {}
        }
        Verdict::Consumed
    }

    /// Section 7.2.5.2.1: an authentic response that came another way fails the pair.
    fn on_asymmetric(&mut self, now: Instant, pair: PairKey, message: &Message<'_>) {
        if let Some(Outcome::Success { .. }) = self.read_response(message) {
            self.transactions.forget(message.transaction_id());
            self.on_check_failed(now, pair);
        }
    }

    fn on_peer_response(
        &mut self,
        now: Instant,
        purpose: Purpose,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) {
        let Some(outcome) = self.read_response(message) else {
            tracing::debug!("dropped a response that is not authentic or not understood");
            return;
        };
        let id = message.transaction_id();
        let rtt = self.transactions.complete(now, id, datagram);
        self.note_answer(now, purpose, &outcome, message);
        match purpose {
            Purpose::Check {
                pair,
                role,
                nominate,
            } => match outcome {
                Outcome::Success { mapped } => {
                    self.on_check_success(now, pair, mapped, rtt, nominate);
                }
                Outcome::RoleConflict if self.peer_lite => self.on_refused(now, pair, 487),
                Outcome::RoleConflict => self.on_role_conflict(now, pair, role),
                Outcome::Refused { code } => self.on_refused(now, pair, code),
            },
            Purpose::Consent { pair } => self.on_consent(now, pair, &outcome, rtt),
            Purpose::Gather { .. } | Purpose::Sample { .. } | Purpose::Kept { .. } => {}
        }
    }

    /// What a peer of ours says about a way with its answer.
    fn note_answer(
        &mut self,
        now: Instant,
        purpose: Purpose,
        outcome: &Outcome,
        message: &Message<'_>,
    ) {
        if let (Purpose::Check { pair, .. }, Outcome::Success { .. }) = (purpose, outcome) {
            let punched = message.get::<Punched>().ok().flatten();
            self.note_asymmetric(now, pair, punched);
        }
    }

    /// What an authentic response says. Errors need no MESSAGE-INTEGRITY, because a peer that
    /// cannot authenticate us has no key (RFC 8489 section 9.1.3); a role conflict does.
    pub(super) fn read_response(&self, message: &Message<'_>) -> Option<Outcome> {
        let key = self.peer.as_ref()?.pwd.as_bytes();
        let unknown = message.unknown_comprehension_required(&KNOWN_IN_RESPONSES);
        if message.verify_fingerprint().is_err() || !unknown.is_empty() {
            return None;
        }
        let authentic = message.verify_integrity(key).is_ok();
        if message.class() == Class::Success {
            let XorMappedAddress(mapped) = message.get().ok()??;
            return authentic.then_some(Outcome::Success { mapped });
        }
        let code = message.get::<ErrorCode<'_>>().ok()??.code();
        match code {
            487 => authentic.then_some(Outcome::RoleConflict),
            _ => Some(Outcome::Refused { code }),
        }
    }

    fn on_refused(&mut self, now: Instant, pair: PairKey, code: u16) {
        tracing::debug!(code, "the peer refused a check");
        self.counts.checks_refused = self.counts.checks_refused.saturating_add(1);
        self.on_check_failed(now, pair);
    }

    /// Section 7.2.5.3: the pair is valid.
    pub(super) fn on_check_success(
        &mut self,
        now: Instant,
        key: PairKey,
        mapped: SocketAddr,
        rtt: Option<Duration>,
        nominate: bool,
    ) {
        self.counts.checks_answered = self.counts.checks_answered.saturating_add(1);
        if !nominate && self.list.is_valid(key) {
            return; // the late answer of a cancelled check; a nominating one may be running
        }
        let local_kind = self.tcp.kind_of(key.local, mapped);
        let local_kind = local_kind.unwrap_or_else(|| self.locals.kind_of(key.local, mapped));
        self.note_mapping(key.local, mapped, local_kind);
        self.note_assisted(key, mapped);
        self.transactions.cancel(|p| is_check_of(p, key));
        let asked = self.plain_technique(key);
        self.list.succeed(key);
        let Some(pair) = self.list.get_mut(key) else {
            return;
        };
        let news = pair.valid.is_none();
        pair.valid = Some(Valid { local_kind, rtt });
        if news {
            let path = pair.path();
            self.events.push_back(Event::Valid { path, rtt });
        }
        self.punch_valid(now, key);
        self.tally_success(now, asked, key);
        self.on_valid(now, key, nominate);
    }

    /// The pair is valid: it may be nominated, and it needs consent.
    fn on_valid(&mut self, now: Instant, key: PairKey, nominate: bool) {
        let direct = self.list.get(key).is_some_and(Pair::is_direct);
        let component = self.component(key);
        if let Some(progress) = self.components.get_mut(component) {
            progress.nomination.on_valid(now, direct);
        }
        if self.exploring.has(key.local, key.remote) {
            self.begin_consent(now, key);
        } else if !self.is_settled_on(component) || self.wants_standby(component) && !direct {
            self.begin_consent(now, key);
            self.tidy_up(now);
        }
        let nominated = match self.role {
            Role::Controlling => nominate,
            Role::Controlled => self.list.get(key).is_some_and(|pair| pair.use_candidate),
        };
        if nominated {
            self.select(now, key);
        }
    }

    /// A mapping towards the peer that no STUN server saw, where one was asked: the NAT maps
    /// endpoint-dependently.
    fn note_mapping(&mut self, base: SocketAddr, mapped: SocketAddr, kind: CandidateKind) {
        let other = kind == CandidateKind::PeerReflexive && self.locals.is_mapped(base);
        self.mapping_differs |= other && unscoped(mapped) != unscoped(base);
    }

    /// Section 7.2.5.4: the pair does not work, or not any longer.
    pub(super) fn on_check_failed(&mut self, now: Instant, key: PairKey) {
        self.settle_nomination(key);
        if self.list.is_valid(key) {
            self.on_lost(now, key);
        } else {
            self.list.fail(key);
        }
    }

    /// Drops the checks of a pair that is no more.
    pub(super) fn forget_checks(&mut self, key: PairKey) {
        for _ in 0..2 {
            self.transactions.cancel(|p| is_check_of(p, key));
        }
        self.settle_nomination(key);
    }

    /// A request got no answer.
    pub(super) fn on_expired(&mut self, now: Instant, purpose: Purpose) {
        match purpose {
            Purpose::Check { pair, .. } => self.on_check_failed(now, pair),
            Purpose::Gather { base, server } => self.gather_settled(now, base, server),
            Purpose::Sample {
                base,
                change: Some(_),
                ..
            } => self.on_elsewhere(now, base, Some(false)),
            Purpose::Sample { base, .. } => self.on_sampled(now, base, None),
            Purpose::Consent { .. } | Purpose::Kept { .. } => {}
        }
    }

    /// Section 7.3.1.4: checks a pair next, whatever its state, unless it is known to work.
    ///
    /// A check that was made so a moment ago is left alone: were it replaced by each
    /// incoming check, then with three of them in one round trip no answer would ever come
    /// in time, and the peers would trigger each other for ever. After a while it is taken
    /// to be lost, and the incoming check says that a new one is worth sending before the
    /// next retransmission.
    pub(super) fn trigger(&mut self, now: Instant, key: PairKey) {
        if let Some(pair) = self.list.get(key)
            && pair.valid.is_none()
            && !self.list.is_triggered(now, pair)
        {
            self.transactions.cancel(|p| is_check_of(p, key));
            self.list.trigger(key);
        }
    }
}

/// What a response says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Success { mapped: SocketAddr },
    RoleConflict,
    Refused { code: u16 },
}

fn is_check_of(purpose: &Purpose, key: PairKey) -> bool {
    matches!(purpose, Purpose::Check { pair, .. } if *pair == key)
}
