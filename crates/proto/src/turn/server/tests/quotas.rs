//! How much one may have.

use postern_wire::stun::AlternateServer;

use super::super::*;
use super::world::*;

fn with(quotas: Quotas) -> World {
    let mut config = config();
    config.quotas = quotas;
    World::with(config)
}

fn at(port: u16, user: &str) -> Client {
    client(Transport::Udp, &format!("203.0.113.5:{port}"), user)
}

const ONE_ALLOCATION: Limits = limits(1, 0, 0, 0, 0);

const fn limits(
    allocations: u32,
    permissions: u32,
    channels: u32,
    connections: u32,
    rate: u64,
) -> Limits {
    Limits {
        allocations,
        permissions,
        channels,
        connections,
        bytes_per_second: rate,
    }
}

#[test]
fn a_user_has_a_quota_of_allocations() {
    let mut world = with(Quotas {
        user: ONE_ALLOCATION,
        ..Quotas::default()
    });
    world.allocate(&at(1, "alice"));
    assert_eq!(world.try_allocate(&at(2, "alice")).code(), 486);
    assert_eq!(world.try_allocate(&at(2, "bob")).code(), 0);
    world.refresh(&at(1, "alice"), 0);
    assert_eq!(world.try_allocate(&at(3, "alice")).code(), 0);
}

#[test]
fn an_address_has_a_quota_whoever_is_there() {
    let mut world = with(Quotas {
        address: ONE_ALLOCATION,
        ..Quotas::default()
    });
    world.allocate(&at(1, "alice"));
    assert_eq!(world.try_allocate(&at(2, "bob")).code(), 486);
    let neighbour = client(Transport::Udp, "203.0.113.6:1", "bob");
    assert_eq!(world.try_allocate(&neighbour).code(), 0);
    let v6 = client(Transport::Udp, "[2600:1:2:3::1]:1", "bob");
    assert_eq!(world.try_allocate(&v6).code(), 0);
    let same_64 = client(Transport::Udp, "[2600:1:2:3::2]:1", "alice");
    assert_eq!(world.try_allocate(&same_64).code(), 486);
}

#[test]
fn all_together_have_a_quota() {
    let mut world = with(Quotas {
        total: ONE_ALLOCATION,
        ..Quotas::default()
    });
    world.allocate(&alice());
    assert_eq!(world.try_allocate(&bob()).code(), 486);
    world.pass(600);
    assert_eq!(world.try_allocate(&bob()).code(), 0);
}

#[test]
fn a_failed_allocation_is_given_back() {
    let mut world = with(Quotas {
        user: ONE_ALLOCATION,
        ..Quotas::default()
    });
    world.open_results = vec![Err(OpenError::Unavailable)];
    assert_eq!(world.try_allocate(&alice()).code(), 508);
    assert_eq!(world.try_allocate(&alice()).code(), 0);
}

#[test]
fn permissions_and_channels_have_quotas_that_expiry_gives_back() {
    let mut world = with(Quotas {
        user: limits(0, 2, 1, 0, 0),
        ..Quotas::default()
    });
    world.allocate(&alice());
    world.refresh(&alice(), 3600);
    assert_eq!(world.permit(&alice(), &[PEER, PEER, OTHER_PEER]), 0);
    assert_eq!(world.permit(&alice(), &["1.1.1.1:1"]), 508);
    assert_eq!(world.permit(&alice(), &[PEER]), 0);
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 0);
    assert_eq!(world.bind(&alice(), 0x4001, OTHER_PEER), 508);
    world.pass(300);
    assert_eq!(world.permit(&alice(), &["1.1.1.1:1", "1.1.1.2:1"]), 0);
    world.pass(300);
    assert_eq!(world.bind(&alice(), 0x4001, OTHER_PEER), 0);
}

#[test]
fn a_request_that_is_refused_takes_nothing() {
    let mut world = with(Quotas {
        user: limits(0, 2, 0, 0, 0),
        ..Quotas::default()
    });
    world.allocate(&alice());
    assert_eq!(
        world.permit(&alice(), &["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]),
        508
    );
    assert_eq!(world.permit(&alice(), &["1.1.1.1:1", "1.1.1.2:1"]), 0);
}

#[test]
fn a_channel_that_is_refused_takes_no_permission() {
    let mut world = with(Quotas {
        user: limits(0, 1, 1, 0, 0),
        ..Quotas::default()
    });
    world.allocate(&alice());
    world.bind(&alice(), 0x4000, PEER);
    assert_eq!(world.bind(&alice(), 0x4001, "8.8.8.8:4001"), 508);
    world.refresh(&alice(), 0);
    world.allocate(&alice());
    assert_eq!(world.permit(&alice(), &[OTHER_PEER]), 0);
}

#[test]
fn connections_with_peers_have_a_quota() {
    let mut world = with(Quotas {
        user: limits(0, 0, 0, 1, 0),
        ..Quotas::default()
    });
    world.allocate_tcp(&alice_tcp());
    world.permit(&alice_tcp(), &[PEER]);
    let (relay, now) = (world.last_relay(), world.now);
    let first = world.server.handle_peer_connected(now, relay, peer(PEER));
    let second = peer("8.8.8.8:4001");
    assert_eq!(world.server.handle_peer_connected(now, relay, second), None);
    world.server.handle_connection_closed(first.unwrap());
    let again = world.server.handle_peer_connected(now, relay, second);
    assert!(again.is_some());
}

#[test]
fn bandwidth_is_a_second_ahead_and_no_more() {
    let mut world = with(Quotas {
        user: limits(0, 0, 0, 0, 10_000),
        ..Quotas::default()
    });
    world.allocate(&alice());
    world.bind(&alice(), 0x4000, PEER);
    let relay = world.last_relay();
    let (at, number) = (alice().at, channel(0x4000));
    let spend = |world: &mut World, bytes| {
        let now = world.now;
        world
            .server
            .client_data(now, &at, number, Load::one(bytes))
            .is_some()
    };
    let passed = (0..100).filter(|_| spend(&mut world, 1000)).count();
    assert_eq!(passed, 10);
    assert!(world.peer_sends(relay, PEER).is_none());
    world.now += std::time::Duration::from_millis(500);
    let passed = (0..100).filter(|_| spend(&mut world, 1000)).count();
    assert_eq!(passed, 5);
}

#[test]
fn clients_without_room_are_sent_elsewhere_and_others_are_not() {
    let mut config = config();
    config.quotas.total = ONE_ALLOCATION;
    config.quotas.user = ONE_ALLOCATION;
    config.overflow.v4 = Some(addr("192.0.2.99:3478"));
    let mut world = World::with(config);
    world.allocate(&alice());
    let reply = world.try_allocate(&bob());
    assert_eq!(reply.code(), 300);
    let other = reply.message().get::<AlternateServer>().unwrap().unwrap();
    assert_eq!(other.0, addr("192.0.2.99:3478"));
    let v6 = client(Transport::Udp, "[2600::1]:1", "bob");
    assert_eq!(world.try_allocate(&v6).code(), 486);
    world.server.set_quotas(Quotas {
        user: ONE_ALLOCATION,
        ..Quotas::default()
    });
    assert_eq!(world.try_allocate(&at(2, "alice")).code(), 486);
    assert_eq!(world.try_allocate(&bob()).code(), 0);
}

#[test]
fn clients_without_a_port_are_sent_elsewhere() {
    let mut config = config();
    config.ports = 5000..=5000;
    config.overflow.v4 = Some(addr("192.0.2.99:3478"));
    let mut world = World::with(config);
    world.allocate(&alice());
    assert_eq!(world.try_allocate(&bob()).code(), 300);
    world.server.set_overflow(Alternates::default());
    assert_eq!(world.try_allocate(&bob()).code(), 508);
}
