//! What a discovery has found.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::punch::{Filtering, NatReport};

/// Everything that a [`Discovery`](super::Discovery) knows. `None` is unknown, never "no".
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// Whether any server has answered.
    pub reachable: bool,
    /// The shortest round trip that was seen.
    pub round_trip: Option<Duration>,
    /// Requests that were sent once and not answered, out of all that a server that answers
    /// was sent once: 0 to 1.
    pub loss: Option<f64>,
    /// The addresses at which servers saw the main socket, each once.
    pub mapped: Vec<SocketAddr>,
    /// Whether an address is translated on the way; false where servers see the host's own.
    pub translated: Option<bool>,
    /// What the NATs do, which look like one from the inside. `filtering` is what a firewall
    /// does, too, where nothing is translated.
    pub nat: Option<NatReport>,
    /// Whether a packet to one of the host's own mapped addresses comes back to it (RFC 4787
    /// section 6); `None` where nothing is translated, and where mapping and filtering hide it.
    pub hairpin: Option<bool>,
    /// Whether all mappings of this host have the same IP address, "paired" in RFC 4787
    /// section 4.1.
    pub paired: Option<bool>,
    /// Whether datagrams larger than a frame arrive in both directions (RFC 4787 section 11).
    pub fragments: Option<bool>,
    /// How many routers away the outermost NAT or firewall is that filters: 1 is the host's own
    /// router, 0 the host itself. `None` where nothing filters, where each destination has a
    /// mapping of its own, and with servers of one address.
    pub distance: Option<u8>,
    /// The routers on the way, the nearest first, as far as they have said who they are.
    pub hops: Vec<Option<IpAddr>>,
    /// The server that answered with two addresses, and its other endpoint.
    pub two_addresses: Option<(SocketAddr, SocketAddr)>,
    /// How many mappings were sampled.
    pub samples: usize,
}

impl Findings {
    /// From whom packets come in, as far as it is known.
    #[must_use]
    pub fn filtering(&self) -> Filtering {
        self.nat.map_or(Filtering::Unknown, |nat| nat.filtering)
    }

    /// The public address of the main socket.
    #[must_use]
    pub fn public_ip(&self) -> Option<IpAddr> {
        self.mapped.first().map(SocketAddr::ip)
    }

    /// How many translators there are between this host, which has the address `own`, and the
    /// internet, by the private networks on the way: each ends at one. `None` where the routers
    /// have not said enough.
    #[must_use]
    pub fn layers(&self, own: IpAddr) -> Option<u8> {
        let mut current = Network::of(own)?;
        let mut layers = 1_u8;
        // The first router is in the host's own network, whether it says so or not.
        let beyond = self.hops.iter().skip(1);
        for router in beyond.map_while(|router| *router) {
            // The first public address is beyond the last translator.
            let Some(network) = Network::of(router) else {
                return Some(layers);
            };
            if network != current {
                layers = layers.saturating_add(1);
            }
            current = network;
        }
        let nearest = self.distance == Some(1);
        (layers > 1 || nearest).then_some(layers)
    }
}

/// A private network in which packets find their way without being translated, as far as its
/// addresses tell: companies route within the first two, homes have one of the third each
/// (RFC 1918), and between them and a carrier's translator is the last (RFC 6598).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Ten,
    OneSevenTwo,
    OneNineTwo(u8),
    Carrier,
}

impl Network {
    /// `None` of a public address.
    const fn of(ip: IpAddr) -> Option<Self> {
        let IpAddr::V4(ip) = ip else {
            return None;
        };
        match ip.octets() {
            [10, ..] => Some(Self::Ten),
            [172, 16..=31, ..] => Some(Self::OneSevenTwo),
            [192, 168, number, _] => Some(Self::OneNineTwo(number)),
            [100, 64..=127, ..] => Some(Self::Carrier),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(own: &str, hops: &[&str], distance: Option<u8>) -> Option<u8> {
        let hops = hops.iter().map(|hop| hop.parse().ok()).collect();
        let findings = Findings {
            hops,
            distance,
            ..Findings::default()
        };
        findings.layers(own.parse().unwrap())
    }

    #[test]
    fn private_networks_on_the_way_are_counted() {
        for (own, hops, expected) in [
            ("192.168.1.2", &["192.168.1.1", "45.0.0.1"][..], Some(1)),
            (
                "192.168.1.2",
                &["192.168.1.1", "100.64.0.1", "45.0.0.1"],
                Some(2),
            ),
            (
                "192.168.1.2",
                &["192.168.1.1", "192.168.3.1", "45.0.0.1"],
                Some(2),
            ),
            (
                "192.168.1.2",
                &[
                    "192.168.1.1",
                    "192.168.3.1",
                    "100.64.0.1",
                    "100.65.0.1",
                    "45.0.0.1",
                ],
                Some(3),
            ),
            // A company that routes within its network.
            ("10.1.2.3", &["10.1.2.1", "10.1.0.1", "45.0.0.1"], Some(1)),
            // A phone.
            ("100.70.0.2", &["100.70.0.1", "45.0.0.1"], Some(1)),
            ("192.168.1.2", &["?", "45.0.0.1"], Some(1)),
            ("192.168.1.2", &["192.168.1.1", "?", "45.0.0.1"], None),
            ("192.168.1.2", &["192.168.1.1", "100.64.0.1", "?"], Some(2)),
            ("45.0.0.2", &["192.168.1.1", "45.0.0.1"], None),
            ("192.168.1.2", &[], None),
        ] {
            assert_eq!(layers(own, hops, None), expected, "{own} {hops:?}");
        }
    }

    #[test]
    fn routers_that_say_nothing_are_one_where_the_filter_is_the_first() {
        assert_eq!(layers("192.168.1.2", &[], Some(1)), Some(1));
        assert_eq!(layers("192.168.1.2", &[], Some(2)), None);
    }
}
