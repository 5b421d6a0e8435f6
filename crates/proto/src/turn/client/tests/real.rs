//! The client and the real server machine, with nothing between them.

use std::collections::BTreeMap;

use postern_wire::turn::{AddressFamily, ConnectionId, DataHeader};

use super::super::stream::Reassembly;
use super::*;
use crate::stun;
use crate::turn::server::{
    self, Alternates, ClientAddr, FiveTuple, Framing, Handled, Load, PeerAddr, PeerConnection,
    RelayAddress, RelayId, Server,
};

const PEER: &str = "8.8.8.8:4000";
const CLIENT: &str = "203.0.113.5:40000";

struct Together {
    now: Instant,
    client: Client,
    server: Server,
    relays: BTreeMap<SocketAddr, RelayId>,
    /// What each of the client's streams has not been cut into messages yet.
    streams: BTreeMap<SocketAddr, Reassembly>,
    /// Messages of the client.
    asked: usize,
    /// What reached peers.
    relayed: Vec<(SocketAddr, Vec<u8>)>,
    connects: Vec<(PeerConnection, SocketAddr)>,
    spliced: Vec<SocketAddr>,
    events: Vec<Event>,
}

fn credentials() -> Credentials {
    Credentials::new(USER, PASSWORD).unwrap()
}

fn wishes(transport: Transport) -> Config {
    Config {
        transport,
        ..Config::new(at(CLIENT), at(SERVER), Some(credentials()))
    }
}

fn users() -> stun::Credentials {
    let users = stun::Credentials::new("example.org").unwrap();
    let users = users.with_user(USER, PASSWORD).unwrap();
    users.with_secret(b"secret")
}

/// The client's wishes when a server that knows the secret has introduced it as `ip`.
fn introduced(ip: &str, transport: Transport) -> Config {
    let day = Duration::from_secs(86_400);
    let issued = users().issue(Duration::ZERO, day, Some("id")).unwrap();
    let credentials = Credentials::new(&issued.username, &issued.password).unwrap();
    Config {
        credentials: Some(credentials),
        challenge: users().challenge(Duration::ZERO, ip.parse().unwrap()),
        ..wishes(transport)
    }
}

fn real_server(now: Instant) -> Server {
    let config = server::Config {
        credentials: users(),
        relay_v4: Some(RelayAddress::new([198, 51, 100, 1].into())),
        relay_v6: Some(RelayAddress::new("2001:db8::1".parse().unwrap())),
        ..server::Config::default()
    };
    Server::new(now, [8; 32], config)
}

impl Together {
    fn new(config: Config) -> Self {
        let now = epoch();
        let mut both = Self {
            now,
            client: Client::new(now, [4; 32], config),
            server: real_server(now),
            relays: BTreeMap::new(),
            streams: BTreeMap::new(),
            asked: 0,
            relayed: Vec::new(),
            connects: Vec::new(),
            spliced: Vec::new(),
            events: Vec::new(),
        };
        both.pump();
        both
    }

    fn stream(&self) -> bool {
        self.client.config.transport == Transport::Stream
    }

    fn five_tuple(&self, local: SocketAddr) -> FiveTuple {
        let transport = if self.stream() {
            server::Transport::Tcp
        } else {
            server::Transport::Udp
        };
        FiveTuple {
            transport,
            client: ClientAddr(local),
            server: at(SERVER),
        }
    }

    fn up(&mut self, transmit: &Transmit) {
        if !self.stream() {
            self.message(transmit.local, &transmit.payload);
            return;
        }
        let mut stream = self.streams.remove(&transmit.local).unwrap_or_default();
        stream.push(&transmit.payload);
        while let Some(message) = stream.next().unwrap() {
            self.message(transmit.local, &message);
        }
        self.streams.insert(transmit.local, stream);
    }

    fn message(&mut self, local: SocketAddr, bytes: &[u8]) {
        let client = self.five_tuple(local);
        self.asked += 1;
        if let Handled::Forward(to, data) = self.server.handle_input(self.now, &client, bytes) {
            self.relayed.push((to.peer.0, data.to_vec()));
        }
    }

    /// Lets both talk until neither has anything to say.
    fn pump(&mut self) {
        loop {
            let mut idle = true;
            while let Some(transmit) = self.client.poll_transmit() {
                idle = false;
                self.up(&transmit);
            }
            while let Some(transmit) = self.server.poll_transmit() {
                idle = false;
                self.down(transmit.client.client.0, &transmit.payload);
            }
            while let Some(event) = self.server.poll_event() {
                idle = false;
                self.obey(event);
            }
            self.events
                .extend(std::iter::from_fn(|| self.client.poll_event()));
            if idle {
                return;
            }
        }
    }

    fn down(&mut self, local: SocketAddr, payload: &[u8]) {
        let remote = self.client.server();
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.client.handle_input(self.now, datagram);
    }

    fn obey(&mut self, event: server::Event) {
        match event {
            server::Event::OpenRelay { relay, address, .. } => {
                self.relays.insert(address, relay);
                self.server.handle_relay_opened(self.now, relay, Ok(()));
            }
            server::Event::Connect { connection, to, .. } => {
                self.connects.push((connection, to.0));
            }
            server::Event::Splice { client, .. } => self.spliced.push(client.client.0),
            server::Event::CloseRelay { .. } | server::Event::CloseConnection { .. } => {}
        }
    }

    /// Lets time pass in steps of 10 s, with a datagram each way in each of them.
    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += secs(10);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            self.pump();
            self.send(PEER, b"alive");
            self.back(PEER, b"yes");
        }
    }

    fn send(&mut self, peer: &str, data: &[u8]) {
        if let Some(transmit) = self.client.send(self.now, at(peer), data).unwrap() {
            self.up(&transmit);
        }
        self.pump();
    }

    /// A peer sends to the relayed address.
    fn back(&mut self, peer: &str, data: &[u8]) {
        let relayed = self.client.allocation().unwrap().relayed;
        let peer = PeerAddr(at(peer));
        let relay = self.relays[&relayed];
        let backward = self
            .server
            .peer_data(self.now, relay, peer, Load::one(data.len()));
        let Some(backward) = backward else {
            return;
        };
        let payload = match backward.framing {
            Framing::Channel(channel) => {
                let frame = ChannelData { channel, data };
                if self.stream() {
                    frame.to_stream()
                } else {
                    frame.to_datagram()
                }
            }
            Framing::Indication(PeerAddr(peer)) => {
                let id = self.server.indication_id();
                let header = DataHeader::data(peer, id, data.len()).unwrap();
                let padding = vec![0; header.padding()];
                [header.as_bytes(), data, &padding].concat()
            }
        };
        self.down(backward.client.client.0, &payload);
        self.pump();
    }

    fn received(&self) -> usize {
        let data = |e: &&Event| matches!(e, Event::Data { .. });
        self.events.iter().filter(data).count()
    }

    fn has(&self, event: &Event) -> bool {
        self.events.contains(event)
    }
}

#[test]
fn data_flows_for_hours_over_datagrams_and_streams() {
    for transport in [Transport::Datagram, Transport::Stream] {
        let mut both = Together::new(wishes(transport));
        assert!(both.client.allocation().is_some(), "{:?}", both.events);
        both.live(secs(7200));
        assert_eq!(both.relayed.len(), 720);
        assert_eq!(both.received(), 720);
        let failed = |e: &Event| matches!(e, Event::Failed(_) | Event::PeerRefused { .. });
        assert!(!both.events.iter().any(failed), "{:?}", both.events);
        let peer = at(PEER);
        assert!(both.client.channel_of(both.now, peer).is_some());
    }
}

#[test]
fn closing_leaves_nothing_at_the_server() {
    let mut both = Together::new(wishes(Transport::Datagram));
    assert_eq!(both.server.allocations(), 1);
    both.client.close(both.now);
    both.pump();
    assert_eq!(both.server.allocations(), 0);
    assert!(both.has(&Event::Closed));
}

#[test]
fn the_server_denies_private_peers_one_by_one() {
    let mut both = Together::new(wishes(Transport::Datagram));
    for peer in ["192.168.1.1", "8.8.8.8", "127.0.0.1"] {
        both.client.permit(both.now, peer.parse().unwrap()).unwrap();
    }
    both.pump();
    for peer in ["192.168.1.1", "127.0.0.1"] {
        assert!(both.has(&Event::PeerRefused {
            peer: peer.parse().unwrap(),
            failure: Failure::Forbidden
        }));
    }
    assert!(both.client.is_permitted(at(PEER).ip()));
}

#[test]
fn both_families_and_reservations_are_given() {
    let mut config = wishes(Transport::Datagram);
    config.additional_ipv6 = true;
    let mut both = Together::new(config);
    let allocation = both.client.allocation().unwrap().clone();
    assert!(allocation.relayed.is_ipv4());
    assert!(allocation.additional.unwrap().is_ipv6());
    let v6 = at("[2606:4700::1111]:53000").ip();
    assert_eq!(both.client.relayed_for(v6), allocation.additional);
    assert_eq!(
        both.client.relayed_for(at(PEER).ip()),
        Some(allocation.relayed)
    );
    both.send("[2606:4700::1111]:53000", b"six");
    assert_eq!(both.relayed.len(), 1);
    let mut config = wishes(Transport::Datagram);
    config.even_port = Some(true);
    let both = Together::new(config);
    let allocation = both.client.allocation().unwrap();
    assert!(allocation.relayed.port().is_multiple_of(2));
    assert!(allocation.reservation.is_some());
    let mut config = wishes(Transport::Datagram);
    config.family = Some(AddressFamily::V6);
    let both = Together::new(config);
    assert!(both.client.allocation().unwrap().relayed.is_ipv6());
}

#[test]
fn an_allocation_moves_with_its_client() {
    let mut config = wishes(Transport::Datagram);
    config.mobility = true;
    let mut both = Together::new(config);
    both.live(secs(30));
    for moved in ["203.0.113.77:1000", "203.0.113.78:2000"] {
        both.events.clear();
        both.client.moved(both.now, at(moved));
        both.pump();
        assert!(both.has(&Event::Moved), "{:?}", both.events);
        both.live(secs(1200));
        assert_eq!(both.received(), 120);
    }
    assert_eq!(both.server.allocations(), 1);
}

#[test]
fn a_server_that_drains_sends_the_client_on() {
    let mut both = Together::new(wishes(Transport::Datagram));
    both.client.close(both.now);
    both.pump();
    let other = at("192.0.2.2:3478");
    both.server.drain(Alternates {
        v4: Some(other),
        v6: None,
    });
    both.client = Client::new(both.now, [5; 32], wishes(Transport::Datagram));
    both.pump();
    let redirected = |e: &Event| matches!(e, Event::Redirected { server, .. } if *server == other);
    assert!(both.events.iter().any(redirected), "{:?}", both.events);
}

fn tcp() -> Together {
    let mut config = wishes(Transport::Stream);
    config.relay = Relay::Tcp;
    Together::new(config)
}

fn bound(both: &Together, id: ConnectionId) -> bool {
    let bound = |e: &Event| matches!(e, Event::ConnectionBound { id: it, .. } if *it == id);
    both.events.iter().any(bound)
}

#[test]
fn a_tcp_relay_connects_to_a_peer_and_joins_the_connections() {
    let mut both = tcp();
    both.client.permit(both.now, at(PEER).ip()).unwrap();
    both.pump();
    both.client.connect(both.now, at(PEER)).unwrap();
    both.pump();
    let (connection, to) = both.connects[0];
    assert_eq!(to, at(PEER));
    both.server.handle_connected(both.now, connection, Ok(()));
    both.pump();
    let id = both.events.iter().find_map(|event| match event {
        Event::Connected { id, .. } => Some(*id),
        _ => None,
    });
    let (id, local) = (id.unwrap(), at("203.0.113.5:40001"));
    both.client.bind_connection(both.now, id, local).unwrap();
    both.pump();
    assert!(bound(&both, id));
    assert_eq!(both.spliced, [local]);
}

#[test]
fn a_tcp_relay_takes_the_connection_of_a_permitted_peer() {
    let mut both = tcp();
    let relay = both.relays[&both.client.allocation().unwrap().relayed];
    let peer = PeerAddr(at(PEER));
    let early = both.server.handle_peer_connected(both.now, relay, peer);
    assert!(early.is_none(), "there is no permission");
    both.client.permit(both.now, at(PEER).ip()).unwrap();
    both.pump();
    let taken = both.server.handle_peer_connected(both.now, relay, peer);
    assert!(taken.is_some());
    both.pump();
    let id = both.events.iter().find_map(|event| match event {
        Event::ConnectionAttempt { id, .. } => Some(*id),
        _ => None,
    });
    let (id, local) = (id.unwrap(), at("203.0.113.5:40002"));
    both.client.bind_connection(both.now, id, local).unwrap();
    both.pump();
    assert!(bound(&both, id));
    assert_eq!(both.spliced, [local]);
}

#[test]
fn who_is_introduced_with_a_challenge_needs_one_request() {
    for transport in [Transport::Datagram, Transport::Stream] {
        let both = Together::new(introduced("203.0.113.5", transport));
        assert!(both.client.allocation().is_some());
        assert_eq!(both.asked, 1, "{transport:?}");
    }
}

#[test]
fn a_challenge_for_another_address_is_of_no_use_and_does_no_harm() {
    for transport in [Transport::Datagram, Transport::Stream] {
        let both = Together::new(introduced("203.0.113.6", transport));
        assert!(both.client.allocation().is_some());
        assert_eq!(both.asked, 2, "{transport:?}");
    }
}

#[test]
fn a_challenge_that_makes_no_sense_is_left_out() {
    let sense = introduced("203.0.113.5", Transport::Datagram);
    let challenge = sense.challenge.clone().unwrap();
    let short = challenge.get(..challenge.len() / 2).unwrap().to_vec();
    for challenge in [Vec::new(), vec![0; 2000], short] {
        let both = Together::new(Config {
            challenge: Some(challenge),
            ..sense.clone()
        });
        assert!(both.client.allocation().is_some());
        assert_eq!(both.asked, 2);
    }
}

/// The realm and the secret may have changed since the introduction.
#[test]
fn a_challenge_of_another_realm_is_replaced_by_the_servers_own() {
    let other = stun::Credentials::new("elsewhere").unwrap();
    let other = other.with_secret(b"other");
    let ip = "203.0.113.5".parse().unwrap();
    let both = Together::new(Config {
        challenge: other.challenge(Duration::ZERO, ip),
        ..introduced("203.0.113.5", Transport::Datagram)
    });
    assert!(both.client.allocation().is_some());
    assert_eq!(both.asked, 2);
}

#[test]
fn a_relay_that_is_doubted_is_asked_and_goes_on() {
    let mut both = Together::new(wishes(Transport::Datagram));
    let asked = both.asked;
    both.client.refresh(both.now);
    both.pump();
    assert_eq!(both.asked, asked + 1);
    assert!(both.client.allocation().is_some());
    both.server = real_server(both.now);
    both.client.refresh(both.now);
    both.pump();
    assert!(both.client.allocation().is_none());
}
