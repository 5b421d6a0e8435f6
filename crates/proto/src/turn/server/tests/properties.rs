//! Whatever happens in whatever order: no packet without a live permission. UDP and TCP
//! relays, clients over every transport that move from one to another, two shards, relays
//! of other clients as peers, and policies that change.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Method, TransactionId};
use postern_wire::turn::{
    ConnectionId, Lifetime, MobilityTicket, RequestedTransport, XorPeerAddress,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::world::*;

const PEERS: [&str; 4] = ["8.8.8.8:1", "8.8.8.8:2", "9.9.9.9:1", "127.0.0.1:1"];

#[derive(Debug, Clone)]
enum Op {
    Allocate {
        tcp: bool,
        fails: bool,
    },
    Move(usize),
    End,
    Permit(usize),
    Bind(u16, usize),
    Data(usize, u16),
    FromPeer(usize),
    Connect(usize, bool),
    Attempt(usize),
    BindConnection,
    CloseConnection,
    CloseClient,
    /// To let the relay of somebody else in, and to send to it.
    PermitRelay(usize),
    SendToRelay(usize),
    Forbid(bool),
    Pass(u64),
    LateTimer(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (to, number) = (0..PEERS.len(), 0x4000_u16..0x4003);
    prop_oneof![
        3 => any::<(bool, bool)>().prop_map(|(tcp, fails)| Op::Allocate {
            tcp,
            fails: fails && tcp,
        }),
        3 => (0_usize..8).prop_map(Op::Move),
        1 => Just(Op::End),
        4 => to.clone().prop_map(Op::Permit),
        4 => (number.clone(), to.clone()).prop_map(|(number, to)| Op::Bind(number, to)),
        6 => (to.clone(), number).prop_map(|(to, number)| Op::Data(to, number)),
        4 => to.clone().prop_map(Op::FromPeer),
        2 => (to.clone(), any::<bool>()).prop_map(|(to, fails)| Op::Connect(to, fails)),
        4 => to.prop_map(Op::Attempt),
        2 => Just(Op::BindConnection),
        1 => Just(Op::CloseConnection),
        1 => Just(Op::CloseClient),
        2 => (0_usize..8).prop_map(Op::PermitRelay),
        3 => (0_usize..8).prop_map(Op::SendToRelay),
        1 => any::<bool>().prop_map(Op::Forbid),
        3 => (1_u64..200).prop_map(Op::Pass),
        2 => (1_u64..200).prop_map(Op::LateTimer),
    ]
}

/// What was granted, by what the clients were told.
struct Witness {
    shards: Vec<World>,
    /// When the permission of an allocation for an address ends.
    granted: BTreeMap<(AllocationId, IpAddr), Instant>,
    tickets: Vec<(String, Vec<u8>)>,
    relayed: Vec<SocketAddr>,
    connections: Vec<u32>,
}

/// Where clients are, how they speak, who they are, and which shard hears them: streams
/// and sessions of DTLS are the first one's.
const PLACES: [(&str, Transport, &str, usize); 6] = [
    ("203.0.114.0:9", Transport::Tcp, "alice", 0),
    ("203.0.114.1:9", Transport::Udp, "alice", 0),
    ("203.0.114.1:10", Transport::Udp, "alice", 1),
    ("203.0.114.2:9", Transport::Dtls, "alice", 0),
    ("203.0.114.2:10", Transport::Udp, "bob", 1),
    ("203.0.114.2:11", Transport::Tls, "bob", 0),
];

fn who(index: usize) -> Client {
    let (address, transport, user, _) = PLACES[index];
    client(transport, address, user)
}

/// What a policy denies now and then.
const FORBIDDEN: &str = "9.9.9.9";

impl Witness {
    fn new() -> Self {
        Self {
            shards: World::shards(config(), 2),
            granted: BTreeMap::new(),
            tickets: Vec::new(),
            relayed: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// The shard at which a driver would have a message end.
    fn at(&mut self, from: &Client, ticket: &[u8]) -> &mut World {
        let place = PLACES
            .iter()
            .find(|place| addr(place.0) == from.at.client.0);
        let home = place.map_or(0, |place| place.3);
        let message = Builder::new(Class::Request, Method::REFRESH, TransactionId([9; 12]))
            .attribute(&MobilityTicket(ticket))
            .build();
        let elsewhere = self.shards[home].server.elsewhere(&from.at, &message);
        let shard = elsewhere.map_or(home, |shard| usize::from(shard.0));
        &mut self.shards[shard % 2]
    }

    fn now(&self) -> Instant {
        self.shards[0].now
    }

    fn ask(
        &mut self,
        from: &Client,
        method: Method,
        fill: impl FnOnce(Builder) -> Builder,
    ) -> Option<Reply> {
        self.at(from, &[]).ask(from, method, fill)
    }

    /// Notes a permission if the request for it succeeded.
    fn grant(&mut self, from: &Client, ip: IpAddr, code: u16) {
        let id = self.at(from, &[]).server.table.of_client(&from.at);
        if let Some(id) = id.filter(|_| code == 0) {
            let ends = self.now() + Duration::from_secs(300);
            self.granted.insert((id, ip), ends);
        }
    }

    fn is_permitted(&self, id: AllocationId, ip: IpAddr) -> bool {
        let ends = self.granted.get(&(id, ip));
        ends.is_some_and(|ends| self.now() < *ends)
    }

    fn step(&mut self, index: usize, op: &Op) -> Result<(), TestCaseError> {
        let from = who(index);
        match op {
            Op::Allocate { tcp, fails } => self.allocate(&from, *tcp, *fails),
            Op::Move(which) => self.relocate(&from, *which),
            Op::End => {
                self.ask(&from, Method::REFRESH, |r| r.attribute(&Lifetime(0)));
            }
            Op::Permit(to) => {
                let code = self.at(&from, &[]).permit(&from, &[PEERS[*to]]);
                prop_assert!(code != 0 || *to != 3);
                self.grant(&from, addr(PEERS[*to]).ip(), code);
            }
            Op::Bind(number, to) => {
                let code = self.at(&from, &[]).bind(&from, *number, PEERS[*to]);
                prop_assert!(code != 0 || *to != 3);
                self.grant(&from, addr(PEERS[*to]).ip(), code);
            }
            Op::Data(to, number) => {
                let world = self.at(&from, &[]);
                let sent = [
                    world.send(&from, PEERS[*to]),
                    world.channel_data(&from, *number),
                ];
                for forward in sent.into_iter().flatten() {
                    self.check_forward(&forward)?;
                }
            }
            Op::FromPeer(to) => self.peer_sends(*to)?,
            Op::Connect(to, fails) => self.connect(&from, *to, *fails),
            Op::Attempt(to) => self.attempt(*to)?,
            Op::BindConnection => self.bind_connection(index),
            Op::CloseConnection => {
                if let Some(id) = self.connections.pop() {
                    for world in &mut self.shards {
                        world.server.handle_connection_closed(PeerConnection(id));
                    }
                }
            }
            Op::CloseClient => {
                let world = self.at(&from, &[]);
                let now = world.now;
                world.server.handle_client_closed(now, &from.at);
            }
            Op::PermitRelay(which) => self.permit_relay(&from, *which)?,
            Op::SendToRelay(which) => self.send_to_relay(&from, *which)?,
            Op::Forbid(forbid) => self.forbid(*forbid),
            Op::Pass(seconds) => self.pass(*seconds),
            Op::LateTimer(seconds) => {
                for world in &mut self.shards {
                    world.now += Duration::from_secs(*seconds);
                }
            }
        }
        self.drain();
        self.check_events()
    }

    fn pass(&mut self, seconds: u64) {
        for world in &mut self.shards {
            world.pass(seconds);
        }
    }

    fn drain(&mut self) {
        for world in &mut self.shards {
            world.drain();
        }
    }

    /// Data goes to a peer that is permitted, and on to the client only if that has
    /// permitted the sender.
    fn check_forward(&mut self, forward: &Forward) -> Result<(), TestCaseError> {
        let ip = forward.peer.0.ip();
        prop_assert!(self.is_permitted(forward.relay.allocation, ip));
        // Of the host, only relays are reached.
        let is_host = ip.to_string() == RELAY_V4;
        prop_assert_eq!(forward.own.is_some(), is_host);
        let Some(own) = forward.own else {
            return Ok(());
        };
        let source = PeerAddr(forward.source.0);
        let now = self.now();
        let shard = usize::from(own.allocation.shard().0);
        let came = self.shards[shard]
            .server
            .peer_data(now, own, source, Load::one(4))
            .is_some();
        prop_assert!(!came || self.is_permitted(own.allocation, source.0.ip()));
        Ok(())
    }

    fn some_relay(&self, which: usize) -> Option<SocketAddr> {
        let index = which.checked_rem(self.relayed.len())?;
        self.relayed.get(index).copied()
    }

    fn permit_relay(&mut self, from: &Client, which: usize) -> Result<(), TestCaseError> {
        let Some(relay) = self.some_relay(which) else {
            return Ok(());
        };
        let code = self.at(from, &[]).permit(from, &[&relay.to_string()]);
        self.grant(from, relay.ip(), code);
        Ok(())
    }

    fn send_to_relay(&mut self, from: &Client, which: usize) -> Result<(), TestCaseError> {
        let Some(relay) = self.some_relay(which) else {
            return Ok(());
        };
        let host = SocketAddr::new(relay.ip(), 22).to_string();
        prop_assert!(self.at(from, &[]).send(from, &host).is_none());
        match self.at(from, &[]).send(from, &relay.to_string()) {
            Some(forward) => self.check_forward(&forward),
            None => Ok(()),
        }
    }

    /// What a policy takes away it does not give back.
    fn forbid(&mut self, forbid: bool) {
        for world in &mut self.shards {
            let mut policy = PeerPolicy::new();
            if forbid {
                policy = policy.deny(FORBIDDEN.parse().unwrap());
            }
            let now = world.now;
            world.server.set_policy(now, policy);
        }
        if forbid {
            let denied: IpAddr = FORBIDDEN.parse().unwrap();
            self.granted.retain(|(_, ip), _| *ip != denied);
        }
    }

    fn allocate(&mut self, from: &Client, tcp: bool, fails: bool) {
        let world = self.at(from, &[]);
        if fails {
            world.open_results = vec![Err(OpenError::Unavailable)];
        }
        let transport = if tcp {
            RequestedTransport::TCP
        } else {
            RequestedTransport::UDP
        };
        let reply = world.ask(from, Method::ALLOCATE, |request| {
            request
                .attribute(&transport)
                .attribute(&MobilityTicket(&[]))
        });
        world.open_results.clear();
        if let Some(reply) = reply.filter(|reply| reply.code() == 0) {
            self.tickets.push((from.user.clone(), reply.ticket()));
            self.relayed.push(reply.relayed());
        }
    }

    /// With one of the tickets, a used one perhaps.
    fn relocate(&mut self, from: &Client, which: usize) {
        let Some(index) = which.checked_rem(self.tickets.len()) else {
            return;
        };
        let (owner, ticket) = self.tickets[index].clone();
        let world = self.at(from, &ticket);
        let reply = world.ask(from, Method::REFRESH, |request| {
            request.attribute(&MobilityTicket(&ticket))
        });
        if let Some(reply) = reply.filter(|reply| reply.code() == 0) {
            assert_eq!(owner, from.user);
            self.tickets.push((owner, reply.ticket()));
        }
    }

    fn peer_sends(&mut self, to: usize) -> Result<(), TestCaseError> {
        let ip = addr(PEERS[to]).ip();
        for shard in 0..self.shards.len() {
            for relay in self.shards[shard].relays() {
                if self.shards[shard].peer_sends(relay, PEERS[to]).is_some() {
                    prop_assert!(self.is_permitted(relay.allocation, ip));
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, from: &Client, to: usize, fails: bool) {
        let world = self.at(from, &[]);
        let reply = world.ask(from, Method::CONNECT, |request| {
            request.attribute(&XorPeerAddress(addr(PEERS[to])))
        });
        if reply.is_some() {
            return;
        }
        let (connection, now) = (world.connecting(), world.now);
        let result = if fails {
            Err(ConnectError::Failed)
        } else {
            Ok(())
        };
        world.server.handle_connected(now, connection, result);
        self.connections.push(connection.0);
    }

    fn attempt(&mut self, to: usize) -> Result<(), TestCaseError> {
        let ip = addr(PEERS[to]).ip();
        for shard in 0..self.shards.len() {
            for relay in self.shards[shard].relays() {
                let world = &mut self.shards[shard];
                let now = world.now;
                let came = world
                    .server
                    .handle_peer_connected(now, relay, peer(PEERS[to]));
                if let Some(PeerConnection(id)) = came {
                    prop_assert!(self.is_permitted(relay.allocation, ip));
                    self.connections.push(id);
                }
            }
        }
        Ok(())
    }

    fn bind_connection(&mut self, index: usize) {
        let Some(id) = self.connections.last().copied() else {
            return;
        };
        let mut from = who(index);
        from.at.transport = Transport::Tcp;
        from.at.client.0.set_port(1000);
        self.ask(&from, Method::CONNECTION_BIND, |request| {
            request.attribute(&ConnectionId(id))
        });
    }

    /// No connection goes where policy forbids, and every relay is closed once.
    fn check_events(&self) -> Result<(), TestCaseError> {
        for world in &self.shards {
            for event in &world.events {
                if let Event::Connect { to, .. } = event {
                    prop_assert_ne!(*to, peer(PEERS[3]));
                }
            }
            let mut closed = world.closed_relays();
            let count = closed.len();
            closed.sort();
            closed.dedup();
            prop_assert_eq!(closed.len(), count);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_packet_reaches_anybody_without_a_live_permission(
        ops in vec((0..PLACES.len(), op()), 1..120),
    ) {
        let mut witness = Witness::new();
        for (index, op) in &ops {
            witness.step(*index, op)?;
        }
        witness.pass(4000);
        witness.drain();
        for world in &witness.shards {
            prop_assert_eq!(world.server.poll_timeout(), None);
        }
        let server = &witness.shards[0].server;
        prop_assert_eq!(server.allocations(), 0);
        prop_assert!(server.shared.is_empty());
    }

    #[test]
    fn random_steps_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        crate::fuzz::machine_turn_server(&bytes);
    }
}
