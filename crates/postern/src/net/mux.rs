//! One set of sockets, shared by STUN and QUIC (RFC 9443).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use noq::{AsyncUdpSocket, UdpSender};
use noq_udp::{RecvMeta, Transmit};
use postern_proto::ice::tcp::is_base;
use tokio::sync::mpsc;

use super::latest::Latest;
use super::link::TrainSender;
use super::paths::{AddressPair, Destination, PathTable};
use super::punched::PunchedSockets;
use super::relays::{RelayTable, Way};
use super::sockets::{Sender, Sockets};
use super::tcp::Streams;
use super::trains::Train;

/// STUN datagrams waiting for the agents. What does not fit is dropped: checks are
/// repeated, and a flood must not grow memory.
const STUN_QUEUE: usize = 256;

/// Trains for QUIC that came through relays. Whoever brings more waits, so that a relay's
/// stream is slowed down by TCP, and a socket drops.
const INJECTED_QUEUE: usize = 64;

/// Datagrams that QUIC sends and receives at once when there are streams only.
const STREAM_SEGMENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// The largest STUN message an agent has a use for, in bytes: a check is below 200, but a
/// relay may wrap a whole datagram.
const MAX_STUN: usize = 1500;

/// A STUN datagram that arrived.
#[derive(Debug, Clone)]
pub(crate) struct StunDatagram {
    pub(crate) pair: AddressPair,
    pub(crate) payload: Bytes,
}

/// The other ends of a [`Mux`].
#[derive(Debug)]
pub(crate) struct Outlets {
    /// Where the agents read what was sorted out for them.
    pub(crate) stun: mpsc::Receiver<StunDatagram>,
    /// For what comes through relays.
    pub(crate) inlets: Inlets,
}

/// Where what comes through relays goes, and which paths it takes.
#[derive(Debug, Clone)]
pub(crate) struct Inlets {
    pub(super) relays: RelayTable,
    stun: mpsc::Sender<StunDatagram>,
    quic: mpsc::Sender<Train>,
}

impl Inlets {
    /// Hands a train to QUIC, as soon as it has taken what came before.
    pub(super) async fn inject(&self, train: Train) {
        let _ = self.quic.send(train).await;
    }

    /// Hands a train to QUIC, unless there is too much already.
    pub(crate) fn try_inject(&self, train: Train) {
        // What does not fit is lost, as on any network.
        let _ = self.quic.try_send(train);
    }

    /// Hands a STUN datagram to the agents.
    pub(super) fn pass_stun(&self, pair: AddressPair, datagram: &[u8]) {
        if datagram.len() > MAX_STUN {
            return;
        }
        let payload = Bytes::copy_from_slice(datagram);
        if self.stun.try_send(StunDatagram { pair, payload }).is_err() {
            tracing::debug!("agents are behind, STUN datagram dropped");
        }
    }
}

/// What a datagram on the shared sockets is, by its first byte (RFC 9443 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Stun,
    /// On a link to a TURN server a channel, elsewhere QUIC, which shares these values.
    Channel,
    Quic,
    Unknown,
}

impl Protocol {
    pub(super) fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(64..=79) => Self::Channel,
            Some(80..=127 | 192..=255) => Self::Quic,
            Some(_) | None => Self::Unknown,
        }
    }
}

/// The socket that QUIC sees: receives from every socket, keeps batches and GRO trains
/// whole, rewrites addresses to synthetic ones and sorts STUN out.
pub(crate) struct Mux {
    sockets: Sockets,
    paths: PathTable,
    punched: PunchedSockets,
    streams: Streams,
    inlets: Inlets,
    injected: mpsc::Receiver<Train>,
    /// What was left of a train for want of room.
    left: Option<Train>,
    /// The socket to poll first, so that a busy one does not starve the other.
    turn: usize,
    /// Whether what came through relays is to go first, for the same reason.
    relays_first: bool,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

impl Mux {
    pub(crate) fn new(
        sockets: Sockets,
        paths: PathTable,
        relays: RelayTable,
        punched: PunchedSockets,
        streams: Streams,
    ) -> (Self, Outlets) {
        let (stun, receiver) = mpsc::channel(STUN_QUEUE);
        let (quic, injected) = mpsc::channel(INJECTED_QUEUE);
        let inlets = Inlets { relays, stun, quic };
        let mux = Self {
            sockets,
            paths,
            punched,
            streams,
            inlets: inlets.clone(),
            injected,
            left: None,
            turn: 0,
            relays_first: false,
        };
        let outlets = Outlets {
            stun: receiver,
            inlets,
        };
        (mux, outlets)
    }

    /// Takes what came through relays; returns how many buffers it has filled.
    fn poll_injected(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> usize {
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            loop {
                let Some(mut train) = self.next_train(cx) else {
                    return filled;
                };
                let admitted = || self.paths.address_of(train.path);
                let Some(address) = train.address.or_else(admitted) else {
                    continue;
                };
                let part = train.split_to(buffer.len());
                if part.is_empty() {
                    continue;
                }
                buffer[..part.len()].copy_from_slice(&part);
                *meta = RecvMeta::default();
                (meta.addr, meta.len, meta.stride) = (address, part.len(), train.stride);
                self.left = Some(train).filter(|train| !train.payload.is_empty());
                break;
            }
            filled += 1;
        }
        filled
    }

    fn next_train(&mut self, cx: &mut Context<'_>) -> Option<Train> {
        if self.left.is_some() {
            return self.left.take();
        }
        match self.injected.poll_recv(cx) {
            Poll::Ready(train) => train,
            Poll::Pending => None,
        }
    }

    /// Receives trains from a socket, sorted.
    fn poll_sockets(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (index, received) = match self.poll_any(cx, buffers, metas) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) if is_transient(&error) => return Poll::Ready(Ok(0)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        let bound = self.sockets.addresses()[index];
        for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(received) {
            self.sort(bound, buffer, meta);
        }
        // A train of length 0 is skipped by QUIC, so what was taken out leaves no hole.
        Poll::Ready(Ok(received))
    }

    /// Receives from the first socket that has something.
    fn poll_any(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<(usize, usize)>> {
        let count = self.sockets.sockets.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            let socket = &mut self.sockets.sockets[index];
            if let Poll::Ready(result) = socket.poll_recv(cx, buffers, metas) {
                self.turn = index + 1;
                return Poll::Ready(result.map(|received| (index, received)));
            }
        }
        Poll::Pending
    }

    /// Sorts one received train: STUN goes to the agents, QUIC stays in the buffer under
    /// its synthetic address. Returns whether QUIC is left.
    fn sort(&self, bound: SocketAddr, buffer: &mut [u8], meta: &mut RecvMeta) -> bool {
        let local = SocketAddr::new(meta.dst_ip.unwrap_or_else(|| bound.ip()), bound.port());
        let pair = AddressPair {
            local,
            remote: meta.addr,
        };
        let address = self.paths.address_of(pair);
        let stride = meta.stride.max(1);
        let stun = |segment: &[u8]| self.inlets.pass_stun(pair, segment);
        meta.len = keep_quic(&mut buffer[..meta.len], stride, address.is_some(), stun);
        meta.dst_ip = None;
        if let Some(address) = address {
            meta.addr = address;
        }
        meta.len > 0
    }
}

/// Moves the QUIC datagrams of a train to its front and returns their total length;
/// calls `stun` with each STUN datagram. `known` says whether the sender may speak QUIC.
pub(super) fn keep_quic(
    train: &mut [u8],
    stride: usize,
    known: bool,
    mut stun: impl FnMut(&[u8]),
) -> usize {
    let mut kept = 0;
    let mut start = 0;
    while start < train.len() {
        let end = train.len().min(start + stride);
        match Protocol::of(&train[start..end]) {
            Protocol::Stun => stun(&train[start..end]),
            Protocol::Channel | Protocol::Quic if known => {
                if kept < start {
                    train.copy_within(start..end, kept);
                }
                kept += end - start;
            }
            Protocol::Channel | Protocol::Quic | Protocol::Unknown => {}
        }
        start = end;
    }
    kept
}

impl AsyncUdpSocket for Mux {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(MuxSender {
            sender: self.sockets.sender(),
            paths: self.paths.clone(),
            relays: self.inlets.relays.clone(),
            relay_sender: None,
            punched: self.punched.clone(),
            punched_sender: None,
            streams: self.streams.clone(),
            latest: Latest::default(),
        })
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.relays_first = !self.relays_first;
        if self.relays_first {
            let filled = self.poll_injected(cx, buffers, metas);
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
        if let Poll::Ready(result) = self.poll_sockets(cx, buffers, metas) {
            return Poll::Ready(result);
        }
        match self.poll_injected(cx, buffers, metas) {
            0 => Poll::Pending,
            filled => Poll::Ready(Ok(filled)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // What QUIC takes from this is that it may use IPv6 addresses.
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 1))
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        let segments = self
            .sockets
            .sockets
            .iter()
            .map(|socket| socket.max_receive_segments());
        segments.max().unwrap_or(STREAM_SEGMENTS)
    }

    fn may_fragment(&self) -> bool {
        self.sockets
            .sockets
            .iter()
            .any(|socket| socket.may_fragment())
    }
}

/// Errors that an ICMP message from anywhere can cause must not end the endpoint.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::PermissionDenied
    )
}

/// Sends QUIC datagrams to the paths behind their synthetic addresses.
#[derive(Debug)]
struct MuxSender {
    sender: Sender,
    paths: PathTable,
    relays: RelayTable,
    /// For the link through which this one has sent last.
    relay_sender: Option<TrainSender>,
    punched: PunchedSockets,
    /// For the punched path on which this one has sent last.
    punched_sender: Option<(SocketAddr, Pin<Box<dyn UdpSender>>)>,
    streams: Streams,
    latest: Latest,
}

impl MuxSender {
    /// One path may have been lost while another one was used.
    fn remember(&mut self, transmit: &Transmit<'_>) {
        self.latest.note(transmit);
        self.latest.give_lost(&self.paths, transmit.destination);
    }

    /// Sends a train from a socket that was opened to punch.
    fn poll_punched(
        &mut self,
        local: SocketAddr,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.punched_sender.take_if(|(known, _)| *known != local);
        if self.punched_sender.is_none() {
            let sender = self.punched.sender(local);
            self.punched_sender = sender.map(|sender| (local, sender));
        }
        match &mut self.punched_sender {
            Some((_, sender)) => sender.as_mut().poll_send(transmit, cx),
            // It has just been closed: lost, as on any network.
            None => Poll::Ready(Ok(())),
        }
    }

    /// Sends a train through a relay.
    fn poll_relayed(
        &mut self,
        way: Way,
        path: AddressPair,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match way {
            Way::Channel { link, channel } => {
                link.poll_send(&mut self.relay_sender, transmit, channel, cx)
            }
            Way::Slow(session) => {
                let size = transmit.segment_size.unwrap_or(transmit.contents.len());
                for datagram in transmit.contents.chunks(size.max(1)) {
                    // What does not fit is lost, as on any network.
                    let _ = session.try_send((path, Bytes::copy_from_slice(datagram)));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl UdpSender for MuxSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let pair = match self.paths.destination(transmit.destination) {
            Some(Destination::Pair(pair)) => pair,
            Some(Destination::Limbo(late)) => {
                self.latest.forget(transmit.destination);
                let size = transmit.segment_size.unwrap_or(transmit.contents.len());
                for datagram in transmit.contents.chunks(size.max(1)) {
                    // What does not fit is lost, as on any network.
                    let datagram = Bytes::copy_from_slice(datagram);
                    let _ = late.try_send((transmit.destination, datagram));
                }
                return Poll::Ready(Ok(()));
            }
            None => return Poll::Ready(Ok(())),
        };
        self.remember(transmit);
        if let Some(way) = self.relays.way(pair) {
            return self.poll_relayed(way, pair, transmit, cx);
        }
        if is_base(pair.local) {
            self.streams.send_train(pair.local, transmit);
            return Poll::Ready(Ok(()));
        }
        let transmit = Transmit {
            destination: pair.remote,
            src_ip: Some(pair.local.ip()),
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
        };
        if self.punched.has(pair.local) {
            return self.poll_punched(pair.local, &transmit, cx);
        }
        self.sender.poll_send(pair.local, &transmit, cx)
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.sender
            .max_transmit_segments()
            .unwrap_or(STREAM_SEGMENTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quic(length: usize) -> Vec<u8> {
        vec![0x40; length]
    }

    fn sorted(train: &[u8], stride: usize, known: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut train = train.to_vec();
        let mut stun = Vec::new();
        let kept = keep_quic(&mut train, stride, known, |segment| {
            stun.push(segment.to_vec())
        });
        train.truncate(kept);
        (train, stun)
    }

    #[test]
    fn the_first_byte_tells_the_protocols_apart() {
        assert_eq!(Protocol::of(&[0, 1]), Protocol::Stun);
        assert_eq!(Protocol::of(&[0x40]), Protocol::Channel);
        assert_eq!(Protocol::of(&[0x50]), Protocol::Quic);
        assert_eq!(Protocol::of(&[0xc3]), Protocol::Quic);
        assert_eq!(Protocol::of(&[20]), Protocol::Unknown);
        assert_eq!(Protocol::of(&[128]), Protocol::Unknown);
        assert_eq!(Protocol::of(&[]), Protocol::Unknown);
    }

    #[test]
    fn a_train_of_quic_is_left_as_it_is() {
        let train = quic(2500);
        assert_eq!(sorted(&train, 1200, true), (train, vec![]));
    }

    #[test]
    fn stun_at_the_end_of_a_train_is_taken_out() {
        let mut train = quic(2400);
        train.extend([0; 100]);
        assert_eq!(sorted(&train, 1200, true), (quic(2400), vec![vec![0; 100]]));
    }

    #[test]
    fn stun_in_the_middle_of_a_train_leaves_no_hole() {
        let train = [quic(100), vec![1; 100], quic(60)].concat();
        assert_eq!(sorted(&train, 100, true), (quic(160), vec![vec![1; 100]]));
    }

    #[test]
    fn a_stranger_may_send_stun_but_not_quic() {
        let train = [quic(100), vec![1; 20]].concat();
        assert_eq!(sorted(&train, 100, false), (vec![], vec![vec![1; 20]]));
    }
}
