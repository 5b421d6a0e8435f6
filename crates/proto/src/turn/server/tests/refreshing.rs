//! Refresh: longer, shorter, or over.

use postern_wire::stun::{Method, TransactionId};
use postern_wire::turn::{
    AdditionalAddressFamily, AddressFamily, Lifetime, RequestedAddressFamily, RequestedTransport,
};

use super::world::*;

#[test]
fn a_refresh_gives_a_new_lifetime() {
    let mut world = World::new();
    world.allocate(&alice());
    world.pass(500);
    assert_eq!(world.refresh(&alice(), 1200).lifetime(), 1200);
    world.pass(1199);
    assert_eq!(world.server.allocations(), 1);
    world.pass(1);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn a_lifetime_can_be_shortened_to_the_default() {
    let mut world = World::new();
    world.allocate(&alice());
    world.refresh(&alice(), 3600);
    assert_eq!(world.refresh(&alice(), 1).lifetime(), 600);
    world.pass(600);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn without_an_allocation_there_is_nothing_to_refresh() {
    assert_eq!(World::new().refresh(&alice(), 600).code(), 437);
}

#[test]
fn another_user_has_the_wrong_credentials() {
    let mut world = World::new();
    world.allocate(&alice());
    let mut thief = bob();
    thief.at = alice().at;
    assert_eq!(world.refresh(&thief, 0).code(), 441);
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn zero_ends_the_allocation_and_a_retransmission_is_answered_alike() {
    let (mut world, id) = (World::new(), TransactionId([4; 12]));
    world.allocate(&alice());
    let relay = world.last_relay();
    for _ in 0..2 {
        let reply = world.ask_as(&alice(), Method::REFRESH, id, |request| {
            request.attribute(&Lifetime(0))
        });
        assert_eq!(reply.unwrap().lifetime(), 0);
    }
    assert_eq!(world.closed_relays(), [relay]);
    assert_eq!(world.refresh(&alice(), 0).code(), 437);
    assert_eq!(world.try_allocate(&alice()).code(), 0);
}

#[test]
fn a_family_that_is_not_there_is_a_mismatch() {
    let mut world = World::new();
    world.allocate(&alice());
    let reply = world.ask(&alice(), Method::REFRESH, |request| {
        request.attribute(&RequestedAddressFamily(AddressFamily::V6))
    });
    assert_eq!(reply.unwrap().code(), 443);
}

#[test]
fn one_family_of_two_can_end_alone() {
    let mut world = World::new();
    world.ask(&alice(), Method::ALLOCATE, |request| {
        request
            .attribute(&RequestedTransport::UDP)
            .attribute(&AdditionalAddressFamily(AddressFamily::V6))
    });
    let relays = world.relays();
    assert_eq!(world.permit(&alice(), &[PEER, "[2600::1]:1"]), 0);
    assert!(world.send(&alice(), PEER).is_some());
    let reply = world.ask(&alice(), Method::REFRESH, |request| {
        request
            .attribute(&Lifetime(0))
            .attribute(&RequestedAddressFamily(AddressFamily::V4))
    });
    assert_eq!(reply.unwrap().code(), 0);
    assert_eq!(world.closed_relays(), relays[..1]);
    assert!(world.send(&alice(), PEER).is_none());
    assert!(world.send(&alice(), "[2600::1]:1").is_some());
    assert_eq!(world.permit(&alice(), &[PEER]), 443);
    assert_eq!(world.refresh(&alice(), 0).code(), 0);
    assert_eq!(world.server.allocations(), 0);
}
