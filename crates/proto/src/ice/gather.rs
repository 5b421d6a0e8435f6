//! Gathering: server-reflexive candidates from STUN servers (RFC 8445 section 5.1.1.2), and the
//! refreshes that keep their mappings alive (section 5.1.1.4).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::{Builder, Class, Message, Method, XorMappedAddress};

use super::after;
use super::agent::Agent;
use super::candidate::{COMPONENT, can_pair, is_usable, unscoped};
use super::config::MAX_STUN_SERVERS;
use super::event::Event;
use super::transactions::{Purpose, gather_policy};
use crate::punch::Sample;
use crate::stun::{Request, random_transaction_id};

/// The STUN servers and what is asked of them, from each base of their family.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    servers: Vec<Server>,
    bindings: BTreeMap<(SocketAddr, SocketAddr), Binding>,
    hosts_ended: bool,
    end_told: bool,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    answered: bool,
}

/// A mapping as one server sees it.
#[derive(Debug, Clone, Copy)]
struct Binding {
    /// When to ask; `None` while a request is on its way.
    due: Option<Instant>,
    /// The first request has been answered or given up.
    settled: bool,
    /// When the latest request was sent.
    asked: Instant,
}

impl Binding {
    fn due(now: Instant) -> Self {
        Self {
            due: Some(now),
            settled: false,
            asked: now,
        }
    }
}

impl Gatherer {
    /// Adds a server; false if it is known or one too many.
    fn add_server(&mut self, address: SocketAddr) -> bool {
        let known = self.servers.iter().any(|server| server.address == address);
        let room = self.servers.len() < MAX_STUN_SERVERS;
        if room && !known {
            self.servers.push(Server {
                address,
                answered: false,
            });
        }
        room && !known
    }

    /// Asks `server` from `base` as soon as the pace allows.
    fn ask(&mut self, now: Instant, base: SocketAddr, server: SocketAddr) {
        let binding = self.bindings.entry((base, server));
        binding.or_insert_with(|| Binding::due(now));
    }

    /// The servers that were asked from a base.
    pub(super) fn asked_from(&self, base: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let bindings = self.bindings.keys();
        bindings
            .filter(move |(from, _)| *from == base)
            .map(|(_, server)| *server)
    }

    /// When the next request is due, of those from bases that count.
    pub(super) fn due(&self, counts: impl Fn(SocketAddr) -> bool) -> Option<Instant> {
        let bindings = self.bindings.iter().filter(|((base, _), _)| counts(*base));
        bindings.filter_map(|(_, b)| b.due).min()
    }

    /// Takes the request that is due at `now`.
    fn next(
        &mut self,
        now: Instant,
        counts: impl Fn(SocketAddr) -> bool,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let due = |b: &Binding| b.due.is_some_and(|due| due <= now);
        let bindings = self.bindings.iter_mut();
        let waiting = bindings.filter(|((base, _), b)| counts(*base) && due(b));
        let (key, binding) = waiting.min_by_key(|(_, b)| b.due)?;
        binding.due = None;
        binding.asked = now;
        Some(*key)
    }

    /// A request has been answered or given up: ask again at `next`.
    fn settle(&mut self, base: SocketAddr, server: SocketAddr, next: Instant) {
        if let Some(binding) = self.bindings.get_mut(&(base, server)) {
            binding.due = Some(next);
            binding.settled = true;
        }
    }

    fn mark_answered(&mut self, address: SocketAddr) {
        let mut servers = self.servers.iter_mut();
        if let Some(server) = servers.find(|server| server.address == address) {
            server.answered = true;
        }
    }

    /// Once, when the hosts have ended and every server has answered or been given up.
    fn take_end(&mut self) -> bool {
        let settled = self.bindings.values().all(|binding| binding.settled);
        let ends = self.hosts_ended && settled && !self.end_told;
        self.end_told |= ends;
        ends
    }

    /// Whether a server has neither answered nor been given up.
    pub(super) fn is_busy(&self) -> bool {
        !self.hosts_ended || self.bindings.values().any(|binding| !binding.settled)
    }

    fn asked(&self, base: SocketAddr, server: SocketAddr) -> Option<Instant> {
        Some(self.bindings.get(&(base, server))?.asked)
    }

    /// A base is no more.
    pub(super) fn forget(&mut self, base: SocketAddr) {
        self.bindings
            .retain(|(from, _), _| unscoped(*from) != unscoped(base));
    }

    /// Asks all servers again, and there will be another end.
    fn restart(&mut self, now: Instant) {
        self.end_told = false;
        for binding in self.bindings.values_mut() {
            *binding = Binding::due(now);
        }
    }

    /// Asks all servers as soon as the pace allows; what they said counts until they have answered.
    fn hasten(&mut self, now: Instant) {
        for binding in self.bindings.values_mut() {
            binding.due = Some(now);
        }
    }

    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn servers_answered(&self) -> usize {
        self.servers.iter().filter(|s| s.answered).count()
    }
}

impl Agent {
    /// Adds a host candidate: an interface's address and the port of a socket bound there.
    /// Order matters: within a family, earlier ones are preferred.
    ///
    /// Unusable addresses (see [`Config::allow_loopback`](super::Config::allow_loopback)), known
    /// ones and those beyond [`MAX_HOSTS`](super::MAX_HOSTS) are ignored.
    pub fn add_host(&mut self, now: Instant, address: SocketAddr) {
        self.add_host_of(now, COMPONENT, address);
    }

    /// The same for a component, 1 to [`Config::components`](super::Config::components): each needs
    /// sockets of its own.
    pub fn add_host_of(&mut self, now: Instant, component: u16, address: SocketAddr) {
        if !self.components.ids().any(|id| id == component) {
            return;
        }
        let loopback = self.config.allow_loopback;
        let added = self.locals.add_host(component, address, loopback);
        let Some(candidate) = added.cloned() else {
            return;
        };
        if self.is_settled() {
            self.on_new_base(now, address);
        }
        self.pair_all();
        self.synthesise_candidates();
        let servers = self.gatherer.servers.iter().map(|server| server.address);
        let servers: Vec<_> = servers.filter(|s| can_pair(address, *s)).collect();
        for server in servers {
            self.gatherer.ask(now, address, server);
        }
        self.ask_through_nat64(now);
        self.events.push_back(Event::LocalCandidate(candidate));
        self.work(now);
    }

    /// Adds a relayed candidate: `relayed` at the TURN server `server`, allocated from `base`, whose
    /// component it belongs to. Both addresses are told to the peer.
    ///
    /// It is a base: see the [module](super) for how its datagrams travel. Unusable addresses, known
    /// ones and those beyond [`MAX_RELAYED`](super::MAX_RELAYED) are ignored.
    pub fn add_relayed(
        &mut self,
        now: Instant,
        base: SocketAddr,
        relayed: SocketAddr,
        server: SocketAddr,
    ) {
        let loopback = self.config.allow_loopback;
        let added = self.locals.add_relayed(base, relayed, server, loopback);
        let Some(candidate) = added.cloned() else {
            return;
        };
        self.pair_all();
        self.events.push_back(Event::LocalCandidate(candidate));
        self.work(now);
    }

    /// Takes a relayed candidate away whose allocation has ended. [`Event::Lost`] comes for each of
    /// its paths that was valid.
    pub fn remove_relayed(&mut self, now: Instant, relayed: SocketAddr) {
        self.locals.remove_relayed(relayed);
        self.drop_pairs_of(now, relayed);
        self.work(now);
    }

    /// Forgets the pairs of a base that is no more.
    pub(super) fn drop_pairs_of(&mut self, now: Instant, base: SocketAddr) {
        self.drop_kept_of(now, base);
        for key in self.list.keys_from(base) {
            let was_valid = self.list.is_valid(key);
            if was_valid {
                self.on_lost(now, key);
            }
            self.forget_checks(key);
            self.list.remove(key);
        }
    }

    /// Tells all candidates once more, and asks the servers whether they are still right.
    pub(super) fn gather_again(&mut self, now: Instant) {
        self.gatherer.restart(now);
        let candidates = self.locals.tell_again();
        self.events
            .extend(candidates.into_iter().map(Event::LocalCandidate));
    }

    /// Asks the servers whether the mappings are still right. A request that is under way is made
    /// anew: its repetitions have grown rare.
    pub(super) fn look_at_mappings(&mut self, now: Instant) {
        let tcp = &self.tcp;
        self.transactions.cancel(
            |purpose| matches!(purpose, Purpose::Gather { base, .. } if tcp.base(*base).is_none()),
        );
        self.gatherer.hasten(now);
    }

    /// Asks a STUN server from every host candidate of its family, at present and later.
    /// Servers beyond [`MAX_STUN_SERVERS`](super::MAX_STUN_SERVERS) are ignored.
    pub fn add_stun_server(&mut self, now: Instant, server: SocketAddr) {
        let usable = is_usable(server, self.config.allow_loopback);
        if !usable || !self.gatherer.add_server(server) {
            return;
        }
        let bases = self.locals.host_bases().map(|base| base.address);
        for base in bases.filter(|base| can_pair(*base, server)) {
            self.gatherer.ask(now, base, server);
        }
        self.ask_through_nat64(now);
        self.work(now);
    }

    /// Asks the IPv4 servers from hosts that reach them through a NAT64 only.
    pub(super) fn ask_through_nat64(&mut self, now: Instant) {
        let servers = self.gatherer.servers.iter();
        let servers: Vec<_> = servers
            .filter_map(|server| self.through_nat64(server.address))
            .collect();
        let bases = self.locals.host_bases().map(|base| base.address);
        let bases: Vec<_> = bases
            .filter(|base| servers.iter().any(|s| can_pair(*base, *s)))
            .collect();
        for base in bases {
            for server in &servers {
                self.gatherer.ask(now, base, *server);
            }
        }
    }

    /// Says that all host candidates and STUN servers have been added, so that
    /// [`Event::EndOfLocalCandidates`] can come. Later ones are still used.
    pub fn end_of_hosts(&mut self, now: Instant) {
        self.gatherer.hosts_ended = true;
        self.work(now);
    }

    /// Sends the Binding request that is due, if any.
    pub(super) fn send_gather(&mut self, now: Instant) -> bool {
        let settled = self.is_settled();
        let exploring = &self.exploring;
        let counts = |base| !settled || exploring.is_new_base(base);
        let Some((base, server)) = self.gatherer.next(now, counts) else {
            return false;
        };
        let id = random_transaction_id(&mut self.rng);
        let request = Request {
            local: base,
            remote: server,
            id,
            payload: Builder::new(Class::Request, Method::BINDING, id).build(),
            policy: gather_policy(self.rto(self.transactions.gathering())),
        };
        let purpose = Purpose::Gather { base, server };
        self.transactions.start(now, purpose, request);
        true
    }

    /// A STUN server's answer; it has come from the server.
    pub(super) fn on_binding(
        &mut self,
        now: Instant,
        base: SocketAddr,
        server: SocketAddr,
        message: &Message<'_>,
    ) {
        self.gather_settled(now, base, server);
        if let (Class::Success, Ok(Some(XorMappedAddress(mapped)))) =
            (message.class(), message.get())
        {
            let translated = self.gatherer.servers.iter().map(|s| s.address);
            let mut translated = translated.filter(|s| self.through_nat64(*s) == Some(server));
            let asked = translated.next().unwrap_or(server);
            self.gatherer.mark_answered(asked);
            self.on_mapped(now, base, server, unscoped(mapped));
        }
    }

    fn on_mapped(
        &mut self,
        now: Instant,
        base: SocketAddr,
        server: SocketAddr,
        mapped: SocketAddr,
    ) {
        let usable = is_usable(mapped, self.config.allow_loopback);
        let translated = self.in_nat64(server);
        if !usable || mapped.is_ipv4() != (base.is_ipv4() || translated) {
            tracing::debug!(%server, "a STUN server answered with an unusable address");
            return;
        }
        if let Some(candidate) = self.locals.map(base, server, mapped) {
            self.events.push_back(Event::LocalCandidate(candidate));
        }
        self.note_life(now, (base, server), mapped);
        let sample = Sample {
            local: base,
            server,
            mapped,
            sent: self.gatherer.asked(base, server).unwrap_or(now),
        };
        self.note_sample(now, sample);
    }

    /// Asks again after a while: the mapping must outlive the wait for the peer.
    pub(super) fn gather_settled(&mut self, now: Instant, base: SocketAddr, server: SocketAddr) {
        let next = after(now, self.config.binding_refresh);
        self.gatherer.settle(base, server, next);
    }

    pub(super) fn tell_end_of_candidates(&mut self) {
        if self.gatherer.take_end() {
            self.events.push_back(Event::EndOfLocalCandidates);
        }
    }
}
