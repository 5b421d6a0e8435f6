//! What an operator decides.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use postern_wire::transport::Transport;

use super::lease::Client;
use crate::turn::server::Cidr;

/// A hardware address.
pub type Mac = [u8; 6];

/// The longest description that is kept, in bytes: a line on a screen.
pub const MAX_DESCRIPTION: usize = 128;

/// The most filters of one mapping: each costs an element of a set that the kernel
/// searches one by one.
pub const MAX_FILTERS: usize = 8;

/// The longest lease (WANIPConnection:2 section 2.5.17): a week.
pub const MAX_LEASE: Duration = Duration::from_secs(604_800);

/// The longest lease of PCP (RFC 6887 section 15): a day.
pub const MAX_PCP_LEASE: Duration = Duration::from_secs(86_400);

/// The shortest lease of PCP (RFC 6887 section 15).
pub const MIN_PCP_LEASE: Duration = Duration::from_secs(120);

/// Ports that are not opened unless a rule says so, although they are above 1023: what
/// listens there was not meant for the internet, or can be used against others.
pub const REFUSED_PORTS: &[u16] = &[
    1433, 1900, 2049, 2375, 2376, 3306, 3389, 5351, 5432, 5900, 5985, 6379, 11211, 27017,
];

/// Whether a rule opens or refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It may be mapped.
    Allow,
    /// It may not.
    Deny,
}

/// One rule of the operator: it speaks about requests that fit all of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it says.
    pub action: Action,
    /// Hosts inside; `None` is every one.
    pub hosts: Option<Cidr>,
    /// The hardware address of who asks; `None` is every one.
    pub mac: Option<Mac>,
    /// TCP or UDP; `None` is both.
    pub transport: Option<Transport>,
    /// Outside ports; for a pinhole the host's own.
    pub external_ports: RangeInclusive<u16>,
    /// Ports of the host inside.
    pub internal_ports: RangeInclusive<u16>,
}

impl Rule {
    /// A rule about everything.
    #[must_use]
    pub const fn all(action: Action) -> Self {
        Self {
            action,
            hosts: None,
            mac: None,
            transport: None,
            external_ports: 0..=u16::MAX,
            internal_ports: 0..=u16::MAX,
        }
    }

    fn fits(&self, wish: &Wish) -> bool {
        let same_host = |hosts: Cidr| hosts.contains(wish.host);
        self.hosts.is_none_or(same_host)
            && self.mac.is_none_or(|mac| wish.client.mac == Some(mac))
            && self.transport.is_none_or(|t| t == wish.transport)
            && self.external_ports.contains(&wish.external_port)
            && self.internal_ports.contains(&wish.internal_port)
    }
}

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) client: Client,
    pub(super) host: IpAddr,
    pub(super) transport: Transport,
    pub(super) external_port: u16,
    pub(super) internal_port: u16,
}

/// Who may have how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Leases of one host; 0 is no limit but `total`.
    pub host: u32,
    /// Leases of all.
    pub total: u32,
    /// Changes a second of one host, on the long run; 0 is no limit.
    pub changes_per_second: u32,
    /// Changes that a host may make at once.
    pub burst: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            host: 128,
            total: 16_384,
            changes_per_second: 20,
            burst: 200,
        }
    }
}

/// What a gateway is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// The networks inside: requests from elsewhere are not answered, and mappings lead
    /// nowhere else.
    pub inside: Vec<Cidr>,
    /// The gateway's own addresses, which no mapping may lead to.
    pub own: Vec<IpAddr>,
    /// The outside address, if there is one.
    pub external: Option<Ipv4Addr>,
    /// The first rule that fits decides; where none does, ports from 1024 up are allowed,
    /// but for [`REFUSED_PORTS`].
    pub rules: Vec<Rule>,
    /// Who may have how much.
    pub quotas: Quotas,
    /// The longest lease; at most [`MAX_LEASE`].
    pub max_lease: Duration,
    /// Whether a host may ask for another one: UPnP's NewInternalClient and PCP's THIRD_PARTY.
    pub third_party: bool,
    /// Whether NAT-PMP is answered.
    pub nat_pmp: bool,
    /// Whether PCP is answered.
    pub pcp: bool,
    /// Whether UPnP-IGD is answered.
    pub upnp: bool,
    /// For how long leases have been kept, which is what PCP and NAT-PMP call the epoch: it
    /// goes on when they were read back, and begins at 0 when they were lost.
    pub epoch: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inside: Vec::new(),
            own: Vec::new(),
            external: None,
            rules: Vec::new(),
            quotas: Quotas::default(),
            max_lease: MAX_LEASE,
            third_party: false,
            nat_pmp: true,
            pcp: true,
            upnp: true,
            epoch: Duration::ZERO,
        }
    }
}

impl Config {
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        self.inside.iter().any(|network| network.contains(address))
    }

    /// Whether the wish may be granted.
    pub(super) fn allows(&self, wish: &Wish) -> bool {
        let for_itself = wish.host == wish.client.address || self.third_party;
        if !for_itself || !self.is_inside(wish.host) || self.own.contains(&wish.host) {
            return false;
        }
        match self.rules.iter().find(|rule| rule.fits(wish)) {
            Some(rule) => rule.action == Action::Allow,
            None => is_harmless(wish.external_port) && is_harmless(wish.internal_port),
        }
    }
}

fn is_harmless(port: u16) -> bool {
    port >= 1024 && !REFUSED_PORTS.contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            inside: vec!["192.168.1.0/24".parse().unwrap()],
            own: vec!["192.168.1.1".parse().unwrap()],
            ..Config::default()
        }
    }

    fn wish(host: &str, external_port: u16) -> Wish {
        let address = "192.168.1.10".parse().unwrap();
        Wish {
            client: Client {
                address,
                mac: Some([2, 0, 0, 0, 0, 1]),
            },
            host: host.parse().unwrap(),
            transport: Transport::Tcp,
            external_port,
            internal_port: 4000,
        }
    }

    #[test]
    fn a_host_maps_harmless_ports_to_itself() {
        let config = config();
        assert!(config.allows(&wish("192.168.1.10", 4000)));
        for (host, port) in [
            ("192.168.1.10", 80),
            ("192.168.1.10", 3389),
            ("192.168.1.11", 4000),
            ("192.168.1.1", 4000),
            ("10.0.0.1", 4000),
        ] {
            assert!(!config.allows(&wish(host, port)), "{host} {port}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let only_the_console = [
            Rule {
                mac: Some([2, 0, 0, 0, 0, 1]),
                external_ports: 80..=90,
                ..Rule::all(Action::Allow)
            },
            Rule::all(Action::Deny),
        ];
        let config = Config {
            rules: only_the_console.to_vec(),
            ..config()
        };
        assert!(config.allows(&wish("192.168.1.10", 80)));
        assert!(!config.allows(&wish("192.168.1.10", 4000)));
        let mut other = wish("192.168.1.10", 80);
        other.client.mac = None;
        assert!(!config.allows(&other));
    }

    #[test]
    fn a_rule_about_third_parties_leaves_the_gateway_alone() {
        let config = Config {
            third_party: true,
            rules: vec![Rule::all(Action::Allow)],
            ..config()
        };
        assert!(config.allows(&wish("192.168.1.11", 4000)));
        assert!(!config.allows(&wish("192.168.1.1", 4000)));
        assert!(!config.allows(&wish("192.168.2.1", 4000)));
    }
}
