//! Two sides meet.

use std::time::Duration;

use postern_wire::signal::{ByeReason, CloseReason, PeerMessage};

use super::world::{CREATOR, JOINER, THIRD, World, candidate, hello, mistyped};
use crate::signal::{Failure, RendezvousEvent, SendError, Wait};

fn meet() -> World {
    let mut world = World::new();
    let code = world.create();
    world.send(CREATOR, hello("creator"));
    world.join(code);
    world
}

#[test]
fn both_sides_authenticate_and_get_what_the_other_sent() {
    let mut world = World::new();
    let code = world.create();
    world.send(CREATOR, hello("creator"));
    world.join(code);
    world.send(JOINER, hello("joiner"));
    world.send(JOINER, candidate(1));
    world.send(CREATOR, candidate(2));

    let stun = Vec::new();
    assert_eq!(
        world.events[&CREATOR],
        [
            RendezvousEvent::Welcome { stun: stun.clone() },
            RendezvousEvent::CodeReady(code),
            RendezvousEvent::PeerJoined,
            RendezvousEvent::Authenticated,
            RendezvousEvent::Message(hello("joiner")),
            RendezvousEvent::Message(candidate(1)),
        ]
    );
    assert_eq!(
        world.events[&JOINER],
        [
            RendezvousEvent::Welcome { stun },
            RendezvousEvent::PeerJoined,
            RendezvousEvent::Authenticated,
            RendezvousEvent::Message(hello("creator")),
            RendezvousEvent::Message(candidate(2)),
        ]
    );
}

#[test]
fn the_joiners_hello_travels_with_its_key_exchange() {
    let mut world = World::new();
    let code = world.create();
    let config = crate::signal::RendezvousConfig::default();
    let mut joiner = crate::signal::Rendezvous::join(world.now, [2; 32], code, config);
    joiner.send(hello("joiner")).unwrap();
    world.add(JOINER, joiner);
    world.run();

    let puts: Vec<_> = world
        .log
        .iter()
        .filter(|(_, f)| f.contains("\"put\""))
        .collect();
    let from: Vec<_> = puts.iter().map(|(id, _)| *id).collect();
    assert_eq!(from, [CREATOR, JOINER, JOINER, JOINER, CREATOR]);
    assert_eq!(world.messages(CREATOR), [hello("joiner")]);
}

#[test]
fn the_same_seeds_give_the_same_bytes() {
    assert_eq!(meet().log, meet().log);
}

#[test]
fn the_server_sees_neither_words_nor_credentials_nor_fingerprints() {
    let mut world = meet();
    world.send(JOINER, hello("joiner"));
    let [first, second] = *world.code().words();
    let fingerprint = "ab".repeat(32);
    for (_, frame) in &world.log {
        let bodies = decoded(frame);
        for secret in [first, second, "ufrag", "password", "typ host", &fingerprint] {
            assert!(!frame.contains(secret));
            assert!(!bodies.windows(secret.len()).any(|w| w == secret.as_bytes()));
        }
    }
}

fn decoded(frame: &str) -> Vec<u8> {
    let body = frame.split("\"body\":\"").nth(1);
    let body = body.map(|rest| rest.trim_end_matches("\"}"));
    body.map_or_else(Vec::new, |b| {
        data_encoding::BASE64.decode(b.as_bytes()).unwrap()
    })
}

#[test]
fn a_wrong_word_is_told_to_both_and_ends_the_mailbox() {
    let mut world = World::new();
    let code = world.create();
    world.send(CREATOR, hello("creator"));
    world.join(mistyped(code));

    let wrong = RendezvousEvent::Failed(Failure::WrongCode);
    assert_eq!(world.last_event(CREATOR), &wrong);
    assert_eq!(world.last_event(JOINER), &wrong);
    assert_eq!(world.messages(JOINER), []);
    assert_eq!(world.server.mailbox_count(), 0);
    assert_eq!(world.server.client_count(), 0);

    world.join_as(THIRD, code);
    let gone = RendezvousEvent::Failed(Failure::NoSuchMailbox);
    assert_eq!(world.last_event(THIRD), &gone);
}

#[test]
fn a_third_with_the_right_code_is_refused_and_the_two_go_on() {
    let mut world = meet();
    let code = world.code();
    world.join_as(THIRD, code);
    let crowded = RendezvousEvent::Failed(Failure::Crowded);
    assert_eq!(world.last_event(THIRD), &crowded);

    world.send(JOINER, candidate(1));
    assert_eq!(world.messages(CREATOR), [candidate(1)]);
}

#[test]
fn a_code_for_another_purpose_is_wrong() {
    let mut world = World::new();
    let code = world.create();
    let config = crate::signal::RendezvousConfig {
        purpose: "forward".to_owned(),
        ..Default::default()
    };
    let joiner = crate::signal::Rendezvous::join(world.now, [2; 32], code, config);
    world.add(JOINER, joiner);
    world.run();
    let wrong = RendezvousEvent::Failed(Failure::WrongCode);
    assert_eq!(world.last_event(CREATOR), &wrong);
    assert_eq!(world.last_event(JOINER), &wrong);
}

#[test]
fn closing_delivers_what_was_sent_before_and_is_no_failure() {
    let mut world = meet();
    let bye = PeerMessage::Bye {
        reason: ByeReason::Done,
    };
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    creator.send(bye.clone()).unwrap();
    creator.close();
    assert_eq!(creator.send(bye.clone()), Err(SendError::Closed));
    world.run();

    assert_eq!(world.messages(JOINER).last(), Some(&bye));
    assert_eq!(world.last_event(JOINER), &RendezvousEvent::Closed);
    assert_eq!(world.disconnected, [CREATOR, JOINER]);
    assert_eq!(world.server.mailbox_count(), 0);
}

#[test]
fn a_side_that_vanishes_is_missed_by_the_other() {
    let mut world = meet();
    world.clients.remove(&JOINER);
    world.server.disconnected(world.now, JOINER);
    world.run();
    let left = RendezvousEvent::Failed(Failure::PeerLeft);
    assert_eq!(world.last_event(CREATOR), &left);
    assert_eq!(world.clients[&CREATOR].poll_timeout(), None);
}

#[test]
fn a_creator_waits_ten_minutes_for_the_other_side() {
    let mut world = World::new();
    world.create();
    world.advance(Duration::from_secs(599));
    assert!(!world.clients[&CREATOR].is_ended());
    world.advance(Duration::from_secs(1));
    let late = RendezvousEvent::Failed(Failure::TimedOut(Wait::Peer));
    assert_eq!(world.last_event(CREATOR), &late);
    assert_eq!(world.server.mailbox_count(), 0);
}

#[test]
fn a_mailbox_that_nobody_joins_expires() {
    let config = crate::signal::MailboxesConfig {
        join_timeout: Duration::from_secs(100),
        ..Default::default()
    };
    let mut world = World::with_config(config);
    world.create();
    world.advance(Duration::from_secs(100));
    let expired = RendezvousEvent::Failed(Failure::Expired);
    assert_eq!(world.last_event(CREATOR), &expired);
    assert_eq!(world.server.client_count(), 0);
}

#[test]
fn a_mailbox_lasts_an_hour_at_most() {
    let mut world = meet();
    world.advance(Duration::from_secs(3599));
    assert!(world.clients[&CREATOR].is_authenticated());
    world.advance(Duration::from_secs(1));
    for id in [CREATOR, JOINER] {
        let expired = RendezvousEvent::Failed(Failure::Expired);
        assert_eq!(world.last_event(id), &expired);
    }
}

#[test]
fn a_server_that_falls_silent_is_noticed() {
    let mut world = meet();
    world.tamper = Some(Box::new(|_, _| Vec::new()));
    world.advance(Duration::from_secs(40));
    let silent = RendezvousEvent::Failed(Failure::TimedOut(Wait::Server));
    assert_eq!(world.last_event(CREATOR), &silent);
}

#[test]
fn a_server_that_never_greets_is_given_ten_seconds() {
    let mut world = World::new();
    world.tamper = Some(Box::new(|_, _| Vec::new()));
    let config = crate::signal::RendezvousConfig::default();
    let creator = crate::signal::Rendezvous::create(world.now, [1; 32], config);
    world.add(CREATOR, creator);
    world.advance(Duration::from_secs(10));
    let silent = RendezvousEvent::Failed(Failure::TimedOut(Wait::Server));
    assert_eq!(world.events[&CREATOR], [silent]);
}

#[test]
fn a_server_that_goes_down_says_so() {
    let mut world = meet();
    world.server.shutdown(world.now);
    world.run();
    let reason = CloseReason::Shutdown;
    let down = RendezvousEvent::Failed(Failure::ServerClosed { reason });
    assert_eq!(world.last_event(JOINER), &down);
    assert_eq!(world.server.client_count(), 0);
}

#[test]
fn a_server_that_drains_lets_those_go_on_that_have_met() {
    let mut world = meet();
    world.server.drain(world.now);
    world.run();
    assert_eq!(world.server.mailbox_count(), 1);
    let mut waiting = World::new();
    waiting.create();
    waiting.server.drain(waiting.now);
    waiting.run();
    let reason = CloseReason::Shutdown;
    let down = RendezvousEvent::Failed(Failure::ServerClosed { reason });
    assert_eq!(waiting.last_event(CREATOR), &down);
    assert_eq!(waiting.server.mailbox_count(), 0);
}

#[test]
fn messages_wait_for_the_key_up_to_a_bound() {
    let mut world = World::new();
    let code = world.create();
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    let sent = (0..1000).take_while(|n| creator.send(candidate(*n)).is_ok());
    assert_eq!(sent.count(), 128);
    world.join(code);
    assert_eq!(world.messages(JOINER).len(), 128);
}

#[test]
fn a_message_that_the_other_side_would_refuse_is_not_sent() {
    let mut world = meet();
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    let candidate = "x".repeat(257);
    let sent = creator.send(PeerMessage::Candidate {
        candidate,
        mapped: false,
    });
    assert!(matches!(sent, Err(SendError::Invalid(_))));
}
