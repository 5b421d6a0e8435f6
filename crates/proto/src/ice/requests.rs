//! Checks that arrive (RFC 8445 section 7.3).

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::{
    AttributeType, BeforeFingerprint, Builder, Class, ErrorCode, IceControlled, IceControlling,
    IntegrityError, Message, Method, Open, Priority, Punched, TransactionId, UnknownAttributes,
    Username, XorMappedAddress,
};

use super::agent::Agent;
use super::candidate::{CandidateKind, MAX_PRIORITY};
use super::config::{MAX_EARLY_CHECKS, Role};
use super::credentials::Credentials;
use super::event::Event;
use super::pair::{PairKey, Path};
use crate::{Datagram, Transmit, Verdict};

/// The comprehension-required attributes of checks; others are refused with 420.
const KNOWN_IN_REQUESTS: [AttributeType; 3] = [
    AttributeType::USERNAME,
    AttributeType::PRIORITY,
    AttributeType::USE_CANDIDATE,
];

/// An authenticated check.
#[derive(Debug, Clone)]
pub(super) struct Check {
    /// Our base and the address the check came from.
    pair: PairKey,
    peer_ufrag: String,
    priority: u32,
    use_candidate: bool,
    /// What a peer of ours says about its way.
    punched: Option<Punched>,
}

/// Why a check is not carried out.
#[derive(Debug)]
pub(super) enum Reject {
    /// 400: a mandatory attribute is missing or malformed.
    Malformed,
    /// 401: the credentials are wrong.
    Unauthenticated,
    /// 420: there is something that we do not understand but should.
    Unknown(UnknownAttributes),
    /// 487: the peer is to change its role.
    RoleConflict,
    /// No answer: not a check, or not to an address of ours.
    Drop,
}

impl Agent {
    /// A Binding request: ours if its USERNAME begins with our user fragment.
    pub(super) fn on_request(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> Verdict {
        let Some((ours, peer_ufrag)) = ufrags(message) else {
            return Verdict::NotMine;
        };
        if self
            .kept
            .as_ref()
            .is_some_and(|kept| kept.ours.ufrag == ours)
        {
            return self.on_kept_request(datagram, message, peer_ufrag);
        }
        if ours != self.credentials.ufrag {
            return Verdict::NotMine;
        }
        match self.authenticate(datagram, message, peer_ufrag) {
            Ok(check) => match self.settle_roles(message) {
                Ok(()) => self.on_check(now, datagram, message, check),
                Err(reject) => self.reject(datagram, message, &reject),
            },
            Err(reject) => {
                self.counts.checks_rejected = self.counts.checks_rejected.saturating_add(1);
                self.reject(datagram, message, &reject);
            }
        }
        Verdict::Consumed
    }

    /// RFC 8489 section 9.1.3, RFC 8445 section 7.3. Nothing has changed before this is done.
    fn authenticate(
        &self,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        peer_ufrag: &str,
    ) -> Result<Check, Reject> {
        let session = (self.credentials.pwd.as_str(), self.peer.as_ref());
        self.authenticate_as(datagram, message, peer_ufrag, session)
    }

    /// The same for one session or the other: our password, and the peer's credentials if they are known.
    pub(super) fn authenticate_as(
        &self,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        peer_ufrag: &str,
        (pwd, peer): (&str, Option<&Credentials>),
    ) -> Result<Check, Reject> {
        let base = self.base(datagram.local).ok_or(Reject::Drop)?;
        message.verify_fingerprint().map_err(|_| Reject::Drop)?;
        message
            .verify_integrity(pwd.as_bytes())
            .map_err(|error| match error {
                IntegrityError::Missing | IntegrityError::Malformed => Reject::Malformed,
                IntegrityError::Mismatch => Reject::Unauthenticated,
            })?;
        if peer.is_some_and(|peer| peer.ufrag != peer_ufrag) {
            return Err(Reject::Unauthenticated);
        }
        let unknown = message.unknown_comprehension_required(&KNOWN_IN_REQUESTS);
        if !unknown.is_empty() {
            return Err(Reject::Unknown(unknown));
        }
        let priority = message.get::<Priority>().ok().flatten();
        Ok(Check {
            pair: PairKey::new(base.address, datagram.remote),
            peer_ufrag: peer_ufrag.to_owned(),
            priority: priority.ok_or(Reject::Malformed)?.0.min(MAX_PRIORITY),
            use_candidate: message.contains(AttributeType::USE_CANDIDATE),
            punched: message.get::<Punched>().ok().flatten(),
        })
    }

    /// Section 7.3.1.1: when both sides have the same role, the larger tie-breaker controls.
    fn settle_roles(&mut self, message: &Message<'_>) -> Result<(), Reject> {
        let theirs = match self.role {
            Role::Controlling => message.get::<IceControlling>().map(|a| a.map(|a| a.0)),
            Role::Controlled => message.get::<IceControlled>().map(|a| a.map(|a| a.0)),
        };
        let Some(theirs) = theirs.map_err(|_| Reject::Malformed)? else {
            return Ok(());
        };
        let we_control = self.tie_breaker >= theirs;
        if we_control == (self.role == Role::Controlling) {
            return Err(Reject::RoleConflict);
        }
        self.set_role(self.role.other());
        Ok(())
    }

    fn on_check(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        check: Check,
    ) {
        self.counts.checks_received = self.counts.checks_received.saturating_add(1);
        self.tcp.prove(check.pair.local);
        let remote = check.pair.remote;
        // A check may have been written before the peer knew what our NAT does, and be repeated since.
        let is_ours = check.punched.is_some() || self.is_peer_of_ours();
        let answer = is_ours.then(|| Punched {
            guessed: self.locals.is_socket(check.pair.local),
            asymmetric: self.is_heard_elsewhere(check.pair),
        });
        if self.peer.is_none() {
            self.remember(check);
        } else if !self.accept(now, &check) {
            // An answer would make a pair valid for the peer that is none for us, and the peer might
            // nominate it.
            tracing::debug!(%remote, "a check from one address too many");
            return;
        }
        let mapped = XorMappedAddress(datagram.remote);
        let response = response(Class::Success, message.transaction_id())
            .attribute(&mapped)
            .maybe_attribute(answer.as_ref());
        self.reply(datagram, self.signed(response));
    }

    fn reject(&mut self, datagram: &Datagram<'_>, message: &Message<'_>, reject: &Reject) {
        tracing::debug!(?reject, "refused a check");
        let refuse =
            |code: ErrorCode<'_>| response(Class::Error, message.transaction_id()).attribute(&code);
        let payload = match reject {
            Reject::Malformed => unsigned(refuse(ErrorCode::BAD_REQUEST)),
            Reject::Unauthenticated => unsigned(refuse(ErrorCode::UNAUTHENTICATED)),
            Reject::Unknown(unknown) => {
                self.signed(refuse(ErrorCode::UNKNOWN_ATTRIBUTE).attribute(unknown))
            }
            Reject::RoleConflict => self.signed(refuse(ErrorCode::ROLE_CONFLICT)),
            Reject::Drop => return,
        };
        self.reply(datagram, payload);
    }

    fn signed(&self, response: Builder<Open>) -> Vec<u8> {
        unsigned(response.message_integrity(self.credentials.pwd.as_bytes()))
    }

    /// Responses leave from where the request arrived.
    pub(super) fn reply(&mut self, datagram: &Datagram<'_>, payload: Vec<u8>) {
        self.replies.push_back(Transmit {
            local: datagram.local,
            remote: datagram.remote,
            payload,
        });
    }

    /// Keeps a check until the remote credentials are known (section 7.3): one a pair, and the
    /// first [`MAX_EARLY_CHECKS`].
    fn remember(&mut self, check: Check) {
        let same = |early: &&mut Check| early.pair == check.pair;
        if let Some(early) = self.early.iter_mut().find(same) {
            early.use_candidate |= check.use_candidate;
        } else if self.early.len() < MAX_EARLY_CHECKS {
            self.events
                .push_back(Event::PeerSeen(self.early_path(&check)));
            self.early.push(check);
        }
    }

    fn early_path(&self, check: &Check) -> Path {
        let remote = self.remote(check.pair.local, check.pair.remote);
        Path {
            local: check.pair.local,
            remote: check.pair.remote,
            local_kind: CandidateKind::Host,
            remote_kind: remote.map_or(CandidateKind::PeerReflexive, |remote| remote.kind),
        }
    }

    /// Carries out the checks that came before the remote credentials.
    pub(super) fn accept_early(&mut self, now: Instant) {
        for check in std::mem::take(&mut self.early) {
            let peer = self.peer.as_ref();
            if peer.is_some_and(|peer| peer.ufrag == check.peer_ufrag) {
                self.accept_quietly(now, &check);
            }
        }
    }

    /// Sections 7.3.1.3 to 7.3.1.5, and the user is told of a path that is seen first. False if there is
    /// no room for the pair.
    fn accept(&mut self, now: Instant, check: &Check) -> bool {
        let seen = self.list.get(check.pair).is_some_and(|pair| pair.seen);
        if !seen && self.takes_news(now) && self.may_be_news(check.pair) {
            self.on_new_remote(now, check.pair.remote);
        }
        if !self.accept_quietly(now, check) {
            return false;
        }
        if !seen && let Some(pair) = self.list.get(check.pair) {
            self.events.push_back(Event::PeerSeen(pair.path()));
            self.suspect(now, check.pair);
        }
        true
    }

    fn accept_quietly(&mut self, now: Instant, check: &Check) -> bool {
        if !self.learn_pair(check) {
            return false;
        }
        self.peer_began();
        self.note_guess(check.pair, check.punched.is_some_and(|p| p.guessed));
        self.note_asymmetric(now, check.pair, check.punched);
        let controlled = self.role == Role::Controlled;
        let known = self.list.get(check.pair);
        let relayed = known.is_some_and(super::pair::Pair::is_relayed);
        let component = self.component(check.pair);
        let Some(pair) = self.list.get_mut(check.pair) else {
            return false;
        };
        pair.seen = true;
        pair.use_candidate = controlled && (pair.use_candidate || check.use_candidate);
        match (pair.use_candidate, pair.valid.is_some()) {
            (true, true) => self.select(now, check.pair),
            (false, false)
                if self.is_settled_on(component)
                    && !self.exploring.has(check.pair.local, check.pair.remote)
                    && !(relayed && self.wants_standby(component)) => {}
            (false, true) => {}
            (_, false) => self.trigger(now, check.pair),
        }
        true
    }

    /// Section 7.3.1.3: an unknown source is a peer-reflexive candidate.
    fn learn_pair(&mut self, check: &Check) -> bool {
        let PairKey { local, remote } = check.pair;
        if self.has_begun() && self.remotes.find(remote).is_none() {
            self.make_room_for_news();
        }
        let loopback = self.config.allow_loopback;
        let learnt = if self.tcp.base(local).is_some() {
            self.tcp.learn(remote, check.priority, loopback)
        } else {
            let component = self.base(local).map_or(1, |base| base.component);
            let priority = check.priority;
            self.remotes.learn(remote, component, priority, loopback)
        };
        let (Some(base), Some(remote)) = (self.base(local), self.remote(local, remote)) else {
            return false;
        };
        let pair = (base.clone(), remote.clone());
        learnt && self.list.add_seen(&pair.0, &pair.1)
    }
}

/// The user fragments in a USERNAME: that of whom it is sent to, and the sender's.
fn ufrags<'a>(message: &Message<'a>) -> Option<(&'a str, &'a str)> {
    let username = message.get::<Username<'_>>().ok()??;
    username.as_str().split_once(':')
}

pub(super) fn response(class: Class, id: TransactionId) -> Builder<Open> {
    Builder::new(class, Method::BINDING, id)
}

fn unsigned<S: BeforeFingerprint>(response: Builder<S>) -> Vec<u8> {
    response.fingerprint().build()
}

/// The source of a datagram, as the key of a pair has it.
pub(super) fn pair_of(base: SocketAddr, datagram: &Datagram<'_>) -> PairKey {
    PairKey::new(base, datagram.remote)
}
