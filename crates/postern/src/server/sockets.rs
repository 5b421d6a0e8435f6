//! The server's sockets. Those of IPv6 carry nothing else, so that `0.0.0.0` and `::` can
//! both be listened on.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Kernel buffer for what arrives on a UDP socket, in bytes: about 2,000 requests.
const UDP_BUFFER: usize = 1 << 20;

/// A listening TCP socket.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // A server that is started again takes its port over from its old connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A UDP socket.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    // Best effort: the kernel's limit is the administrator's choice.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Another socket with the address of this one: the system gives each client of the address
/// to one of them. This one was bound before it could be shared, so that no other server
/// is there.
pub(super) fn share(socket: &UdpSocket) -> io::Result<UdpSocket> {
    let first = socket2::SockRef::from(socket);
    let address = socket.local_addr()?;
    let other = self::socket(address, Type::DGRAM, Protocol::UDP)?;
    #[cfg(unix)]
    for socket in [&*first, &other] {
        socket.set_reuse_port(true)?;
    }
    let _ = other.set_recv_buffer_size(UDP_BUFFER);
    other.bind(&address.into())?;
    Ok(other.into())
}

/// A UDP socket towards peers. Its buffer is the system's: there may be tens of thousands.
pub(super) fn bind_relay(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
