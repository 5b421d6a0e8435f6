//! Candidates: kinds, priorities and which addresses may be used (RFC 8445 section 5.1).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::tcp::TcpType;

/// Where a candidate comes from (RFC 8445 section 5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// An address that a peer saw in a check.
    PeerReflexive,
    /// An address that a STUN server saw.
    ServerReflexive,
    /// An address at a TURN server.
    Relayed,
}

impl CandidateKind {
    /// The type preference recommended by RFC 8445 section 5.1.2.2.
    pub(super) fn preference(self) -> u8 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::ServerReflexive => 100,
            Self::Relayed => 0,
        }
    }

    /// The name in SDP: `host`, `prflx`, `srflx` or `relay`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::PeerReflexive => "prflx",
            Self::ServerReflexive => "srflx",
            Self::Relayed => "relay",
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A transport address that may lead to a peer (RFC 8445 section 5.1), over UDP or TCP.
///
/// Reads and writes itself as the SDP attribute of RFC 8839 section 5.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// 1 to 32 ice-chars; candidates that are likely to work alike have the same one.
    pub foundation: String,
    /// 1 to 256; agents of this crate use component 1 only.
    pub component: u16,
    /// 1 to 2³¹ - 1; higher is better.
    pub priority: u32,
    /// Where the candidate can be reached.
    pub address: SocketAddr,
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The base of a reflexive candidate, the mapped address of a relayed one. For people:
    /// the agent does nothing with it.
    pub related: Option<SocketAddr>,
    /// Which way connections to it are opened (RFC 6544), if it is one of TCP; none for UDP.
    pub tcp: Option<TcpType>,
}

/// The highest priority (RFC 8445 section 5.1.2): 2³¹ - 1.
pub(super) const MAX_PRIORITY: u32 = 0x7fff_ffff;

/// The only component of a data session.
pub(super) const COMPONENT: u16 = 1;

/// A candidate's priority (RFC 8445 section 5.1.2.1).
pub(super) fn priority(kind: CandidateKind, local_preference: u16, component: u16) -> u32 {
    let component = 256_u32.saturating_sub(u32::from(component));
    (u32::from(kind.preference()) << 24) | (u32::from(local_preference) << 8) | (component & 0xff)
}

/// The priority of a candidate over TCP (RFC 6544 section 4.2). The type preferences keep the order
/// of those over UDP and are below all direct ones of them; behind a NAT, simultaneous open
/// is preferred, elsewhere the active side.
pub(super) fn tcp_priority(kind: CandidateKind, tcp: TcpType, order: usize) -> u32 {
    let (kind, direction): (u32, u32) = match (kind, tcp) {
        (CandidateKind::Host, TcpType::Active) => (90, 6),
        (CandidateKind::Host, TcpType::Passive) => (90, 4),
        (CandidateKind::Host, TcpType::SimultaneousOpen) => (90, 2),
        (CandidateKind::PeerReflexive, tcp) => (80, reflexive_direction(tcp)),
        (CandidateKind::ServerReflexive, tcp) => (70, reflexive_direction(tcp)),
        (CandidateKind::Relayed, tcp) => (0, reflexive_direction(tcp)),
    };
    let other = 8191_u32.saturating_sub(u32::try_from(order).unwrap_or(u32::MAX));
    (kind << 24) | (direction << 21) | (other << 8) | 0xff
}

fn reflexive_direction(tcp: TcpType) -> u32 {
    match tcp {
        TcpType::SimultaneousOpen => 6,
        TcpType::Active => 4,
        TcpType::Passive => 2,
    }
}

/// The local preference: IPv6 above IPv4, then by the order in which hosts were added,
/// then by the order of the reflexive candidates of one base. Distinct, as section 5.1.2.1 asks.
pub(super) fn local_preference(address: SocketAddr, host_order: u8, reflexive_order: u8) -> u16 {
    let family = u16::from(address.is_ipv6()) << 15;
    let host = u16::from(127_u8.saturating_sub(host_order)) << 8;
    family | host | u16::from(u8::MAX.saturating_sub(reflexive_order))
}

/// Whether a datagram may be sent to the address at all: not to port 0, nor to unspecified,
/// multicast or broadcast addresses, and to loopback only when allowed.
pub(super) fn is_usable(address: SocketAddr, allow_loopback: bool) -> bool {
    let ip = address.ip();
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && (allow_loopback || !ip.is_loopback())
        && match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && ip.octets().first() != Some(&0),
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
        }
}

/// Whether a pair of the two addresses makes sense (RFC 8445 section 6.1.2.2): the same
/// family, and link-local or loopback addresses only among themselves.
pub(super) fn can_pair(local: SocketAddr, remote: SocketAddr) -> bool {
    local.is_ipv4() == remote.is_ipv4()
        && is_link_local_v6(local) == is_link_local_v6(remote)
        && local.ip().is_loopback() == remote.ip().is_loopback()
}

/// The address without flow label and scope: what two machines can agree on.
pub(super) fn unscoped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// The remote address with the scope of the local one where it needs a scope.
pub(super) fn scoped(remote: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (remote, local) {
        (SocketAddr::V6(remote), SocketAddr::V6(local)) if is_link_local(*remote.ip()) => {
            SocketAddrV6::new(*remote.ip(), remote.port(), 0, local.scope_id()).into()
        }
        _ => unscoped(remote),
    }
}

fn is_link_local_v6(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if is_link_local(ip))
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()
        .first()
        .is_some_and(|first| first & 0xffc0 == 0xfe80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn priorities_follow_the_formula() {
        // 126 · 2^24 + 65535 · 2^8 + (256 - 1)
        assert_eq!(priority(CandidateKind::Host, 65535, 1), 2_130_706_431);
        assert_eq!(priority(CandidateKind::Relayed, 0, 256), 0);
    }

    #[test]
    fn the_kind_outweighs_the_family_which_outweighs_the_order() {
        let (v4, v6) = (at("192.0.2.1:1"), at("[2001:db8::1]:1"));
        let host = |a, n| priority(CandidateKind::Host, local_preference(a, n, 0), 1);
        let srflx =
            |a, n, r| priority(CandidateKind::ServerReflexive, local_preference(a, n, r), 1);
        assert!(host(v6, 1) > host(v4, 0));
        assert!(host(v4, 0) > host(v4, 1));
        assert!(host(v4, 1) > srflx(v6, 0, 0));
        assert!(srflx(v4, 0, 0) > srflx(v4, 0, 1));
        assert!(srflx(v4, 0, 255) > srflx(v4, 1, 0));
    }

    #[test]
    fn tcp_is_below_udp_and_its_direction_counts_before_the_order_of_hosts() {
        use TcpType::{Active, Passive, SimultaneousOpen};
        // 90 · 2^24 + (2^13 · 6 + 8191) · 2^8 + (256 - 1)
        let active = tcp_priority(CandidateKind::Host, Active, 0);
        assert_eq!(active, 1_524_629_503);
        let host = |tcp, order| tcp_priority(CandidateKind::Host, tcp, order);
        assert!(host(Active, 7) > host(Passive, 0));
        assert!(host(Passive, 7) > host(SimultaneousOpen, 0));
        let srflx = |tcp| tcp_priority(CandidateKind::ServerReflexive, tcp, 0);
        assert!(srflx(SimultaneousOpen) > srflx(Active));
        assert!(srflx(Active) > srflx(Passive));
        assert!(active < priority(CandidateKind::ServerReflexive, 0, 1));
    }

    #[test]
    fn addresses_that_reach_nobody_or_everybody_are_not_usable() {
        for bad in [
            "192.0.2.1:0",
            "0.0.0.0:9",
            "0.1.2.3:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "127.0.0.1:9",
            "[::]:9",
            "[::1]:9",
            "[ff02::1]:9",
            "[::ffff:192.0.2.1]:9",
        ] {
            assert!(!is_usable(at(bad), false), "{bad}");
        }
        assert!(is_usable(at("127.0.0.1:9"), true));
        assert!(is_usable(at("192.0.2.1:9"), false));
        assert!(is_usable(at("[fe80::1]:9"), false));
    }

    #[test]
    fn families_and_scopes_do_not_mix() {
        assert!(can_pair(at("192.0.2.1:1"), at("10.0.0.1:1")));
        assert!(can_pair(at("[fe80::1]:1"), at("[fe80::2]:1")));
        assert!(!can_pair(at("192.0.2.1:1"), at("[2001:db8::1]:1")));
        assert!(!can_pair(at("[fe80::1]:1"), at("[2001:db8::1]:1")));
        assert!(!can_pair(at("127.0.0.1:1"), at("192.0.2.1:1")));
    }

    #[test]
    fn a_link_local_peer_gets_the_scope_of_our_interface() {
        let local: SocketAddr = SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, 3).into();
        let SocketAddr::V6(remote) = scoped(at("[fe80::2]:1"), local) else {
            panic!("the family changed");
        };
        assert_eq!(remote.scope_id(), 3);
        assert_eq!(scoped(at("[2001:db8::1]:1"), local), at("[2001:db8::1]:1"));
    }
}
