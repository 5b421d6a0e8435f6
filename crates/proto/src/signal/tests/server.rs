//! The server and strangers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::signal::{ClientMessage, CloseReason, ErrorKind, ServerMessage};
use proptest::prelude::*;

use super::epoch;
use super::world::put;
use crate::signal::{
    ClientId, Mailboxes, MailboxesConfig, MailboxesEvent, OfferedServer, Rate, RelayOffer,
};
use crate::stun::Credentials;

const SECOND: Duration = Duration::from_secs(1);

/// A server, and what it said to whom.
struct Host {
    now: Instant,
    server: Mailboxes,
    said: BTreeMap<ClientId, Vec<ServerMessage>>,
    disconnected: Vec<ClientId>,
    next: u64,
}

impl Host {
    fn new(config: MailboxesConfig) -> Self {
        Self {
            now: epoch(),
            server: Mailboxes::new([9; 32], config),
            said: BTreeMap::new(),
            disconnected: Vec::new(),
            next: 1,
        }
    }

    fn connect(&mut self, address: &str) -> ClientId {
        let id = ClientId(self.next);
        self.next += 1;
        let address: IpAddr = address.parse().unwrap();
        self.server.connected(self.now, id, address);
        self.drain();
        id
    }

    fn say(&mut self, id: ClientId, message: &ClientMessage) -> Option<ServerMessage> {
        self.say_raw(id, &message.to_json())
    }

    /// What the server says last to that client in answer.
    fn say_raw(&mut self, id: ClientId, frame: &str) -> Option<ServerMessage> {
        self.said.insert(id, Vec::new());
        self.server.handle_input(self.now, id, frame.as_bytes());
        self.drain();
        self.said[&id].last().cloned()
    }

    fn allocate(&mut self, id: ClientId) -> Option<u32> {
        match self.say(id, &ClientMessage::Allocate)? {
            ServerMessage::Mailbox { mailbox } => Some(mailbox),
            _ => None,
        }
    }

    fn join(&mut self, id: ClientId, mailbox: u32) -> Option<ServerMessage> {
        self.say(id, &ClientMessage::Join { mailbox })
    }

    /// A creator and a joiner in a mailbox.
    fn couple(&mut self) -> (ClientId, ClientId, u32) {
        let creator = self.connect("192.0.2.1");
        let joiner = self.connect("192.0.2.2");
        let mailbox = self.allocate(creator).unwrap();
        self.join(joiner, mailbox);
        (creator, joiner, mailbox)
    }

    fn wait(&mut self, by: Duration) {
        self.now += by;
        self.server.handle_timeout(self.now);
        self.drain();
    }

    fn last(&self, id: ClientId) -> &ServerMessage {
        self.said[&id].last().unwrap()
    }

    fn drain(&mut self) {
        while let Some((id, frame)) = self.server.poll_transmit() {
            let message = ServerMessage::parse(frame.as_bytes()).unwrap();
            self.said.entry(id).or_default().push(message);
        }
        while let Some(MailboxesEvent::Disconnect(id)) = self.server.poll_event() {
            self.disconnected.push(id);
        }
    }
}

fn kind(message: Option<ServerMessage>) -> ErrorKind {
    match message {
        Some(ServerMessage::Error { kind, .. }) => kind,
        other => panic!("no error: {other:?}"),
    }
}

fn host() -> Host {
    Host::new(MailboxesConfig::default())
}

/// So that quotas of the relay bound whoever comes from there.
#[test]
fn all_clients_at_one_address_are_one_user_of_the_relay_and_nobody_sees_the_address() {
    let mut host = host();
    let credentials = Credentials::new("realm").unwrap().with_secret(b"secret");
    host.server.offer_relays(RelayOffer {
        servers: vec![OfferedServer {
            uri: "turn:192.0.2.99:3478".to_owned(),
            also: Vec::new(),
        }],
        credentials,
        epoch: (host.now, SECOND),
    });
    let mut names = Vec::new();
    for _ in 0..2 {
        let (creator, joiner, _) = host.couple();
        for id in [creator, joiner] {
            let offered = host.said[&id].iter().find_map(|message| match message {
                ServerMessage::Relays { relays } => Some(relays[0].username.clone()),
                _ => None,
            });
            names.push(offered.unwrap());
        }
    }
    assert_eq!(names[0], names[2]);
    assert_eq!(names[1], names[3]);
    assert_ne!(names[0], names[1]);
    assert!(names.iter().all(|name| !name.contains("192.0.2")));
}

#[test]
fn a_server_that_drains_takes_nobody_and_says_why() {
    let mut host = host();
    let idle = host.connect("192.0.2.1");
    let (creator, joiner, _) = host.couple();
    host.server.drain(host.now);
    host.drain();
    assert_eq!(host.disconnected, [idle]);
    let late = host.connect("192.0.2.3");
    let refused = Some(host.last(late).clone());
    assert_eq!(kind(refused), ErrorKind::Full);
    host.say_raw(creator, &put(b"one"));
    assert!(matches!(host.last(joiner), ServerMessage::Message { .. }));
}

#[test]
fn what_the_creator_put_early_is_kept_for_the_joiner() {
    let mut host = host();
    let creator = host.connect("192.0.2.1");
    let mailbox = host.allocate(creator).unwrap();
    host.say_raw(creator, &put(b"one"));
    host.say_raw(creator, &put(b"two"));
    let joiner = host.connect("192.0.2.2");
    host.join(joiner, mailbox);
    let message = |body: &[u8]| ServerMessage::Message {
        body: body.to_vec(),
    };
    let expected = [ServerMessage::Joined, message(b"one"), message(b"two")];
    assert_eq!(host.said[&joiner], expected);
    assert_eq!(host.last(creator), &ServerMessage::Joined);
}

#[test]
fn a_mailbox_keeps_four_messages_and_four_kilobytes() {
    let mut host = host();
    let many = host.connect("192.0.2.1");
    host.allocate(many);
    let answers: Vec<_> = (0..5).map(|_| host.say_raw(many, &put(b"x"))).collect();
    assert_eq!(answers[..4], [None, None, None, None]);
    assert_eq!(kind(answers[4].clone()), ErrorKind::TooLarge);

    let large = host.connect("192.0.2.1");
    host.allocate(large);
    let answer = host.say_raw(large, &put(&[0; 4097]));
    assert_eq!(kind(answer), ErrorKind::TooLarge);
}

#[test]
fn a_mailbox_ends_when_it_has_carried_its_share() {
    let mut host = Host::new(MailboxesConfig {
        max_relayed: 3,
        ..Default::default()
    });
    let (creator, joiner, _) = host.couple();
    for _ in 0..4 {
        host.say_raw(creator, &put(b"x"));
    }
    let reason = CloseReason::Limit;
    assert_eq!(host.last(joiner), &ServerMessage::Closed { reason });
    assert_eq!(host.last(creator), &ServerMessage::Closed { reason });
    assert_eq!(host.server.stats().relayed, 3);
}

#[test]
fn a_joiner_that_leaves_has_spent_the_code() {
    let mut host = host();
    let (creator, joiner, mailbox) = host.couple();
    host.server.disconnected(host.now, joiner);
    host.drain();
    let reason = CloseReason::PeerLeft;
    assert_eq!(host.last(creator), &ServerMessage::Closed { reason });
    assert_eq!(host.disconnected, [creator]);
    let late = host.connect("192.0.2.3");
    assert_eq!(kind(host.join(late, mailbox)), ErrorKind::NoSuchMailbox);
}

#[test]
fn a_connection_serves_one_mailbox() {
    let mut host = host();
    let (creator, joiner, mailbox) = host.couple();
    let again = host.say(creator, &ClientMessage::Allocate);
    assert_eq!(kind(again), ErrorKind::BadMessage);
    assert_eq!(kind(host.join(joiner, mailbox)), ErrorKind::BadMessage);
}

#[test]
fn a_creator_cannot_join_itself_and_nobody_puts_without_a_mailbox() {
    let mut host = host();
    let creator = host.connect("192.0.2.1");
    let mailbox = host.allocate(creator).unwrap();
    assert_eq!(kind(host.join(creator, mailbox)), ErrorKind::BadMessage);
    let other = host.connect("192.0.2.1");
    assert_eq!(kind(host.say_raw(other, &put(b"x"))), ErrorKind::BadMessage);
}

#[test]
fn three_refused_messages_are_one_too_many() {
    let mut host = host();
    let id = host.connect("192.0.2.1");
    for garbage in ["", "{}", r#"{"type":"dance"}"#] {
        assert_eq!(host.disconnected, []);
        assert_eq!(kind(host.say_raw(id, garbage)), ErrorKind::BadMessage);
    }
    assert_eq!(host.disconnected, [id]);
    assert_eq!(host.say_raw(id, r#"{"type":"ping"}"#), None);
    assert_eq!(host.server.client_count(), 0);
}

#[test]
fn an_oversize_message_is_refused_unread() {
    let mut host = host();
    let id = host.connect("192.0.2.1");
    let answer = host.say_raw(id, &" ".repeat(64 * 1024 + 1));
    assert_eq!(kind(answer), ErrorKind::TooLarge);
}

#[test]
fn failed_joins_count_against_the_address_and_only_against_it() {
    let mut host = Host::new(MailboxesConfig {
        joins: Rate::per_minute(6),
        ..Default::default()
    });
    let creator = host.connect("192.0.2.1");
    let mailbox = host.allocate(creator).unwrap();
    let guesses: Vec<_> = (0..8)
        .map(|_| {
            let guesser = host.connect("2001:db8::7");
            kind(host.join(guesser, 999))
        })
        .collect();
    assert_eq!(guesses[..6], [ErrorKind::NoSuchMailbox; 6]);
    assert_eq!(guesses[6..], [ErrorKind::RateLimited; 2]);

    let neighbour = host.connect("2001:db8::8");
    assert_eq!(kind(host.join(neighbour, mailbox)), ErrorKind::RateLimited);
    let stranger = host.connect("2001:db8:0:1::8");
    assert_eq!(host.join(stranger, mailbox), Some(ServerMessage::Joined));
}

#[test]
fn a_flood_of_mailboxes_from_one_address_hits_a_bound() {
    let mut host = Host::new(MailboxesConfig {
        max_mailboxes_per_source: 3,
        ..Default::default()
    });
    let made: Vec<_> = (0..5)
        .filter_map(|_| {
            let id = host.connect("192.0.2.1");
            host.allocate(id)
        })
        .collect();
    assert_eq!(made.len(), 3);
    let other = host.connect("192.0.2.2");
    assert!(host.allocate(other).is_some());
}

#[test]
fn a_flood_of_mailboxes_one_after_the_other_hits_a_rate() {
    let mut host = Host::new(MailboxesConfig {
        allocations: Rate::per_minute(3),
        ..Default::default()
    });
    let made = (0..10).filter(|_| {
        let id = host.connect("192.0.2.1");
        let made = host.allocate(id).is_some();
        host.server.disconnected(host.now, id);
        made
    });
    assert_eq!(made.count(), 3);
}

#[test]
fn a_flood_of_connections_hits_bounds_for_one_address_and_for_all() {
    let mut host = Host::new(MailboxesConfig {
        max_clients_per_source: 3,
        max_clients: 5,
        ..Default::default()
    });
    for _ in 0..10 {
        host.connect("192.0.2.1");
    }
    assert_eq!(host.server.client_count(), 3);
    for n in 0..10 {
        host.connect(&format!("192.0.2.{}", n + 10));
    }
    assert_eq!(host.server.client_count(), 5);
    assert_eq!(host.disconnected.len(), 15);
}

#[test]
fn what_an_address_gives_back_it_can_have_again() {
    let mut host = Host::new(MailboxesConfig {
        max_clients_per_source: 1,
        max_mailboxes_per_source: 1,
        ..Default::default()
    });
    for _ in 0..5 {
        let id = host.connect("192.0.2.1");
        assert!(host.allocate(id).is_some());
        host.say(id, &ClientMessage::Close);
    }
    for _ in 0..5 {
        let id = host.connect("192.0.2.1");
        assert!(host.allocate(id).is_some());
        host.server.disconnected(host.now, id);
    }
}

#[test]
fn a_flood_of_messages_ends_the_connection() {
    let mut host = Host::new(MailboxesConfig {
        messages: Rate::per_minute(60),
        ..Default::default()
    });
    let id = host.connect("192.0.2.1");
    for _ in 0..100 {
        host.say(id, &ClientMessage::Ping);
    }
    assert_eq!(host.disconnected, [id]);
}

#[test]
fn the_server_is_full_when_its_mailboxes_are_taken_or_rest() {
    let mut host = Host::new(MailboxesConfig {
        max_mailboxes: 2,
        ..Default::default()
    });
    let ids = [1, 2, 3].map(|_| host.connect("192.0.2.1"));
    let made = ids.map(|id| host.allocate(id).is_some());
    assert_eq!(made, [true, true, false]);
    host.say(ids[0], &ClientMessage::Close);
    assert_eq!(host.allocate(ids[2]), None);
    host.wait(60 * SECOND - Duration::from_millis(1));
    let late = host.connect("192.0.2.1");
    assert_eq!(host.allocate(late), None);
    host.wait(Duration::from_millis(1));
    assert!(host.allocate(late).is_some());
}

#[test]
fn a_silent_client_is_disconnected_and_one_that_pings_is_not() {
    let mut host = host();
    let silent = host.connect("192.0.2.1");
    let alive = host.connect("192.0.2.1");
    for _ in 0..6 {
        host.wait(10 * SECOND);
        host.say(alive, &ClientMessage::Ping);
    }
    let reason = CloseReason::Idle;
    assert_eq!(host.last(silent), &ServerMessage::Closed { reason });
    assert_eq!(host.disconnected, [silent]);
    host.wait(59 * SECOND);
    assert_eq!(host.disconnected, [silent]);
    host.wait(SECOND);
    assert_eq!(host.disconnected, [silent, alive]);
    assert_eq!(host.server.poll_timeout(), None);
}

#[test]
fn an_id_that_nobody_has_and_an_id_twice_are_ignored() {
    let mut host = host();
    assert_eq!(host.say(ClientId(99), &ClientMessage::Ping), None);
    host.server.disconnected(host.now, ClientId(99));
    let id = host.connect("192.0.2.1");
    host.server
        .connected(host.now, id, "192.0.2.9".parse().unwrap());
    host.drain();
    assert_eq!(host.said[&id].len(), 1);
}

/// What a stranger may do in any order.
#[derive(Debug, Clone)]
enum Act {
    Connect(u8),
    Leave(u64),
    Allocate(u64),
    Join(u64, u32),
    Put(u64),
    Close(u64),
    Garbage(u64, Vec<u8>),
    Wait(u64),
}

fn any_act() -> impl Strategy<Value = Act> {
    let id = 1..24_u64;
    prop_oneof![
        4 => (0..3_u8).prop_map(Act::Connect),
        1 => id.clone().prop_map(Act::Leave),
        4 => id.clone().prop_map(Act::Allocate),
        6 => (id.clone(), 1..12_u32).prop_map(|(id, number)| Act::Join(id, number)),
        4 => id.clone().prop_map(Act::Put),
        1 => id.clone().prop_map(Act::Close),
        1 => (id, any::<Vec<u8>>()).prop_map(|(id, bytes)| Act::Garbage(id, bytes)),
        2 => (0..100_u64).prop_map(Act::Wait),
    ]
}

/// Who is in which mailbox, told from the outside: by what the server said.
#[derive(Default)]
struct Observer {
    members: BTreeMap<ClientId, u32>,
    sides: BTreeMap<u32, Vec<ClientId>>,
}

fn small() -> MailboxesConfig {
    MailboxesConfig {
        max_clients: 8,
        max_clients_per_source: 4,
        max_mailboxes: 6,
        max_mailboxes_per_source: 3,
        join_timeout: 50 * SECOND,
        lifetime: 200 * SECOND,
        ..Default::default()
    }
}

impl Observer {
    fn act(&mut self, host: &mut Host, act: Act) {
        host.said.clear();
        host.disconnected.clear();
        match act {
            Act::Connect(n) => drop(host.connect(&format!("192.0.2.{n}"))),
            Act::Leave(id) => {
                host.server.disconnected(host.now, ClientId(id));
                host.drain();
                self.forget(ClientId(id));
            }
            Act::Allocate(id) => {
                if let Some(number) = host.allocate(ClientId(id)) {
                    self.members.insert(ClientId(id), number);
                    assert!(self.sides.insert(number, vec![ClientId(id)]).is_none());
                }
            }
            Act::Join(id, number) => self.join(host, ClientId(id), number),
            Act::Put(id) => self.put(host, ClientId(id)),
            Act::Close(id) => drop(host.say(ClientId(id), &ClientMessage::Close)),
            Act::Garbage(id, bytes) => {
                host.server.handle_input(host.now, ClientId(id), &bytes);
                host.drain();
            }
            Act::Wait(seconds) => host.wait(SECOND * u32::try_from(seconds).unwrap()),
        }
        for id in std::mem::take(&mut host.disconnected) {
            self.forget(id);
        }
    }

    fn join(&mut self, host: &mut Host, id: ClientId, number: u32) {
        host.join(id, number);
        let said = host.said.get(&id);
        if said.is_some_and(|said| said.first() == Some(&ServerMessage::Joined)) {
            let sides = self.sides.get_mut(&number).unwrap();
            sides.push(id);
            assert_eq!(sides.len(), 2);
            self.members.insert(id, number);
        }
    }

    /// A message goes to the other member of the mailbox and to nobody else.
    fn put(&self, host: &mut Host, id: ClientId) {
        host.say_raw(id, &put(&id.0.to_be_bytes()));
        for (to, said) in &host.said {
            let heard = said
                .iter()
                .any(|m| matches!(m, ServerMessage::Message { .. }));
            let fellow = to != &id && self.members.get(to) == self.members.get(&id);
            assert!(!heard || fellow);
        }
    }

    /// A mailbox that one of its sides has left is gone.
    fn forget(&mut self, id: ClientId) {
        if let Some(number) = self.members.remove(&id) {
            self.sides.remove(&number);
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_the_bounds_or_lets_a_third_in(
        acts in proptest::collection::vec(any_act(), 1..200)
    ) {
        let mut host = Host::new(small());
        let mut observer = Observer::default();
        for act in acts {
            observer.act(&mut host, act);
            prop_assert!(host.server.client_count() <= 8);
            prop_assert!(host.server.mailbox_count() <= 6);
            prop_assert_eq!(host.server.mailbox_count(), observer.sides.len());
        }
        host.server.shutdown(host.now);
        host.wait(60 * SECOND);
        prop_assert_eq!(host.server.client_count(), 0);
        prop_assert_eq!(host.server.mailbox_count(), 0);
        prop_assert_eq!(host.server.poll_timeout(), None);
    }
}
