//! Which peers a relay may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An address prefix, as in `192.0.2.0/24`. Bits behind the prefix are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// The addresses that share the first `length` bits with `network`; `None` if the
    /// family has fewer bits.
    #[must_use]
    pub const fn new(network: IpAddr, length: u8) -> Option<Self> {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        if length > bits {
            return None;
        }
        Some(Self { network, length })
    }

    /// One address alone.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self {
            network: address,
            length,
        }
    }

    /// The address of the network, with the bits behind the prefix as they were given.
    #[must_use]
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits the addresses share.
    #[must_use]
    pub const fn prefix_length(&self) -> u8 {
        self.length
    }

    /// The first and the last address.
    #[must_use]
    pub fn bounds(&self) -> (IpAddr, IpAddr) {
        match self.network {
            IpAddr::V4(ip) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or_default();
                let (first, last) = (ip.to_bits() & !host, ip.to_bits() | host);
                (
                    Ipv4Addr::from_bits(first).into(),
                    Ipv4Addr::from_bits(last).into(),
                )
            }
            IpAddr::V6(ip) => {
                let host = u128::MAX
                    .checked_shr(self.length.into())
                    .unwrap_or_default();
                let (first, last) = (ip.to_bits() & !host, ip.to_bits() | host);
                (
                    Ipv6Addr::from_bits(first).into(),
                    Ipv6Addr::from_bits(last).into(),
                )
            }
        }
    }

    /// The prefix with these bounds; `None` if there is none.
    #[must_use]
    pub fn spanning(first: IpAddr, last: IpAddr) -> Option<Self> {
        let length = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let prefix = Self::new(first, u8::try_from(length).ok()?)?;
        (prefix.bounds() == (first, last)).then_some(prefix)
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.length <= other.length {
            self.contains(other.network)
        } else {
            other.contains(self.network)
        }
    }

    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.network, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(
                u128::from(a.to_bits()),
                u128::from(b.to_bits()),
                32_u32.saturating_sub(length),
            ),
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                same(a.to_bits(), b.to_bits(), 128_u32.saturating_sub(length))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn same(a: u128, b: u128, ignored: u32) -> bool {
    (a ^ b).checked_shr(ignored).unwrap_or_default() == 0
}

/// Why text is not a [`Cidr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or ADDRESS/PREFIX-LENGTH")]
pub struct CidrError;

/// `ADDRESS/LENGTH`, or an address alone.
impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (network, length) = match text.split_once('/') {
            Some((network, length)) => (network, Some(length.parse().map_err(|_| CidrError)?)),
            None => (text, None),
        };
        let network: IpAddr = network.parse().map_err(|_| CidrError)?;
        let all = if network.is_ipv4() { 32 } else { 128 };
        Self::new(network, length.unwrap_or(all)).ok_or(CidrError)
    }
}

/// What is never a peer unless an operator says so: no global unicast address, or one
/// that leads into an IPv4 address by another way.
const DENIED_V4: &[([u8; 4], u8)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// The same for IPv6.
const DENIED_V6: &[([u16; 8], u8)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 96),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48),
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28),
    ([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Which peers a relay may reach.
///
/// A rule of the operator decides where there is one: the most specific, and of two that
/// are equally specific the one that denies. Where there is none, everything is allowed
/// but what is not on the public internet and the server's own addresses. Addresses that
/// contain an IPv4 address (mapped, compatible, NAT64, 6to4) are denied also when that
/// is. No rule allows the ports that the server itself listens at.
#[derive(Debug, Clone, Default)]
pub struct PeerPolicy {
    rules: Vec<Rule>,
    own: Vec<IpAddr>,
    endpoints: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    cidr: Cidr,
    allow: bool,
}

/// What a policy says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerVerdict {
    /// Any port may be reached.
    Allowed,
    /// It is this server: only ports that are live relayed addresses may be reached.
    Own,
    /// Out of bounds.
    Denied,
}

impl PeerPolicy {
    /// The safe default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows these addresses (`--allow-peer`).
    #[must_use]
    pub fn allow(mut self, cidr: Cidr) -> Self {
        self.rules.push(Rule { cidr, allow: true });
        self
    }

    /// Denies these addresses (`--deny-peer`).
    #[must_use]
    pub fn deny(mut self, cidr: Cidr) -> Self {
        self.rules.push(Rule { cidr, allow: false });
        self
    }

    /// Denies an address of the server itself: of a listener, of metrics, of a database.
    /// The relay's own addresses are added by [`Server::new`](super::Server::new).
    #[must_use]
    pub fn own(mut self, ip: IpAddr) -> Self {
        self.own.push(ip.to_canonical());
        self
    }

    /// Denies one port of the server itself, of whatever transport, also where a rule
    /// allows the address. An unspecified address stands for all own ones and loopback.
    #[must_use]
    pub fn own_endpoint(mut self, endpoint: SocketAddr) -> Self {
        self.endpoints.push(SocketAddr::new(
            endpoint.ip().to_canonical(),
            endpoint.port(),
        ));
        self
    }

    /// Whether any port of it may be reached.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.verdict(ip) == PeerVerdict::Allowed
    }

    /// Whether the server itself listens there.
    pub(super) fn is_own_endpoint(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        let inner = embedded(ip).map(IpAddr::from);
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.port() == peer.port())
            .any(|endpoint| {
                self.leads_to(endpoint.ip(), ip)
                    || inner.is_some_and(|inner| self.leads_to(endpoint.ip(), inner))
            })
    }

    /// Whether what is sent to `ip` comes to who listens at `own`.
    fn leads_to(&self, own: IpAddr, ip: IpAddr) -> bool {
        let is_everywhere = own.is_unspecified();
        own == ip
            || ip.is_unspecified()
            || (is_everywhere && (ip.is_loopback() || self.own.contains(&ip)))
    }

    /// What holds for an address as such, with any port.
    pub(super) fn verdict(&self, ip: IpAddr) -> PeerVerdict {
        let ip = ip.to_canonical();
        let inner = embedded(ip).map(|ip| self.plain_verdict(ip.into()));
        match (self.plain_verdict(ip), inner) {
            (verdict, None | Some(PeerVerdict::Allowed)) => verdict,
            (_, Some(PeerVerdict::Own | PeerVerdict::Denied)) => PeerVerdict::Denied,
        }
    }

    fn plain_verdict(&self, ip: IpAddr) -> PeerVerdict {
        match self.rule(ip) {
            Some(rule) if rule.allow => PeerVerdict::Allowed,
            Some(_) => PeerVerdict::Denied,
            None if self.own.contains(&ip) => PeerVerdict::Own,
            None if denied_by_default(ip) => PeerVerdict::Denied,
            None => PeerVerdict::Allowed,
        }
    }

    fn rule(&self, ip: IpAddr) -> Option<Rule> {
        self.rules
            .iter()
            .filter(|rule| rule.cidr.contains(ip))
            .max_by_key(|rule| (rule.cidr.length, !rule.allow))
            .copied()
    }
}

fn denied_by_default(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => DENIED_V4.iter().any(|(network, length)| {
            let network = Ipv4Addr::from(*network).into();
            Cidr::new(network, *length).is_some_and(|cidr| cidr.contains(ip))
        }),
        IpAddr::V6(_) => DENIED_V6.iter().any(|(network, length)| {
            let network = Ipv6Addr::from(*network).into();
            Cidr::new(network, *length).is_some_and(|cidr| cidr.contains(ip))
        }),
    }
}

/// The IPv4 address that packets to an IPv6 address may end at. Mapped ones have been
/// unwrapped before.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else {
        return None;
    };
    let bits = ip.to_bits();
    let low = Some(Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => low,
        [0x2002, ..] => Some(Ipv4Addr::from_bits(((bits >> 80) & 0xffff_ffff) as u32)),
        _ => None,
    }
}
