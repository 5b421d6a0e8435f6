//! The driver of one attempt at connecting to one peer, and of the paths afterwards.
//!
//! A session is a task. Each turn of its loop waits for one thing, hands it to the
//! [`Connector`], and does what the connector says. It holds no protocol decision.

mod commands;
mod error;
mod inputs;

use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use noq::{ConnectionError, PathEvent};
use postern_proto::Transmit;
use postern_proto::connect::{Connector, ConnectorConfig, Event, Relay};
use postern_proto::ice;
use postern_proto::signal::{RendezvousEvent, Secret};
use postern_wire::signal::{Code, Fingerprint, PeerMessage};
use postern_wire::transport::Transport;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::aside::{Aside, Said};
use crate::clock::{self, until};
use crate::connection::{Connection, PathFollower};
use crate::dialer::{Introducer, Meeting};
use crate::endpoint::{Attempt, Nat64, Shared};
use crate::explain::Explanation;
use crate::links::{Links, News};
use crate::mapped::Mapped;
use crate::net::{AddressPair, Late, Link, SessionId, StunDatagram, Unchannelled};
use crate::rendezvous::{Signalling, SignallingError};
use crate::tcp::{Tcp, TcpNews};

pub use error::EstablishError;

/// Datagrams of QUIC that wait to be framed by the session: those of the first round trip
/// through a relay.
const SLOW_QUEUE: usize = 64;

/// Datagrams that wait to be carried another way: some to begin with, and a ping is another one.
const LATE_QUEUE: usize = 16;

/// Datagrams of lost paths that are carried when another path has come into use: pings, and what
/// answers them.
const MAX_CARRIED: u32 = 12;

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
    aside: Aside,
    /// What QUIC sends on paths that are lost.
    late: mpsc::Receiver<Late>,
    /// The latest of that, as long as no path carries it.
    held: Option<Late>,
    /// How many more of these are carried.
    to_carry: u32,
    /// For meeting the peer again.
    secret: Option<Secret>,
    follower: PathFollower,
    events: PathEvents,
    closed: Closed,
    explanation: watch::Sender<Explanation>,
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
    tcp: Tcp,
    introducer: Introducer,
    hosts: watch::Receiver<Vec<SocketAddr>>,
    nat64: watch::Receiver<Nat64>,
    meeting: Option<Meeting>,
    handshakes: FuturesUnordered<Handshake>,
    openings: FuturesUnordered<Opening>,
    established: Option<Established>,
    /// Ports of the router that lead here: to the endpoint's socket, and to ours for TCP.
    mapped: Option<watch::Receiver<Mapped>>,
    mapped_tcp: Option<watch::Receiver<Mapped>>,
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
    Tcp(TcpNews),
    Mapped(Transport, Mapped),
    PathEvent(PathEvent),
    Said(Said),
    Late(Late),
    Met(Result<Signalling, SignallingError>),
    Addresses,
    Nat64,
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
        let mut hosts = shared.host_addresses();
        let inlets = shared.inlets().clone();
        let tcp = Tcp::listen(&shared.tcp_addresses(), shared.streams().clone(), inlets);
        let config = ConnectorConfig {
            is_creator,
            fingerprint: shared.fingerprint(),
            hosts: hosts.borrow_and_update().clone(),
            tcp_hosts: tcp.hosts().to_vec(),
            allow_loopback: shared.uses_loopback(),
            policy: shared.policy(),
            relay_transports: shared.relay_transports(),
            punch: shared.may_punch(),
            stun: shared.stun_servers(),
            disabled: shared.disabled(),
        };
        let mut connector = Connector::new(now, crate::entropy::seed()?, &config);
        let mut nat64 = shared.nat64();
        connector.set_nat64_prefix(now, nat64.borrow_and_update().prefix());
        let mapped = shared.mapped();
        let mapped_tcp = mapped.as_ref().and_then(|_| shared.mapped_tcp(tcp.hosts()));
        for (wanted, transport) in [(&mapped, Transport::Udp), (&mapped_tcp, Transport::Tcp)] {
            if wanted.is_some() {
                connector.expect_mapping(now, transport);
            }
        }
        Ok(Self {
            connector,
            mapped,
            mapped_tcp,
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
            links: Links::new(signalling.introducer.clone()),
            introducer: signalling.introducer,
            hosts,
            nat64,
            meeting: None,
            tcp,
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
                Input::Said(said) => self.on_said(said),
                Input::Late(late) => self.carry(late),
                Input::Met(met) => self.on_met(met),
                Input::Addresses => self.on_addresses(),
                Input::Nat64 => self.on_nat64(),
                Input::Unchannelled((path, payload)) => {
                    let (relayed, peer) = (path.local, path.remote);
                    let now = clock::now();
                    self.connector
                        .handle_relay_data(now, relayed, peer, &payload);
                }
                Input::Mapped(transport, mapped) => self.on_mapped(transport, mapped),
                Input::Link(News::Dialled(link, opened)) => self.on_dialled(link, opened),
                Input::Link(News::Input(input)) => self.on_link_input(input),
                Input::Tcp(news) => self.on_tcp(news),
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
            Ok(()) = self.hosts.changed() => Input::Addresses,
            Ok(()) = self.nat64.changed() => Input::Nat64,
            event = next_signal(&mut self.signals) => Input::Signal(event),
            met = next_meeting(&mut self.meeting) => Input::Met(met),
            () = caller_gone(&mut self.listener) => Input::Over,
            mapped = next_mapped(&mut self.mapped) => Input::Mapped(Transport::Udp, mapped),
            mapped = next_mapped(&mut self.mapped_tcp) => Input::Mapped(Transport::Tcp, mapped),
            news = self.links.next() => Input::Link(news),
            news = self.tcp.next() => Input::Tcp(news),
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

async fn next_meeting(meeting: &mut Option<Meeting>) -> Result<Signalling, SignallingError> {
    match meeting {
        Some(meeting) => meeting.await,
        None => pending().await,
    }
}

/// What becomes of the router's port, until nobody keeps it any longer.
async fn next_mapped(mapped: &mut Option<watch::Receiver<Mapped>>) -> Mapped {
    let Some(state) = mapped else {
        return pending().await;
    };
    match state.changed().await {
        Ok(()) => *state.borrow_and_update(),
        Err(_) => {
            *mapped = None;
            Mapped::Nowhere
        }
    }
}

async fn next_of_connection(established: &mut Option<Established>) -> Input {
    let Some(established) = established else {
        return pending().await;
    };
    tokio::select! {
        Some(event) = established.events.next() => Input::PathEvent(event),
        Some(said) = established.aside.heard() => Input::Said(said),
        Some(datagram) = established.late.recv() => Input::Late(datagram),
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
