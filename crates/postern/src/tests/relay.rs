//! A TURN server on the simulated internet.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use postern_proto::stun::Credentials;
use postern_proto::turn::server::{
    ClientAddr, Config, Event, FiveTuple, Framing, Handled, Load, PeerAddr, RelayAddress, RelayId,
    Server, Transport,
};
use postern_proto::{Datagram, Transmit};
use postern_wire::signal::RelayServer;
use postern_wire::turn::{ChannelData, DataHeader};
use tokio::sync::mpsc::UnboundedSender;

/// Takes what is for a client, and when it was sent.
pub(super) type ToClient = UnboundedSender<(tokio::time::Instant, Vec<u8>)>;

/// The server's machine, and the relayed addresses that it has opened.
#[derive(Debug)]
pub(super) struct Relay {
    server: Server,
    address: SocketAddr,
    sockets: BTreeMap<SocketAddr, RelayId>,
    transmits: VecDeque<Transmit>,
    streams: BTreeMap<SocketAddr, ToClient>,
    /// Datagrams relayed in either direction.
    pub(super) relayed: u64,
}

impl Relay {
    pub(super) fn new(now: Instant, address: SocketAddr) -> Self {
        Self::with_seed(now, address, 5)
    }

    pub(super) fn with_seed(now: Instant, address: SocketAddr, seed: u8) -> Self {
        let credentials = Credentials::new("example.org").unwrap();
        let config = Config {
            credentials: credentials.with_user("user", "pass").unwrap(),
            relay_v4: Some(RelayAddress::new(address.ip())),
            ..Config::default()
        };
        Self {
            server: Server::new(now, [seed; 32], config),
            address,
            sockets: BTreeMap::new(),
            transmits: VecDeque::new(),
            streams: BTreeMap::new(),
            relayed: 0,
        }
    }

    /// How clients are told of it.
    pub(super) fn offer(address: &str) -> RelayServer {
        RelayServer {
            uri: format!("turn:{address}"),
            also: vec![
                format!("turn:{address}?transport=tcp"),
                format!("turns:{address}?transport=tcp"),
            ],
            username: "user".to_owned(),
            password: "pass".to_owned(),
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) {
        if datagram.local == self.address {
            self.on_client(now, datagram);
        } else if let Some(&relay) = self.sockets.get(&datagram.local) {
            self.on_peer(now, relay, datagram.remote, datagram.payload);
        }
        self.drain(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
        self.drain(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// A client has connected.
    pub(super) fn add_stream(&mut self, client: SocketAddr, to_client: ToClient) {
        self.streams.insert(client, to_client);
    }

    /// A client has sent a message over its connection.
    pub(super) fn handle_stream(&mut self, now: Instant, client: SocketAddr, message: &[u8]) {
        self.on_message(now, Transport::Tcp, client, message);
        self.drain(now);
    }

    /// Sends to a client over its connection, if it has one.
    pub(super) fn send_on_stream(&self, transmit: &Transmit) -> bool {
        let stream = self.streams.get(&transmit.remote);
        let sent = (tokio::time::Instant::now(), transmit.payload.clone());
        stream.is_some_and(|stream| stream.send(sent).is_ok())
    }

    fn on_client(&mut self, now: Instant, datagram: Datagram<'_>) {
        self.on_message(now, Transport::Udp, datagram.remote, datagram.payload);
    }

    fn on_message(
        &mut self,
        now: Instant,
        transport: Transport,
        client: SocketAddr,
        message: &[u8],
    ) {
        let client = FiveTuple {
            transport,
            client: ClientAddr(client),
            server: self.address,
        };
        let handled = self.server.handle_input(now, &client, message);
        let Handled::Forward(forward, data) = handled else {
            return;
        };
        self.relayed += 1;
        let data = data.to_vec();
        match forward.own {
            Some(relay) => self.on_peer(now, relay, forward.source.0, &data),
            None => self.transmits.push_back(Transmit {
                local: forward.source.0,
                remote: forward.peer.0,
                payload: data,
            }),
        }
    }

    fn on_peer(&mut self, now: Instant, relay: RelayId, peer: SocketAddr, data: &[u8]) {
        let peer = PeerAddr(peer);
        let Some(backward) = self
            .server
            .peer_data(now, relay, peer, Load::one(data.len()))
        else {
            return;
        };
        self.relayed += 1;
        let payload = match backward.framing {
            Framing::Channel(channel) if backward.client.transport == Transport::Udp => {
                ChannelData { channel, data }.to_datagram()
            }
            Framing::Channel(channel) => ChannelData { channel, data }.to_stream(),
            Framing::Indication(PeerAddr(peer)) => {
                let id = self.server.indication_id();
                let header = DataHeader::data(peer, id, data.len()).unwrap();
                let padding = vec![0; header.padding()];
                [header.as_bytes(), data, &padding].concat()
            }
        };
        self.transmits.push_back(Transmit {
            local: backward.client.server,
            remote: backward.client.client.0,
            payload,
        });
    }

    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.server.poll_transmit() {
                self.transmits.push_back(Transmit {
                    local: transmit.client.server,
                    remote: transmit.client.client.0,
                    payload: transmit.payload,
                });
            }
            match self.server.poll_event() {
                None => return,
                Some(Event::OpenRelay { relay, address, .. }) => {
                    self.sockets.insert(address, relay);
                    self.server.handle_relay_opened(now, relay, Ok(()));
                }
                Some(Event::CloseRelay { relay }) => {
                    self.sockets.retain(|_, known| *known != relay);
                }
                Some(event) => panic!("not over UDP: {event:?}"),
            }
        }
    }
}
