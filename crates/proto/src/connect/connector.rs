//! The machine.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::signal::{
    ByeReason, Code, Fingerprint, Hello, PURPOSE_TRANSFER, PeerMessage, RelayServer, Report,
    stun_address,
};
use postern_wire::stun::is_stun;
use postern_wire::turn::ChannelNumber;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::limits::{self, later};
use super::paths::{Paths, Step, same};
use super::relays::{self, Relay, Relays};
use super::summary;
use crate::ice::{self, Agent, Candidate, CandidateKind, Credentials, Path, Role};
use crate::signal::{self, RendezvousEvent};
use crate::{Datagram, Transmit, Verdict};

/// What a [`Connector`] has to know.
#[derive(Debug, Clone)]
pub struct ConnectorConfig {
    /// Whether this side made the code: it opens the connection and its paths.
    pub is_creator: bool,
    /// The hash of the certificate that this side shows in QUIC.
    pub fingerprint: Fingerprint,
    /// The addresses of this side's sockets, the preferred one first.
    pub hosts: Vec<SocketAddr>,
    /// Whether loopback addresses may be used.
    pub allow_loopback: bool,
    /// Which paths may be used.
    pub policy: PathPolicy,
}

/// Which paths a connection may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathPolicy {
    /// Direct ones where possible, relayed ones until then.
    #[default]
    Any,
    /// Direct ones only: no relay learns who speaks with whom.
    DirectOnly,
    /// Relayed ones only: the peer does not learn this side's addresses.
    RelayOnly,
}

/// What to do, or what happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Send this to the other side through the rendezvous.
    Tell(PeerMessage),
    /// The code is there, to be shown.
    CodeReady(Code),
    /// Packets of the connection may pass on this path from now on.
    Admit(Path),
    /// Nothing may pass on this path any more.
    Revoke(Path),
    /// The peer is known: incoming handshakes that show this certificate are welcome. Comes
    /// once, on the side that did not make the code.
    Accept(Fingerprint),
    /// Open the connection to whoever shows this certificate on this path, instead of any
    /// handshake that is under way. Comes only on the side that made the code.
    Connect {
        /// The path.
        path: Path,
        /// The certificate that the peer must show.
        peer: Fingerprint,
    },
    /// Add this path to the connection; tell [`Connector::handle_path_opened`].
    OpenPath(Path),
    /// This path carries the connection: close the others.
    SettleOn(Path),
    /// This side can be reached at a relayed address: what comes from the server in a
    /// channel comes from a peer.
    Relay(Relay),
    /// Data to and from this peer of a relayed address is framed with the channel, or, with
    /// none, handed to [`Connector::handle_relay_data`].
    RelayChannel {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The channel.
        channel: Option<ChannelNumber>,
    },
    /// A peer sent this to the relayed address, without a channel; it is not STUN.
    RelayData {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// The relayed address is gone.
    RelayEnded(SocketAddr),
    /// Send what was told, and leave the mailbox.
    LeaveMailbox,
    /// There is no connection, and the machine is inert. Comes last; what was told before
    /// still has to be sent.
    Failed(Failure),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The rendezvous failed.
    #[error(transparent)]
    Rendezvous(#[from] signal::Failure),
    /// The server closed the connection too early.
    #[error("the connection to the server was lost before the two sides were connected")]
    ServerLost,
    /// The peer left too early.
    #[error("the other side went away before a connection was made")]
    PeerLeft,
    /// The peer knew the code, and then said nothing.
    #[error("the other side knows the code, but did not say how to reach it")]
    PeerSilent,
    /// The two networks let no direct path through.
    #[error("no direct path was found")]
    NoPath {
        /// What this side saw.
        ours: Report,
        /// What the peer saw, if it said so.
        theirs: Option<Report>,
        /// Why there is no relayed one either.
        relay: NoRelay,
    },
    /// Paths work, but no handshake succeeded on any of them.
    #[error("a path was found, but no encrypted connection could be made over it")]
    Handshake,
}

/// Why there is no relayed path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRelay {
    /// The server offered none.
    NotOffered,
    /// This side allows direct paths only.
    NotWanted,
    /// The relay did not work.
    Failed,
}

/// Relayed addresses of the peer that are remembered in order to leave them alone: one per
/// address family and side, and some for those that change.
const MAX_REFUSED: usize = 8;

/// The unspecified address of the same family, and the discard port.
fn hidden(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 9)
}

/// How far the attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Established,
    Ended,
}

/// A handshake that is under way.
#[derive(Debug, Clone, Copy)]
struct Handshake {
    path: Path,
    patience: Instant,
}

/// One attempt at connecting to one peer; see the [module](super).
#[derive(Debug)]
pub struct Connector {
    agent: Agent,
    relays: Relays,
    hosts: Vec<SocketAddr>,
    policy: PathPolicy,
    /// Relayed addresses of the peer that are not to be used.
    refused: Vec<SocketAddr>,
    rng: ChaCha20Rng,
    transmits: VecDeque<Transmit>,
    is_creator: bool,
    stage: Stage,
    in_mailbox: bool,
    peer: Option<Fingerprint>,
    round_trip: Duration,
    /// Valid paths in the order in which they were found.
    valid: Vec<Path>,
    handshake: Option<Handshake>,
    paths: Paths,
    report: Option<ice::Report>,
    peer_report: Option<Report>,
    /// Why the mailbox is gone, if it went early.
    cause: Option<Failure>,
    candidates_told: bool,
    candidates_heard: bool,
    deadline: Option<Instant>,
    leave_at: Option<Instant>,
    events: VecDeque<Event>,
}

impl Connector {
    /// Begins to gather candidates.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], config: &ConnectorConfig) -> Self {
        let role = match config.is_creator {
            true => Role::Controlling,
            false => Role::Controlled,
        };
        let agent_config = limits::agent_config(config.allow_loopback);
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut agent_seed = [0; 32];
        rng.fill_bytes(&mut agent_seed);
        let mut this = Self {
            agent: Agent::new(now, agent_seed, role, agent_config),
            relays: Relays::default(),
            hosts: config.hosts.clone(),
            policy: config.policy,
            refused: Vec::new(),
            rng,
            transmits: VecDeque::new(),
            is_creator: config.is_creator,
            stage: Stage::Connecting,
            in_mailbox: true,
            peer: None,
            round_trip: limits::ROUND_TRIP,
            valid: Vec::new(),
            handshake: None,
            paths: Paths::default(),
            report: None,
            peer_report: None,
            cause: None,
            candidates_told: false,
            candidates_heard: false,
            deadline: None,
            leave_at: None,
            events: VecDeque::new(),
        };
        this.introduce(now, config);
        this
    }

    /// Prepares the hello with the host candidates, which are known at once.
    fn introduce(&mut self, now: Instant, config: &ConnectorConfig) {
        if self.policy != PathPolicy::RelayOnly {
            for &host in &config.hosts {
                self.agent.add_host(now, host);
            }
        }
        let mut candidates = Vec::new();
        while let Some(event) = self.agent.poll_event() {
            if let ice::Event::LocalCandidate(candidate) = event {
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

    /// The round-trip time that the checks measured, or an assumption.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Takes a STUN datagram.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if self.stage == Stage::Ended {
            return Verdict::NotMine;
        }
        if self.refused.contains(&datagram.remote) {
            return Verdict::Consumed;
        }
        let mut verdict = self.relays.handle_input(now, datagram);
        if verdict == Verdict::NotMine {
            verdict = self.agent.handle_input(now, datagram);
        }
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
        let step = self.paths.handle_timeout(now);
        self.take(step);
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.give_up();
        }
        self.leave_if_done(now);
    }

    /// Takes what happens in the rendezvous.
    pub fn handle_signal(&mut self, now: Instant, event: RendezvousEvent) {
        if self.stage == Stage::Ended {
            return;
        }
        match event {
            RendezvousEvent::Welcome { stun } => self.on_welcome(now, &stun),
            RendezvousEvent::CodeReady(code) => self.events.push_back(Event::CodeReady(code)),
            RendezvousEvent::Relays(servers) => self.on_relays(now, &servers),
            RendezvousEvent::PeerJoined => {}
            RendezvousEvent::Authenticated => {
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

    /// A handshake has succeeded: the connection stands.
    pub fn handle_connected(&mut self, now: Instant) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.stage = Stage::Established;
        self.deadline = None;
        self.leave_at = Some(later(now, limits::LEAVE));
        if let Some(handshake) = self.handshake.take() {
            self.paths.begin(handshake.path);
        }
        if let Some(selected) = self.agent.selected() {
            self.want(selected);
        }
        self.leave_if_done(now);
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
            self.paths.retry_at(),
            self.deadline,
            self.leave_at.filter(|_| self.in_mailbox),
        ];
        times.into_iter().flatten().min()
    }
}

/// What the peer and the server say.
impl Connector {
    fn on_welcome(&mut self, now: Instant, stun: &[String]) {
        for server in stun.iter().filter_map(|uri| stun_address(uri)) {
            self.agent.add_stun_server(now, server);
        }
        self.agent.end_of_hosts(now);
    }

    fn on_message(&mut self, now: Instant, message: PeerMessage) {
        match message {
            PeerMessage::Hello(hello) => self.on_hello(now, hello),
            PeerMessage::Candidate { candidate } => self.add_candidate(now, &candidate),
            PeerMessage::EndOfCandidates => self.on_end_of_candidates(now),
            PeerMessage::Report(report) => self.on_peer_report(now, report),
            PeerMessage::Bye { .. } if self.stage == Stage::Connecting => {
                self.fail(Failure::PeerLeft);
            }
            PeerMessage::Bye { .. } => {}
        }
    }

    /// Only the first hello counts: the peer cannot become somebody else.
    fn on_hello(&mut self, now: Instant, hello: Hello) {
        if self.peer.is_some() {
            return;
        }
        self.peer = Some(hello.fingerprint);
        if !self.is_creator {
            self.events.push_back(Event::Accept(hello.fingerprint));
        }
        let Hello { ufrag, pwd, .. } = hello;
        let credentials = Credentials { ufrag, pwd };
        self.agent.set_remote_credentials(now, credentials);
        for candidate in &hello.candidates {
            self.add_candidate(now, candidate);
        }
        if hello.end_of_candidates {
            self.on_end_of_candidates(now);
        }
    }

    fn add_candidate(&mut self, now: Instant, line: &str) {
        match line.parse::<Candidate>() {
            Ok(candidate) if self.refuses(&candidate) => self.refuse(candidate.address),
            Ok(candidate) => self.agent.add_remote_candidate(now, candidate),
            Err(error) => tracing::debug!(%error, "a candidate was left out"),
        }
    }

    fn refuses(&self, candidate: &Candidate) -> bool {
        self.policy == PathPolicy::DirectOnly && candidate.kind == CandidateKind::Relayed
    }

    /// What comes from a refused address is not taken for a path that nobody has told of.
    fn refuse(&mut self, address: SocketAddr) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.push(address);
        }
    }

    fn on_end_of_candidates(&mut self, now: Instant) {
        self.candidates_heard = true;
        self.agent.end_of_remote_candidates(now);
        self.leave_if_done(now);
    }

    fn on_peer_report(&mut self, now: Instant, report: Report) {
        self.peer_report = Some(report);
        self.await_report(now, self.report.is_some());
    }

    /// Without the mailbox a connection can still be made if the peer's hello is here.
    fn on_mailbox_gone(&mut self, now: Instant, cause: Failure) {
        let was_there = std::mem::take(&mut self.in_mailbox);
        if !was_there || self.stage != Stage::Connecting {
            return;
        }
        if self.peer.is_none() {
            return self.fail(cause);
        }
        self.cause = Some(cause);
        self.shorten_deadline(later(now, limits::FAREWELL));
    }

    fn leave_if_done(&mut self, now: Instant) {
        let gathered = self.candidates_told && !self.relays.is_gathering();
        let quiet = gathered && self.candidates_heard;
        let settled = quiet && self.agent.selected().is_some();
        let late = self.leave_at.is_some_and(|at| now >= at);
        if self.in_mailbox && self.stage == Stage::Established && (settled || late) {
            self.in_mailbox = false;
            self.events.push_back(Event::LeaveMailbox);
        }
    }
}

/// What the agent says.
impl Connector {
    fn follow(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.agent.poll_event() {
                self.on_agent_event(now, event);
            }
            while let Some(transmit) = self.agent.poll_transmit() {
                self.route(now, transmit);
            }
            while let Some(transmit) = self.relays.poll_transmit() {
                self.transmits.push_back(transmit);
            }
            match self.relays.poll_event() {
                Some(event) => self.on_relay_event(now, event),
                None => return,
            }
        }
    }

    /// A check from a relayed address goes through the relay.
    fn route(&mut self, now: Instant, transmit: Transmit) {
        let Transmit {
            local,
            remote,
            payload,
        } = transmit;
        if self.relays.has(local) {
            self.relays.send(now, local, remote, &payload);
        } else {
            self.transmits.push_back(Transmit {
                local,
                remote,
                payload,
            });
        }
    }

    fn on_agent_event(&mut self, now: Instant, event: ice::Event) {
        match event {
            ice::Event::LocalCandidate(candidate) => self.tell_candidate(candidate),
            ice::Event::EndOfLocalCandidates => {
                self.candidates_told = true;
                self.tell(PeerMessage::EndOfCandidates);
            }
            ice::Event::PeerSeen(path) => self.events.push_back(Event::Admit(path)),
            ice::Event::Valid { path, rtt } => self.on_valid(now, path, rtt),
            ice::Event::Selected(path) => self.on_selected(now, path),
            ice::Event::Lost(path) => self.on_lost(now, path),
            ice::Event::Failed(report) => self.on_failed(now, report),
        }
    }

    /// Who uses the relay only does not want the address behind it known (RFC 8839 section
    /// 5.1 allows 0.0.0.0 and port 9 in its place).
    fn tell_candidate(&mut self, mut candidate: Candidate) {
        if self.policy == PathPolicy::RelayOnly {
            candidate.related = candidate.related.map(hidden);
        }
        self.tell(PeerMessage::Candidate {
            candidate: candidate.to_string(),
        });
    }

    fn on_valid(&mut self, now: Instant, path: Path, rtt: Option<Duration>) {
        self.events.push_back(Event::Admit(path));
        if !self.valid.iter().any(|known| same(*known, path)) {
            self.valid.push(path);
        }
        match self.stage {
            Stage::Connecting if self.handshake.is_none() => {
                self.round_trip = rtt.unwrap_or(self.round_trip);
                self.shake_hands(now, path);
            }
            Stage::Established => self.recover(),
            Stage::Connecting | Stage::Ended => {}
        }
    }

    fn on_selected(&mut self, now: Instant, path: Path) {
        self.events.push_back(Event::Admit(path));
        self.want(path);
        self.leave_if_done(now);
    }

    fn on_lost(&mut self, now: Instant, path: Path) {
        self.events.push_back(Event::Revoke(path));
        self.valid.retain(|known| !same(*known, path));
        self.paths.lose(path.local, path.remote);
        self.recover();
        if self
            .handshake
            .is_some_and(|handshake| same(handshake.path, path))
        {
            self.try_next_path(now);
        }
    }

    /// The checks have failed. On a standing connection QUIC notices by itself.
    fn on_failed(&mut self, now: Instant, report: ice::Report) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.tell(PeerMessage::Report(summary(&report)));
        self.report = Some(report);
        self.await_report(now, self.peer_report.is_some());
    }
}

/// Relays.
impl Connector {
    fn on_relays(&mut self, now: Instant, servers: &[RelayServer]) {
        if self.policy == PathPolicy::DirectOnly {
            return;
        }
        let hosts = std::mem::take(&mut self.hosts);
        self.relays.begin(now, &mut self.rng, &hosts, servers);
        self.hosts = hosts;
    }

    fn on_relay_event(&mut self, now: Instant, event: relays::Event) {
        match event {
            relays::Event::Allocated(relay) => {
                let Relay {
                    base,
                    server,
                    relayed,
                } = relay;
                self.events.push_back(Event::Relay(relay));
                self.agent.add_relayed(now, base, relayed, server);
            }
            relays::Event::Bound {
                relayed,
                peer,
                channel,
            } => self.on_channel(relayed, peer, Some(channel)),
            relays::Event::Unbound { relayed, peer } => self.on_channel(relayed, peer, None),
            relays::Event::Data {
                relayed,
                peer,
                payload,
            } => self.on_relayed_data(now, relayed, peer, payload),
            relays::Event::Ended { relayed } => {
                self.agent.remove_relayed(now, relayed);
                self.events.push_back(Event::RelayEnded(relayed));
            }
        }
    }

    fn on_channel(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        channel: Option<ChannelNumber>,
    ) {
        self.events.push_back(Event::RelayChannel {
            relayed,
            peer,
            channel,
        });
    }

    fn on_relayed_data(
        &mut self,
        now: Instant,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    ) {
        if !is_stun(&payload) {
            self.events.push_back(Event::RelayData {
                relayed,
                peer,
                payload,
            });
            return;
        }
        let datagram = Datagram {
            local: relayed,
            remote: peer,
            payload: &payload,
        };
        self.agent.handle_input(now, datagram);
    }

    /// The data of the connection does not pass through here: its channel must not fall
    /// asleep.
    fn keep_relay(&mut self, now: Instant) {
        if let Some(path) = self.agent.selected() {
            self.relays.keep(now, path.local, path.remote);
        }
    }
}

/// The connection.
impl Connector {
    fn shake_hands(&mut self, now: Instant, path: Path) {
        let (Some(peer), true) = (self.peer, self.is_creator) else {
            return;
        };
        let patience = limits::HANDSHAKE.saturating_add(self.round_trip.saturating_mul(4));
        self.handshake = Some(Handshake {
            path,
            patience: later(now, patience),
        });
        self.events.push_back(Event::Connect { path, peer });
    }

    /// The valid path after the one that was tried; with only that one, it is tried again.
    fn try_next_path(&mut self, now: Instant) {
        let tried = self.handshake.take().map(|handshake| handshake.path);
        let place = tried.and_then(|tried| self.valid.iter().position(|path| same(*path, tried)));
        let after = place.map_or(0, |place| place.saturating_add(1));
        let next = self
            .valid
            .get(after)
            .or_else(|| self.valid.first())
            .copied();
        if let Some(path) = next {
            self.shake_hands(now, path);
        }
    }

    fn want(&mut self, path: Path) {
        if self.is_creator && self.stage == Stage::Established {
            let step = self.paths.want(path);
            self.take(step);
        }
    }

    /// Without any path left, the first valid one will do until ICE selects.
    fn recover(&mut self) {
        if let (false, Some(&path)) = (self.paths.has_one(), self.valid.first()) {
            self.want(path);
        }
    }

    fn take(&mut self, step: Option<Step>) {
        match step {
            Some(Step::Open(path)) => self.events.push_back(Event::OpenPath(path)),
            Some(Step::Settle(path)) => self.events.push_back(Event::SettleOn(path)),
            None => {}
        }
    }
}

/// The end.
impl Connector {
    fn tell(&mut self, message: PeerMessage) {
        if self.in_mailbox {
            self.events.push_back(Event::Tell(message));
        }
    }

    fn await_report(&mut self, now: Instant, is_here: bool) {
        match is_here {
            true => self.give_up(),
            false => self.shorten_deadline(later(now, limits::REPORT)),
        }
    }

    fn shorten_deadline(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    fn give_up(&mut self) {
        let failure = self.verdict();
        if let (Failure::NoPath { ours, .. }, None) = (&failure, &self.report) {
            self.tell(PeerMessage::Report(*ours));
        }
        self.fail(failure);
    }

    fn verdict(&mut self) -> Failure {
        let heard = self.report.is_some() || self.peer_report.is_some();
        match self.cause.take() {
            Some(cause) if !heard => return cause,
            Some(_) | None => {}
        }
        if self.peer.is_none() {
            return Failure::PeerSilent;
        }
        if !self.valid.is_empty() && !heard {
            return Failure::Handshake;
        }
        let ours = self.report.clone().unwrap_or_else(|| self.agent.report());
        Failure::NoPath {
            ours: summary(&ours),
            theirs: self.peer_report,
            relay: self.no_relay(),
        }
    }

    fn no_relay(&self) -> NoRelay {
        match (self.policy, self.relays.were_offered()) {
            (PathPolicy::DirectOnly, _) => NoRelay::NotWanted,
            (PathPolicy::Any | PathPolicy::RelayOnly, false) => NoRelay::NotOffered,
            (PathPolicy::Any | PathPolicy::RelayOnly, true) => NoRelay::Failed,
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.stage = Stage::Ended;
        self.events.push_back(Event::Failed(failure));
    }
}
