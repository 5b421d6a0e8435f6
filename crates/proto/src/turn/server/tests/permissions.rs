//! CreatePermission and ChannelBind.

use postern_wire::stun::{AttributeType, Method};
use postern_wire::turn::XorPeerAddress;

use super::super::*;
use super::world::*;

fn allocated() -> World {
    let mut world = World::new();
    world.allocate(&alice());
    world
}

#[test]
fn a_permission_lets_every_port_of_the_address_through_for_five_minutes() {
    let mut world = allocated();
    let relay = world.last_relay();
    assert!(world.peer_sends(relay, PEER).is_none());
    assert_eq!(world.permit(&alice(), &[PEER]), 0);
    assert!(world.peer_sends(relay, "8.8.8.8:1").is_some());
    assert!(world.send(&alice(), "8.8.8.8:1").is_some());
    assert!(world.peer_sends(relay, OTHER_PEER).is_none());
    world.pass(299);
    assert!(world.peer_sends(relay, PEER).is_some());
    world.pass(1);
    assert!(world.peer_sends(relay, PEER).is_none());
    assert!(world.send(&alice(), PEER).is_none());
}

#[test]
fn a_permission_is_refreshed_by_asking_again() {
    let mut world = allocated();
    world.permit(&alice(), &[PEER]);
    world.pass(200);
    world.permit(&alice(), &[PEER]);
    world.pass(200);
    assert!(world.send(&alice(), PEER).is_some());
}

#[test]
fn one_forbidden_peer_spoils_the_request() {
    let mut world = allocated();
    assert_eq!(world.permit(&alice(), &[PEER, "10.0.0.1:1"]), 403);
    assert!(world.send(&alice(), PEER).is_none());
}

#[test]
fn a_request_without_a_peer_is_bad() {
    let mut world = allocated();
    assert_eq!(world.permit(&alice(), &[]), 400);
    let reply = world.ask(&alice(), Method::CREATE_PERMISSION, |request| {
        request.raw_attribute(AttributeType::XOR_PEER_ADDRESS, &[0; 8])
    });
    assert_eq!(reply.unwrap().code(), 400);
}

#[test]
fn a_peer_of_the_other_family_is_a_mismatch() {
    let mut world = allocated();
    assert_eq!(world.permit(&alice(), &["[2600::1]:1"]), 443);
    assert_eq!(world.bind(&alice(), 0x4000, "[2600::1]:1"), 443);
}

#[test]
fn without_an_allocation_there_are_no_permissions() {
    let mut world = World::new();
    assert_eq!(world.permit(&alice(), &[PEER]), 437);
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 437);
}

#[test]
fn another_user_has_the_wrong_credentials() {
    let mut world = allocated();
    let mut thief = bob();
    thief.at = alice().at;
    assert_eq!(world.permit(&thief, &[PEER]), 441);
    assert_eq!(world.bind(&thief, 0x4000, PEER), 441);
}

#[test]
fn a_channel_is_bound_for_ten_minutes_and_permits_for_five() {
    let mut world = allocated();
    let relay = world.last_relay();
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 0);
    assert_eq!(
        world.channel_data(&alice(), 0x4000).unwrap().peer,
        peer(PEER)
    );
    world.pass(300);
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    world.permit(&alice(), &[PEER]);
    let framing = world.peer_sends(relay, PEER).unwrap().framing;
    assert_eq!(framing, Framing::Channel(channel(0x4000)));
    world.refresh(&alice(), 3600);
    world.pass(299);
    assert!(world.channel_data(&alice(), 0x4000).is_some());
    world.permit(&alice(), &[PEER]);
    world.pass(1);
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    let framing = world.peer_sends(relay, PEER).unwrap().framing;
    assert_eq!(framing, Framing::Indication(peer(PEER)));
}

#[test]
fn a_channel_and_a_peer_belong_to_each_other_alone() {
    let mut world = allocated();
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 0);
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 0);
    assert_eq!(world.bind(&alice(), 0x4000, OTHER_PEER), 400);
    assert_eq!(world.bind(&alice(), 0x4001, PEER), 400);
    assert_eq!(world.bind(&alice(), 0x4001, "8.8.8.8:4001"), 0);
    world.refresh(&alice(), 3600);
    world.pass(600);
    assert_eq!(world.bind(&alice(), 0x4000, OTHER_PEER), 0);
}

#[test]
fn a_channel_must_have_a_number_in_range_and_a_peer() {
    let mut world = allocated();
    for number in [0_u16, 0x3fff, 0x8000, 0xffff] {
        let [n0, n1] = number.to_be_bytes();
        let reply = world.ask(&alice(), Method::CHANNEL_BIND, |request| {
            request
                .raw_attribute(AttributeType::CHANNEL_NUMBER, &[n0, n1, 0, 0])
                .attribute(&XorPeerAddress(addr(PEER)))
        });
        assert_eq!(reply.unwrap().code(), 400);
    }
    let reply = world.ask(&alice(), Method::CHANNEL_BIND, |request| {
        request.attribute(&channel(0x4000))
    });
    assert_eq!(reply.unwrap().code(), 400);
    let reply = world.ask(&alice(), Method::CHANNEL_BIND, |request| {
        request.attribute(&XorPeerAddress(addr(PEER)))
    });
    assert_eq!(reply.unwrap().code(), 400);
}

#[test]
fn channels_of_rfc_5766_are_taken_too() {
    let mut world = allocated();
    assert_eq!(world.bind(&alice(), 0x7fff, PEER), 0);
    assert!(world.channel_data(&alice(), 0x7fff).is_some());
}

#[test]
fn there_are_no_channels_on_tcp_relays() {
    let mut world = World::new();
    world.allocate_tcp(&alice_tcp());
    assert_eq!(world.bind(&alice_tcp(), 0x4000, PEER), 400);
    assert_eq!(world.permit(&alice_tcp(), &[PEER]), 0);
    assert!(world.send(&alice_tcp(), PEER).is_none());
}

#[test]
fn one_allocation_has_a_thousand_permissions_and_channels_at_most() {
    let mut world = allocated();
    for n in 0..1024_u16 {
        let peer = format!("8.8.{}.{}:1", n / 256, n % 256);
        assert_eq!(world.bind(&alice(), 0x4000 + n, &peer), 0);
    }
    assert_eq!(world.permit(&alice(), &["9.9.9.9:1"]), 508);
    assert_eq!(world.bind(&alice(), 0x4500, "8.8.0.0:2"), 508);
    assert_eq!(world.bind(&alice(), 0x4000, "8.8.0.0:1"), 0);
    assert_eq!(world.permit(&alice(), &["8.8.0.1:1"]), 0);
}
