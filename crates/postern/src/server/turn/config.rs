//! What an operator decides about relays.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_proto::stun::Credentials;
use postern_proto::turn::server::{Alternates, Config, Limits, PeerPolicy, Quotas, RelayAddress};

pub use postern_proto::turn::server::{Cidr, CidrError};

use super::commands::Change;
use crate::net::all_host_addresses;

/// The port of TURN over TLS (RFC 8656 section 3).
pub const DEFAULT_TLS_PORT: u16 = 5349;

/// The realm unless told. The shorter, the smaller the answer to strangers.
pub const DEFAULT_REALM: &str = "postern";

/// Most allocations of one client address unless told: an office behind one address.
pub const DEFAULT_QUOTA_ADDRESS: u32 = 256;

/// Permissions and channels that go with each allocation of a quota: an ICE agent has one
/// for each remote candidate.
const PEERS_EACH: u32 = 64;

/// TCP connections (RFC 6062) that go with each allocation of a quota.
const CONNECTIONS_EACH: u32 = 16;

/// Relays: whose, where, and how many.
#[derive(Clone)]
pub struct TurnConfig {
    /// The addresses of TURN and STUN over UDP, and of TURN over TCP; empty: those of the
    /// server, with its STUN port.
    pub listen: Vec<SocketAddr>,
    /// The port of TURN over TLS, at the same addresses; 0 lets the system choose.
    pub tls_port: u16,
    /// The addresses of relays, at most one of each family is used; empty: those that the
    /// server listens on.
    pub relay_ips: Vec<IpAddr>,
    /// What clients and peers are told instead, behind a NAT that forwards all ports; at
    /// most one of each family. Empty: the public addresses of the server.
    pub external_ips: Vec<IpAddr>,
    /// The ports of relays.
    pub relay_ports: RangeInclusive<u16>,
    /// Names and passwords.
    pub users: Vec<(String, String)>,
    /// Secrets for time-limited credentials; all are believed. Without any the server draws
    /// one, which nobody else knows.
    pub secrets: Vec<String>,
    /// The realm, at most 127 characters.
    pub realm: String,
    /// Peers that may be reached although they are not on the public internet.
    pub allow_peers: Vec<Cidr>,
    /// Peers that may not be reached; the most specific rule wins.
    pub deny_peers: Vec<Cidr>,
    /// Most allocations of one user; 0 is no limit.
    pub quota_user: u32,
    /// Most allocations of one client address; 0 is no limit.
    pub quota_address: u32,
    /// Most allocations of all; 0 is no limit but that of the ports.
    pub quota_total: u32,
    /// Most relayed bytes a second of one user, both directions together; 0 is no limit.
    pub max_rate: u64,
    /// How many threads relay; `None` is as many as there are processors. Only Linux has
    /// more than one.
    pub threads: Option<NonZeroUsize>,
    /// Where clients are sent for which there is no room (ALTERNATE-SERVER).
    pub alternate_servers: Alternates,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls_port: DEFAULT_TLS_PORT,
            relay_ips: Vec::new(),
            external_ips: Vec::new(),
            relay_ports: 49_152..=65_535,
            users: Vec::new(),
            secrets: Vec::new(),
            realm: DEFAULT_REALM.to_owned(),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            quota_user: 0,
            quota_address: DEFAULT_QUOTA_ADDRESS,
            quota_total: 0,
            max_rate: 0,
            threads: None,
            alternate_servers: Alternates::default(),
        }
    }
}

/// Shows no secret.
impl fmt::Debug for TurnConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnConfig")
            .field("listen", &self.listen)
            .field("tls_port", &self.tls_port)
            .field("relay_ips", &self.relay_ips)
            .field("external_ips", &self.external_ips)
            .field("relay_ports", &self.relay_ports)
            .field("users", &self.users.len())
            .field("secrets", &self.secrets.len())
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

/// The realm, or a user's name, is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the realm has more than 127 characters, or the name of a user more than 508 bytes")]
pub struct TooLong;

impl TurnConfig {
    /// Whom the server believes. There is always a secret to issue credentials from.
    pub(super) fn credentials(&self, own_secret: &[u8]) -> Result<Credentials, TooLong> {
        let mut credentials = Credentials::new(&self.realm).map_err(|_| TooLong)?;
        for (name, password) in &self.users {
            credentials = credentials.with_user(name, password).map_err(|_| TooLong)?;
        }
        for secret in &self.secrets {
            credentials = credentials.with_secret(secret.as_bytes());
        }
        if self.secrets.is_empty() {
            credentials = credentials.with_secret(own_secret);
        }
        Ok(credentials)
    }

    /// What the machine is told. `listen` is where clients come, without unspecified
    /// addresses; `public` is how they call it.
    pub(super) fn machine(
        &self,
        credentials: Credentials,
        listen: &[SocketAddr],
        public: &[IpAddr],
    ) -> Config {
        let relay = |v4| self.relay_address(v4, listen, public);
        Config {
            credentials,
            relay_v4: relay(true),
            relay_v6: relay(false),
            ports: self.relay_ports.clone(),
            policy: self.policy(listen, public),
            quotas: self.quotas(),
            overflow: self.alternate_servers,
            unix: unix_now(),
            ..Config::default()
        }
    }

    /// What of it can change while the relay runs.
    pub(super) fn change(
        &self,
        credentials: Credentials,
        listen: &[SocketAddr],
        public: &[IpAddr],
    ) -> Change {
        Change {
            credentials,
            quotas: self.quotas(),
            policy: self.policy(listen, public),
            overflow: self.alternate_servers,
        }
    }

    fn relay_address(
        &self,
        v4: bool,
        listen: &[SocketAddr],
        public: &[IpAddr],
    ) -> Option<RelayAddress> {
        let of_family = |ips: &[IpAddr]| ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let listen: Vec<_> = listen.iter().map(SocketAddr::ip).collect();
        let chosen = if self.relay_ips.is_empty() {
            &listen
        } else {
            &self.relay_ips
        };
        let bind = of_family(chosen)?;
        let advertised = of_family(&self.external_ips).or_else(|| of_family(public));
        Some(RelayAddress {
            bind,
            advertised: advertised.unwrap_or(bind),
        })
    }

    fn policy(&self, listen: &[SocketAddr], public: &[IpAddr]) -> PeerPolicy {
        let rules = (&self.allow_peers[..], &self.deny_peers[..]);
        peer_policy(rules, listen, public)
    }

    fn quotas(&self) -> Quotas {
        Quotas {
            user: Limits {
                bytes_per_second: self.max_rate,
                ..limits(self.quota_user)
            },
            address: limits(self.quota_address),
            total: limits(self.quota_total),
        }
    }
}

/// What may be reached by these rules, allowed and denied. All of this machine is out of bounds,
/// with whatever address it is called.
pub(in crate::server) fn peer_policy(
    (allowed, denied): (&[Cidr], &[Cidr]),
    listen: &[SocketAddr],
    public: &[IpAddr],
) -> PeerPolicy {
    let mut policy = PeerPolicy::new();
    for cidr in allowed {
        policy = policy.allow(*cidr);
    }
    for cidr in denied {
        policy = policy.deny(*cidr);
    }
    let host = all_host_addresses().unwrap_or_default();
    let listen = listen.iter().map(SocketAddr::ip);
    let own = host.into_iter().chain(listen).chain(public.iter().copied());
    own.fold(policy, PeerPolicy::own)
}

const fn limits(allocations: u32) -> Limits {
    Limits {
        allocations,
        permissions: allocations.saturating_mul(PEERS_EACH),
        channels: allocations.saturating_mul(PEERS_EACH),
        connections: allocations.saturating_mul(CONNECTIONS_EACH),
        bytes_per_second: 0,
    }
}

/// The time since 1970.
pub(super) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
