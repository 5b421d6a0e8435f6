//! The client of the mailbox protocol.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use postern_wire::signal::{
    ClientMessage, CloseReason, Code, Envelope, ErrorKind, PURPOSE_TRANSFER, ParseError,
    PeerMessage, RelayServer, ServerMessage, VERSION, WORDS_PER_CODE, word_list,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use super::exchange::{ExchangeError, KeyExchange, Keys, Role, Secret};
use super::failure::{Failure, ProtocolError, SendError, Wait};
use super::limits::later;

/// Most messages that wait for the key: a hello and every candidate one by one, twice.
const MAX_QUEUED: usize = 128;

/// Most sealed messages that may overtake the confirmation; an honest server keeps the
/// order, so there are none.
const MAX_EARLY: usize = 16;

/// Settings of a [`Rendezvous`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RendezvousConfig {
    /// What the connection is for; both sides must say the same. Default
    /// [`PURPOSE_TRANSFER`].
    pub purpose: String,
    /// How long the creator waits for the other side. Default 10 minutes.
    pub wait: Duration,
    /// How long the server may take to answer, and the other side to prove itself once
    /// it is there. Default 10 s.
    pub reply_timeout: Duration,
    /// How often the server is asked whether it is still there; a connection without
    /// any answer from one time to the next has failed. Default 20 s.
    pub keepalive: Duration,
}

impl Default for RendezvousConfig {
    fn default() -> Self {
        Self {
            purpose: PURPOSE_TRANSFER.to_owned(),
            wait: Duration::from_secs(600),
            reply_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(20),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server greeted.
    Welcome {
        /// Its STUN servers as URIs; `postern_wire::signal::stun_address` reads one.
        stun: Vec<String>,
    },
    /// The creator has a code to show.
    CodeReady(Code),
    /// The server offers relays for this meeting.
    Relays(Vec<RelayServer>),
    /// Both sides are in the mailbox.
    PeerJoined,
    /// The other side has proved that it knows the words.
    Authenticated,
    /// The other side, authenticated, says this.
    Message(PeerMessage),
    /// The other side closed the mailbox after both had authenticated each other. The
    /// machine is inert.
    Closed,
    /// It failed. The machine is inert.
    Failed(Failure),
}

/// One side of a rendezvous, over one connection to the server.
///
/// Make it when the connection stands. After [`Event::Failed`] and [`Event::Closed`] it
/// is inert: send what [`Rendezvous::poll_transmit`] still yields and end the connection.
///
/// The sealing keys, the seed, the shared secret and opened messages are overwritten when
/// they are dropped; what `spake2`, `hmac` and the generator hold is freed as it is.
pub struct Rendezvous {
    config: RendezvousConfig,
    role: Role,
    rng: ChaCha20Rng,
    code: Option<Code>,
    /// In place of a code, with those who meet again.
    secret: Option<Secret>,
    state: State,
    welcomed: bool,
    /// The server has offered relays, or none.
    offered: bool,
    /// Waits for the key.
    queue: VecDeque<PeerMessage>,
    /// Waits for the confirmation.
    early: Vec<Vec<u8>>,
    deadline: Option<(Instant, Wait)>,
    ping_at: Instant,
    pong_missing: bool,
    transmits: VecDeque<String>,
    events: VecDeque<Event>,
}

enum State {
    /// Waits for the server's answer to the allocate or the join.
    Asking,
    /// Waits for the other side to join.
    Waiting(KeyExchange),
    /// Waits for the other side's key exchange.
    Exchanging(KeyExchange),
    /// Waits for the other side's confirmation.
    Confirming(Box<Keys>),
    /// Both sides are authenticated.
    Open(Box<Keys>),
    /// Inert.
    Ended,
}

impl Rendezvous {
    /// Asks for a mailbox and makes a code for it.
    #[must_use]
    pub fn create(now: Instant, seed: [u8; 32], config: RendezvousConfig) -> Self {
        let mut this = Self::new(now, seed, Role::Creator, None, config);
        this.transmit(&ClientMessage::Allocate);
        this
    }

    /// Joins the mailbox of a code.
    #[must_use]
    pub fn join(now: Instant, seed: [u8; 32], code: Code, config: RendezvousConfig) -> Self {
        let mut this = Self::new(now, seed, Role::Joiner, Some(code), config);
        this.transmit(&ClientMessage::Join {
            mailbox: code.mailbox(),
        });
        this
    }

    /// Meets the other side again, with whom this one has a secret in common. Both say so, in
    /// either order; [`RendezvousConfig::wait`] bounds how long the other one may take.
    #[must_use]
    pub fn again(
        now: Instant,
        seed: [u8; 32],
        role: Role,
        secret: Secret,
        config: RendezvousConfig,
    ) -> Self {
        let mut this = Self::new(now, seed, role, None, config);
        this.deadline = Some((later(now, this.config.wait), Wait::Peer));
        if let Some(token) = secret.token() {
            this.transmit(&ClientMessage::Meet {
                token: token.to_vec(),
                creator: role == Role::Creator,
            });
        }
        this.secret = Some(secret);
        this
    }

    fn new(
        now: Instant,
        seed: [u8; 32],
        role: Role,
        code: Option<Code>,
        config: RendezvousConfig,
    ) -> Self {
        let seed = Zeroizing::new(seed);
        Self {
            role,
            rng: ChaCha20Rng::from_seed(*seed),
            code,
            secret: None,
            state: State::Asking,
            welcomed: false,
            offered: false,
            queue: VecDeque::new(),
            early: Vec::new(),
            deadline: Some((later(now, config.reply_timeout), Wait::Server)),
            ping_at: later(now, config.keepalive),
            pong_missing: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Which side this is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Whether the other side has proved that it knows the words, and the mailbox is open.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether the machine is inert.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Sends a message to the other side: at once if there is a key, otherwise as soon
    /// as there is one.
    ///
    /// # Errors
    /// [`SendError`]; the message is dropped.
    pub fn send(&mut self, message: PeerMessage) -> Result<(), SendError> {
        if self.is_ended() {
            return Err(SendError::Closed);
        }
        if self.queue.len() >= MAX_QUEUED {
            return Err(SendError::Full);
        }
        message.check()?;
        self.queue.push_back(message);
        self.flush();
        Ok(())
    }

    /// Closes the mailbox for both sides, after what was sent with the key; what still
    /// waits for one is dropped. The machine is inert afterwards.
    pub fn close(&mut self) {
        if !self.is_ended() {
            self.transmit(&ClientMessage::Close);
            self.end();
        }
    }

    /// Takes a text frame of the server.
    pub fn handle_input(&mut self, now: Instant, frame: &[u8]) {
        if self.is_ended() {
            return;
        }
        self.pong_missing = false;
        match ServerMessage::parse(frame) {
            Ok(message) => self.on_message(now, message),
            Err(error) => self.fail_protocol(error),
        }
    }

    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_ended() {
            return;
        }
        if let Some((deadline, wait)) = self.deadline
            && now >= deadline
        {
            self.fail(Failure::TimedOut(wait));
        } else if now >= self.ping_at {
            self.on_keepalive(now);
        }
    }

    /// The next text frame for the server.
    pub fn poll_transmit(&mut self) -> Option<String> {
        self.transmits.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Rendezvous::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (&self.state, self.deadline) {
            (State::Ended, _) => None,
            (_, Some((deadline, _))) => Some(deadline.min(self.ping_at)),
            (_, None) => Some(self.ping_at),
        }
    }

    fn on_message(&mut self, now: Instant, message: ServerMessage) {
        if let ServerMessage::Welcome { version, stun } = message {
            return self.on_welcome(version, stun);
        }
        match message {
            ServerMessage::Error { kind, .. } => self.fail_refused(kind),
            ServerMessage::Closed { reason } => self.on_closed(reason),
            ServerMessage::Pong => {}
            _ if !self.welcomed => self.fail_protocol(ProtocolError::Unexpected),
            ServerMessage::Mailbox { mailbox } => self.on_mailbox(now, mailbox),
            ServerMessage::Joined => self.on_joined(now),
            ServerMessage::Relays { relays } => self.on_relays(relays),
            ServerMessage::Message { body } => self.on_body(&body),
            ServerMessage::Welcome { .. } => {}
        }
    }

    fn on_welcome(&mut self, version: u32, stun: Vec<String>) {
        if version != VERSION {
            self.fail_protocol(ProtocolError::Version { theirs: version });
        } else if mem::replace(&mut self.welcomed, true) {
            self.fail_protocol(ProtocolError::Unexpected);
        } else {
            self.events.push_back(Event::Welcome { stun });
        }
    }

    fn on_relays(&mut self, relays: Vec<RelayServer>) {
        if mem::replace(&mut self.offered, true) {
            return self.fail_protocol(ProtocolError::Unexpected);
        }
        self.events.push_back(Event::Relays(relays));
    }

    fn on_mailbox(&mut self, now: Instant, mailbox: u32) {
        let (State::Asking, Role::Creator) = (&self.state, self.role) else {
            return self.fail_protocol(ProtocolError::Unexpected);
        };
        let Ok(code) = Code::new(mailbox, pick_words(&mut self.rng)) else {
            return self.fail_protocol(ProtocolError::Unexpected);
        };
        let exchange = self.start_exchange(&code);
        self.put(Envelope::KeyExchange(exchange.share()));
        self.state = State::Waiting(exchange);
        self.deadline = Some((later(now, self.config.wait), Wait::Peer));
        self.code = Some(code);
        self.events.push_back(Event::CodeReady(code));
    }

    fn on_joined(&mut self, now: Instant) {
        let exchange = match (mem::replace(&mut self.state, State::Ended), self.code) {
            (State::Waiting(exchange), _) => exchange,
            (State::Asking, Some(code)) => self.start_exchange(&code),
            (State::Asking, None) if self.secret.is_some() => self.resume_exchange(),
            (state, _) => {
                self.state = state;
                return self.fail_protocol(ProtocolError::Unexpected);
            }
        };
        self.state = State::Exchanging(exchange);
        self.deadline = Some((later(now, self.config.reply_timeout), Wait::Proof));
        self.events.push_back(Event::PeerJoined);
    }

    fn start_exchange(&mut self, code: &Code) -> KeyExchange {
        KeyExchange::start(self.role, &self.config.purpose, code, &mut self.rng)
    }

    /// The creator speaks first, as with a code.
    fn resume_exchange(&mut self) -> KeyExchange {
        let secret = self.secret.clone().unwrap_or_else(|| Secret::new([0; 32]));
        let exchange = KeyExchange::again(self.role, &self.config.purpose, &secret, &mut self.rng);
        if self.role == Role::Creator {
            self.put(Envelope::KeyExchange(exchange.share()));
        }
        exchange
    }

    fn on_body(&mut self, body: &[u8]) {
        let envelope = match Envelope::parse(body) {
            Ok(envelope) => envelope,
            Err(error) => return self.fail_protocol(error),
        };
        match (envelope, mem::replace(&mut self.state, State::Ended)) {
            (Envelope::KeyExchange(theirs), State::Exchanging(exchange)) => {
                self.on_key_exchange(exchange, theirs);
            }
            (Envelope::Confirmation(proof), State::Confirming(keys)) => {
                self.on_confirmation(keys, proof);
            }
            (Envelope::Sealed(sealed), state) => {
                self.state = state;
                self.on_sealed(sealed);
            }
            (Envelope::KeyExchange(_) | Envelope::Confirmation(_), state) => {
                self.state = state;
                self.fail_protocol(ProtocolError::Unexpected);
            }
        }
    }

    /// The exchange is consumed: whatever comes of it, no second guess is possible.
    fn on_key_exchange(&mut self, exchange: KeyExchange, theirs: &[u8; 33]) {
        let share = *exchange.share();
        match exchange.finish(theirs) {
            Ok(keys) => {
                if self.role == Role::Joiner {
                    self.put(Envelope::KeyExchange(&share));
                    self.put(Envelope::Confirmation(keys.confirmation()));
                }
                self.state = State::Confirming(Box::new(keys));
                self.flush();
            }
            Err(ExchangeError::Reflected) => self.fail_protocol(ProtocolError::Reflected),
            Err(ExchangeError::Invalid) => self.fail_protocol(ProtocolError::BadKeyExchange),
        }
    }

    /// The creator answers a wrong proof with its own, so that the other side learns
    /// from it, and not from the server's word, that the code was wrong.
    fn on_confirmation(&mut self, keys: Box<Keys>, proof: &[u8; 32]) {
        if self.role == Role::Creator {
            self.put(Envelope::Confirmation(keys.confirmation()));
        }
        let confirmed = keys.confirms(proof);
        self.state = State::Open(keys);
        if !confirmed {
            return self.fail(Failure::WrongCode);
        }
        self.deadline = None;
        self.events.push_back(Event::Authenticated);
        self.flush();
        for sealed in mem::take(&mut self.early) {
            self.on_sealed(&sealed);
        }
    }

    fn on_sealed(&mut self, sealed: &[u8]) {
        match &mut self.state {
            State::Open(keys) => {
                let plaintext = keys.opener.open(sealed);
                match plaintext.map(Zeroizing::new) {
                    Ok(plaintext) => self.on_plaintext(&plaintext),
                    Err(_) => self.fail_protocol(ProtocolError::BadSeal),
                }
            }
            State::Exchanging(_) | State::Confirming(_) if self.early.len() < MAX_EARLY => {
                self.early.push(sealed.to_vec());
            }
            State::Exchanging(_) | State::Confirming(_) => {
                self.fail_protocol(ProtocolError::TooManyEarly);
            }
            State::Asking | State::Waiting(_) => self.fail_protocol(ProtocolError::Unexpected),
            State::Ended => {}
        }
    }

    fn on_plaintext(&mut self, plaintext: &[u8]) {
        match PeerMessage::parse(plaintext) {
            Ok(message) => self.events.push_back(Event::Message(message)),
            Err(ParseError::UnknownType) => {
                tracing::debug!("a message of a newer version was skipped");
            }
            Err(error) => self.fail_protocol(error),
        }
    }

    fn on_closed(&mut self, reason: CloseReason) {
        let was_open = self.is_authenticated();
        self.end();
        self.events.push_back(match reason {
            CloseReason::Done if was_open => Event::Closed,
            CloseReason::Done | CloseReason::PeerLeft => Event::Failed(Failure::PeerLeft),
            CloseReason::Expired => Event::Failed(Failure::Expired),
            CloseReason::Limit
            | CloseReason::Idle
            | CloseReason::Shutdown
            | CloseReason::Unknown => Event::Failed(Failure::ServerClosed { reason }),
        });
    }

    fn on_keepalive(&mut self, now: Instant) {
        if mem::replace(&mut self.pong_missing, true) {
            return self.fail(Failure::TimedOut(Wait::Server));
        }
        self.ping_at = later(now, self.config.keepalive);
        self.transmit(&ClientMessage::Ping);
    }

    /// Seals what waits, if this side may: the creator first wants the proof of the
    /// other side, the joiner has given its own and saves the round trip.
    fn flush(&mut self) {
        let ((State::Open(keys), _) | (State::Confirming(keys), Role::Joiner)) =
            (&mut self.state, self.role)
        else {
            return;
        };
        let seal = |message: PeerMessage| keys.sealer.seal(message.to_json().into_bytes());
        let sealed: Result<Vec<_>, _> = self.queue.drain(..).map(seal).collect();
        match sealed {
            Ok(bodies) => bodies
                .iter()
                .for_each(|sealed| self.put(Envelope::Sealed(sealed))),
            Err(_) => self.fail_protocol(ProtocolError::BadSeal),
        }
    }

    fn put(&mut self, envelope: Envelope<'_>) {
        let body = envelope.to_bytes();
        self.transmit(&ClientMessage::Put { body });
    }

    fn transmit(&mut self, message: &ClientMessage) {
        self.transmits.push_back(message.to_json());
    }

    fn fail_refused(&mut self, kind: ErrorKind) {
        self.fail(match kind {
            ErrorKind::NoSuchMailbox => Failure::NoSuchMailbox,
            ErrorKind::Crowded => Failure::Crowded,
            ErrorKind::RateLimited
            | ErrorKind::TooLarge
            | ErrorKind::BadMessage
            | ErrorKind::Full
            | ErrorKind::Unknown => Failure::ServerRefused { kind },
        });
    }

    fn fail_protocol(&mut self, error: impl Into<ProtocolError>) {
        self.fail(Failure::Protocol(error.into()));
    }

    fn fail(&mut self, failure: Failure) {
        self.transmit(&ClientMessage::Close);
        self.end();
        self.events.push_back(Event::Failed(failure));
    }

    /// Drops every secret.
    fn end(&mut self) {
        self.state = State::Ended;
        self.secret = None;
        self.deadline = None;
        self.queue.clear();
        self.early.clear();
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Asking => "asking",
            State::Waiting(_) => "waiting",
            State::Exchanging(_) => "exchanging",
            State::Confirming(_) => "confirming",
            State::Open(_) => "open",
            State::Ended => "ended",
        };
        f.debug_struct("Rendezvous")
            .field("role", &self.role)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// Words of the list, each equally likely: the list has a power of two, and anything
/// else is refused by the look-up.
fn pick_words(rng: &mut ChaCha20Rng) -> [&'static str; WORDS_PER_CODE] {
    [(); WORDS_PER_CODE].map(|()| pick_word(rng))
}

fn pick_word(rng: &mut ChaCha20Rng) -> &'static str {
    let words = word_list();
    let mask = words.len().next_power_of_two().saturating_sub(1);
    loop {
        if let Some(word) = words.get(rng.next_u32() as usize & mask) {
            return word;
        }
    }
}
