//! The address pairs that may carry QUIC, and the synthetic addresses QUIC knows them by.
//!
//! QUIC runs on one abstract IPv6 socket. Each path of the ICE agents, whatever its
//! address family, local socket or (later) relay, is one entry here and one IPv6 address
//! there. Datagrams from an address pair without an entry never reach QUIC: only a peer
//! whose connectivity check was authenticated can speak to it.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, PoisonError, RwLock};

/// The first 64 bits of every synthetic address: `fd` followed by "postern" in ASCII.
const PREFIX: [u16; 4] = [0xfd70, 0x6f73, 0x7465, 0x726e];

/// The port of every synthetic address. Never sent anywhere, but it must not be 0.
const PORT: u16 = 1;

/// Most paths that one endpoint remembers. An agent has at most 100 candidate pairs; a
/// peer can create entries only by passing a check, so this is never reached honestly.
const MAX_PATHS: usize = 4096;

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

/// A path known to QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) pair: AddressPair,
    pub(crate) session: SessionId,
}

/// Maps address pairs to synthetic addresses and back. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathTable(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    by_id: BTreeMap<u64, Path>,
    by_pair: BTreeMap<AddressPair, u64>,
}

impl PathTable {
    /// Admits an address pair and returns the address by which QUIC knows it. `None` when
    /// the table is full.
    pub(crate) fn admit(&self, path: Path) -> Option<SocketAddr> {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = inner.by_pair.get(&path.pair) {
            inner.by_id.insert(id, path);
            return Some(synthetic(id));
        }
        if inner.by_id.len() >= MAX_PATHS {
            return None;
        }
        inner.next += 1;
        let id = inner.next;
        inner.by_pair.insert(path.pair, id);
        inner.by_id.insert(id, path);
        Some(synthetic(id))
    }

    /// Forgets one pair: nothing may be sent there any more.
    pub(crate) fn revoke(&self, pair: AddressPair) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = inner.by_pair.remove(&pair) {
            inner.by_id.remove(&id);
        }
    }

    /// Forgets every path of a session.
    pub(crate) fn forget(&self, session: SessionId) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.by_id.retain(|_, path| path.session != session);
        let Inner { by_id, by_pair, .. } = &mut *inner;
        by_pair.retain(|_, id| by_id.contains_key(id));
    }

    /// The synthetic address of an admitted pair.
    pub(crate) fn address_of(&self, pair: AddressPair) -> Option<SocketAddr> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        inner.by_pair.get(&pair).map(|&id| synthetic(id))
    }

    /// The path behind a synthetic address.
    pub(crate) fn path_at(&self, address: SocketAddr) -> Option<Path> {
        let id = path_id(address)?;
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        inner.by_id.get(&id).copied()
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

    fn pair(local: &str, remote: &str) -> AddressPair {
        AddressPair {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    fn path(pair: AddressPair, session: u64) -> Path {
        let session = SessionId(session);
        Path { pair, session }
    }

    #[test]
    fn every_pair_has_one_synthetic_address_and_it_leads_back() {
        let table = PathTable::default();
        let v4 = path(pair("192.168.1.2:1000", "45.45.0.1:2000"), 1);
        let v6 = path(pair("[2001:db8::2]:1000", "[2001:db8::1]:2000"), 1);
        let first = table.admit(v4).unwrap();
        let second = table.admit(v6).unwrap();
        assert_ne!(first, second);
        assert_eq!(table.admit(v4), Some(first));
        assert_eq!(table.path_at(first), Some(v4));
        assert_eq!(table.address_of(v6.pair), Some(second));
    }

    #[test]
    fn an_address_that_is_not_synthetic_leads_nowhere() {
        let table = PathTable::default();
        table.admit(path(pair("192.168.1.2:1000", "45.45.0.1:2000"), 1));
        assert_eq!(table.path_at("45.45.0.1:2000".parse().unwrap()), None);
        assert_eq!(table.path_at("[2001:db8::1]:1".parse().unwrap()), None);
    }

    #[test]
    fn a_forgotten_session_takes_its_paths_with_it_and_no_others() {
        let table = PathTable::default();
        let mine = pair("192.168.1.2:1000", "45.45.0.1:2000");
        let other = pair("192.168.1.2:1000", "45.45.0.9:2000");
        table.admit(path(mine, 1));
        table.admit(path(other, 2));
        table.forget(SessionId(1));
        assert_eq!(table.address_of(mine), None);
        assert!(table.address_of(other).is_some());
    }

    #[test]
    fn a_full_table_admits_no_more() {
        let table = PathTable::default();
        for port in 1..=MAX_PATHS as u16 {
            let remote = format!("45.45.0.1:{port}");
            assert!(table.admit(path(pair("10.0.0.1:1", &remote), 1)).is_some());
        }
        let late = pair("10.0.0.1:1", "45.45.0.2:1");
        assert_eq!(table.admit(path(late, 1)), None);
    }
}
