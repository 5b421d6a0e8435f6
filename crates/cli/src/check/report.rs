//! The JSON object of `postern check` (docs/check.md).

use std::net::SocketAddr;
use std::time::Duration;

use postern::check::{
    Allocation, Facts, Filtering, Findings, Interface, Mapping, NatReport, Odds, Passage, Relayed,
    Relaying, Verdict, Way,
};
use serde::Serialize;

/// Everything; what is unknown is null.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    reach: &'static str,
    summary: String,
    advice: Vec<String>,
    uncertain: Vec<String>,
    odds: Vec<ShownOdds>,
    udp: Transport,
    tcp: Transport,
    ipv6: Transport,
    port_mapping: Option<Vec<&'static str>>,
    pinholes: Option<Vec<&'static str>>,
    router: Option<String>,
    external_address: Option<String>,
    layers: Option<u8>,
    double_nat: Option<bool>,
    /// Bytes of the largest IP packet that gets to the STUN server.
    path_mtu: Option<u16>,
    /// Whether larger ones disappear without a word.
    mtu_black_hole: Option<bool>,
    server: Server,
    ways: Vec<ShownWay>,
    relays: Option<Vec<ShownRelay>>,
    proxy: Option<String>,
    portal: Option<Portal>,
    /// How far this machine's clock is ahead of the server's.
    clock_ahead_s: Option<i64>,
    nat64: Option<String>,
    interfaces: Vec<ShownInterface>,
    routers: Vec<Router>,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ShownWay {
    transport: &'static str,
    server: SocketAddr,
    told: bool,
    outcome: &'static str,
    after_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ShownRelay {
    transport: &'static str,
    server: SocketAddr,
    works: bool,
    after_ms: Option<f64>,
    round_trip_ms: Option<f64>,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct Portal {
    url: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownInterface {
    name: String,
    tunnel: bool,
    way_out: bool,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Router {
    address: String,
    interface: String,
}

#[derive(Debug, Serialize)]
struct ShownOdds {
    peer: &'static str,
    probability: f64,
}

#[derive(Debug, Serialize)]
struct Server {
    reachable: bool,
    after_ms: Option<f64>,
    intercepted: bool,
    trouble: Option<String>,
    kind: Option<&'static str>,
    stun: Vec<SocketAddr>,
}

/// One transport over one family.
#[derive(Debug, Default, Serialize)]
pub(super) struct Transport {
    /// `None` where there was no server to ask.
    pub(super) reachable: Option<bool>,
    pub(super) mapping: Option<&'static str>,
    pub(super) filtering: Option<&'static str>,
    pub(super) allocation: Option<&'static str>,
    pub(super) port_range: Option<[u16; 2]>,
    pub(super) step: Option<i16>,
    pub(super) foreign_flows: Option<u16>,
    pub(super) parity: Option<bool>,
    /// What becomes of packets from another port of the server.
    pub(super) unsolicited: Option<&'static str>,
    /// Whether a connection that both ends open comes to be; of TCP.
    pub(super) simultaneous_open: Option<bool>,
    /// Routers to the outermost one that filters.
    pub(super) distance: Option<u8>,
    pub(super) hairpin: Option<bool>,
    pub(super) paired: Option<bool>,
    pub(super) fragments: Option<bool>,
    pub(super) public: Vec<SocketAddr>,
    pub(super) round_trip_ms: Option<f64>,
    pub(super) loss: Option<f64>,
    pub(super) samples: usize,
    /// A time in seconds that an idle mapping has lived, and one that none has.
    pub(super) lifetime: Option<(u64, Option<u64>)>,
}

impl Report {
    pub(super) fn new(facts: &Facts, verdict: &Verdict) -> Self {
        let odds = |odds: &Odds| ShownOdds {
            peer: odds.peer.as_str(),
            probability: odds.probability,
        };
        let gateway = facts.gateway.as_ref();
        let router = gateway.and_then(|gateway| gateway.router);
        let external = gateway.and_then(|gateway| gateway.external);
        let network = &facts.network;
        Self {
            reach: verdict.reach.as_str(),
            summary: verdict.summary.clone(),
            advice: verdict.advice.clone(),
            uncertain: verdict.uncertain.clone(),
            odds: verdict.odds.iter().map(odds).collect(),
            udp: Transport::over_udp(facts),
            tcp: Transport::tcp(facts),
            ipv6: Transport::over_ipv6(facts),
            port_mapping: gateway.map(|_| facts.protocols().iter().map(|p| p.as_str()).collect()),
            pinholes: pinholes(facts),
            router: router.map(|router| router.to_string()),
            external_address: external.map(|external| external.to_string()),
            layers: facts.layers(),
            double_nat: facts.double_nat(),
            path_mtu: facts.path_mtu.map(|mtu| mtu.bytes),
            mtu_black_hole: facts.path_mtu.map(|mtu| mtu.black_hole),
            server: Server {
                reachable: facts.server.reachable,
                after_ms: facts.server.after.map(milliseconds),
                intercepted: facts.server.intercepted,
                trouble: facts.server.trouble.clone(),
                kind: facts.server.kind.map(|kind| kind.as_str()),
                stun: facts.server.stun.clone(),
            },
            ways: facts.ways.iter().map(ShownWay::new).collect(),
            relays: (facts.relays.as_ref())
                .map(|relays| relays.iter().map(ShownRelay::new).collect()),
            proxy: network.proxy.clone(),
            portal: (facts.heard.portal.as_ref()).map(|portal| Portal {
                url: portal.url.clone(),
            }),
            clock_ahead_s: facts.heard.clock_ahead,
            nat64: network.nat64.clone(),
            interfaces: (network.interfaces.iter())
                .map(|interface| ShownInterface::new(interface, network.way_out.as_deref()))
                .collect(),
            routers: (network.routers.iter())
                .map(|router| Router {
                    address: router.address.to_string(),
                    interface: router.interface.clone(),
                })
                .collect(),
            addresses: facts.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The protocols by which routers open their IPv6 firewall, each once.
pub(super) fn pinholes(facts: &Facts) -> Option<Vec<&'static str>> {
    let found = facts.pinholes.as_ref()?;
    let mut names: Vec<_> = found.iter().map(|found| found.protocol.as_str()).collect();
    names.dedup();
    Some(names)
}

impl ShownWay {
    fn new(way: &Way) -> Self {
        Self {
            transport: way.transport.as_str(),
            server: way.server,
            told: way.told,
            outcome: way.passage.as_str(),
            after_ms: match way.passage {
                Passage::Open(after) => Some(milliseconds(after)),
                Passage::Refused | Passage::Rejected | Passage::Mute | Passage::Silent => None,
            },
        }
    }
}

impl ShownRelay {
    fn new(relay: &Relayed) -> Self {
        let (after, round_trip, trouble) = match &relay.outcome {
            Relaying::Works { after, round_trip } => (Some(*after), Some(*round_trip), None),
            Relaying::Loses => (None, None, Some(NO_ECHO.to_owned())),
            Relaying::Fails(why) => (None, None, Some(why.clone())),
        };
        Self {
            transport: relay.transport.as_str(),
            server: relay.server,
            works: relay.outcome.works(),
            after_ms: after.map(milliseconds),
            round_trip_ms: round_trip.map(milliseconds),
            trouble,
        }
    }
}

/// What a relay does that gives an address and carries nothing.
pub(super) const NO_ECHO: &str = "it gives an address, but a datagram to that does not arrive";

impl ShownInterface {
    fn new(interface: &Interface, way_out: Option<&str>) -> Self {
        Self {
            name: interface.name.clone(),
            tunnel: interface.tunnel,
            way_out: way_out == Some(interface.name.as_str()),
            addresses: interface
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl Transport {
    fn udp(findings: &Findings, reachable: Option<bool>) -> Self {
        Self {
            hairpin: findings.hairpin,
            paired: findings.paired,
            fragments: findings.fragments,
            distance: findings.distance,
            public: findings.mapped.clone(),
            round_trip_ms: findings.round_trip.map(milliseconds),
            loss: findings.loss,
            samples: findings.samples,
            ..Self::new(reachable, findings.translated, findings.nat)
        }
    }

    /// The same over IPv4, with all that is known besides.
    pub(super) fn over_udp(facts: &Facts) -> Self {
        Self {
            filtering: filtering(facts.filtering()),
            unsolicited: facts.other_port.map(|other| other.as_str()),
            lifetime: lifetime(facts),
            ..Self::udp(&facts.udp, facts.udp_gets_out(true))
        }
    }

    /// Over IPv6; what is let in there is the firewall's doing.
    pub(super) fn over_ipv6(facts: &Facts) -> Self {
        Self {
            filtering: filtering(facts.filtering_v6()),
            unsolicited: facts.other_port_v6.map(|other| other.as_str()),
            ..Self::udp(&facts.ipv6, facts.udp_gets_out(false))
        }
    }

    pub(super) fn tcp(facts: &Facts) -> Self {
        let tcp = &facts.tcp;
        Self {
            unsolicited: tcp.unsolicited.map(|other| other.as_str()),
            simultaneous_open: tcp.simultaneous_open,
            public: tcp.mapped.clone(),
            ..Self::new(Some(facts.tcp_gets_out()), tcp.translated, tcp.nat)
        }
    }

    fn new(reachable: Option<bool>, translated: Option<bool>, nat: Option<NatReport>) -> Self {
        let Some(nat) = nat else {
            return Self {
                reachable,
                ..Self::default()
            };
        };
        let (range, step, foreign_flows) = match nat.allocation {
            Allocation::Random(range) => (Some([range.first, range.last]), None, None),
            Allocation::Sequential {
                step,
                foreign_flows,
                ..
            } => (None, Some(step), Some(foreign_flows)),
            Allocation::Preserving | Allocation::Unknown => (None, None, None),
        };
        Self {
            reachable,
            mapping: mapping(translated, nat.mapping),
            filtering: filtering(nat.filtering),
            allocation: allocation(nat.allocation),
            port_range: range,
            step,
            foreign_flows,
            parity: (translated == Some(true)).then_some(nat.parity),
            ..Self::default()
        }
    }
}

/// In seconds; see [`Facts::lifetime`].
pub(super) fn lifetime(facts: &Facts) -> Option<(u64, Option<u64>)> {
    let (at_least, at_most) = facts.lifetime?;
    Some((at_least.as_secs(), at_most.map(|at_most| at_most.as_secs())))
}

/// The names of RFC 4787; `None` where it is not known which of them it is.
fn mapping(translated: Option<bool>, mapping: Mapping) -> Option<&'static str> {
    if translated == Some(false) {
        return Some("none");
    }
    match mapping {
        Mapping::EndpointIndependent => Some("endpoint-independent"),
        Mapping::AddressDependent => Some("address-dependent"),
        Mapping::AddressAndPortDependent => Some("address-and-port-dependent"),
        Mapping::Unknown | Mapping::PortIndependent | Mapping::EndpointDependent => None,
    }
}

fn filtering(filtering: Filtering) -> Option<&'static str> {
    match filtering {
        Filtering::EndpointIndependent => Some("endpoint-independent"),
        Filtering::AddressDependent => Some("address-dependent"),
        Filtering::AddressAndPortDependent => Some("address-and-port-dependent"),
        Filtering::Unknown => None,
    }
}

fn allocation(allocation: Allocation) -> Option<&'static str> {
    match allocation {
        Allocation::Preserving => Some("preserving"),
        Allocation::Sequential { .. } => Some("sequential"),
        Allocation::Random(_) => Some("random"),
        Allocation::Unknown => None,
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
