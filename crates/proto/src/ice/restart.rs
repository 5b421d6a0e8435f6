//! ICE restarts (RFC 8445 section 9): another session of the same two agents, while the paths of the
//! one before carry data until it has a path of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::{Class, Message, XorMappedAddress};

use super::agent::Agent;
use super::candidate::unscoped;
use super::check_list::CheckList;
use super::consent::Consent;
use super::credentials::Credentials;
use super::event::Event;
use super::named::Names;
use super::pair::{Pair, PairKey, Path};
use super::remotes::Remotes;
use super::requests::{Reject, response};
use super::transactions::{Purpose, consent_policy};
use super::upgrade::Upgrade;
use crate::{Datagram, Verdict};

/// What is left of the session before: enough to keep its consent and to answer that of the peer.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) ours: Credentials,
    peer: Credentials,
    selected: BTreeSet<PairKey>,
    pairs: BTreeMap<PairKey, (Pair, Consent)>,
}

impl Kept {
    pub(super) fn has(&self, key: PairKey) -> bool {
        self.pairs.contains_key(&key)
    }

    pub(super) fn consent(&self, key: PairKey) -> Option<&Consent> {
        self.pairs.get(&key).map(|(_, consent)| consent)
    }

    pub(super) fn consent_mut(&mut self, key: PairKey) -> Option<&mut Consent> {
        self.pairs.get_mut(&key).map(|(_, consent)| consent)
    }
}

/// For the user.
impl Agent {
    /// Begins another session with the same peer: new credentials, all candidates told anew, all
    /// STUN servers asked again. Roles stay (RFC 8445 section 6.1.1).
    ///
    /// The paths that have consent keep it, and [`selected`](Self::selected) stays what it is until
    /// the new session selects a path; then the old ones are forgotten, without
    /// [`Event::Lost`]. While one of them works the agent does not fail. A path of both sessions
    /// is told as [`Event::Valid`] and [`Event::Selected`] once more.
    ///
    /// 1. Add the new hosts, [remove](Self::remove_host) those that are gone, call this, and signal
    ///    [`local_credentials`](Self::local_credentials) with each [`Event::LocalCandidate`] that follows.
    /// 2. The peer's answer goes to [`set_remote_credentials`](Self::set_remote_credentials).
    /// 3. Whoever gets new credentials while it [waits for none](Self::awaits_peer) calls this
    ///    first and signals its own as the answer. Two restarts that cross are each other's answers.
    ///
    /// False, and nothing happens, while the peer's credentials are awaited: what is told already is
    /// as good as new, and candidates may still be added.
    pub fn restart(&mut self, now: Instant) -> bool {
        let Some(peer) = self.peer.take() else {
            return false;
        };
        self.keep(peer);
        self.credentials = Credentials::random(&mut self.rng);
        self.remotes = Remotes::default();
        self.names = Names::default();
        self.list = CheckList::new(self.role);
        self.transactions.restart();
        self.early.clear();
        self.consents.clear();
        self.components.restart();
        self.upgrade = Upgrade::default();
        self.mapping_differs = false;
        self.remote_ended = false;
        self.give_up = None;
        self.failed = false;
        let in_use: Vec<_> = self.kept_keys().map(|key| key.local).collect();
        self.restart_start();
        self.restart_punching(now, &in_use);
        self.restart_tcp(now, &in_use);
        self.gather_again(now);
        self.work(now);
        true
    }

    /// Whether the credentials of the peer are still to come: at first, and after a
    /// [restart](Self::restart).
    pub fn awaits_peer(&self) -> bool {
        self.peer.is_none()
    }

    /// Takes a host candidate away whose interface is gone. [`Event::Lost`] comes for each of its
    /// paths that was valid.
    pub fn remove_host(&mut self, now: Instant, address: SocketAddr) {
        self.close_renewed_at(now, address);
        self.remove_base(now, address);
        self.work(now);
    }

    pub(super) fn remove_base(&mut self, now: Instant, address: SocketAddr) {
        self.locals.remove_host(address);
        self.gatherer.forget(address);
        self.end_exploring_from(address);
        self.transactions.cancel(|purpose| match purpose {
            Purpose::Gather { base, .. } => unscoped(*base) == unscoped(address),
            Purpose::Check { .. }
            | Purpose::Consent { .. }
            | Purpose::Kept { .. }
            | Purpose::Sample { .. } => false,
        });
        self.drop_pairs_of(now, address);
    }
}

/// For the agent.
impl Agent {
    /// The valid pairs go on. Where the session had selected none yet, the one before it is
    /// what both sides use.
    fn keep(&mut self, peer: Credentials) {
        let older = self
            .kept
            .as_ref()
            .is_some_and(|kept| !kept.pairs.is_empty());
        if older && self.components.selected().next().is_none() {
            let lost = self
                .list
                .valid()
                .filter(|pair| self.kept_pair(pair.key).is_none());
            let lost: Vec<_> = lost.map(|pair| Event::Lost(pair.path())).collect();
            return self.events.extend(lost);
        }
        let consents = self.consents.iter();
        let pairs = consents.filter_map(|(key, consent)| {
            let pair = self.list.get(*key).filter(|pair| pair.valid.is_some())?;
            Some((*key, (pair.clone(), *consent)))
        });
        self.kept = Some(Kept {
            ours: self.credentials.clone(),
            peer,
            selected: self.components.selected().collect(),
            pairs: pairs.collect(),
        });
    }

    fn kept_keys(&self) -> impl Iterator<Item = PairKey> {
        let kept = self.kept.iter();
        kept.flat_map(|kept| kept.pairs.keys().copied())
    }

    /// A pair of the session before.
    pub(super) fn kept_pair(&self, key: PairKey) -> Option<&Pair> {
        let (pair, _) = self.kept.as_ref()?.pairs.get(&key)?;
        Some(pair)
    }

    /// What data of a component goes over: the selected pair, else that of the session before.
    pub(super) fn in_use(&self, component: u16) -> Option<PairKey> {
        let mut before = self.kept.iter().flat_map(|kept| &kept.selected).copied();
        let selected = self.selected_on(component);
        selected.or_else(|| {
            before.find(|key| {
                self.kept_pair(*key)
                    .is_some_and(|p| p.component == component)
            })
        })
    }

    /// Whether a path of the session before works.
    pub(super) fn has_kept(&self, component: u16) -> bool {
        let mut kept = self.kept.iter().flat_map(|kept| kept.pairs.values());
        kept.any(|(pair, _)| pair.component == component)
    }

    /// The new session has a path of its own.
    pub(super) fn end_kept(&mut self, component: u16) {
        let Some(kept) = &mut self.kept else { return };
        kept.pairs
            .retain(|_, (pair, _)| pair.component != component);
        let pairs = &kept.pairs;
        self.transactions.cancel(
            |purpose| matches!(purpose, Purpose::Kept { pair } if !pairs.contains_key(pair)),
        );
        self.kept = self.kept.take().filter(|kept| !kept.pairs.is_empty());
    }

    /// Sends the consent checks of the session before that are due, and gives up what is silent.
    pub(super) fn run_kept(&mut self, now: Instant) {
        let all = self.kept.iter().flat_map(|kept| &kept.pairs);
        let all: Vec<_> = all.map(|(key, (_, consent))| (*key, *consent)).collect();
        for (key, consent) in all {
            if self.consent_ends(key, &consent) <= now {
                self.lose_kept(now, key);
            } else if consent.next <= now {
                self.renew_kept(now, key);
            }
        }
    }

    pub(super) fn kept_timeout(&self) -> Option<Instant> {
        let all = self.kept.iter().flat_map(|kept| &kept.pairs);
        all.map(|(key, (_, c))| self.consent_ends(*key, c).min(c.next))
            .min()
    }

    fn renew_kept(&mut self, now: Instant, pair: PairKey) {
        let next = self.next_consent(now, pair);
        let Some(kept) = &mut self.kept else { return };
        let Some((_, consent)) = kept.pairs.get_mut(&pair) else {
            return;
        };
        consent.asked(now, next);
        let (ours, peer) = (kept.ours.clone(), kept.peer.clone());
        let policy = consent_policy(self.config.consent_expiry);
        self.request_as(now, pair, Purpose::Kept { pair }, policy, (&ours, &peer));
    }

    /// The answer to such a check.
    pub(super) fn on_kept_response(
        &mut self,
        now: Instant,
        key: PairKey,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) {
        let expires = super::after(now, self.config.consent_expiry);
        let Some(kept) = &mut self.kept else { return };
        let authentic = message.verify_integrity(kept.peer.pwd.as_bytes()).is_ok();
        if message.class() != Class::Success || !authentic {
            return;
        }
        let rtt = self
            .transactions
            .complete(now, message.transaction_id(), datagram);
        if let Some((pair, consent)) = kept.pairs.get_mut(&key) {
            consent.answered(expires);
            if let Some(valid) = &mut pair.valid {
                valid.rtt = rtt;
            }
        }
    }

    /// A check that names the session before: its consent is given, and nothing else comes of it.
    pub(super) fn on_kept_request(
        &mut self,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        peer_ufrag: &str,
    ) -> Verdict {
        let Some(kept) = &self.kept else {
            return Verdict::NotMine;
        };
        let pwd = kept.ours.pwd.clone();
        match self.authenticate_as(datagram, message, peer_ufrag, (&pwd, Some(&kept.peer))) {
            Ok(_) => {
                let mapped = XorMappedAddress(datagram.remote);
                let answer = response(Class::Success, message.transaction_id()).attribute(&mapped);
                let answer = answer.message_integrity(pwd.as_bytes()).fingerprint();
                self.reply(datagram, answer.build());
            }
            Err(Reject::Drop) => {}
            Err(_) => {
                self.counts.checks_rejected = self.counts.checks_rejected.saturating_add(1);
            }
        }
        Verdict::Consumed
    }

    /// The pairs of a base that is no more.
    pub(super) fn drop_kept_of(&mut self, now: Instant, base: SocketAddr) {
        let keys: Vec<_> = self
            .kept_keys()
            .filter(|key| unscoped(key.local) == unscoped(base))
            .collect();
        for key in keys {
            self.lose_kept(now, key);
        }
    }

    /// A path of the session before is silent. With the last one patience begins anew, and all
    /// pairs of the new session are checked again.
    fn lose_kept(&mut self, now: Instant, key: PairKey) {
        let Some(kept) = &mut self.kept else { return };
        let Some((pair, _)) = kept.pairs.remove(&key) else {
            return;
        };
        kept.selected.remove(&key);
        if !self.list.is_valid(key) {
            self.events.push_back(Event::Lost(pair.path()));
        }
        if !self.has_valid(pair.component) {
            self.start_over(now, pair.component);
        }
    }

    /// A path of the session before, as it is told.
    pub(super) fn kept_path(&self, key: PairKey) -> Option<Path> {
        self.kept_pair(key).map(Pair::path)
    }
}
