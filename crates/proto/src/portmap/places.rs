//! Which addresses are on the link, and which are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::types::Config;

/// Whether an address is one that everybody can reach. Addresses of documentation count as
/// private: nobody routes them.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        // Global unicast (RFC 4291 section 2.4), without documentation and 6to4 of old.
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            (0x2000..0x4000).contains(&first) && (first, second) != (0x2001, 0xdb8)
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let protocol = (first, second, third) == (192, 0, 0);
    let benchmark = first == 198 && (18..20).contains(&second);
    !(first == 0
        || first >= 240
        || shared
        || protocol
        || benchmark
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

/// Whether `address` shares the first `prefix` bits with `local`, and is not `local` itself.
#[must_use]
pub fn is_on_link(local: IpAddr, prefix: u8, address: IpAddr) -> bool {
    match (local, address) {
        _ if local == address => false,
        (IpAddr::V4(local), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(u32::from(32_u8.saturating_sub(prefix)));
            (local.to_bits() ^ address.to_bits()) & mask.unwrap_or(0) == 0
        }
        (IpAddr::V6(_), IpAddr::V6(address)) if address.is_unicast_link_local() => true,
        (IpAddr::V6(local), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(u32::from(128_u8.saturating_sub(prefix)));
            (local.to_bits() ^ address.to_bits()) & mask.unwrap_or(0) == 0
        }
        _ => false,
    }
}

impl Config {
    /// Whether we may talk to it at all.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let multicast = address.is_multicast() || address.is_unspecified();
        !multicast
            && !address.is_loopback()
            && (self.gateway == Some(address)
                || !self.only_gateway && is_on_link(self.local.ip(), self.prefix, address))
    }

    /// An address with a port, and with our interface if it is link-local.
    pub(super) fn at(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V6(v6) if needs_scope(v6) => SocketAddrV6::new(v6, port, 0, self.scope).into(),
            IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(address, port),
        }
    }

    pub(super) const fn is_v6(&self) -> bool {
        self.local.is_ipv6()
    }
}

const fn needs_scope(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.is_multicast()
}
