//! The TURN server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{
    AttributeType, Builder, Class, Message, Method, Nonce, Realm, TransactionId, Username,
};
use postern_wire::turn::ConnectionId;

use crate::stun::{Credentials, Key};
use crate::turn::server::{
    ClientAddr, Config, ConnectError, Event, FiveTuple, Handled, Limits, Load, OpenError, PeerAddr,
    PeerConnection, Quotas, RelayAddress, RelayId, Server, Transport,
};

const REALM: &str = "realm";
/// The most allocations that the quota leaves: what a fuzzer fills quickly.
const MAX_ALLOCATIONS: u32 = 8;
/// Steps after which a run ends.
const MAX_STEPS: usize = 200;

/// Drives a server with steps read from the bytes: what, from whom, how many bytes, and
/// the bytes. Nothing panics, and no bound is passed.
pub fn machine_turn_server(data: &[u8]) {
    let Some(mut run) = Run::new() else {
        return;
    };
    let mut rest = data;
    for _ in 0..MAX_STEPS {
        let Some(([what, who, length], behind)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::from(*length).min(behind.len());
        let (payload, behind) = behind.split_at(length);
        run.step(*what, *who, payload);
        run.check();
        rest = behind;
    }
    run.end();
}

struct Run {
    server: Server,
    now: Instant,
    relays: Vec<RelayId>,
    connections: Vec<PeerConnection>,
}

impl Run {
    fn new() -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        let now = Instant::now();
        let mut config = Config {
            credentials: credentials()?,
            relay_v4: Some(RelayAddress::new(Ipv4Addr::new(198, 51, 100, 1).into())),
            relay_v6: Some(RelayAddress::new(
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            )),
            unproven_allowance: None,
            ..Config::default()
        };
        config.quotas = Quotas {
            total: Limits {
                allocations: MAX_ALLOCATIONS,
                ..Limits::default()
            },
            ..Quotas::default()
        };
        Some(Self {
            server: Server::new(now, [1; 32], config),
            now,
            relays: Vec::new(),
            connections: Vec::new(),
        })
    }

    fn step(&mut self, what: u8, who: u8, payload: &[u8]) {
        let client = client(who);
        match what % 8 {
            0 => self.input(&client, payload),
            1..=4 => self.request(&client, what, payload),
            5 => self.peer_sends(who, payload),
            6 => self.driver(who, payload),
            _ => self.pass(who),
        }
        self.drain(what);
    }

    fn input(&mut self, client: &FiveTuple, payload: &[u8]) {
        if let Handled::Forward(forward, data) = self.server.handle_input(self.now, client, payload)
        {
            assert!(data.len() <= payload.len());
            assert_ne!(forward.peer.0.port(), 0);
        }
    }

    /// A request with these attributes, sealed as the server wants it.
    fn request(&mut self, client: &FiveTuple, what: u8, attributes: &[u8]) {
        let Some(nonce) = self.nonce(client) else {
            return;
        };
        let methods = [
            Method::ALLOCATE,
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
            Method::CONNECT,
            Method::CONNECTION_BIND,
        ];
        let method = methods.get(usize::from(what / 8 % 6)).copied();
        let id = TransactionId([what; 12]);
        let request = Builder::new(Class::Request, method.unwrap_or(Method::ALLOCATE), id);
        let request = self.with_attributes(request, attributes);
        let user = if what < 200 { "alice" } else { "bob" };
        let (Ok(name), Ok(realm), Ok(nonce)) =
            (Username::new(user), Realm::new(REALM), Nonce::new(&nonce))
        else {
            return;
        };
        let bytes = request
            .attribute(&name)
            .attribute(&realm)
            .attribute(&nonce)
            .message_integrity(Key::md5(user, REALM, "password").as_bytes())
            .build();
        self.input(client, &bytes);
    }

    /// Each attribute is two bytes of type, one of length, and the value. A CONNECTION-ID
    /// is one that exists, if there is one.
    fn with_attributes(&self, mut request: Builder, mut rest: &[u8]) -> Builder {
        while let Some(([t0, t1, length], behind)) = rest.split_first_chunk() {
            let kind = AttributeType(u16::from_be_bytes([*t0, *t1]));
            let (value, behind) = behind.split_at(usize::from(*length).min(behind.len()));
            rest = behind;
            request = match self.connections.last() {
                Some(connection) if kind == AttributeType::CONNECTION_ID => {
                    request.attribute(&ConnectionId(connection.number()))
                }
                _ => request.raw_attribute(kind, value),
            };
        }
        request
    }

    fn nonce(&mut self, client: &FiveTuple) -> Option<String> {
        let id = TransactionId([0; 12]);
        let bytes = Builder::new(Class::Request, Method::ALLOCATE, id).build();
        self.server.handle_input(self.now, client, &bytes);
        let mut last = None;
        while let Some(transmit) = self.server.poll_transmit() {
            last = Some(transmit.payload);
        }
        let last = last?;
        let message = Message::parse(&last).ok()?;
        let nonce = message.get::<Nonce<'_>>().ok()??;
        Some(nonce.as_str().to_owned())
    }

    fn peer_sends(&mut self, who: u8, payload: &[u8]) {
        let peer = peer(payload);
        for relay in self.relays.clone() {
            self.server
                .peer_data(self.now, relay, peer, Load::one(payload.len()));
            if who & 1 != 0 {
                let came = self.server.handle_peer_connected(self.now, relay, peer);
                self.connections.extend(came);
            }
        }
    }

    fn driver(&mut self, who: u8, payload: &[u8]) {
        let connection = self.connections.pop();
        match (who % 4, connection) {
            (0, _) => self.server.handle_client_closed(self.now, &client(who)),
            (1, Some(connection)) => self.server.handle_connection_closed(connection),
            (2, Some(connection)) => {
                let result = Err(ConnectError::Failed);
                self.server.handle_connected(self.now, connection, result);
            }
            (_, Some(connection)) => {
                self.server.handle_connected(self.now, connection, Ok(()));
                self.connections.push(connection);
                self.server
                    .connection_data(self.now, connection, payload.len());
            }
            (_, None) => {}
        }
    }

    fn pass(&mut self, seconds: u8) {
        let step = Duration::from_secs(u64::from(seconds).saturating_mul(5));
        self.now = self.now.checked_add(step).unwrap_or(self.now);
        if seconds & 1 == 0 {
            self.server.handle_timeout(self.now);
        }
    }

    fn drain(&mut self, what: u8) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::OpenRelay { relay, .. } => self.opened(relay, what),
                Event::CloseRelay { relay } => self.relays.retain(|open| *open != relay),
                Event::Connect { connection, .. } => self.connections.push(connection),
                Event::CloseConnection { connection } => {
                    self.connections.retain(|open| *open != connection);
                }
                Event::Splice { .. } => {}
            }
        }
        while let Some(transmit) = self.server.poll_transmit() {
            assert!(Message::parse(&transmit.payload).is_ok());
        }
    }

    fn opened(&mut self, relay: RelayId, what: u8) {
        let result = match what % 5 {
            0 => Err(OpenError::AddressInUse),
            1 => Err(OpenError::Unavailable),
            _ => Ok(()),
        };
        if result.is_ok() {
            self.relays.push(relay);
        }
        self.server.handle_relay_opened(self.now, relay, result);
    }

    fn check(&self) {
        assert!(self.server.allocations() <= MAX_ALLOCATIONS);
    }

    /// When everything has run out, nothing is left.
    fn end(mut self) {
        let day = Duration::from_secs(86_400);
        self.now = self.now.checked_add(day).unwrap_or(self.now);
        self.server.handle_timeout(self.now);
        self.drain(2);
        assert_eq!(self.server.allocations(), 0);
        assert_eq!(self.server.poll_timeout(), None);
    }
}

fn credentials() -> Option<Credentials> {
    let nobody = Credentials::new(REALM).ok()?;
    let alice = nobody.with_user("alice", "password").ok()?;
    alice.with_user("bob", "password").ok()
}

fn client(who: u8) -> FiveTuple {
    let transports = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Dtls,
        Transport::Tls,
    ];
    let transport = transports.get(usize::from(who % 4)).copied();
    FiveTuple {
        transport: transport.unwrap_or(Transport::Udp),
        client: ClientAddr(SocketAddr::new(
            Ipv4Addr::new(203, 0, 113, 1).into(),
            u16::from(who / 4),
        )),
        server: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 3478),
    }
}

/// A peer from the first bytes.
fn peer(bytes: &[u8]) -> PeerAddr {
    let [a, b, c, d, p, ..] = *bytes.first_chunk::<5>().unwrap_or(&[8, 8, 8, 8, 1]);
    PeerAddr(SocketAddr::new(
        Ipv4Addr::new(a, b, c, d).into(),
        u16::from(p),
    ))
}
