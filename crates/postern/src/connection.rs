//! A connection to a peer, and the path that it uses.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq::{Path, PathEvent, PathId, PathStatus, VarInt};
use postern_proto::connect::RelayTransport;
use postern_proto::punch::Technique;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::aside::Ears;
use crate::clock;
use crate::explain::Explanation;
use crate::net::{AddressPair, PathTable};

/// The pauses before a lost path is pinged again: three packets after it that are acknowledged prove a
/// packet lost (RFC 9002 section 6.1.1), and a ping may get lost as well.
const NUDGES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(200),
];

/// A lost path is closed so long after the last ping.
const LOST_PATH: Duration = Duration::from_millis(500);

/// How a path reaches the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// From this machine to the peer's, through whatever NATs are between.
    Direct,
    /// Through a relay.
    Relayed,
}

impl PathKind {
    /// The word for it: "direct" or "relayed".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// What carries a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathProtocol {
    /// UDP datagrams.
    Udp,
    /// A TCP connection.
    Tcp,
}

impl PathProtocol {
    /// The word for it: "udp" or "tcp".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// The path that carries a connection's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// How it reaches the peer.
    pub kind: PathKind,
    /// What carries it: TCP if this side's relay is reached over a stream, or the peer itself.
    pub protocol: PathProtocol,
    /// How this side's relay is reached; `None` on a direct path, and when it is the other
    /// side's relay that carries it.
    pub relay: Option<RelayTransport>,
    /// How it came about.
    pub technique: Technique,
    /// Probes that this side sent beyond plain checks until the path was there.
    pub probes: u32,
    /// Sockets that this side opened for them.
    pub sockets: u32,
    /// The address on this machine.
    pub local: SocketAddr,
    /// The peer's address as this machine sees it.
    pub remote: SocketAddr,
    /// Time from the moment both sides had authenticated each other to the moment this
    /// path carried data.
    pub elapsed: Duration,
    /// Round-trip time when the path began to carry data.
    pub round_trip: Duration,
}

impl fmt::Display for PathInfo {
    /// Writes it for people: "direct, UDP, 12 ms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match (self.relay, self.protocol) {
            (Some(RelayTransport::Tls), _) => "TLS",
            (_, PathProtocol::Udp) => "UDP",
            (_, PathProtocol::Tcp) => "TCP",
        };
        let family = if self.remote.is_ipv6() {
            " over IPv6"
        } else {
            ""
        };
        write!(f, "{}, {protocol}{family}, ", self.kind.as_str())?;
        match self.round_trip.as_secs_f64() * 1000.0 {
            milliseconds @ ..10.0 => write!(f, "{milliseconds:.1} ms"),
            milliseconds => write!(f, "{milliseconds:.0} ms"),
        }
    }
}

/// A connection to an authenticated peer: encrypted streams over the best path known.
///
/// It is cheap to clone. When the last clone and the last stream are gone, the
/// connection closes.
#[derive(Debug, Clone)]
pub struct Connection {
    quic: noq::Connection,
    path: watch::Receiver<PathInfo>,
    explanation: watch::Receiver<Explanation>,
    is_creator: bool,
    _ears: Arc<Ears>,
}

impl Connection {
    pub(crate) fn new(
        quic: noq::Connection,
        path: watch::Receiver<PathInfo>,
        explanation: watch::Receiver<Explanation>,
        is_creator: bool,
        ears: Arc<Ears>,
    ) -> Self {
        Self {
            quic,
            path,
            explanation,
            is_creator,
            _ears: ears,
        }
    }

    /// The path in use.
    pub fn path(&self) -> PathInfo {
        *self.path.borrow()
    }

    /// Follows the path in use; its receiver sees every change (but may skip some when it
    /// looks rarely).
    pub fn paths(&self) -> watch::Receiver<PathInfo> {
        self.path.clone()
    }

    /// Why the path in use is what it is: what both networks do, what was tried, and what came
    /// of it. It is kept after the end of the connection, and while attempts go on it may be up
    /// to half a second old.
    pub fn explain(&self) -> Explanation {
        self.explanation.borrow().clone()
    }

    /// Follows the explanation; its receiver sees every change (but may skip some when it looks
    /// rarely).
    pub fn explanations(&self) -> watch::Receiver<Explanation> {
        self.explanation.clone()
    }

    /// Whether this side made the code.
    pub fn is_creator(&self) -> bool {
        self.is_creator
    }

    /// Opens a stream in both directions. The peer sees it with its first byte.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub async fn open_bi(
        &self,
    ) -> Result<(noq::SendStream, noq::RecvStream), noq::ConnectionError> {
        self.quic.open_bi().await
    }

    /// Waits for a stream that the peer opens.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub async fn accept_bi(
        &self,
    ) -> Result<(noq::SendStream, noq::RecvStream), noq::ConnectionError> {
        self.quic.accept_bi().await
    }

    /// Ends the connection at once and tells the peer. What was not acknowledged may be
    /// lost.
    pub fn close(&self, code: u32, reason: &str) {
        self.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> noq::ConnectionError {
        self.quic.closed().await
    }

    /// Bytes of UDP payload sent and received so far, over all paths.
    pub fn bytes_on_wire(&self) -> (u64, u64) {
        let stats = self.quic.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }
}

/// Publishes which path a connection uses, and closes those that it no longer needs.
pub(crate) struct PathFollower {
    quic: noq::WeakConnectionHandle,
    table: PathTable,
    began: Instant,
    /// Paths that carry data, oldest first, by the addresses QUIC knows them by.
    open: Vec<(PathId, SocketAddr)>,
    publisher: watch::Sender<PathInfo>,
}

impl PathFollower {
    /// Begins with the path of the handshake; `None` when the connection is already gone.
    /// `began` is when both sides had authenticated each other.
    pub(crate) fn begin(
        quic: &noq::Connection,
        table: PathTable,
        began: Instant,
    ) -> Option<(Self, watch::Receiver<PathInfo>)> {
        let elapsed = clock::now().saturating_duration_since(began);
        let address = quic.path(PathId::ZERO)?.remote_address().ok()?;
        let info = describe(quic, &table, (PathId::ZERO, address), elapsed)?;
        let (publisher, receiver) = watch::channel(info);
        let follower = Self {
            quic: quic.weak_handle(),
            table,
            began,
            open: vec![(PathId::ZERO, address)],
            publisher,
        };
        Some((follower, receiver))
    }

    /// Reacts to an event of the connection; yields the path that was lost, if one was.
    pub(crate) fn on_event(&mut self, event: &PathEvent) -> Option<AddressPair> {
        let mut lost = None;
        if let PathEvent::Established { id, .. } = event {
            self.on_established(*id);
        }
        if let PathEvent::Abandoned { id, .. } = event {
            lost = self.on_abandoned(*id);
        }
        self.publish();
        lost
    }

    fn on_established(&mut self, id: PathId) {
        let path = self.quic.upgrade().and_then(|quic| quic.path(id));
        if let Some(address) = path.and_then(|path| path.remote_address().ok()) {
            self.open.push((id, address));
        }
    }

    /// The paths before the one in use, or the only one if the next is not known yet: the addresses by
    /// which QUIC knows them, and what they are.
    pub(crate) fn older(&self) -> impl Iterator<Item = (SocketAddr, AddressPair)> {
        let newest = self.open.last().map(|(_, address)| *address);
        let only = self.open.len() == 1;
        let older = self.open.iter().map(|(_, address)| *address);
        let older = older.filter(move |address| only || Some(*address) != newest);
        older.filter_map(|address| Some((address, self.table.pair_at(address)?)))
    }

    /// The path in use.
    pub(crate) fn pair(&self) -> Option<AddressPair> {
        let (_, address) = self.open.last()?;
        self.table.pair_at(*address)
    }

    /// Whether the path in use is one that works, as far as is known.
    pub(crate) fn is_alive(&self) -> bool {
        let newest = self.open.last();
        newest.is_some_and(|(_, address)| !self.table.is_lost(*address))
    }

    /// Where another path is in use, has QUIC find out what was lost on those that are no more: its
    /// pings there are carried by the other one. Whether there are any.
    pub(crate) fn nudge(&self) -> bool {
        let Some(quic) = self.quic.upgrade() else {
            return false;
        };
        let newest = self.open.last().map(|(id, _)| *id);
        let mut nudged = false;
        for (id, address) in &self.open {
            if Some(*id) != newest
                && self.table.is_lost(*address)
                && let Some(path) = quic.path(*id)
            {
                let _ = path.set_status(PathStatus::Backup);
                let _ = path.ping();
                nudged = true;
            }
        }
        nudged
    }

    fn on_abandoned(&mut self, id: PathId) -> Option<AddressPair> {
        let place = self.open.iter().position(|(known, _)| *known == id)?;
        let (_, address) = self.open.remove(place);
        let still_there = self.open.iter().any(|(_, known)| *known == address);
        let pair = self.table.pair_at(address)?;
        (!still_there).then_some(pair)
    }

    /// Closes every path but the one at `address`.
    pub(crate) fn settle_on(&self, address: SocketAddr) {
        let Some(quic) = self.quic.upgrade() else {
            return;
        };
        let others = self.open.iter().filter(|(_, known)| *known != address);
        for (id, address) in others {
            let Some(path) = quic.path(*id) else { continue };
            if self.table.is_lost(*address) {
                close_later(&path);
            } else {
                let _ = path.close();
            }
        }
    }

    /// The newest open path is the one in use: older ones are being closed.
    pub(crate) fn publish(&self) {
        let elapsed = clock::now().saturating_duration_since(self.began);
        let (Some(quic), Some(&newest)) = (self.quic.upgrade(), self.open.last()) else {
            return;
        };
        let Some(info) = describe(&quic, &self.table, newest, elapsed) else {
            return;
        };
        self.publisher.send_if_modified(|current| {
            let same = (current.local, current.remote) == (info.local, info.remote);
            if same {
                // How it came about may be known better.
                let news = current.technique != info.technique;
                current.technique = info.technique;
                return news;
            }
            *current = info;
            true
        });
    }
}

/// Closes a path when QUIC has found out what was lost there.
fn close_later(path: &Path) {
    let path = path.weak_handle();
    tokio::spawn(async move {
        for pause in NUDGES {
            sleep(pause).await;
            if let Some(path) = path.upgrade() {
                let _ = path.ping();
            }
        }
        sleep(LOST_PATH).await;
        if let Some(path) = path.upgrade() {
            let _ = path.close();
        }
    });
}

fn describe(
    quic: &noq::Connection,
    table: &PathTable,
    (id, address): (PathId, SocketAddr),
    elapsed: Duration,
) -> Option<PathInfo> {
    let pair = table.pair_at(address)?;
    let AddressPair { local, remote } = pair;
    let relay = table.relay_of(pair);
    let kind = match relay {
        Some(_) => PathKind::Relayed,
        None => PathKind::Direct,
    };
    let relay = relay.flatten();
    let found = table.found(pair);
    let stream = found.and_then(|found| found.stream);
    let protocol = match (relay, stream) {
        (Some(RelayTransport::Tcp | RelayTransport::Tls), _) | (None, Some(_)) => PathProtocol::Tcp,
        (Some(RelayTransport::Udp), _) | (None, None) => PathProtocol::Udp,
    };
    Some(PathInfo {
        technique: found.map_or(Technique::PeerReflexive, |found| found.technique),
        probes: found.map_or(0, |found| found.probes),
        sockets: found.map_or(0, |found| found.sockets),
        kind,
        protocol,
        relay,
        local: stream.unwrap_or(local),
        remote,
        elapsed,
        round_trip: quic.rtt(id).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(remote: &str, round_trip: Duration) -> PathInfo {
        PathInfo {
            kind: PathKind::Direct,
            protocol: PathProtocol::Udp,
            relay: None,
            technique: Technique::Host,
            probes: 0,
            sockets: 0,
            local: "192.168.1.2:1000".parse().unwrap(),
            remote: remote.parse().unwrap(),
            elapsed: Duration::ZERO,
            round_trip,
        }
    }

    #[test]
    fn a_path_is_told_in_plain_words() {
        let far = path("45.45.0.1:2000", Duration::from_millis(12));
        let near = path("[2001:db8::1]:2000", Duration::from_micros(340));
        assert_eq!(far.to_string(), "direct, UDP, 12 ms");
        assert_eq!(near.to_string(), "direct, UDP over IPv6, 0.3 ms");
    }
}
