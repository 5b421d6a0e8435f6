//! The agent: its state, the five verbs, and the order of its work.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Class, Message, Method};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::after;
use super::assisted::Assisted;
use super::asymmetric::Asymmetric;
use super::candidate::{COMPONENT, Candidate, CandidateKind, can_pair};
use super::check_list::CheckList;
use super::components::{Components, Progress};
use super::config::{Config, Role};
use super::consent::Consent;
use super::credentials::Credentials;
use super::event::{Event, Report};
use super::exploring::Exploring;
use super::gather::Gatherer;
use super::locals::Locals;
use super::named::Names;
use super::nat64::Nat64Prefix;
use super::pacer::Pacer;
use super::pair::{Pair, PairKey, Path, State};
use super::punching::Punching;
use super::recovery::Recovery;
use super::remotes::{Added, Remotes};
use super::renewal::{Renewal, Wanted};
use super::requests::{Check, pair_of};
use super::restart::Kept;
use super::start::Start;
use super::tally::Tallies;
use super::tcp::Tcp;
use super::transactions::{Purpose, Transactions};
use super::upgrade::Upgrade;
use crate::{Datagram, Transmit, Verdict};

/// One side of an ICE session with one data stream.
pub struct Agent {
    pub(super) config: Config,
    pub(super) rng: ChaCha20Rng,
    pub(super) role: Role,
    pub(super) tie_breaker: u64,
    pub(super) credentials: Credentials,
    pub(super) peer: Option<Credentials>,
    /// The peer sends no checks.
    pub(super) peer_lite: bool,
    pub(super) locals: Locals,
    pub(super) remotes: Remotes,
    pub(super) names: Names,
    pub(super) nat64: Option<Nat64Prefix>,
    pub(super) list: CheckList,
    pub(super) gatherer: Gatherer,
    pub(super) transactions: Transactions,
    pub(super) early: Vec<Check>,
    pub(super) consents: BTreeMap<PairKey, Consent>,
    pub(super) components: Components,
    pub(super) upgrade: Upgrade,
    pub(super) recovery: Recovery,
    pub(super) exploring: Exploring,
    pub(super) renewal: Renewal,
    /// What the sockets are for that the user has been asked for, in order.
    pub(super) wanted_sockets: VecDeque<Wanted>,
    pub(super) punching: Punching,
    pub(super) start: Start,
    pub(super) tallies: Tallies,
    pub(super) tcp: Tcp,
    pub(super) assisted: Assisted,
    pub(super) asymmetric: Asymmetric,
    /// The session before the latest restart.
    pub(super) kept: Option<Kept>,
    /// Data is in flight on it.
    pub(super) busy: bool,
    pub(super) counts: Report,
    pub(super) mapping_differs: bool,
    pub(super) events: VecDeque<Event>,
    pub(super) replies: VecDeque<Transmit>,
    pacer: Pacer,
    pub(super) remote_ended: bool,
    /// When patience ends: set while no pair is valid and the remote credentials are known.
    pub(super) give_up: Option<Instant>,
    pub(super) failed: bool,
}

/// A check that began shortly before patience ends gets this long to succeed.
const LAST_CHANCE: Duration = Duration::from_secs(2);

impl Agent {
    /// A new agent. Credentials, transaction ids and the tie-breaker come from the seed, so it
    /// must be secret and used once.
    pub fn new(now: Instant, seed: [u8; 32], role: Role, config: Config) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut agent = Self {
            tie_breaker: rng.next_u64(),
            credentials: Credentials::random(&mut rng),
            rng,
            role,
            peer: None,
            peer_lite: false,
            locals: Locals::default(),
            remotes: Remotes::default(),
            names: Names::default(),
            nat64: None,
            list: CheckList::new(role),
            gatherer: Gatherer::default(),
            transactions: Transactions::default(),
            early: Vec::new(),
            consents: BTreeMap::new(),
            components: Components::new(config.components),
            upgrade: Upgrade::default(),
            recovery: Recovery::default(),
            exploring: Exploring::default(),
            renewal: Renewal::default(),
            wanted_sockets: VecDeque::new(),
            punching: Punching::default(),
            start: Start::default(),
            tallies: Tallies::default(),
            tcp: Tcp::default(),
            assisted: Assisted::default(),
            asymmetric: Asymmetric::default(),
            kept: None,
            busy: false,
            counts: Report::default(),
            mapping_differs: false,
            events: VecDeque::new(),
            replies: VecDeque::new(),
            pacer: Pacer::new(now, config.ta),
            remote_ended: false,
            give_up: None,
            failed: false,
            config,
        };
        agent.begin_punching();
        agent
    }

    /// Our credentials, to be signalled to the peer over a channel that nobody else reads.
    pub fn local_credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Our role; a conflict may have changed it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes the peer's credentials; checks begin. Once a session: others are taken after a
    /// [restart](Self::restart). Credentials that are not [valid](Credentials::is_valid) are ignored.
    pub fn set_remote_credentials(&mut self, now: Instant, credentials: Credentials) {
        if self.peer.is_some() || !credentials.is_valid() {
            tracing::debug!("ignored remote credentials");
            return;
        }
        self.peer = Some(credentials);
        self.give_up = Some(after(now, self.config.patience));
        self.punch_authenticated(now);
        self.begin_start(now);
        self.begin_tcp(now);
        self.accept_early(now);
        self.work(now);
    }

    /// Says that the peer is lite (`a=ice-lite`, RFC 8445 section 2.5): it answers checks and sends none,
    /// so we control. To be called before its credentials are set.
    pub fn set_peer_lite(&mut self, now: Instant) {
        self.peer_lite = true;
        if self.role == Role::Controlled {
            self.set_role(Role::Controlling);
        }
        self.work(now);
    }

    /// Adds a candidate of the peer (RFC 8838): at any time, also before its credentials.
    ///
    /// Ignored are components beyond [`Config::components`], duplicates, addresses that cannot be sent to (port 0,
    /// unspecified, multicast, broadcast, loopback unless allowed), and those beyond
    /// [`MAX_REMOTE_CANDIDATES`](super::MAX_REMOTE_CANDIDATES).
    pub fn add_remote_candidate(&mut self, now: Instant, candidate: Candidate) {
        if candidate.tcp.is_some() {
            self.add_remote_tcp(now, candidate);
            return self.work(now);
        }
        let address = candidate.address;
        let (components, loopback) = (self.config.components, self.config.allow_loopback);
        let relayed = candidate.kind == CandidateKind::Relayed;
        let news = self.is_told_as_news(now, &candidate);
        if self.has_begun() {
            self.make_room_for_news();
        }
        let added = self.remotes.add(candidate, components, loopback);
        if news && !relayed && self.remotes.find(address).is_some() {
            self.on_new_remote(now, address);
        }
        match added {
            Added::New => self.pair_all(),
            Added::Known => {
                if let Some(remote) = self.remotes.find(address) {
                    self.list.update_remote(remote);
                }
                self.pair_all();
            }
            Added::No => tracing::debug!("ignored a remote candidate"),
        }
        self.synthesise_candidates();
        self.work(now);
    }

    /// Says that the peer has no more candidates (RFC 8838 section 14). It makes failure no
    /// earlier, because checks of the peer may still reveal some (RFC 8863), but the report
    /// tells it.
    pub fn end_of_remote_candidates(&mut self, now: Instant) {
        self.remote_ended = true;
        self.work(now);
    }

    /// Takes a datagram: STUN checks addressed to this agent and responses to its requests.
    /// Everything else is [`Verdict::NotMine`].
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        if message.method() != Method::BINDING {
            return Verdict::NotMine;
        }
        let verdict = match message.class() {
            Class::Indication => self.on_indication(&self.straightened(datagram)),
            _ if self.failed => Verdict::NotMine,
            Class::Request => self.on_request(now, &self.straightened(datagram), &message),
            Class::Success | Class::Error => {
                self.on_response(now, &self.straightened(datagram), &message)
            }
        };
        self.work(now);
        verdict
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let reply = self.replies.pop_front();
        reply.or_else(|| self.transactions.poll_transmit())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` if only an input can
    /// change anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        let times = [
            self.transactions.timeout(),
            self.consent_timeout(),
            self.kept_timeout(),
            self.nomination_timeout(),
            self.upgrade_timeout(),
            self.recovery_timeout(),
            self.exploring_timeout(),
            self.renewal_timeout(),
            self.pace_timeout(),
            self.patience_timeout(),
            self.punch_timeout(),
            self.start_timeout(),
            self.asymmetric_timeout(),
            self.tcp_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// The selected path, of component 1.
    pub fn selected(&self) -> Option<Path> {
        self.selected_of(COMPONENT)
    }

    /// The latest measured round trip of a valid path.
    pub fn rtt(&self, path: &Path) -> Option<Duration> {
        let key = PairKey {
            local: path.local,
            remote: path.remote,
        };
        let valid = self.list.get(key).and_then(|pair| pair.valid);
        valid.or_else(|| self.kept_pair(key)?.valid)?.rtt
    }

    /// What has been tried and seen so far.
    pub fn report(&self) -> Report {
        let hosts = self.locals.bases().map(|base| base.kind);
        let mapped = self.locals.reflexive();
        let mapped = mapped.iter().map(|_| CandidateKind::ServerReflexive);
        let remote: super::Kinds = self.remotes.iter().map(|remote| remote.kind).collect();
        Report {
            local: hosts.chain(mapped).collect(),
            remote,
            stun_servers: self.gatherer.servers(),
            stun_servers_answered: self.gatherer.servers_answered(),
            tcp_hosts: self.tcp.hosts.len(),
            local_endpoint_dependent: self.mapping_differs || self.locals.servers_disagree(),
            remote_unsignalled: remote.peer_reflexive > 0,
            has_remote_credentials: self.peer.is_some(),
            remote_ended: self.remote_ended,
            ..self.counts.clone()
        }
    }

    /// What datagrams are sent from, or the connection that messages are sent on.
    pub(super) fn base(&self, address: SocketAddr) -> Option<&Candidate> {
        self.locals.base(address).or_else(|| self.tcp.base(address))
    }

    /// The peer's candidate that a base reaches at this address.
    pub(super) fn remote(&self, base: SocketAddr, address: SocketAddr) -> Option<&Candidate> {
        if self.tcp.base(base).is_some() {
            return self.tcp.remote(address);
        }
        self.remotes.find(address)
    }

    /// A Binding indication keeps a mapping alive and asks for nothing (RFC 8445 section 11).
    fn on_indication(&self, datagram: &Datagram<'_>) -> Verdict {
        let base = self.base(datagram.local);
        let key = base.map(|base| pair_of(base.address, datagram));
        match key.and_then(|key| self.list.get(key).or_else(|| self.kept_pair(key))) {
            Some(_) => Verdict::Consumed,
            None => Verdict::NotMine,
        }
    }

    /// Everything that is due, in order. Every verb ends with it.
    pub(super) fn work(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        self.run_transactions(now);
        self.run_consent(now);
        self.run_kept(now);
        self.nominate(now);
        self.run_upgrade(now);
        self.run_recovery(now);
        self.run_exploring(now);
        self.run_renewal(now);
        self.run_punching(now);
        self.run_start(now);
        self.run_asymmetric(now);
        self.run_tcp(now);
        if self.pacer.is_ready(now) && self.send_next(now) {
            self.pacer.spend(now);
        }
        self.tell_end_of_candidates();
        self.run_patience(now);
    }

    fn run_transactions(&mut self, now: Instant) {
        self.transactions.handle_timeout(now);
        while let Some(purpose) = self.transactions.poll_expired() {
            self.on_expired(now, purpose);
        }
    }

    /// Starts one transaction: triggered checks first, then gathering, then ordinary checks.
    fn send_next(&mut self, now: Instant) -> bool {
        (self.list.has_triggered() && self.send_check(now))
            || self.send_gather(now)
            || self.send_check(now)
    }

    fn pace_timeout(&self) -> Option<Instant> {
        let checks = (self.peer.is_some() && self.list.has_next()).then(|| self.pacer.next());
        let gather = self.gatherer.due(|base| self.looks_from(base));
        let gather = gather.map(|due| due.max(self.pacer.next()));
        checks.into_iter().chain(gather).min()
    }

    /// RFC 8863: failure is told only when patience has ended.
    fn run_patience(&mut self, now: Instant) {
        if self.patience_timeout().is_some_and(|end| end <= now) {
            self.failed = true;
            self.tally_end(now);
            self.close_tcp(now);
            self.list = CheckList::new(self.role);
            self.transactions = Transactions::default();
            self.events.push_back(Event::Failed(self.report()));
        }
    }

    fn patience_timeout(&self) -> Option<Instant> {
        let end = self.give_up?;
        if self.wanted().all(|id| self.has_valid(id)) {
            return None;
        }
        let running = self.list.iter().filter(|p| p.state == State::InProgress);
        let latest = running.filter_map(|pair| pair.checked_at).max();
        let chance = latest.map_or(end, |at| after(at, LAST_CHANCE));
        Some(chance.clamp(end, after(end, LAST_CHANCE)))
    }

    /// The selected pair of a component is lost: all its pairs are checked again, but a relay that
    /// works goes on.
    pub(super) fn start_over(&mut self, now: Instant, component: u16) {
        let list = &self.list;
        let ours = |key: PairKey| {
            list.get(key)
                .is_some_and(|pair| pair.component == component)
        };
        self.consents.retain(|key, _| list.is_valid(*key));
        let relayed = self.consents.keys().any(|key| ours(*key));
        self.transactions.cancel(|purpose| match purpose {
            Purpose::Check { pair, .. } => ours(*pair),
            Purpose::Consent { .. }
            | Purpose::Kept { .. }
            | Purpose::Gather { .. }
            | Purpose::Sample { .. } => false,
        });
        if let Some(progress) = self.components.get_mut(component) {
            *progress = Progress::default();
            if relayed {
                progress.nomination.on_valid(now, false);
            }
        }
        if component == COMPONENT {
            self.punch_lost(now);
            self.begin_tcp(now);
        }
        self.pair_all();
        let consents = &self.consents;
        let works = |pair: &Pair| pair.component != component || consents.contains_key(&pair.key);
        self.list.reopen(works);
        self.give_up = Some(after(now, self.config.recovery));
        self.recovery.begin(now);
        if !self.list.has_valid(component) {
            self.look_at_mappings(now);
        }
    }

    /// Pairs all candidates that are not paired yet (RFC 8445 section 6.1.2.2); when the checks have
    /// ended, what is new only, and without relays.
    pub(super) fn pair_all(&mut self) {
        let settled = self.is_settled();
        if settled && !self.exploring.is_on() {
            return;
        }
        let exploring = &self.exploring;
        for base in self.locals.bases() {
            for remote in self.remotes.iter() {
                let same = base.component == remote.component;
                let direct = ![base.kind, remote.kind].contains(&CandidateKind::Relayed);
                let new = direct && exploring.has(base.address, remote.address);
                let hidden = self.names.hide(base.kind, remote.address);
                let wanted = same && !hidden && (new || !settled);
                if wanted && can_pair(base.address, remote.address) {
                    self.list.add(base, remote);
                }
            }
        }
    }

    /// Section 7.2.5.1: our check met an agent of the same role that has the last word.
    pub(super) fn on_role_conflict(&mut self, now: Instant, pair: PairKey, sent_as: Role) {
        if sent_as == self.role {
            self.tie_breaker = self.rng.next_u64();
            self.set_role(self.role.other());
        }
        self.trigger(now, pair);
    }

    /// Takes the other role; checks that carry the old one are made again.
    pub(super) fn set_role(&mut self, role: Role) {
        tracing::debug!(?role, "role conflict: the role changes");
        self.role = role;
        for progress in self.components.iter_mut() {
            progress.nomination.abandon();
        }
        self.transactions.cancel(is_check);
        self.list.set_role(role);
    }

    /// The retransmission time-out with so many transactions at work (section 14.3).
    pub(super) fn rto(&self, active: usize) -> Duration {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        let paced = self.pacer.ta().saturating_mul(active);
        self.config.rto_min.max(paced)
    }
}

fn is_check(purpose: &Purpose) -> bool {
    matches!(purpose, Purpose::Check { .. })
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("role", &self.role)
            .field("selected", &self.selected())
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}
