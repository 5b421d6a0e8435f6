//! What the facts mean, in plain words.

use std::net::IpAddr;

use postern_proto::portmap::Protocol;
use postern_proto::punch::{Allocation, Filtering, Mapping, NARROW_PORTS, NatReport};

use super::advice::advice;
use super::facts::{Facts, Trouble};
use super::odds::{self, Odds};
use super::relays::Relayed;
use super::stranger::Certificate;

/// How well this machine can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Neither UDP nor TCP gets out.
    Nothing,
    /// UDP does not get out, and TCP not to everywhere: connections need a relay.
    Relay,
    /// UDP does not get out. Directly over TCP, by machines with an open port and behind some
    /// routers.
    Tcp,
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
            Self::Tcp => "tcp",
            Self::Strict => "strict",
            Self::Direct => "direct",
            Self::Open => "open",
        }
    }
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
            odds: odds::odds(facts),
        }
    }
}

fn reach(facts: &Facts) -> Reach {
    if !facts.udp.reachable && !facts.ipv6.reachable {
        return match (facts.tcp_gets_out(), odds::tcp_meets(facts)) {
            (true, true) => Reach::Tcp,
            (true, false) => Reach::Relay,
            (false, _) => Reach::Nothing,
        };
    }
    // The better one of the two families counts: peers try both.
    let v4 = family(facts.udp.nat, facts.filtering());
    let v6 = family(facts.ipv6.nat, facts.filtering_v6());
    match (v4, v6) {
        (Some(Reach::Strict), _) if facts.opens_ports() => Reach::Direct,
        (Some(v4), _) => v4,
        // An open IPv6 address helps with those who have one, and that is not everybody.
        (None, Some(v6)) => v6.min(Reach::Direct),
        (None, None) => Reach::Direct,
    }
}

fn family(nat: Option<NatReport>, filtering: Filtering) -> Option<Reach> {
    let nat = nat?;
    Some(match filtering {
        Filtering::EndpointIndependent => Reach::Open,
        _ if is_strict(&nat) => Reach::Strict,
        Filtering::Unknown | Filtering::AddressDependent | Filtering::AddressAndPortDependent => {
            Reach::Direct
        }
    })
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
        Reach::Nothing => return nothing(facts),
        Reach::Relay if facts.network.proxy.is_some() => {
            "Connections work only through a relay: all that leads out of this network is a proxy."
        }
        Reach::Relay => "Connections work only through a relay: this network lets no UDP out.",
        Reach::Tcp => {
            "You can be reached directly over TCP only, and not from everywhere: this network lets no UDP out."
        }
        Reach::Strict => {
            "You can be reached directly from networks with ordinary routers, but not from networks as strict as this one."
        }
        Reach::Direct if !facts.udp.reachable => {
            "You can be reached directly by those who have IPv6, and through a relay by others."
        }
        Reach::Direct => "You can be reached directly from most networks.",
        Reach::Open => "You can be reached directly from everywhere.",
    };
    let mut sentences = vec![first.to_owned()];
    match reach {
        Reach::Relay | Reach::Tcp => sentences.extend(relay(facts)),
        Reach::Nothing | Reach::Strict | Reach::Direct | Reach::Open => {
            sentences.extend(place(facts));
        }
    }
    if let Some(tunnel) = facts.network.tunnel() {
        sentences.push(format!(
            "Everything goes through the tunnel {tunnel}, so this is about its other end."
        ));
    }
    if !facts.server.reachable {
        let why = obstacle(facts).map(|why| lower(&why));
        let why = why.or_else(|| elsewise(facts));
        sentences.extend(why.map(|why| format!("But the server cannot be used: {why}")));
    }
    sentences.join(" ")
}

/// Why the server cannot be used where the network does not keep everything in.
fn elsewise(facts: &Facts) -> Option<String> {
    let port = facts.server_port();
    Some(match facts.server.kind? {
        Trouble::Refused => format!("its port {port} refuses connections."),
        Trouble::Silent => format!("nothing comes back from its port {port}."),
        Trouble::Mute => format!("its port {port} takes connections, and does not answer."),
        Trouble::NoRoute => "there is no route to it.".to_owned(),
        Trouble::Name | Trouble::Stranger | Trouble::Untrusted | Trouble::Proxy => {
            format!("{}.", facts.server.trouble.as_deref()?)
        }
    })
}

/// Half a sentence after a colon.
fn lower(sentence: &str) -> String {
    let rest = sentence
        .strip_prefix("The ")
        .map(|rest| format!("the {rest}"));
    let rest = rest.or_else(|| {
        sentence
            .strip_prefix("This ")
            .map(|rest| format!("this {rest}"))
    });
    let rest = rest.or_else(|| {
        let rest = sentence.strip_prefix("Somebody ");
        rest.map(|rest| format!("somebody {rest}"))
    });
    rest.unwrap_or_else(|| sentence.to_owned())
}

fn nothing(facts: &Facts) -> String {
    if let Some(obstacle) = obstacle(facts) {
        return obstacle;
    }
    if facts.is_refused() {
        return "Nothing answers: the server refuses connections, because it does not run, or a firewall refuses in its name.".to_owned();
    }
    let why = facts.server.trouble.as_deref().unwrap_or("nobody answered");
    match &facts.network.proxy {
        Some(_) => format!("Nothing gets out, not even through the proxy ({why})."),
        None => format!("Nothing gets out: neither UDP nor TCP reached the server ({why})."),
    }
}

/// What keeps this machine from using the server, if it is something that has a name of its own.
fn obstacle(facts: &Facts) -> Option<String> {
    let heard = &facts.heard;
    if facts.server.reachable {
        return None;
    }
    if heard.portal.is_some() {
        return Some("This network has a log-in page, and lets nothing else out until somebody has logged in there.".to_owned());
    }
    match (heard.certificate, heard.wrong_clock()) {
        (Some(Certificate::NotYetValid | Certificate::Expired), Some(ahead)) => {
            return Some(format!(
                "The clock of this machine is {}, so that the certificate of the server does not count here.",
                off(ahead)
            ));
        }
        (Some(Certificate::Expired), None) => {
            return Some("The certificate of the server has expired.".to_owned());
        }
        _ => {}
    }
    match facts.server.kind? {
        Trouble::Name => Some(format!(
            "The name of the server, {}, cannot be resolved: there is no such name, or DNS does not work here.",
            facts.server.host
        )),
        Trouble::NoRoute if facts.network.routers.is_empty() => Some(
            "This machine has no way out: it has an address, but knows no router.".to_owned(),
        ),
        Trouble::Stranger => Some("Somebody else answers in place of the server, or it was set up anew: what answers is not what its URL names.".to_owned()),
        Trouble::Untrusted => Some("The certificate that is shown in the server's name is not trusted: no authority that this system knows vouches for it.".to_owned()),
        Trouble::NoRoute
        | Trouble::Refused
        | Trouble::Silent
        | Trouble::Mute
        | Trouble::Proxy => None,
    }
}

/// How far a clock is off, in words.
pub(super) fn off(ahead: i64) -> String {
    let seconds = ahead.unsigned_abs();
    let (count, unit) = match seconds {
        0..=120 => (seconds, "seconds"),
        121..=7_200 => (seconds / 60, "minutes"),
        7_201..=172_800 => (seconds / 3_600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    let way = if ahead > 0 { "ahead" } else { "behind" };
    format!("{count} {unit} {way}")
}

/// Whether the relay that is needed works.
fn relay(facts: &Facts) -> Option<String> {
    let relays = facts.relays.as_ref()?;
    if relays.is_empty() {
        return Some("This server offers no relay.".to_owned());
    }
    Some(match ways(relays).as_slice() {
        [] => "No relay of this server can be used from here.".to_owned(),
        ways => format!("The relay works (over {}).", ways.join(", ")),
    })
}

/// The transports over which relays work, each once.
pub(super) fn ways(relays: &[Relayed]) -> Vec<String> {
    let works = relays.iter().filter(|relay| relay.outcome.works());
    let mut ways: Vec<_> = works.map(|relay| relay.transport).collect();
    ways.sort_unstable();
    ways.dedup();
    ways.iter().map(|way| way.as_str().to_uppercase()).collect()
}

/// What stands between the machine and the internet.
fn place(facts: &Facts) -> Option<String> {
    if !facts.udp.reachable {
        return None;
    }
    if facts.udp.translated == Some(false) {
        return Some(
            match facts.filtering() {
                Filtering::EndpointIndependent => {
                    "Its address is public, and no firewall is in the way."
                }
                Filtering::Unknown => "Its address is public.",
                Filtering::AddressDependent | Filtering::AddressAndPortDependent => {
                    "Its address is public, and a firewall lets in only what was asked for."
                }
            }
            .to_owned(),
        );
    }
    if facts.is_behind_carrier() {
        return Some("Your provider shares one public address among several customers, so opening ports of your own router does not help.".to_owned());
    }
    if facts.double_nat() == Some(true) {
        return Some("There are two routers in a row that translate addresses; opening ports of the inner one does not help.".to_owned());
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

fn uncertain(facts: &Facts) -> Vec<String> {
    let mut uncertain = Vec::new();
    if facts.server.reachable
        && facts.udp_gets_out(false).is_none()
        && facts.addresses.iter().any(IpAddr::is_ipv6)
    {
        uncertain
            .push("Whether IPv6 gets out is not known: the server has no IPv6 address.".to_owned());
    }
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

#[cfg(test)]
mod tests;
