//! What was seen.

use std::net::IpAddr;
use std::time::Duration;

use postern_proto::portmap::is_public;
use postern_proto::punch::{Filtering, NatReport};
use postern_proto::stun::behaviour::{Findings, PathMtu};

use super::verdict::Verdict;
use crate::portmap::{Found, Protocol};

/// Everything that a check has seen.
#[derive(Debug, Clone)]
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
    /// What becomes of a datagram from another port of the postern server.
    pub other_port: Option<Unsolicited>,
    /// How large packets may be on the way to the first STUN server, over IPv4.
    pub path_mtu: Option<PathMtu>,
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
    /// Whether another server answered in its place: a captive portal, or somebody in between.
    pub intercepted: bool,
    /// The STUN servers that it named.
    pub stun: Vec<std::net::SocketAddr>,
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
    pub mapped: Vec<std::net::SocketAddr>,
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
#[derive(Debug, Clone)]
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
        let seen = self.own_address().and_then(|own| self.udp.layers(own));
        match self.double_nat_at_router() {
            Some(true) => Some(seen.map_or(2, |seen| seen.max(2))),
            Some(false) => Some(1),
            None => seen,
        }
    }

    /// An address in the network behind the router: the router's own outside, or that of the
    /// next one.
    pub(super) fn second_network(&self) -> Option<IpAddr> {
        let told = self.gateway.as_ref().and_then(|gateway| gateway.external);
        told.or_else(|| *self.udp.hops.get(1)?)
    }

    /// The address of this machine in the network of its router.
    fn own_address(&self) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find(|address| address.is_ipv4()).copied()
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
    pub const fn tcp_gets_out(&self) -> bool {
        self.tcp.reachable || self.server.reachable
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
