//! Paths with a port for each direction.
//!
//! Where both NATs give each remote endpoint a mapping of its own and answer strangers from
//! another port than the one that was hit, no pair is symmetric: what is sent to port q of the peer's
//! arrives, and the answer comes from port n. RFC 8445 section 7.2.5.2.1 fails such a check. Two
//! agents of ours keep the pair instead: this one goes on sending to q, which *worked*, and takes what
//! comes from n as if it came from q, so that checks, consent, nomination and data know one stable
//! address. Seen from the peer the path is an ordinary one, because our answers go to q as well and
//! thus leave from the port that it sends to.
//!
//! **What moves a path.** Only a response that is signed with the peer's password, bears the random
//! transaction id of a check of ours, says that the peer is of our make, and comes from the very IP
//! address that the check went to makes n count as q: once for each n, for a few in all. Whoever copies
//! a packet, or sends from a neighbouring port, changes nothing about where we send: that is always an
//! address which we have checked ourselves. What comes from n is still verified by STUN and QUIC.
//!
//! The mapping at q was opened by something that the peer once sent elsewhere, which it does not send
//! any more. So we say that the pair is asymmetric, and the peer repeats those datagrams, empty,
//! as long as the path lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, Punched};

use super::after;
use super::agent::Agent;
use super::candidate::unscoped;
use super::checks::Outcome;
use super::event::Event;
use super::pair::{Pair, PairKey};
use crate::punch::Technique;
use crate::stun::random_transaction_id;
use crate::{Datagram, Transmit};

/// Sources that count as another address: of a path or two, and some more while one is looked for.
const MAX_HEARD: usize = 16;
/// Remote endpoints by which the mappings of one socket are kept alive: an attempt has it
/// probe six ports, a main socket has asked a few servers and checked a few candidates.
const MAX_OPENED: usize = 16;
/// Between two datagrams to each of these: mappings in which only one side speaks live 30 s in
/// many routers, and one of three may be lost.
const REFRESH: Duration = Duration::from_secs(10);

/// What is known of such paths.
#[derive(Debug, Default)]
pub(super) struct Asymmetric {
    /// What arrives at a base from an address, and the address that it counts as.
    heard: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Where each socket that was opened to punch has sent.
    opened: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    /// Pairs to whose other end we are heard at a mapping that nothing else keeps alive.
    kept: BTreeMap<PairKey, Kept>,
}

#[derive(Debug)]
struct Kept {
    opened: Vec<SocketAddr>,
    next: Instant,
}

/// For the agent.
impl Agent {
    /// The datagram as it counts.
    pub(super) fn straightened<'a>(&self, datagram: Datagram<'a>) -> Datagram<'a> {
        let way = (unscoped(datagram.local), datagram.remote);
        let remote = self.asymmetric.heard.get(&way);
        Datagram {
            remote: remote.copied().unwrap_or(datagram.remote),
            ..datagram
        }
    }

    /// Whether we send on a pair to one port and hear from another.
    pub(super) fn is_heard_elsewhere(&self, key: PairKey) -> bool {
        let mut heard = self.asymmetric.heard.iter();
        heard.any(|((local, _), remote)| *local == unscoped(key.local) && *remote == key.remote)
    }

    /// A response to a check of a pair has come from another port. From here on that counts as the
    /// pair's, if this is the way of the two NATs.
    pub(super) fn hears_elsewhere(
        &mut self,
        now: Instant,
        key: PairKey,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> bool {
        let (local, source) = (unscoped(datagram.local), unscoped(datagram.remote));
        let success = matches!(self.read_response(message), Some(Outcome::Success { .. }));
        let understood = matches!(message.get::<Punched>(), Ok(Some(_)));
        let same_host = local == unscoped(key.local) && source.ip() == key.remote.ip();
        if !(success && understood && same_host && self.may_be_asymmetric(key, source)) {
            return false;
        }
        self.forget_unheard();
        if self.asymmetric.heard.len() >= MAX_HEARD {
            return false;
        }
        self.asymmetric.heard.insert((local, source), key.remote);
        self.call_asymmetric(now, key);
        self.events.push_back(Event::Heard {
            local: key.local,
            remote: key.remote,
            source,
        });
        true
    }

    /// Both NATs have to give each endpoint a mapping of its own: if ours does not, sending to
    /// where the answer came from is as good, and symmetric.
    fn may_be_asymmetric(&self, key: PairKey, source: SocketAddr) -> bool {
        let known = PairKey::new(key.local, source);
        let relayed = self.list.get(key).is_some_and(Pair::is_relayed);
        let wanted = !self.config.disabled.contains(Technique::Asymmetric);
        let free = self.list.get(known).is_none() && self.kept_pair(known).is_none();
        wanted && free && !relayed && source.is_ipv4() && self.maps_by_port()
    }

    /// The peer says of a pair that it hears us from another port than it sends to.
    pub(super) fn note_asymmetric(&mut self, now: Instant, key: PairKey, punched: Option<Punched>) {
        let says = punched.is_some_and(|punched| punched.asymmetric) && self.is_peer_of_ours();
        if !says || self.asymmetric.kept.contains_key(&key) || self.list.get(key).is_none() {
            return;
        }
        self.forget_unheard();
        if self.asymmetric.kept.len() < MAX_HEARD {
            self.call_asymmetric(now, key);
            let opened = self.opened_from(key);
            let next = after(now, REFRESH);
            self.asymmetric.kept.insert(key, Kept { opened, next });
        }
    }

    /// A socket of an attempt sends.
    pub(super) fn note_opened(&mut self, way: PairKey) {
        if self.locals.is_socket(way.local) {
            let opened = self.asymmetric.opened.entry(unscoped(way.local));
            let opened = opened.or_default();
            if opened.len() < MAX_OPENED && !opened.contains(&way.remote) {
                opened.push(way.remote);
            }
        }
    }

    /// Where else a pair's base has sent: one of these has opened the mapping at which we are heard.
    fn opened_from(&self, key: PairKey) -> Vec<SocketAddr> {
        let by_socket = self.asymmetric.opened.get(&unscoped(key.local));
        let by_socket = by_socket.into_iter().flatten().copied();
        let servers = self.gatherer.asked_from(key.local);
        let checked = self.list.iter().filter(|pair| {
            pair.key.local == key.local && pair.is_direct() && pair.checked_at.is_some()
        });
        let checked = checked.map(|pair| pair.key.remote);
        let all = by_socket.chain(servers).chain(checked);
        let mut opened: Vec<_> = all.filter(|remote| *remote != key.remote).collect();
        opened.sort_unstable();
        opened.dedup();
        opened.truncate(MAX_OPENED);
        opened
    }

    /// Keeps mappings alive.
    pub(super) fn run_asymmetric(&mut self, now: Instant) {
        let due: Vec<_> = self.refreshes().filter(|(_, at)| *at <= now).collect();
        for (key, _) in due {
            let Some(kept) = self.asymmetric.kept.get_mut(&key) else {
                continue;
            };
            kept.next = after(now, REFRESH);
            for remote in kept.opened.clone() {
                let id = random_transaction_id(&mut self.rng);
                let indication = Builder::new(Class::Indication, Method::BINDING, id);
                self.replies.push_back(Transmit {
                    local: key.local,
                    remote,
                    payload: indication.fingerprint().build(),
                });
            }
        }
    }

    pub(super) fn asymmetric_timeout(&self) -> Option<Instant> {
        self.refreshes().map(|(_, at)| at).min()
    }

    /// Of the pairs that are in use, or may be.
    fn refreshes(&self) -> impl Iterator<Item = (PairKey, Instant)> {
        let kept = self.asymmetric.kept.iter();
        let used = |key: PairKey| self.consents.contains_key(&key) || self.kept_pair(key).is_some();
        kept.filter(move |(key, _)| used(**key))
            .map(|(key, kept)| (*key, kept.next))
    }

    /// A socket is closed.
    pub(super) fn forget_asymmetric_of(&mut self, base: SocketAddr) {
        let base = unscoped(base);
        let known = &mut self.asymmetric;
        known.opened.remove(&base);
        known.heard.retain(|(local, _), _| *local != base);
        known.kept.retain(|key, _| unscoped(key.local) != base);
    }

    /// Drops what is known of pairs that are no more.
    fn forget_unheard(&mut self) {
        let (list, before) = (&self.list, &self.kept);
        let lives = |key: PairKey| {
            let lives = list.get(key).is_some_and(|pair| !pair.is_idle());
            lives || before.as_ref().is_some_and(|kept| kept.has(key))
        };
        let known = &mut self.asymmetric;
        known
            .heard
            .retain(|(local, _), remote| lives(PairKey::new(*local, *remote)));
        known.kept.retain(|key, _| lives(*key));
    }
}
