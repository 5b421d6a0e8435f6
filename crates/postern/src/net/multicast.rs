//! Sockets that hear what is told to a group.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

/// All hosts are members of this group.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// A socket that hears what is told to a group on one link: that of an address of this machine and
/// of the interface with a number. Other programs may listen there, too.
///
/// # Errors
///
/// What the system said; also when the group and the address are not of one family.
pub(crate) fn listener(group: SocketAddr, address: IpAddr, interface: u32) -> io::Result<Socket> {
    let domain = Domain::for_address(group);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    let place = match (group.ip(), address) {
        (IpAddr::V4(ip), IpAddr::V4(address)) => {
            if ip != ALL_HOSTS {
                socket.join_multicast_v4(&ip, &address)?;
            }
            group
        }
        (IpAddr::V6(ip), _) => {
            socket.set_only_v6(true)?;
            socket.join_multicast_v6(&ip, interface)?;
            SocketAddrV6::new(ip, group.port(), 0, interface).into()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    socket.bind(&place.into())?;
    Ok(socket)
}
