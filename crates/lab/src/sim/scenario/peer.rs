//! A peer: its ICE agent, its client of the relay, its sockets and connections.

use super::party::{PartyEvent, PartySignal};
use super::proxy;
use super::relay::USER;
use crate::sim::random::Stream;
use crate::sim::tcp::{ConnectError, TcpCall, TcpEvent};
use postern_proto::ice::tcp::{self, TcpAction, TcpEnds};
use postern_proto::ice::{Agent, Event, Path};
use postern_proto::turn::client::{self, Client};
use postern_proto::{Datagram, Transmit, Verdict};
use postern_wire::framing;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// The first port of those that systems choose.
const EPHEMERAL: u16 = 32_768;
/// First byte in the range of QUIC (RFC 9443), so that no agent takes it for STUN.
const DATA: &[u8] = b"@data";

/// An ICE agent, and data on the path that it has selected.
#[derive(Debug)]
pub struct Peer {
    agent: Agent,
    transmits: VecDeque<Transmit>,
    limited: VecDeque<(Transmit, u8)>,
    events: VecDeque<PartyEvent>,
    calls: VecDeque<TcpCall>,
    /// Chooses the ports of sockets that the agent asks for.
    random: Stream,
    connections: BTreeMap<TcpEnds, Connection>,
    /// Ports for TCP beyond the first.
    renewals: u16,
    relay: Option<RelayClient>,
    /// What arrives here from there belongs to the path to another address.
    heard: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
}

/// From one port for direct connections to the next: those next to it are the relay's.
const RENEWED: u16 = 1000;

/// A connection of the agent.
#[derive(Debug, Clone, Copy)]
struct Connection {
    /// Whether messages have their length before them.
    framed: bool,
    /// What stands for it at the agent.
    base: Option<SocketAddr>,
}

/// What a peer has.
#[derive(Debug, Default)]
pub(super) struct Equipment {
    /// UDP sockets.
    pub(super) endpoints: Vec<SocketAddr>,
    /// STUN servers.
    pub(super) stun: Vec<SocketAddr>,
    /// A port for direct connections, and who says how it is mapped.
    pub(super) tcp: Option<(SocketAddr, SocketAddr)>,
    /// How it reaches its relay.
    pub(super) relay: Option<WayToRelay>,
}

/// How a peer reaches its relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct WayToRelay {
    pub(super) local: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) over: Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
    /// TCP through an HTTP proxy.
    Proxy(SocketAddr),
}

#[derive(Debug)]
struct RelayClient {
    way: WayToRelay,
    seed: [u8; 32],
    client: Option<Client>,
}

impl Peer {
    pub(super) fn new(now: Instant, agent: Agent, with: &Equipment, mut random: Stream) -> Self {
        let relay = with.relay.map(|way| RelayClient {
            way,
            seed: random.bytes(),
            client: None,
        });
        let mut peer = Self {
            agent,
            transmits: VecDeque::new(),
            limited: VecDeque::new(),
            events: VecDeque::new(),
            calls: VecDeque::new(),
            random,
            connections: BTreeMap::new(),
            renewals: 0,
            relay,
            heard: BTreeMap::new(),
        };
        peer.begin(now, with);
        peer.follow(now);
        peer
    }

    fn begin(&mut self, now: Instant, with: &Equipment) {
        for &endpoint in &with.endpoints {
            self.agent.add_host(now, endpoint);
        }
        for &server in &with.stun {
            self.agent.add_stun_server(now, server);
        }
        if let Some((local, server)) = with.tcp {
            self.calls.push_back(TcpCall::Listen(local));
            self.agent.add_tcp_host(now, local);
            self.agent.add_tcp_stun_server(now, server);
        }
        self.agent.end_of_hosts(now);
        match &mut self.relay {
            Some(relay) if relay.way.over == Over::Udp => relay.begin(now),
            Some(relay) => self.calls.push_back(relay.connect()),
            None => {}
        }
    }

    /// The agent.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(super) fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let client = self.relay.as_mut().and_then(|relay| relay.client.as_mut());
        let of_relay = client.map(|client| client.handle_input(now, datagram));
        let verdict = match of_relay {
            Some(verdict) if verdict != Verdict::NotMine => verdict,
            Some(_) | None => self.on_direct(now, datagram),
        };
        self.follow(now);
        verdict
    }

    fn on_direct(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let verdict = self.agent.handle_input(now, datagram);
        if verdict == Verdict::NotMine && datagram.payload == DATA {
            let way = (datagram.local, datagram.remote);
            let remote = self.heard.get(&way).copied();
            self.events.push_back(PartyEvent::Data {
                local: datagram.local,
                remote: remote.unwrap_or(datagram.remote),
            });
            return Verdict::Consumed;
        }
        verdict
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if let Some(client) = self.relay.as_mut().and_then(|relay| relay.client.as_mut()) {
            client.handle_timeout(now);
        }
        self.follow(now);
    }

    pub(super) fn handle_signal(&mut self, now: Instant, signal: PartySignal) {
        match signal {
            PartySignal::Credentials(peer) => self.agent.set_remote_credentials(now, peer),
            PartySignal::Candidate(candidate) => {
                let client = self.relay.as_mut().and_then(|relay| relay.client.as_mut());
                if let Some(client) = client {
                    let _ = client.permit(now, candidate.address.ip());
                }
                self.agent.add_remote_candidate(now, candidate);
            }
            PartySignal::EndOfCandidates => self.agent.end_of_remote_candidates(now),
            PartySignal::Punch(message) => self.agent.handle_punch(now, message),
            PartySignal::SendData => {
                if let Some(path) = self.agent.selected() {
                    self.route(now, data(path));
                }
            }
        }
        self.follow(now);
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        self.limited.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<PartyEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_tcp(&mut self) -> Option<TcpCall> {
        self.calls.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let client = self.relay.as_ref().and_then(|relay| relay.client.as_ref());
        let client = client.and_then(Client::poll_timeout);
        [client, self.agent.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what agent and client want done, until neither wants more.
    fn follow(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(event) = self.agent.poll_event() {
                idle = false;
                self.on_agent(now, event);
            }
            while let Some(event) = self.relay.as_mut().and_then(RelayClient::poll_event) {
                idle = false;
                self.on_client(now, event);
            }
            while let Some(action) = self.agent.poll_tcp() {
                idle = false;
                self.on_action(now, action);
            }
            while let Some(transmit) = self.agent.poll_transmit() {
                idle = false;
                self.route(now, transmit);
            }
            if idle {
                break;
            }
        }
        while let Some(out) = self.relay.as_mut().and_then(RelayClient::poll_transmit) {
            self.send_to_relay(out);
        }
    }

    /// Takes what the agent says, and gives it the sockets that it asks for.
    fn on_agent(&mut self, now: Instant, event: Event) {
        if let Event::OpenSockets { base, count, .. } = event {
            let sockets = (0..count).map(|_| self.socket(base)).collect();
            self.agent.sockets_opened(now, Some(sockets));
        } else if let Event::Heard {
            local,
            remote,
            source,
        } = event
        {
            self.heard.insert((local, source), remote);
        } else if let Event::SendLimited { transmit, ttl } = event {
            self.limited.push_back((transmit, ttl));
        } else {
            self.events.push_back(PartyEvent::Ice(event));
        }
    }

    fn socket(&mut self, base: SocketAddr) -> SocketAddr {
        let port = EPHEMERAL + self.random.below(u64::from(u16::MAX - EPHEMERAL) + 1) as u16;
        SocketAddr::new(base.ip(), port)
    }

    /// Over the relay, a connection, or a socket.
    fn route(&mut self, now: Instant, transmit: Transmit) {
        if let Some(ends) = self.agent.tcp_ends(transmit.local) {
            return self.send_framed(ends, &transmit.payload);
        }
        let client = self.relay.as_mut().and_then(|relay| relay.client.as_mut());
        let relayed = client
            .filter(|client| client.relayed_for(transmit.remote.ip()) == Some(transmit.local));
        match relayed {
            Some(client) => {
                let framed = client.send(now, transmit.remote, &transmit.payload);
                if let Some(out) = framed.ok().flatten() {
                    self.send_to_relay(out);
                }
            }
            None => self.transmits.push_back(transmit),
        }
    }
}

/// The relay.
impl Peer {
    fn on_client(&mut self, now: Instant, event: client::Event) {
        let Some(client) = self.relay.as_ref().and_then(|relay| relay.client.as_ref()) else {
            return;
        };
        if let client::Event::Allocated(allocation) = event {
            let (base, server) = (client.local(), client.server());
            self.agent
                .add_relayed(now, base, allocation.relayed, server);
        } else if let client::Event::Data { peer, payload } = event
            && let Some(local) = client.relayed_for(peer.ip())
        {
            let datagram = Datagram {
                local,
                remote: peer,
                payload: &payload,
            };
            self.on_direct(now, datagram);
        }
    }

    fn send_to_relay(&mut self, transmit: Transmit) {
        let Some(relay) = &self.relay else { return };
        match relay.first_hop() {
            None => self.transmits.push_back(transmit),
            Some(hop) => {
                let call = TcpCall::Send(relay.way.local, hop, transmit.payload);
                self.calls.push_back(call);
            }
        }
    }

    fn on_relay_connection(&mut self, now: Instant, event: &TcpEvent) {
        let Some(relay) = &mut self.relay else { return };
        let WayToRelay {
            local,
            server,
            over,
        } = relay.way;
        match (event, over, &mut relay.client) {
            (TcpEvent::Connected, Over::Proxy(proxy), _) => {
                let request = proxy::request(server);
                self.calls.push_back(TcpCall::Send(local, proxy, request));
            }
            (TcpEvent::Connected, _, _) => relay.begin(now),
            (TcpEvent::Message(answer), Over::Proxy(_), None) if answer == proxy::OPENED => {
                relay.begin(now);
            }
            (TcpEvent::Message(payload), _, Some(client)) => {
                let datagram = Datagram {
                    local,
                    remote: server,
                    payload,
                };
                client.handle_input(now, datagram);
            }
            (
                TcpEvent::Message(_) | TcpEvent::Accepted | TcpEvent::Failed(_) | TcpEvent::Closed,
                _,
                _,
            ) => {}
        }
    }
}

impl RelayClient {
    fn begin(&mut self, now: Instant) {
        let credentials = client::Credentials::new(USER.0, USER.1).ok();
        let mut config = client::Config::new(self.way.local, self.way.server, credentials);
        if self.way.over != Over::Udp {
            config.transport = client::Transport::Stream;
        }
        self.client = Some(Client::new(now, self.seed, config));
    }

    /// Where its connection leads; `None` where there is none.
    const fn first_hop(&self) -> Option<SocketAddr> {
        match self.way.over {
            Over::Udp => None,
            Over::Tcp => Some(self.way.server),
            Over::Proxy(proxy) => Some(proxy),
        }
    }

    fn connect(&self) -> TcpCall {
        let hop = self.first_hop().unwrap_or(self.way.server);
        TcpCall::Connect(self.way.local, hop)
    }

    fn poll_event(&mut self) -> Option<client::Event> {
        self.client.as_mut()?.poll_event()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.client.as_mut()?.poll_transmit()
    }
}

/// Direct connections.
impl Peer {
    fn on_action(&mut self, now: Instant, action: TcpAction) {
        let call = match action {
            TcpAction::Connect { ends, framed } => {
                let base = None;
                self.connections.insert(ends, Connection { framed, base });
                TcpCall::Connect(ends.local, ends.remote)
            }
            TcpAction::Close(ends) => TcpCall::Close(ends.local, ends.remote),
            TcpAction::Renew(host) => {
                self.renewals += 1;
                let port = host.port().wrapping_add(self.renewals * RENEWED);
                let another = SocketAddr::new(host.ip(), port);
                self.agent.add_tcp_host(now, another);
                TcpCall::Listen(another)
            }
        };
        self.calls.push_back(call);
    }

    fn send_framed(&mut self, ends: TcpEnds, payload: &[u8]) {
        let known = self.connections.get(&ends);
        let mut bytes = Vec::new();
        if known.is_none_or(|connection| connection.framed) {
            let Some(header) = framing::header(payload) else {
                return;
            };
            bytes.extend(header);
        }
        bytes.extend(payload);
        let call = TcpCall::Send(ends.local, ends.remote, bytes);
        self.calls.push_back(call);
    }

    pub(super) fn handle_tcp(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        event: &TcpEvent,
    ) -> Verdict {
        let relay = self.relay.as_ref().map(|relay| relay.way.local);
        if relay == Some(local) {
            self.on_relay_connection(now, event);
        } else {
            self.on_connection(now, TcpEnds { local, remote }, event);
        }
        self.follow(now);
        Verdict::Consumed
    }

    fn on_connection(&mut self, now: Instant, ends: TcpEnds, event: &TcpEvent) {
        let told = match event {
            TcpEvent::Message(bytes) => return self.on_message(now, ends, bytes),
            TcpEvent::Connected => tcp::TcpEvent::Connected,
            TcpEvent::Accepted => tcp::TcpEvent::Accepted,
            TcpEvent::Failed(ConnectError::Refused) => tcp::TcpEvent::Refused,
            TcpEvent::Failed(_) => tcp::TcpEvent::Failed,
            TcpEvent::Closed => tcp::TcpEvent::Closed,
        };
        let is_new = matches!(event, TcpEvent::Connected | TcpEvent::Accepted);
        match self.agent.handle_tcp(now, ends, told) {
            Some(base) => {
                let framed = true;
                let unknown = Connection { framed, base: None };
                let connection = self.connections.entry(ends).or_insert(unknown);
                connection.base = Some(base);
            }
            None if is_new => {
                let call = TcpCall::Close(ends.local, ends.remote);
                self.calls.push_back(call);
            }
            None => {}
        }
    }

    fn on_message(&mut self, now: Instant, ends: TcpEnds, bytes: &[u8]) {
        let Some(connection) = self.connections.get(&ends) else {
            return;
        };
        let Some(local) = connection.base else { return };
        let payload = if connection.framed {
            let Some((payload, _)) = framing::split(bytes) else {
                return;
            };
            payload
        } else {
            bytes
        };
        let datagram = Datagram {
            local,
            remote: ends.remote,
            payload,
        };
        self.on_direct(now, datagram);
    }
}

fn data(path: Path) -> Transmit {
    Transmit {
        local: path.local,
        remote: path.remote,
        payload: DATA.to_vec(),
    }
}
