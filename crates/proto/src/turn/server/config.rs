use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use postern_wire::turn::AddressFamily;

use super::accounts::Quotas;
use super::policy::PeerPolicy;
use crate::stun::{Alternate, Credentials};

/// What an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may use the server.
    pub credentials: Credentials,
    /// The IPv4 address of relays; without one there are no IPv4 relays.
    pub relay_v4: Option<RelayAddress>,
    /// The IPv6 address of relays; without one there are no IPv6 relays.
    pub relay_v6: Option<RelayAddress>,
    /// The ports of relays. 49,152 to 65,535 unless told.
    pub ports: RangeInclusive<u16>,
    /// Which peers may be reached.
    pub policy: PeerPolicy,
    /// Where the server itself listens. It is no peer, whatever the policy says and will
    /// say: see [`PeerPolicy::own_endpoint`].
    pub own_endpoints: Vec<SocketAddr>,
    /// Who may have how much. Unlimited unless told.
    pub quotas: Quotas,
    /// How long an allocation lives that does not say: ten minutes unless told.
    pub default_lifetime: Duration,
    /// The longest that an allocation lives without a refresh: an hour unless told. It is
    /// at least the default.
    pub max_lifetime: Duration,
    /// How long a nonce is good: ten minutes unless told.
    pub nonce_lifetime: Duration,
    /// The key of nonces, for servers of which each has to recognise the nonces of all.
    /// From the seed unless told.
    pub nonce_key: Option<[u8; 32]>,
    /// Whether allocations may move to another client address (RFC 8016). Yes unless told.
    pub mobility: bool,
    /// Whether there are TCP relays (RFC 6062). Yes unless told.
    pub tcp_relays: bool,
    /// The second addresses for NAT behaviour discovery (RFC 5780).
    pub discovery: Vec<Alternate>,
    /// Where clients are sent for which there is no room: the quota of all together is
    /// reached, or there is no port.
    pub overflow: Alternates,
    /// How many bytes a network may be sent in ten seconds beyond what came from it before
    /// it has proven that it is there; `None` is no limit, for load tests. 16,384 unless
    /// told.
    pub unproven_allowance: Option<u64>,
    /// The time since 1970 at the `now` that the server is made with. Time-limited
    /// credentials and nonces count from it.
    pub unix: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            relay_v4: None,
            relay_v6: None,
            ports: 49_152..=65_535,
            policy: PeerPolicy::new(),
            own_endpoints: Vec::new(),
            quotas: Quotas::default(),
            default_lifetime: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            nonce_lifetime: Duration::from_secs(600),
            nonce_key: None,
            mobility: true,
            tcp_relays: true,
            discovery: Vec::new(),
            overflow: Alternates::default(),
            unproven_allowance: Some(16 * 1024),
            unix: Duration::ZERO,
        }
    }
}

/// An address that relays have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// What sockets are bound to.
    pub bind: IpAddr,
    /// What clients and peers are told: another one behind a 1:1 NAT (`--external-ip`).
    pub advertised: IpAddr,
}

impl RelayAddress {
    /// An address that is told as it is.
    #[must_use]
    pub const fn new(ip: IpAddr) -> Self {
        Self {
            bind: ip,
            advertised: ip,
        }
    }
}

impl Config {
    pub(super) const fn relay_address(&self, family: AddressFamily) -> Option<RelayAddress> {
        match family {
            AddressFamily::V4 => self.relay_v4,
            AddressFamily::V6 => self.relay_v6,
        }
    }

    /// Whether relays have this address.
    pub(super) fn has_relays_at(&self, ip: IpAddr) -> bool {
        [self.relay_v4, self.relay_v6]
            .into_iter()
            .flatten()
            .any(|relay| relay.advertised == ip || relay.bind == ip)
    }

    /// The lifetime that is granted for a wish (RFC 8656 section 7.2): no less than the
    /// default and no more than the maximum.
    pub(super) fn lifetime(&self, wish: Option<Duration>) -> Duration {
        let most = self.max_lifetime.max(self.default_lifetime);
        wish.unwrap_or(self.default_lifetime)
            .clamp(self.default_lifetime, most)
    }
}

/// Other servers, for clients that have to go (`ALTERNATE-SERVER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alternates {
    /// For clients that came over IPv4.
    pub v4: Option<SocketAddr>,
    /// For clients that came over IPv6.
    pub v6: Option<SocketAddr>,
}

impl Alternates {
    /// The one for this client.
    pub(super) fn of(&self, client: SocketAddr) -> Option<SocketAddr> {
        match client.ip().to_canonical() {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}
