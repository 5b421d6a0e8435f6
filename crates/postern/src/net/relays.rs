//! Relayed addresses of this side, and the channels to peers behind them (RFC 8656 section
//! 12).
//!
//! QUIC sends and receives on a relayed path as on any other; here is what it needs to put
//! the four-byte channel header in front of each datagram and to take it off. The
//! allocations themselves are kept by the sessions' connectors, the ways to the servers in
//! [`Link`]s.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use postern_wire::turn::ChannelNumber;
use tokio::sync::mpsc;

use super::link::{Link, LinkKey};
use super::paths::AddressPair;

/// A datagram of QUIC for a peer to which there is no channel yet.
pub(crate) type Unchannelled = (AddressPair, Bytes);

/// All relayed addresses of an endpoint. Cheap to clone, and to ask when there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    in_use: AtomicBool,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_relayed: BTreeMap<SocketAddr, Entry>,
    by_link: BTreeMap<LinkKey, SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    link: Arc<Link>,
    channels: BTreeMap<SocketAddr, ChannelNumber>,
    peers: BTreeMap<ChannelNumber, SocketAddr>,
    slow: mpsc::Sender<Unchannelled>,
}

/// How to send from a relayed address to a peer.
#[derive(Debug)]
pub(super) enum Way {
    /// In a channel.
    Channel {
        link: Arc<Link>,
        channel: ChannelNumber,
    },
    /// Through the session, which frames it in an indication.
    Slow(mpsc::Sender<Unchannelled>),
}

impl RelayTable {
    /// Adds a relayed address behind a link; what has no channel goes to `slow`.
    pub(crate) fn open(
        &self,
        relayed: SocketAddr,
        link: Arc<Link>,
        slow: mpsc::Sender<Unchannelled>,
    ) {
        let mut inner = self.write();
        inner.by_link.insert(link.key(), relayed);
        let entry = Entry {
            link,
            channels: BTreeMap::new(),
            peers: BTreeMap::new(),
            slow,
        };
        inner.by_relayed.insert(relayed, entry);
        self.0.in_use.store(true, Ordering::Release);
    }

    /// Notes the channel to a peer, or that there is none any more.
    pub(crate) fn set_channel(
        &self,
        relayed: SocketAddr,
        peer: SocketAddr,
        channel: Option<ChannelNumber>,
    ) {
        let mut inner = self.write();
        let Some(entry) = inner.by_relayed.get_mut(&relayed) else {
            return;
        };
        if let Some(old) = entry.channels.remove(&peer) {
            entry.peers.remove(&old);
        }
        if let Some(channel) = channel {
            entry.channels.insert(peer, channel);
            entry.peers.insert(channel, peer);
        }
    }

    /// Forgets a relayed address.
    pub(crate) fn close(&self, relayed: SocketAddr) {
        let mut inner = self.write();
        if let Some(entry) = inner.by_relayed.remove(&relayed) {
            inner.by_link.remove(&entry.link.key());
        }
        let in_use = !inner.by_relayed.is_empty();
        self.0.in_use.store(in_use, Ordering::Release);
    }

    /// How to send on a path; `None` when it is not a relayed one of ours.
    pub(super) fn way(&self, path: AddressPair) -> Option<Way> {
        if !self.0.in_use.load(Ordering::Acquire) {
            return None;
        }
        let inner = self.read();
        let entry = inner.by_relayed.get(&path.local)?;
        let channel = entry.channels.get(&path.remote);
        Some(match channel {
            Some(&channel) => Way::Channel {
                link: entry.link.clone(),
                channel,
            },
            None => Way::Slow(entry.slow.clone()),
        })
    }

    /// The path on which what a TURN server sent in a channel travelled.
    pub(super) fn path_of(&self, link: LinkKey, channel: ChannelNumber) -> Option<AddressPair> {
        let inner = self.read();
        let local = *inner.by_link.get(&link)?;
        let remote = *inner.by_relayed.get(&local)?.peers.get(&channel)?;
        Some(AddressPair { local, remote })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_leads_to_its_path_and_back() {
        let table = RelayTable::default();
        let (slow, _unchannelled) = mpsc::channel(1);
        let relayed = "45.45.0.1:50000".parse().unwrap();
        let peer: SocketAddr = "45.45.3.2:6000".parse().unwrap();
        let path = AddressPair {
            local: relayed,
            remote: peer,
        };
        let channel = ChannelNumber::new(0x4002).unwrap();
        let link = Arc::new(Link::to_nowhere());
        assert!(table.way(path).is_none());
        table.open(relayed, link.clone(), slow);
        assert!(matches!(table.way(path), Some(Way::Slow(_))));
        table.set_channel(relayed, peer, Some(channel));
        let way = table.way(path);
        assert!(matches!(way, Some(Way::Channel { channel: found, .. }) if found == channel));
        assert_eq!(table.path_of(link.key(), channel), Some(path));
        table.set_channel(relayed, peer, None);
        assert_eq!(table.path_of(link.key(), channel), None);
        table.close(relayed);
        assert!(table.way(path).is_none());
    }
}
