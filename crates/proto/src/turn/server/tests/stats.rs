//! What is counted.

use postern_wire::stun::Method;

use super::super::*;
use super::world::*;

#[test]
fn answers_are_counted_by_method_and_code() {
    let mut world = World::new();
    world.allocate(&alice());
    world.try_allocate(&alice());
    world.permit(&alice(), &[PEER]);
    world.permit(&alice(), &["127.0.0.1:1"]);
    let answers: Vec<_> = world
        .server
        .stats()
        .answers
        .iter()
        .map(|((method, code), count)| (*method, *code, *count))
        .collect();
    let expected = [
        (Method::ALLOCATE, 0, 1),
        (Method::ALLOCATE, 401, 1),
        (Method::ALLOCATE, 437, 1),
        (Method::CREATE_PERMISSION, 0, 1),
        (Method::CREATE_PERMISSION, 403, 1),
    ];
    assert_eq!(answers, expected);
}

#[test]
fn allocations_and_connections_are_counted_while_they_last() {
    let mut world = World::new();
    world.allocate(&alice());
    world.allocate_tcp(&alice_tcp());
    world.permit(&alice_tcp(), &[PEER]);
    let (relay, now) = (world.last_relay(), world.now);
    world.server.handle_peer_connected(now, relay, peer(PEER));
    world
        .server
        .handle_peer_connected(now, relay, peer(OTHER_PEER));
    let stats = world.server.stats();
    let udp = (Transport::Udp, RelayTransport::Udp);
    let tcp = (Transport::Tcp, RelayTransport::Tcp);
    assert_eq!(stats.allocations, [(udp, 1), (tcp, 1)].into());
    assert_eq!((stats.connections, stats.attempts_refused), (1, 1));
    world.pass(3600);
    let stats = world.server.stats();
    assert_eq!((stats.allocation_count(), stats.connections), (0, 0));
}

#[test]
fn data_is_counted_by_what_became_of_it() {
    let mut config = config();
    config.quotas.user.bytes_per_second = 8;
    let mut world = World::with(config);
    world.allocate(&alice());
    world.bind(&alice(), 0x4000, PEER);
    let relay = world.last_relay();
    assert!(world.channel_data(&alice(), 0x4000).is_some());
    assert!(world.peer_sends(relay, PEER).is_some());
    assert!(world.send(&alice(), PEER).is_none());
    assert!(world.send(&alice(), OTHER_PEER).is_none());
    assert!(world.channel_data(&alice(), 0x4001).is_none());
    assert!(world.peer_sends(relay, OTHER_PEER).is_none());
    let stats = world.server.stats();
    let traffic = |packets, bytes| Traffic { packets, bytes };
    assert_eq!(stats.to_peers, traffic(1, 4));
    assert_eq!(stats.to_clients, traffic(1, 4));
    assert_eq!(stats.beyond_rate, traffic(1, 4));
    assert_eq!(stats.without_permission, traffic(3, 12));
}

#[test]
fn what_shards_have_counted_adds_up() {
    let mut world = World::new();
    world.allocate(&alice());
    world.send(&alice(), OTHER_PEER);
    let mut sum = world.server.stats().clone();
    sum.add(world.server.stats());
    assert_eq!(sum.allocation_count(), 2);
    assert_eq!(sum.answers[&(Method::ALLOCATE, 0)], 2);
    let expected = Traffic {
        packets: 2,
        bytes: 8,
    };
    assert_eq!(sum.without_permission, expected);
}
