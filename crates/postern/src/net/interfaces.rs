//! The addresses of this machine.

use std::io;
use std::net::IpAddr;

/// Most host addresses offered: every one costs checks on both sides.
const MAX_ADDRESSES: usize = 16;

/// Which addresses of this machine may be offered to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressFilter {
    /// Addresses that another machine can reach.
    Network,
    /// Loopback as well: the peer may be on this machine.
    WithLoopback,
}

/// The addresses of the interfaces that are up, most useful first: IPv6, then IPv4, then
/// loopback. Link-local addresses are left out, because they mean nothing without a
/// zone that the peer cannot know.
pub(crate) fn host_addresses(filter: AddressFilter) -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let addresses = interfaces.into_iter().map(|interface| interface.ip());
    Ok(choose(addresses, filter))
}

/// All addresses of this machine, whatever they are and however many.
pub(crate) fn all_host_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    Ok(interfaces.iter().map(if_addrs::Interface::ip).collect())
}

fn choose(addresses: impl Iterator<Item = IpAddr>, filter: AddressFilter) -> Vec<IpAddr> {
    let mut chosen: Vec<IpAddr> = addresses.filter(|ip| is_usable(ip, filter)).collect();
    chosen.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv4()));
    chosen.dedup();
    chosen.truncate(MAX_ADDRESSES);
    chosen
}

fn is_usable(ip: &IpAddr, filter: AddressFilter) -> bool {
    if ip.is_loopback() {
        return filter == AddressFilter::WithLoopback;
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = IpAddr> {
        [
            "127.0.0.1",
            "169.254.7.7",
            "192.168.1.2",
            "fe80::1",
            "2001:db8::2",
            "::1",
        ]
        .into_iter()
        .map(|ip| ip.parse().unwrap())
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_offered() {
        let chosen = choose(all(), AddressFilter::Network);
        let expected: [IpAddr; 2] = [
            "2001:db8::2".parse().unwrap(),
            "192.168.1.2".parse().unwrap(),
        ];
        assert_eq!(chosen, expected);
    }

    #[test]
    fn loopback_comes_last_when_it_is_wanted() {
        let chosen = choose(all(), AddressFilter::WithLoopback);
        assert_eq!(chosen.len(), 4);
        assert!(chosen.iter().skip(2).all(IpAddr::is_loopback));
    }
}
