//! NAT64: IPv4 candidates of the peer from a host that has IPv6 only (RFC 6052, 7050, 8781).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::agent::Agent;
use super::candidate::{Candidate, unscoped};

/// The addresses of ipv4only.arpa (RFC 7050 section 2.2).
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// The lengths that a prefix may have (RFC 6052 section 2.2).
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];
/// Bits 64 to 71 are zero whatever the prefix (RFC 6052 section 2.2).
const ZERO: usize = 8;

/// The prefix under which a translator takes IPv4 addresses (RFC 6052 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat64Prefix {
    prefix: Ipv6Addr,
    length: u8,
}

/// As prefixes are written: `64:ff9b::/96`.
impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.length)
    }
}

/// Not a prefix of a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a NAT64 prefix has 32, 40, 48, 56, 64 or 96 bits, and zeros after them")]
pub struct Nat64PrefixError;

impl Nat64Prefix {
    /// A prefix, from a router advertisement (RFC 8781), say.
    ///
    /// # Errors
    ///
    /// [`Nat64PrefixError`] if the length is none of 32, 40, 48, 56, 64 and 96, or other bits than the
    /// prefix's are set.
    pub fn new(prefix: Ipv6Addr, length: u8) -> Result<Self, Nat64PrefixError> {
        let made = Self { prefix, length };
        let bits = u128::from(prefix);
        let rest = bits.checked_shl(u32::from(length)).unwrap_or_default();
        if LENGTHS.contains(&length) && rest == 0 && prefix.octets().get(ZERO) == Some(&0) {
            Ok(made)
        } else {
            Err(Nat64PrefixError)
        }
    }

    /// The prefix in the addresses of the name `ipv4only.arpa`, which has IPv4 addresses alone
    /// (RFC 7050 section 3). None if there is no translator, or the answer is ambiguous.
    pub fn discover(addresses: impl IntoIterator<Item = Ipv6Addr>) -> Option<Self> {
        addresses.into_iter().find_map(|address| {
            let mut found = LENGTHS.into_iter().filter_map(|length| {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length)))?;
                let prefix = Ipv6Addr::from(u128::from(address) & mask);
                let made = Self::new(prefix, length).ok()?;
                let v4 = made.extract(address)?;
                WELL_KNOWN.contains(&v4).then_some(made)
            });
            let first = found.next();
            first.filter(|_| found.next().is_none())
        })
    }

    /// The IPv6 address under which an IPv4 address is reached.
    pub fn synthesise(&self, v4: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.octets();
        let places = octets.iter_mut().enumerate();
        let places = places.filter(|(at, _)| self.holds(*at));
        for ((_, place), octet) in places.zip(v4.octets()) {
            *place = octet;
        }
        octets.into()
    }

    /// The IPv4 address that is reached under an IPv6 address; none if that is outside the prefix.
    pub fn extract(&self, v6: Ipv6Addr) -> Option<Ipv4Addr> {
        let mut v4 = [0; 4];
        let octets = v6.octets();
        let places = octets.iter().enumerate().filter(|(at, _)| self.holds(*at));
        for (octet, (_, place)) in v4.iter_mut().zip(places) {
            *octet = *place;
        }
        let v4 = Ipv4Addr::from(v4);
        let prefix = self.synthesise(v4).octets();
        let end = usize::from(self.length / 8);
        let same = prefix
            .iter()
            .zip(octets)
            .take(end.max(ZERO.saturating_add(1)));
        same.clone()
            .all(|(ours, theirs)| *ours == theirs)
            .then_some(v4)
    }

    /// Whether the octet at this place may be one of the IPv4 address.
    fn holds(&self, at: usize) -> bool {
        let first = usize::from(self.length / 8);
        let skip = usize::from(first <= ZERO);
        let last = first.saturating_add(4).saturating_add(skip);
        (first..last).contains(&at) && at != ZERO
    }
}

impl Agent {
    /// Tells the prefix of the NAT64 in front of this host, or that there is none.
    ///
    /// While all hosts are IPv6, the peer's IPv4 candidates are tried through it, and IPv4 STUN servers
    /// are asked through it. Private addresses are not behind it.
    pub fn set_nat64_prefix(&mut self, now: Instant, prefix: Option<Nat64Prefix>) {
        self.nat64 = prefix;
        self.synthesise_candidates();
        self.ask_through_nat64(now);
        self.work(now);
    }

    /// Whether a path leads through the NAT64 in front of this host.
    pub fn is_through_nat64(&self, path: &super::Path) -> bool {
        self.in_nat64(path.remote)
    }

    pub(super) fn in_nat64(&self, address: SocketAddr) -> bool {
        let prefix = self.nat64.as_ref();
        match address.ip() {
            IpAddr::V6(ip) => prefix.is_some_and(|prefix| prefix.extract(ip).is_some()),
            IpAddr::V4(_) => false,
        }
    }

    /// Where an IPv4 address is reached from here, if a NAT64 is what it takes.
    pub(super) fn through_nat64(&self, address: SocketAddr) -> Option<SocketAddr> {
        let mut hosts = self.locals.host_bases().peekable();
        let six_only = hosts.peek().is_some() && hosts.all(|host| host.address.is_ipv6());
        let prefix = self.nat64.as_ref().filter(|_| six_only)?;
        match address.ip() {
            IpAddr::V4(ip) if !ip.is_private() && !ip.is_loopback() && !ip.is_link_local() => {
                let ip = prefix.synthesise(ip);
                Some(SocketAddr::new(ip.into(), address.port()))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// Adds what the peer's IPv4 candidates are to this host.
    pub(super) fn synthesise_candidates(&mut self) {
        let remotes = self.remotes.iter();
        let synthesised: Vec<_> = remotes
            .filter_map(|remote| {
                let address = self.through_nat64(remote.address)?;
                Some(Candidate {
                    address: unscoped(address),
                    ..remote.clone()
                })
            })
            .collect();
        let (components, loopback) = (self.config.components, self.config.allow_loopback);
        for candidate in synthesised {
            self.remotes.add(candidate, components, loopback);
        }
        self.pair_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// RFC 6052 section 2.4, with 192.0.2.33.
    const EXAMPLES: [(&str, u8, &str); 6] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
    ];

    #[test]
    fn addresses_are_those_of_the_rfc_and_lead_back() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, length, expected) in EXAMPLES {
            let prefix = Nat64Prefix::new(v6(prefix), length).unwrap();
            assert_eq!(prefix.synthesise(v4), v6(expected), "{length}");
            assert_eq!(prefix.extract(v6(expected)), Some(v4), "{length}");
            assert_eq!(prefix.extract(v6("2001:dead::1")), None);
        }
    }

    #[test]
    fn the_prefix_is_found_in_the_addresses_of_ipv4only_arpa() {
        for (prefix, length, _) in EXAMPLES {
            let prefix = Nat64Prefix::new(v6(prefix), length).unwrap();
            for known in WELL_KNOWN {
                let found = Nat64Prefix::discover([prefix.synthesise(known)]);
                assert_eq!(found, Some(prefix), "{length}");
            }
        }
        assert_eq!(Nat64Prefix::discover([v6("2001:db8::1")]), None);
        assert_eq!(Nat64Prefix::discover([]), None);
    }

    #[test]
    fn lengths_and_bits_beyond_them_are_looked_at() {
        for (prefix, length) in [
            ("64:ff9b::", 95),
            ("64:ff9b::1", 96),
            ("64:ff9b::", 0),
            ("64:ff9b::", 128),
            ("2001:db8:0:0:ff00::", 96),
        ] {
            assert_eq!(Nat64Prefix::new(v6(prefix), length), Err(Nat64PrefixError));
        }
    }
}
