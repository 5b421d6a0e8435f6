//! Restarts (RFC 8445 section 9).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test may panic on overflow"
)]

use super::super::*;
use super::net::{Nat, Pair, at};
use super::{ms, secs};

fn connected() -> Pair {
    let mut pair = Pair::public();
    pair.link();
    pair.run_until_selected();
    pair.run(secs(1));
    pair
}

#[test]
fn a_restart_keeps_the_path_until_the_new_session_has_selected_one() {
    let mut pair = connected();
    let before = pair.a.agent.selected();
    let credentials = pair.a.agent.local_credentials().clone();
    pair.restart();
    assert_ne!(pair.a.agent.local_credentials(), &credentials);
    assert_ne!(pair.a.agent.local_credentials().pwd, credentials.pwd);
    let path = before.unwrap();
    assert_eq!(pair.a.agent.selected(), before);
    assert!(pair.a.agent.has_consent(&path) && pair.b.agent.selected().is_some());
    let start = pair.elapsed();
    pair.run(secs(1));
    for peer in [&pair.a, &pair.b] {
        let selections = peer.selections();
        assert_eq!(selections.len(), 2);
        assert!(selections[1].0 <= start + ms(120));
        assert_eq!(peer.lost_at(), None);
    }
    pair.run(secs(100));
    assert_eq!((pair.a.lost_at(), pair.b.lost_at()), (None, None));
}

#[test]
fn all_candidates_and_their_end_are_told_again() {
    let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
    pair.link();
    pair.run_until_selected();
    let before = pair.a.candidates();
    let ends = |pair: &Pair| {
        let ends = pair.a.events.iter();
        ends.filter(|(_, e)| *e == Event::EndOfLocalCandidates)
            .count()
    };
    assert_eq!(ends(&pair), 1);
    pair.restart();
    assert_eq!(pair.a.candidates()[before.len()..], before[..]);
    pair.run(secs(1));
    assert_eq!(ends(&pair), 2);
    assert_eq!(pair.a.selections().len(), 2);
}

#[test]
fn a_restart_that_nobody_answers_costs_nothing() {
    let mut pair = connected();
    let path = pair.b.agent.selected();
    assert!(pair.a.agent.restart(pair.now));
    assert!(pair.a.agent.awaits_peer());
    assert!(!pair.a.agent.restart(pair.now), "there is one under way");
    pair.run(secs(300));
    for peer in [&pair.a, &pair.b] {
        assert_eq!((peer.lost_at(), peer.failed_at()), (None, None));
    }
    assert!(pair.a.agent.selected().is_some());
    assert_eq!(pair.b.agent.selected(), path);
}

#[test]
fn a_host_on_another_network_goes_on_at_its_new_address() {
    let mut pair = connected();
    let old = pair.a.agent.selected().unwrap();
    pair.host_a("45.45.9.9:1000");
    pair.a.agent.remove_host(pair.now, old.local);
    assert!(
        pair.a.agent.selected().is_none(),
        "the path is gone with it"
    );
    pair.restart();
    pair.run_until_selected();
    pair.run(secs(1));
    let path = pair.a.agent.selected().unwrap();
    assert_eq!(path.local, at("45.45.9.9:1000"));
    assert_eq!(pair.b.agent.selected().unwrap().remote, path.local);
    assert_eq!(pair.b.lost_at(), None, "the peer changes over in time");
    let told = pair.a.candidates();
    assert_eq!(told.last().unwrap().address, path.local);
}

#[test]
fn a_new_interface_beside_the_old_one_takes_over_without_a_gap() {
    let mut pair = connected();
    let old = pair.a.agent.selected().unwrap();
    pair.host_a("[2001:db8::1]:1000");
    pair.host_b("[2001:db8::2]:2000");
    pair.restart();
    for _ in 0..200 {
        assert!(pair.a.agent.selected().is_some() && pair.b.agent.selected().is_some());
        pair.run(ms(1));
    }
    assert_ne!(pair.a.agent.selected(), Some(old));
    assert_eq!(pair.a.lost_at(), None);
}

#[test]
fn a_session_that_finds_nothing_fails_when_the_path_before_it_is_lost() {
    let mut pair = connected();
    for is_a in [true, false] {
        let (peer, other) = if is_a {
            (&mut pair.a, &mut pair.b)
        } else {
            (&mut pair.b, &mut pair.a)
        };
        peer.agent.restart(pair.now);
        let credentials = peer.agent.local_credentials().clone();
        other.agent.restart(pair.now);
        other.agent.set_remote_credentials(pair.now, credentials);
    }
    pair.hold_signals();
    pair.drain();
    pair.run(secs(200));
    assert_eq!((pair.a.lost_at(), pair.a.failed_at()), (None, None));
    let cut = pair.elapsed();
    pair.cut = Box::new(|_, _, _| true);
    pair.run(secs(100));
    let (lost, failed) = (pair.a.lost_at().unwrap(), pair.a.failed_at().unwrap());
    assert!(lost > cut && lost <= cut + secs(31));
    assert_eq!(failed, lost + ms(39_500));
}

#[test]
fn restarts_that_cross_are_answers_to_each_other() {
    let mut pair = connected();
    assert!(pair.a.agent.restart(pair.now) && pair.b.agent.restart(pair.now));
    pair.link();
    assert!(!pair.a.agent.awaits_peer() && !pair.b.agent.awaits_peer());
    pair.run(secs(1));
    assert_eq!(pair.a.selections().len(), 2);
    assert_eq!(pair.b.selections().len(), 2);
}

#[test]
fn restarts_one_after_the_other_keep_the_path_all_the_time() {
    let mut pair = connected();
    for _ in 0..20 {
        pair.restart();
        pair.run(ms(45));
        assert!(pair.a.agent.selected().is_some() && pair.b.agent.selected().is_some());
    }
    pair.run(secs(120));
    assert_eq!((pair.a.lost_at(), pair.b.lost_at()), (None, None));
}

#[test]
fn a_check_of_the_session_before_is_answered_and_chooses_nothing() {
    let mut pair = connected();
    let old = pair.a.sent.iter().rev();
    let request =
        |t: &&crate::Transmit| t.payload.first() == Some(&0) && t.payload.get(1) == Some(&1);
    let check = old.map(|(_, t)| t).find(request).unwrap().clone();
    assert!(pair.b.agent.restart(pair.now));
    let (sent, events) = (pair.b.sent.len(), pair.b.events.len());
    pair.inject("45.45.1.1:1000", "45.45.2.2:2000", check.payload.clone());
    assert_eq!(pair.b.sent.len(), sent + 1, "consent is given");
    pair.inject("45.45.66.6:6", "45.45.2.2:2000", check.payload);
    let new = pair.b.events[events..].iter().map(|(_, event)| event);
    let seen = new.filter(|event| {
        !matches!(
            event,
            Event::LocalCandidate(_) | Event::EndOfLocalCandidates
        )
    });
    assert_eq!(seen.count(), 0);
}

#[test]
fn roles_stay_and_a_failed_agent_may_begin_again() {
    let mut pair = Pair::public();
    pair.cut = Box::new(|_, _, _| true);
    pair.link();
    pair.run(secs(60));
    assert!(pair.a.failed_at().is_some() && pair.b.failed_at().is_some());
    pair.cut = Box::new(|_, _, _| false);
    pair.restart();
    pair.run_until_selected();
    assert_eq!(pair.a.agent.role(), Role::Controlling);
    assert_eq!(pair.b.agent.role(), Role::Controlled);
}
