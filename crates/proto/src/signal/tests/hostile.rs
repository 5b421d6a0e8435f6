//! A server, or a peer, that does not follow the protocol.

use std::cell::RefCell;
use std::rc::Rc;

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use postern_wire::signal::{ClientMessage, Code, Envelope, ParseError, ServerMessage};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::epoch;
use super::world::{CREATOR, JOINER, Tamper, World, candidate, hello, mistyped};
use crate::signal::exchange::{ExchangeError, KeyExchange, Role};
use crate::signal::{
    ClientId, Failure, ProtocolError, Rendezvous, RendezvousConfig, RendezvousEvent,
};

fn protocol(error: ProtocolError) -> RendezvousEvent {
    RendezvousEvent::Failed(Failure::Protocol(error))
}

/// Lets `change` replace each body on its way to `victim`.
fn tamper(victim: ClientId, mut change: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + 'static) -> Tamper {
    Box::new(move |id, message| match message {
        ServerMessage::Message { body } if id == victim => {
            let bodies = change(body).into_iter();
            bodies.map(|body| ServerMessage::Message { body }).collect()
        }
        other => vec![other],
    })
}

fn is_sealed(body: &[u8]) -> bool {
    matches!(Envelope::parse(body), Ok(Envelope::Sealed(_)))
}

/// Both sides meet; then the joiner sends two candidates through `change`.
fn after_meeting(change: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + 'static) -> World {
    let mut world = World::new();
    let code = world.create();
    world.join(code);
    world.tamper = Some(tamper(CREATOR, change));
    for n in [1, 2] {
        let _ = world.clients.get_mut(&JOINER).unwrap().send(candidate(n));
        world.run();
    }
    world
}

/// The creator and the joiner meet while `change` works on what `victim` receives.
fn meeting(victim: ClientId, change: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + 'static) -> World {
    let mut world = World::new();
    let code = world.create();
    world.send(CREATOR, hello("creator"));
    world.tamper = Some(tamper(victim, change));
    world.join(code);
    world
}

#[test]
fn a_repeated_sealed_message_ends_the_meeting() {
    let world = after_meeting(|body| vec![body.clone(), body]);
    assert_eq!(world.messages(CREATOR), [candidate(1)]);
    assert_eq!(world.last_event(CREATOR), &protocol(ProtocolError::BadSeal));
}

#[test]
fn a_sealed_message_left_out_ends_the_meeting() {
    let mut first = true;
    let world = after_meeting(move |body| {
        if std::mem::take(&mut first) {
            vec![]
        } else {
            vec![body]
        }
    });
    assert_eq!(world.messages(CREATOR), []);
    assert_eq!(world.last_event(CREATOR), &protocol(ProtocolError::BadSeal));
}

#[test]
fn sealed_messages_in_another_order_end_the_meeting() {
    let mut held = Vec::new();
    let world = after_meeting(move |body| {
        held.insert(0, body);
        if held.len() == 2 {
            std::mem::take(&mut held)
        } else {
            vec![]
        }
    });
    assert_eq!(world.messages(CREATOR), []);
    assert_eq!(world.last_event(CREATOR), &protocol(ProtocolError::BadSeal));
}

#[test]
fn a_flipped_bit_or_a_cut_in_a_sealed_message_ends_the_meeting() {
    let flip = |mut body: Vec<u8>| {
        body[20] ^= 0x40;
        vec![body]
    };
    let cut = |body: Vec<u8>| vec![body[..body.len() - 1].to_vec()];
    for world in [after_meeting(flip), after_meeting(cut)] {
        assert_eq!(world.last_event(CREATOR), &protocol(ProtocolError::BadSeal));
    }
}

#[test]
fn a_sealed_message_sent_back_to_its_sender_ends_the_meeting() {
    let mut world = World::new();
    let code = world.create();
    world.join(code);
    world.send(CREATOR, candidate(1));
    let own = world
        .log
        .iter()
        .rev()
        .find_map(|(_, frame)| put_body(frame));
    let reflected = ServerMessage::Message { body: own.unwrap() }.to_json();
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    creator.handle_input(world.now, reflected.as_bytes());
    world.run();
    assert_eq!(world.last_event(CREATOR), &protocol(ProtocolError::BadSeal));
}

#[test]
fn a_reflected_key_exchange_is_refused() {
    let mut world = World::new();
    world.create();
    let own = world.log.iter().find_map(|(_, frame)| put_body(frame));
    let mut body = own.unwrap();
    body[1] = b'B';
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    for message in [ServerMessage::Joined, ServerMessage::Message { body }] {
        creator.handle_input(world.now, message.to_json().as_bytes());
    }
    world.run();
    assert_eq!(
        world.last_event(CREATOR),
        &protocol(ProtocolError::Reflected)
    );
}

#[test]
fn two_of_the_same_role_do_not_meet() {
    let code: Code = "7-crossover-clockwork".parse().unwrap();
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    for role in [Role::Creator, Role::Joiner] {
        let one = KeyExchange::start(role, "transfer", &code, &mut rng);
        let other = KeyExchange::start(role, "transfer", &code, &mut rng);
        assert_eq!(
            one.finish(other.share()).err(),
            Some(ExchangeError::Invalid)
        );
    }
}

#[test]
fn the_other_roles_letter_on_the_same_role_gives_another_key() {
    let code: Code = "7-crossover-clockwork".parse().unwrap();
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let one = KeyExchange::start(Role::Creator, "transfer", &code, &mut rng);
    let other = KeyExchange::start(Role::Creator, "transfer", &code, &mut rng);
    let (mut ours, mut theirs) = (*one.share(), *other.share());
    (ours[0], theirs[0]) = (b'B', b'B');
    let one = one.finish(&theirs).unwrap_or_else(|_| panic!());
    let other = other.finish(&ours).unwrap_or_else(|_| panic!());
    assert!(!one.confirms(other.confirmation()));
    assert!(!one.confirms(one.confirmation()));
}

#[test]
fn another_mailbox_number_gives_another_key() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let [here, there] = ["7-crossover-clockwork", "8-crossover-clockwork"]
        .map(|code| code.parse::<Code>().unwrap());
    let creator = KeyExchange::start(Role::Creator, "transfer", &here, &mut rng);
    let joiner = KeyExchange::start(Role::Joiner, "transfer", &there, &mut rng);
    let (ours, theirs) = (*creator.share(), *joiner.share());
    let creator = creator.finish(&theirs).unwrap_or_else(|_| panic!());
    let joiner = joiner.finish(&ours).unwrap_or_else(|_| panic!());
    assert!(!creator.confirms(joiner.confirmation()));
}

#[test]
fn points_with_a_component_of_small_order_are_refused() {
    let code: Code = "7-crossover-clockwork".parse().unwrap();
    let mixed = EIGHT_TORSION[1..]
        .iter()
        .map(|t| ED25519_BASEPOINT_POINT + t);
    for point in EIGHT_TORSION.into_iter().chain(mixed) {
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        let creator = KeyExchange::start(Role::Creator, "transfer", &code, &mut rng);
        let mut theirs = [b'B'; 33];
        theirs[1..].copy_from_slice(point.compress().as_bytes());
        assert_eq!(creator.finish(&theirs).err(), Some(ExchangeError::Invalid));
    }
}

#[test]
fn bytes_that_are_no_point_are_refused() {
    let bad = |body: Vec<u8>| {
        let exchange = matches!(Envelope::parse(&body), Ok(Envelope::KeyExchange(_)));
        let mut changed = [body[..2].to_vec(), vec![0xff; 32]].concat();
        // y = 2 is on no point of the curve.
        changed[2..].fill(0);
        changed[2] = 2;
        vec![if exchange { changed } else { body }]
    };
    let world = meeting(JOINER, bad);
    assert_eq!(
        world.last_event(JOINER),
        &protocol(ProtocolError::BadKeyExchange)
    );
}

#[test]
fn a_server_that_answers_with_its_own_guess_learns_and_gets_nothing() {
    let mut world = World::new();
    let code = world.create();
    world.send(CREATOR, hello("creator"));

    let config = RendezvousConfig::default();
    let mut evil = Rendezvous::join(epoch(), [66; 32], mistyped(code), config);
    evil.send(hello("evil")).unwrap();
    world.add(JOINER, evil);
    world.run();

    assert_eq!(world.messages(CREATOR), []);
    assert_eq!(world.messages(JOINER), []);
    let wrong = RendezvousEvent::Failed(Failure::WrongCode);
    assert_eq!(world.last_event(CREATOR), &wrong);
    let sealed_by_creator = world.log.iter().filter(|(id, frame)| {
        *id == CREATOR
            && matches!(ClientMessage::parse(frame.as_bytes()),
                Ok(ClientMessage::Put { body }) if is_sealed(&body))
    });
    assert_eq!(sealed_by_creator.count(), 0);
}

#[test]
fn a_server_in_the_middle_with_a_guess_on_each_side_fails_on_both() {
    let code: Code = "7-crossover-clockwork".parse().unwrap();
    let guess: Code = "7-crossover-zoo".parse().unwrap();
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    for role in [Role::Creator, Role::Joiner] {
        let honest = KeyExchange::start(role, "transfer", &code, &mut rng);
        let evil = KeyExchange::start(role.other(), "transfer", &guess, &mut rng);
        let (honest_share, evil_share) = (*honest.share(), *evil.share());
        let honest = honest.finish(&evil_share).unwrap_or_else(|_| panic!());
        let evil = evil.finish(&honest_share).unwrap_or_else(|_| panic!());
        assert!(!honest.confirms(evil.confirmation()));
        assert!(!evil.confirms(honest.confirmation()));
    }
}

#[test]
fn a_second_key_exchange_is_a_second_guess_and_not_processed() {
    let world = meeting(CREATOR, |body| match Envelope::parse(&body) {
        Ok(Envelope::KeyExchange(_)) => vec![body.clone(), body],
        _ => vec![body],
    });
    assert_eq!(
        world.last_event(CREATOR),
        &protocol(ProtocolError::Unexpected)
    );
}

#[test]
fn a_changed_confirmation_is_a_wrong_code() {
    for victim in [CREATOR, JOINER] {
        let world = meeting(victim, |mut body| {
            if let Ok(Envelope::Confirmation(_)) = Envelope::parse(&body) {
                body[5] ^= 1;
            }
            vec![body]
        });
        let wrong = RendezvousEvent::Failed(Failure::WrongCode);
        assert_eq!(world.last_event(victim), &wrong);
        assert_eq!(world.messages(victim), []);
    }
}

#[test]
fn a_confirmation_before_the_key_exchange_is_refused() {
    let world = meeting(JOINER, |_| {
        vec![Envelope::Confirmation(&[0; 32]).to_bytes()]
    });
    assert_eq!(
        world.last_event(JOINER),
        &protocol(ProtocolError::Unexpected)
    );
}

#[test]
fn sealed_messages_that_overtake_the_confirmation_wait_for_it() {
    let held = Rc::new(RefCell::new(None));
    let world = meeting(JOINER, move |body| match Envelope::parse(&body) {
        Ok(Envelope::Confirmation(_)) => {
            held.replace(Some(body));
            vec![]
        }
        Ok(Envelope::Sealed(_)) => [Some(body), held.take()].into_iter().flatten().collect(),
        _ => vec![body],
    });
    let events = &world.events[&JOINER];
    let at = |wanted: &RendezvousEvent| events.iter().position(|e| e == wanted).unwrap();
    let message = RendezvousEvent::Message(hello("creator"));
    assert!(at(&RendezvousEvent::Authenticated) < at(&message));
}

#[test]
fn nothing_sealed_is_acted_on_without_a_confirmation() {
    let world = meeting(JOINER, |body| match Envelope::parse(&body) {
        Ok(Envelope::Confirmation(_)) => vec![],
        _ => vec![body],
    });
    assert_eq!(
        world.events[&JOINER].last(),
        Some(&RendezvousEvent::PeerJoined)
    );
}

#[test]
fn a_flood_before_the_confirmation_hits_a_bound() {
    let world = meeting(JOINER, |body| {
        let mut bodies = vec![body];
        bodies.extend(vec![Envelope::Sealed(&[0; 100]).to_bytes(); 17]);
        bodies
    });
    assert_eq!(
        world.last_event(JOINER),
        &protocol(ProtocolError::TooManyEarly)
    );
}

fn alone() -> Rendezvous {
    Rendezvous::create(epoch(), [1; 32], RendezvousConfig::default())
}

fn feed(client: &mut Rendezvous, frames: &[&str]) -> Option<RendezvousEvent> {
    for frame in frames {
        client.handle_input(epoch(), frame.as_bytes());
    }
    std::iter::from_fn(|| client.poll_event()).last()
}

const WELCOME: &str = r#"{"type":"welcome","version":1}"#;

#[test]
fn a_server_of_another_version_is_named() {
    let event = feed(&mut alone(), &[r#"{"type":"welcome","version":2}"#]);
    let version = protocol(ProtocolError::Version { theirs: 2 });
    assert_eq!(event, Some(version));
}

#[test]
fn messages_out_of_turn_are_refused() {
    let mailbox = r#"{"type":"mailbox","mailbox":7}"#;
    let joined = r#"{"type":"joined"}"#;
    let sealed = r#"{"type":"message","body":"AwAA"}"#;
    for frames in [
        &[mailbox][..],
        &[WELCOME, WELCOME],
        &[WELCOME, joined],
        &[WELCOME, sealed],
        &[WELCOME, mailbox, mailbox],
        &[WELCOME, mailbox, sealed],
        &[WELCOME, mailbox, joined, joined],
    ] {
        let event = feed(&mut alone(), frames);
        assert_eq!(
            event,
            Some(protocol(ProtocolError::Unexpected)),
            "{frames:?}"
        );
    }
}

#[test]
fn a_failed_machine_says_nothing_more() {
    let mut client = alone();
    let event = feed(&mut client, &["garbage"]);
    let malformed = ProtocolError::Parse(ParseError::Malformed);
    assert_eq!(event, Some(protocol(malformed)));
    let left: Vec<_> = std::iter::from_fn(|| client.poll_transmit()).collect();
    assert_eq!(left.last(), Some(&ClientMessage::Close.to_json()));

    assert_eq!(feed(&mut client, &[WELCOME, "garbage"]), None);
    client.handle_timeout(epoch() + std::time::Duration::from_secs(9999));
    assert_eq!(client.poll_transmit(), None);
    assert_eq!(client.poll_timeout(), None);
}

/// An authenticated joiner that seals what a test tells it to.
fn puppet(world: &mut World, plaintexts: &[&str]) {
    let code = world.create();
    let share = world.log.iter().find_map(|(_, frame)| put_body(frame));
    let share: [u8; 33] = share.unwrap()[1..].try_into().unwrap();
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let exchange = KeyExchange::start(Role::Joiner, "transfer", &code, &mut rng);
    let ours = *exchange.share();
    let mut keys = exchange.finish(&share).unwrap_or_else(|_| panic!());
    let mut bodies = vec![
        Envelope::KeyExchange(&ours).to_bytes(),
        Envelope::Confirmation(keys.confirmation()).to_bytes(),
    ];
    for text in plaintexts {
        let sealed = keys.sealer.seal(text.as_bytes().to_vec()).unwrap();
        bodies.push(Envelope::Sealed(&sealed).to_bytes());
    }
    let creator = world.clients.get_mut(&CREATOR).unwrap();
    creator.handle_input(world.now, ServerMessage::Joined.to_json().as_bytes());
    for body in bodies {
        let message = ServerMessage::Message { body }.to_json();
        creator.handle_input(world.now, message.as_bytes());
    }
    world.run();
}

#[test]
fn an_authenticated_peer_that_sends_garbage_is_refused() {
    let mut world = World::new();
    puppet(&mut world, &["{"]);
    let malformed = ProtocolError::Parse(ParseError::Malformed);
    assert_eq!(world.last_event(CREATOR), &protocol(malformed));

    let mut world = World::new();
    puppet(&mut world, &[r#"{"type":"candidate","candidate":""}"#]);
    let empty = ProtocolError::Parse(ParseError::BadField("candidate"));
    assert_eq!(world.last_event(CREATOR), &protocol(empty));
}

#[test]
fn a_message_that_a_later_version_adds_is_skipped() {
    let mut world = World::new();
    let known = candidate(1).to_json();
    puppet(&mut world, &[r#"{"type":"later"}"#, &known]);
    assert_eq!(world.messages(CREATOR), [candidate(1)]);
}

fn any_frame() -> impl Strategy<Value = String> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        any::<[u8; 32]>().prop_map(|bytes| Envelope::Confirmation(&bytes).to_bytes()),
        any::<bool>().prop_map(own_guess),
        any::<Vec<u8>>().prop_map(|bytes| Envelope::Sealed(&bytes).to_bytes()),
    ];
    prop_oneof![
        4 => body.prop_map(|body| ServerMessage::Message { body }.to_json()),
        2 => Just(ServerMessage::Joined.to_json()),
        1 => (1..100_u32).prop_map(|mailbox| ServerMessage::Mailbox { mailbox }.to_json()),
        1 => Just(ServerMessage::Pong.to_json()),
        1 => any::<String>(),
    ]
}

/// A key exchange of somebody who does not know the words.
fn own_guess(creator: bool) -> Vec<u8> {
    let code: Code = "7-crossover-zoo".parse().unwrap();
    let role = if creator { Role::Creator } else { Role::Joiner };
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let exchange = KeyExchange::start(role, "transfer", &code, &mut rng);
    Envelope::KeyExchange(exchange.share()).to_bytes()
}

proptest! {
    #[test]
    fn nothing_that_a_server_invents_authenticates(
        creates in any::<bool>(), frames in proptest::collection::vec(any_frame(), 0..12)
    ) {
        let code: Code = "7-crossover-clockwork".parse().unwrap();
        let joiner = || Rendezvous::join(epoch(), [2; 32], code, RendezvousConfig::default());
        let mut client = if creates { alone() } else { joiner() };
        client.send(hello("me")).unwrap();
        client.handle_input(epoch(), WELCOME.as_bytes());
        let mut failures = 0;
        for frame in frames {
            client.handle_input(epoch(), frame.as_bytes());
            while let Some(event) = client.poll_event() {
                failures += usize::from(matches!(event, RendezvousEvent::Failed(_)));
                prop_assert!(!matches!(event, RendezvousEvent::Message(_)));
                prop_assert_ne!(event, RendezvousEvent::Authenticated);
            }
        }
        prop_assert_eq!(failures, usize::from(client.is_ended()));
    }
}

fn put_body(frame: &str) -> Option<Vec<u8>> {
    match ClientMessage::parse(frame.as_bytes()) {
        Ok(ClientMessage::Put { body }) => Some(body),
        _ => None,
    }
}
