//! The UDP sockets of an endpoint: one per address family.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};

use noq::{AsyncUdpSocket, Runtime, TokioRuntime, UdpSender};
use noq_udp::Transmit;
use socket2::{Domain, Protocol, Socket, Type};

use super::paths::AddressPair;

/// Kernel buffer per socket and direction, in bytes: about 40 ms at 1 Gbit/s, so that a
/// burst survives until the program is scheduled. The kernel may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// The bound UDP sockets of an endpoint, and the addresses they stand for.
pub(crate) struct Sockets {
    pub(super) sockets: Vec<Box<dyn AsyncUdpSocket>>,
    addresses: Vec<SocketAddr>,
    /// The same sockets, for their options; none of a simulated network.
    controls: Vec<(SocketAddr, Socket)>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sockets").field(&self.addresses).finish()
    }
}

impl Sockets {
    /// Binds one socket per address family that this machine has, to every address of it,
    /// on ports chosen by the system. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When no socket of either family could be made.
    pub(crate) fn bind() -> io::Result<Self> {
        let unspecified: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let mut sockets = Vec::new();
        let mut controls = Vec::new();
        let mut failure = None;
        for ip in unspecified {
            match bind_with_control(SocketAddr::new(ip, 0)) {
                Ok((socket, control)) => {
                    sockets.push(socket);
                    controls.push(control);
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if sockets.is_empty() => Err(error),
            _ => Ok(Self {
                controls,
                ..Self::from_abstract(sockets)?
            }),
        }
    }

    /// No sockets: everything goes through relays' streams.
    pub(crate) fn none() -> Self {
        Self {
            sockets: Vec::new(),
            addresses: Vec::new(),
            controls: Vec::new(),
        }
    }

    /// Uses sockets made by the caller, for instance those of a simulated network. At
    /// most one per address family is useful.
    ///
    /// # Errors
    ///
    /// When a socket does not know its address.
    pub(crate) fn from_abstract(sockets: Vec<Box<dyn AsyncUdpSocket>>) -> io::Result<Self> {
        let addresses = sockets
            .iter()
            .map(|socket| socket.local_addr())
            .collect::<io::Result<_>>()?;
        Ok(Self {
            sockets,
            addresses,
            controls: Vec::new(),
        })
    }

    /// What the sockets' options are set by, once, with the addresses they are bound to.
    pub(crate) fn take_controls(&mut self) -> Vec<(SocketAddr, Socket)> {
        std::mem::take(&mut self.controls)
    }

    /// The addresses the sockets are bound to.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A sender for one task.
    pub(crate) fn sender(&self) -> Sender {
        let senders = self.sockets.iter().map(|socket| socket.create_sender());
        Sender {
            senders: self.addresses.iter().copied().zip(senders).collect(),
        }
    }
}

/// Sends datagrams from a chosen local address.
#[derive(Debug)]
pub(crate) struct Sender {
    senders: Vec<(SocketAddr, Pin<Box<dyn UdpSender>>)>,
}

impl Sender {
    /// Sends one datagram; an error of the network is the network's loss.
    pub(crate) async fn send(&mut self, pair: AddressPair, payload: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: pair.remote,
            ecn: None,
            contents: payload,
            segment_size: None,
            src_ip: Some(pair.local.ip()),
        };
        poll_fn(|cx| self.poll_send(pair.local, &transmit, cx)).await
    }

    /// Sends from the socket that `local` belongs to. A datagram for which there is no
    /// socket is dropped, as a network would.
    pub(super) fn poll_send(
        &mut self,
        local: SocketAddr,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self
            .senders
            .iter_mut()
            .find(|(bound, _)| serves(*bound, local));
        match socket {
            Some((_, sender)) => sender.as_mut().poll_send(transmit, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The least of all sockets; `None` without any.
    pub(super) fn max_transmit_segments(&self) -> Option<NonZeroUsize> {
        let senders = self.senders.iter();
        senders
            .map(|(_, sender)| sender.max_transmit_segments())
            .min()
    }
}

/// Whether a socket bound to `bound` receives what is sent to `local`.
pub(super) fn serves(bound: SocketAddr, local: SocketAddr) -> bool {
    let same_ip = bound.ip() == local.ip() || bound.ip().is_unspecified();
    bound.is_ipv4() == local.is_ipv4() && bound.port() == local.port() && same_ip
}

/// Binds one UDP socket with large buffers.
pub(crate) fn bind_one(address: SocketAddr) -> io::Result<Box<dyn AsyncUdpSocket>> {
    TokioRuntime.wrap_udp_socket(bound_socket(address)?.into())
}

fn bind_with_control(
    address: SocketAddr,
) -> io::Result<(Box<dyn AsyncUdpSocket>, (SocketAddr, Socket))> {
    let socket = bound_socket(address)?;
    let control = socket.try_clone()?;
    let socket = TokioRuntime.wrap_udp_socket(socket.into())?;
    let bound = socket.local_addr()?;
    Ok((socket, (bound, control)))
}

/// The same, as the system has it.
pub(super) fn bound_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Best effort: the kernel's limit is the administrator's choice.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
