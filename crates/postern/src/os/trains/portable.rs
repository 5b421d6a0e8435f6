//! The same with what noq-udp offers: trains where the system has them, but copied.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;

use mio::Interest;
use mio::net::UdpSocket;
use noq_udp::{RecvMeta, Transmit, UdpSocketState};

use super::{BATCH, IcmpError, Outgoing, Role, STAGGER, Span, TRAIN, Train};

/// Memory for one batch of received trains.
#[derive(Debug)]
pub(crate) struct Inbox {
    memory: Vec<u8>,
    metas: [RecvMeta; BATCH],
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; BATCH * (TRAIN + STAGGER)],
            metas: [RecvMeta::default(); BATCH],
        }
    }

    /// A train of the last receive.
    pub(crate) fn train(&self, index: usize) -> Option<Train<'_>> {
        let meta = self.metas.get(index)?;
        let memory = self.memory.chunks_exact(TRAIN + STAGGER).nth(index)?;
        Some(Train {
            from: meta.addr,
            at: meta.dst_ip,
            stride: meta.stride.max(1),
            bytes: memory.get(..meta.len)?,
        })
    }

    /// Where something lies that was received; `None` if it was not.
    pub(crate) fn span(&self, part: &[u8]) -> Option<Span> {
        Span::of(part, &self.memory)
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        span.within(&self.memory)
    }
}

/// Room for a train that is put together.
#[derive(Debug)]
pub(crate) struct Outbox(Vec<u8>);

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }
}

/// A UDP socket in a poll.
#[derive(Debug)]
pub(crate) struct TrainSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    bound: SocketAddr,
}

impl TrainSocket {
    /// Takes a bound socket over.
    pub(crate) fn new(socket: std::net::UdpSocket, _role: Role) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket);
        let state = UdpSocketState::new((&socket).into())?;
        let bound = socket.local_addr()?;
        // Who does not ask for it expects no DF bit: RFC 8656 section 14.
        let _ = crate::os::set_may_fragment(&socket, true);
        Ok(Self {
            socket,
            state,
            bound,
        })
    }

    pub(crate) const fn bound(&self) -> SocketAddr {
        self.bound
    }

    pub(crate) fn register(&mut self, poll: &mio::Registry, token: mio::Token) -> io::Result<()> {
        poll.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(crate) fn deregister(&mut self, poll: &mio::Registry) {
        if let Err(error) = poll.deregister(&mut self.socket) {
            tracing::debug!(%error, "a socket could not be taken out of the poll");
        }
    }

    /// Receives at most [`BATCH`] trains; says how many, and whether there may be more.
    pub(crate) fn receive(&self, inbox: &mut Inbox) -> io::Result<(usize, bool)> {
        let mut chunks = inbox.memory.chunks_exact_mut(TRAIN + STAGGER);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let metas = &mut inbox.metas;
        let received = self
            .socket
            .try_io(|| self.state.recv((&self.socket).into(), &mut buffers, metas))?;
        // Only an error says on every system that there is nothing more.
        Ok((received, true))
    }

    /// Whether what is sent from now on may be cut into fragments on its way.
    pub(crate) fn set_may_fragment(&self, may: bool) {
        let _ = crate::os::set_may_fragment(&self.socket, may);
    }

    /// Sends these trains, whose slices are among `slices`. What the network does not take
    /// is lost, as datagrams are.
    pub(crate) fn send(&self, outbox: &mut Outbox, trains: &[Outgoing], slices: &[IoSlice<'_>]) {
        for train in trains {
            outbox.0.clear();
            for slice in slices.get(train.slices.clone()).unwrap_or_default() {
                outbox.0.extend_from_slice(slice);
            }
            self.send_parts(train, &outbox.0);
        }
    }

    fn send_parts(&self, train: &Outgoing, bytes: &[u8]) {
        if train.is_single() {
            let _ = self.send_train(train, bytes);
            return;
        }
        let segments = self.state.max_gso_segments().get();
        for part in bytes.chunks(train.segment.saturating_mul(segments).max(1)) {
            let result = self.send_train(train, part);
            // The kernel cuts no train whose datagrams it would have to cut again.
            if result.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                for datagram in part.chunks(train.segment) {
                    let _ = self.send_train(train, datagram);
                }
            }
        }
    }

    fn send_train(&self, train: &Outgoing, bytes: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: train.to,
            ecn: None,
            contents: bytes,
            segment_size: (bytes.len() > train.segment).then_some(train.segment),
            src_ip: train.from,
        };
        self.socket
            .try_io(|| self.state.try_send((&self.socket).into(), &transmit))
    }

    /// The next ICMP error about a datagram that this socket sent: not told here.
    pub(crate) const fn next_error(&self) -> Option<IcmpError> {
        None
    }
}

pub(super) fn keep_errors(_socket: &tokio::net::UdpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) const fn next_error(_socket: &tokio::net::UdpSocket) -> Option<IcmpError> {
    None
}
