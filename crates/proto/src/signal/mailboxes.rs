//! The server of the mailbox protocol.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use postern_wire::signal::{
    ClientMessage, CloseReason, ErrorKind, ParseError, ServerMessage, VERSION,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::limits::{Source, Sources, later};

mod config;
mod meetings;
mod numbers;
mod relays;

pub use config::MailboxesConfig;
use meetings::Meetings;
use numbers::Numbers;
pub use relays::{OfferedServer, RelayOffer};

/// Most messages that a mailbox keeps for a joiner: the creator's key exchange, and room
/// for what later versions say before it.
const MAX_STORED: usize = 4;

/// Most bytes that a mailbox keeps for a joiner.
const MAX_STORED_BYTES: usize = 4096;

/// Refused messages after which a client is disconnected: a person who mistypes a number
/// gets another try on the same connection, a program that guesses does not.
const MAX_STRIKES: u8 = 3;

/// Who a client is, in the driver's numbering; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// What the driver must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Send what was yielded for this client so far, then end its connection. The
    /// machine has forgotten it.
    Disconnect(ClientId),
}

/// What has been counted since the machine was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Clients accepted.
    pub clients: u64,
    /// Mailboxes made.
    pub mailboxes: u64,
    /// Joins that found their mailbox.
    pub joins: u64,
    /// Messages passed on.
    pub relayed: u64,
    /// Bytes passed on.
    pub relayed_bytes: u64,
    /// Mailboxes that ended by their age.
    pub expired: u64,
    /// Messages and connections refused.
    pub refused: u64,
}

/// All mailboxes of a server, and the clients connected to it.
///
/// A mailbox has at most two sides, ever: the client that made it and the first that
/// joins. A third is refused, and the mailbox lives on: if a third could end it, anybody
/// could end every mailbox. When either side closes or leaves, the mailbox is gone. So
/// whoever joins has spent the one guess at its code.
///
/// The driver must not wait for a slow client: it drops one whose unsent frames exceed
/// its bound and calls [`Mailboxes::disconnected`].
#[derive(Debug)]
pub struct Mailboxes {
    config: MailboxesConfig,
    relays: Option<RelayOffer>,
    draining: bool,
    clients: BTreeMap<ClientId, Client>,
    mailboxes: BTreeMap<u32, Mailbox>,
    numbers: Numbers,
    meetings: Meetings,
    sources: Sources,
    deadlines: BTreeSet<(Instant, Due)>,
    stats: Stats,
    transmits: VecDeque<(ClientId, String)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Client {
    source: Source,
    mailbox: Option<u32>,
    strikes: u8,
    heard: Instant,
    due: Instant,
}

#[derive(Debug)]
struct Mailbox {
    creator: ClientId,
    source: Source,
    joiner: Option<ClientId>,
    stored: Vec<Vec<u8>>,
    stored_bytes: usize,
    relayed: u32,
    relayed_bytes: usize,
    ends: Instant,
    due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Client(ClientId),
    Mailbox(u32),
    Rested(u32),
}

/// Why a message is refused: the answer to the client.
#[derive(Debug, Clone, Copy)]
struct Reject(ErrorKind, &'static str);

const NOT_NOW: Reject = Reject(ErrorKind::BadMessage, "not at this point");
const NO_MAILBOX: Reject = Reject(ErrorKind::NoSuchMailbox, "there is no such mailbox");
const CROWDED: Reject = Reject(ErrorKind::Crowded, "the mailbox has two sides already");
const TOO_OFTEN: Reject = Reject(ErrorKind::RateLimited, "too often from this address");
const TOO_MANY: Reject = Reject(ErrorKind::RateLimited, "too many from this address");
const GOING_DOWN: Reject = Reject(ErrorKind::Full, "the server is going down");
const FULL: Reject = Reject(ErrorKind::Full, "the server has no room");
const KEPT_TOO_MUCH: Reject = Reject(ErrorKind::TooLarge, "too much before the other side came");

impl From<ParseError> for Reject {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::TooLarge { .. } | ParseError::BadField("body") => {
                Self(ErrorKind::TooLarge, "the message is too large")
            }
            ParseError::UnknownType => Self(ErrorKind::BadMessage, "unknown type"),
            ParseError::Malformed | ParseError::BadField(_) => {
                Self(ErrorKind::BadMessage, "not a message")
            }
        }
    }
}

impl Mailboxes {
    /// A server without clients.
    #[must_use]
    pub fn new(seed: [u8; 32], config: MailboxesConfig) -> Self {
        let remembered = config.max_clients.saturating_mul(2);
        Self {
            numbers: Numbers::new(ChaCha20Rng::from_seed(seed), config.max_mailboxes),
            sources: Sources::new(remembered, config.longest_period()),
            clients: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            meetings: Meetings::default(),
            deadlines: BTreeSet::new(),
            stats: Stats::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            config,
            relays: None,
            draining: false,
        }
    }

    /// Offers relays to those who meet from here on.
    pub fn offer_relays(&mut self, offer: RelayOffer) {
        self.relays = Some(offer);
    }

    /// What has been counted.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many clients are connected.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// How many mailboxes there are.
    #[must_use]
    pub fn mailbox_count(&self) -> usize {
        self.mailboxes.len()
    }

    /// A client has connected from `address`. An id that is connected already is
    /// ignored.
    pub fn connected(&mut self, now: Instant, id: ClientId, address: IpAddr) {
        if self.clients.contains_key(&id) {
            return;
        }
        match self.admit(now, id, Source::from(address)) {
            Ok(()) => self.welcome(id),
            Err(reject) => {
                self.refuse(id, reject);
                self.events.push_back(Event::Disconnect(id));
            }
        }
    }

    /// A client's connection has ended.
    pub fn disconnected(&mut self, now: Instant, id: ClientId) {
        let mailbox = self.forget_client(now, id);
        if let Some(number) = mailbox {
            self.end_mailbox(now, number, CloseReason::PeerLeft);
        }
    }

    /// Takes a text frame of a client.
    pub fn handle_input(&mut self, now: Instant, id: ClientId, frame: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.heard = now;
        let source = client.source;
        if let Err(reject) = self.on_frame(now, id, source, frame) {
            self.refuse(id, reject);
            self.strike(now, id);
        }
    }

    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, due)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            match due {
                Due::Client(id) => self.on_client_due(now, id),
                Due::Mailbox(number) => self.on_mailbox_due(now, number),
                Due::Rested(number) => self.numbers.release(number),
            }
        }
    }

    /// Takes nobody any more and disconnects whoever is not meeting somebody: who waits is
    /// told that the server is going down. Those that have met go on.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        let waiting: Vec<_> = self
            .mailboxes
            .iter()
            .filter(|(_, mailbox)| mailbox.joiner.is_none())
            .map(|(number, _)| *number)
            .collect();
        for number in waiting {
            self.end_mailbox(now, number, CloseReason::Shutdown);
        }
        let idle = self.clients.iter();
        let idle = idle.filter(|(_, client)| client.mailbox.is_none());
        let idle: Vec<_> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            self.refuse(id, GOING_DOWN);
            self.drop_client(now, id);
        }
    }

    /// Ends every mailbox and disconnects every client.
    pub fn shutdown(&mut self, now: Instant) {
        while let Some(number) = self.mailboxes.keys().next().copied() {
            self.end_mailbox(now, number, CloseReason::Shutdown);
        }
        while let Some(id) = self.clients.keys().next().copied() {
            self.drop_client(now, id);
        }
    }

    /// The next text frame, and the client that it is for.
    pub fn poll_transmit(&mut self) -> Option<(ClientId, String)> {
        self.transmits.pop_front()
    }

    /// What to do next, after every transmit has been taken.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Mailboxes::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn admit(&mut self, now: Instant, id: ClientId, source: Source) -> Result<(), Reject> {
        if self.draining {
            return Err(GOING_DOWN);
        }
        if self.clients.len() >= self.config.max_clients {
            return Err(FULL);
        }
        let usage = self.sources.enter(now, source).ok_or(FULL)?;
        let admitted = if !usage.connections.take(now, self.config.connections) {
            Err(TOO_OFTEN)
        } else if usage.clients >= self.config.max_clients_per_source {
            Err(TOO_MANY)
        } else {
            usage.clients = usage.clients.saturating_add(1);
            Ok(())
        };
        self.sources.leave(now, source);
        admitted?;
        self.add_client(now, id, source);
        Ok(())
    }

    fn add_client(&mut self, now: Instant, id: ClientId, source: Source) {
        let due = later(now, self.config.idle_timeout);
        let client = Client {
            source,
            mailbox: None,
            strikes: 0,
            heard: now,
            due,
        };
        self.clients.insert(id, client);
        self.deadlines.insert((due, Due::Client(id)));
        self.stats.clients = self.stats.clients.saturating_add(1);
    }

    fn welcome(&mut self, id: ClientId) {
        let stun = self.config.stun.clone();
        let version = VERSION;
        self.transmit(id, &ServerMessage::Welcome { version, stun });
    }

    fn on_frame(
        &mut self,
        now: Instant,
        id: ClientId,
        source: Source,
        frame: &[u8],
    ) -> Result<(), Reject> {
        let usage = self.sources.of(source).ok_or(FULL)?;
        if !usage.messages.take(now, self.config.messages) {
            return Err(TOO_OFTEN);
        }
        match ClientMessage::parse(frame)? {
            ClientMessage::Allocate => self.on_allocate(now, id, source),
            ClientMessage::Join { mailbox } => self.on_join(now, id, source, mailbox),
            ClientMessage::Meet { token, creator } => {
                self.on_meet(now, id, source, (token, creator))
            }
            ClientMessage::Put { body } => self.on_put(now, id, body),
            ClientMessage::Close => {
                self.on_close(now, id);
                Ok(())
            }
            ClientMessage::Ping => {
                self.transmit(id, &ServerMessage::Pong);
                Ok(())
            }
        }
    }

    fn on_allocate(&mut self, now: Instant, id: ClientId, source: Source) -> Result<(), Reject> {
        self.require_free(id)?;
        let usage = self.sources.of(source).ok_or(FULL)?;
        if !usage.allocations.take(now, self.config.allocations) {
            return Err(TOO_OFTEN);
        }
        if usage.mailboxes >= self.config.max_mailboxes_per_source {
            return Err(TOO_MANY);
        }
        let number = self.numbers.take().ok_or(FULL)?;
        usage.mailboxes = usage.mailboxes.saturating_add(1);
        self.add_mailbox(now, number, id, source);
        self.transmit(id, &ServerMessage::Mailbox { mailbox: number });
        Ok(())
    }

    fn add_mailbox(&mut self, now: Instant, number: u32, creator: ClientId, source: Source) {
        let ends = later(now, self.config.lifetime);
        let due = ends.min(later(now, self.config.join_timeout));
        let mailbox = Mailbox {
            creator,
            source,
            joiner: None,
            stored: Vec::new(),
            stored_bytes: 0,
            relayed: 0,
            relayed_bytes: 0,
            ends,
            due,
        };
        self.mailboxes.insert(number, mailbox);
        self.deadlines.insert((due, Due::Mailbox(number)));
        self.enter_mailbox(creator, number);
        self.stats.mailboxes = self.stats.mailboxes.saturating_add(1);
    }

    /// The meter runs before the look-up: a failed join is a guess like any other.
    fn on_join(
        &mut self,
        now: Instant,
        id: ClientId,
        source: Source,
        number: u32,
    ) -> Result<(), Reject> {
        self.require_free(id)?;
        let usage = self.sources.of(source).ok_or(FULL)?;
        if !usage.joins.take(now, self.config.joins) {
            return Err(TOO_OFTEN);
        }
        let mailbox = self.mailboxes.get_mut(&number).ok_or(NO_MAILBOX)?;
        if mailbox.joiner.is_some() {
            return Err(CROWDED);
        }
        self.bring_together(now, id, number);
        Ok(())
    }

    fn bring_together(&mut self, now: Instant, id: ClientId, number: u32) {
        let Some(mailbox) = self.mailboxes.get_mut(&number) else {
            return;
        };
        mailbox.joiner = Some(id);
        let creator = mailbox.creator;
        let stored = std::mem::take(&mut mailbox.stored);
        self.deadlines.remove(&(mailbox.due, Due::Mailbox(number)));
        mailbox.due = mailbox.ends;
        self.deadlines.insert((mailbox.due, Due::Mailbox(number)));
        self.enter_mailbox(id, number);
        self.introduce(now, creator, id, stored);
    }

    fn introduce(
        &mut self,
        now: Instant,
        creator: ClientId,
        joiner: ClientId,
        stored: Vec<Vec<u8>>,
    ) {
        self.stats.joins = self.stats.joins.saturating_add(1);
        for client in [creator, joiner] {
            let source = self.clients.get(&client).map(|client| client.source);
            if let Some((offer, source)) = self.relays.as_ref().zip(source) {
                let relays = offer.issue(now, source);
                self.transmit(client, &ServerMessage::Relays { relays });
            }
        }
        self.transmit(creator, &ServerMessage::Joined);
        self.transmit(joiner, &ServerMessage::Joined);
        for body in stored {
            self.transmit(joiner, &ServerMessage::Message { body });
        }
    }

    fn on_put(&mut self, now: Instant, id: ClientId, body: Vec<u8>) -> Result<(), Reject> {
        let number = self.mailbox_of(id).ok_or(NOT_NOW)?;
        let mailbox = self.mailboxes.get_mut(&number).ok_or(NOT_NOW)?;
        let Some(other) = mailbox.other(id) else {
            return mailbox.store(body);
        };
        let len = body.len();
        if mailbox.count_relayed(len, &self.config) {
            self.stats.relayed = self.stats.relayed.saturating_add(1);
            self.stats.relayed_bytes = self.stats.relayed_bytes.saturating_add(len as u64);
            self.transmit(other, &ServerMessage::Message { body });
        } else {
            self.end_mailbox(now, number, CloseReason::Limit);
        }
        Ok(())
    }

    /// A client that closes needs to hear no more, whether it had a mailbox or not.
    fn on_close(&mut self, now: Instant, id: ClientId) {
        let mailbox = self.mailbox_of(id);
        self.drop_client(now, id);
        if let Some(number) = mailbox {
            self.end_mailbox(now, number, CloseReason::Done);
        }
    }

    fn on_client_due(&mut self, now: Instant, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.due = later(client.heard, self.config.idle_timeout);
        if client.due > now {
            self.deadlines.insert((client.due, Due::Client(id)));
            return;
        }
        let reason = CloseReason::Idle;
        self.transmit(id, &ServerMessage::Closed { reason });
        self.events.push_back(Event::Disconnect(id));
        self.disconnected(now, id);
    }

    fn on_mailbox_due(&mut self, now: Instant, number: u32) {
        self.stats.expired = self.stats.expired.saturating_add(1);
        self.end_mailbox(now, number, CloseReason::Expired);
    }

    /// Deletes a mailbox, and tells and disconnects those of its sides that are there.
    fn end_mailbox(&mut self, now: Instant, number: u32, reason: CloseReason) {
        let Some(mailbox) = self.mailboxes.remove(&number) else {
            return;
        };
        self.deadlines.remove(&(mailbox.due, Due::Mailbox(number)));
        if !self.meetings.end(number) {
            let rested = later(now, self.config.rest);
            self.deadlines.insert((rested, Due::Rested(number)));
        }
        if let Some(usage) = self.sources.of(mailbox.source) {
            usage.mailboxes = usage.mailboxes.saturating_sub(1);
        }
        for id in [Some(mailbox.creator), mailbox.joiner]
            .into_iter()
            .flatten()
        {
            if self.clients.contains_key(&id) {
                self.transmit(id, &ServerMessage::Closed { reason });
                self.drop_client(now, id);
            }
        }
    }

    fn drop_client(&mut self, now: Instant, id: ClientId) {
        self.forget_client(now, id);
        self.events.push_back(Event::Disconnect(id));
    }

    /// Forgets a client and gives the mailbox that it was in.
    fn forget_client(&mut self, now: Instant, id: ClientId) -> Option<u32> {
        let client = self.clients.remove(&id)?;
        self.deadlines.remove(&(client.due, Due::Client(id)));
        if let Some(usage) = self.sources.of(client.source) {
            usage.clients = usage.clients.saturating_sub(1);
        }
        self.sources.leave(now, client.source);
        client.mailbox
    }

    fn strike(&mut self, now: Instant, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.strikes = client.strikes.saturating_add(1);
        if client.strikes >= MAX_STRIKES {
            tracing::debug!(client = id.0, "disconnecting after refused messages");
            self.events.push_back(Event::Disconnect(id));
            self.disconnected(now, id);
        }
    }

    fn refuse(&mut self, id: ClientId, Reject(kind, text): Reject) {
        self.stats.refused = self.stats.refused.saturating_add(1);
        let message = text.to_owned();
        self.transmit(id, &ServerMessage::Error { kind, message });
    }

    /// A connection serves one mailbox.
    fn require_free(&self, id: ClientId) -> Result<(), Reject> {
        match self.mailbox_of(id) {
            Some(_) => Err(NOT_NOW),
            None => Ok(()),
        }
    }

    fn mailbox_of(&self, id: ClientId) -> Option<u32> {
        self.clients.get(&id)?.mailbox
    }

    fn enter_mailbox(&mut self, id: ClientId, number: u32) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.mailbox = Some(number);
        }
    }

    fn transmit(&mut self, id: ClientId, message: &ServerMessage) {
        self.transmits.push_back((id, message.to_json()));
    }
}

impl Mailbox {
    fn other(&self, id: ClientId) -> Option<ClientId> {
        if id == self.creator {
            self.joiner
        } else {
            Some(self.creator)
        }
    }

    fn store(&mut self, body: Vec<u8>) -> Result<(), Reject> {
        let bytes = self.stored_bytes.saturating_add(body.len());
        if self.stored.len() >= MAX_STORED || bytes > MAX_STORED_BYTES {
            return Err(KEPT_TOO_MUCH);
        }
        self.stored_bytes = bytes;
        self.stored.push(body);
        Ok(())
    }

    /// Counts a message; false if it is one too many.
    fn count_relayed(&mut self, len: usize, config: &MailboxesConfig) -> bool {
        self.relayed = self.relayed.saturating_add(1);
        self.relayed_bytes = self.relayed_bytes.saturating_add(len);
        self.relayed <= config.max_relayed && self.relayed_bytes <= config.max_relayed_bytes
    }
}
