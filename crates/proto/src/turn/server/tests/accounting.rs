//! Quotas hold until the last teardown: what is counted is what there is, whatever ends
//! in whatever order, and wherever an allocation moves.

use std::time::Duration;

use postern_wire::stun::{Builder, Class, Method, TransactionId};
use postern_wire::turn::{
    ConnectionId, Lifetime, MobilityTicket, RequestedTransport, XorPeerAddress,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::accounts::Counted;
use super::super::types::Source;
use super::super::*;
use super::world::*;

const PEERS: [&str; 4] = ["8.8.8.8:1", "8.8.8.8:2", "9.9.9.9:1", "1.1.1.1:1"];

const SHARDS: usize = 2;

/// Where clients are: two of one address, one of another, one of IPv6.
const PLACES: [(&str, Transport, &str, usize); 6] = [
    ("203.0.114.1:9", Transport::Udp, "alice", 0),
    ("203.0.114.1:10", Transport::Dtls, "bob", 0),
    ("203.0.114.2:9", Transport::Udp, "alice", 1),
    ("203.0.114.2:10", Transport::Tcp, "bob", 0),
    ("[2600:1::1]:9", Transport::Udp, "bob", 1),
    ("203.0.114.3:9", Transport::Tls, "alice", 0),
];

#[derive(Debug, Clone)]
enum Op {
    Allocate { tcp: bool, fails: bool },
    Move(usize),
    End,
    Permit(usize),
    Bind(u16, usize),
    Connect(usize, bool),
    Attempt(usize),
    BindConnection(usize),
    CloseConnection(usize),
    CloseClient,
    Forbid(bool),
    Pass(u64),
    LateTimer(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (to, some) = (0..PEERS.len(), 0_usize..8);
    prop_oneof![
        4 => any::<(bool, bool)>().prop_map(|(tcp, fails)| Op::Allocate {
            tcp,
            fails: fails && tcp,
        }),
        3 => some.clone().prop_map(Op::Move),
        1 => Just(Op::End),
        4 => to.clone().prop_map(Op::Permit),
        4 => (0x4000_u16..0x4003, to.clone()).prop_map(|(number, to)| Op::Bind(number, to)),
        3 => (to.clone(), any::<bool>()).prop_map(|(to, fails)| Op::Connect(to, fails)),
        4 => to.prop_map(Op::Attempt),
        2 => some.clone().prop_map(Op::BindConnection),
        1 => some.prop_map(Op::CloseConnection),
        1 => Just(Op::CloseClient),
        1 => any::<bool>().prop_map(Op::Forbid),
        3 => (1_u64..200).prop_map(Op::Pass),
        1 => (1_u64..200).prop_map(Op::LateTimer),
    ]
}

const QUOTAS: Quotas = Quotas {
    user: Limits {
        allocations: 3,
        permissions: 4,
        channels: 3,
        connections: 2,
        bytes_per_second: 1000,
    },
    address: Limits {
        allocations: 2,
        permissions: 3,
        channels: 2,
        connections: 2,
        bytes_per_second: 1000,
    },
    total: Limits {
        allocations: 4,
        permissions: 6,
        channels: 4,
        connections: 3,
        bytes_per_second: 0,
    },
};

struct Ledger {
    shards: Vec<World>,
    tickets: Vec<Vec<u8>>,
    connections: Vec<u32>,
}

fn place(index: usize) -> (Client, usize) {
    let (address, transport, user, shard) = PLACES[index];
    (client(transport, address, user), shard)
}

impl Ledger {
    fn new() -> Self {
        let mut config = config();
        config.quotas = QUOTAS;
        Self {
            shards: World::shards(config, 2),
            tickets: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// The shard at which the driver would have this message end.
    fn shard(&mut self, index: usize, ticket: &[u8]) -> &mut World {
        let (from, home) = place(index);
        let probe = Builder::new(Class::Request, Method::REFRESH, TransactionId([9; 12]))
            .attribute(&MobilityTicket(ticket))
            .build();
        let elsewhere = self.shards[home].server.elsewhere(&from.at, &probe);
        let shard = elsewhere.map_or(home, |shard| usize::from(shard.0));
        &mut self.shards[shard % SHARDS]
    }

    fn step(&mut self, index: usize, op: &Op) {
        let (from, _) = place(index);
        match op {
            Op::Allocate { tcp, fails } => self.allocate(index, *tcp, *fails),
            Op::Move(which) => self.relocate(index, *which),
            Op::End => {
                let world = self.shard(index, &[]);
                world.ask(&from, Method::REFRESH, |r| r.attribute(&Lifetime(0)));
            }
            Op::Permit(to) => _ = self.shard(index, &[]).permit(&from, &[PEERS[*to]]),
            Op::Bind(number, to) => {
                _ = self.shard(index, &[]).bind(&from, *number, PEERS[*to]);
            }
            Op::Connect(to, fails) => self.connect(index, *to, *fails),
            Op::Attempt(to) => self.attempt(*to),
            Op::BindConnection(which) => self.bind_connection(index, *which),
            Op::CloseConnection(which) => {
                if let Some(id) = pick(&self.connections, *which) {
                    for world in &mut self.shards {
                        world.server.handle_connection_closed(PeerConnection(id));
                    }
                }
            }
            Op::CloseClient => {
                let world = self.shard(index, &[]);
                let now = world.now;
                world.server.handle_client_closed(now, &from.at);
            }
            Op::Forbid(forbid) => self.forbid(*forbid),
            Op::Pass(seconds) => self.pass(*seconds),
            Op::LateTimer(seconds) => {
                for world in &mut self.shards {
                    world.now += Duration::from_secs(*seconds);
                }
            }
        }
        for world in &mut self.shards {
            world.drain();
        }
    }

    fn allocate(&mut self, index: usize, tcp: bool, fails: bool) {
        let (from, _) = place(index);
        let world = self.shard(index, &[]);
        if fails {
            world.open_results = vec![Err(OpenError::Unavailable)];
        }
        let transport = if tcp {
            RequestedTransport::TCP
        } else {
            RequestedTransport::UDP
        };
        let reply = world.ask(&from, Method::ALLOCATE, |request| {
            request
                .attribute(&transport)
                .attribute(&MobilityTicket(&[]))
        });
        world.open_results.clear();
        if let Some(reply) = reply.filter(|reply| reply.code() == 0) {
            self.tickets.push(reply.ticket());
        }
    }

    fn relocate(&mut self, index: usize, which: usize) {
        let Some(ticket) = pick(&self.tickets, which) else {
            return;
        };
        let (from, _) = place(index);
        let reply = self
            .shard(index, &ticket)
            .ask(&from, Method::REFRESH, |request| {
                request.attribute(&MobilityTicket(&ticket))
            });
        if let Some(reply) = reply.filter(|reply| reply.code() == 0) {
            self.tickets.push(reply.ticket());
        }
    }

    fn connect(&mut self, index: usize, to: usize, fails: bool) {
        let (from, _) = place(index);
        let world = self.shard(index, &[]);
        let reply = world.ask(&from, Method::CONNECT, |request| {
            request.attribute(&XorPeerAddress(addr(PEERS[to])))
        });
        if reply.is_some() {
            return;
        }
        let (connection, now) = (world.connecting(), world.now);
        if fails {
            let failed = Err(ConnectError::Failed);
            world.server.handle_connected(now, connection, failed);
        }
        self.connections.push(connection.0);
    }

    fn attempt(&mut self, to: usize) {
        for world in &mut self.shards {
            for relay in world.relays() {
                let now = world.now;
                let came = world
                    .server
                    .handle_peer_connected(now, relay, peer(PEERS[to]));
                self.connections.extend(came.map(|PeerConnection(id)| id));
            }
        }
    }

    fn bind_connection(&mut self, index: usize, which: usize) {
        let Some(id) = pick(&self.connections, which) else {
            return;
        };
        let (mut from, _) = place(index);
        from.at.transport = Transport::Tcp;
        from.at.client.0.set_port(1000);
        // All streams are the first shard's.
        self.shards[0].ask(&from, Method::CONNECTION_BIND, |request| {
            request.attribute(&ConnectionId(id))
        });
    }

    fn forbid(&mut self, forbid: bool) {
        for world in &mut self.shards {
            let mut policy = PeerPolicy::new();
            if forbid {
                policy = policy.deny("8.8.8.8".parse().unwrap());
            }
            let now = world.now;
            world.server.set_policy(now, policy);
        }
    }

    fn pass(&mut self, seconds: u64) {
        for world in &mut self.shards {
            world.pass(seconds);
        }
    }

    /// What there is, counted by hand.
    fn counted(&self) -> Counted {
        let mut counted = Counted::default();
        for world in &self.shards {
            for id in world.server.table.ids() {
                let allocation = world.server.table.get(id).unwrap();
                let has = [
                    1,
                    allocation.permissions.len(),
                    allocation.channels.len(),
                    world.server.connections_of(id).len(),
                ]
                .map(|count| u32::try_from(count).unwrap());
                let user = allocation.session.account.to_string();
                let address = Source::from(allocation.client.client.0.ip());
                add(counted.users.entry(user).or_default(), has);
                add(counted.addresses.entry(address).or_default(), has);
                add(&mut counted.total, has);
            }
        }
        counted
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut told = self.shards[0].server.shared.accounts().counted();
        // An account may wait until its bandwidth is paid.
        told.users.retain(|_, has| *has != [0; 4]);
        told.addresses.retain(|_, has| *has != [0; 4]);
        prop_assert_eq!(&told, &self.counted());
        prop_assert!(within(told.total, &QUOTAS.total), "{told:?}");
        for has in told.users.values() {
            prop_assert!(within(*has, &QUOTAS.user), "{told:?}");
        }
        for has in told.addresses.values() {
            prop_assert!(within(*has, &QUOTAS.address), "{told:?}");
        }
        Ok(())
    }
}

fn pick<T: Clone>(list: &[T], which: usize) -> Option<T> {
    let index = which.checked_rem(list.len())?;
    list.get(list.len() - 1 - index).cloned()
}

fn add(to: &mut [u32; 4], has: [u32; 4]) {
    to.iter_mut().zip(has).for_each(|(to, has)| *to += has);
}

fn within(has: [u32; 4], limits: &Limits) -> bool {
    let limits = [
        limits.allocations,
        limits.permissions,
        limits.channels,
        limits.connections,
    ];
    has.iter().zip(limits).all(|(has, limit)| *has <= limit)
}

proptest! {
    #[test]
    fn what_is_counted_is_what_there_is_and_no_more_than_may_be(
        ops in vec((0..PLACES.len(), op()), 1..120),
    ) {
        let mut ledger = Ledger::new();
        for (index, op) in &ops {
            ledger.step(*index, op);
            ledger.check()?;
        }
        ledger.pass(4000);
        ledger.check()?;
        prop_assert_eq!(ledger.shards[0].server.allocations(), 0);
        prop_assert!(ledger.shards[0].server.shared.is_empty());
    }
}

/// A mobile allocation of Alice's with permissions for these peers, and its ticket.
fn mobile(world: &mut World, from: &Client, peers: &[&str]) -> Vec<u8> {
    let reply = world.ask(from, Method::ALLOCATE, |request| {
        request
            .attribute(&RequestedTransport::UDP)
            .attribute(&MobilityTicket(&[]))
    });
    assert_eq!(world.permit(from, peers), 0);
    reply.unwrap().ticket()
}

fn follow(world: &mut World, from: &Client, ticket: &[u8]) -> u16 {
    let fill = |request: Builder| request.attribute(&MobilityTicket(ticket));
    world.ask(from, Method::REFRESH, fill).unwrap().code()
}

#[test]
fn an_address_gets_no_more_permissions_by_moving_than_by_asking() {
    let mut config = config();
    config.quotas.address.permissions = 2;
    let mut world = World::with(config);
    let there = |port: u16| client(Transport::Udp, &format!("198.20.0.1:{port}"), "alice");
    let first = mobile(&mut world, &alice(), &[PEER]);
    mobile(&mut world, &there(1), &[PEER]);
    // There is room for one permission more there.
    assert_eq!(follow(&mut world, &there(2), &first), 0);
    let second = mobile(&mut world, &alice(), &[OTHER_PEER]);
    assert_eq!(follow(&mut world, &there(3), &second), 486);
    assert_eq!(world.permit(&there(2), &["1.1.1.1:1"]), 508);
    // And what moved is gone from where it was.
    assert_eq!(world.permit(&alice(), &["1.1.1.1:1"]), 0);
}

#[test]
fn a_new_allocation_does_not_bring_new_bandwidth() {
    for by_user in [true, false] {
        let mut config = config();
        let limits = if by_user {
            &mut config.quotas.user
        } else {
            &mut config.quotas.address
        };
        limits.bytes_per_second = 10_000;
        let mut world = World::with(config);
        let passed = |world: &mut World| {
            world.allocate(&alice());
            assert_eq!(world.bind(&alice(), 0x4000, PEER), 0);
            let (now, at) = (world.now, alice().at);
            let spend = |_: &_| {
                let forward = world
                    .server
                    .client_data(now, &at, channel(0x4000), Load::one(1000));
                forward.is_some()
            };
            let passed = (0..100).filter(spend).count();
            assert_eq!(world.refresh(&alice(), 0).code(), 0);
            passed
        };
        assert_eq!(passed(&mut world), 10, "{by_user}");
        assert_eq!(passed(&mut world), 0, "{by_user}");
        world.now += Duration::from_millis(500);
        assert_eq!(passed(&mut world), 5, "{by_user}");
        world.now += Duration::from_secs(60);
        assert_eq!(passed(&mut world), 10, "{by_user}");
        // Who comes after it has been paid finds nothing of it.
        world.now += Duration::from_secs(60);
        world.allocate(&bob());
        world.refresh(&bob(), 0);
        let counted = world.server.shared.accounts().counted();
        assert_eq!((counted.users.len(), counted.addresses.len()), (0, 0));
    }
}
