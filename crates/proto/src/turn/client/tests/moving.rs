//! Mobility (RFC 8016).

use super::*;

const NEW: &str = "172.16.0.9:6000";

fn mobile() -> World {
    let mut config = config();
    config.mobility = true;
    let mut world = World::new(Auth::Sha256, config);
    world.run(secs(1));
    world.client.permit(world.now, at(PEER).ip()).unwrap();
    world.run(secs(1));
    world
}

#[test]
fn a_new_address_keeps_the_allocation_and_the_next_ticket_is_another() {
    let mut world = mobile();
    world.send(PEER, b"before");
    for new in [NEW, "172.16.0.9:6001"] {
        world.client.moved(world.now, at(new));
        world.run(secs(1));
        assert!(world.has(&Event::Moved));
        assert_eq!(world.server.client, Some(at(new)));
        world.events.clear();
    }
    world.send(PEER, b"after");
    assert_eq!(world.server.relayed.len(), 2);
    assert!(world.server.relayed[1].2, "the channel has moved along");
    world.run(secs(700));
    assert_eq!(world.failure(), None);
}

#[test]
fn nothing_else_is_asked_while_the_server_has_not_moved_it() {
    let mut world = mobile();
    world.server.deaf.insert(Method::REFRESH.number());
    world.client.moved(world.now, at(NEW));
    _ = world.client.permit(world.now, at("203.0.113.77:1").ip());
    world.run(secs(10));
    assert_eq!(world.done(Method::CREATE_PERMISSION).len(), 1);
    world.server.deaf.clear();
    world.run(secs(20));
    assert!(world.has(&Event::Moved));
    let created = world.done(Method::CREATE_PERMISSION).len();
    assert_eq!(created, 3, "the new one, and the old one again");
}

#[test]
fn a_nat_that_forgets_the_mapping_does_not_end_the_allocation() {
    let mut world = mobile();
    world.send(PEER, b"before");
    world.server.client = Some(at(NEW));
    world.run(secs(250));
    assert!(world.has(&Event::Moved));
    assert_eq!(world.server.client, Some(at(LOCAL)));
    world.send(PEER, b"after");
    assert_eq!(world.server.relayed.len(), 2);
    assert_eq!(world.failure(), None);
}

#[test]
fn a_server_that_forgets_again_and_again_is_not_believed() {
    let mut world = mobile();
    for _ in 0..10 {
        world
            .server
            .errors
            .push_back((Method::CREATE_PERMISSION, 437));
    }
    world.run(secs(250));
    assert_eq!(world.failure(), Some(Failure::AllocationMismatch));
}

#[test]
fn without_a_ticket_a_new_address_is_the_end() {
    let mut world = World::allocated();
    world.client.moved(world.now, at(NEW));
    world.run(secs(1));
    assert_eq!(world.failure(), Some(Failure::Immobile));
}

#[test]
fn a_server_without_mobility_is_asked_again_without() {
    let mut config = config();
    config.mobility = true;
    let mut world = World::new(Auth::Sha256, config);
    world.server.errors.push_back((Method::ALLOCATE, 405));
    world.run(secs(1));
    assert!(world.client.allocation().is_some());
}

#[test]
fn a_new_address_while_allocating_asks_from_there() {
    let mut world = World::new(Auth::Sha256, config());
    world.client.moved(world.now, at(NEW));
    world.run(secs(1));
    assert_eq!(world.server.client, Some(at(NEW)));
}
