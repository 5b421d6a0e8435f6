//! Two who have met, and meet again.

use std::time::Duration;

use postern_wire::signal::{ClientMessage, ErrorKind, MEETING_TOKEN_LEN, ServerMessage};

use super::world::{CREATOR, JOINER, THIRD, World, candidate};
use crate::signal::{
    ClientId, Failure, MailboxesConfig, ProtocolError, Rendezvous, RendezvousConfig,
    RendezvousEvent, Role, Secret, Wait,
};

fn again(world: &World, id: ClientId, role: Role, secret: u8) -> Rendezvous {
    let seed = [u8::try_from(id.0).unwrap(); 32];
    let config = RendezvousConfig {
        wait: Duration::from_secs(30),
        ..RendezvousConfig::default()
    };
    Rendezvous::again(world.now, seed, role, Secret::new([secret; 32]), config)
}

/// Lets a client come who knows a secret.
fn come(world: &mut World, id: ClientId, role: Role, secret: u8) {
    let client = again(world, id, role, secret);
    world.add(id, client);
    world.run();
}

#[test]
fn two_with_the_same_secret_meet_in_either_order_and_speak() {
    let sides = [(CREATOR, Role::Creator), (JOINER, Role::Joiner)];
    for order in [[0, 1], [1, 0]] {
        let mut world = World::new();
        for side in order {
            let (id, role) = sides[side];
            come(&mut world, id, role, 7);
        }
        for (id, _) in sides {
            assert_eq!(*world.last_event(id), RendezvousEvent::Authenticated);
        }
        world.send(CREATOR, candidate(1));
        world.send(JOINER, candidate(2));
        assert_eq!(world.messages(JOINER), [candidate(1)]);
        assert_eq!(world.messages(CREATOR), [candidate(2)]);
    }
}

#[test]
fn the_server_sees_neither_the_secret_nor_what_is_said_and_keeps_nothing() {
    let mut world = World::new();
    come(&mut world, CREATOR, Role::Creator, 7);
    come(&mut world, JOINER, Role::Joiner, 7);
    world.send(CREATOR, candidate(1));
    let secret = data_encoding::BASE64.encode(&[7; 32]);
    let seen: String = world.log.iter().map(|(_, frame)| frame.as_str()).collect();
    assert!(!seen.contains(&secret) && !seen.contains("192.0.2.1"));
    world.clients.get_mut(&CREATOR).unwrap().close();
    world.run();
    assert_eq!(*world.last_event(JOINER), RendezvousEvent::Closed);
    assert_eq!(world.server.mailbox_count(), 0);
    assert_eq!(world.server.poll_timeout(), None, "no number rests");
}

#[test]
fn those_with_another_secret_do_not_meet() {
    let mut world = World::new();
    come(&mut world, CREATOR, Role::Creator, 7);
    come(&mut world, JOINER, Role::Joiner, 8);
    world.advance(Duration::from_secs(31));
    let failed = RendezvousEvent::Failed(Failure::TimedOut(Wait::Peer));
    assert_eq!(*world.last_event(CREATOR), failed);
    assert_eq!(*world.last_event(JOINER), failed);
}

#[test]
fn whoever_comes_twice_takes_the_place_of_the_first_time() {
    let mut world = World::new();
    come(&mut world, CREATOR, Role::Creator, 7);
    // The connection broke without the server's noticing.
    come(&mut world, THIRD, Role::Creator, 7);
    let left = RendezvousEvent::Failed(Failure::PeerLeft);
    assert_eq!(*world.last_event(CREATOR), left);
    come(&mut world, JOINER, Role::Joiner, 7);
    assert_eq!(*world.last_event(THIRD), RendezvousEvent::Authenticated);
    assert_eq!(*world.last_event(JOINER), RendezvousEvent::Authenticated);
    // And so does one who comes while the meeting goes on.
    come(&mut world, CREATOR, Role::Creator, 7);
    let left = RendezvousEvent::Failed(Failure::PeerLeft);
    assert_eq!(*world.last_event(JOINER), left);
    assert_eq!(world.server.mailbox_count(), 1);
}

#[test]
fn what_was_sealed_at_one_meeting_does_not_open_at_the_next() {
    let meet = |replayed: Option<ServerMessage>| {
        let mut world = World::new();
        let count = u64::from(replayed.is_some());
        let (one, two) = (ClientId(10 + count), ClientId(20 + count));
        come(&mut world, one, Role::Creator, 7);
        come(&mut world, two, Role::Joiner, 7);
        if let Some(frame) = replayed {
            let client = world.clients.get_mut(&two).unwrap();
            client.handle_input(world.now, frame.to_json().as_bytes());
            world.run();
        }
        (world, one, two)
    };
    let (mut world, one, two) = meet(None);
    world.send(one, candidate(1));
    assert_eq!(world.messages(two), [candidate(1)]);
    let frames = world.log.iter().rev().filter(|(id, _)| *id == two);
    let sealed = frames
        .filter_map(|(_, frame)| ServerMessage::parse(frame.as_bytes()).ok())
        .find(|message| matches!(message, ServerMessage::Message { .. }));
    let (world, _, two) = meet(sealed);
    let failed = Failure::Protocol(ProtocolError::BadSeal);
    assert_eq!(*world.last_event(two), RendezvousEvent::Failed(failed));
}

#[test]
fn those_who_wait_are_bounded_for_each_source() {
    let mut world = World::with_config(MailboxesConfig {
        max_mailboxes_per_source: 2,
        ..MailboxesConfig::default()
    });
    let mut refused = 0;
    for number in 0..4_u8 {
        let id = ClientId(100 + u64::from(number));
        let address = [192, 0, 2, 77].into();
        world.server.connected(world.now, id, address);
        let meet = ClientMessage::Meet {
            token: vec![number; MEETING_TOKEN_LEN],
            creator: true,
        };
        let frame = meet.to_json();
        world.server.handle_input(world.now, id, frame.as_bytes());
        while let Some((_, frame)) = world.server.poll_transmit() {
            let message = ServerMessage::parse(frame.as_bytes()).unwrap();
            let kind = ErrorKind::RateLimited;
            refused +=
                u8::from(matches!(message, ServerMessage::Error { kind: k, .. } if k == kind));
        }
    }
    assert_eq!((world.server.mailbox_count(), refused), (2, 2));
}
