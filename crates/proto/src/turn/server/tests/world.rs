//! A server, a clock, and clients that know how to ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    Algorithm, AttributeType, Builder, Class, ErrorCode, Message, Method, Nonce, Open,
    PasswordAlgorithm, Realm, TransactionId, Userhash, Username,
};
use postern_wire::turn::{
    ChannelData, ChannelNumber, ConnectionId, Data, Lifetime, MobilityTicket, RequestedTransport,
    XorPeerAddress, XorRelayedAddress,
};

use super::super::*;
use crate::stun::{Credentials, Key};

pub(super) const REALM: &str = "example.org";
pub(super) const PEER: &str = "8.8.8.8:4000";
pub(super) const OTHER_PEER: &str = "9.9.9.9:5000";
pub(super) const RELAY_V4: &str = "198.51.100.1";
pub(super) const RELAY_V6: &str = "2001:db8::1";

#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
fn start() -> Instant {
    Instant::now()
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn peer(text: &str) -> PeerAddr {
    PeerAddr(addr(text))
}

pub(super) fn channel(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).unwrap()
}

pub(super) fn credentials() -> Credentials {
    Credentials::new(REALM)
        .unwrap()
        .with_user("alice", "wonderland")
        .unwrap()
        .with_user("bob", "builder")
        .unwrap()
}

pub(super) fn config() -> Config {
    Config {
        credentials: credentials(),
        relay_v4: Some(RelayAddress::new(RELAY_V4.parse().unwrap())),
        relay_v6: Some(RelayAddress::new(RELAY_V6.parse().unwrap())),
        unix: Duration::from_secs(1_800_000_000),
        ..Config::default()
    }
}

/// A client: where it is, and who.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) at: FiveTuple,
    pub(super) user: String,
    pub(super) password: String,
}

pub(super) fn client(transport: Transport, address: &str, user: &str) -> Client {
    let password = if user == "bob" {
        "builder"
    } else {
        "wonderland"
    };
    Client {
        at: FiveTuple {
            transport,
            client: ClientAddr(addr(address)),
            server: addr("192.0.2.1:3478"),
        },
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

pub(super) fn alice() -> Client {
    client(Transport::Udp, "203.0.113.5:40000", "alice")
}

pub(super) fn alice_tcp() -> Client {
    client(Transport::Tcp, "203.0.113.5:40001", "alice")
}

pub(super) fn bob() -> Client {
    client(Transport::Udp, "203.0.114.7:50000", "bob")
}

/// A response, as bytes that are read when asked.
#[derive(Debug, Clone)]
pub(super) struct Reply(pub(super) Vec<u8>);

impl Reply {
    pub(super) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// The error code; 0 for success.
    pub(super) fn code(&self) -> u16 {
        let error = self.message().get::<ErrorCode<'_>>().unwrap();
        error.map_or(0, |error| error.code())
    }

    pub(super) fn relayed(&self) -> SocketAddr {
        let relayed = self.message().get::<XorRelayedAddress>().unwrap();
        relayed.unwrap().0
    }

    pub(super) fn all_relayed(&self) -> Vec<SocketAddr> {
        use postern_wire::stun::Attribute;
        let message = self.message();
        let relayed = message
            .attributes()
            .filter(|(kind, _)| *kind == AttributeType::XOR_RELAYED_ADDRESS)
            .map(|(_, value)| XorRelayedAddress::decode(value, message.transaction_id()));
        relayed.map(|relayed| relayed.unwrap().0).collect()
    }

    pub(super) fn lifetime(&self) -> u32 {
        self.message().get::<Lifetime>().unwrap().unwrap().0
    }

    pub(super) fn ticket(&self) -> Vec<u8> {
        let ticket = self.message().get::<MobilityTicket<'_>>().unwrap();
        ticket.unwrap().0.to_vec()
    }

    pub(super) fn connection(&self) -> u32 {
        self.message().get::<ConnectionId>().unwrap().unwrap().0
    }
}

/// What happens at the driver.
#[derive(Debug)]
pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) events: Vec<Event>,
    pub(super) transmits: Vec<Transmit>,
    /// What opening a relay gives, the next ones first; then success.
    pub(super) open_results: Vec<Result<(), OpenError>>,
    next_id: u64,
    nonces: BTreeMap<FiveTuple, (String, Instant)>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: Config) -> Self {
        Self::of(Server::new(start(), [7; 32], config))
    }

    /// The driver of each of these shards.
    pub(super) fn shards(config: Config, count: u16) -> Vec<Self> {
        let shards = Server::shards(start(), [7; 32], config, count);
        shards.into_iter().map(Self::of).collect()
    }

    fn of(server: Server) -> Self {
        let start = start();
        Self {
            server,
            now: start,
            start,
            events: Vec::new(),
            transmits: Vec::new(),
            open_results: Vec::new(),
            next_id: 0,
            nonces: BTreeMap::new(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets time pass, from deadline to deadline.
    pub(super) fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.server.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.server.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(super) fn fresh_id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    /// Does what a driver does: all relays open.
    pub(super) fn drain(&mut self) {
        while let Some(transmit) = self.server.poll_transmit() {
            self.transmits.push(transmit);
        }
        while let Some(event) = self.server.poll_event() {
            if let Event::OpenRelay { relay, .. } = &event {
                let result = if self.open_results.is_empty() {
                    Ok(())
                } else {
                    self.open_results.remove(0)
                };
                self.server.handle_relay_opened(self.now, *relay, result);
            }
            self.events.push(event);
            while let Some(transmit) = self.server.poll_transmit() {
                self.transmits.push(transmit);
            }
        }
    }

    pub(super) fn raw(&mut self, at: &FiveTuple, bytes: &[u8]) -> Option<Reply> {
        self.transmits.clear();
        self.server.handle_input(self.now, at, bytes);
        self.drain();
        // A late answer to an earlier request may be among them.
        let id = bytes.get(8..20);
        let reply = self
            .transmits
            .iter()
            .find(|transmit| transmit.client == *at && transmit.payload.get(8..20) == id);
        reply.map(|transmit| Reply(transmit.payload.clone()))
    }

    /// A nonce that is good for this 5-tuple.
    pub(super) fn nonce(&mut self, at: &FiveTuple) -> String {
        let id = self.fresh_id();
        let bytes = Builder::new(Class::Request, Method::ALLOCATE, id).build();
        let reply = self.raw(at, &bytes).unwrap();
        assert_eq!(reply.code(), 401);
        let message = reply.message();
        let nonce = message.get::<Nonce<'_>>().unwrap().unwrap();
        nonce.as_str().to_owned()
    }

    /// The nonce that was good a while ago.
    fn known_nonce(&mut self, at: &FiveTuple) -> String {
        let known = self.nonces.get(at);
        let fresh = known.filter(|(_, since)| self.now - *since < Duration::from_secs(600));
        if let Some((nonce, _)) = fresh {
            return nonce.clone();
        }
        let nonce = self.nonce(at);
        self.nonces.insert(*at, (nonce.clone(), self.now));
        nonce
    }

    /// Another shard has given this nonce.
    pub(super) fn nonces_known(&mut self, at: &FiveTuple, nonce: &str) {
        self.nonces.insert(*at, (nonce.to_owned(), self.now));
    }

    /// Signs and sends a request, and gives the response to it.
    pub(super) fn ask(
        &mut self,
        from: &Client,
        method: Method,
        fill: impl FnOnce(Builder<Open>) -> Builder<Open>,
    ) -> Option<Reply> {
        let id = self.fresh_id();
        self.ask_as(from, method, id, fill)
    }

    pub(super) fn ask_as(
        &mut self,
        from: &Client,
        method: Method,
        id: TransactionId,
        fill: impl FnOnce(Builder<Open>) -> Builder<Open>,
    ) -> Option<Reply> {
        let nonce = self.known_nonce(&from.at);
        let key = Key::md5(&from.user, REALM, &from.password);
        let bytes = fill(Builder::new(Class::Request, method, id))
            .attribute(&Username::new(&from.user).unwrap())
            .attribute(&Realm::new(REALM).unwrap())
            .attribute(&Nonce::new(&nonce).unwrap())
            .message_integrity(key.as_bytes())
            .build();
        let reply = self.raw(&from.at, &bytes)?;
        assert_eq!(reply.message().transaction_id(), id);
        let sealed = reply.message().verify_integrity(key.as_bytes()).is_ok();
        assert!(sealed || matches!(reply.code(), 400 | 401 | 438));
        Some(reply)
    }

    /// The same with everything of RFC 8489: USERHASH, SHA-256.
    pub(super) fn ask_sha256(
        &mut self,
        from: &Client,
        method: Method,
        fill: impl FnOnce(Builder<Open>) -> Builder<Open>,
    ) -> Reply {
        let (id, nonce) = (self.fresh_id(), self.nonce(&from.at));
        let key = Key::sha256(&from.user, REALM, &from.password);
        let bytes = fill(Builder::new(Class::Request, method, id))
            .attribute(&Userhash::new(&from.user, REALM))
            .attribute(&Realm::new(REALM).unwrap())
            .attribute(&Nonce::new(&nonce).unwrap())
            .raw_attribute(
                AttributeType::PASSWORD_ALGORITHMS,
                &[0, 2, 0, 0, 0, 1, 0, 0],
            )
            .attribute(&PasswordAlgorithm::new(Algorithm::SHA256, &[]).unwrap())
            .message_integrity_sha256(key.as_bytes())
            .build();
        let reply = self.raw(&from.at, &bytes).unwrap();
        assert_eq!(
            reply.message().verify_integrity_sha256(key.as_bytes()),
            Ok(())
        );
        reply
    }

    pub(super) fn allocate(&mut self, from: &Client) -> Reply {
        let reply = self.try_allocate(from);
        assert_eq!(reply.code(), 0);
        reply
    }

    pub(super) fn try_allocate(&mut self, from: &Client) -> Reply {
        self.ask(from, Method::ALLOCATE, |request| {
            request.attribute(&RequestedTransport::UDP)
        })
        .unwrap()
    }

    pub(super) fn allocate_tcp(&mut self, from: &Client) -> Reply {
        let reply = self
            .ask(from, Method::ALLOCATE, |request| {
                request.attribute(&RequestedTransport::TCP)
            })
            .unwrap();
        assert_eq!(reply.code(), 0);
        reply
    }

    pub(super) fn permit(&mut self, from: &Client, peers: &[&str]) -> u16 {
        self.ask(from, Method::CREATE_PERMISSION, |request| {
            peers.iter().fold(request, |request, peer| {
                request.attribute(&XorPeerAddress(addr(peer)))
            })
        })
        .unwrap()
        .code()
    }

    pub(super) fn bind(&mut self, from: &Client, number: u16, peer: &str) -> u16 {
        self.ask(from, Method::CHANNEL_BIND, |request| {
            request
                .attribute(&channel(number))
                .attribute(&XorPeerAddress(addr(peer)))
        })
        .unwrap()
        .code()
    }

    pub(super) fn refresh(&mut self, from: &Client, lifetime: u32) -> Reply {
        self.ask(from, Method::REFRESH, |request| {
            request.attribute(&Lifetime(lifetime))
        })
        .unwrap()
    }

    /// Sends data on a channel, and says where it goes.
    pub(super) fn channel_data(&mut self, from: &Client, number: u16) -> Option<Forward> {
        let bytes = ChannelData {
            channel: channel(number),
            data: b"data",
        }
        .to_datagram();
        self.forwarded(&from.at, &bytes)
    }

    /// Sends data in an indication, and says where it goes.
    pub(super) fn send(&mut self, from: &Client, to: &str) -> Option<Forward> {
        let id = self.fresh_id();
        let bytes = Builder::new(Class::Indication, Method::SEND, id)
            .attribute(&XorPeerAddress(addr(to)))
            .attribute(&Data(b"data"))
            .build();
        self.forwarded(&from.at, &bytes)
    }

    pub(super) fn forwarded(&mut self, at: &FiveTuple, bytes: &[u8]) -> Option<Forward> {
        match self.server.handle_input(self.now, at, bytes) {
            Handled::Forward(forward, data) => {
                assert_eq!(data, b"data");
                Some(forward)
            }
            Handled::Consumed | Handled::NotMine => None,
        }
    }

    /// Lets a peer send to a relay, and says where it goes.
    pub(super) fn peer_sends(&mut self, relay: RelayId, from: &str) -> Option<Backward> {
        self.server
            .peer_data(self.now, relay, peer(from), Load::one(4))
    }

    /// The relays that were asked for, in order.
    pub(super) fn relays(&self) -> Vec<RelayId> {
        let opened = self.events.iter().filter_map(|event| match event {
            Event::OpenRelay { relay, .. } => Some(*relay),
            _ => None,
        });
        opened.collect()
    }

    pub(super) fn last_relay(&self) -> RelayId {
        *self.relays().last().unwrap()
    }

    pub(super) fn closed_relays(&self) -> Vec<RelayId> {
        let closed = self.events.iter().filter_map(|event| match event {
            Event::CloseRelay { relay } => Some(*relay),
            _ => None,
        });
        closed.collect()
    }

    pub(super) fn closed_connections(&self) -> Vec<PeerConnection> {
        let closed = self.events.iter().filter_map(|event| match event {
            Event::CloseConnection { connection } => Some(*connection),
            _ => None,
        });
        closed.collect()
    }

    /// The last connection that was asked for.
    pub(super) fn connecting(&self) -> PeerConnection {
        let asked = self.events.iter().rev().find_map(|event| match event {
            Event::Connect { connection, .. } => Some(*connection),
            _ => None,
        });
        asked.unwrap()
    }
}
