//! What a server decides about probes: whether a client's port is looked at from outside.
//!
//! [`Server`] opens no socket. Give it each request with the address that its client is seen at
//! ([`Server::handle_request`]); carry out the [`Probe`] that comes of it, within its patience;
//! say what came of it, or that nobody waits any longer ([`Server::handle_outcome`]).
//!
//! What keeps it from harm: nothing is sent but to the address from which the request came over
//! a connection, so it cannot be forged; one datagram a request, not larger than it, or one
//! connection, which is tried a few times where the client opens it, too; never to an address that is not on the public internet, nor to the server's own; few
//! for each source, and few in all. Whoever shares the client's address, behind one NAT or
//! proxy, can be probed by it: at this rate all ports of an address take a month.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::probe::{CROSSING_PORTS, Outcome, Refusal, Request};
use postern_wire::transport::Transport;

use crate::signal::Rate;
use crate::signal::limits::{Meter, Source};
use crate::timers::Timers;
use crate::turn::server::PeerPolicy;

/// The most sources that are remembered: those that have asked within the last minutes.
const MAX_SOURCES: usize = 16_384;

/// Ports over TCP that are not connected to: servers that connect to those of mail are taken
/// for senders of spam.
const NOT_OVER_TCP: [u16; 3] = [25, 465, 587];

/// Ports over UDP to which nothing is sent: services that answer whatever comes (echo, daytime,
/// qotd, chargen, time).
const NOT_OVER_UDP: [u16; 5] = [7, 13, 17, 19, 37];

/// Whom a server probes, and how often.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which clients are probed, by their addresses.
    pub policy: PeerPolicy,
    /// How many probes an IPv4 address or an IPv6 network of 64 bits may ask for.
    pub per_source: Rate,
    /// How many all of them may.
    pub in_all: Rate,
    /// The server's second addresses, one of a family at most.
    pub alternates: Vec<IpAddr>,
    /// How many of one source may be under way.
    pub running_per_source: usize,
    /// How many in all.
    pub running: usize,
    /// How long an answer is waited for: long enough for a second SYN, which leaves after a
    /// second.
    pub patience: Duration,
}

impl Default for Config {
    /// Two mappings that are made, found dead, healed and looked at again take 24 probes; a check
    /// has five under way at a time.
    fn default() -> Self {
        Self {
            policy: PeerPolicy::new(),
            per_source: Rate {
                count: 24,
                per: Duration::from_secs(900),
            },
            in_all: Rate {
                count: 500,
                per: Duration::from_secs(10),
            },
            alternates: Vec::new(),
            running_per_source: 6,
            running: 128,
            patience: Duration::from_secs(2),
        }
    }
}

/// Names a probe that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeId(u64);

/// What the driver shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its name.
    pub id: ProbeId,
    /// Where to connect or to send to.
    pub target: SocketAddr,
    /// What was asked.
    pub request: Request,
    /// The address from which to do it, if not from that to which the request came.
    pub from: Option<IpAddr>,
    /// How long to wait.
    pub patience: Duration,
}

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Probes that ended, by what came of them.
    pub outcomes: BTreeMap<(Transport, Outcome), u64>,
    /// Requests that were refused.
    pub refused: BTreeMap<Refusal, u64>,
}

/// The server's part.
#[derive(Debug)]
pub struct Server {
    config: Config,
    meters: BTreeMap<Source, Meter>,
    /// When a source is as good as new, and can be forgotten.
    forgotten: Timers<Source>,
    all: Meter,
    running: BTreeMap<ProbeId, (Source, Transport)>,
    next: u64,
    stats: Stats,
}

impl Server {
    /// A server that has not been asked yet.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        Self {
            config,
            meters: BTreeMap::new(),
            forgotten: Timers::default(),
            all: Meter::new(now),
            running: BTreeMap::new(),
            next: 0,
            stats: Stats::default(),
        }
    }

    /// Takes another policy from here on.
    pub fn set_policy(&mut self, policy: PeerPolicy) {
        self.config.policy = policy;
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Takes the request of a client that is seen at this address; `None` is one that could not
    /// be read.
    ///
    /// # Errors
    ///
    /// Says why nothing is probed.
    pub fn handle_request(
        &mut self,
        now: Instant,
        client: IpAddr,
        request: Option<Request>,
    ) -> Result<Probe, Refusal> {
        let admitted = self.admit(now, client.to_canonical(), request);
        if let Err(refusal) = admitted {
            let count = self.stats.refused.entry(refusal).or_default();
            *count = count.saturating_add(1);
        }
        admitted
    }

    fn admit(
        &mut self,
        now: Instant,
        client: IpAddr,
        request: Option<Request>,
    ) -> Result<Probe, Refusal> {
        let request = request.filter(|request| request.port() != 0);
        let request = request.ok_or(Refusal::Malformed)?;
        if !self.config.policy.allows(client) {
            return Err(Refusal::Address);
        }
        let avoided: &[u16] = match request {
            Request::Tcp { .. } | Request::TcpAlternate { .. } | Request::TcpCrossing { .. } => {
                &NOT_OVER_TCP
            }
            Request::Udp { .. } => &NOT_OVER_UDP,
        };
        let at_service =
            matches!(request, Request::TcpCrossing { from, .. } if !CROSSING_PORTS.contains(&from));
        if at_service || avoided.contains(&request.port()) {
            return Err(Refusal::Port);
        }
        let from = self.source_of(client, request)?;
        let source = Source::from(client);
        self.meter(now, source)?;
        let id = ProbeId(self.next);
        self.next = self.next.wrapping_add(1);
        self.running.insert(id, (source, request.transport()));
        Ok(Probe {
            id,
            target: SocketAddr::new(client, request.port()),
            request,
            from,
            patience: self.config.patience,
        })
    }

    fn source_of(&self, client: IpAddr, request: Request) -> Result<Option<IpAddr>, Refusal> {
        let Request::TcpAlternate { .. } = request else {
            return Ok(None);
        };
        let mut known = self.config.alternates.iter();
        let from = known.find(|ip| ip.is_ipv4() == client.is_ipv4());
        from.copied().map(Some).ok_or(Refusal::Alternate)
    }

    fn meter(&mut self, now: Instant, source: Source) -> Result<(), Refusal> {
        let mine = self.running.values().filter(|(known, _)| *known == source);
        if mine.count() >= self.config.running_per_source
            || self.running.len() >= self.config.running
        {
            return Err(Refusal::Busy);
        }
        while let Some(source) = self.forgotten.due(now) {
            self.meters.remove(&source);
        }
        if !self.meters.contains_key(&source) && self.meters.len() >= MAX_SOURCES {
            return Err(Refusal::Rate);
        }
        let meter = self.meters.entry(source).or_insert_with(|| Meter::new(now));
        let is_within = meter.take(now, self.config.per_source);
        self.forgotten.set(source, meter.earned());
        if is_within && self.all.take(now, self.config.in_all) {
            Ok(())
        } else {
            Err(Refusal::Rate)
        }
    }

    /// Says what came of a probe; `None` if its client has gone.
    pub fn handle_outcome(&mut self, id: ProbeId, outcome: Option<Outcome>) {
        let Some((_, transport)) = self.running.remove(&id) else {
            return;
        };
        if let Some(outcome) = outcome {
            let count = self.stats.outcomes.entry((transport, outcome)).or_default();
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_wire::probe::Nonce;

    use super::*;
    use crate::turn::server::Cidr;

    const ALICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 45, 3, 2));
    const TCP: Option<Request> = Some(Request::Tcp { port: 4001 });

    #[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
    fn start() -> (Instant, Server) {
        let now = Instant::now();
        let own: IpAddr = [45, 45, 1, 2].into();
        let config = Config {
            policy: PeerPolicy::new().own(own),
            ..Config::default()
        };
        (now, Server::new(now, config))
    }

    /// How many are admitted, one after the other.
    fn admitted(server: &mut Server, now: Instant, client: IpAddr, most: usize) -> usize {
        let admit = |_: &usize| {
            let probe = server.handle_request(now, client, TCP);
            if let Ok(probe) = probe {
                server.handle_outcome(probe.id, Some(Outcome::Silent));
            }
            probe.is_ok()
        };
        (0..most).take_while(admit).count()
    }

    #[test]
    fn the_clients_own_address_is_probed_and_no_other() {
        let (now, mut server) = start();
        let probe = server.handle_request(now, ALICE, TCP).unwrap();
        assert_eq!(probe.target, SocketAddr::new(ALICE, 4001));
        let mapped = "::ffff:45.45.3.2".parse().unwrap();
        let probe = server.handle_request(now, mapped, TCP).unwrap();
        assert_eq!(probe.target, SocketAddr::new(ALICE, 4001));
    }

    #[test]
    fn addresses_that_are_private_denied_or_the_servers_own_are_not_probed() {
        let (now, mut server) = start();
        let denied = Cidr::new([45, 45, 3, 0].into(), 24).unwrap();
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "45.45.1.2",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            let result = server.handle_request(now, address.parse().unwrap(), TCP);
            assert_eq!(result, Err(Refusal::Address), "{address}");
        }
        server.set_policy(PeerPolicy::new().deny(denied));
        let result = server.handle_request(now, ALICE, TCP);
        assert_eq!(result, Err(Refusal::Address));
        assert_eq!(server.stats().refused[&Refusal::Address], 11);
    }

    #[test]
    fn neither_port_zero_nor_ports_of_mail_or_echoes_are_probed() {
        let (now, mut server) = start();
        let nonce = Nonce([1; 16]);
        for port in NOT_OVER_TCP {
            let tcp = server.handle_request(now, ALICE, Some(Request::Tcp { port }));
            assert_eq!(tcp, Err(Refusal::Port));
        }
        for port in NOT_OVER_UDP {
            let udp = server.handle_request(now, ALICE, Some(Request::Udp { port, nonce }));
            assert_eq!(udp, Err(Refusal::Port));
        }
        let zero = server.handle_request(now, ALICE, Some(Request::Tcp { port: 0 }));
        assert_eq!(zero, Err(Refusal::Malformed));
        assert_eq!(
            server.handle_request(now, ALICE, None),
            Err(Refusal::Malformed)
        );
    }

    #[test]
    fn the_second_address_probes_clients_of_its_family() {
        let (now, mut server) = start();
        let alternate = Some(Request::TcpAlternate { port: 4001 });
        let refused = server.handle_request(now, ALICE, alternate);
        assert_eq!(refused, Err(Refusal::Alternate));
        let second: IpAddr = [45, 45, 1, 3].into();
        server.config.alternates = vec![second];
        let probe = server.handle_request(now, ALICE, alternate).unwrap();
        assert_eq!(probe.from, Some(second));
        assert_eq!(probe.target, SocketAddr::new(ALICE, 4001));
        let six = "2a45::1".parse().unwrap();
        let refused = server.handle_request(now, six, alternate);
        assert_eq!(refused, Err(Refusal::Alternate));
    }

    #[test]
    fn both_ends_call_from_dynamic_ports_only() {
        let (now, mut server) = start();
        for (from, allowed) in [
            (443, false),
            (49_151, false),
            (49_152, true),
            (65_535, true),
        ] {
            let crossing = Some(Request::TcpCrossing { port: 4001, from });
            let probe = server.handle_request(now, ALICE, crossing);
            assert_eq!(probe.is_ok(), allowed, "{from}");
            assert!(allowed || probe == Err(Refusal::Port));
        }
    }

    #[test]
    fn a_source_has_its_share_and_earns_it_again() {
        let (now, mut server) = start();
        assert_eq!(admitted(&mut server, now, ALICE, 100), 24);
        let bob = [45, 45, 4, 2].into();
        assert_eq!(admitted(&mut server, now, bob, 1), 1);
        let later = now + Duration::from_secs(900) / 24;
        assert_eq!(admitted(&mut server, later, ALICE, 100), 1);
        let much_later = later + Duration::from_secs(900);
        assert_eq!(admitted(&mut server, much_later, ALICE, 100), 24);
        assert_eq!(server.meters.len(), 1, "bob is forgotten");
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_source() {
        let (now, mut server) = start();
        let of = |host: u16| IpAddr::from([0x2a45, 0x45, 3, 1, 0, 0, 0, host]);
        let all = (1..100).filter(|host| admitted(&mut server, now, of(*host), 1) == 1);
        assert_eq!(all.count(), 24);
    }

    #[test]
    fn all_sources_together_have_a_share() {
        let (now, mut server) = start();
        let of = |n: u16| IpAddr::from([45, 46, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let all = (0..1000).filter(|n| admitted(&mut server, now, of(*n), 1) == 1);
        assert_eq!(all.count(), 500);
    }

    #[test]
    fn few_are_under_way_at_a_time() {
        let (now, mut server) = start();
        let probes = [(); 6].map(|()| server.handle_request(now, ALICE, TCP).unwrap());
        assert_eq!(server.handle_request(now, ALICE, TCP), Err(Refusal::Busy));
        server.handle_outcome(probes[0].id, None);
        assert!(server.handle_request(now, ALICE, TCP).is_ok());
        let of = |n: u8| IpAddr::from([45, 46, 1, n]);
        let all = (0..=255).filter(|n| server.handle_request(now, of(*n), TCP).is_ok());
        assert_eq!(all.count(), 122);
    }

    #[test]
    fn sources_are_bounded_and_outcomes_are_counted() {
        let (mut now, mut server) = start();
        let mut known = 0;
        for n in 0..20_000_u32 {
            // Not faster than all may.
            now += Duration::from_millis(20);
            let client = std::net::Ipv4Addr::from_bits(0x2d2e_0000 + n).into();
            known += admitted(&mut server, now, client, 1);
        }
        assert!(server.meters.len() <= MAX_SOURCES);
        let key = (Transport::Tcp, Outcome::Silent);
        assert_eq!(server.stats().outcomes[&key], known as u64);
        assert!(server.running.is_empty());
    }
}
