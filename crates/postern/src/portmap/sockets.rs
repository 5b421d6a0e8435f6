//! The sockets of a client: its own, and two that hear what gateways tell everybody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use postern_wire::natpmp::CLIENT_PORT;
use postern_wire::upnp::ssdp;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Link;
use crate::net::listener;

/// How far a search goes (UPnP Device Architecture 2.0 section 1.3.2).
const HOPS: u32 = 2;

/// The socket that asks.
pub(super) fn own(link: &Link) -> io::Result<UdpSocket> {
    let socket = new(link)?;
    match link.address {
        IpAddr::V4(address) => {
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(HOPS)?;
            socket.set_multicast_loop_v4(false)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(link.index)?;
            socket.set_multicast_hops_v6(HOPS)?;
            socket.set_multicast_loop_v6(false)?;
        }
    }
    bound(socket, SocketAddr::new(link.address, 0))
}

/// What is told to all hosts at port 5350, and to whoever listens for SSDP: the group, and a
/// socket that hears it. Others may listen, too.
pub(super) fn heard(link: &Link) -> Vec<(SocketAddr, UdpSocket)> {
    let groups: [(IpAddr, u16); 2] = if link.address.is_ipv4() {
        let all = Ipv4Addr::new(224, 0, 0, 1);
        [
            (all.into(), CLIENT_PORT),
            (ssdp::GROUP_V4.into(), ssdp::PORT),
        ]
    } else {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        [
            (all.into(), CLIENT_PORT),
            (ssdp::GROUP_V6.into(), ssdp::PORT),
        ]
    };
    let mut sockets = Vec::new();
    for (group, port) in groups {
        let group_at = SocketAddr::new(group, port);
        match listener(group_at, link.address, link.index).and_then(ready) {
            Ok(socket) => sockets.push((group_at, socket)),
            Err(error) => tracing::debug!(%group, port, %error, "announcements are not heard"),
        }
    }
    sockets
}

fn new(link: &Link) -> io::Result<Socket> {
    let domain = if link.address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bound(socket: Socket, place: SocketAddr) -> io::Result<UdpSocket> {
    socket.bind(&place.into())?;
    ready(socket)
}

fn ready(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}
