//! A server and its clients, joined by queues that a test can look into and change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::signal::{
    ClientMessage, Code, Fingerprint, Hello, PURPOSE_TRANSFER, PeerMessage, ServerMessage,
};

use super::epoch;
use crate::signal::{
    ClientId, Mailboxes, MailboxesConfig, MailboxesEvent, Rendezvous, RendezvousConfig,
    RendezvousEvent,
};

pub(super) const CREATOR: ClientId = ClientId(1);
pub(super) const JOINER: ClientId = ClientId(2);
pub(super) const THIRD: ClientId = ClientId(3);

/// What a test does to a frame between the server and a client: the frames that arrive
/// in its place.
pub(super) type Tamper = Box<dyn FnMut(ClientId, ServerMessage) -> Vec<ServerMessage>>;

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) server: Mailboxes,
    pub(super) clients: BTreeMap<ClientId, Rendezvous>,
    pub(super) events: BTreeMap<ClientId, Vec<RendezvousEvent>>,
    pub(super) disconnected: Vec<ClientId>,
    /// Every frame, as the server saw or wrote it.
    pub(super) log: Vec<(ClientId, String)>,
    pub(super) tamper: Option<Tamper>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_config(MailboxesConfig::default())
    }

    pub(super) fn with_config(config: MailboxesConfig) -> Self {
        Self {
            now: epoch(),
            server: Mailboxes::new([9; 32], config),
            clients: BTreeMap::new(),
            events: BTreeMap::new(),
            disconnected: Vec::new(),
            log: Vec::new(),
            tamper: None,
        }
    }

    /// Connects a creator and gives the code that it shows.
    pub(super) fn create(&mut self) -> Code {
        let config = RendezvousConfig::default();
        self.add(CREATOR, Rendezvous::create(self.now, [1; 32], config));
        self.run();
        self.code()
    }

    pub(super) fn code(&self) -> Code {
        let code = |event: &RendezvousEvent| match event {
            RendezvousEvent::CodeReady(code) => Some(*code),
            _ => None,
        };
        self.events[&CREATOR].iter().find_map(code).unwrap()
    }

    pub(super) fn join(&mut self, code: Code) {
        self.join_as(JOINER, code);
    }

    pub(super) fn join_as(&mut self, id: ClientId, code: Code) {
        let config = RendezvousConfig::default();
        let seed = [u8::try_from(id.0).unwrap(); 32];
        self.add(id, Rendezvous::join(self.now, seed, code, config));
        self.run();
    }

    pub(super) fn add(&mut self, id: ClientId, client: Rendezvous) {
        self.clients.insert(id, client);
        self.server.connected(self.now, id, address(id));
    }

    pub(super) fn send(&mut self, id: ClientId, message: PeerMessage) {
        self.clients.get_mut(&id).unwrap().send(message).unwrap();
        self.run();
    }

    /// Passes everything on until nothing moves.
    pub(super) fn run(&mut self) {
        while self.uplink() | self.downlink() {}
        self.drain();
    }

    /// Moves the clock, stopping at every deadline on the way.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = self.next_timeout().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.server.handle_timeout(self.now);
            for client in self.clients.values_mut() {
                client.handle_timeout(self.now);
            }
            self.run();
            if next.is_none() {
                return;
            }
        }
    }

    pub(super) fn messages(&self, id: ClientId) -> Vec<PeerMessage> {
        let message = |event: &RendezvousEvent| match event {
            RendezvousEvent::Message(message) => Some(message.clone()),
            _ => None,
        };
        self.events[&id].iter().filter_map(message).collect()
    }

    pub(super) fn last_event(&self, id: ClientId) -> &RendezvousEvent {
        self.events[&id].last().unwrap()
    }

    fn next_timeout(&self) -> Option<Instant> {
        let clients = self.clients.values().filter_map(Rendezvous::poll_timeout);
        clients.chain(self.server.poll_timeout()).min()
    }

    fn uplink(&mut self) -> bool {
        let mut moved = false;
        for (id, client) in &mut self.clients {
            while let Some(frame) = client.poll_transmit() {
                self.log.push((*id, frame.clone()));
                self.server.handle_input(self.now, *id, frame.as_bytes());
                moved = true;
            }
        }
        moved
    }

    fn downlink(&mut self) -> bool {
        let mut moved = false;
        while let Some((id, frame)) = self.server.poll_transmit() {
            self.log.push((id, frame.clone()));
            for frame in self.tampered(id, frame) {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.handle_input(self.now, frame.as_bytes());
                }
            }
            moved = true;
        }
        while let Some(MailboxesEvent::Disconnect(id)) = self.server.poll_event() {
            self.disconnected.push(id);
        }
        moved
    }

    fn tampered(&mut self, id: ClientId, frame: String) -> Vec<String> {
        let Some(tamper) = &mut self.tamper else {
            return vec![frame];
        };
        let message = ServerMessage::parse(frame.as_bytes()).unwrap();
        let arrive = tamper(id, message);
        arrive.iter().map(ServerMessage::to_json).collect()
    }

    fn drain(&mut self) {
        for (id, client) in &mut self.clients {
            let events = self.events.entry(*id).or_default();
            events.extend(std::iter::from_fn(|| client.poll_event()));
        }
    }
}

pub(super) fn address(id: ClientId) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(id.0).unwrap()])
}

pub(super) fn hello(name: &str) -> PeerMessage {
    PeerMessage::Hello(Hello {
        ufrag: format!("{name}ufrag"),
        pwd: format!("{name}passwordpasswordpassword"),
        fingerprint: Fingerprint([0xab; 32]),
        purpose: PURPOSE_TRANSFER.to_owned(),
        candidates: vec!["1 1 UDP 2130706431 192.0.2.1 5000 typ host".to_owned()],
        end_of_candidates: false,
    })
}

pub(super) fn candidate(n: usize) -> PeerMessage {
    PeerMessage::Candidate {
        candidate: format!("{n} 1 UDP 2130706431 192.0.2.1 5000 typ host"),
        mapped: n.is_multiple_of(2),
    }
}

/// The same code with another second word.
pub(super) fn mistyped(code: Code) -> Code {
    let [first, second] = *code.words();
    let other = if second == "zoo" { "zone" } else { "zoo" };
    Code::new(code.mailbox(), [first, other]).unwrap()
}

pub(super) fn put(body: &[u8]) -> String {
    let body = body.to_vec();
    ClientMessage::Put { body }.to_json()
}
