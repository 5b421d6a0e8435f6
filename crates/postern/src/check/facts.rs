//! What was seen.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::connect::RelayTransport;
use postern_proto::portmap::is_public;
use postern_proto::punch::{Filtering, NatReport};
use postern_proto::stun::behaviour::{Findings, PathMtu};

use super::network::Network;
use super::relays::Relayed;
use super::stranger::Heard;
use super::verdict::Verdict;
use super::ways::{Passage, Way};
use crate::portmap::{Found, Protocol};

/// Everything that a check has seen.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The addresses of this machine that others could reach.
    pub addresses: Vec<IpAddr>,
    /// The postern server.
    pub server: ServerFacts,
    /// UDP over IPv4.
    pub udp: Findings,
    /// UDP over IPv6.
    pub ipv6: Findings,
    /// TCP over IPv4.
    pub tcp: TcpFacts,
    /// The routers that were asked to open ports; `None` if none was asked.
    pub gateway: Option<Gateways>,
    /// The gateways that open their IPv6 firewall on request; `None` if none was asked.
    pub pinholes: Option<Vec<Found>>,
    /// What becomes of a datagram from another port of the postern server.
    pub other_port: Option<Unsolicited>,
    /// How large packets may be on the way to the first STUN server, over IPv4.
    pub path_mtu: Option<PathMtu>,
    /// The same over IPv6: what its firewall does.
    pub other_port_v6: Option<Unsolicited>,
    /// Where this machine is.
    pub network: Network,
    /// The STUN servers that were asked.
    pub asked: Vec<SocketAddr>,
    /// Which transports and ports get out.
    pub ways: Vec<Way>,
    /// What came of the relays that the server offers; `None` if it could not be asked for them.
    pub relays: Option<Vec<Relayed>>,
    /// What whoever answers says over HTTPS, and in place of the server.
    pub heard: Heard,
    /// How long an idle mapping of UDP over IPv4 lives, where that was measured: a time that one
    /// has lived, and one that none has.
    pub lifetime: Option<(Duration, Option<Duration>)>,
}

/// How the postern server was reached.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// Its name or address.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Whether it answered as a postern server.
    pub reachable: bool,
    /// How long TCP, TLS and its first words took together.
    pub after: Option<Duration>,
    /// Why it did not, in a sentence.
    pub trouble: Option<String>,
    /// What kind of trouble that is.
    pub kind: Option<Trouble>,
    /// Whether another server answered in its place: a captive portal, or somebody in between.
    pub intercepted: bool,
    /// The STUN servers that it named.
    pub stun: Vec<SocketAddr>,
}

/// Why the postern server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its name cannot be resolved.
    Name,
    /// This machine, or a router, has no route to it.
    NoRoute,
    /// Its port refuses connections.
    Refused,
    /// Nothing comes back.
    Silent,
    /// Its port takes connections, and nothing comes back over them.
    Mute,
    /// Somebody else answers: not with the pinned certificate, or not as a postern server.
    Stranger,
    /// Nobody who is trusted vouches for the certificate that is shown.
    Untrusted,
    /// The proxy does not connect to it.
    Proxy,
}

impl Trouble {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NoRoute => "no_route",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Mute => "mute",
            Self::Stranger => "stranger",
            Self::Untrusted => "untrusted",
            Self::Proxy => "proxy",
        }
    }
}

/// What TCP does.
#[derive(Debug, Clone, Default)]
pub struct TcpFacts {
    /// Whether a STUN server answered over TCP.
    pub reachable: bool,
    /// What the NATs do with connections.
    pub nat: Option<NatReport>,
    /// Whether an address is translated on the way.
    pub translated: Option<bool>,
    /// The addresses at which servers saw one port of this machine, each once.
    pub mapped: Vec<SocketAddr>,
    /// What becomes of a connection from outside that nobody here has asked for; `None` if no
    /// server has tried.
    pub unsolicited: Option<Unsolicited>,
    /// Whether a connection comes to be that both ends open at the same time; `None` if no server
    /// has tried, and where the port outside cannot be told beforehand.
    pub simultaneous_open: Option<bool>,
}

/// What becomes of packets from another port of a server that this machine speaks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsolicited {
    /// They come in.
    Accept,
    /// They disappear.
    Drop,
    /// They are answered with a reset; over UDP with a message that nobody listens.
    Reset,
    /// A router says that there is no way.
    Icmp,
}

impl Unsolicited {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reset => "reset",
            Self::Icmp => "icmp",
        }
    }
}

/// Who opens ports on request.
#[derive(Debug, Clone, Default)]
pub struct Gateways {
    /// The default router.
    pub router: Option<IpAddr>,
    /// Everybody who answered.
    pub found: Vec<Found>,
    /// The address outside that a router told.
    pub external: Option<IpAddr>,
}

impl Facts {
    /// The protocols by which a router opens ports, each once.
    #[must_use]
    pub fn protocols(&self) -> Vec<Protocol> {
        let mut protocols = Vec::new();
        for found in self.gateway.iter().flat_map(|gateway| &gateway.found) {
            if !protocols.contains(&found.protocol) {
                protocols.push(found.protocol);
            }
        }
        protocols
    }

    /// Whether a port that the router opens on request leads in from the internet, as far as that
    /// can be told without opening one.
    #[must_use]
    pub fn opens_ports(&self) -> bool {
        let found = self.gateway.as_ref().map(|gateway| &gateway.found);
        found.is_some_and(|found| !found.is_empty()) && self.double_nat() != Some(true)
    }

    /// The address of this machine that others in its network use.
    #[must_use]
    pub fn own_ipv4(&self) -> Option<IpAddr> {
        let out = self.network.way_out.as_ref();
        let interfaces = self.network.interfaces.iter();
        let mut leading = interfaces.filter(|interface| Some(&interface.name) == out);
        let through = leading.find_map(|interface| {
            let mut addresses = interface.addresses.iter();
            addresses.find(|ip| ip.is_ipv4())
        });
        through
            .or_else(|| self.addresses.iter().find(|ip| ip.is_ipv4()))
            .copied()
    }

    /// From whom UDP over IPv6 is let in, as [`Facts::filtering`].
    #[must_use]
    pub fn filtering_v6(&self) -> Filtering {
        match (self.ipv6.filtering(), self.other_port_v6) {
            (Filtering::Unknown, Some(Unsolicited::Drop | Unsolicited::Icmp)) => {
                Filtering::AddressAndPortDependent
            }
            (filtering, _) => filtering,
        }
    }

    /// Whether UDP of this family gets out; `None` if there was no server to ask.
    #[must_use]
    pub fn udp_gets_out(&self, is_ipv4: bool) -> Option<bool> {
        let mut asked = self.asked.iter();
        let findings = if is_ipv4 { &self.udp } else { &self.ipv6 };
        let was_asked = asked.any(|server| server.is_ipv4() == is_ipv4);
        (was_asked || findings.reachable).then_some(findings.reachable)
    }

    /// Whether the router's address outside is one of a provider's own network (RFC 6598), or
    /// this machine's own is, or that of the router after the first.
    #[must_use]
    pub fn is_behind_carrier(&self) -> bool {
        let external = self.gateway.as_ref().and_then(|gateway| gateway.external);
        let translated = self.udp.translated == Some(true);
        let own = self.own_ipv4().filter(|_| translated);
        let second = self.udp.hops.get(1).copied().flatten();
        [external, own, second]
            .into_iter()
            .flatten()
            .any(is_carriers)
    }

    /// Whether a relay has carried a datagram; `None` if none could be tried.
    #[must_use]
    pub fn relay_works(&self) -> Option<bool> {
        let relays = self.relays.as_ref()?;
        Some(relays.iter().any(|relay| relay.outcome.works()))
    }

    /// Whether there is more than one translator; `None` if that cannot be told.
    #[must_use]
    pub fn double_nat(&self) -> Option<bool> {
        self.layers().map(|layers| layers > 1)
    }

    /// Whether there is another translator behind the router that was asked: its address
    /// outside is no public one, or not the one that servers see. `None` if no router told one.
    fn double_nat_at_router(&self) -> Option<bool> {
        let external = self.gateway.as_ref()?.external?;
        if !is_public(external) {
            return Some(true);
        }
        let public = self.udp.public_ip()?;
        Some(public != external)
    }

    /// How many translators there are, as far as that can be told: 0 without one. The router
    /// that was asked knows whether there is another one behind it; the routers on the way may be
    /// in private networks of their own, each behind a translator.
    #[must_use]
    pub fn layers(&self) -> Option<u8> {
        if !self.udp.translated? {
            return Some(0);
        }
        let seen = self.own_ipv4().and_then(|own| self.udp.layers(own));
        match self.double_nat_at_router() {
            Some(true) => Some(seen.map_or(2, |seen| seen.max(2))),
            Some(false) => Some(1),
            None => seen,
        }
    }

    /// From whom UDP over IPv4 is let in: a packet from another port of the server that does not
    /// come in says as much as a whole test where the server has one address only.
    #[must_use]
    pub fn filtering(&self) -> Filtering {
        match (self.udp.filtering(), self.other_port) {
            (Filtering::Unknown, Some(Unsolicited::Drop | Unsolicited::Icmp)) => {
                Filtering::AddressAndPortDependent
            }
            (filtering, _) => filtering,
        }
    }

    /// Whether TCP gets out: to a STUN server, or to the postern server.
    #[must_use]
    pub fn tcp_gets_out(&self) -> bool {
        self.tcp.reachable || self.server.reachable || self.relay_works() == Some(true)
    }

    /// Whether TCP gets out only through the proxy.
    #[must_use]
    pub fn tcp_needs_proxy(&self) -> bool {
        let mut ways = self
            .ways
            .iter()
            .filter(|way| way.transport != RelayTransport::Udp);
        let direct = ways.any(|way| matches!(way.passage, Passage::Open(_) | Passage::Refused));
        self.network.proxy.is_some() && self.tcp_gets_out() && !direct
    }

    /// Whether connections are refused in the name of the server, and nothing else is heard.
    pub(super) fn is_refused(&self) -> bool {
        let mut passages = self.ways.iter().map(|way| way.passage);
        self.server.kind == Some(Trouble::Refused)
            || passages.any(|passage| passage == Passage::Refused)
    }

    pub(super) const fn server_port(&self) -> u16 {
        self.server.port
    }

    /// Where UDP should get out to.
    pub(super) fn udp_target(&self) -> String {
        match self.server.stun.first() {
            Some(server) => format!("{} port {}", server.ip(), server.port()),
            None => format!("{} port {}", self.server.host, super::STUN_PORT),
        }
    }

    /// What it all means.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self)
    }
}

/// The addresses between customers and their provider's NAT.
fn is_carriers(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if matches!(ip.octets(), [100, 64..=127, ..]))
}
