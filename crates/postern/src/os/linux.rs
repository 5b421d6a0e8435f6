use std::io;

use mio::net::UdpSocket;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::process::{Resource, getrlimit, setrlimit};

pub(super) fn set_may_fragment(socket: &UdpSocket, may: bool) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        let mode = if may {
            Ipv4PathMtuDiscovery::DONT
        } else {
            Ipv4PathMtuDiscovery::PROBE
        };
        return Ok(set_ip_mtu_discover(socket, mode)?);
    }
    let mode = if may {
        Ipv6PathMtuDiscovery::DONT
    } else {
        Ipv6PathMtuDiscovery::PROBE
    };
    Ok(set_ipv6_mtu_discover(socket, mode)?)
}

pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
