//! TCP relays (RFC 6062).

use postern_wire::turn::ConnectionId;

use super::*;

const ID: ConnectionId = ConnectionId(7);
const DATA: &str = "10.0.0.2:5999";

fn tcp() -> World {
    let mut config = config();
    config.transport = Transport::Stream;
    config.relay = Relay::Tcp;
    let mut world = World::new(Auth::Sha256, config);
    world.run(secs(1));
    world
}

#[test]
fn a_connection_is_made_bound_and_then_carries_bytes() {
    let mut world = tcp();
    world.client.connect(world.now, at(PEER)).unwrap();
    assert_eq!(
        world.client.connect(world.now, at(PEER)),
        Err(ConnectError::Busy)
    );
    world.run(secs(1));
    let (peer, id, local) = (at(PEER), ID, at(DATA));
    assert!(world.has(&Event::Connected { peer, id }));
    world.client.bind_connection(world.now, id, local).unwrap();
    world.run(secs(1));
    let early = Vec::new();
    assert!(world.has(&Event::ConnectionBound {
        id,
        peer,
        local,
        early
    }));
    assert_eq!(world.input(local, b"raw"), Verdict::NotMine);
}

#[test]
fn the_peers_first_bytes_come_with_the_answer() {
    let mut world = tcp();
    world.client.connect(world.now, at(PEER)).unwrap();
    world.run(secs(1));
    world.server.deaf.insert(Method::CONNECTION_BIND.number());
    world
        .client
        .bind_connection(world.now, ID, at(DATA))
        .unwrap();
    world.run(secs(1));
    let asked = world.server.asked.last().unwrap().clone();
    let success = Builder::new(
        Class::Success,
        Method::CONNECTION_BIND,
        parse(&asked).transaction_id(),
    );
    let mut stream = world.server.seal(success);
    stream.extend(b"hello");
    let (first, rest) = stream.split_at(10);
    world.input(at(DATA), first);
    world.input(at(DATA), rest);
    assert!(world.has(&Event::ConnectionBound {
        id: ID,
        peer: at(PEER),
        local: at(DATA),
        early: b"hello".to_vec()
    }));
}

#[test]
fn a_stale_nonce_on_the_data_connection_is_replaced_there() {
    let mut world = tcp();
    world.client.connect(world.now, at(PEER)).unwrap();
    world.run(secs(1));
    world.server.nonce += 1;
    world
        .client
        .bind_connection(world.now, ID, at(DATA))
        .unwrap();
    world.run(secs(1));
    let bound = |e: &Event| matches!(e, Event::ConnectionBound { .. });
    assert!(world.events.iter().any(|(_, e)| bound(e)));
}

#[test]
fn a_peer_that_does_not_answer_is_left_alone_for_ten_seconds() {
    let mut world = tcp();
    world.server.errors.push_back((Method::CONNECT, 447));
    world.client.connect(world.now, at(PEER)).unwrap();
    world.run(secs(1));
    assert!(world.has(&Event::ConnectionFailed {
        peer: at(PEER),
        id: None,
        failure: Failure::ConnectionFailed
    }));
    assert_eq!(
        world.client.connect(world.now, at(PEER)),
        Err(ConnectError::TooEarly)
    );
    world.run(secs(10));
    assert_eq!(world.client.connect(world.now, at(PEER)), Ok(()));
}

fn attempt(world: &mut World, peer: &str) {
    let indication = Builder::new(
        Class::Indication,
        Method::CONNECTION_ATTEMPT,
        TransactionId([3; 12]),
    )
    .attribute(&XorPeerAddress(at(peer)))
    .attribute(&ID)
    .build();
    world.input(at(LOCAL), &indication);
}

#[test]
fn attempts_of_permitted_peers_are_told_and_run_out_after_thirty_seconds() {
    let mut world = tcp();
    world.client.permit(world.now, at(PEER).ip()).unwrap();
    world.run(secs(1));
    attempt(&mut world, "198.51.100.66:1");
    assert!(!world.has(&Event::ConnectionAttempt {
        peer: at("198.51.100.66:1"),
        id: ID
    }));
    attempt(&mut world, PEER);
    let (peer, id) = (at(PEER), ID);
    assert!(world.has(&Event::ConnectionAttempt { peer, id }));
    world.run(secs(31));
    assert!(world.has(&Event::ConnectionFailed {
        peer,
        id: Some(id),
        failure: Failure::TimedOut
    }));
    assert_eq!(
        world.client.bind_connection(world.now, id, at(DATA)),
        Err(ConnectError::Unknown)
    );
}

#[test]
fn a_used_connection_id_is_refused_and_named() {
    let mut world = tcp();
    world.client.connect(world.now, at(PEER)).unwrap();
    world.run(secs(1));
    world
        .server
        .errors
        .push_back((Method::CONNECTION_BIND, 400));
    world
        .client
        .bind_connection(world.now, ID, at(DATA))
        .unwrap();
    world.run(secs(1));
    assert!(world.has(&Event::ConnectionFailed {
        peer: at(PEER),
        id: Some(ID),
        failure: Failure::BadRequest
    }));
}

#[test]
fn a_data_connection_has_an_address_of_its_own() {
    let mut world = tcp();
    world.client.connect(world.now, at(PEER)).unwrap();
    world.run(secs(1));
    assert_eq!(
        world.client.bind_connection(world.now, ID, at(LOCAL)),
        Err(ConnectError::SameAddress)
    );
}

#[test]
fn over_datagrams_there_is_no_tcp_relay() {
    let mut config = config();
    config.relay = Relay::Tcp;
    let world = World::new(Auth::Open, config);
    assert_eq!(world.failure(), Some(Failure::NeedsStream));
}
