//! What the facts mean, in plain words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use postern_proto::portmap::Protocol;
use postern_proto::punch::{
    Allocation, Filtering, Mapping, NARROW_PORTS, NatReport, Plan, PortRange,
};

use super::facts::Facts;

/// How well this machine can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Neither UDP nor TCP gets out.
    Nothing,
    /// UDP does not get out: connections need a relay.
    Relay,
    /// Directly, by machines behind ordinary routers; not by those behind strict ones.
    Strict,
    /// Directly, by most.
    Direct,
    /// Directly, by everybody, without any help.
    Open,
}

impl Reach {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Relay => "relay",
            Self::Strict => "strict",
            Self::Direct => "direct",
            Self::Open => "open",
        }
    }
}

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
}

impl Peer {
    /// All of them, the easiest first.
    pub const ALL: [Self; 4] = [Self::Public, Self::Home, Self::Carrier, Self::Strict];

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Home => "home",
            Self::Carrier => "carrier",
            Self::Strict => "strict",
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
        }
    }

    fn nat(self) -> NatReport {
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
            Self::Home => plain(),
            Self::Carrier => dependent(Allocation::Random(PortRange {
                first: 20_480,
                last: 21_503,
            })),
            Self::Strict => dependent(Allocation::Random(PortRange::ALL)),
        }
    }
}

/// An ordinary router at home.
const fn plain() -> NatReport {
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

/// What the facts mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How well this machine can be reached.
    pub reach: Reach,
    /// Two or three sentences for people.
    pub summary: String,
    /// What can be done about it, the most useful first; empty if there is nothing to do.
    pub advice: Vec<String>,
    /// Answers that are not certain, and why.
    pub uncertain: Vec<String>,
    /// The chance of a direct connection with each kind of peer.
    pub odds: Vec<Odds>,
}

impl Verdict {
    pub(super) fn of(facts: &Facts) -> Self {
        let reach = reach(facts);
        Self {
            reach,
            summary: summary(facts, reach),
            advice: advice(facts, reach),
            uncertain: uncertain(facts),
            odds: odds(facts),
        }
    }
}

fn reach(facts: &Facts) -> Reach {
    if !facts.udp.reachable && !facts.ipv6.reachable {
        return if facts.tcp_gets_out() {
            Reach::Relay
        } else {
            Reach::Nothing
        };
    }
    // The better one of the two families counts: peers try both.
    let families = [&facts.udp, &facts.ipv6].map(|findings| {
        let nat = findings.nat?;
        Some(match (findings.translated, nat.filtering) {
            (Some(false), Filtering::EndpointIndependent) => Reach::Open,
            _ if nat.filtering == Filtering::EndpointIndependent => Reach::Open,
            _ if is_strict(&nat) => Reach::Strict,
            _ => Reach::Direct,
        })
    });
    // An open IPv6 address helps with those who have one, and that is not everybody.
    let [v4, v6] = families;
    match (v4, v6) {
        (Some(v4), _) => v4,
        (None, Some(v6)) => v6.min(Reach::Direct),
        (None, None) => Reach::Direct,
    }
}

/// Whether another strict network cannot be reached, because ports cannot be told on either
/// side.
fn is_strict(nat: &NatReport) -> bool {
    let narrow = match nat.allocation {
        Allocation::Random(range) => range.count() <= NARROW_PORTS,
        Allocation::Sequential { .. } | Allocation::Preserving => true,
        Allocation::Unknown => false,
    };
    nat.mapping.is_dependent() && !narrow
}

fn summary(facts: &Facts, reach: Reach) -> String {
    let first = match reach {
        Reach::Nothing => {
            let why = facts.server.trouble.as_deref().unwrap_or("nobody answered");
            return format!("Nothing gets out: neither UDP nor TCP reached the server ({why}).");
        }
        Reach::Relay => "Connections work only through a relay: this network lets no UDP out.",
        Reach::Strict => {
            "You can be reached directly from networks with ordinary routers, but not from networks as strict as this one."
        }
        Reach::Direct => "You can be reached directly from most networks.",
        Reach::Open => "You can be reached directly from everywhere.",
    };
    let mut sentences = vec![first.to_owned()];
    sentences.extend(place(facts));
    sentences.join(" ")
}

/// What stands between the machine and the internet.
fn place(facts: &Facts) -> Option<String> {
    if facts.udp.translated == Some(false) {
        let firewall = facts.filtering() != Filtering::EndpointIndependent;
        return Some(match firewall {
            true => {
                "Its address is public, and a firewall lets in only what was asked for.".to_owned()
            }
            false => "Its address is public, and no firewall is in the way.".to_owned(),
        });
    }
    if facts.double_nat() == Some(true) {
        return Some(match facts.second_network().is_some_and(is_carriers) {
            true => "Your provider shares one public address among several customers, so opening ports of your own router does not help.".to_owned(),
            false => "There are two routers in a row that translate addresses; opening ports of the inner one does not help.".to_owned(),
        });
    }
    let gateway = facts.gateway.as_ref()?;
    Some(match gateway.found.is_empty() {
        true => "Your router does not open ports by itself.".to_owned(),
        false => format!(
            "Your router opens ports when programs ask it ({}).",
            protocols(facts)
        ),
    })
}

fn protocols(facts: &Facts) -> String {
    let name = |protocol: &Protocol| match protocol {
        Protocol::Upnp => "UPnP",
        Protocol::NatPmp => "NAT-PMP",
        Protocol::Pcp => "PCP",
    };
    let names: Vec<_> = facts.protocols().iter().map(name).collect();
    names.join(", ")
}

/// The addresses between customers and their provider's NAT (RFC 6598).
fn is_carriers(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if matches!(ip.octets(), [100, 64..=127, ..]))
}

fn advice(facts: &Facts, reach: Reach) -> Vec<String> {
    let mut advice = Vec::new();
    if facts.server.intercepted {
        advice.push("Somebody else answers in place of the server. If this is a network with a log-in page, open a web page first and log in; if not, check the URL of the server.".to_owned());
    }
    match reach {
        Reach::Nothing => {
            advice.push(format!(
                "Check that this machine is online, and that the server runs and TCP port {} to it is allowed.",
                facts.server_port()
            ));
            return advice;
        }
        Reach::Relay => advice.push(format!(
            "Ask whoever runs this network to allow outgoing UDP, at least to {}.",
            facts.udp_target()
        )),
        Reach::Strict => advice.push("If the router is yours, look for a setting such as \"endpoint-independent NAT\", \"static port\" or \"NAT type: open\": it makes the router use one outside port for all destinations.".to_owned()),
        Reach::Direct | Reach::Open => {}
    }
    if reach != Reach::Open && facts.udp.translated == Some(true) {
        advice.extend(about_ports(facts));
    }
    if !facts.ipv6.reachable && reach != Reach::Open {
        advice.push("Switch on IPv6 in the router if your provider has it: then this machine has a public address of its own.".to_owned());
    }
    advice
}

/// How ports could be opened.
fn about_ports(facts: &Facts) -> Option<String> {
    let gateway = facts.gateway.as_ref()?;
    if facts.double_nat() == Some(true) {
        let inner = gateway.external.map(|external| format!(" ({external})"));
        return Some(match facts.second_network().is_some_and(is_carriers) {
            true => "Ask your provider for a public IPv4 address of your own.".to_owned(),
            false => format!(
                "Set the inner router to work as a bridge or access point, or let the outer one send everything to the inner one{} (\"exposed host\" or \"DMZ\").",
                inner.unwrap_or_default()
            ),
        });
    }
    let router = match gateway.router {
        Some(router) => format!(" ({router})"),
        None => String::new(),
    };
    gateway.found.is_empty().then(|| {
        format!("Switch on UPnP, NAT-PMP or PCP in the settings of your router{router}, or forward a port to this machine there by hand.")
    })
}

fn uncertain(facts: &Facts) -> Vec<String> {
    let mut uncertain = Vec::new();
    let Some(nat) = facts.udp.nat else {
        return uncertain;
    };
    let sees = match nat.mapping {
        Mapping::Unknown | Mapping::PortIndependent => Some("one address"),
        Mapping::EndpointDependent => Some("one port of each address"),
        Mapping::EndpointIndependent
        | Mapping::AddressDependent
        | Mapping::AddressAndPortDependent => None,
    };
    if let Some(sees) = sees
        && facts.udp.translated == Some(true)
    {
        uncertain.push(format!(
            "How destinations share a mapping is not fully known: servers could be asked at {sees} only. A second one can be named with --stun."
        ));
    }
    if facts.filtering() == Filtering::Unknown {
        uncertain.push("From whom packets are let in is not known: that takes a server with two addresses (`postern server --alternate-ip`).".to_owned());
    }
    uncertain
}

fn odds(facts: &Facts) -> Vec<Odds> {
    let local = facts.udp.nat.filter(|_| facts.udp.reachable);
    let local = local.map(|nat| NatReport {
        filtering: facts.filtering(),
        ..nat
    });
    let chance = |peer: Peer| local.map_or(0.0, |local| probability(&local, &peer.nat()));
    let odds = Peer::ALL.map(|peer| Odds {
        peer,
        probability: chance(peer),
    });
    odds.to_vec()
}

/// Plain ICE connects a pair if one side lets everybody in, or both map
/// endpoint-independently, or one does and lets in whole addresses; the rest is a matter of
/// luck, as much as the plan says.
fn probability(local: &NatReport, remote: &NatReport) -> f64 {
    let is_easy = |nat: &NatReport| match nat.mapping {
        Mapping::EndpointIndependent => true,
        Mapping::Unknown | Mapping::PortIndependent => nat.allocation == Allocation::Preserving,
        Mapping::AddressDependent
        | Mapping::AddressAndPortDependent
        | Mapping::EndpointDependent => false,
    };
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

#[cfg(test)]
mod tests;
