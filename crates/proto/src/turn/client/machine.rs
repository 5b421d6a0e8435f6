//! The client: its state, the five verbs, and what responses do.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    AlternateDomain, AlternateServer, AttributeType, Builder, Class, ErrorCode, Message, Method,
    TransactionId, UnknownAttributes, is_stun,
};
use postern_wire::turn::{ConnectionId, Lifetime, MobilityTicket};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::after;
use super::auth::Challenge;
use super::channels::Channels;
use super::config::{Config, MAX_REDIRECTS, Relay, Transport};
use super::connections::Connections;
use super::event::{Allocation, Event, Failure};
use super::message;
use super::peers::Permissions;
use super::requests::{Outstanding, Purpose, Requests};
use super::stream::Reassembly;
use super::timers::{Timer, Timers};
use crate::stun::random_transaction_id;
use crate::{Datagram, Transmit, Verdict};

/// How long after a NAT has given us another address, unasked, that may happen again.
const RECOVER_AGAIN: Duration = Duration::from_secs(60);
/// How many stale nonces in a row one request survives.
const MAX_STALE: u8 = 3;
/// The time between a refresh and the end of the allocation: more than the 39.5 s that the
/// refresh may take.
const MARGIN: Duration = Duration::from_secs(60);
/// When to look again whether the server has moved the allocation.
const MOVING: Duration = Duration::from_secs(1);
/// When to refresh again after the server failed for the moment.
const RETRY: Duration = Duration::from_secs(5);

/// One allocation at one TURN server.
pub struct Client {
    pub(super) config: Config,
    pub(super) rng: ChaCha20Rng,
    state: State,
    challenge: Option<Arc<Challenge>>,
    /// The challenge was told beforehand, and the server has not answered yet.
    foretold: bool,
    pub(super) requests: Requests,
    pub(super) timers: Timers,
    stream: Reassembly,
    pub(super) permissions: Permissions,
    pub(super) channels: Channels,
    pub(super) connections: Connections,
    /// Datagrams whose permission is being asked for.
    pub(super) waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) events: VecDeque<Event>,
    pub(super) transmits: VecDeque<Transmit>,
    /// The servers that were asked so far.
    visited: BTreeSet<SocketAddr>,
    recovered: Option<Instant>,
}

enum State {
    Allocating,
    /// [`Client::close`] was called while an answer may be under way: what it gives goes back.
    ClosingEarly,
    /// The driver makes a transport to this server.
    Redirected(SocketAddr),
    Allocated {
        allocation: Allocation,
        ticket: Option<Vec<u8>>,
    },
    Closing,
    Ended,
}

impl Client {
    /// A client that asks for an allocation at once. Transaction ids come from the seed, so it
    /// must be secret and used once.
    #[must_use]
    pub fn new(now: Instant, seed: [u8; 32], config: Config) -> Self {
        let mut client = Self {
            rng: ChaCha20Rng::from_seed(seed),
            state: State::Allocating,
            challenge: None,
            foretold: false,
            requests: Requests::default(),
            timers: Timers::default(),
            stream: Reassembly::default(),
            permissions: Permissions::default(),
            channels: Channels::default(),
            connections: Connections::default(),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            visited: BTreeSet::from([config.server]),
            recovered: None,
            config,
        };
        client.foretell();
        client.allocate(now);
        client
    }

    /// Reads the challenge that was told beforehand; one that makes no sense is left out.
    fn foretell(&mut self) {
        let foretold = self.config.challenge.take();
        if let (Some(bytes), Some(credentials)) = (foretold, &self.config.credentials)
            && let Ok(message) = Message::parse(&bytes)
            && let Ok(challenge) = Challenge::read(&message, credentials, None)
        {
            self.challenge = Some(Arc::new(challenge));
            self.foretold = true;
        }
    }

    /// The allocation, while there is one.
    #[must_use]
    pub fn allocation(&self) -> Option<&Allocation> {
        match &self.state {
            State::Allocated { allocation, .. } => Some(allocation),
            State::Allocating
            | State::ClosingEarly
            | State::Redirected(_)
            | State::Closing
            | State::Ended => None,
        }
    }

    /// The relayed address that peers of this family see: the `local` of what goes to them and
    /// comes from them.
    #[must_use]
    pub fn relayed_for(&self, peer: IpAddr) -> Option<SocketAddr> {
        let allocation = self.allocation()?;
        let relayed = [Some(allocation.relayed), allocation.additional];
        let same = |relayed: &SocketAddr| relayed.is_ipv4() == peer.to_canonical().is_ipv4();
        relayed.into_iter().flatten().find(same)
    }

    /// The server that is asked: another one after a redirection.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.config.server
    }

    /// Our address.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.config.local
    }

    /// Says that the transport asked for by [`Event::Redirected`] is there; `local` is its
    /// own address. Does nothing otherwise.
    pub fn reconnected(&mut self, now: Instant, local: SocketAddr) {
        if let State::Redirected(server) = self.state {
            self.config.local = local;
            self.config.server = server;
            self.challenge = None;
            self.stream = Reassembly::default();
            self.state = State::Allocating;
            self.allocate(now);
        }
    }

    /// Says that our address has changed to `local`, over a new transport to the same server
    /// if it is a stream or DTLS. [`Event::Moved`] follows if the server agrees, else
    /// [`Event::Failed`]; before that, data is lost.
    pub fn moved(&mut self, now: Instant, local: SocketAddr) {
        self.transmits.clear();
        match &self.state {
            State::Allocating => {
                self.forget_requests(local);
                self.allocate(now);
            }
            State::Allocated {
                ticket: Some(_), ..
            } => {
                self.forget_requests(local);
                self.ask(now, Purpose::Move);
            }
            State::Allocated { .. } => self.fail(Failure::Immobile),
            State::Redirected(_) | State::Ended => {}
            State::ClosingEarly | State::Closing => self.finish(Event::Closed),
        }
    }

    /// Says that the connection to the server is gone. The allocation goes with it, unless
    /// [`moved`](Self::moved) is called instead.
    pub fn disconnected(&mut self) {
        match self.state {
            State::Allocating | State::Allocated { .. } => self.fail(Failure::TimedOut),
            State::ClosingEarly | State::Closing => self.finish(Event::Closed),
            State::Redirected(_) | State::Ended => {}
        }
    }

    /// Refreshes the allocation now, unless that is under way: [`Event::Failed`] follows if the
    /// server does not know it any more, or cannot be reached.
    pub fn refresh(&mut self, now: Instant) {
        if self.allocation().is_some() {
            self.ask(now, Purpose::Refresh);
        }
    }

    /// Ends the allocation at the server, so that it counts for nobody's quota any longer.
    /// [`Event::Closed`] follows within seconds, or 40 when the server has not answered yet.
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Allocated { .. } => {
                self.forget();
                self.state = State::Closing;
                self.ask(now, Purpose::Delete);
            }
            State::Allocating => self.state = State::ClosingEarly,
            State::Redirected(_) => self.finish(Event::Closed),
            State::ClosingEarly | State::Closing | State::Ended => {}
        }
    }

    /// Asks the server at once whether the allocation is still there, with a refresh. What comes
    /// of it is as always: nothing, or [`Event::Failed`].
    pub fn verify(&mut self, now: Instant) {
        if self.allocation().is_some() {
            self.timers.set(Timer::Refresh, now);
            self.handle_timeout(now);
        }
    }

    /// Takes a datagram, or a piece of a stream, from the server. [`Verdict::NotMine`] if it
    /// is something else, such as an answer of the server to another machine.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if datagram.remote != self.config.server || matches!(self.state, State::Ended) {
            return Verdict::NotMine;
        }
        if datagram.local != self.config.local {
            let verdict = self.on_unbound_input(now, &datagram);
            return verdict.unwrap_or(Verdict::NotMine);
        }
        match self.config.transport {
            Transport::Datagram => self.on_message(now, &datagram),
            Transport::Stream => self.on_stream(now, &datagram),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.requests.handle_timeout(now);
        while let Some(purpose) = self.requests.poll_expired() {
            self.on_refused(now, purpose, Failure::TimedOut);
        }
        while let Some(timer) = self.timers.due(now) {
            self.on_timer(now, timer);
        }
    }

    /// The next datagram, or piece of a stream, to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let request = self.requests.poll_transmit();
        request.or_else(|| self.transmits.pop_front())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.requests.timeout(), self.timers.next()];
        times.into_iter().flatten().min()
    }

    fn allocate(&mut self, now: Instant) {
        let stream = self.config.transport == Transport::Stream;
        if self.config.relay == Relay::Tcp && !stream {
            self.fail(Failure::NeedsStream);
        } else {
            self.ask(now, Purpose::Allocate);
        }
    }

    /// Sends a request unless one for the same purpose waits.
    pub(super) fn ask(&mut self, now: Instant, purpose: Purpose) {
        self.ask_again(now, purpose, 0);
    }

    fn ask_again(&mut self, now: Instant, purpose: Purpose, stale: u8) {
        // Until the server has moved the allocation it takes no other request from here.
        if self.requests.is_busy(purpose) || self.requests.is_busy(Purpose::Move) {
            return;
        }
        let id = random_transaction_id(&mut self.rng);
        let Some((local, request)) = self.request(purpose, id) else {
            return;
        };
        let payload = match &self.challenge {
            Some(challenge) => challenge.seal(request),
            None => request.build(),
        };
        let outstanding = Outstanding {
            purpose,
            local,
            challenge: self.challenge.clone(),
            stale,
        };
        let way = (self.config.server, self.config.transport);
        self.requests.start(now, id, outstanding, way, payload);
    }

    /// Where a request leaves from, and what it says.
    fn request(&self, purpose: Purpose, id: TransactionId) -> Option<(SocketAddr, Builder)> {
        let request = |method| Builder::new(Class::Request, method, id);
        let message = match purpose {
            Purpose::Allocate => message::allocate(&self.config, id),
            Purpose::Refresh => message::refresh(&self.config, id),
            Purpose::Move => {
                message::refresh(&self.config, id).attribute(&MobilityTicket(self.ticket()?))
            }
            Purpose::Delete => message::delete(id),
            Purpose::Permit(ip) => {
                message::about(Method::CREATE_PERMISSION, id, self.permission_peer(ip))
            }
            Purpose::Bind(number) => {
                let peer = self.channels.peer_of(number)?;
                message::about(Method::CHANNEL_BIND, id, peer).attribute(&number)
            }
            Purpose::Connect(peer) => message::about(Method::CONNECT, id, peer),
            Purpose::BindConnection(connection) => {
                let request = request(Method::CONNECTION_BIND).attribute(&connection);
                return Some((self.connections.local_of(connection)?, request));
            }
        };
        Some((self.config.local, message))
    }

    fn ticket(&self) -> Option<&[u8]> {
        match &self.state {
            State::Allocated { ticket, .. } => ticket.as_deref(),
            State::Allocating
            | State::ClosingEarly
            | State::Redirected(_)
            | State::Closing
            | State::Ended => None,
        }
    }

    fn on_stream(&mut self, now: Instant, datagram: &Datagram<'_>) -> Verdict {
        self.stream.push(datagram.payload);
        while !matches!(self.state, State::Ended | State::Redirected(_)) {
            match self.stream.next() {
                Ok(Some(message)) => {
                    let payload = &message;
                    self.on_message(
                        now,
                        &Datagram {
                            payload,
                            ..*datagram
                        },
                    );
                }
                Ok(None) => break,
                Err(_) => self.fail(Failure::Malformed),
            }
        }
        Verdict::Consumed
    }

    fn on_message(&mut self, now: Instant, datagram: &Datagram<'_>) -> Verdict {
        if let Some(0x40..=0x4f) = datagram.payload.first() {
            return self.on_channel_data(now, datagram.payload);
        }
        if !is_stun(datagram.payload) {
            return Verdict::NotMine;
        }
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        match (message.class(), message.method()) {
            (Class::Success | Class::Error, _) => return self.on_response(now, datagram),
            (Class::Indication, Method::DATA) => self.on_data_indication(now, &message),
            (Class::Indication, Method::CONNECTION_ATTEMPT) => self.on_attempt(now, &message),
            (Class::Indication | Class::Request, _) => return Verdict::NotMine,
        }
        Verdict::Consumed
    }

    /// A response to one of our requests. One that is not signed as it must be is dropped as
    /// if it had never come (RFC 8489 section 9.2.5).
    pub(super) fn on_response(&mut self, now: Instant, datagram: &Datagram<'_>) -> Verdict {
        let Ok(message) = Message::parse(datagram.payload) else {
            return Verdict::NotMine;
        };
        let Some((id, outstanding)) = self.requests.find(datagram) else {
            return Verdict::NotMine;
        };
        let outstanding = outstanding.clone();
        let code = message.get::<ErrorCode<'_>>().ok().flatten();
        let code = code.map(|error| error.code());
        let challenge = outstanding.challenge.as_ref();
        let signed = challenge.is_none_or(|challenge| challenge.has_signed(&message));
        match (message.class(), code) {
            (Class::Success, _) if signed => {
                self.requests.end(id);
                self.on_success(now, outstanding.purpose, &message);
            }
            // Who cannot authenticate us cannot sign.
            (Class::Error, Some(code)) if signed || matches!(code, 400 | 401 | 438) => {
                self.requests.end(id);
                self.on_error(now, &outstanding, code, &message);
            }
            _ => tracing::debug!("dropped a response that is not authentic or not understood"),
        }
        Verdict::Consumed
    }

    fn on_success(&mut self, now: Instant, purpose: Purpose, message: &Message<'_>) {
        self.foretold = false;
        let unknown = message.unknown_comprehension_required(&message::KNOWN);
        if !unknown.is_empty() {
            self.on_refused(now, purpose, Failure::Malformed);
            return;
        }
        match purpose {
            Purpose::Allocate => self.on_allocated(now, message),
            Purpose::Refresh => self.on_refreshed(now, message),
            Purpose::Move => self.on_moved(now, message),
            Purpose::Delete => self.finish(Event::Closed),
            Purpose::Permit(ip) => self.on_permitted(now, ip),
            Purpose::Bind(number) => self.on_channel_bound(now, number),
            Purpose::Connect(peer) => self.on_connected(now, peer, message),
            Purpose::BindConnection(id) => self.on_connection_bound(id),
        }
    }

    fn on_allocated(&mut self, now: Instant, message: &Message<'_>) {
        let Some(allocation) = message::read_allocation(message) else {
            self.fail(Failure::Malformed);
            return;
        };
        if matches!(self.state, State::ClosingEarly) {
            self.state = State::Closing;
            self.ask(now, Purpose::Delete);
            return;
        }
        self.keep_until(now, allocation.lifetime);
        self.events.push_back(Event::Allocated(allocation.clone()));
        self.state = State::Allocated {
            allocation,
            ticket: ticket(message).filter(|_| self.config.mobility),
        };
    }

    fn on_refreshed(&mut self, now: Instant, message: &Message<'_>) {
        if let State::Allocated { ticket: known, .. } = &mut self.state
            && known.is_some()
            && let Some(new) = ticket(message)
        {
            *known = Some(new);
        }
        match message.get::<Lifetime>() {
            Ok(Some(Lifetime(0))) => self.fail(Failure::Expired),
            Ok(Some(lifetime)) => self.keep_until(now, lifetime.duration()),
            Ok(None) | Err(_) => self.timers.set(Timer::Refresh, after(now, RETRY)),
        }
    }

    fn on_moved(&mut self, now: Instant, message: &Message<'_>) {
        self.on_refreshed(now, message);
        if self.allocation().is_some() {
            self.events.push_back(Event::Moved);
            self.ask_permissions_again(now);
            self.ask_channels_again(now);
        }
    }

    /// Refreshes well before the end, not in step with other clients.
    fn keep_until(&mut self, now: Instant, lifetime: Duration) {
        let half = lifetime.checked_div(2).unwrap_or(lifetime);
        let jitter = lifetime.checked_div(20).unwrap_or(lifetime).min(MARGIN);
        let permille = self.rng.next_u32() & 0x3ff;
        let jitter = jitter.saturating_mul(permille).checked_div(1024);
        let margin = MARGIN.saturating_add(jitter.unwrap_or_default()).min(half);
        let refresh = after(now, lifetime.saturating_sub(margin));
        self.timers.set(Timer::Refresh, refresh);
        self.timers.set(Timer::Expiry, after(now, lifetime));
    }

    fn on_error(
        &mut self,
        now: Instant,
        outstanding: &Outstanding,
        code: u16,
        message: &Message<'_>,
    ) {
        let purpose = outstanding.purpose;
        if matches!(self.state, State::ClosingEarly) {
            self.finish(Event::Closed);
            return;
        }
        match code {
            401 | 438 => match self.answer(outstanding, code, message) {
                Ok(challenge) => {
                    self.foretold = false;
                    self.challenge = Some(Arc::new(challenge));
                    let stale = outstanding.stale.saturating_add(u8::from(code == 438));
                    self.ask_again(now, purpose, stale);
                }
                Err(failure) => self.on_refused(now, purpose, failure),
            },
            300 if purpose == Purpose::Allocate => self.on_redirected(message),
            405 | 420 if purpose == Purpose::Allocate && self.ask_for_less(code, message) => {
                self.allocate(now);
            }
            _ => self.on_refused(now, purpose, Failure::from_code(code)),
        }
    }

    /// The answer to a challenge, unless it has been tried.
    fn answer(
        &self,
        outstanding: &Outstanding,
        code: u16,
        message: &Message<'_>,
    ) -> Result<Challenge, Failure> {
        let credentials = self.config.credentials.as_ref();
        let credentials = credentials.ok_or(Failure::NoCredentials)?;
        if code == 401 && outstanding.challenge.is_some() && !self.foretold {
            return Err(Failure::Unauthenticated);
        }
        if outstanding.stale >= MAX_STALE {
            return Err(Failure::StaleNonce);
        }
        // What was only foretold binds nobody.
        let previous = outstanding.challenge.as_deref().filter(|_| !self.foretold);
        Challenge::read(message, credentials, previous)
    }

    /// Whether an optional wish was what the server refused; it is dropped.
    fn ask_for_less(&mut self, code: u16, message: &Message<'_>) -> bool {
        let wish = if code == 405 {
            &mut self.config.mobility
        } else {
            let unknown = message.get::<UnknownAttributes>().ok().flatten();
            let unknown = unknown.unwrap_or_default();
            let refused = unknown.as_slice().contains(&AttributeType::DONT_FRAGMENT);
            if !refused {
                return false;
            }
            &mut self.config.dont_fragment
        };
        std::mem::take(wish)
    }

    /// RFC 8489 section 10: another server of the same family that was not asked yet.
    fn on_redirected(&mut self, message: &Message<'_>) {
        let server = message.get::<AlternateServer>().ok().flatten();
        let domain = message.get::<AlternateDomain<'_>>().ok().flatten();
        let visited = &mut self.visited;
        let usable = |server: &SocketAddr| {
            server.is_ipv4() == self.config.server.is_ipv4()
                && server.port() != 0
                && !server.ip().is_unspecified()
                && !server.ip().is_multicast()
                && visited.len() <= MAX_REDIRECTS
        };
        match server.map(|AlternateServer(server)| server).filter(usable) {
            Some(server) if visited.insert(server) => {
                let domain = domain.map(|domain| domain.as_str().to_owned());
                self.state = State::Redirected(server);
                self.events.push_back(Event::Redirected { server, domain });
            }
            Some(_) | None => self.fail(Failure::BadRedirect),
        }
    }

    /// A request was refused, or not answered.
    fn on_refused(&mut self, now: Instant, purpose: Purpose, failure: Failure) {
        let forgotten = failure == Failure::AllocationMismatch;
        match purpose {
            Purpose::Delete => self.finish(Event::Closed),
            Purpose::Allocate | Purpose::Move => self.fail(failure),
            _ if forgotten && self.allocation().is_some() => self.recover(now),
            Purpose::Refresh => self.on_refresh_refused(now, failure),
            Purpose::Permit(ip) => self.on_permission_refused(now, ip, failure),
            Purpose::Bind(number) => self.on_channel_refused(now, number, failure),
            Purpose::Connect(peer) => self.on_connect_refused(now, peer, failure),
            Purpose::BindConnection(id) => self.on_connection_failed(id, failure),
        }
    }

    /// The server does not know us any longer. Perhaps a NAT has forgotten our mapping and made
    /// another one: with a ticket the allocation moves there.
    fn recover(&mut self, now: Instant) {
        let again = |at: Instant| now < after(at, RECOVER_AGAIN);
        if self.ticket().is_none() || self.recovered.is_some_and(again) {
            self.fail(Failure::AllocationMismatch);
            return;
        }
        self.recovered = Some(now);
        self.forget_requests(self.config.local);
        self.ask(now, Purpose::Move);
    }

    /// The allocation lives on until it expires: what may pass is tried again.
    fn on_refresh_refused(&mut self, now: Instant, failure: Failure) {
        let passes = [
            Failure::ServerError,
            Failure::NoCapacity,
            Failure::Malformed,
        ];
        if failure == Failure::TimedOut {
            self.ask(now, Purpose::Refresh);
        } else if passes.contains(&failure) {
            self.timers.set(Timer::Refresh, after(now, RETRY));
        } else {
            self.fail(failure);
        }
    }

    fn on_timer(&mut self, now: Instant, timer: Timer) {
        let moving = self.requests.is_busy(Purpose::Move);
        match timer {
            Timer::Refresh | Timer::Permission(_) | Timer::Channel(_) if moving => {
                self.timers.set(timer, after(now, MOVING));
            }
            Timer::Refresh => self.ask(now, Purpose::Refresh),
            Timer::Expiry => self.fail(Failure::Expired),
            Timer::Permission(ip) => self.on_permission_timer(now, ip),
            Timer::Channel(number) => self.on_channel_timer(now, number),
            Timer::Connect(peer) => self.on_connect_timer(peer),
            Timer::Connection(id) => self.on_connection_late(id),
        }
    }

    fn on_connection_late(&mut self, id: ConnectionId) {
        self.on_connection_failed(id, Failure::TimedOut);
    }

    pub(super) fn transmit(&self, payload: Vec<u8>) -> Transmit {
        Transmit {
            local: self.config.local,
            remote: self.config.server,
            payload,
        }
    }

    fn forget_requests(&mut self, local: SocketAddr) {
        self.requests.clear();
        if local != self.config.local {
            self.stream = Reassembly::default();
        }
        self.config.local = local;
    }

    fn fail(&mut self, failure: Failure) {
        let closing = matches!(self.state, State::ClosingEarly | State::Closing);
        self.finish(if closing {
            Event::Closed
        } else {
            Event::Failed(failure)
        });
    }

    fn finish(&mut self, end: Event) {
        self.forget();
        self.transmits.clear();
        self.state = State::Ended;
        self.events.push_back(end);
    }

    /// Drops all that belongs to the allocation.
    fn forget(&mut self) {
        self.requests.clear();
        self.timers.clear_all();
        self.permissions = Permissions::default();
        self.channels = Channels::default();
        self.connections = Connections::default();
        self.waiting.clear();
    }
}

fn ticket(message: &Message<'_>) -> Option<Vec<u8>> {
    let MobilityTicket(ticket) = message.get().ok().flatten()?;
    (!ticket.is_empty()).then(|| ticket.to_vec())
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.config.server)
            .field("allocation", &self.allocation())
            .finish_non_exhaustive()
    }
}
