//! What was seen.

use std::net::IpAddr;
use std::time::Duration;

use postern_proto::portmap::is_public;
use postern_proto::punch::NatReport;
use postern_proto::stun::behaviour::Findings;

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

    /// Whether there is another translator behind the router that was asked: its address
    /// outside is no public one, or not the one that servers see. `None` if no router told one.
    #[must_use]
    pub fn double_nat(&self) -> Option<bool> {
        let external = self.gateway.as_ref()?.external?;
        if !is_public(external) {
            return Some(true);
        }
        let public = self.udp.public_ip()?;
        Some(public != external)
    }

    /// How many translators there are, as far as that can be told: 0 without one, and 2 where
    /// there is more than the router that was asked.
    #[must_use]
    pub fn layers(&self) -> Option<u8> {
        match (self.udp.translated, self.double_nat()) {
            (Some(false), _) => Some(0),
            (Some(true), Some(true)) => Some(2),
            (Some(true), Some(false)) => Some(1),
            (Some(true), None) | (None, _) => None,
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
