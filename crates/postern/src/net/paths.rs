//! The address pairs that may carry QUIC, and the synthetic addresses QUIC knows them by.
//!
//! QUIC runs on one abstract IPv6 socket. Each path of the ICE agents, whatever its
//! address family, local socket or (later) relay, is one entry here and one IPv6 address
//! there. Datagrams from an address pair without an entry never reach QUIC: only a peer
//! whose connectivity check was authenticated can speak to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use postern_proto::connect::RelayTransport;
use postern_proto::punch::Technique;
use tokio::sync::mpsc;

/// The first 64 bits of every synthetic address: `fd` followed by "postern" in ASCII.
const PREFIX: [u16; 4] = [0xfd70, 0x6f73, 0x7465, 0x726e];

/// The port of every synthetic address. Never sent anywhere, but it must not be 0.
const PORT: u16 = 1;

/// Most paths that one session may have admitted: an agent has at most 100 candidate
/// pairs, and forgets some for others.
const MAX_PATHS_PER_SESSION: usize = 256;

/// Sources of a session that count as others: an agent has as many.
const MAX_HEARD_PER_SESSION: usize = 16;

/// Lost pairs of a session whose synthetic addresses are kept: as many as QUIC has paths.
const MAX_LOST_PER_SESSION: usize = 8;

/// An address pair: which local address sends, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressPair {
    /// An address of an interface of this machine, and the port of one of the sockets.
    pub(crate) local: SocketAddr,
    /// The peer's address as this machine sees it.
    pub(crate) remote: SocketAddr,
}

/// Which attempt at connecting a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// Maps address pairs to synthetic addresses and back. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathTable(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    by_id: BTreeMap<u64, AddressPair>,
    /// With the transport to the relay, if that is one of ours.
    relayed: BTreeMap<AddressPair, Option<RelayTransport>>,
    /// How they came about.
    found: BTreeMap<AddressPair, Found>,
    by_pair: BTreeMap<AddressPair, Entry>,
    /// What arrives as the first pair belongs to the second one, which sends elsewhere.
    heard: BTreeMap<AddressPair, (AddressPair, SessionId)>,
    /// Pairs that are lost, while a connection may still have something under way there.
    limbo: BTreeMap<u64, (AddressPair, SessionId)>,
    /// Who takes what is sent there.
    late: BTreeMap<SessionId, mpsc::Sender<Late>>,
}

/// A datagram for a lost pair, and the address by which QUIC knows that one.
pub(crate) type Late = (SocketAddr, Bytes);

/// Where QUIC's datagrams for a synthetic address go.
#[derive(Debug)]
pub(super) enum Destination {
    /// To an admitted pair.
    Pair(AddressPair),
    /// To whoever carries them another way: the pair is lost.
    Limbo(mpsc::Sender<Late>),
}

/// How a path came about, and what it cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) technique: Technique,
    pub(crate) probes: u32,
    pub(crate) sockets: u32,
    /// This end of the TCP connection that it is, if it is one.
    pub(crate) stream: Option<SocketAddr>,
}

/// An admitted pair. Two connections between the same two endpoints share it.
#[derive(Debug)]
struct Entry {
    id: u64,
    sessions: BTreeSet<SessionId>,
}

impl PathTable {
    /// Admits an address pair for a session and returns the address by which QUIC knows
    /// it. `None` when the session has too many.
    pub(crate) fn admit(&self, pair: AddressPair, session: SessionId) -> Option<SocketAddr> {
        let mut inner = self.write();
        let count = inner
            .by_pair
            .values()
            .filter(|entry| entry.sessions.contains(&session))
            .count();
        if count >= MAX_PATHS_PER_SESSION {
            tracing::debug!("a session has too many paths");
            return None;
        }
        let id = inner.id_of(pair);
        let entry = inner.by_pair.entry(pair);
        let entry = entry.or_insert_with(|| Entry {
            id,
            sessions: BTreeSet::new(),
        });
        entry.sessions.insert(session);
        Some(synthetic(id))
    }

    /// Notes that a pair leads through a relay: ours, with the transport to it, or the
    /// peer's.
    pub(crate) fn mark_relayed(&self, pair: AddressPair, transport: Option<RelayTransport>) {
        let mut inner = self.write();
        if inner.by_pair.contains_key(&pair) {
            inner.relayed.insert(pair, transport);
        }
    }

    /// Notes how a pair came about. A check that is made again calls the peer's address by another
    /// name, which is no news; that a router's port leads here is learnt later.
    pub(crate) fn mark_found(&self, pair: AddressPair, found: Found) {
        let mut inner = self.write();
        let is_news =
            found.technique != Technique::PeerReflexive || !inner.found.contains_key(&pair);
        if inner.by_pair.contains_key(&pair) && is_news {
            inner.found.insert(pair, found);
        }
    }

    /// How a pair came about.
    pub(crate) fn found(&self, pair: AddressPair) -> Option<Found> {
        self.read().found.get(&pair).copied()
    }

    /// Whether a pair leads through a relay, and the transport to ours.
    pub(crate) fn relay_of(&self, pair: AddressPair) -> Option<Option<RelayTransport>> {
        self.read().relayed.get(&pair).copied()
    }

    /// Takes one pair away from a session: nothing of it may be sent there any more. Its
    /// synthetic address stays, for what QUIC still has under way.
    pub(crate) fn revoke(&self, pair: AddressPair, session: SessionId) {
        let mut inner = self.write();
        let entry = inner.by_pair.get(&pair);
        let lost = entry.map(|entry| entry.id);
        inner.remove(session, |admitted| admitted == pair);
        inner
            .heard
            .retain(|_, (known, of)| (*known, *of) != (pair, session));
        let last = !inner.by_pair.contains_key(&pair);
        if let (Some(id), true, true) = (lost, last, inner.late.contains_key(&session)) {
            inner.keep_lost(id, pair, session);
        }
    }

    /// Forgets every pair of a session.
    pub(crate) fn forget(&self, session: SessionId) {
        let mut inner = self.write();
        inner.remove(session, |_| true);
        inner.limbo.retain(|_, (_, of)| *of != session);
        inner.heard.retain(|_, (_, of)| *of != session);
        inner.late.remove(&session);
    }

    /// What a session's connection sends to pairs that are lost goes to `late`, from here on.
    pub(crate) fn on_late(&self, session: SessionId, late: mpsc::Sender<Late>) {
        self.write().late.insert(session, late);
    }

    /// Whether the pair behind a synthetic address is lost.
    pub(crate) fn is_lost(&self, address: SocketAddr) -> bool {
        path_id(address).is_some_and(|id| self.read().limbo.contains_key(&id))
    }

    /// The pairs that a session has lost and QUIC may still know, by their synthetic addresses.
    pub(crate) fn lost_by(&self, session: SessionId) -> Vec<(SocketAddr, AddressPair)> {
        let inner = self.read();
        let lost = inner.limbo.iter().filter(|(_, (_, of))| *of == session);
        lost.map(|(id, (pair, _))| (synthetic(*id), *pair))
            .collect()
    }

    /// Where datagrams for a synthetic address go; `None` for nowhere.
    pub(super) fn destination(&self, address: SocketAddr) -> Option<Destination> {
        let id = path_id(address)?;
        let inner = self.read();
        if let Some(pair) = inner.by_id.get(&id) {
            return Some(Destination::Pair(*pair));
        }
        let (_, session) = inner.limbo.get(&id)?;
        inner.late.get(session).cloned().map(Destination::Limbo)
    }

    /// From here on what arrives from `source`, too, belongs to a pair, once that is admitted: a
    /// session's agent has proven it. Whoever is there still has to speak QUIC with the peer's keys.
    pub(crate) fn hear(&self, pair: AddressPair, source: SocketAddr, session: SessionId) {
        let mut inner = self.write();
        let of_session = |known: &&(AddressPair, SessionId)| known.1 == session;
        let count = inner.heard.values().filter(of_session).count();
        let way = AddressPair {
            remote: source,
            ..pair
        };
        if count < MAX_HEARD_PER_SESSION && !inner.by_pair.contains_key(&way) {
            inner.heard.insert(way, (pair, session));
        }
    }

    /// The synthetic address of an admitted pair, as which data from there counts.
    pub(crate) fn address_of(&self, pair: AddressPair) -> Option<SocketAddr> {
        let inner = self.read();
        let sends = || Some(inner.heard.get(&pair)?.0);
        let entry = inner.by_pair.get(&pair);
        let entry = entry.or_else(|| inner.by_pair.get(&sends()?));
        entry.map(|entry| synthetic(entry.id))
    }

    /// The pair behind a synthetic address.
    pub(crate) fn pair_at(&self, address: SocketAddr) -> Option<AddressPair> {
        let id = path_id(address)?;
        let inner = self.read();
        let lost = inner.limbo.get(&id).map(|(pair, _)| *pair);
        inner.by_id.get(&id).copied().or(lost)
    }

    /// The sessions that admitted the pair behind a synthetic address, newest first.
    pub(crate) fn sessions_at(&self, address: SocketAddr) -> Vec<SessionId> {
        let Some(pair) = self.pair_at(address) else {
            return Vec::new();
        };
        let inner = self.read();
        let entry = inner.by_pair.get(&pair);
        entry.map_or_else(Vec::new, |entry| {
            entry.sessions.iter().rev().copied().collect()
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The number of a pair, a new one if it has none.
    fn id_of(&mut self, pair: AddressPair) -> u64 {
        if let Some(entry) = self.by_pair.get(&pair) {
            return entry.id;
        }
        self.next += 1;
        self.by_id.insert(self.next, pair);
        self.next
    }

    /// Keeps what is lost, the latest few of a session.
    fn keep_lost(&mut self, id: u64, pair: AddressPair, session: SessionId) {
        self.limbo.insert(id, (pair, session));
        let lost = self.limbo.iter().filter(|(_, (_, of))| *of == session);
        let lost: Vec<u64> = lost.map(|(id, _)| *id).collect();
        let many = lost.len().saturating_sub(MAX_LOST_PER_SESSION);
        for id in lost.into_iter().take(many) {
            self.limbo.remove(&id);
        }
    }

    /// Takes a session off the pairs that match; pairs without a session are forgotten.
    fn remove(&mut self, session: SessionId, matches: impl Fn(AddressPair) -> bool) {
        let Self {
            by_id,
            by_pair,
            relayed,
            found,
            ..
        } = self;
        by_pair.retain(|pair, entry| {
            if matches(*pair) {
                entry.sessions.remove(&session);
            }
            if entry.sessions.is_empty() {
                by_id.remove(&entry.id);
                relayed.remove(pair);
                found.remove(pair);
            }
            !entry.sessions.is_empty()
        });
    }
}

fn synthetic(id: u64) -> SocketAddr {
    let [a, b, c, d] = PREFIX;
    let [e, f, g, h] = [48, 32, 16, 0].map(|shift| (id >> shift) as u16);
    SocketAddrV6::new(Ipv6Addr::new(a, b, c, d, e, f, g, h), PORT, 0, 0).into()
}

fn path_id(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V6(address) = address else {
        return None;
    };
    let [prefix @ .., e, f, g, h] = address.ip().segments();
    let id = [e, f, g, h]
        .iter()
        .fold(0, |id, &segment| id << 16 | u64::from(segment));
    (prefix == PREFIX).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: SessionId = SessionId(1);
    const SECOND: SessionId = SessionId(2);

    fn pair(local: &str, remote: &str) -> AddressPair {
        AddressPair {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn every_pair_has_one_synthetic_address_and_it_leads_back() {
        let table = PathTable::default();
        let v4 = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let v6 = pair("[2001:db8::2]:1000", "[2001:db8::1]:2000");
        let one = table.admit(v4, FIRST).unwrap();
        let two = table.admit(v6, FIRST).unwrap();
        assert_ne!(one, two);
        assert_eq!(table.admit(v4, FIRST), Some(one));
        assert_eq!(table.pair_at(one), Some(v4));
        assert_eq!(table.address_of(v6), Some(two));
    }

    #[test]
    fn an_address_that_is_not_synthetic_leads_nowhere() {
        let table = PathTable::default();
        table.admit(pair("192.168.1.2:1000", "45.45.0.1:2000"), FIRST);
        assert_eq!(table.pair_at("45.45.0.1:2000".parse().unwrap()), None);
        assert_eq!(table.pair_at("[2001:db8::1]:1".parse().unwrap()), None);
    }

    #[test]
    fn a_forgotten_session_takes_its_paths_with_it_and_no_others() {
        let table = PathTable::default();
        let mine = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let other = pair("192.168.1.2:1000", "45.45.0.9:2000");
        table.admit(mine, FIRST);
        table.admit(other, SECOND);
        table.forget(FIRST);
        assert_eq!(table.address_of(mine), None);
        assert!(table.address_of(other).is_some());
    }

    #[test]
    fn a_lost_pair_keeps_its_address_and_what_is_sent_there_is_carried_another_way() {
        let table = PathTable::default();
        let (late, mut carried) = mpsc::channel(1);
        let lost = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let address = table.admit(lost, FIRST).unwrap();
        table.on_late(FIRST, late);
        table.revoke(lost, FIRST);
        assert!(table.is_lost(address));
        assert_eq!(table.address_of(lost), None, "nothing may come from there");
        let Some(Destination::Limbo(late)) = table.destination(address) else {
            panic!("it goes nowhere");
        };
        let datagram = (address, Bytes::from_static(b"late"));
        late.try_send(datagram.clone()).unwrap();
        assert_eq!(carried.try_recv().unwrap(), datagram);
        // It works again. The peer may know it as another pair, so it is another path.
        let again = table.admit(lost, FIRST).unwrap();
        assert_ne!(again, address);
        assert!(table.is_lost(address) && !table.is_lost(again));
        table.forget(FIRST);
        assert!(table.destination(address).is_none());
        assert!(!table.is_lost(address));
    }

    #[test]
    fn what_comes_from_another_port_belongs_to_the_pair_until_that_is_lost() {
        let table = PathTable::default();
        let path = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let other = pair("192.168.1.2:1000", "45.45.0.1:3000");
        table.hear(path, other.remote, FIRST);
        assert_eq!(table.address_of(other), None, "it is not admitted yet");
        let address = table.admit(path, FIRST).unwrap();
        assert_eq!(table.address_of(other), Some(address));
        assert_eq!(
            table.pair_at(address),
            Some(path),
            "it sends to one address"
        );
        table.revoke(path, FIRST);
        assert_eq!(table.address_of(other), None);
        table.admit(path, FIRST);
        assert_eq!(table.address_of(other), None, "it has to be proven again");
    }

    #[test]
    fn the_sources_of_a_session_are_few_and_take_no_pair_away() {
        let table = PathTable::default();
        let path = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let own = pair("192.168.1.2:1000", "45.45.0.1:3000");
        let address = table.admit(path, FIRST).unwrap();
        let before = table.admit(own, SECOND);
        table.hear(path, own.remote, FIRST);
        assert_eq!(table.address_of(own), before);
        let source = |port: u16| SocketAddr::from(([45, 45, 0, 1], port));
        for port in 4000..4100 {
            table.hear(path, source(port), FIRST);
        }
        let heard = (4000..4100).filter(|port| {
            let remote = source(*port);
            table.address_of(AddressPair { remote, ..path }) == Some(address)
        });
        assert_eq!(heard.count(), MAX_HEARD_PER_SESSION);
        table.forget(FIRST);
        let remote = source(4000);
        assert_eq!(table.address_of(AddressPair { remote, ..path }), None);
    }

    #[test]
    fn the_latest_lost_pairs_are_kept() {
        let table = PathTable::default();
        table.on_late(FIRST, mpsc::channel(1).0);
        let lost: Vec<_> = (0..12_u16)
            .map(|n| pair("192.168.1.2:1000", &format!("45.45.0.1:{}", 2000 + n)))
            .map(|lost| {
                let address = table.admit(lost, FIRST).unwrap();
                table.revoke(lost, FIRST);
                address
            })
            .collect();
        let kept = lost.iter().filter(|address| table.is_lost(**address));
        assert_eq!(kept.count(), MAX_LOST_PER_SESSION);
        assert!(table.is_lost(lost[11]) && !table.is_lost(lost[0]));
    }

    #[test]
    fn two_sessions_share_a_pair_until_both_have_left() {
        let table = PathTable::default();
        let shared = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let address = table.admit(shared, FIRST).unwrap();
        assert_eq!(table.admit(shared, SECOND), Some(address));
        assert_eq!(table.sessions_at(address), [SECOND, FIRST]);
        table.revoke(shared, SECOND);
        assert_eq!(table.pair_at(address), Some(shared));
        table.forget(FIRST);
        assert_eq!(table.pair_at(address), None);
        assert_eq!(table.sessions_at(address), []);
    }

    #[test]
    fn a_session_with_too_many_paths_gets_no_more_and_hurts_nobody() {
        let table = PathTable::default();
        let number = |port: usize| pair("10.0.0.1:1", &format!("45.45.0.1:{port}"));
        for port in 1..=MAX_PATHS_PER_SESSION {
            assert!(table.admit(number(port), FIRST).is_some());
        }
        assert_eq!(table.admit(number(1000), FIRST), None);
        assert!(table.admit(number(1000), SECOND).is_some());
    }
}
