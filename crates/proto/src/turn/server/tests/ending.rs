//! What is left when all is over: nothing.

use super::super::*;
use super::world::*;

#[test]
fn an_allocation_ends_with_its_lifetime_and_leaves_nothing() {
    let mut world = World::new();
    let relayed = world.allocate(&alice()).relayed();
    let relay = world.last_relay();
    world.bind(&alice(), 0x4000, PEER);
    world.pass(600);
    assert_eq!(world.elapsed().as_secs(), 600);
    assert_eq!(world.closed_relays(), [relay]);
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    assert!(world.peer_sends(relay, PEER).is_none());
    assert_eq!(world.refresh(&alice(), 600).code(), 437);
    assert_eq!(world.server.poll_timeout(), None);
    assert_eq!(world.server.allocations(), 0);
    world.allocate(&bob());
    assert_eq!(world.permit(&bob(), &[&relayed.to_string()]), 403);
}

#[test]
fn an_allocation_that_ends_while_it_opens_is_forgotten() {
    let mut world = World::new();
    let id = world.fresh_id();
    world.allocate_tcp(&alice_tcp());
    let relay = world.last_relay();
    world
        .server
        .handle_client_closed(world.now, &alice_tcp().at);
    world
        .server
        .handle_relay_opened(world.now, relay, Err(OpenError::AddressInUse));
    world.drain();
    assert_eq!(world.closed_relays(), [relay]);
    assert_eq!(world.server.allocations(), 0);
    assert_ne!(id, world.fresh_id());
}

#[test]
fn data_is_not_relayed_past_the_end_when_the_timer_is_late() {
    let mut world = World::new();
    world.allocate(&alice());
    let relay = world.last_relay();
    world.bind(&alice(), 0x4000, PEER);
    world.now += std::time::Duration::from_secs(600);
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    assert!(world.peer_sends(relay, PEER).is_none());
}

#[test]
fn there_is_one_deadline_for_each_allocation() {
    let mut world = World::new();
    for port in 1..=50 {
        let from = client(Transport::Udp, &format!("203.0.113.5:{port}"), "alice");
        world.allocate(&from);
        for _ in 0..3 {
            world.permit(&from, &[PEER, OTHER_PEER]);
            world.bind(&from, 0x4000, PEER);
            world.refresh(&from, 900);
        }
    }
    assert_eq!(world.server.deadlines.len(), 50);
}
