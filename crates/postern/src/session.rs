//! One attempt at connecting to one peer, and the agent that keeps its paths alive.
//!
//! A session is a task. It owns the ICE agent and, until there is a connection, the
//! signalling. Each turn of its loop waits for one thing, hands it to the agent or to
//! QUIC, and drains what came of it. The protocol decisions are the agent's; the
//! session only knows that the creator of the code opens the QUIC connection and its
//! paths, on the first valid pair and then on every better one.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use noq::{PathEvent, PathStatus};
use postern_proto::ice::{self, Agent, Candidate, Credentials, Role};
use postern_proto::signal::{Failure, RendezvousEvent};
use postern_proto::{Datagram, Transmit};
use postern_wire::signal::{
    ByeReason, Code, Fingerprint, Hello, PURPOSE_TRANSFER, PeerMessage, Report, stun_address,
};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{self, until};
use crate::connection::{Connection, PathFollower};
use crate::endpoint::{Attempt, Shared};
use crate::explain::explain;
use crate::net::{AddressPair, Path, SessionId, StunDatagram};
use crate::quic;
use crate::rendezvous::{Signalling, SignallingError};

/// How long the checks may go on without any success. The peer's report and the sentence
/// for the user must fit into 15 s with it.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long to wait for the peer's report on why no path was found.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// How long a connection that is being made may still take when the mailbox is gone.
const FAREWELL_WAIT: Duration = Duration::from_secs(5);

/// A QUIC handshake on a valid path takes two round trips; after so long the path was a
/// deception.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The paths of a connection outlive it by so much, so that its farewell, and the
/// repetition of it if the peer asks again, find their way.
const LINGER: Duration = Duration::from_secs(3);

/// The round-trip time assumed where none was measured.
const DEFAULT_ROUND_TRIP: Duration = Duration::from_millis(100);

/// Why there is no connection to the peer.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The rendezvous could not begin.
    #[error(transparent)]
    Signalling(#[from] SignallingError),
    /// The rendezvous failed.
    #[error(transparent)]
    Rendezvous(#[from] Failure),
    /// The peer left before there was a connection.
    #[error("the other side went away before a connection was made")]
    PeerLeft,
    /// The server went away before both sides had met.
    #[error("the server closed the connection before the other side came")]
    ServerLost,
    /// The two networks let no direct path through.
    #[error("{0}")]
    NoPath(String),
    /// A path was found, but the encrypted connection over it failed.
    #[error("a path was found, but no encrypted connection could be made over it")]
    Handshake(#[source] noq::ConnectionError),
    /// This machine's addresses or sockets are unusable, or the session ended early.
    #[error("the session ended before a connection was made")]
    Ended,
    /// Cryptography could not be set up.
    #[error("the encrypted connection could not be set up")]
    Crypto(#[from] rustls::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

type Handshake =
    Pin<Box<dyn Future<Output = Result<noq::Connection, noq::ConnectionError>> + Send>>;
type PathEvents = Pin<Box<dyn Stream<Item = PathEvent> + Send>>;
type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whom the session tells about its progress.
pub(crate) struct Listener {
    /// Gets the code, on the side that makes it.
    pub(crate) code: Option<oneshot::Sender<Code>>,
    /// Gets the connection, or why there is none.
    pub(crate) result: oneshot::Sender<Result<Connection, EstablishError>>,
}

/// What arrives for a session on the endpoint's sockets.
pub(crate) struct Inbox {
    pub(crate) id: SessionId,
    pub(crate) stun: mpsc::Receiver<StunDatagram>,
    pub(crate) incoming: mpsc::Receiver<noq::Incoming>,
}

/// A connection that stands.
struct Established {
    quic: noq::WeakConnectionHandle,
    follower: PathFollower,
    events: PathEvents,
    closed: Closed,
}

pub(crate) struct Session {
    shared: Arc<Shared>,
    inbox: Inbox,
    agent: Agent,
    is_creator: bool,
    signalling: Option<Signalling>,
    attempt: Option<Attempt>,
    code: Option<oneshot::Sender<Code>>,
    result: Option<oneshot::Sender<Result<Connection, EstablishError>>>,
    authenticated: Option<Instant>,
    peer: Option<Fingerprint>,
    handshake: Option<Handshake>,
    round_trip: Duration,
    established: Option<Established>,
    /// What this side's network did, once its checks have failed.
    report: Option<ice::Report>,
    peer_report: Option<Report>,
    give_up: Option<Instant>,
}

/// One thing that a session waited for.
enum Input {
    Signal(Option<RendezvousEvent>),
    Stun(Option<StunDatagram>),
    Incoming(Box<noq::Incoming>),
    Handshake(Result<noq::Connection, noq::ConnectionError>),
    PathEvent(PathEvent),
    Timeout,
    Closed,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: Inbox,
        is_creator: bool,
        signalling: Signalling,
        listener: Listener,
    ) -> Result<Self, EstablishError> {
        let now = clock::now();
        let config = ice::Config {
            patience: PATIENCE,
            allow_loopback: true,
            ..ice::Config::default()
        };
        let role = if is_creator {
            Role::Controlling
        } else {
            Role::Controlled
        };
        let agent = Agent::new(now, crate::entropy::seed()?, role, config);
        let attempt = Some(shared.attempt());
        Ok(Self {
            shared,
            inbox,
            agent,
            is_creator,
            signalling: Some(signalling),
            attempt,
            code: listener.code,
            result: Some(listener.result),
            authenticated: None,
            peer: None,
            handshake: None,
            round_trip: DEFAULT_ROUND_TRIP,
            established: None,
            report: None,
            peer_report: None,
            give_up: None,
        })
    }

    /// Runs until the connection is over, or there is none.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.drive().await
            && let Some(result) = self.result.take()
        {
            let _ = result.send(Err(error));
        }
        self.leave().await;
        if self.established.is_some() {
            tokio::time::sleep(LINGER).await;
        }
        self.shared.forget(self.inbox.id);
    }

    async fn drive(&mut self) -> Result<(), EstablishError> {
        self.introduce();
        loop {
            self.drain().await?;
            if self.result.as_ref().is_some_and(oneshot::Sender::is_closed) {
                // Nobody waits for the connection any more.
                let reason = ByeReason::Cancelled;
                self.tell(PeerMessage::Bye { reason });
                return Ok(());
            }
            match self.next_input().await {
                Input::Signal(event) => self.on_signal(event)?,
                Input::Stun(Some(datagram)) => self.on_stun(&datagram),
                Input::Incoming(incoming) => self.on_incoming(*incoming)?,
                Input::Handshake(result) => self.on_handshake(result)?,
                Input::PathEvent(event) => self.on_path_event(&event),
                Input::Timeout => self.on_timeout()?,
                Input::Stun(None) | Input::Closed => return Ok(()),
            }
        }
    }

    /// Leaves the mailbox, and waits until the server has been told.
    async fn leave(&mut self) {
        if let Some(Signalling {
            outgoing,
            mut events,
        }) = self.signalling.take()
        {
            drop(outgoing);
            while events.recv().await.is_some() {}
        }
        self.attempt = None;
    }

    async fn next_input(&mut self) -> Input {
        let give_up = self.give_up.filter(|_| self.established.is_none());
        let deadline = [self.agent.poll_timeout(), give_up]
            .into_iter()
            .flatten()
            .min();
        tokio::select! {
            biased;
            datagram = self.inbox.stun.recv() => Input::Stun(datagram),
            event = next_signal(&mut self.signalling) => Input::Signal(event),
            Some(incoming) = self.inbox.incoming.recv() => Input::Incoming(Box::new(incoming)),
            result = finish(&mut self.handshake) => Input::Handshake(result),
            input = next_of_connection(&mut self.established) => input,
            () = caller_gone(&mut self.result) => Input::Timeout,
            () = until(deadline) => Input::Timeout,
        }
    }

    /// Gathers host candidates and prepares the hello, which is kept by the rendezvous
    /// until both sides have authenticated each other.
    fn introduce(&mut self) {
        let now = clock::now();
        for address in self.shared.host_addresses() {
            self.agent.add_host(now, address);
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
            fingerprint: self.shared.fingerprint(),
            purpose: PURPOSE_TRANSFER.to_owned(),
            candidates,
            end_of_candidates: false,
        }));
    }

    /// Queues a message for the peer. What does not fit is lost, as on any network.
    fn tell(&self, message: PeerMessage) {
        if let Some(signalling) = &self.signalling
            && signalling.outgoing.try_send(message).is_err()
        {
            tracing::debug!("signalling is gone or full, message dropped");
        }
    }

    async fn drain(&mut self) -> Result<(), EstablishError> {
        while let Some(Transmit {
            local,
            remote,
            payload,
        }) = self.agent.poll_transmit()
        {
            // An unreachable candidate is an ordinary thing: the check fails by itself.
            let _ = self
                .shared
                .send(AddressPair { local, remote }, &payload)
                .await;
        }
        while let Some(event) = self.agent.poll_event() {
            self.on_agent_event(event)?;
        }
        Ok(())
    }

    fn on_agent_event(&mut self, event: ice::Event) -> Result<(), EstablishError> {
        match event {
            ice::Event::LocalCandidate(candidate) => self.tell(PeerMessage::Candidate {
                candidate: candidate.to_string(),
            }),
            ice::Event::EndOfLocalCandidates => self.tell(PeerMessage::EndOfCandidates),
            ice::Event::PeerSeen(path) => {
                self.admit(&path);
            }
            ice::Event::Valid { path, rtt } => {
                self.round_trip = rtt.unwrap_or(self.round_trip);
                self.use_path(&path)?;
            }
            ice::Event::Selected(path) => self.use_path(&path)?,
            ice::Event::Lost(path) => self.shared.paths().revoke(pair_of(&path)),
            ice::Event::Failed(report) => self.on_failed(report),
        }
        Ok(())
    }

    /// Lets QUIC datagrams of this path through.
    fn admit(&self, path: &ice::Path) -> Option<std::net::SocketAddr> {
        let session = self.inbox.id;
        let pair = pair_of(path);
        self.shared.paths().admit(Path { pair, session })
    }

    /// The first path carries the handshake; a selected one carries the data.
    fn use_path(&mut self, path: &ice::Path) -> Result<(), EstablishError> {
        let Some(address) = self.admit(path) else {
            return Ok(());
        };
        if !self.is_creator {
            return Ok(());
        }
        match &self.established {
            Some(established) => switch_path(established, address),
            None if self.handshake.is_none() => self.connect(address)?,
            None => {}
        }
        Ok(())
    }

    fn connect(&mut self, address: std::net::SocketAddr) -> Result<(), EstablishError> {
        let Some(peer) = self.peer else {
            return Ok(());
        };
        let config = quic::client_config(self.shared.identity(), peer, self.round_trip)?;
        let connecting = self
            .shared
            .quic()
            .connect_with(config, address, quic::server_name());
        match connecting {
            Ok(connecting) => self.handshake = Some(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "QUIC refused the path"),
        }
        Ok(())
    }

    fn on_incoming(&mut self, incoming: noq::Incoming) -> Result<(), EstablishError> {
        let (Some(peer), false) = (self.peer, self.is_creator) else {
            incoming.ignore();
            return Ok(());
        };
        let config = quic::server_config(self.shared.identity(), peer, self.round_trip)?;
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => self.handshake = Some(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "an incoming handshake was dropped"),
        }
        Ok(())
    }

    fn on_handshake(
        &mut self,
        result: Result<noq::Connection, noq::ConnectionError>,
    ) -> Result<(), EstablishError> {
        self.handshake = None;
        let quic = match result {
            Ok(quic) => quic,
            // The peer may have tried an address of ours that only it can use.
            Err(error) if !self.is_creator => {
                tracing::debug!(%error, "an incoming handshake failed");
                return Ok(());
            }
            Err(error) => return Err(EstablishError::Handshake(error)),
        };
        let began = self.authenticated.unwrap_or_else(clock::now);
        let table = self.shared.paths().clone();
        let events = quic.path_events();
        let Some((follower, path)) = PathFollower::begin(&quic, table, began) else {
            return Err(EstablishError::PeerLeft);
        };
        let closed = quic.on_closed();
        self.established = Some(Established {
            quic: quic.weak_handle(),
            follower,
            events: Box::pin(events.filter_map(async |event| event.ok())),
            closed: Box::pin(async move { drop(closed.await) }),
        });
        self.signalling = None;
        self.attempt = None;
        if let Some(result) = self.result.take() {
            let _ = result.send(Ok(Connection::new(quic, path, self.is_creator)));
        }
        Ok(())
    }

    fn on_path_event(&mut self, event: &PathEvent) {
        if let Some(established) = &mut self.established {
            established.follower.on_event(event);
        }
    }

    fn on_stun(&mut self, datagram: &StunDatagram) {
        let AddressPair { local, remote } = datagram.pair;
        let payload = &datagram.payload;
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.agent.handle_input(clock::now(), datagram);
    }

    fn on_timeout(&mut self) -> Result<(), EstablishError> {
        let now = clock::now();
        self.agent.handle_timeout(now);
        match self.give_up {
            Some(deadline) if now >= deadline && self.established.is_none() => Err(self.failure()),
            Some(_) | None => Ok(()),
        }
    }

    fn on_signal(&mut self, event: Option<RendezvousEvent>) -> Result<(), EstablishError> {
        match event {
            Some(RendezvousEvent::Welcome { stun }) => self.on_welcome(&stun),
            Some(RendezvousEvent::CodeReady(code)) => {
                if let Some(listener) = self.code.take() {
                    let _ = listener.send(code);
                }
            }
            Some(RendezvousEvent::PeerJoined) => tracing::debug!("the other side is there"),
            Some(RendezvousEvent::Authenticated) => self.authenticated = Some(clock::now()),
            Some(RendezvousEvent::Message(message)) => self.on_message(message)?,
            Some(RendezvousEvent::Failed(failure)) => {
                return self.on_signalling_lost(failure.into());
            }
            Some(RendezvousEvent::Closed) => {
                return self.on_signalling_lost(EstablishError::PeerLeft);
            }
            None => return self.on_signalling_lost(EstablishError::ServerLost),
        }
        Ok(())
    }

    fn on_welcome(&mut self, stun: &[String]) {
        let now = clock::now();
        for server in stun.iter().filter_map(|uri| stun_address(uri)) {
            self.agent.add_stun_server(now, server);
        }
        self.agent.end_of_hosts(now);
    }

    fn on_message(&mut self, message: PeerMessage) -> Result<(), EstablishError> {
        let now = clock::now();
        match message {
            PeerMessage::Hello(hello) => self.on_hello(hello),
            PeerMessage::Candidate { candidate } => self.add_candidate(&candidate),
            PeerMessage::EndOfCandidates => self.agent.end_of_remote_candidates(now),
            PeerMessage::Report(report) => self.on_peer_report(report),
            PeerMessage::Bye {
                reason: ByeReason::Cancelled,
            } => return Err(EstablishError::PeerLeft),
            PeerMessage::Bye { reason } => {
                tracing::debug!(?reason, "the other side said goodbye");
                self.give_up_within(REPORT_WAIT);
            }
        }
        Ok(())
    }

    fn on_hello(&mut self, hello: Hello) {
        let now = clock::now();
        self.peer = Some(hello.fingerprint);
        let Hello { ufrag, pwd, .. } = hello;
        self.agent
            .set_remote_credentials(now, Credentials { ufrag, pwd });
        for candidate in &hello.candidates {
            self.add_candidate(candidate);
        }
        if hello.end_of_candidates {
            self.agent.end_of_remote_candidates(now);
        }
    }

    fn add_candidate(&mut self, line: &str) {
        match line.parse::<Candidate>() {
            Ok(candidate) => self.agent.add_remote_candidate(clock::now(), candidate),
            Err(error) => tracing::debug!(%error, "a candidate was left out"),
        }
    }

    /// The checks have failed: tell the peer what was seen here, and wait a moment to
    /// hear what was seen there.
    fn on_failed(&mut self, report: ice::Report) {
        self.tell(PeerMessage::Report(crate::explain::summary(&report)));
        self.report = Some(report);
        let wait = if self.peer_report.is_some() {
            Duration::ZERO
        } else {
            REPORT_WAIT
        };
        self.give_up = Some(clock::now() + wait);
    }

    fn on_peer_report(&mut self, report: Report) {
        self.peer_report = Some(report);
        let wait = if self.report.is_some() {
            Duration::ZERO
        } else {
            REPORT_WAIT
        };
        self.give_up = Some(clock::now() + wait);
    }

    /// Without signalling a connection can still be made if the peer's hello is here.
    fn on_signalling_lost(&mut self, cause: EstablishError) -> Result<(), EstablishError> {
        self.signalling = None;
        if self.peer.is_none() {
            return Err(cause);
        }
        self.give_up_within(FAREWELL_WAIT);
        Ok(())
    }

    /// Sets the deadline, unless there is one already.
    fn give_up_within(&mut self, wait: Duration) {
        self.give_up.get_or_insert_with(|| clock::now() + wait);
    }

    fn failure(&mut self) -> EstablishError {
        if self.report.is_none() && self.peer_report.is_none() {
            return EstablishError::PeerLeft;
        }
        let ours = self.report.take().unwrap_or_else(|| self.agent.report());
        EstablishError::NoPath(explain(
            &crate::explain::summary(&ours),
            self.peer_report.as_ref(),
        ))
    }
}

fn pair_of(path: &ice::Path) -> AddressPair {
    AddressPair {
        local: path.local,
        remote: path.remote,
    }
}

/// Opens a path at `address` and, once it carries data, closes the others.
fn switch_path(established: &Established, address: std::net::SocketAddr) {
    let Some(quic) = established.quic.upgrade() else {
        return;
    };
    let known = quic
        .path(noq::PathId::ZERO)
        .and_then(|path| path.remote_address().ok());
    if known == Some(address) {
        return;
    }
    let opening = quic.open_path_ensure(address, PathStatus::Available);
    let quic = established.quic.clone();
    tokio::spawn(async move {
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await;
        if let (Ok(Ok(path)), Some(quic)) = (opened, quic.upgrade()) {
            retire_older_paths(&quic, path.id());
        }
    });
}

fn retire_older_paths(quic: &noq::Connection, newest: noq::PathId) {
    for id in (0..u32::MAX)
        .map(noq::PathId::from)
        .take_while(|id| *id < newest)
    {
        if let Some(path) = quic.path(id) {
            let _ = path.close();
        }
    }
}

async fn next_signal(signalling: &mut Option<Signalling>) -> Option<RendezvousEvent> {
    match signalling {
        Some(signalling) => signalling.events.recv().await,
        None => pending().await,
    }
}

async fn finish(
    handshake: &mut Option<Handshake>,
) -> Result<noq::Connection, noq::ConnectionError> {
    match handshake {
        Some(handshake) => handshake.await,
        None => pending().await,
    }
}

async fn next_of_connection(established: &mut Option<Established>) -> Input {
    let Some(established) = established else {
        return pending().await;
    };
    tokio::select! {
        Some(event) = established.events.next() => Input::PathEvent(event),
        () = &mut established.closed => Input::Closed,
    }
}

async fn caller_gone(result: &mut Option<oneshot::Sender<Result<Connection, EstablishError>>>) {
    match result {
        Some(result) => result.closed().await,
        None => pending().await,
    }
}
