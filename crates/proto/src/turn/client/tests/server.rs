//! A small TURN server that does what a test tells it to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{
    AlternateServer, AttributeType, Builder, Class, ErrorCode, Message, Method, Nonce,
    PasswordAlgorithm, Realm, UnknownAttributes, Userhash, Username, XorMappedAddress,
    long_term_key_md5, long_term_key_sha256,
};
use postern_wire::turn::{
    AdditionalAddressFamily, ChannelData, ChannelNumber, ConnectionId, Data, Lifetime,
    MobilityTicket, ReservationToken, XorPeerAddress, XorRelayedAddress,
};

use super::{at, secs};

pub(super) const USER: &str = "user";
pub(super) const PASSWORD: &str = "pass";
const REALM: &str = "example.org";

/// How the server asks for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    Open,
    Md5,
    Sha256,
    Anonymous,
    /// The bit of PASSWORD-ALGORITHMS in the nonce, but not the attribute.
    BidDown,
    /// Only an algorithm that nobody knows.
    Exotic,
}

pub(super) struct Server {
    pub(super) auth: Auth,
    /// Counts up with each stale nonce.
    pub(super) nonce: u32,
    pub(super) lifetime: u32,
    /// Every request refused with a stale nonce.
    pub(super) always_stale: bool,
    /// What to answer to the next requests, in place of doing them.
    pub(super) errors: VecDeque<(Method, u16)>,
    /// Requests of these methods get no answer.
    pub(super) deaf: BTreeSet<u16>,
    pub(super) forbidden: BTreeSet<IpAddr>,
    pub(super) redirect: Option<SocketAddr>,
    pub(super) no_dont_fragment: bool,
    pub(super) unsigned: bool,
    pub(super) client: Option<SocketAddr>,
    pub(super) permissions: BTreeMap<IpAddr, Instant>,
    pub(super) channels: BTreeMap<ChannelNumber, (SocketAddr, Instant)>,
    pub(super) ticket: Vec<u8>,
    /// What went to peers: the peer, the data, and whether it came in a channel.
    pub(super) relayed: Vec<(SocketAddr, Vec<u8>, bool)>,
    /// Requests that were believed.
    pub(super) done: Vec<(Duration, Method)>,
    /// All requests that came.
    pub(super) asked: Vec<Vec<u8>>,
}

impl Server {
    pub(super) fn new(auth: Auth) -> Self {
        Self {
            auth,
            nonce: 0,
            lifetime: 600,
            always_stale: false,
            errors: VecDeque::new(),
            deaf: BTreeSet::new(),
            forbidden: BTreeSet::new(),
            redirect: None,
            no_dont_fragment: false,
            unsigned: false,
            client: None,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            ticket: b"one".to_vec(),
            relayed: Vec::new(),
            done: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn nonce(&self) -> String {
        let features = match self.auth {
            Auth::Open | Auth::Md5 => return format!("n{}", self.nonce),
            Auth::Sha256 | Auth::BidDown | Auth::Exotic => "AAAB",
            Auth::Anonymous => "AAAD",
        };
        format!("obMatJos2{features}{}", self.nonce)
    }

    fn key(&self) -> Vec<u8> {
        match self.auth {
            Auth::Open => Vec::new(),
            Auth::Md5 => long_term_key_md5(USER, REALM, PASSWORD).to_vec(),
            _ => long_term_key_sha256(USER, REALM, PASSWORD).to_vec(),
        }
    }

    /// Whether a request is authentic, or the code to refuse it with.
    fn check(&self, message: &Message<'_>) -> Result<(), u16> {
        if self.auth == Auth::Open {
            return Ok(());
        }
        let Ok(Some(nonce)) = message.get::<Nonce<'_>>() else {
            return Err(401);
        };
        if nonce.as_str() != self.nonce() || self.always_stale {
            return Err(438);
        }
        assert_eq!(message.get::<Realm<'_>>().unwrap().unwrap().as_str(), REALM);
        let hash = message.get::<Userhash>().unwrap();
        let name = message.get::<Username<'_>>().unwrap();
        if self.auth == Auth::Anonymous {
            assert_eq!((hash, name), (Some(Userhash::new(USER, REALM)), None));
        } else {
            assert_eq!(name.unwrap().as_str(), USER);
        }
        let verified = if self.auth == Auth::Md5 {
            message.verify_integrity(&self.key())
        } else {
            let raw = message.raw(AttributeType::PASSWORD_ALGORITHMS);
            assert_eq!(raw, Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
            let chosen = message.get::<PasswordAlgorithm<'_>>().unwrap().unwrap();
            assert_eq!(chosen.algorithm().0, 2);
            message.verify_integrity_sha256(&self.key())
        };
        verified.map_err(|_| 401)
    }

    fn challenge(&self, message: &Message<'_>, code: u16) -> Vec<u8> {
        let refusal = Builder::new(Class::Error, message.method(), message.transaction_id())
            .attribute(&ErrorCode::new(code, "").unwrap())
            .attribute(&Realm::new(REALM).unwrap())
            .attribute(&Nonce::new(&self.nonce()).unwrap());
        match self.auth {
            Auth::Open | Auth::Md5 | Auth::BidDown => refusal.build(),
            Auth::Exotic => refusal
                .raw_attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 99, 0, 0])
                .build(),
            Auth::Sha256 | Auth::Anonymous => refusal
                .raw_attribute(
                    AttributeType::PASSWORD_ALGORITHMS,
                    &[0, 2, 0, 0, 0, 1, 0, 0],
                )
                .build(),
        }
    }

    pub(super) fn seal(&self, response: Builder) -> Vec<u8> {
        match self.auth {
            _ if self.unsigned => response.build(),
            Auth::Open => response.build(),
            Auth::Md5 => response.message_integrity(&self.key()).build(),
            _ => response.message_integrity_sha256(&self.key()).build(),
        }
    }

    /// Takes one message and returns the answer.
    pub(super) fn handle(
        &mut self,
        start: Instant,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        if let Ok(frame) = ChannelData::parse(bytes) {
            let (peer, until) = *self.channels.get(&frame.channel)?;
            assert!(now < until, "the channel is over");
            self.relayed.push((peer, frame.data.to_vec(), true));
            return None;
        }
        let message = Message::parse(bytes).unwrap();
        if message.class() == Class::Indication {
            self.on_send(now, &message);
            return None;
        }
        self.asked.push(bytes.to_vec());
        if self.deaf.contains(&message.method().number()) {
            return None;
        }
        if let Err(code) = self.check(&message) {
            return Some(self.challenge(&message, code));
        }
        self.done.push((now - start, message.method()));
        let refusal = self.errors.front().copied();
        let refusal = refusal.filter(|(method, _)| *method == message.method());
        let result = match refusal {
            Some((_, code)) => {
                self.errors.pop_front();
                Err(code)
            }
            None => self.carry_out(now, from, &message),
        };
        let answer = result.unwrap_or_else(|code| self.refuse(&message, code));
        Some(self.seal(answer))
    }

    fn refuse(&self, message: &Message<'_>, code: u16) -> Builder {
        let refusal = Builder::new(Class::Error, message.method(), message.transaction_id())
            .attribute(&ErrorCode::new(code, "").unwrap());
        let unknown: UnknownAttributes = [AttributeType::DONT_FRAGMENT].into_iter().collect();
        let refusal = refusal.maybe_attribute((code == 420).then_some(unknown).as_ref());
        let redirect = self.redirect.filter(|_| code == 300);
        refusal.maybe_attribute(redirect.map(AlternateServer).as_ref())
    }

    fn on_send(&mut self, now: Instant, message: &Message<'_>) {
        let XorPeerAddress(peer) = message.get().unwrap().unwrap();
        let Data(data) = message.get().unwrap().unwrap();
        let until = self.permissions.get(&peer.ip());
        assert!(until.is_some_and(|until| now < *until), "no permission");
        self.relayed.push((peer, data.to_vec(), false));
    }

    fn carry_out(
        &mut self,
        now: Instant,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> Result<Builder, u16> {
        let success = Builder::new(Class::Success, message.method(), message.transaction_id());
        let peer = message.get::<XorPeerAddress>().unwrap().map(|p| p.0);
        if peer.is_some_and(|peer| self.forbidden.contains(&peer.ip())) {
            return Err(403);
        }
        let known = self.client == Some(from);
        match message.method() {
            Method::ALLOCATE => self.allocate(from, message, success),
            Method::REFRESH => self.refresh(from, message, success),
            _ if !known && message.method() != Method::CONNECTION_BIND => Err(437),
            Method::CREATE_PERMISSION => {
                self.permissions.insert(peer.unwrap().ip(), now + secs(300));
                Ok(success)
            }
            Method::CHANNEL_BIND => {
                let number = message.get::<ChannelNumber>().unwrap().unwrap();
                let peer = peer.unwrap();
                self.permissions.insert(peer.ip(), now + secs(300));
                self.channels.insert(number, (peer, now + secs(600)));
                Ok(success)
            }
            Method::CONNECT => Ok(success.attribute(&ConnectionId(7))),
            Method::CONNECTION_BIND => Ok(success),
            method => panic!("{method:?}"),
        }
    }

    fn allocate(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        success: Builder,
    ) -> Result<Builder, u16> {
        if self.redirect.is_some() {
            return Err(300);
        }
        if self.no_dont_fragment && message.contains(AttributeType::DONT_FRAGMENT) {
            return Err(420);
        }
        self.client = Some(from);
        let both = message.get::<AdditionalAddressFamily>().unwrap();
        let even = message.contains(AttributeType::EVEN_PORT);
        let mobile = message.contains(AttributeType::MOBILITY_TICKET);
        let v6 = XorRelayedAddress(at("[2001:db8::9]:50000"));
        Ok(success
            .attribute(&XorRelayedAddress(at("198.51.100.9:50000")))
            .maybe_attribute(both.map(|_| v6).as_ref())
            .attribute(&XorMappedAddress(from))
            .attribute(&Lifetime(self.lifetime))
            .maybe_attribute(even.then_some(ReservationToken(*b"reserved")).as_ref())
            .maybe_attribute(mobile.then_some(MobilityTicket(&self.ticket)).as_ref()))
    }

    fn refresh(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        success: Builder,
    ) -> Result<Builder, u16> {
        let ticket = message.get::<MobilityTicket<'_>>().unwrap();
        if ticket.is_some_and(|ticket| ticket.0 == self.ticket) {
            self.client = Some(from);
            self.ticket = b"two".to_vec();
        } else if self.client != Some(from) {
            return Err(437);
        }
        let asked = message.get::<Lifetime>().unwrap();
        let lifetime = asked.map_or(self.lifetime, |l| l.0.min(self.lifetime));
        if lifetime == 0 {
            self.client = None;
        }
        let moved = ticket.map(|_| MobilityTicket(&self.ticket));
        Ok(success
            .attribute(&Lifetime(lifetime))
            .maybe_attribute(moved.as_ref()))
    }
}
