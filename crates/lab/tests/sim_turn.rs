//! Two ICE agents with TURN clients, and the TURN server, in the simulated internet.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and looks at some kinds of events"
)]

mod sim_support;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_lab::sim::{
    Filtering, HostId, Link, Machine, MachineId, Mapping, Nat, Occurrence, Pipe, Runner, World,
    seed,
};
use postern_proto::ice::{Agent, Candidate, CandidateKind, Config, Credentials, Event, Path, Role};
use postern_proto::turn::client::{self, Client};
use postern_proto::turn::server::{
    self, ClientAddr, FiveTuple, Framing, Handled, Load, PeerAddr, RelayAddress, RelayId, Server,
    Transport,
};
use postern_proto::{Datagram, Transmit, Verdict};
use postern_wire::turn::{ChannelData, DataHeader};
use sim_support::{at, ip, masquerade};

const TURN: &str = "45.45.0.1:3478";
const DATA: &[u8] = b"@data";
const LIMIT: Duration = Duration::from_secs(30);

/// The TURN server with its relay sockets.
struct Relay {
    server: Server,
    sockets: BTreeMap<SocketAddr, RelayId>,
    transmits: VecDeque<Transmit>,
}

impl Relay {
    fn new(now: Instant) -> Self {
        let credentials = postern_proto::stun::Credentials::new("example.org").unwrap();
        let config = server::Config {
            credentials: credentials.with_user("user", "pass").unwrap(),
            relay_v4: Some(RelayAddress::new(ip("45.45.0.1"))),
            ..server::Config::default()
        };
        Self {
            server: Server::new(now, [5; 32], config),
            sockets: BTreeMap::new(),
            transmits: VecDeque::new(),
        }
    }

    fn on_client(&mut self, now: Instant, datagram: Datagram<'_>) {
        let client = FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr(datagram.remote),
            server: datagram.local,
        };
        if let Handled::Forward(forward, data) =
            self.server.handle_input(now, &client, datagram.payload)
        {
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
    }

    fn on_peer(&mut self, now: Instant, relay: RelayId, peer: SocketAddr, data: &[u8]) {
        let peer = PeerAddr(peer);
        let Some(backward) = self
            .server
            .peer_data(now, relay, peer, Load::one(data.len()))
        else {
            return;
        };
        let payload = match backward.framing {
            Framing::Channel(channel) => ChannelData { channel, data }.to_datagram(),
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
                Some(server::Event::OpenRelay { relay, address, .. }) => {
                    self.sockets.insert(address, relay);
                    self.server.handle_relay_opened(now, relay, Ok(()));
                }
                Some(server::Event::CloseRelay { relay }) => {
                    self.sockets.retain(|_, known| *known != relay);
                }
                Some(event) => panic!("{event:?}"),
            }
        }
    }
}

/// An ICE agent and perhaps a TURN client, on one socket.
struct Peer {
    agent: Agent,
    client: Option<Client>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Said>,
}

/// What a peer reports.
#[derive(Debug, Clone)]
enum Said {
    Ice(Event),
    Data { relayed: bool },
}

/// What a peer is told.
#[derive(Debug, Clone)]
enum Told {
    Credentials(Credentials),
    Candidate(Candidate),
    SendData,
}

impl Peer {
    fn on_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if let Some(client) = &mut self.client {
            let verdict = client.handle_input(now, datagram);
            if verdict != Verdict::NotMine {
                return verdict;
            }
        }
        self.on_direct(now, datagram, false)
    }

    fn on_direct(&mut self, now: Instant, datagram: Datagram<'_>, relayed: bool) -> Verdict {
        let verdict = self.agent.handle_input(now, datagram);
        if verdict == Verdict::NotMine && datagram.payload == DATA {
            self.events.push_back(Said::Data { relayed });
            return Verdict::Consumed;
        }
        verdict
    }

    /// Carries things from one machine to the other until neither has any left.
    fn drain(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(event) = self.client.as_mut().and_then(Client::poll_event) {
                idle = false;
                self.on_client_event(now, event);
            }
            while let Some(transmit) = self.agent.poll_transmit() {
                idle = false;
                self.route(now, transmit);
            }
            if idle {
                break;
            }
        }
        while let Some(transmit) = self.client.as_mut().and_then(Client::poll_transmit) {
            self.transmits.push_back(transmit);
        }
    }

    fn on_client_event(&mut self, now: Instant, event: client::Event) {
        let client = self.client.as_ref().unwrap();
        match event {
            client::Event::Allocated(allocation) => {
                let (base, server) = (client.local(), client.server());
                let relayed = allocation.relayed;
                self.agent.add_relayed(now, base, relayed, server);
            }
            client::Event::Data { peer, payload } => {
                let local = client.relayed_for(peer.ip()).unwrap();
                let datagram = Datagram {
                    local,
                    remote: peer,
                    payload: &payload,
                };
                self.on_direct(now, datagram, true);
            }
            client::Event::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    }

    fn route(&mut self, now: Instant, transmit: Transmit) {
        let client = self.client.as_mut();
        let relayed = client
            .filter(|client| client.relayed_for(transmit.remote.ip()) == Some(transmit.local));
        let framed = match relayed {
            Some(client) => client.send(now, transmit.remote, &transmit.payload),
            None => Ok(Some(transmit)),
        };
        self.transmits.extend(framed.ok().flatten());
    }

    fn on_told(&mut self, now: Instant, told: Told) {
        match told {
            Told::Credentials(credentials) => {
                self.agent.set_remote_credentials(now, credentials);
            }
            Told::Candidate(candidate) => {
                if let Some(client) = &mut self.client {
                    _ = client.permit(now, candidate.address.ip());
                }
                self.agent.add_remote_candidate(now, candidate);
            }
            Told::SendData => {
                if let Some(path) = self.agent.selected() {
                    let (local, remote, payload) = (path.local, path.remote, DATA.to_vec());
                    let transmit = Transmit {
                        local,
                        remote,
                        payload,
                    };
                    self.route(now, transmit);
                }
            }
        }
    }
}

enum Party {
    Relay(Box<Relay>),
    Peer(Box<Peer>),
}

impl Machine for Party {
    type Event = Said;
    type Signal = Told;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        match self {
            Self::Peer(peer) => {
                let verdict = peer.on_input(now, datagram);
                peer.drain(now);
                verdict
            }
            Self::Relay(relay) => {
                match relay.sockets.get(&datagram.local).copied() {
                    Some(id) => relay.on_peer(now, id, datagram.remote, datagram.payload),
                    None => relay.on_client(now, datagram),
                }
                relay.drain(now);
                Verdict::Consumed
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Peer(peer) => {
                peer.agent.handle_timeout(now);
                if let Some(client) = &mut peer.client {
                    client.handle_timeout(now);
                }
                peer.drain(now);
            }
            Self::Relay(relay) => {
                relay.server.handle_timeout(now);
                relay.drain(now);
            }
        }
    }

    fn handle_signal(&mut self, now: Instant, told: Told) {
        if let Self::Peer(peer) = self {
            peer.on_told(now, told);
            peer.drain(now);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => peer.transmits.pop_front(),
            Self::Relay(relay) => relay.transmits.pop_front(),
        }
    }

    fn poll_event(&mut self) -> Option<Said> {
        match self {
            Self::Peer(peer) => {
                let event = peer.events.pop_front();
                event.or_else(|| peer.agent.poll_event().map(Said::Ice))
            }
            Self::Relay(_) => None,
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => {
                let client = peer.client.as_ref().and_then(Client::poll_timeout);
                client.into_iter().chain(peer.agent.poll_timeout()).min()
            }
            Self::Relay(relay) => relay.server.poll_timeout(),
        }
    }
}

/// Two homes 15 ms from the core, and the server on it.
struct Meeting {
    runner: Runner<Party>,
    peers: [MachineId; 2],
    started: Instant,
    /// First valid pair, selected paths, data.
    valid: [Option<Duration>; 2],
    selected: [Vec<(Duration, Path)>; 2],
    data: [Vec<bool>; 2],
}

impl Meeting {
    fn new(nats: [Nat; 2], with_relay: [bool; 2], number: u64) -> Self {
        Self::over(Pipe::default(), nats, with_relay, number)
    }

    fn over(access: Pipe, nats: [Nat; 2], with_relay: [bool; 2], number: u64) -> Self {
        let start = Instant::now();
        let mut world = World::new(start, seed(number));
        let core = world.core();
        let server = world.add_host("server");
        world.attach(server, core, &[ip("45.45.0.1")], Link::default());
        let homes = [0, 1].map(|side| home(&mut world, side, nats[side], access));
        let mut runner = Runner::new(world);
        runner.add(server, Party::Relay(Box::new(Relay::new(start))));
        let roles = [Role::Controlling, Role::Controlled];
        let parts = [0, 1].map(|side| {
            let (_, local) = homes[side];
            let tag = u8::try_from(number % 100).unwrap() * 2 + u8::try_from(side).unwrap();
            let mut agent = Agent::new(start, [tag; 32], roles[side], Config::default());
            agent.add_host(start, local);
            agent.add_stun_server(start, at(TURN));
            agent.end_of_hosts(start);
            let credentials = client::Credentials::new("user", "pass").unwrap();
            let config = client::Config::new(local, at(TURN), Some(credentials));
            let client = with_relay[side].then(|| Client::new(start, [tag ^ 0x80; 32], config));
            Peer {
                agent,
                client,
                transmits: VecDeque::new(),
                events: VecDeque::new(),
            }
        });
        let credentials = [0, 1].map(|side: usize| parts[side].agent.local_credentials().clone());
        let mut hosts = homes.iter().map(|(host, _)| *host);
        let peers = parts.map(|mut peer| {
            peer.drain(start);
            runner.add(hosts.next().unwrap(), Party::Peer(Box::new(peer)))
        });
        let soon = start + Duration::from_millis(30);
        for side in 0..2 {
            let told = Told::Credentials(credentials[1 - side].clone());
            runner.signal(soon, peers[side], told);
        }
        Self {
            runner,
            peers,
            started: start,
            valid: [None; 2],
            selected: [const { Vec::new() }; 2],
            data: [const { Vec::new() }; 2],
        }
    }

    fn run(&mut self, time: Duration) {
        let deadline = self.runner.now() + time;
        while let Some(occurrence) = self.runner.next_event(deadline) {
            self.on_occurrence(occurrence);
        }
    }

    fn run_until_selected(&mut self) {
        let deadline = self.runner.now() + LIMIT;
        while self.selected.iter().any(Vec::is_empty) {
            let Some(occurrence) = self.runner.next_event(deadline) else {
                panic!("not connected after {LIMIT:?}");
            };
            self.on_occurrence(occurrence);
        }
    }

    fn on_occurrence(&mut self, Occurrence { at, machine, event }: Occurrence<Said>) {
        let side = usize::from(machine == self.peers[1]);
        let elapsed = at - self.started;
        match event {
            Said::Data { relayed } => self.data[side].push(relayed),
            Said::Ice(Event::LocalCandidate(candidate)) => {
                let later = at + Duration::from_millis(30);
                let told = Told::Candidate(candidate);
                self.runner.signal(later, self.peers[1 - side], told);
            }
            Said::Ice(Event::Valid { .. }) => _ = self.valid[side].get_or_insert(elapsed),
            Said::Ice(Event::Selected(path)) => self.selected[side].push((elapsed, path)),
            Said::Ice(Event::Failed(report)) => panic!("{report:?}"),
            Said::Ice(_) => {}
        }
    }

    /// Sends data both ways; whether what arrived came through the relay client of each.
    fn exchange(&mut self) -> [Vec<bool>; 2] {
        self.data = [const { Vec::new() }; 2];
        for peer in self.peers {
            self.runner.signal(self.runner.now(), peer, Told::SendData);
        }
        self.run(Duration::from_secs(1));
        self.data.clone()
    }

    fn path(&self, side: usize) -> Path {
        self.selected[side].last().unwrap().1
    }
}

fn home(world: &mut World, side: usize, nat: Nat, access: Pipe) -> (HostId, SocketAddr) {
    let number = side + 1;
    let core = world.core();
    let mut router = masquerade(&format!("45.45.{number}.1"), nat);
    router.link = Link::symmetric(Pipe {
        latency: Duration::from_millis(15),
        ..access
    });
    let router = world.add_router(&format!("home{number}"), core, &router);
    let host = world.add_host(&format!("host{number}"));
    let address = format!("192.168.{number}.10");
    world.attach(host, world.inside(router), &[ip(&address)], Link::default());
    (host, at(&format!("{address}:5000")))
}

fn is_relayed(path: Path) -> bool {
    [path.local_kind, path.remote_kind].contains(&CandidateKind::Relayed)
}

const WORST: (Mapping, Filtering) = (
    Mapping::AddressAndPortDependent,
    Filtering::AddressAndPortDependent,
);
const ORDINARY: (Mapping, Filtering) = (
    Mapping::EndpointIndependent,
    Filtering::AddressAndPortDependent,
);
const WHO: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

fn nat((mapping, filtering): (Mapping, Filtering)) -> Nat {
    Nat::new(mapping, filtering)
}

#[test]
fn agents_behind_address_and_port_dependent_nats_meet_through_the_relay() {
    let mut latest = Duration::ZERO;
    for (relays, number) in WHO.into_iter().cycle().zip(0..60) {
        let mut meeting = Meeting::new([nat(WORST), nat(WORST)], relays, number);
        meeting.run_until_selected();
        meeting.run(Duration::from_secs(1));
        assert!(is_relayed(meeting.path(0)) && is_relayed(meeting.path(1)));
        let data = meeting.exchange();
        assert!(data.iter().all(|data| data.len() == 1), "{data:?}");
        let valid = meeting.valid.iter().flatten().max().unwrap();
        latest = latest.max(*valid);
    }
    assert!(latest < Duration::from_millis(600), "{latest:?}");
}

#[test]
fn agents_behind_ordinary_nats_use_the_direct_path_though_there_is_a_relay() {
    for number in 0..30 {
        let mut meeting = Meeting::new([nat(ORDINARY), nat(ORDINARY)], [true, true], number);
        meeting.run_until_selected();
        meeting.run(Duration::from_secs(20));
        for side in 0..2 {
            let selected = &meeting.selected[side];
            assert!(!is_relayed(meeting.path(side)), "{selected:?}");
        }
        assert_eq!(meeting.exchange(), [vec![false], vec![false]]);
    }
}

#[test]
fn with_one_relay_all_81_pairs_of_nats_connect() {
    let mappings = [
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    let filterings = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let kinds: Vec<_> = mappings
        .into_iter()
        .flat_map(|mapping| filterings.map(|filtering| (mapping, filtering)))
        .collect();
    let mut relayed = 0;
    for left in &kinds {
        for right in &kinds {
            let mut meeting = Meeting::new([nat(*left), nat(*right)], [true, false], 3);
            meeting.run_until_selected();
            meeting.run(Duration::from_secs(3));
            let data = meeting.exchange();
            assert!(
                data.iter().all(|data| data.len() == 1),
                "{left:?} {right:?}"
            );
            assert_eq!(
                is_relayed(meeting.path(0)),
                is_relayed(meeting.path(1)),
                "{left:?} {right:?}"
            );
            relayed += u32::from(is_relayed(meeting.path(0)));
        }
    }
    assert_eq!(relayed, 81 - 57, "as many as plain ICE leaves");
}

#[test]
fn over_links_that_lose_datagrams_peers_agree_on_a_path_all_the_same() {
    let filterings = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let lossy = Pipe {
        loss: 0.05,
        ..Pipe::default()
    };
    let mut relayed = 0;
    for number in 0..300 {
        let n = usize::try_from(number).unwrap();
        let mapping = |n: usize| {
            if n.is_multiple_of(2) {
                Mapping::AddressAndPortDependent
            } else {
                Mapping::EndpointIndependent
            }
        };
        let nats = [
            nat((mapping(n), filterings[n % 3])),
            nat((mapping(n / 2), filterings[n / 3 % 3])),
        ];
        let mut meeting = Meeting::over(lossy, nats, WHO[n / 9 % 3], number);
        meeting.run_until_selected();
        meeting.run(Duration::from_secs(60));
        let arrives = |meeting: &mut Meeting| {
            let data = meeting.exchange();
            data.iter().all(|data| !data.is_empty())
        };
        let arrived = (0..5).any(|_| arrives(&mut meeting));
        assert!(arrived, "seed {number}");
        assert_eq!(
            is_relayed(meeting.path(0)),
            is_relayed(meeting.path(1)),
            "seed {number}: {:#?}",
            meeting.selected
        );
        relayed += u32::from(is_relayed(meeting.path(0)));
    }
    assert!((30..=120).contains(&relayed), "{relayed} through the relay");
}

#[test]
fn a_relayed_path_lives_for_hours() {
    let mut meeting = Meeting::new([nat(WORST), nat(WORST)], [true, false], 7);
    meeting.run_until_selected();
    meeting.run(Duration::from_secs(3 * 3600));
    assert_eq!(meeting.selected[0].len(), 1);
    let data = meeting.exchange();
    assert!(data.iter().all(|data| data.len() == 1), "{data:?}");
}
