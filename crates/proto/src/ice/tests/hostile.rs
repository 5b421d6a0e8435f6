//! Garbage, forgery and floods.

use postern_wire::stun::{
    Builder, Class, ErrorCode, IceControlled, IceControlling, Message, Method, Priority,
    TransactionId, UseCandidate, Username, XorMappedAddress,
};

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::super::*;
use super::net::{Pair, at};
use super::{ms, secs};
use crate::Verdict;

/// A check to `a` with the parts that a test wants to be wrong.
fn check(username: &str, password: &str, change: fn(Builder) -> Builder) -> Vec<u8> {
    let message = Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
        .attribute(&Username::new(username).unwrap())
        .attribute(&IceControlled(1))
        .attribute(&UseCandidate);
    change(message)
        .message_integrity(password.as_bytes())
        .fingerprint()
        .build()
}

fn with_priority(message: Builder) -> Builder {
    message.attribute(&Priority(5))
}

fn name(pair: &Pair, peer: &str) -> String {
    format!("{}:{peer}", pair.a.agent.local_credentials().ufrag)
}

/// Hands a check to `a`; the error code of its answer.
fn answer(pair: &mut Pair, payload: Vec<u8>) -> Option<u16> {
    let before = pair.a.sent.len();
    let verdict = pair.inject("45.45.9.9:9", "45.45.1.1:1000", payload);
    assert_eq!(verdict, Some(Verdict::Consumed));
    let (_, transmit) = pair.a.sent.get(before)?;
    let message = Message::parse(&transmit.payload).unwrap();
    assert_eq!(transmit.remote, at("45.45.9.9:9"));
    message.get::<ErrorCode<'_>>().unwrap().map(|e| e.code())
}

fn state(pair: &Pair) -> String {
    let agent = &pair.a.agent;
    format!(
        "{:?} {:?} {:?} {:?}",
        agent.role, agent.list, agent.remotes, agent.early
    )
}

#[test]
fn a_check_with_wrong_credentials_is_refused_and_changes_nothing() {
    let mut pair = Pair::public();
    pair.link_a();
    let before = state(&pair);
    let peer = pair.b.agent.local_credentials().ufrag.clone();
    let password = pair.a.agent.local_credentials().pwd.clone();
    let ours = name(&pair, &peer);
    let guess = check(&ours, "a wrong password", with_priority);
    assert_eq!(answer(&mut pair, guess), Some(401));
    let stranger = check(&name(&pair, "stranger"), &password, with_priority);
    assert_eq!(answer(&mut pair, stranger), Some(401));
    let no_priority = check(&ours, &password, |message| message);
    assert_eq!(answer(&mut pair, no_priority), Some(400));
    assert_eq!(state(&pair), before);
    assert_eq!(pair.a.agent.report().checks_rejected, 3);
}

#[test]
fn a_check_without_integrity_or_with_unknown_attributes_is_refused() {
    let mut pair = Pair::public();
    let ours = name(&pair, "peer");
    let bare = Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
        .attribute(&Username::new(&ours).unwrap())
        .fingerprint()
        .build();
    assert_eq!(answer(&mut pair, bare), Some(400));
    let password = pair.a.agent.local_credentials().pwd.clone();
    let strange = check(&ours, &password, |message| {
        with_priority(message).raw_attribute(postern_wire::stun::AttributeType(0x7001), &[1])
    });
    assert_eq!(answer(&mut pair, strange), Some(420));
}

#[test]
fn a_check_for_another_agent_and_garbage_are_not_mine() {
    let mut pair = Pair::public();
    pair.link();
    let before = state(&pair);
    let other = check("other:peer", "password", with_priority);
    let response = Builder::new(Class::Success, Method::BINDING, TransactionId([9; 12])).build();
    let allocate = Builder::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).build();
    for payload in [
        other,
        response,
        allocate,
        vec![],
        vec![0; 20],
        vec![0x40; 1200],
    ] {
        let verdict = pair.inject("45.45.9.9:9", "45.45.1.1:1000", payload);
        assert_eq!(verdict, Some(Verdict::NotMine));
    }
    assert_eq!(state(&pair), before);
}

#[test]
fn a_damaged_check_is_dropped_without_an_answer() {
    let mut pair = Pair::public();
    let password = pair.a.agent.local_credentials().pwd.clone();
    let mut damaged = check(&name(&pair, "peer"), &password, with_priority);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(answer(&mut pair, damaged), None);
    assert!(pair.a.sent.is_empty());
}

#[test]
fn a_forged_response_proves_nothing() {
    let mut pair = Pair::public();
    pair.cut = Box::new(|_, _, _| true);
    pair.link();
    let (_, request) = pair.a.sent.first().unwrap().clone();
    let id = Message::parse(&request.payload).unwrap().transaction_id();
    let forged = |key: &str| {
        Builder::new(Class::Success, Method::BINDING, id)
            .attribute(&XorMappedAddress(at("45.45.1.1:1000")))
            .message_integrity(key.as_bytes())
            .fingerprint()
            .build()
    };
    pair.inject("45.45.2.2:2000", "45.45.1.1:1000", forged("wrong"));
    assert_eq!(pair.a.valid_at(), None);
    let right = pair.b.agent.local_credentials().pwd.clone();
    pair.inject("45.45.9.9:2000", "45.45.1.1:1000", forged(&right));
    assert_eq!(pair.a.valid_at(), None, "it came from elsewhere");
}

#[test]
fn a_forged_role_conflict_does_not_change_the_role() {
    let mut pair = Pair::public();
    pair.cut = Box::new(|_, _, _| true);
    pair.link();
    let (_, request) = pair.a.sent.first().unwrap().clone();
    let id = Message::parse(&request.payload).unwrap().transaction_id();
    let forged = Builder::new(Class::Error, Method::BINDING, id)
        .attribute(&ErrorCode::ROLE_CONFLICT)
        .fingerprint()
        .build();
    pair.inject("45.45.2.2:2000", "45.45.1.1:1000", forged);
    assert_eq!(pair.a.agent.role(), Role::Controlling);
}

#[test]
fn a_peer_with_the_wrong_password_gets_nowhere() {
    let mut pair = Pair::public();
    let wrong = Credentials {
        pwd: "x".repeat(24),
        ..pair.b.agent.local_credentials().clone()
    };
    pair.a.agent.set_remote_credentials(pair.now, wrong);
    pair.link();
    pair.run(secs(60));
    assert_eq!(pair.a.valid_at(), None);
    assert_eq!(pair.b.selected_at(), None);
    assert!(pair.a.failed_at().is_some());
    let Some((_, Event::Failed(report))) = pair.a.events.last() else {
        panic!("no report");
    };
    assert!(report.checks_refused > 0);
    assert!(pair.b.agent.report().checks_rejected > 0);
}

#[test]
fn checks_from_a_thousand_addresses_stay_within_the_bounds() {
    for linked in [true, false] {
        let mut pair = Pair::public();
        if linked {
            pair.link_a();
        }
        let peer = pair.b.agent.local_credentials().ufrag.clone();
        let password = pair.a.agent.local_credentials().pwd.clone();
        let payload = check(&name(&pair, &peer), &password, with_priority);
        for port in 1..1000 {
            let from = format!("45.45.7.7:{port}");
            pair.inject(&from, "45.45.1.1:1000", payload.clone());
        }
        let agent = &pair.a.agent;
        assert!(agent.remotes.iter().count() <= MAX_REMOTE_PEER_REFLEXIVE + 1);
        assert!(agent.early.len() <= MAX_EARLY_CHECKS);
        assert!(agent.list.iter().count() <= MAX_PAIRS);
        let seen = pair.a.events.iter();
        let seen = seen
            .filter(|(_, e)| matches!(e, Event::PeerSeen(_)))
            .count();
        assert!(seen <= MAX_REMOTE_PEER_REFLEXIVE + MAX_EARLY_CHECKS);
    }
}

#[test]
fn loss_of_a_tenth_of_all_packets_delays_but_does_not_prevent() {
    let mut pair = Pair::public();
    let mut random = ChaCha20Rng::from_seed([7; 32]);
    pair.cut = Box::new(move |_, _, _| random.next_u32() % 10 == 0);
    pair.link();
    pair.run_until_selected();
    assert!(pair.elapsed() < secs(5));
    pair.run(secs(600));
    assert_eq!(pair.a.lost_at(), None);
}

#[test]
fn a_role_conflict_is_answered_with_487_and_the_loser_changes() {
    let mut pair = Pair::public();
    let password = pair.a.agent.local_credentials().pwd.clone();
    let ours = name(&pair, "peer");
    let conflict = |tie_breaker: u64| {
        Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
            .attribute(&Username::new(&ours).unwrap())
            .attribute(&Priority(5))
            .attribute(&IceControlling(tie_breaker))
            .message_integrity(password.as_bytes())
            .fingerprint()
            .build()
    };
    assert_eq!(answer(&mut pair, conflict(0)), Some(487));
    assert_eq!(pair.a.agent.role(), Role::Controlling);
    assert_eq!(answer(&mut pair, conflict(u64::MAX)), None);
    assert_eq!(pair.a.agent.role(), Role::Controlled);
    pair.run(ms(1));
}
