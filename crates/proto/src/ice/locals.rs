//! Our own candidates: hosts, what STUN servers saw, foundations and redundancy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::candidate::{
    COMPONENT, Candidate, CandidateKind, is_usable, local_preference, priority, unscoped,
};
use super::config::{MAX_HOSTS, MAX_RELAYED};

/// Sockets opened to punch: those of an attempt, and a few to look at the NAT.
const MAX_PUNCH_SOCKETS: usize = crate::punch::MAX_SOCKETS + crate::punch::MAX_SAMPLES;

/// The most addresses at gateways that lead to a host: of those that a mapping had, the latest.
pub(super) const MAX_ASSISTED: usize = 4;

/// The priority of a candidate that punching found: of its kind, below all others.
pub(super) const PUNCHED_PRIORITY: u32 = 110 << 24 | 0xff;

/// The host candidates, each with what is known about its mappings, and the relayed ones.
#[derive(Debug, Default)]
pub(super) struct Locals {
    hosts: Vec<Host>,
    relayed: Vec<Candidate>,
    /// Sockets opened to punch: bases that are neither told nor paired.
    sockets: BTreeMap<SocketAddr, Candidate>,
    /// Relayed candidates made so far: each gets a local preference of its own.
    relays: u8,
    foundations: Foundations,
}

#[derive(Debug)]
struct Host {
    candidate: Candidate,
    order: u8,
    /// What each STUN server saw.
    mapped: BTreeMap<SocketAddr, SocketAddr>,
    /// Where gateways lead here on request.
    assisted: Vec<SocketAddr>,
    /// Server-reflexive candidates made so far: each gets a local preference of its own.
    reflexive: u8,
}

impl Locals {
    /// Adds a host candidate of a component; `None` if it is unusable, known, or one too many.
    pub(super) fn add_host(
        &mut self,
        component: u16,
        address: SocketAddr,
        allow_loopback: bool,
    ) -> Option<&Candidate> {
        let full = self.hosts.len() >= MAX_HOSTS;
        if full || !is_usable(address, allow_loopback) || self.base(address).is_some() {
            return None;
        }
        let order = self.order(component, address);
        let candidate = Candidate {
            foundation: self.foundations.of(CandidateKind::Host, address, None, 0),
            component,
            priority: priority(
                CandidateKind::Host,
                local_preference(address, order, 0),
                component,
            ),
            address,
            kind: CandidateKind::Host,
            related: None,
            tcp: None,
        };
        self.hosts.push(Host {
            candidate,
            order,
            mapped: BTreeMap::new(),
            assisted: Vec::new(),
            reflexive: 0,
        });
        self.hosts.last().map(|host| &host.candidate)
    }

    /// The place of a host among its like: components of one interface have the same.
    fn order(&self, component: u16, address: SocketAddr) -> u8 {
        let twin = self.hosts.iter().find(|host| {
            host.candidate.address.ip() == address.ip() && host.candidate.component != component
        });
        let taken = |order: &u8| self.hosts.iter().any(|host| host.order == *order);
        let free = || (0..u8::MAX).find(|order| !taken(order));
        twin.map(|twin| twin.order).or_else(free).unwrap_or(u8::MAX)
    }

    pub(super) fn remove_host(&mut self, address: SocketAddr) {
        self.hosts.retain(|host| !same(host, address));
    }

    /// All candidates as they are at present, for another session: those of mappings are
    /// numbered anew.
    pub(super) fn tell_again(&mut self) -> Vec<Candidate> {
        let mut candidates: Vec<_> = self.bases().cloned().collect();
        for host in &mut self.hosts {
            host.reflexive = 0;
            let base = host.candidate.address;
            let mut told = BTreeSet::from([base]);
            let assisted = host.assisted.iter().map(|mapped| (*mapped, *mapped));
            let mapped = host
                .mapped
                .iter()
                .map(|(server, mapped)| (*server, *mapped));
            let mapped: Vec<_> = mapped.chain(assisted).collect();
            for (server, mapped) in mapped.into_iter().filter(|(_, m)| told.insert(*m)) {
                host.reflexive = host.reflexive.saturating_add(1);
                let kind = CandidateKind::ServerReflexive;
                let foundation = self.foundations.of(kind, base, Some(server), 0);
                candidates.push(host.reflexive(mapped, foundation));
            }
        }
        candidates
    }

    /// Adds a relayed candidate (section 5.1.1.2); `None` if it is unusable, known, or one too
    /// many.
    pub(super) fn add_relayed(
        &mut self,
        base: SocketAddr,
        relayed: SocketAddr,
        server: SocketAddr,
        allow_loopback: bool,
    ) -> Option<&Candidate> {
        let full = self.relayed.len() >= MAX_RELAYED;
        if full || !is_usable(relayed, allow_loopback) || self.base(relayed).is_some() {
            return None;
        }
        let kind = CandidateKind::Relayed;
        let preference = local_preference(relayed, self.relays, 0);
        let component = self
            .host(base)
            .map_or(COMPONENT, |host| host.candidate.component);
        self.relays = self.relays.saturating_add(1);
        self.relayed.push(Candidate {
            foundation: self.foundations.of(kind, relayed, Some(server), 0),
            component,
            priority: priority(kind, preference, component),
            address: unscoped(relayed),
            kind,
            related: Some(unscoped(base)),
            tcp: None,
        });
        self.relayed.last()
    }

    pub(super) fn remove_relayed(&mut self, relayed: SocketAddr) {
        self.relayed
            .retain(|candidate| candidate.address != unscoped(relayed));
    }

    /// The candidates that datagrams are sent from.
    pub(super) fn bases(&self) -> impl Iterator<Item = &Candidate> {
        self.host_bases().chain(&self.relayed)
    }

    /// Those that are addresses of interfaces.
    pub(super) fn host_bases(&self) -> impl Iterator<Item = &Candidate> {
        self.hosts.iter().map(|host| &host.candidate)
    }

    /// The base with this address, whatever scope it was written with.
    pub(super) fn base(&self, address: SocketAddr) -> Option<&Candidate> {
        let host = self.host(address).map(|host| &host.candidate);
        host.or_else(|| self.relayed(address))
            .or_else(|| self.sockets.get(&unscoped(address)))
    }

    /// Adds a socket that was opened to punch.
    pub(super) fn add_socket(&mut self, address: SocketAddr) {
        if self.sockets.len() >= MAX_PUNCH_SOCKETS || self.base(address).is_some() {
            return;
        }
        let candidate = Candidate {
            foundation: "punch".to_owned(),
            component: COMPONENT,
            priority: PUNCHED_PRIORITY,
            address,
            kind: CandidateKind::Host,
            related: None,
            tcp: None,
        };
        self.sockets.insert(unscoped(address), candidate);
    }

    pub(super) fn remove_socket(&mut self, address: SocketAddr) {
        self.sockets.remove(&unscoped(address));
    }

    pub(super) fn is_socket(&self, address: SocketAddr) -> bool {
        self.sockets.contains_key(&unscoped(address))
    }

    fn relayed(&self, address: SocketAddr) -> Option<&Candidate> {
        let address = unscoped(address);
        self.relayed
            .iter()
            .find(|relayed| relayed.address == address)
    }

    /// Notes what a STUN server saw; the new server-reflexive candidate, unless it is
    /// redundant (RFC 8445 section 5.1.3).
    pub(super) fn map(
        &mut self,
        base: SocketAddr,
        server: SocketAddr,
        mapped: SocketAddr,
    ) -> Option<Candidate> {
        let host = self.hosts.iter_mut().find(|h| same(h, base))?;
        let known = host.knows(mapped);
        let renewed = host.mapped.insert(server, mapped).is_some();
        if known {
            return None;
        }
        host.reflexive = host.reflexive.saturating_add(1);
        let renewal = if renewed { host.reflexive } else { 0 };
        let kind = CandidateKind::ServerReflexive;
        let foundation = self.foundations.of(kind, base, Some(server), renewal);
        Some(host.reflexive(mapped, foundation))
    }

    /// Notes that a gateway leads an address here; the new candidate, unless it is redundant.
    pub(super) fn assist(&mut self, base: SocketAddr, mapped: SocketAddr) -> Option<Candidate> {
        let host = self.hosts.iter_mut().find(|h| same(h, base))?;
        let known = host.knows(mapped);
        if host.assisted.contains(&mapped) {
            return None;
        }
        if host.assisted.len() >= MAX_ASSISTED {
            host.assisted.remove(0);
        }
        host.assisted.push(mapped);
        if known {
            return None;
        }
        host.reflexive = host.reflexive.saturating_add(1);
        let kind = CandidateKind::ServerReflexive;
        let foundation = self.foundations.of(kind, base, Some(mapped), 0);
        Some(host.reflexive(mapped, foundation))
    }

    /// No gateway leads the address here any more: whether no server sees it, either.
    pub(super) fn end_assistance(&mut self, mapped: SocketAddr) -> bool {
        for host in &mut self.hosts {
            host.assisted.retain(|known| *known != mapped);
        }
        !self.hosts.iter().any(|host| host.knows(mapped))
    }

    /// Whether a gateway leads this address to the base.
    pub(super) fn is_assisted(&self, base: SocketAddr, mapped: SocketAddr) -> bool {
        self.host(base)
            .is_some_and(|host| host.assisted.contains(&unscoped(mapped)))
    }

    /// The kind of the local candidate that a peer saw: one that is not known is
    /// peer-reflexive (section 7.2.5.3.1).
    pub(super) fn kind_of(&self, base: SocketAddr, mapped: SocketAddr) -> CandidateKind {
        let mapped = unscoped(mapped);
        if base == mapped && self.relayed(base).is_some() {
            return CandidateKind::Relayed;
        }
        match self.host(base) {
            Some(host) if unscoped(host.candidate.address) == mapped => CandidateKind::Host,
            Some(host) if host.knows(mapped) => CandidateKind::ServerReflexive,
            _ => CandidateKind::PeerReflexive,
        }
    }

    /// Whether any server saw this base.
    pub(super) fn is_mapped(&self, base: SocketAddr) -> bool {
        self.host(base).is_some_and(|host| !host.mapped.is_empty())
    }

    /// The server-reflexive addresses that are in use at present.
    pub(super) fn reflexive(&self) -> BTreeSet<(SocketAddr, SocketAddr)> {
        let seen = self.hosts.iter().flat_map(|host| {
            let base = host.candidate.address;
            host.mapped.values().map(move |mapped| (base, *mapped))
        });
        seen.filter(|(base, mapped)| base != mapped).collect()
    }

    /// Whether two servers saw different addresses of one base.
    pub(super) fn servers_disagree(&self) -> bool {
        self.hosts.iter().any(|host| {
            let first = host.mapped.values().next();
            host.mapped.values().any(|mapped| Some(mapped) != first)
        })
    }

    /// The PRIORITY of checks from a base: what a peer-reflexive candidate learnt from the
    /// check shall have (section 7.1.1).
    ///
    /// From a relayed candidate it is that one's own: a peer to whom it has not been signalled
    /// yet would otherwise prefer the relay to direct pairs.
    pub(super) fn check_priority(&self, base: SocketAddr) -> u32 {
        if let Some(relayed) = self.relayed(base) {
            return relayed.priority;
        }
        let host = self.host(base);
        let order = host.map_or(u8::MAX, |host| host.order);
        let component = host.map_or(COMPONENT, |host| host.candidate.component);
        let preference = local_preference(base, order, 0);
        priority(CandidateKind::PeerReflexive, preference, component)
    }

    fn host(&self, address: SocketAddr) -> Option<&Host> {
        self.hosts.iter().find(|host| same(host, address))
    }
}

impl Host {
    fn knows(&self, mapped: SocketAddr) -> bool {
        self.candidate.address == mapped
            || self.mapped.values().any(|known| *known == mapped)
            || self.assisted.contains(&mapped)
    }

    fn reflexive(&self, mapped: SocketAddr, foundation: String) -> Candidate {
        let kind = CandidateKind::ServerReflexive;
        let preference = local_preference(self.candidate.address, self.order, self.reflexive);
        Candidate {
            foundation,
            component: self.candidate.component,
            priority: priority(kind, preference, self.candidate.component),
            address: mapped,
            kind,
            related: Some(unscoped(self.candidate.address)),
            tcp: None,
        }
    }
}

fn same(host: &Host, address: SocketAddr) -> bool {
    unscoped(host.candidate.address) == unscoped(address)
}

/// Numbers the foundations (RFC 8445 section 5.1.1.3): the same kind, base address and server
/// make the same foundation.
///
/// A mapping that has changed makes a foundation of its own: otherwise the peer would keep the new
/// candidate frozen until its checks of the dead one have failed, 39.5 s later.
#[derive(Debug, Default)]
struct Foundations(BTreeMap<(CandidateKind, IpAddr, Option<IpAddr>, u8), usize>);

impl Foundations {
    fn of(
        &mut self,
        kind: CandidateKind,
        base: SocketAddr,
        server: Option<SocketAddr>,
        renewal: u8,
    ) -> String {
        let key = (kind, base.ip(), server.map(|server| server.ip()), renewal);
        let next = self.0.len().saturating_add(1);
        self.0.entry(key).or_insert(next).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn locals(hosts: &[&str]) -> Locals {
        let mut locals = Locals::default();
        for host in hosts {
            locals.add_host(1, at(host), false).unwrap();
        }
        locals
    }

    #[test]
    fn a_host_is_taken_once_and_only_if_usable() {
        let mut locals = locals(&["10.0.0.1:5"]);
        assert!(locals.add_host(1, at("10.0.0.1:5"), false).is_none());
        assert!(locals.add_host(1, at("127.0.0.1:5"), false).is_none());
        assert!(locals.add_host(1, at("127.0.0.1:5"), true).is_some());
    }

    #[test]
    fn foundations_depend_on_kind_base_address_and_server() {
        let mut locals = locals(&["10.0.0.1:5", "10.0.0.1:6", "10.0.0.2:5"]);
        let hosts: Vec<_> = locals.bases().map(|c| c.foundation.clone()).collect();
        assert_eq!(hosts[0], hosts[1]);
        assert_ne!(hosts[0], hosts[2]);
        let mut map = |base, server, mapped| locals.map(at(base), at(server), at(mapped)).unwrap();
        let a = map("10.0.0.1:5", "192.0.2.1:3478", "203.0.113.1:1");
        let b = map("10.0.0.1:6", "192.0.2.1:3479", "203.0.113.1:2");
        let c = map("10.0.0.1:5", "192.0.2.2:3478", "203.0.113.1:3");
        assert_eq!(a.foundation, b.foundation);
        assert_ne!(a.foundation, c.foundation);
        assert!(!hosts.contains(&a.foundation));
    }

    #[test]
    fn redundant_reflexive_candidates_are_not_told() {
        let mut locals = locals(&["10.0.0.1:5"]);
        let (base, one, two) = (at("10.0.0.1:5"), at("192.0.2.1:1"), at("192.0.2.2:1"));
        assert_eq!(locals.map(base, one, base), None, "not behind a NAT");
        let first = locals.map(base, two, at("203.0.113.1:7")).unwrap();
        assert_eq!(first.related, Some(base));
        assert_eq!(locals.map(base, one, at("203.0.113.1:7")), None);
    }

    #[test]
    fn a_port_of_a_gateway_is_a_candidate_and_what_stun_sees_of_it_is_none_again() {
        let mut locals = locals(&["10.0.0.1:5"]);
        let (base, server) = (at("10.0.0.1:5"), at("192.0.2.1:1"));
        let (seen, mapped) = (at("203.0.113.1:7"), at("203.0.113.1:9"));
        let reflexive = locals.map(base, server, seen).unwrap();
        let assisted = locals.assist(base, mapped).unwrap();
        assert_eq!(assisted.kind, CandidateKind::ServerReflexive);
        assert_eq!(assisted.related, Some(base));
        assert_ne!(assisted.foundation, reflexive.foundation);
        assert_ne!(assisted.priority, reflexive.priority);
        assert_eq!(locals.assist(base, mapped), None, "it is known");
        assert_eq!(locals.map(base, at("192.0.2.2:1"), mapped), None);
        assert_eq!(locals.assist(base, seen), None, "it was told already");
        assert_eq!(locals.kind_of(base, mapped), CandidateKind::ServerReflexive);
        assert!(locals.is_assisted(base, mapped) && locals.is_assisted(base, seen));
        assert_eq!(locals.assist(at("10.0.0.9:5"), mapped), None, "no base");
        let again: Vec<_> = locals.tell_again().into_iter().map(|c| c.address).collect();
        assert!(again.contains(&mapped));
    }

    #[test]
    fn a_changed_mapping_is_a_new_candidate_with_priority_and_foundation_of_its_own() {
        let mut locals = locals(&["10.0.0.1:5"]);
        let (base, server) = (at("10.0.0.1:5"), at("192.0.2.1:1"));
        let old = locals.map(base, server, at("203.0.113.1:7")).unwrap();
        let new = locals.map(base, server, at("203.0.113.1:8")).unwrap();
        assert!(new.priority < old.priority);
        assert_ne!(new.foundation, old.foundation);
        assert_eq!(
            locals.kind_of(base, old.address),
            CandidateKind::PeerReflexive,
            "the old mapping is forgotten"
        );
    }
}
