//! Whatever happens in whatever order: no packet without a live permission.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Method};
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
    Allocate { tcp: bool, fails: bool },
    Move,
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
        2 => Just(Op::Move),
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
        3 => (1_u64..200).prop_map(Op::Pass),
        2 => (1_u64..200).prop_map(Op::LateTimer),
    ]
}

/// What was granted, by what the clients were told.
struct Witness {
    world: World,
    /// When the permission of an allocation for an address ends.
    granted: BTreeMap<(AllocationId, IpAddr), Instant>,
    tickets: Vec<(String, Vec<u8>)>,
    connections: Vec<u32>,
}

/// Two users at three places, on streams so that TCP relays are possible.
fn who(index: usize) -> Client {
    let user = if index == 2 { "bob" } else { "alice" };
    client(Transport::Tcp, &format!("203.0.114.{index}:9"), user)
}

impl Witness {
    fn new() -> Self {
        Self {
            world: World::new(),
            granted: BTreeMap::new(),
            tickets: Vec::new(),
            connections: Vec::new(),
        }
    }

    fn ask(
        &mut self,
        from: &Client,
        method: Method,
        fill: impl FnOnce(Builder) -> Builder,
    ) -> Option<Reply> {
        self.world.ask(from, method, fill)
    }

    /// Notes a permission if the request for it succeeded.
    fn grant(&mut self, from: &Client, to: usize, code: u16) {
        let id = self.world.server.table.of_client(&from.at);
        if let Some(id) = id.filter(|_| code == 0) {
            let ends = self.world.now + Duration::from_secs(300);
            self.granted.insert((id, addr(PEERS[to]).ip()), ends);
        }
    }

    fn is_permitted(&self, id: AllocationId, ip: IpAddr) -> bool {
        let ends = self.granted.get(&(id, ip));
        ends.is_some_and(|ends| self.world.now < *ends)
    }

    fn step(&mut self, index: usize, op: &Op) -> Result<(), TestCaseError> {
        let from = who(index);
        match op {
            Op::Allocate { tcp, fails } => self.allocate(&from, *tcp, *fails),
            Op::Move => self.relocate(&from),
            Op::End => {
                self.ask(&from, Method::REFRESH, |r| r.attribute(&Lifetime(0)));
            }
            Op::Permit(to) => {
                let code = self.world.permit(&from, &[PEERS[*to]]);
                prop_assert!(code != 0 || *to != 3);
                self.grant(&from, *to, code);
            }
            Op::Bind(number, to) => {
                let code = self.world.bind(&from, *number, PEERS[*to]);
                prop_assert!(code != 0 || *to != 3);
                self.grant(&from, *to, code);
            }
            Op::Data(to, number) => {
                let sent = [
                    self.world.send(&from, PEERS[*to]),
                    self.world.channel_data(&from, *number),
                ];
                for forward in sent.into_iter().flatten() {
                    let ip = forward.peer.0.ip();
                    prop_assert!(self.is_permitted(forward.relay.allocation, ip));
                }
            }
            Op::FromPeer(to) => self.peer_sends(*to)?,
            Op::Connect(to, fails) => self.connect(&from, *to, *fails),
            Op::Attempt(to) => self.attempt(*to)?,
            Op::BindConnection => self.bind_connection(index),
            Op::CloseConnection => {
                if let Some(id) = self.connections.pop() {
                    self.world
                        .server
                        .handle_connection_closed(PeerConnection(id));
                }
            }
            Op::CloseClient => {
                let now = self.world.now;
                self.world.server.handle_client_closed(now, &from.at);
            }
            Op::Pass(seconds) => self.world.pass(*seconds),
            Op::LateTimer(seconds) => self.world.now += Duration::from_secs(*seconds),
        }
        self.world.drain();
        self.check_events()
    }

    fn allocate(&mut self, from: &Client, tcp: bool, fails: bool) {
        if fails {
            self.world.open_results = vec![Err(OpenError::Unavailable)];
        }
        let transport = if tcp {
            RequestedTransport::TCP
        } else {
            RequestedTransport::UDP
        };
        let reply = self.ask(from, Method::ALLOCATE, |request| {
            request
                .attribute(&transport)
                .attribute(&MobilityTicket(&[]))
        });
        self.world.open_results.clear();
        if let Some(reply) = reply.filter(|reply| reply.code() == 0) {
            self.tickets.push((from.user.clone(), reply.ticket()));
        }
    }

    fn relocate(&mut self, from: &Client) {
        let Some((owner, ticket)) = self.tickets.pop() else {
            return;
        };
        let reply = self.ask(from, Method::REFRESH, |request| {
            request.attribute(&MobilityTicket(&ticket))
        });
        let reply = reply.unwrap();
        if reply.code() == 0 {
            assert_eq!(owner, from.user);
            self.tickets.push((owner, reply.ticket()));
        }
    }

    fn peer_sends(&mut self, to: usize) -> Result<(), TestCaseError> {
        for relay in self.world.relays() {
            if self.world.peer_sends(relay, PEERS[to]).is_some() {
                let ip = addr(PEERS[to]).ip();
                prop_assert!(self.is_permitted(relay.allocation, ip));
            }
        }
        Ok(())
    }

    fn connect(&mut self, from: &Client, to: usize, fails: bool) {
        let reply = self.ask(from, Method::CONNECT, |request| {
            request.attribute(&XorPeerAddress(addr(PEERS[to])))
        });
        if reply.is_some() {
            return;
        }
        let (connection, now) = (self.world.connecting(), self.world.now);
        let result = if fails {
            Err(ConnectError::Failed)
        } else {
            Ok(())
        };
        self.world.server.handle_connected(now, connection, result);
        self.connections.push(connection.0);
    }

    fn attempt(&mut self, to: usize) -> Result<(), TestCaseError> {
        for relay in self.world.relays() {
            let now = self.world.now;
            let connection = self
                .world
                .server
                .handle_peer_connected(now, relay, peer(PEERS[to]));
            if let Some(PeerConnection(id)) = connection {
                let ip = addr(PEERS[to]).ip();
                prop_assert!(self.is_permitted(relay.allocation, ip));
                self.connections.push(id);
            }
        }
        Ok(())
    }

    fn bind_connection(&mut self, index: usize) {
        let Some(id) = self.connections.last().copied() else {
            return;
        };
        let mut from = who(index);
        from.at.client.0.set_port(1000);
        self.ask(&from, Method::CONNECTION_BIND, |request| {
            request.attribute(&ConnectionId(id))
        });
    }

    /// No connection goes where policy forbids, and every relay is closed once.
    fn check_events(&self) -> Result<(), TestCaseError> {
        for event in &self.world.events {
            if let Event::Connect { to, .. } = event {
                prop_assert_ne!(*to, peer(PEERS[3]));
            }
        }
        let mut closed = self.world.closed_relays();
        let count = closed.len();
        closed.sort();
        closed.dedup();
        prop_assert_eq!(closed.len(), count);
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_packet_reaches_anybody_without_a_live_permission(
        ops in vec((0_usize..3, op()), 1..100),
    ) {
        let mut witness = Witness::new();
        for (index, op) in &ops {
            witness.step(*index, op)?;
        }
        witness.world.pass(4000);
        witness.world.drain();
        let server = &witness.world.server;
        prop_assert_eq!(server.allocations(), 0);
        prop_assert_eq!(server.poll_timeout(), None);
        prop_assert!(server.shared.is_empty());
    }

    #[test]
    fn random_steps_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        crate::fuzz::machine_turn_server(&bytes);
    }
}
