//! RFC 8016: an allocation follows its owner.

use postern_wire::stun::{Builder, Method, TransactionId};
use postern_wire::turn::{Lifetime, MobilityTicket, RequestedTransport};

use super::super::*;
use super::world::*;

fn elsewhere() -> Client {
    client(Transport::Udp, "198.20.0.1:1111", "alice")
}

fn mobile() -> (World, Vec<u8>) {
    mobile_with(config())
}

fn mobile_with(config: Config) -> (World, Vec<u8>) {
    let mut world = World::with(config);
    let reply = world.ask(&alice(), Method::ALLOCATE, |request| {
        request
            .attribute(&RequestedTransport::UDP)
            .attribute(&MobilityTicket(&[]))
    });
    let ticket = reply.unwrap().ticket();
    world.permit(&alice(), &[PEER]);
    (world, ticket)
}

fn refresh(world: &mut World, from: &Client, ticket: &[u8]) -> Reply {
    let fill = |request: Builder| request.attribute(&MobilityTicket(ticket));
    world.ask(from, Method::REFRESH, fill).unwrap()
}

#[test]
fn an_allocation_moves_with_its_permissions_and_gets_a_new_ticket() {
    let (mut world, ticket) = mobile();
    let relay = world.last_relay();
    let reply = refresh(&mut world, &elsewhere(), &ticket);
    assert_eq!(reply.code(), 0);
    assert_ne!(reply.ticket(), ticket);
    assert_eq!(
        world.peer_sends(relay, PEER).unwrap().client,
        elsewhere().at
    );
    assert!(world.send(&elsewhere(), PEER).is_some());
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn what_is_on_the_way_from_the_old_address_counts_until_the_new_one_speaks() {
    let (mut world, ticket) = mobile();
    refresh(&mut world, &elsewhere(), &ticket);
    assert!(world.send(&alice(), PEER).is_some());
    assert!(world.send(&elsewhere(), PEER).is_some());
    assert!(world.send(&alice(), PEER).is_none());
    assert_eq!(world.permit(&alice(), &[PEER]), 437);
}

#[test]
fn a_ticket_is_good_once() {
    let (mut world, ticket) = mobile();
    refresh(&mut world, &elsewhere(), &ticket);
    let third = client(Transport::Udp, "198.20.0.1:2222", "alice");
    assert_eq!(refresh(&mut world, &third, &ticket).code(), 400);
}

#[test]
fn a_retransmitted_move_is_answered_alike() {
    let (mut world, ticket) = mobile();
    let id = TransactionId([8; 12]);
    let mut ask = || {
        let fill = |request: Builder| request.attribute(&MobilityTicket(&ticket));
        let reply = world.ask_as(&elsewhere(), Method::REFRESH, id, fill);
        reply.unwrap().ticket()
    };
    assert_eq!(ask(), ask());
}

#[test]
fn a_ticket_is_its_owners() {
    let (mut world, ticket) = mobile();
    assert_eq!(refresh(&mut world, &bob(), &ticket).code(), 441);
    let relay = world.last_relay();
    assert_eq!(world.peer_sends(relay, PEER).unwrap().client, alice().at);
}

#[test]
fn a_ticket_that_is_none_is_a_bad_request() {
    let (mut world, mut ticket) = mobile();
    for forged in [&b""[..], b"short", &[0; 24], &ticket[..23]] {
        assert_eq!(refresh(&mut world, &elsewhere(), forged).code(), 400);
    }
    assert_eq!(refresh(&mut world, &alice(), b"wrong").code(), 400);
    ticket[23] ^= 1;
    assert_eq!(refresh(&mut world, &elsewhere(), &ticket).code(), 400);
}

#[test]
fn a_refresh_at_home_keeps_the_ticket() {
    let (mut world, ticket) = mobile();
    let reply = refresh(&mut world, &alice(), &ticket);
    assert_eq!((reply.code(), reply.ticket()), (0, ticket));
}

#[test]
fn without_mobility_a_ticket_is_forbidden() {
    let mut config = config();
    config.mobility = false;
    let mut world = World::with(config);
    world.allocate(&alice());
    assert_eq!(refresh(&mut world, &alice(), b"x").code(), 405);
}

#[test]
fn an_allocation_without_a_ticket_stays() {
    let mut world = World::new();
    world.allocate(&alice());
    let reply = refresh(&mut world, &elsewhere(), &[0; 24]);
    assert_eq!(reply.code(), 400);
}

#[test]
fn the_end_of_a_stream_does_not_end_what_can_move() {
    let mut world = World::new();
    world.ask(&alice_tcp(), Method::ALLOCATE, |request| {
        request
            .attribute(&RequestedTransport::UDP)
            .attribute(&MobilityTicket(&[]))
    });
    world
        .server
        .handle_client_closed(world.now, &alice_tcp().at);
    assert_eq!(world.server.allocations(), 1);
    let fixed = client(Transport::Tcp, "203.0.113.5:7", "alice");
    world.allocate(&fixed);
    world.server.handle_client_closed(world.now, &fixed.at);
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn a_tcp_relay_moves_to_a_stream_only() {
    let mut world = World::new();
    let reply = world.ask(&alice_tcp(), Method::ALLOCATE, |request| {
        request
            .attribute(&RequestedTransport::TCP)
            .attribute(&MobilityTicket(&[]))
    });
    let ticket = reply.unwrap().ticket();
    assert_eq!(refresh(&mut world, &elsewhere(), &ticket).code(), 400);
    let stream = client(Transport::Tls, "198.20.0.1:1111", "alice");
    assert_eq!(refresh(&mut world, &stream, &ticket).code(), 0);
}

#[test]
fn moving_counts_against_the_quota_of_the_new_address() {
    let mut config = config();
    config.quotas.address.allocations = 1;
    let (mut world, ticket) = mobile_with(config);
    let there = client(Transport::Udp, "198.20.0.1:9", "bob");
    world.allocate(&there);
    assert_eq!(refresh(&mut world, &elsewhere(), &ticket).code(), 486);
    world.refresh(&there, 0);
    assert_eq!(refresh(&mut world, &elsewhere(), &ticket).code(), 0);
    assert_eq!(world.try_allocate(&there).code(), 486);
    let home = client(Transport::Udp, "203.0.113.5:9", "bob");
    assert_eq!(world.try_allocate(&home).code(), 0);
}

#[test]
fn somebody_else_may_have_the_address_that_was_left() {
    let (mut world, ticket) = mobile();
    refresh(&mut world, &elsewhere(), &ticket);
    let mut heir = bob();
    heir.at = alice().at;
    assert_eq!(world.try_allocate(&heir).code(), 0);
    assert!(world.send(&elsewhere(), PEER).is_some());
    assert!(world.send(&heir, PEER).is_none());
}

#[test]
fn the_one_who_moved_can_end_it() {
    let (mut world, ticket) = mobile();
    let reply = world.ask(&elsewhere(), Method::REFRESH, |request| {
        request
            .attribute(&Lifetime(0))
            .attribute(&MobilityTicket(&ticket))
    });
    assert_eq!(reply.unwrap().code(), 0);
    assert_eq!(world.server.allocations(), 0);
    assert_eq!(world.permit(&alice(), &[PEER]), 437);
}
