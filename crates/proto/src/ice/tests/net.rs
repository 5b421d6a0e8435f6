//! A network for two agents: latency, NATs, a STUN server, and a wire that a test can cut.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, XorMappedAddress};
use postern_wire::transport::Transport;

use super::super::*;
use super::{epoch, ms, secs};
use crate::{Datagram, Transmit, Verdict};

pub(super) const STUN: &str = "192.0.2.1:3478";
const TURN: &str = "192.0.2.7:3478";
const PATIENCE_OF_TESTS: Duration = Duration::from_secs(60);

pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// What a mapping or a filter depends on (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DependsOn {
    Nothing,
    Address,
    AddressAndPort,
}

impl DependsOn {
    pub(super) const ALL: [Self; 3] = [Self::Nothing, Self::Address, Self::AddressAndPort];

    /// The part of a remote address that matters.
    fn key(self, remote: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Nothing => None,
            Self::Address => Some(SocketAddr::new(remote.ip(), 0)),
            Self::AddressAndPort => Some(remote),
        }
    }
}

/// A NAT; without a public address, none.
#[derive(Debug)]
pub(super) struct Nat {
    public: Option<SocketAddr>,
    pub(super) mapping: DependsOn,
    pub(super) filtering: DependsOn,
    mappings: BTreeMap<(SocketAddr, Option<SocketAddr>), SocketAddr>,
    permitted: BTreeSet<(SocketAddr, Option<SocketAddr>)>,
    /// Which mapping a flow that began outside uses, by inside and remote address: answers
    /// leave from where the packet came in, as with every NAT that tracks connections.
    flows: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Ports that were opened on request, and where they lead to.
    forwards: BTreeMap<SocketAddr, SocketAddr>,
}

impl Nat {
    /// An ordinary home router, which numbers its ports from the given address on.
    pub(super) fn at(public: &str) -> Self {
        Self {
            public: Some(at(public)),
            ..Self::none()
        }
    }

    pub(super) fn none() -> Self {
        Self {
            public: None,
            mapping: DependsOn::Nothing,
            filtering: DependsOn::AddressAndPort,
            mappings: BTreeMap::new(),
            permitted: BTreeSet::new(),
            flows: BTreeMap::new(),
            forwards: BTreeMap::new(),
        }
    }

    pub(super) fn mapping(self, mapping: DependsOn) -> Self {
        Self { mapping, ..self }
    }

    pub(super) fn filtering(self, filtering: DependsOn) -> Self {
        Self { filtering, ..self }
    }

    /// Forgets everything, as a router that reboots, and uses other ports.
    pub(super) fn reboot(&mut self) {
        let mut public = self.public.unwrap();
        public.set_port(public.port() + 1000);
        self.public = Some(public);
        self.mappings.clear();
        self.permitted.clear();
        self.flows.clear();
    }

    fn outbound(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let Some(public) = self.public else {
            return from;
        };
        if let Some(outside) = self.flows.get(&(from, to)) {
            return *outside;
        }
        let count = self.mappings.len() as u16;
        let new = SocketAddr::new(public.ip(), public.port() + count);
        let key = (from, self.mapping.key(to));
        let outside = *self.mappings.entry(key).or_insert(new);
        self.permitted.insert((outside, self.filtering.key(to)));
        outside
    }

    fn inbound(&mut self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.public.is_none() {
            return Some(to);
        }
        if let Some(inside) = self.forwards.get(&to) {
            self.flows.insert((*inside, from), to);
            return Some(*inside);
        }
        let mut mappings = self.mappings.iter();
        let (inside, _) = *mappings.find(|(_, outside)| **outside == to)?.0;
        let open = self.filtering == DependsOn::Nothing;
        if !open && !self.permitted.contains(&(to, self.filtering.key(from))) {
            return None;
        }
        self.flows.insert((inside, from), to);
        Some(inside)
    }
}

/// One agent, its NAT and what it has said.
pub(super) struct Peer {
    pub(super) agent: Agent,
    pub(super) nat: Nat,
    hosts: Vec<SocketAddr>,
    /// Relayed addresses: no NAT is in front of them.
    relays: Vec<SocketAddr>,
    /// Events with the time since the start.
    pub(super) events: Vec<(Duration, Event)>,
    /// What was sent, with the time since the start.
    pub(super) sent: Vec<(Duration, Transmit)>,
    /// What stands between an IPv6 network and the others.
    nat64: Option<Nat64Prefix>,
    signalled: usize,
    knows_credentials: bool,
}

impl Peer {
    fn new(now: Instant, seed: u8, role: Role, config: Config) -> Self {
        Self {
            agent: Agent::new(now, [seed; 32], role, config),
            nat: Nat::none(),
            hosts: Vec::new(),
            relays: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            nat64: None,
            signalled: 0,
            knows_credentials: false,
        }
    }

    fn relay(&mut self, now: Instant, relayed: &str) {
        self.relays.push(at(relayed));
        let base = self.hosts[0];
        self.agent.add_relayed(now, base, at(relayed), at(TURN));
    }

    /// How an address looks from inside.
    fn seen_as(&self, address: SocketAddr) -> SocketAddr {
        match (self.nat64, address.ip()) {
            (Some(prefix), IpAddr::V4(ip)) => {
                SocketAddr::new(prefix.synthesise(ip).into(), address.port())
            }
            _ => address,
        }
    }

    /// Where an address leads to outside.
    fn leads_to(&self, address: SocketAddr) -> SocketAddr {
        match (self.nat64, address.ip()) {
            (Some(prefix), IpAddr::V6(ip)) => {
                let v4 = prefix.extract(ip).map(IpAddr::V4);
                SocketAddr::new(v4.unwrap_or_else(|| ip.into()), address.port())
            }
            _ => address,
        }
    }

    /// The paths that were selected, with the time since the start.
    pub(super) fn selections(&self) -> Vec<(Duration, Path)> {
        let selected = self.events.iter().filter_map(|(at, event)| match event {
            Event::Selected(path) => Some((*at, *path)),
            _ => None,
        });
        selected.collect()
    }

    pub(super) fn first(&self, which: impl Fn(&Event) -> bool) -> Option<Duration> {
        let found = self.events.iter().find(|(_, event)| which(event));
        found.map(|(at, _)| *at)
    }

    pub(super) fn valid_at(&self) -> Option<Duration> {
        self.first(|event| matches!(event, Event::Valid { .. }))
    }

    pub(super) fn selected_at(&self) -> Option<Duration> {
        self.first(|event| matches!(event, Event::Selected(_)))
    }

    pub(super) fn lost_at(&self) -> Option<Duration> {
        self.first(|event| matches!(event, Event::Lost(_)))
    }

    pub(super) fn failed_at(&self) -> Option<Duration> {
        self.first(|event| matches!(event, Event::Failed(_)))
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let candidates = self.events.iter().filter_map(|(_, event)| match event {
            Event::LocalCandidate(candidate) => Some(candidate.clone()),
            _ => None,
        });
        candidates.collect()
    }

    pub(super) fn sent_to(&self, remote: &str) -> Vec<Duration> {
        let sent = self.sent.iter().filter(|(_, t)| t.remote == at(remote));
        sent.map(|(at, _)| *at).collect()
    }
}

pub(super) type Delay = Box<dyn FnMut() -> Duration>;
pub(super) type Cut = Box<dyn FnMut(Duration, SocketAddr, SocketAddr) -> bool>;

/// Two peers, `a` controlling, and the network between them.
pub(super) struct Pair {
    start: Instant,
    pub(super) now: Instant,
    pub(super) a: Peer,
    pub(super) b: Peer,
    /// How long the next packet takes.
    pub(super) delay: Delay,
    pub(super) stun_answers: bool,
    /// Whether to lose a packet sent at a time from and to public addresses.
    pub(super) cut: Cut,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    linked: bool,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Config::default(), (Role::Controlling, Role::Controlled))
    }

    pub(super) fn with(config: Config, roles: (Role, Role)) -> Self {
        let start = epoch();
        Self {
            start,
            now: start,
            a: Peer::new(start, 1, roles.0, config),
            b: Peer::new(start, 2, roles.1, config),
            delay: Box::new(|| ms(30)),
            stun_answers: true,
            cut: Box::new(|_, _, _| false),
            wire: BTreeMap::new(),
            count: 0,
            linked: false,
        }
    }

    /// Both on public addresses.
    pub(super) fn public() -> Self {
        let mut pair = Self::new();
        pair.host_a("45.45.1.1:1000");
        pair.host_b("45.45.2.2:2000");
        pair
    }

    /// Both behind NATs with a STUN server between them, gathered.
    pub(super) fn behind(a: Nat, b: Nat) -> Self {
        Self::behind_with(Config::default(), a, b)
    }

    pub(super) fn behind_with(config: Config, a: Nat, b: Nat) -> Self {
        let mut pair = Self::with(config, (Role::Controlling, Role::Controlled));
        (pair.a.nat, pair.b.nat) = (a, b);
        pair.host_a("10.0.1.1:1000");
        pair.host_b("10.0.2.2:2000");
        pair.gather();
        pair.run(ms(100));
        pair
    }

    pub(super) fn host_a(&mut self, address: &str) {
        self.a.hosts.push(at(address));
        self.a.agent.add_host(self.now, at(address));
        self.drain();
    }

    pub(super) fn host_b(&mut self, address: &str) {
        self.b.hosts.push(at(address));
        self.b.agent.add_host(self.now, at(address));
        self.drain();
    }

    /// A host of a component, of `a` or of `b`.
    pub(super) fn host_of(&mut self, is_a: bool, component: u16, address: &str) {
        let peer = if is_a { &mut self.a } else { &mut self.b };
        peer.hosts.push(at(address));
        peer.agent.add_host_of(self.now, component, at(address));
        self.drain();
    }

    /// `a` on an IPv6 network with a translator, `b` behind an IPv4 NAT, gathered.
    pub(super) fn behind_nat64(prefix: Nat64Prefix) -> Self {
        let mut pair = Self::new();
        pair.a.nat = Nat::at("45.45.1.1:40000");
        pair.b.nat = Nat::at("45.45.2.2:50000");
        pair.a.nat64 = Some(prefix);
        pair.a.agent.set_nat64_prefix(pair.now, Some(prefix));
        pair.host_a("[2001:db8::1]:1000");
        pair.host_b("10.0.2.2:2000");
        pair.gather();
        pair.run(ms(100));
        pair
    }

    /// The gateway of `a` or of `b` opens a port to its first host, and both know it.
    pub(super) fn open_port(&mut self, is_a: bool, external: &str) {
        let (own, other) = match is_a {
            true => (&mut self.a, &mut self.b),
            false => (&mut self.b, &mut self.a),
        };
        let host = own.hosts[0];
        own.nat.forwards.insert(at(external), host);
        let mapping = (host, at(external));
        own.agent.add_mapped(self.now, Transport::Udp, mapping);
        let ip = at(external).ip();
        let port = at(external).port();
        let line = format!("candidate:1 1 udp 1 {ip} {port} typ srflx raddr 0.0.0.0 rport 9");
        other.agent.note_remote_mapped(&line.parse().unwrap());
        self.drain();
    }

    pub(super) fn relay_a(&mut self, relayed: &str) {
        self.a.relay(self.now, relayed);
        self.drain();
    }

    pub(super) fn relay_b(&mut self, relayed: &str) {
        self.b.relay(self.now, relayed);
        self.drain();
    }

    pub(super) fn gather(&mut self) {
        for peer in [&mut self.a, &mut self.b] {
            peer.agent.add_stun_server(self.now, at(STUN));
            peer.agent.end_of_hosts(self.now);
        }
        self.drain();
    }

    /// From here on both know the other's credentials, and candidates are signalled at once.
    pub(super) fn link(&mut self) {
        self.link_a();
        self.link_b();
    }

    /// `a` learns the credentials of `b`.
    pub(super) fn link_a(&mut self) {
        let credentials = self.b.agent.local_credentials().clone();
        self.a.agent.set_remote_credentials(self.now, credentials);
        self.a.knows_credentials = true;
        self.linked = true;
        self.drain();
    }

    /// `b` learns the credentials of `a`.
    pub(super) fn link_b(&mut self) {
        let credentials = self.a.agent.local_credentials().clone();
        self.b.agent.set_remote_credentials(self.now, credentials);
        self.b.knows_credentials = true;
        self.linked = true;
        self.drain();
    }

    /// Both begin another session, and know the other's credentials at once.
    pub(super) fn restart(&mut self) {
        self.a.agent.restart(self.now);
        self.b.agent.restart(self.now);
        self.link();
    }

    /// Opens the mapping of `a` towards an address.
    pub(super) fn open_a(&mut self, remote: &str) {
        let host = self.a.hosts[0];
        self.a.nat.outbound(host, at(remote));
    }

    /// From here on candidates are not signalled.
    pub(super) fn hold_signals(&mut self) {
        self.linked = false;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next_moment().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.deliver();
            self.a.agent.handle_timeout(self.now);
            self.b.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Lets time pass until both have selected a path.
    pub(super) fn run_until_selected(&mut self) {
        let end = self.elapsed() + PATIENCE_OF_TESTS;
        while self.a.agent.selected().is_none() || self.b.agent.selected().is_none() {
            assert!(self.elapsed() < end, "nothing was selected");
            self.run(ms(1));
        }
    }

    /// Puts a datagram on the wire, as anybody could.
    pub(super) fn inject(&mut self, from: &str, to: &str, payload: Vec<u8>) -> Option<Verdict> {
        self.hand_over(at(from), at(to), &payload)
    }

    fn next_moment(&self) -> Option<Instant> {
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let times = [
            wire,
            self.a.agent.poll_timeout(),
            self.b.agent.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (from, to, payload) = entry.remove();
            self.hand_over(from, to, &payload);
        }
    }

    fn hand_over(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Verdict> {
        if to == at(STUN) {
            self.answer_stun(from, payload);
            return None;
        }
        let now = self.now;
        let hand = |peer: &mut Peer| {
            let local = if peer.relays.contains(&to) {
                to
            } else {
                peer.nat.inbound(from, to)?
            };
            let datagram = Datagram {
                local,
                remote: peer.seen_as(from),
                payload,
            };
            let ours = peer.hosts.contains(&local) || peer.relays.contains(&local);
            ours.then(|| peer.agent.handle_input(now, datagram))
        };
        let verdict = hand(&mut self.a).or_else(|| hand(&mut self.b));
        self.drain();
        verdict
    }

    fn answer_stun(&mut self, from: SocketAddr, payload: &[u8]) {
        if self.stun_answers {
            let id = Message::parse(payload).unwrap().transaction_id();
            let response = Builder::new(Class::Success, Method::BINDING, id)
                .attribute(&XorMappedAddress(from))
                .build();
            self.send(at(STUN), from, response);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        if !(self.cut)(self.now - self.start, from, to) {
            self.count += 1;
            let when = self.now + (self.delay)();
            self.wire.insert((when, self.count), (from, to, payload));
        }
    }

    /// Carries out everything the agents want, until they want nothing more.
    pub(super) fn drain(&mut self) {
        let elapsed = self.elapsed();
        for is_a in [true, false] {
            let peer = if is_a { &mut self.a } else { &mut self.b };
            while let Some(event) = peer.agent.poll_event() {
                peer.events.push((elapsed, event));
            }
            let mut out = Vec::new();
            while let Some(transmit) = peer.agent.poll_transmit() {
                let from = if peer.relays.contains(&transmit.local) {
                    transmit.local
                } else {
                    let remote = peer.leads_to(transmit.remote);
                    peer.nat.outbound(transmit.local, remote)
                };
                peer.sent.push((elapsed, transmit.clone()));
                let remote = peer.leads_to(transmit.remote);
                let transmit = Transmit { remote, ..transmit };
                out.push((from, transmit));
            }
            for (from, transmit) in out {
                self.send(from, transmit.remote, transmit.payload);
            }
        }
        if self.linked {
            self.signal();
        }
    }

    fn signal(&mut self) {
        let (now, a, b) = (self.now, &mut self.a, &mut self.b);
        let told = if b.knows_credentials {
            tell(now, a, b)
        } else {
            false
        };
        let told = (a.knows_credentials && tell(now, b, a)) || told;
        if told {
            self.drain();
        }
    }
}

/// Signals the new events of one peer to the other.
fn tell(now: Instant, from: &mut Peer, to: &mut Peer) -> bool {
    let new: Vec<_> = from.events.split_off(from.signalled);
    for (at, event) in new.iter().cloned() {
        match &event {
            Event::LocalCandidate(candidate) => {
                let line = candidate.to_string();
                let candidate = line.parse().unwrap();
                to.agent.add_remote_candidate(now, candidate);
            }
            Event::EndOfLocalCandidates => to.agent.end_of_remote_candidates(now),
            _ => {}
        }
        from.events.push((at, event));
    }
    from.signalled = from.events.len();
    !new.is_empty()
}

#[test]
fn time_stands_still_when_nobody_wants_anything() {
    let mut pair = Pair::public();
    pair.run(secs(3600));
    assert!(pair.a.sent.is_empty());
    assert_eq!(pair.a.agent.poll_timeout(), None);
}
