//! A UDP socket that takes and gives trains: datagrams of one size from one sender, or for
//! one destination, in one system call.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use mio::Interest;
use mio::net::UdpSocket;
use noq_udp::{RecvMeta, Transmit, UdpSocketState};

use crate::os;

/// The most bytes of one send: what fits into one IPv4 datagram.
pub(super) const MAX_TRAIN: usize = 65_507;

/// The most datagrams of one send: the kernel's limit.
pub(super) const MAX_SEGMENTS: usize = 64;

/// A socket in a shard's poll.
#[derive(Debug)]
pub(super) struct TrainSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    bound: SocketAddr,
}

/// Where a train goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) to: SocketAddr,
    /// The address to send from, where the socket has several.
    pub(super) from: Option<IpAddr>,
    /// Whether the DF bit is to be set.
    pub(super) dont_fragment: bool,
}

impl TrainSocket {
    /// Takes a bound socket over.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket);
        let state = UdpSocketState::new((&socket).into())?;
        let bound = socket.local_addr()?;
        // Who does not ask for it expects no DF bit: RFC 8656 section 14.
        let _ = os::set_may_fragment(&socket, true);
        Ok(Self {
            socket,
            state,
            bound,
        })
    }

    pub(super) const fn bound(&self) -> SocketAddr {
        self.bound
    }

    pub(super) fn register(&mut self, poll: &mio::Registry, token: mio::Token) -> io::Result<()> {
        poll.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(super) fn deregister(&mut self, poll: &mio::Registry) {
        if let Err(error) = poll.deregister(&mut self.socket) {
            tracing::debug!(%error, "a socket could not be taken out of the poll");
        }
    }

    pub(super) fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.socket
            .try_io(|| self.state.recv((&self.socket).into(), buffers, metas))
    }

    /// Sends datagrams of `segment` bytes each, the last one perhaps shorter. What the
    /// network does not take is lost, as datagrams are.
    pub(super) fn send(&self, to: &Destination, bytes: &[u8], segment: usize) {
        if to.dont_fragment {
            let _ = os::set_may_fragment(&self.socket, false);
        }
        let segments = self.state.max_gso_segments().get();
        let most = segment.saturating_mul(segments).max(1);
        if bytes.is_empty() {
            let _ = self.send_train(to, bytes, segment);
        }
        for train in bytes.chunks(most) {
            self.send_or_split(to, train, segment);
        }
        if to.dont_fragment {
            let _ = os::set_may_fragment(&self.socket, true);
        }
    }

    /// The kernel cuts no train whose datagrams it would have to cut again: then each goes
    /// alone.
    fn send_or_split(&self, to: &Destination, train: &[u8], segment: usize) {
        let result = self.send_train(to, train, segment);
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if train.len() <= segment || result.as_ref().is_ok_and(|()| true) {
            return;
        }
        if result.is_err_and(|error| !is_full(&error)) {
            for datagram in train.chunks(segment) {
                let _ = self.send_train(to, datagram, segment);
            }
        }
    }

    fn send_train(&self, to: &Destination, bytes: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: to.to,
            ecn: None,
            contents: bytes,
            segment_size: (bytes.len() > segment).then_some(segment),
            src_ip: to.from,
        };
        self.socket
            .try_io(|| self.state.try_send((&self.socket).into(), &transmit))
    }
}
