//! How likely a direct connection is, by the agent's own model.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use postern_proto::punch::{Allocation, Filtering, Mapping, NatReport, Plan, PortRange};

use super::facts::Facts;

/// How often two connections that are opened towards each other meet where both NATs map
/// endpoint-independently: 70 % of 4.4 million attempts on the internet (Trautwein et al., 2025).
const TCP_MEETS: f64 = 0.7;

/// A kind of network that the other side may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A machine with an address of its own and an open port.
    Public,
    /// An ordinary router at home.
    Home,
    /// A provider that shares addresses and gives each customer a block of 1,024 ports.
    Carrier,
    /// A company or a provider whose ports cannot be told.
    Strict,
    /// Any of them, if it has IPv6 as well.
    Ipv6,
}

impl Peer {
    /// All of them, the easiest first.
    pub const ALL: [Self; 5] = [
        Self::Public,
        Self::Home,
        Self::Carrier,
        Self::Strict,
        Self::Ipv6,
    ];

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Home => "home",
            Self::Carrier => "carrier",
            Self::Strict => "strict",
            Self::Ipv6 => "ipv6",
        }
    }

    /// What a person calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "a machine with an open port",
            Self::Home => "an ordinary home router",
            Self::Carrier => "a phone or provider that gives each customer a block of ports",
            Self::Strict => "a strict company or phone network",
            Self::Ipv6 => "anybody who has IPv6, too",
        }
    }

    pub(super) fn nat(self) -> NatReport {
        let dependent = |allocation| NatReport {
            mapping: Mapping::AddressAndPortDependent,
            filtering: Filtering::AddressAndPortDependent,
            allocation,
            ..plain()
        };
        match self {
            Self::Public => NatReport {
                filtering: Filtering::EndpointIndependent,
                ..plain()
            },
            // Firewalls of IPv6 translate nothing, and let in answers.
            Self::Home | Self::Ipv6 => plain(),
            Self::Carrier => dependent(Allocation::Random(PortRange {
                first: 20_480,
                last: 21_503,
            })),
            Self::Strict => dependent(Allocation::Random(PortRange::ALL)),
        }
    }
}

/// An ordinary router at home.
pub(super) const fn plain() -> NatReport {
    NatReport {
        mapped: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        allocation: Allocation::Preserving,
        parity: false,
    }
}

/// The chance of a direct connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds {
    /// With whom.
    pub peer: Peer,
    /// 0 to 1.
    pub probability: f64,
}

/// The chance with every kind of peer, by the best way that there is: a port that the router
/// opens, UDP, TCP, IPv6.
pub(super) fn odds(facts: &Facts) -> Vec<Odds> {
    let peers = Peer::ALL.into_iter();
    let peers = peers.filter(|peer| *peer != Peer::Ipv6 || facts.ipv6.reachable);
    peers
        .map(|peer| Odds {
            peer,
            probability: over_udp(facts, peer).max(over_tcp(facts, peer)),
        })
        .collect()
}

fn over_udp(facts: &Facts, peer: Peer) -> f64 {
    let (findings, filtering) = match peer {
        Peer::Ipv6 => (&facts.ipv6, facts.filtering_v6()),
        Peer::Public | Peer::Home | Peer::Carrier | Peer::Strict => (&facts.udp, facts.filtering()),
    };
    if !findings.reachable {
        return 0.0;
    }
    if facts.opens_ports() && peer != Peer::Ipv6 {
        return 1.0;
    }
    let local = findings.nat.map(|nat| NatReport { filtering, ..nat });
    local.map_or(0.0, |local| probability(&local, &peer.nat()))
}

/// Through a proxy there is none: the proxy is not asked to connect to peers.
fn over_tcp(facts: &Facts, peer: Peer) -> f64 {
    match peer {
        _ if !facts.tcp.reachable => 0.0,
        Peer::Public => 1.0,
        Peer::Home if tcp_meets(facts) => TCP_MEETS,
        Peer::Home | Peer::Carrier | Peer::Strict | Peer::Ipv6 => 0.0,
    }
}

/// Whether connections can be opened towards each other from here.
pub(super) fn tcp_meets(facts: &Facts) -> bool {
    let nat = facts.tcp.nat.as_ref().filter(|_| facts.tcp.reachable);
    facts.tcp.translated == Some(false) || nat.is_some_and(is_easy)
}

/// Whether the port that others have to send to is known.
fn is_easy(nat: &NatReport) -> bool {
    match nat.mapping {
        Mapping::EndpointIndependent => true,
        Mapping::Unknown | Mapping::PortIndependent => nat.allocation == Allocation::Preserving,
        Mapping::AddressDependent
        | Mapping::AddressAndPortDependent
        | Mapping::EndpointDependent => false,
    }
}

/// Plain ICE connects a pair if one side lets everybody in, or both map
/// endpoint-independently, or one does and lets in whole addresses; the rest is a matter of
/// luck, as much as the plan says.
fn probability(local: &NatReport, remote: &NatReport) -> f64 {
    let is_open = |nat: &NatReport| {
        let lenient = is_easy(nat) && nat.filtering == Filtering::AddressDependent;
        nat.filtering == Filtering::EndpointIndependent || lenient
    };
    let plain = is_open(local) || is_open(remote) || (is_easy(local) && is_easy(remote));
    if plain {
        return 1.0;
    }
    Plan::new(local, remote).map_or(1.0, |plan| plan.probability)
}
