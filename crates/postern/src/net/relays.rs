//! Relayed addresses of this side, and the channels to peers behind them (RFC 8656 section
//! 12).
//!
//! QUIC sends and receives on a relayed path as on any other; here is what the shared
//! sockets need to put the four-byte channel header in front of each datagram, and to take
//! it off. The allocations themselves are kept by the sessions' connectors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use postern_proto::connect::Relay;
use postern_wire::turn::{ChannelNumber, channel_header};
use tokio::sync::mpsc;

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
    by_server: BTreeMap<AddressPair, SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    relay: Relay,
    channels: BTreeMap<SocketAddr, ChannelNumber>,
    peers: BTreeMap<ChannelNumber, SocketAddr>,
    slow: mpsc::Sender<Unchannelled>,
}

/// How to send from a relayed address to a peer.
#[derive(Debug)]
pub(super) enum Way {
    /// In a channel.
    Channel {
        relay: Relay,
        channel: ChannelNumber,
    },
    /// Through the session, which frames it in an indication.
    Slow(mpsc::Sender<Unchannelled>),
}

impl RelayTable {
    /// Adds a relayed address; what has no channel goes to `slow`.
    pub(crate) fn open(&self, relay: Relay, slow: mpsc::Sender<Unchannelled>) {
        let mut inner = self.write();
        inner.by_server.insert(server_pair(&relay), relay.relayed);
        let entry = Entry {
            relay,
            channels: BTreeMap::new(),
            peers: BTreeMap::new(),
            slow,
        };
        inner.by_relayed.insert(relay.relayed, entry);
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
            inner.by_server.remove(&server_pair(&entry.relay));
        }
        let in_use = !inner.by_relayed.is_empty();
        self.0.in_use.store(in_use, Ordering::Release);
    }

    /// How to send on a path; `None` when it is not a relayed one of ours.
    pub(super) fn way(&self, path: AddressPair) -> Option<Way> {
        if !self.in_use() {
            return None;
        }
        let inner = self.read();
        let entry = inner.by_relayed.get(&path.local)?;
        let channel = entry.channels.get(&path.remote);
        Some(match channel {
            Some(&channel) => Way::Channel {
                relay: entry.relay,
                channel,
            },
            None => Way::Slow(entry.slow.clone()),
        })
    }

    /// Whether what arrives on this pair comes from one of our TURN servers.
    pub(super) fn is_server(&self, pair: AddressPair) -> bool {
        self.in_use() && self.read().by_server.contains_key(&pair)
    }

    /// The path on which what a TURN server sent in a channel travelled.
    pub(super) fn path_of(&self, pair: AddressPair, channel: ChannelNumber) -> Option<AddressPair> {
        let inner = self.read();
        let local = *inner.by_server.get(&pair)?;
        let remote = *inner.by_relayed.get(&local)?.peers.get(&channel)?;
        Some(AddressPair { local, remote })
    }

    fn in_use(&self) -> bool {
        self.0.in_use.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_pair(relay: &Relay) -> AddressPair {
    AddressPair {
        local: relay.base,
        remote: relay.server,
    }
}

/// Puts the channel header in front of each datagram of a train.
pub(super) fn frame(train: &[u8], size: usize, channel: ChannelNumber, framed: &mut Vec<u8>) {
    framed.clear();
    for datagram in train.chunks(size.max(1)) {
        let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        framed.extend_from_slice(&channel_header(channel, length));
        framed.extend_from_slice(datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_wire::turn::{CHANNEL_HEADER_LEN, ChannelData};

    fn channel(number: u16) -> ChannelNumber {
        ChannelNumber::new(number).unwrap()
    }

    fn relay() -> Relay {
        Relay {
            base: "192.168.1.2:5000".parse().unwrap(),
            server: "45.45.0.1:3478".parse().unwrap(),
            relayed: "45.45.0.1:50000".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_framed_is_unframed_again() {
        let mut framed = Vec::new();
        frame(&[7; 250], 100, channel(0x4001), &mut framed);
        assert_eq!(framed.len(), 250 + 3 * CHANNEL_HEADER_LEN);
        let read = |datagram| ChannelData::parse(datagram).map(|read| (read.channel, read.data));
        assert_eq!(read(&framed[..104]), Ok((channel(0x4001), &[7; 100][..])));
        assert_eq!(read(&framed[208..]), Ok((channel(0x4001), &[7; 50][..])));
        assert!(read(&framed[208..220]).is_err());
        assert!(read(&[0x40, 1, 0]).is_err());
    }

    #[test]
    fn a_channel_leads_to_its_path_and_back() {
        let table = RelayTable::default();
        let (slow, _unchannelled) = mpsc::channel(1);
        let peer: SocketAddr = "45.45.3.2:6000".parse().unwrap();
        let path = AddressPair {
            local: relay().relayed,
            remote: peer,
        };
        assert!(table.way(path).is_none());
        table.open(relay(), slow);
        assert!(table.is_server(server_pair(&relay())));
        assert!(matches!(table.way(path), Some(Way::Slow(_))));
        table.set_channel(relay().relayed, peer, Some(channel(0x4002)));
        let way = table.way(path);
        assert!(
            matches!(way, Some(Way::Channel { channel: found, .. }) if found == channel(0x4002))
        );
        assert_eq!(
            table.path_of(server_pair(&relay()), channel(0x4002)),
            Some(path)
        );
        table.set_channel(relay().relayed, peer, None);
        assert_eq!(table.path_of(server_pair(&relay()), channel(0x4002)), None);
        table.close(relay().relayed);
        assert!(!table.is_server(server_pair(&relay())));
    }
}
