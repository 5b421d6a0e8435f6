//! The driver of one attempt at connecting to one peer, and of the paths afterwards.
//!
//! A session is a task. Each turn of its loop waits for one thing, hands it to the
//! [`Connector`], and does what the connector says. It holds no protocol decision.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use noq::{ConnectionError, PathEvent, PathStatus};
use postern_proto::connect::{Connector, ConnectorConfig, Event, Failure, LinkId, Relay, Traffic};
use postern_proto::ice;
use postern_proto::signal::RendezvousEvent;
use postern_proto::{Datagram, Transmit};
use postern_wire::signal::{Code, Fingerprint, PeerMessage};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::clock::{self, until};
use crate::connection::{Connection, PathFollower};
use crate::endpoint::{Attempt, Shared};
use crate::explain::{explain, explain_relayed};
use crate::links::{Links, News};
use crate::net::{
    AddressPair, Found, Link, LinkInput, Opened, SessionId, StunDatagram, Train, Unchannelled,
};
use crate::quic;
use crate::rendezvous::{Signalling, SignallingError};

/// Handshakes that a peer may have under way at a time: it tries one path after the
/// other, and some of them may still be on their way.
const MAX_HANDSHAKES: usize = 4;

/// Datagrams of QUIC that wait to be framed by the session: those of the first round trip
/// through a relay.
const SLOW_QUEUE: usize = 64;

/// A path that is to be added to a connection opens within so long, or not at all.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// A STUN datagram that a full socket does not take within so long is dropped: checks are
/// repeated, and the others must not wait.
const SEND_TIMEOUT: Duration = Duration::from_millis(20);

/// The last words of a failed attempt may take so long to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// A relay is kept for so long after a connection, for the farewell to pass through it.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The paths of a connection outlive it by so much, so that its farewell, and the
/// repetition of it if the peer asks again, find their way.
const LINGER: Duration = Duration::from_secs(3);

/// Why there is no connection to the peer.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The rendezvous could not begin.
    #[error(transparent)]
    Signalling(#[from] SignallingError),
    /// The rendezvous failed.
    #[error(transparent)]
    Rendezvous(#[from] postern_proto::signal::Failure),
    /// The peer left before there was a connection.
    #[error("the other side went away before a connection was made")]
    PeerLeft,
    /// The server closed the connection before both sides were connected.
    #[error("the connection to the server was lost before the two sides were connected")]
    ServerLost,
    /// The two networks let no direct path through; the sentence says what they did.
    #[error("{0}")]
    NoPath(String),
    /// A path was found, but no encrypted connection could be made over it.
    #[error("a path was found, but no encrypted connection could be made over it")]
    Handshake,
    /// The session ended early, because the endpoint is being closed.
    #[error("the session ended before a connection was made")]
    Ended,
    /// Cryptography could not be set up.
    #[error("the encrypted connection could not be set up")]
    Crypto(#[from] rustls::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

impl From<Failure> for EstablishError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rendezvous(failure) => failure.into(),
            Failure::ServerLost => Self::ServerLost,
            Failure::PeerLeft | Failure::PeerSilent => Self::PeerLeft,
            Failure::NoPath {
                ours,
                theirs,
                relay,
                looked,
            } => Self::NoPath(match looked {
                true => explain(&ours, theirs.as_ref(), &relay),
                false => explain_relayed(&relay),
            }),
            Failure::Handshake => Self::Handshake,
        }
    }
}

/// Where the outcome of a session goes.
pub(crate) type Outcome = Result<Connection, EstablishError>;

type Handshake = Pin<Box<dyn Future<Output = Result<noq::Connection, ConnectionError>> + Send>>;
type Opening = Pin<Box<dyn Future<Output = (ice::Path, bool)> + Send>>;
type PathEvents = Pin<Box<dyn Stream<Item = PathEvent> + Send>>;
type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whom the session tells about its progress.
pub(crate) struct Listener {
    /// Gets the code, on the side that makes it.
    pub(crate) code: Option<oneshot::Sender<Code>>,
    /// Gets the connection, or why there is none.
    pub(crate) outcome: oneshot::Sender<Outcome>,
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
    connector: Connector,
    is_creator: bool,
    /// Gone once the mailbox is to be left.
    outgoing: Option<mpsc::Sender<PeerMessage>>,
    signals: Option<mpsc::Receiver<RendezvousEvent>>,
    listener: Option<Listener>,
    /// Until there is a connection, or will be none.
    attempt: Option<Attempt>,
    authenticated: std::time::Instant,
    /// Whose handshakes are welcome.
    accept: Option<Fingerprint>,
    /// A handshake that came before its sender was introduced.
    early: Option<noq::Incoming>,
    /// What QUIC sends through a relay before there is a channel.
    slow: (mpsc::Sender<Unchannelled>, mpsc::Receiver<Unchannelled>),
    relayed: Vec<Relay>,
    /// Sockets that are open in order to punch.
    punched: Vec<SocketAddr>,
    links: Links,
    handshakes: FuturesUnordered<Handshake>,
    openings: FuturesUnordered<Opening>,
    established: Option<Established>,
}

/// One thing that a session waited for.
enum Input {
    Signal(Option<RendezvousEvent>),
    Stun(Option<StunDatagram>),
    Incoming(Box<noq::Incoming>),
    Handshake(Result<noq::Connection, ConnectionError>),
    Opened(ice::Path, bool),
    Unchannelled(Unchannelled),
    Link(News),
    PathEvent(PathEvent),
    Timeout,
    /// The connection is over, or nobody waits for one any more.
    Over,
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
        let config = ConnectorConfig {
            is_creator,
            fingerprint: shared.fingerprint(),
            hosts: shared.host_addresses(),
            allow_loopback: shared.uses_loopback(),
            policy: shared.policy(),
            relay_transports: shared.relay_transports(),
            punch: shared.may_punch(),
        };
        Ok(Self {
            connector: Connector::new(now, crate::entropy::seed()?, &config),
            attempt: Some(shared.attempt()),
            shared,
            inbox,
            is_creator,
            outgoing: Some(signalling.outgoing),
            signals: Some(signalling.events),
            listener: Some(listener),
            authenticated: now,
            accept: None,
            early: None,
            slow: mpsc::channel(SLOW_QUEUE),
            relayed: Vec::new(),
            punched: Vec::new(),
            links: Links::new(signalling.introducer),
            handshakes: FuturesUnordered::new(),
            openings: FuturesUnordered::new(),
            established: None,
        })
    }

    /// Runs until the connection is over, or there is none.
    pub(crate) async fn run(mut self) {
        let result = self.drive().await;
        if self.established.is_some() {
            tokio::time::sleep(LAST_WORDS).await;
        }
        self.cancel().await;
        self.leave().await;
        if let (Err(error), Some(listener)) = (result, self.listener.take()) {
            let _ = listener.outcome.send(Err(error));
        }
        self.attempt = None;
        if self.established.is_some() {
            tokio::time::sleep(LINGER).await;
        }
        for relay in &self.relayed {
            self.shared.relays().close(relay.relayed);
        }
        self.shared.punched().close(&self.punched);
        self.shared.punch_budget().end(&self.inbox.id);
        self.shared.forget(self.inbox.id);
    }

    async fn drive(&mut self) -> Result<(), EstablishError> {
        loop {
            while let Some(transmit) = self.connector.poll_transmit() {
                send(&self.shared, &transmit).await;
            }
            while let Some((link, payload)) = self.connector.poll_link_output() {
                send_over(self.links.get(link), payload).await;
            }
            if let Some(event) = self.connector.poll_event() {
                // It may have made the connector say more.
                self.obey(event)?;
                continue;
            }
            match self.next_input().await {
                Input::Timeout => self.connector.handle_timeout(clock::now()),
                Input::Signal(event) => self.on_signal(event),
                Input::Stun(Some(datagram)) => self.on_stun(&datagram),
                Input::Incoming(incoming) => self.on_incoming(*incoming)?,
                Input::Handshake(result) => self.on_handshake(result),
                Input::Opened(path, worked) => {
                    self.connector
                        .handle_path_opened(clock::now(), path, worked);
                }
                Input::PathEvent(event) => self.on_path_event(&event),
                Input::Unchannelled((path, payload)) => {
                    let (relayed, peer) = (path.local, path.remote);
                    let now = clock::now();
                    self.connector
                        .handle_relay_data(now, relayed, peer, &payload);
                }
                Input::Link(News::Dialled(link, opened)) => self.on_dialled(link, opened),
                Input::Link(News::Input(input)) => self.on_link_input(input),
                Input::Stun(None) | Input::Over => return Ok(()),
            }
        }
    }

    /// What is urgent and rare comes first, what strangers can send comes last.
    async fn next_input(&mut self) -> Input {
        tokio::select! {
            biased;
            () = until(self.connector.poll_timeout()) => Input::Timeout,
            input = next_of_connection(&mut self.established) => input,
            Some(result) = self.handshakes.next() => Input::Handshake(result),
            Some((path, worked)) = self.openings.next() => Input::Opened(path, worked),
            event = next_signal(&mut self.signals) => Input::Signal(event),
            () = caller_gone(&mut self.listener) => Input::Over,
            news = self.links.next() => Input::Link(news),
            Some(datagram) = self.slow.1.recv() => Input::Unchannelled(datagram),
            Some(incoming) = self.inbox.incoming.recv() => Input::Incoming(Box::new(incoming)),
            datagram = self.inbox.stun.recv() => Input::Stun(datagram),
        }
    }

    /// The end, whatever came before: the peer is told if it still waits, and relays are
    /// given back.
    async fn cancel(&mut self) {
        self.connector.cancel(clock::now());
        while let Some(event) = self.connector.poll_event() {
            if let Event::Tell(message) = event {
                self.tell(message);
            }
        }
        while let Some((link, payload)) = self.connector.poll_link_output() {
            send_over(self.links.get(link), payload).await;
        }
        while let Some(transmit) = self.connector.poll_transmit() {
            send(&self.shared, &transmit).await;
        }
    }

    /// Leaves the mailbox, and waits until the last messages for the peer have left.
    async fn leave(&mut self) {
        self.outgoing = None;
        if let Some(mut signals) = self.signals.take() {
            let _ = timeout(FAREWELL, async { while signals.recv().await.is_some() {} }).await;
        }
    }
}

/// What the connector wants.
impl Session {
    fn obey(&mut self, event: Event) -> Result<(), EstablishError> {
        match event {
            Event::Tell(message) => self.tell(message),
            Event::CodeReady(code) => self.show(code),
            Event::Admit(path) => drop(self.admit(path)),
            Event::Revoke(path) => self.shared.paths().revoke(pair_of(path), self.inbox.id),
            Event::Accept(peer) => self.accept(peer)?,
            Event::Connect { path, peer } => self.connect(path, peer)?,
            Event::OpenPath(path) => self.open_path(path),
            Event::SettleOn(path) => self.settle_on(path),
            Event::Measure => self.measure(),
            Event::LeaveMailbox => self.outgoing = None,
            Event::OpenSockets {
                base,
                count,
                attempt,
            } => self.open_sockets(base, count, attempt),
            Event::CloseSockets(sockets) => self.close_sockets(&sockets),
            Event::AttemptEnded => self.shared.punch_budget().end(&self.inbox.id),
            Event::SendLimited { transmit, ttl } => self.send_limited(&transmit, ttl),
            Event::OpenLink {
                link,
                transport,
                server,
            } => {
                let dialer = self.shared.dialer();
                self.links.dial(dialer, link, transport, server);
            }
            Event::CloseLink(link) => self.links.close(link),
            Event::Relay(relay) => self.on_relay(relay),
            Event::RelayChannel {
                relayed,
                peer,
                channel,
            } => {
                self.shared.relays().set_channel(relayed, peer, channel);
            }
            Event::RelayData {
                relayed,
                peer,
                payload,
            } => {
                let pair = AddressPair {
                    local: relayed,
                    remote: peer,
                };
                let train = Train::of(pair, payload.into());
                self.shared.inlets().try_inject(train);
            }
            Event::RelayEnded(relayed) => {
                self.relayed.retain(|relay| relay.relayed != relayed);
                self.shared.relays().close(relayed);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    fn measure(&mut self) {
        let established = self.established.as_ref();
        if let Some(quic) = established.and_then(|established| established.quic.upgrade()) {
            let stats = quic.stats();
            let traffic = Traffic {
                sent: stats.udp_tx.datagrams,
                received: stats.udp_rx.datagrams,
            };
            self.connector.handle_traffic(clock::now(), traffic);
        }
    }

    fn open_sockets(&mut self, base: SocketAddr, count: usize, attempt: bool) {
        let now = clock::now();
        let allowed = !attempt || self.shared.punch_budget().begin(now, &self.inbox.id);
        let opened = allowed.then(|| {
            let inlets = self.shared.inlets();
            self.shared.punched().open(base.ip(), count, inlets)
        });
        let opened = opened.and_then(|opened| {
            opened
                .inspect_err(|error| tracing::debug!(%error, "sockets could not be opened"))
                .ok()
        });
        self.punched.extend(opened.iter().flatten());
        self.connector.handle_sockets_opened(now, opened);
    }

    fn close_sockets(&mut self, sockets: &[SocketAddr]) {
        self.punched.retain(|socket| !sockets.contains(socket));
        self.shared.punched().close(sockets);
    }

    fn send_limited(&self, transmit: &Transmit, ttl: u8) {
        if let Err(error) = self.shared.punched().send_limited(transmit, ttl) {
            tracing::debug!(%error, "a datagram with a low time to live was not sent");
        }
    }

    fn on_relay(&mut self, relay: Relay) {
        if let Some(link) = self.links.get(relay.link) {
            self.relayed.push(relay);
            let slow = self.slow.0.clone();
            self.shared.relays().open(relay.relayed, link, slow);
        }
    }

    fn tell(&self, message: PeerMessage) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        if outgoing.try_send(message).is_err() {
            tracing::debug!("signalling is gone or full, message dropped");
        }
    }

    fn show(&mut self, code: Code) {
        let listener = self
            .listener
            .as_mut()
            .and_then(|listener| listener.code.take());
        if let Some(listener) = listener {
            let _ = listener.send(code);
        }
    }

    /// Lets QUIC datagrams of this path through; yields the address QUIC knows it by.
    fn admit(&self, path: ice::Path) -> Option<SocketAddr> {
        let table = self.shared.paths();
        let address = table.admit(pair_of(path), self.inbox.id)?;
        if [path.local_kind, path.remote_kind].contains(&ice::CandidateKind::Relayed) {
            let mut relayed = self.relayed.iter();
            let ours = relayed.find(|relay| relay.relayed == path.local);
            table.mark_relayed(pair_of(path), ours.map(|relay| relay.transport));
        }
        let (technique, probes, sockets) = self.connector.technique(&path);
        let found = Found {
            technique,
            probes,
            sockets,
        };
        table.mark_found(pair_of(path), found);
        Some(address)
    }

    fn accept(&mut self, peer: Fingerprint) -> Result<(), EstablishError> {
        self.accept = Some(peer);
        match self.early.take() {
            Some(incoming) => self.on_incoming(incoming),
            None => Ok(()),
        }
    }

    fn connect(&mut self, path: ice::Path, peer: Fingerprint) -> Result<(), EstablishError> {
        self.handshakes.clear();
        let round_trip = self.connector.round_trip();
        let config = quic::client_config(self.shared.identity(), peer, round_trip)?;
        let Some(address) = self.admit(path) else {
            return Ok(());
        };
        let name = quic::server_name();
        match self.shared.quic().connect_with(config, address, name) {
            Ok(connecting) => self.handshakes.push(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "QUIC refused the path"),
        }
        Ok(())
    }

    fn open_path(&self, path: ice::Path) {
        let established = self.established.as_ref();
        let quic = established.and_then(|established| established.quic.upgrade());
        let (Some(quic), Some(address)) = (quic, self.admit(path)) else {
            return;
        };
        let opening = quic.open_path_ensure(address, PathStatus::Available);
        self.openings.push(Box::pin(async move {
            let opened = timeout(OPEN_TIMEOUT, opening).await;
            (path, matches!(opened, Ok(Ok(_))))
        }));
    }

    fn settle_on(&self, path: ice::Path) {
        let address = self.shared.paths().address_of(pair_of(path));
        if let (Some(established), Some(address)) = (&self.established, address) {
            established.follower.settle_on(address);
        }
    }
}

/// What the session waited for.
impl Session {
    fn on_signal(&mut self, event: Option<RendezvousEvent>) {
        let now = clock::now();
        match event {
            Some(event) => {
                if event == RendezvousEvent::Authenticated {
                    self.authenticated = now;
                }
                self.connector.handle_signal(now, event);
            }
            None => {
                self.signals = None;
                self.connector.handle_signalling_lost(now);
            }
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
        self.connector.handle_input(clock::now(), datagram);
    }

    fn on_dialled(&mut self, link: LinkId, opened: io::Result<Opened>) {
        let now = clock::now();
        match self.links.opened(link, opened, self.shared.inlets()) {
            Ok(Some(local)) => self.connector.handle_link_opened(now, link, local),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a relay cannot be reached");
                self.connector.handle_link_closed(now, link);
            }
        }
    }

    fn on_link_input(&mut self, input: LinkInput) {
        let now = clock::now();
        match input {
            LinkInput::Message(link, payload) => {
                self.connector.handle_link_input(now, link, &payload);
            }
            LinkInput::Closed(link) => {
                self.links.close(link);
                self.connector.handle_link_closed(now, link);
            }
        }
    }

    fn on_incoming(&mut self, incoming: noq::Incoming) -> Result<(), EstablishError> {
        let wanted = !self.is_creator && self.established.is_none();
        if !wanted || self.handshakes.len() >= MAX_HANDSHAKES {
            incoming.ignore();
            return Ok(());
        }
        let Some(peer) = self.accept else {
            self.early = Some(incoming);
            return Ok(());
        };
        let round_trip = self.connector.round_trip();
        let config = quic::server_config(self.shared.identity(), peer, round_trip)?;
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => self.handshakes.push(Box::pin(connecting)),
            Err(error) => tracing::debug!(%error, "an incoming handshake was dropped"),
        }
        Ok(())
    }

    fn on_handshake(&mut self, result: Result<noq::Connection, ConnectionError>) {
        let now = clock::now();
        match result {
            Ok(quic) => self.on_connected(quic),
            Err(error) => {
                tracing::debug!(%error, "a handshake failed");
                let is_final = !is_silence(&error);
                self.connector.handle_handshake_failed(now, is_final);
            }
        }
    }

    fn on_connected(&mut self, quic: noq::Connection) {
        let table = self.shared.paths().clone();
        let events = quic.path_events();
        let Some((follower, path)) = PathFollower::begin(&quic, table, self.authenticated) else {
            let now = clock::now();
            return self.connector.handle_handshake_failed(now, false);
        };
        let closed = quic.on_closed();
        self.established = Some(Established {
            quic: quic.weak_handle(),
            follower,
            events: Box::pin(events.filter_map(async |event| event.ok())),
            closed: Box::pin(async move { drop(closed.await) }),
        });
        self.handshakes.clear();
        self.attempt = None;
        self.connector.handle_connected(clock::now());
        if let Some(listener) = self.listener.take() {
            let _ = listener
                .outcome
                .send(Ok(Connection::new(quic, path, self.is_creator)));
        }
    }

    fn on_path_event(&mut self, event: &PathEvent) {
        let Some(established) = &mut self.established else {
            return;
        };
        if let Some(lost) = established.follower.on_event(event) {
            self.connector
                .handle_path_abandoned(lost.local, lost.remote);
        }
    }
}

/// Whether the peer did not answer, so that another path may help.
fn is_silence(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed
    )
}

async fn send(shared: &Shared, transmit: &Transmit) {
    let pair = AddressPair {
        local: transmit.local,
        remote: transmit.remote,
    };
    // An unreachable candidate is an ordinary thing: the check fails by itself.
    let _ = timeout(SEND_TIMEOUT, shared.send(pair, &transmit.payload)).await;
}

async fn send_over(link: Option<Arc<Link>>, payload: Vec<u8>) {
    if let Some(link) = link {
        // As above: what a full socket does not take is repeated.
        let _ = timeout(SEND_TIMEOUT, link.send(payload)).await;
    }
}

fn pair_of(path: ice::Path) -> AddressPair {
    AddressPair {
        local: path.local,
        remote: path.remote,
    }
}

async fn next_signal(
    signals: &mut Option<mpsc::Receiver<RendezvousEvent>>,
) -> Option<RendezvousEvent> {
    match signals {
        Some(signals) => signals.recv().await,
        None => pending().await,
    }
}

async fn next_of_connection(established: &mut Option<Established>) -> Input {
    let Some(established) = established else {
        return pending().await;
    };
    tokio::select! {
        Some(event) = established.events.next() => Input::PathEvent(event),
        () = &mut established.closed => Input::Over,
    }
}

/// Waits until nobody wants the connection any more.
async fn caller_gone(listener: &mut Option<Listener>) {
    match listener {
        Some(listener) => listener.outcome.closed().await,
        None => pending().await,
    }
}
