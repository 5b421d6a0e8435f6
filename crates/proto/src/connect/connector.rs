//! The machine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::signal::{ByeReason, Fingerprint, Hello, PURPOSE_TRANSFER, PeerMessage, Report};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::changes::Reunion;
use super::early::Early;
use super::explanation::is_relayed;
use super::limits::{self, later};
use super::mapping::Mapping;
use super::paths::Paths;
use super::relays::{LinkId, Relays};
use super::traffic::{Flow, Traffic};
use super::types::{ConnectorConfig, Event, Failure, PathPolicy};
use crate::ice::{self, Agent, Credentials, Nat64Prefix, Path, Role};
use crate::punch::{Technique, Techniques};
use crate::signal::{self, RendezvousEvent};
use crate::{Datagram, Transmit, Verdict};

/// How far the attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Established,
    Ended,
}

/// A handshake that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handshake {
    pub(super) path: Path,
    pub(super) patience: Instant,
}

/// One attempt at connecting to one peer; see the [module](super).
#[derive(Debug)]
pub struct Connector {
    pub(super) agent: Agent,
    pub(super) relays: Relays,
    pub(super) policy: PathPolicy,
    pub(super) disabled: Techniques,
    pub(super) punches: bool,
    /// STUN servers that the server has not named.
    stun: Vec<SocketAddr>,
    /// When both sides had authenticated each other.
    pub(super) authenticated: Option<Instant>,
    /// Relayed addresses of the peer that are not to be used.
    pub(super) refused: Vec<SocketAddr>,
    pub(super) rng: ChaCha20Rng,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) outputs: VecDeque<(LinkId, Vec<u8>)>,
    pub(super) is_creator: bool,
    pub(super) stage: Stage,
    pub(super) in_mailbox: bool,
    pub(super) peer: Option<Fingerprint>,
    pub(super) round_trip: Duration,
    /// Valid paths in the order in which they were found.
    pub(super) valid: Vec<Path>,
    /// Paths that checks of the peer have come by.
    pub(super) seen: Vec<Path>,
    /// The path that the connection began on, where the peer chose it.
    pub(super) begun_on: Option<Path>,
    pub(super) handshake: Option<Handshake>,
    pub(super) early: Early,
    pub(super) paths: Paths,
    pub(super) flow: Flow,
    pub(super) report: Option<ice::Report>,
    pub(super) peer_report: Option<Report>,
    /// Why the mailbox is gone, if it went early.
    pub(super) cause: Option<Failure>,
    pub(super) candidates_told: bool,
    pub(super) mapping: Mapping,
    pub(super) candidates_heard: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) leave_at: Option<Instant>,
    /// The addresses of our sockets.
    pub(super) hosts: Vec<SocketAddr>,
    /// Candidates of ours that are told when the two meet again.
    pub(super) own: Vec<ice::Candidate>,
    pub(super) reunion: Reunion,
    /// A direct path was taken before any pair had been selected.
    pub(super) left_relay: bool,
    /// Addresses are being taken away.
    pub(super) moving: bool,
    pub(super) events: VecDeque<Event>,
}

impl Connector {
    /// Begins to gather candidates.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], config: &ConnectorConfig) -> Self {
        let role = match config.is_creator {
            true => Role::Controlling,
            false => Role::Controlled,
        };
        let agent_config = limits::agent_config(config);
        let (policy, disabled) = config.limits();
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut agent_seed = [0; 32];
        rng.fill_bytes(&mut agent_seed);
        let mut this = Self {
            agent: Agent::new(now, agent_seed, role, agent_config),
            relays: Relays::new(config.relay_transports),
            policy,
            disabled,
            punches: config.punch,
            stun: config.stun.clone(),
            authenticated: None,
            refused: Vec::new(),
            rng,
            transmits: VecDeque::new(),
            outputs: VecDeque::new(),
            is_creator: config.is_creator,
            stage: Stage::Connecting,
            in_mailbox: true,
            peer: None,
            round_trip: limits::ROUND_TRIP,
            valid: Vec::new(),
            seen: Vec::new(),
            begun_on: None,
            handshake: None,
            early: Early::default(),
            paths: Paths::default(),
            flow: Flow::default(),
            report: None,
            peer_report: None,
            cause: None,
            candidates_told: false,
            mapping: Mapping::default(),
            candidates_heard: false,
            deadline: None,
            leave_at: None,
            hosts: config.hosts.clone(),
            own: Vec::new(),
            reunion: Reunion::default(),
            left_relay: false,
            moving: false,
            events: VecDeque::new(),
        };
        this.introduce(now, config);
        this
    }

    /// Prepares the hello with the host candidates, which are known at once.
    fn introduce(&mut self, now: Instant, config: &ConnectorConfig) {
        if self.policy != PathPolicy::RelayOnly {
            let ipv6 = !self.is_off(Technique::Ipv6);
            let usable = |host: &&SocketAddr| ipv6 || host.is_ipv4();
            for &host in config.hosts.iter().filter(usable) {
                self.agent.add_host(now, host);
            }
            let tcp = !self.is_off(Technique::Tcp);
            let tcp_hosts = config.tcp_hosts.iter().filter(|_| tcp);
            for &host in tcp_hosts.filter(usable) {
                self.agent.add_tcp_host(now, host);
            }
        }
        let mut candidates = Vec::new();
        while let Some(event) = self.agent.poll_event() {
            if let ice::Event::LocalCandidate(candidate) = event {
                self.remember(&candidate);
                candidates.push(candidate.to_string());
            }
        }
        let Credentials { ufrag, pwd } = self.agent.local_credentials().clone();
        self.tell(PeerMessage::Hello(Hello {
            ufrag,
            pwd,
            fingerprint: config.fingerprint,
            purpose: PURPOSE_TRANSFER.to_owned(),
            candidates,
            end_of_candidates: false,
        }));
    }

    pub(super) fn is_off(&self, technique: Technique) -> bool {
        self.disabled.contains(technique)
    }

    /// The round-trip time that the checks measured, or an assumption.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// How a path came about, and what was spent beyond plain checks until now: probes sent and
    /// sockets opened by this side.
    #[must_use]
    pub fn technique(&self, path: &Path) -> (Technique, u32, u32) {
        let (probes, sockets) = self.agent.punch_spent();
        (self.agent.technique(path), probes, sockets)
    }

    /// Takes a STUN datagram.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if self.stage == Stage::Ended {
            return Verdict::NotMine;
        }
        if self.refused.contains(&datagram.remote) {
            return Verdict::Consumed;
        }
        let verdict = self.agent.handle_input(now, datagram);
        self.follow(now);
        verdict
    }

    /// Sends a datagram of the connection from a relayed address to a peer for which there is
    /// no channel yet.
    pub fn handle_relay_data(
        &mut self,
        now: Instant,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: &[u8],
    ) {
        self.relays.send(now, relayed, peer, payload);
        self.follow(now);
    }

    /// Takes the prefix of the NAT64 in front of this host, if there is one
    /// ([`Agent::set_nat64_prefix`](crate::ice::Agent::set_nat64_prefix)).
    pub fn set_nat64_prefix(&mut self, now: Instant, prefix: Option<Nat64Prefix>) {
        if self.policy != PathPolicy::RelayOnly {
            self.agent.set_nat64_prefix(now, prefix);
            self.follow(now);
        }
    }

    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.stage == Stage::Ended {
            return;
        }
        self.agent.handle_timeout(now);
        self.relays.handle_timeout(now);
        self.keep_relay(now);
        self.follow(now);
        if self
            .handshake
            .is_some_and(|handshake| now >= handshake.patience)
        {
            self.try_next_path(now);
        }
        self.begin_early(now);
        let step = self.paths.handle_timeout(now);
        self.take(step);
        if self.flow.is_due(now) {
            self.events.push_back(Event::Measure);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.give_up(now);
        }
        if self.mapping.until.is_some_and(|until| now >= until) {
            self.end_wait_for_mapping(now);
        }
        self.leave_if_done(now);
        self.run_reunion(now);
    }

    /// Takes what happens in the rendezvous.
    pub fn handle_signal(&mut self, now: Instant, event: RendezvousEvent) {
        if self.stage == Stage::Ended {
            return;
        }
        match event {
            RendezvousEvent::Welcome { stun } => {
                let more = std::mem::take(&mut self.stun);
                self.on_welcome(now, &stun, &more);
            }
            RendezvousEvent::CodeReady(code) => self.events.push_back(Event::CodeReady(code)),
            RendezvousEvent::Relays(servers) => self.on_relays(now, &servers),
            RendezvousEvent::PeerJoined => {}
            RendezvousEvent::Authenticated if self.stage == Stage::Established => self.on_met(),
            RendezvousEvent::Authenticated => {
                self.authenticated = Some(now);
                self.deadline = Some(later(now, limits::CONNECT));
            }
            RendezvousEvent::Message(message) => self.on_message(now, message),
            RendezvousEvent::Closed => self.on_mailbox_gone(now, Failure::PeerLeft),
            RendezvousEvent::Failed(signal::Failure::PeerLeft) => {
                self.on_mailbox_gone(now, Failure::PeerLeft);
            }
            RendezvousEvent::Failed(failure) => self.on_mailbox_gone(now, failure.into()),
        }
        self.follow(now);
    }

    /// Takes note that the connection to the server is gone.
    pub fn handle_signalling_lost(&mut self, now: Instant) {
        self.on_mailbox_gone(now, Failure::ServerLost);
    }

    /// The handshake of the peer came by the path between these addresses: what
    /// [`Connector::explain`] tells until a pair is selected.
    pub fn handle_first_path(&mut self, local: SocketAddr, remote: SocketAddr) {
        let here = |path: &&Path| (path.local, path.remote) == (local, remote);
        let known = self.valid.iter().chain(self.early.paths());
        self.begun_on = known.chain(&self.seen).find(here).copied();
    }

    /// A handshake has succeeded: the connection stands.
    pub fn handle_connected(&mut self, now: Instant) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.stage = Stage::Established;
        self.deadline = None;
        self.leave_at = Some(later(now, limits::LEAVE));
        self.flow.begin(now);
        if let Some(handshake) = self.handshake.take() {
            self.paths.begin(handshake.path);
        }
        if let Some(selected) = self.agent.selected() {
            self.want(selected);
        }
        let direct = self.valid.iter().find(|path| !is_relayed(path)).copied();
        if let Some(direct) = direct {
            self.leave_relay(direct);
        }
        self.leave_if_done(now);
    }

    /// What [`Event::Measure`] asks for.
    pub fn handle_traffic(&mut self, now: Instant, traffic: Traffic) {
        let busy = self.flow.take(now, traffic);
        self.agent.set_busy(now, busy);
        if self.flow.is_in_doubt(now) {
            self.doubt_relay(now);
            self.follow(now);
        }
    }

    /// A handshake has failed. `is_final` says that it would fail on every path: the peer
    /// showed another certificate, say.
    pub fn handle_handshake_failed(&mut self, now: Instant, is_final: bool) {
        if self.stage != Stage::Connecting || !self.is_creator {
            return;
        }
        if is_final {
            return self.fail(Failure::Handshake);
        }
        self.try_next_path(now);
    }

    /// A path that was to be opened carries data, or cannot be opened.
    pub fn handle_path_opened(&mut self, now: Instant, path: Path, worked: bool) {
        let step = self.paths.opened(now, path, worked);
        self.take(step);
    }

    /// Sockets that were asked for are open, in the order in which they were asked for; `None` if
    /// they cannot be, or must not.
    pub fn handle_sockets_opened(&mut self, now: Instant, sockets: Option<Vec<SocketAddr>>) {
        self.agent.sockets_opened(now, sockets);
        self.follow(now);
    }

    /// Nobody wants the connection any more: tells the peer if it still waits for one, and
    /// gives relays back. The machine is inert after what it yields then.
    pub fn cancel(&mut self, now: Instant) {
        if self.stage == Stage::Connecting {
            let reason = ByeReason::Cancelled;
            self.tell(PeerMessage::Bye { reason });
        }
        self.relays.close(now);
        self.follow(now);
        self.stage = Stage::Ended;
    }

    /// QUIC has given up the path between these addresses.
    pub fn handle_path_abandoned(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.paths.lose(local, remote);
        self.recover();
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What to do, or what happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Connector::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stage == Stage::Ended {
            return None;
        }
        let times = [
            self.agent.poll_timeout(),
            self.relays.poll_timeout(),
            self.handshake.map(|handshake| handshake.patience),
            self.early_timeout(),
            self.paths.retry_at(),
            self.flow.poll_timeout(),
            self.deadline,
            self.mapping.until,
            self.leave_at
                .filter(|_| self.in_mailbox && !self.is_reunited()),
            self.reunion_timeout(),
        ];
        times.into_iter().flatten().min()
    }
}
