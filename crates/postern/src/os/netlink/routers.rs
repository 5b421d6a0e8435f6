//! What the kernel tells of router advertisements (rtnetlink): options that it has no use for
//! itself.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use super::addresses::listening;
use super::bytes::{Arrived, find};

/// The multicast group (`RTNLGRP_ND_USEROPT`), as a bit.
const GROUP: u32 = 1 << (20 - 1);
/// `RTM_NEWNDUSEROPT`.
const OPTION: u16 = 68;
/// `AF_INET6`.
const IPV6: u8 = 10;
/// The ICMPv6 type of a router advertisement.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// The router's address (`NDUSEROPT_SRCADDR`).
const SOURCE: u16 = 1;

/// Options of an advertisement. The kernel has checked that the router is on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouterOptions<'a> {
    /// The number of the interface.
    pub(crate) interface: u32,
    pub(crate) router: Ipv6Addr,
    /// One or more, as they were on the wire.
    pub(crate) options: &'a [u8],
}

/// A socket that is told of options, and does not wait for them. It needs no rights.
pub(crate) fn watch_routers() -> io::Result<OwnedFd> {
    listening(GROUP)
}

/// The options in what such a socket has received.
pub(crate) fn router_options(mut told: &[u8]) -> impl Iterator<Item = RouterOptions<'_>> {
    std::iter::from_fn(move || Arrived::cut(&mut told))
        .filter(|arrived| arrived.kind == OPTION)
        .filter_map(|arrived| read(arrived.payload))
}

/// Reads `struct nduseroptmsg`, its options and its attributes.
fn read(payload: &[u8]) -> Option<RouterOptions<'_>> {
    let (head, rest) = payload.split_first_chunk::<16>()?;
    let [family, _, l0, l1, i0, i1, i2, i3, kind, ..] = *head;
    if (family, kind) != (IPV6, ROUTER_ADVERTISEMENT) {
        return None;
    }
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    let (options, attributes) = rest.split_at_checked(length)?;
    let router: [u8; 16] = find(attributes, SOURCE)?.try_into().ok()?;
    Some(RouterOptions {
        interface: u32::from_ne_bytes([i0, i1, i2, i3]),
        router: router.into(),
        options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 tells it of an advertisement with PREF64.
    fn told() -> Vec<u8> {
        let mut told = Vec::new();
        told.extend(68_u32.to_ne_bytes());
        told.extend(OPTION.to_ne_bytes());
        told.extend([0; 10]);
        told.extend([IPV6, 0]);
        told.extend(16_u16.to_ne_bytes());
        told.extend(7_u32.to_ne_bytes());
        told.extend([ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
        told.extend([38, 2, 0x07, 0x08, 0, 0x64, 0xff, 0x9b]);
        told.extend([0; 8]);
        told.extend(20_u16.to_ne_bytes());
        told.extend(SOURCE.to_ne_bytes());
        told.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        told
    }

    #[test]
    fn an_option_is_read_with_its_router_and_its_interface() {
        let mut told = told();
        let found: Vec<_> = router_options(&told).collect();
        let [one] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (one.interface, one.router.to_string().as_str()),
            (7, "fe80::1")
        );
        assert_eq!(one.options, &told[32..48]);
        for length in 0..told.len() {
            assert_eq!(router_options(&told[..length]).count(), 0, "{length}");
        }
        told[4] = 16;
        assert_eq!(router_options(&told).count(), 0);
    }
}
