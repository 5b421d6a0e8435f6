//! The TURN server of a scenario.

use crate::sim::tcp::{TcpCall, TcpEvent};
use postern_proto::turn::server::{
    self, ClientAddr, FiveTuple, Framing, Handled, Load, PeerAddr, RelayAddress, RelayId, Server,
    Transport,
};
use postern_proto::{Datagram, Transmit, Verdict};
use postern_wire::turn::{ChannelData, DataHeader};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// Who may use it.
pub(crate) const USER: (&str, &str) = ("user", "pass");
const REALM: &str = "example.org";

/// A TURN server with its relay sockets, for clients over UDP and over TCP at one port.
#[derive(Debug)]
pub struct Relay {
    server: Server,
    local: SocketAddr,
    sockets: BTreeMap<SocketAddr, RelayId>,
    transmits: VecDeque<Transmit>,
    calls: VecDeque<TcpCall>,
}

impl Relay {
    /// One that listens at `local` and relays from its address.
    #[must_use]
    pub fn new(now: Instant, local: SocketAddr) -> Self {
        let credentials = postern_proto::stun::Credentials::new(REALM).ok();
        let credentials = credentials.and_then(|all| all.with_user(USER.0, USER.1).ok());
        let config = server::Config {
            credentials: credentials.unwrap_or_default(),
            relay_v4: Some(RelayAddress::new(local.ip())),
            ..server::Config::default()
        };
        Self {
            server: Server::new(now, [5; 32], config),
            local,
            sockets: BTreeMap::new(),
            transmits: VecDeque::new(),
            calls: VecDeque::from([TcpCall::Listen(local)]),
        }
    }

    /// A datagram of a client or a peer; others are not its own.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self.sockets.get(&datagram.local).copied() {
            Some(relay) => self.on_peer(now, relay, datagram.remote, datagram.payload),
            None if datagram.local == self.local => self.on_client(
                now,
                &five_tuple(Transport::Udp, datagram.remote, self.local),
                datagram.payload,
            ),
            None => return Verdict::NotMine,
        }
        self.drain(now);
        Verdict::Consumed
    }

    /// Something about a client's connection.
    pub fn handle_tcp(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        event: &TcpEvent,
    ) -> Verdict {
        if local != self.local {
            return Verdict::NotMine;
        }
        let client = five_tuple(Transport::Tcp, remote, local);
        match event {
            TcpEvent::Message(message) => self.on_client(now, &client, message),
            TcpEvent::Closed | TcpEvent::Failed(_) => {
                self.server.handle_client_closed(now, &client);
            }
            TcpEvent::Accepted | TcpEvent::Connected => {}
        }
        self.drain(now);
        Verdict::Consumed
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
        self.drain(now);
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Something to do over TCP.
    pub fn poll_tcp(&mut self) -> Option<TcpCall> {
        self.calls.pop_front()
    }

    /// When to call [`Relay::handle_timeout`].
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    fn on_client(&mut self, now: Instant, client: &FiveTuple, payload: &[u8]) {
        let handled = self.server.handle_input(now, client, payload);
        let Handled::Forward(forward, data) = handled else {
            return;
        };
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
        let (peer, load) = (PeerAddr(peer), Load::one(data.len()));
        let Some(backward) = self.server.peer_data(now, relay, peer, load) else {
            return;
        };
        let client = backward.client;
        let payload = match backward.framing {
            Framing::Channel(channel) => {
                let data = ChannelData { channel, data };
                if client.transport == Transport::Tcp {
                    data.to_stream()
                } else {
                    data.to_datagram()
                }
            }
            Framing::Indication(PeerAddr(peer)) => {
                let id = self.server.indication_id();
                let Some(header) = DataHeader::data(peer, id, data.len()) else {
                    return;
                };
                let padding = vec![0; header.padding()];
                [header.as_bytes(), data, &padding].concat()
            }
        };
        self.send(&client, payload);
    }

    fn send(&mut self, client: &FiveTuple, payload: Vec<u8>) {
        let (local, remote) = (client.server, client.client.0);
        if client.transport == Transport::Tcp {
            self.calls.push_back(TcpCall::Send(local, remote, payload));
        } else {
            self.transmits.push_back(Transmit {
                local,
                remote,
                payload,
            });
        }
    }

    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.server.poll_transmit() {
                self.send(&transmit.client, transmit.payload);
            }
            match self.server.poll_event() {
                None => return,
                Some(server::Event::OpenRelay { relay, address, .. }) => {
                    self.sockets.insert(address, relay);
                    self.server.handle_relay_opened(now, relay, Ok(()));
                }
                Some(server::Event::CloseRelay { relay }) => {
                    self.sockets.retain(|_, known| *known != relay);
                }
                Some(other) => unreachable!("only UDP is relayed: {other:?}"),
            }
        }
    }
}

fn five_tuple(transport: Transport, client: SocketAddr, server: SocketAddr) -> FiveTuple {
    FiveTuple {
        transport,
        client: ClientAddr(client),
        server,
    }
}
