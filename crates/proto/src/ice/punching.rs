//! Punching inside the agent: its probes are checks, what they find is a pair, and its other
//! wishes are events ([`crate::punch`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{
    Builder, ChangeRequest, Class, Message, Method, OtherAddress, Punched, TransactionId,
    XorMappedAddress,
};
use rand_core::RngCore;

use super::agent::Agent;
use super::candidate::{COMPONENT, Candidate, CandidateKind, is_usable, unscoped};
use super::checks::Outcome;
use super::event::Event;
use super::locals::PUNCHED_PRIORITY;
use super::pair::{Pair, PairKey, Path};
use super::renewal::Wanted;
use super::transactions::{Purpose, sample_policy};
use crate::punch::{self, Action, NatReport, Plan, Puncher, Sample, Technique, Tried};
use crate::stun::{Request, random_transaction_id};
use crate::{Datagram, Transmit, Verdict};

/// The puncher of an agent that has one, and what it has under way.
#[derive(Debug, Default)]
pub(super) struct Punching {
    puncher: Option<Puncher>,
    /// The probes of the attempt that runs. They are sent once and not waited for.
    probes: BTreeMap<TransactionId, PairKey>,
    /// How pairs were found that plain checks would not have.
    found: BTreeMap<PairKey, Technique>,
}

/// What punching knows and did, for explanations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PunchReport {
    /// What our NAT does.
    pub local: Option<NatReport>,
    /// What the peer's NAT does, as it says.
    pub remote: Option<NatReport>,
    /// Attempts that are over, the oldest first.
    pub tried: Vec<Tried>,
    /// What the two NATs allow beyond plain checks, if both are known.
    pub plan: Option<Plan>,
    /// An attempt runs, or the first one is to come.
    pub pending: bool,
}

/// For the user.
impl Agent {
    /// Takes the sockets that [`Event::OpenSockets`] asked for, in the order of the events, or
    /// `None` where the host does not allow an attempt now.
    pub fn sockets_opened(&mut self, now: Instant, sockets: Option<Vec<SocketAddr>>) {
        if self.wanted_sockets.pop_front() == Some(Wanted::Renewal) {
            self.on_renewed(now, sockets.as_deref());
            return self.work(now);
        }
        for socket in sockets.iter().flatten() {
            self.locals.add_socket(*socket);
        }
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_sockets(now, sockets);
        }
        self.work(now);
    }

    /// Takes what the peer's agent has told with [`Event::TellPeer`]. A NAT whose address cannot be
    /// sent to is ignored.
    pub fn handle_punch(&mut self, now: Instant, message: punch::Message) {
        if message == punch::Message::Began {
            self.peer_began();
            return self.work(now);
        }
        if let punch::Message::Nat(nat) = message
            && !(nat.mapped.is_ipv4() && is_usable(nat.mapped, self.config.allow_loopback))
        {
            return;
        }
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_message(now, message);
        }
        self.work(now);
    }

    /// What is known about both NATs, and what was tried beyond plain checks.
    pub fn punch_report(&self) -> PunchReport {
        let Some(puncher) = &self.punching.puncher else {
            return PunchReport::default();
        };
        PunchReport {
            local: puncher.local().copied(),
            remote: puncher.remote().copied(),
            tried: puncher.tried().to_vec(),
            plan: puncher.plan(),
            pending: puncher.is_pending() && !self.failed,
        }
    }

    /// The attempt to punch that runs, as far as it has come.
    pub fn punch_running(&self, now: Instant) -> Option<Tried> {
        self.punching.puncher.as_ref()?.running(now)
    }

    /// What was spent beyond plain checks until now: probes sent and sockets opened.
    pub fn punch_spent(&self) -> (u32, u32) {
        let puncher = self.punching.puncher.as_ref();
        puncher.map(Puncher::spent).unwrap_or_default()
    }

    /// Whether our NAT has been classified, or cannot be.
    pub fn is_classified(&self) -> bool {
        let puncher = self.punching.puncher.as_ref();
        puncher.is_none_or(Puncher::is_classified)
    }

    /// Whether there may still be something to tell the peer: no direct pair is valid, and no
    /// attempt is over.
    pub fn is_punching(&self) -> bool {
        let puncher = self.punching.puncher.as_ref();
        puncher.is_some_and(Puncher::is_at_work)
    }

    /// Whether punching made a pair, or makes it.
    pub(super) fn is_punched(&self, key: PairKey) -> bool {
        self.punching.found.contains_key(&key) || self.locals.is_socket(key.local)
    }

    /// How a path came about.
    pub fn technique(&self, path: &Path) -> Technique {
        if self.tcp.base(path.local).is_some() {
            return match self.is_assisted(path) {
                true => Technique::Mapped,
                false => Technique::Tcp,
            };
        }
        let key = PairKey::new(path.local, path.remote);
        if let Some(found) = self.punching.found.get(&key) {
            return *found;
        }
        if let Some(puncher) = &self.punching.puncher
            && self.locals.is_socket(path.local)
        {
            return puncher.technique().unwrap_or(Technique::PeerReflexive);
        }
        if self.is_assisted(path) {
            return Technique::Mapped;
        }
        match (path.local_kind, path.remote_kind) {
            (CandidateKind::Relayed, _) | (_, CandidateKind::Relayed) => Technique::Relay,
            _ if self.is_through_nat64(path) => Technique::Nat64,
            (CandidateKind::Host, CandidateKind::Host) if path.remote.is_ipv6() => Technique::Ipv6,
            (CandidateKind::Host, CandidateKind::Host) => Technique::Host,
            (CandidateKind::PeerReflexive, _) | (_, CandidateKind::PeerReflexive) => {
                Technique::PeerReflexive
            }
            (CandidateKind::ServerReflexive, _) | (_, CandidateKind::ServerReflexive) => {
                Technique::Reflexive
            }
        }
    }
}

/// For the agent.
impl Agent {
    pub(super) fn begin_punching(&mut self) {
        if self.config.punch {
            let mut seed = [0; 32];
            self.rng.fill_bytes(&mut seed);
            self.punching.puncher = Some(Puncher::new(seed, self.config.disabled));
        }
    }

    /// Another session: the NAT may be another, too. The sockets in use stay open.
    pub(super) fn restart_punching(&mut self, now: Instant, in_use: &[SocketAddr]) {
        self.punching.probes.clear();
        self.punching
            .found
            .retain(|key, _| in_use.contains(&key.local));
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.restart(now, in_use);
        }
    }

    pub(super) fn punch_timeout(&self) -> Option<Instant> {
        self.punching.puncher.as_ref()?.poll_timeout()
    }

    /// Does what the puncher wants done.
    pub(super) fn run_punching(&mut self, now: Instant) {
        let gathering = self.gatherer.is_busy();
        let Some(puncher) = &mut self.punching.puncher else {
            return;
        };
        puncher.set_gathering(gathering);
        puncher.handle_timeout(now);
        if let Some(address) = puncher.awaits_port_at() {
            self.look_for_port(now, address);
        }
        while let Some(action) = self.punching.next_action() {
            self.perform(now, action);
        }
    }

    /// From where the peer's checks come that get no answer through: one that nobody has told.
    fn look_for_port(&mut self, now: Instant, address: IpAddr) {
        let here = |pair: &&Pair| pair.seen && pair.valid.is_none() && pair.is_direct();
        let seen = self.list.iter().filter(here).map(|pair| pair.key.remote);
        let seen = seen.filter(|remote| remote.ip() == address && !self.is_told(*remote));
        let first = seen.min_by_key(|remote| self.remotes.place(*remote));
        if let (Some(first), Some(puncher)) = (first, &mut self.punching.puncher) {
            puncher.on_port(now, first);
        }
    }

    fn perform(&mut self, now: Instant, action: Action) {
        match action {
            Action::OpenSockets {
                base,
                count,
                attempt,
            } => self.ask_for_sockets(base, count, attempt, Wanted::Punching),
            Action::CloseSockets(sockets) => self.close_sockets(now, sockets),
            Action::AttemptEnded => {
                self.punching.probes.clear();
                self.events.push_back(Event::AttemptEnded);
            }
            Action::Sample {
                local,
                server,
                change,
            } => self.send_sample(now, local, server, change),
            Action::Probe { local, remote, ttl } => {
                self.send_probe(PairKey::new(local, remote), ttl);
            }
            Action::Tell(message) => self.events.push_back(Event::TellPeer(message)),
        }
    }

    fn close_sockets(&mut self, now: Instant, sockets: Vec<SocketAddr>) {
        for socket in &sockets {
            self.transactions
                .cancel(|p| matches!(p, Purpose::Sample { base, .. } if base == socket));
            self.locals.remove_socket(*socket);
            self.forget_asymmetric_of(*socket);
            self.drop_pairs_of(now, *socket);
        }
        self.events.push_back(Event::CloseSockets(sockets));
    }

    fn send_sample(
        &mut self,
        now: Instant,
        base: SocketAddr,
        server: SocketAddr,
        change: Option<ChangeRequest>,
    ) {
        let id = random_transaction_id(&mut self.rng);
        let request = Request {
            local: base,
            remote: server,
            id,
            payload: Builder::new(Class::Request, Method::BINDING, id)
                .maybe_attribute(change.as_ref())
                .build(),
            policy: sample_policy(),
        };
        let purpose = Purpose::Sample {
            base,
            server,
            change,
        };
        self.transactions.start(now, purpose, request);
        // In front of the probe that may follow: a prediction depends on the order.
        while let Some(transmit) = self.transactions.poll_transmit() {
            self.replies.push_back(transmit);
        }
    }

    pub(super) fn send_probe(&mut self, pair: PairKey, ttl: Option<u8>) {
        let id = random_transaction_id(&mut self.rng);
        let punched = self.is_peer_of_ours().then(|| Punched {
            guessed: !self.is_told(pair.remote),
            asymmetric: false,
        });
        let Some(payload) = self.check_message(id, pair.local, punched) else {
            return;
        };
        self.counts.checks_sent = self.counts.checks_sent.saturating_add(1);
        self.punching.probes.insert(id, pair);
        self.note_opened(pair);
        let transmit = Transmit {
            local: pair.local,
            remote: pair.remote,
            payload,
        };
        match ttl {
            Some(ttl) => self.events.push_back(Event::SendLimited { transmit, ttl }),
            None => self.replies.push_back(transmit),
        }
    }

    /// A response to a probe makes a pair of it, as if it had been in the check list.
    pub(super) fn on_probe_response(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> Verdict {
        let probe = self.punching.probes.get(&message.transaction_id());
        let Some(pair) = probe.copied() else {
            return Verdict::NotMine;
        };
        let came = PairKey::new(unscoped(datagram.local), datagram.remote);
        if let Some(Outcome::Success { mapped }) = self.read_response(message)
            && (came == pair || self.hears_elsewhere(now, pair, datagram, message))
        {
            if self.pair_up(pair) {
                let punched = message.get::<Punched>().ok().flatten();
                self.note_asymmetric(now, pair, punched);
                self.on_check_success(now, pair, mapped, None, false);
            }
            self.punching.probes.remove(&message.transaction_id());
        }
        Verdict::Consumed
    }

    /// Puts a pair that a probe has found into the check list.
    fn pair_up(&mut self, pair: PairKey) -> bool {
        let loopback = self.config.allow_loopback;
        self.remotes
            .learn(pair.remote, COMPONENT, PUNCHED_PRIORITY, loopback)
            && match (self.locals.base(pair.local), self.remotes.find(pair.remote)) {
                (Some(base), Some(remote)) => self.list.add_seen(base, remote),
                _ => false,
            }
    }

    /// Whether our NAT gives each port of an address a mapping of its own, or may, as far as is known.
    pub(super) fn maps_by_port(&self) -> bool {
        let puncher = self.punching.puncher.as_ref();
        let local = puncher.and_then(Puncher::local);
        local.is_some_and(|nat| nat.mapping.may_depend_on_ports())
    }

    /// A pair turns out to have a port for each direction.
    pub(super) fn call_asymmetric(&mut self, now: Instant, key: PairKey) {
        let asked = self.plain_technique(key);
        self.punching.found.insert(key, Technique::Asymmetric);
        if let Some(asked) = asked {
            self.tallies.renamed(now, asked, Technique::Asymmetric);
        }
    }

    /// Whether a pair has a port for each direction: others that work are preferred.
    pub(super) fn is_asymmetric(&self, key: PairKey) -> bool {
        self.punching.found.get(&key) == Some(&Technique::Asymmetric)
    }

    /// A STUN server has answered the main socket.
    pub(super) fn note_sample(&mut self, now: Instant, sample: Sample) {
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_mapped(now, sample);
        }
    }

    /// A STUN server has answered a socket opened for the purpose, or has not.
    pub(super) fn on_sampled(
        &mut self,
        now: Instant,
        base: SocketAddr,
        message: Option<&Message<'_>>,
    ) {
        let answer = message.filter(|m| m.class() == Class::Success);
        let mapped = answer.and_then(|message| match message.get() {
            Ok(Some(XorMappedAddress(mapped))) => Some(unscoped(mapped)),
            Ok(None) | Err(_) => None,
        });
        let other = answer.and_then(|message| match message.get() {
            Ok(Some(OtherAddress(other))) => Some(other),
            Ok(None) | Err(_) => None,
        });
        let other = other.filter(|other| is_usable(*other, self.config.allow_loopback));
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_sample(now, base, mapped, other);
        }
    }

    /// A STUN server's answer has come from where it was asked to send it from, or has not. `None` if
    /// the server does not do what it is asked.
    pub(super) fn on_elsewhere(&mut self, now: Instant, base: SocketAddr, came: Option<bool>) {
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_elsewhere(now, base, came);
        }
    }

    pub(super) fn punch_authenticated(&mut self, now: Instant) {
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_credentials(now);
        }
    }

    /// Whether the peer's agent is of our make: it has told what its NAT does.
    pub(super) fn is_peer_of_ours(&self) -> bool {
        let puncher = self.punching.puncher.as_ref();
        puncher.is_some_and(|puncher| puncher.remote().is_some())
    }

    /// Whether signalling has told the address of the peer's.
    fn is_told(&self, remote: SocketAddr) -> bool {
        let told = |remote: &Candidate| remote.kind != CandidateKind::PeerReflexive;
        self.remotes.find(remote).is_some_and(told)
    }

    /// A check of the peer has arrived: because one of us guessed the other's port, if we have
    /// probed that one, or the peer says so. It may be used before our own check is answered, so it
    /// gets its name now.
    pub(super) fn note_guess(&mut self, key: PairKey, guessed: bool) {
        let new = |pair: &Pair| pair.is_direct() && pair.valid.is_none();
        if !self.list.get(key).is_some_and(new) {
            return;
        }
        if let Some(puncher) = &self.punching.puncher
            && (guessed || self.is_fruit(puncher, key))
            && let Some(technique) = puncher.technique()
        {
            self.punching.found.entry(key).or_insert(technique);
        }
    }

    /// Whether an attempt is to thank for a pair. The first hit ends it; the next ones are its fruits
    /// as well.
    fn is_fruit(&self, puncher: &Puncher, key: PairKey) -> bool {
        let probed = || self.punching.probes.values().any(|probe| *probe == key);
        let met = || puncher.has_succeeded() || probed();
        self.locals.is_socket(key.local) || !self.is_told(key.remote) && met()
    }

    /// A pair has become valid: if it is direct, no more is to be punched.
    pub(super) fn punch_valid(&mut self, now: Instant, key: PairKey) {
        if !self.list.get(key).is_some_and(Pair::is_direct) {
            return;
        }
        let puncher = self.punching.puncher.as_ref();
        let fruit = puncher.filter(|puncher| self.is_fruit(puncher, key));
        if let Some(technique) = fruit.and_then(Puncher::technique) {
            self.punching.found.entry(key).or_insert(technique);
        }
        let punched = self.punching.found.contains_key(&key);
        if let Some(puncher) = &mut self.punching.puncher {
            puncher.on_direct(now, punched);
        }
    }

    pub(super) fn punch_selected(&mut self, key: PairKey) {
        if self.is_settled()
            && let Some(puncher) = &mut self.punching.puncher
        {
            puncher.on_selected(key.local);
        }
    }

    pub(super) fn punch_lost(&mut self, now: Instant) {
        let direct = self.list.valid().any(Pair::is_direct);
        if let Some(puncher) = self.punching.puncher.as_mut().filter(|_| !direct) {
            puncher.on_lost(now);
        }
    }
}

impl Punching {
    fn next_action(&mut self) -> Option<Action> {
        self.puncher.as_mut()?.poll_action()
    }
}

/// Whether an answer comes from another address, or from another port of the same one, as it was
/// asked for.
pub(super) fn came_from_elsewhere(
    from: SocketAddr,
    server: SocketAddr,
    change: ChangeRequest,
) -> bool {
    if change.ip {
        from.ip() != server.ip()
    } else {
        from.ip() == server.ip() && from.port() != server.port()
    }
}

/// The first wait for the answer to a sample.
pub(super) const SAMPLE_RTO: Duration = Duration::from_millis(250);
