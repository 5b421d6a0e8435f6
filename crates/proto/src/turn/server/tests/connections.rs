//! TCP relays (RFC 6062).

use postern_wire::stun::{AttributeType, Builder, Method};
use postern_wire::turn::{ConnectionId, Lifetime, XorPeerAddress};

use super::super::*;
use super::world::*;

fn allocated() -> World {
    let mut world = World::new();
    world.allocate_tcp(&alice_tcp());
    world
}

fn connect(world: &mut World, to: &str) -> Option<Reply> {
    world.ask(&alice_tcp(), Method::CONNECT, |request| {
        request.attribute(&XorPeerAddress(addr(to)))
    })
}

fn bind_connection(world: &mut World, from: &Client, id: u32) -> Reply {
    let fill = |request: Builder| request.attribute(&ConnectionId(id));
    world.ask(from, Method::CONNECTION_BIND, fill).unwrap()
}

fn data_connection(port: u16) -> Client {
    client(Transport::Tcp, &format!("203.0.113.5:{port}"), "alice")
}

/// The peer accepts, and the response that the Connect request gets.
fn connected(world: &mut World) -> Reply {
    let connection = world.connecting();
    world.transmits.clear();
    world.server.handle_connected(world.now, connection, Ok(()));
    world.drain();
    Reply(world.transmits[0].payload.clone())
}

/// A peer comes, and the CONNECTION-ID that the client is told.
fn attempt(world: &mut World, from: &str) -> Option<u32> {
    let relay = world.last_relay();
    world.transmits.clear();
    world
        .server
        .handle_peer_connected(world.now, relay, peer(from))?;
    world.drain();
    let told = Reply(world.transmits[0].payload.clone());
    assert_eq!(told.message().method(), Method::CONNECTION_ATTEMPT);
    assert_eq!(world.transmits[0].client, alice_tcp().at);
    assert_eq!(told.message().get(), Ok(Some(XorPeerAddress(addr(from)))));
    Some(told.connection())
}

#[test]
fn connect_leaves_from_the_relayed_address_and_is_answered_when_the_peer_accepts() {
    let mut world = World::new();
    let relayed = world.allocate_tcp(&alice_tcp()).relayed();
    assert!(connect(&mut world, PEER).is_none());
    let Some(Event::Connect { from, to, .. }) = world.events.last() else {
        panic!("{:?}", world.events);
    };
    assert_eq!((*from, *to), (relayed, peer(PEER)));
    let reply = connected(&mut world);
    assert_eq!(
        (reply.code(), reply.message().method()),
        (0, Method::CONNECT)
    );

    let data = data_connection(40_100);
    assert_eq!(
        bind_connection(&mut world, &data, reply.connection()).code(),
        0
    );
    let spliced = Event::Splice {
        connection: world.connecting(),
        client: data.at,
    };
    assert_eq!(world.events.last(), Some(&spliced));
}

#[test]
fn every_failure_to_connect_is_447() {
    for error in [ConnectError::Failed, ConnectError::AddressNotAvailable] {
        let mut world = allocated();
        connect(&mut world, PEER);
        let connection = world.connecting();
        world.transmits.clear();
        world
            .server
            .handle_connected(world.now, connection, Err(error));
        world.drain();
        assert_eq!(Reply(world.transmits[0].payload.clone()).code(), 447);
        assert!(connect(&mut world, PEER).is_none());
    }
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_after_30_seconds() {
    let mut world = allocated();
    connect(&mut world, PEER);
    world.transmits.clear();
    world.pass(29);
    assert!(world.transmits.is_empty());
    world.pass(1);
    assert_eq!(Reply(world.transmits[0].payload.clone()).code(), 447);
    assert_eq!(world.closed_connections(), [world.connecting()]);
}

#[test]
fn one_connection_with_a_peer_is_enough() {
    let mut world = allocated();
    connect(&mut world, PEER);
    assert_eq!(connect(&mut world, PEER).unwrap().code(), 446);
    connected(&mut world);
    assert_eq!(connect(&mut world, PEER).unwrap().code(), 446);
    assert!(connect(&mut world, "8.8.8.8:4001").is_none());
    let connection = world.connecting();
    world.server.handle_connection_closed(connection);
}

#[test]
fn connect_needs_a_tcp_allocation_and_a_peer() {
    let mut world = World::new();
    assert_eq!(connect(&mut world, PEER).unwrap().code(), 437);
    world.allocate_tcp(&alice_tcp());
    let reply = world.ask(&alice_tcp(), Method::CONNECT, |request| request);
    assert_eq!(reply.unwrap().code(), 400);
    assert_eq!(connect(&mut world, "10.0.0.1:1").unwrap().code(), 403);
    assert_eq!(connect(&mut world, "8.8.8.8:0").unwrap().code(), 403);
    assert_eq!(connect(&mut world, "[2600::1]:1").unwrap().code(), 443);
    let mut thief = bob();
    thief.at = alice_tcp().at;
    let reply = world.ask(&thief, Method::CONNECT, |request| {
        request.attribute(&XorPeerAddress(addr(PEER)))
    });
    assert_eq!(reply.unwrap().code(), 441);
    world.allocate(&alice());
    let reply = world.ask(&alice(), Method::CONNECT, |request| {
        request.attribute(&XorPeerAddress(addr(PEER)))
    });
    assert_eq!(reply.unwrap().code(), 400);
}

#[test]
fn a_peer_that_comes_needs_a_permission() {
    let mut world = allocated();
    assert_eq!(attempt(&mut world, PEER), None);
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    assert_eq!(attempt(&mut world, PEER), None);
    assert_eq!(attempt(&mut world, OTHER_PEER), None);
    assert_eq!(
        bind_connection(&mut world, &data_connection(1), id).code(),
        0
    );
    world.pass(300);
    assert_eq!(attempt(&mut world, "8.8.8.8:9"), None);
}

#[test]
fn a_connection_that_nobody_binds_in_30_seconds_is_closed() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    world.pass(29);
    assert!(world.closed_connections().is_empty());
    world.pass(1);
    assert_eq!(world.closed_connections().len(), 1);
    assert_eq!(
        bind_connection(&mut world, &data_connection(1), id).code(),
        400
    );
}

#[test]
fn a_used_an_unknown_and_an_unripe_connection_id_are_bad_requests() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    let unknown = id.wrapping_add(1);
    assert_eq!(
        bind_connection(&mut world, &data_connection(1), unknown).code(),
        400
    );
    assert_eq!(
        bind_connection(&mut world, &data_connection(1), id).code(),
        0
    );
    assert_eq!(
        bind_connection(&mut world, &data_connection(2), id).code(),
        400
    );
    connect(&mut world, OTHER_PEER);
    let PeerConnection(unripe) = world.connecting();
    assert_eq!(
        bind_connection(&mut world, &data_connection(3), unripe).code(),
        400
    );
    let fill = |request: Builder| request;
    let reply = world.ask(&data_connection(4), Method::CONNECTION_BIND, fill);
    assert_eq!(reply.unwrap().code(), 400);
}

#[test]
fn a_connection_is_bound_by_its_owner_on_a_stream_of_its_own() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    let thief = client(Transport::Tcp, "203.0.114.7:1", "bob");
    assert_eq!(bind_connection(&mut world, &thief, id).code(), 441);
    assert_eq!(bind_connection(&mut world, &alice(), id).code(), 400);
    assert_eq!(bind_connection(&mut world, &alice_tcp(), id).code(), 400);
    assert_eq!(
        bind_connection(&mut world, &data_connection(1), id).code(),
        0
    );
}

#[test]
fn the_end_of_the_allocation_ends_its_connections() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    bind_connection(&mut world, &data_connection(1), id);
    connect(&mut world, OTHER_PEER);
    world.ask(&alice_tcp(), Method::REFRESH, |request| {
        request.attribute(&Lifetime(0))
    });
    assert_eq!(world.closed_connections().len(), 2);
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn the_end_of_a_connection_makes_room_for_another_one() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    let id = attempt(&mut world, PEER).unwrap();
    bind_connection(&mut world, &data_connection(1), id);
    world.server.handle_connection_closed(PeerConnection(id));
    assert!(
        !world
            .server
            .connection_data(world.now, PeerConnection(id), 1)
    );
    assert!(attempt(&mut world, PEER).is_some());
}

#[test]
fn a_relay_of_another_client_can_be_connected_to() {
    let mut world = World::new();
    let bob_tcp = client(Transport::Tls, "203.0.114.7:1", "bob");
    let theirs = world.allocate_tcp(&bob_tcp).relayed().to_string();
    world.allocate_tcp(&alice_tcp());
    assert!(connect(&mut world, &theirs).is_none());
    let host = format!("{RELAY_V4}:22");
    assert_eq!(connect(&mut world, &host).unwrap().code(), 403);
}

#[test]
fn a_policy_that_forbids_a_peer_ends_the_connection() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    attempt(&mut world, PEER).unwrap();
    let policy = PeerPolicy::new().deny("8.0.0.0/8".parse().unwrap());
    world.server.set_policy(world.now, policy);
    world.drain();
    assert_eq!(world.closed_connections().len(), 1);
}

#[test]
fn connection_attempts_are_not_signed_and_name_the_peer() {
    let mut world = allocated();
    world.permit(&alice_tcp(), &[PEER]);
    attempt(&mut world, PEER).unwrap();
    let told = Reply(world.transmits[0].payload.clone());
    assert!(!told.message().contains(AttributeType::MESSAGE_INTEGRITY));
    assert_eq!(told.message().attributes().count(), 2);
}

#[test]
fn a_late_answer_is_sealed_as_its_request_was() {
    let mut world = allocated();
    let nobody_yet = world.server.poll_transmit();
    assert_eq!(nobody_yet, None);
    let fill = |request: Builder| request.attribute(&Lifetime(900));
    world.ask_sha256(&alice_tcp(), Method::REFRESH, fill);
    connect(&mut world, PEER);
    let reply = connected(&mut world);
    assert!(reply.message().contains(AttributeType::MESSAGE_INTEGRITY));
}
