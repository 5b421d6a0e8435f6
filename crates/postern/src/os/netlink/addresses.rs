//! What the kernel tells of addresses, links and routes (rtnetlink).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::bytes::Arrived;

/// The multicast groups of rtnetlink, as bits: `RTMGRP_LINK`, and addresses and routes of both
/// families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// `RTM_NEWLINK` to `RTM_DELLINK`, `RTM_NEWADDR` to `RTM_DELADDR`, `RTM_NEWROUTE` to
/// `RTM_DELROUTE`.
const CHANGES: [u16; 6] = [16, 17, 20, 21, 24, 25];

/// A socket that is told when addresses, links and routes change, and does not wait for it. It
/// needs no rights.
pub(crate) fn watch_addresses() -> io::Result<OwnedFd> {
    listening(GROUPS)
}

/// A socket of rtnetlink in these groups.
pub(super) fn listening(groups: u32) -> io::Result<OwnedFd> {
    // Without a protocol it is that of routes.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Whether what such a socket has received tells of a change.
pub(crate) fn tells_change(mut told: &[u8]) -> bool {
    let mut kinds = std::iter::from_fn(|| Arrived::cut(&mut told)).map(|arrived| arrived.kind);
    kinds.any(|kind| CHANGES.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16) -> Vec<u8> {
        let mut message = vec![0; 20];
        message[..4].copy_from_slice(&20_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message
    }

    #[test]
    fn addresses_links_and_routes_count_and_nothing_else_does() {
        for kind in CHANGES {
            assert!(tells_change(&message(kind)));
            // A neighbour, and then this.
            assert!(tells_change(&[message(28), message(kind)].concat()));
        }
        assert!(!tells_change(&message(28)));
        assert!(!tells_change(&message(20)[..19]));
        assert!(!tells_change(&[]));
    }
}
