//! Several components (RFC 8445 section 2), lite peers, names and NAT64.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use super::super::*;
use super::net::{Pair, at};
use super::{ms, secs};

const A: [&str; 2] = ["45.45.1.1:1000", "45.45.1.1:1001"];
const B: [&str; 2] = ["45.45.2.2:2000", "45.45.2.2:2001"];

fn two_components() -> Config {
    Config {
        components: 2,
        ..Config::default()
    }
}

fn pair() -> Pair {
    let mut pair = Pair::with(two_components(), (Role::Controlling, Role::Controlled));
    for (component, (a, b)) in (1..).zip(A.iter().zip(B)) {
        pair.host_of(true, component, a);
        pair.host_of(false, component, b);
    }
    pair
}

#[test]
fn each_component_selects_a_path_of_its_own() {
    let mut pair = pair();
    pair.link();
    pair.run(secs(1));
    for (component, (a, b)) in (1..).zip(A.iter().zip(B)) {
        let path = pair.a.agent.selected_of(component).unwrap();
        assert_eq!((path.local, path.remote), (at(a), at(b)));
        assert_eq!(pair.a.agent.component_of(&path), component);
        let path = pair.b.agent.selected_of(component).unwrap();
        assert_eq!((path.local, path.remote), (at(b), at(a)));
    }
    let crossed = |t: &crate::Transmit| t.local.port() % 2 != t.remote.port() % 2;
    assert!(!pair.a.sent.iter().any(|(_, t)| crossed(t)));
    let priorities: Vec<_> = pair.a.candidates().iter().map(|c| c.priority).collect();
    assert_eq!(priorities[0], priorities[1] + 1, "section 5.1.2.1");
}

#[test]
fn the_second_component_waits_until_the_foundation_has_worked_for_the_first() {
    let mut pair = pair();
    pair.link_a();
    for candidate in pair.b.candidates() {
        pair.a.agent.add_remote_candidate(pair.now, candidate);
    }
    pair.drain();
    pair.run(ms(59));
    assert_eq!(pair.a.sent_to(B[0]), [ms(0)]);
    assert_eq!(pair.a.sent_to(B[1]), []);
    pair.run(ms(21));
    assert_eq!(pair.a.sent_to(B[1]), [ms(80)], "the nomination goes first");
}

#[test]
fn a_component_that_the_peer_has_not_is_not_waited_for() {
    let mut pair = Pair::with(two_components(), (Role::Controlling, Role::Controlled));
    pair.host_of(true, 1, A[0]);
    pair.host_of(true, 2, A[1]);
    pair.host_of(false, 1, B[0]);
    pair.link();
    pair.run(secs(1));
    assert!(pair.a.agent.selected().is_some() && !pair.a.agent.is_connected());
    pair.a.agent.end_of_remote_candidates(pair.now);
    assert!(pair.a.agent.is_connected());
    pair.run(secs(60));
    assert_eq!(pair.a.failed_at(), None);
}

#[test]
fn a_component_without_a_path_fails_the_session_at_the_end_of_patience() {
    let mut pair = pair();
    pair.cut = Box::new(|_, from, _| from.port() % 2 == 1);
    pair.link();
    pair.run(secs(30));
    assert!(pair.a.agent.selected().is_some() && pair.a.agent.selected_of(2).is_none());
    pair.run(secs(30));
    let failed = pair.a.failed_at().unwrap();
    assert!((ms(39_500)..=ms(41_500)).contains(&failed), "{failed:?}");
}

#[test]
fn a_component_that_falls_silent_is_found_again_while_the_other_goes_on() {
    let mut pair = pair();
    pair.link();
    pair.run(secs(2));
    pair.cut = Box::new(|_, from, _| from.port() % 2 == 1);
    pair.run(secs(35));
    assert!(pair.a.agent.selected().is_some());
    assert!(pair.a.agent.selected_of(2).is_none());
    pair.cut = Box::new(|_, _, _| false);
    pair.run(secs(10));
    assert!(pair.a.agent.selected_of(2).is_some() && pair.b.agent.selected_of(2).is_some());
    let lost = pair.a.events.iter().filter_map(|(_, event)| match event {
        Event::Lost(path) => Some(path.local),
        _ => None,
    });
    assert_eq!(lost.collect::<Vec<_>>(), [at(A[1])]);
}

#[test]
fn a_restart_keeps_the_paths_of_both_components() {
    let mut pair = pair();
    pair.link();
    pair.run(secs(1));
    pair.restart();
    for _ in 0..300 {
        for peer in [&pair.a, &pair.b] {
            assert!(peer.agent.selected().is_some() && peer.agent.selected_of(2).is_some());
        }
        pair.run(ms(1));
    }
    assert_eq!(pair.a.selections().len(), 4);
    assert_eq!(pair.a.lost_at(), None);
}

const NAME: &str = "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local";

fn named(pair: &Pair) -> NamedCandidate {
    let told = pair.b.candidates().remove(0);
    NamedCandidate::new(NAME, told).unwrap()
}

#[test]
fn a_candidate_at_a_name_is_tried_when_the_name_is_known() {
    let mut pair = Pair::public();
    let candidate = named(&pair);
    let credentials = pair.b.agent.local_credentials().clone();
    pair.a.agent.set_remote_credentials(pair.now, credentials);
    pair.a.agent.add_named_candidate(candidate.clone());
    pair.a.agent.add_named_candidate(candidate);
    pair.drain();
    let asked = pair.a.events.iter();
    let asked = asked.filter(|(_, e)| *e == Event::ResolveName(NAME.to_owned()));
    assert_eq!(asked.count(), 1, "once a name");
    pair.run(secs(1));
    assert!(pair.a.sent.is_empty());
    let address = at(B[0]).ip();
    pair.a.agent.name_resolved(pair.now, NAME, Some(address));
    pair.drain();
    assert_eq!(pair.a.sent_to(B[0]), [secs(1)]);
}

#[test]
fn a_relay_does_not_learn_the_address_behind_a_name() {
    const RELAY: &str = "198.51.100.1:50000";
    for named_first in [true, false] {
        let mut pair = Pair::public();
        pair.relay_a(RELAY);
        let candidate = named(&pair);
        let credentials = pair.b.agent.local_credentials().clone();
        pair.a.agent.set_remote_credentials(pair.now, credentials);
        if named_first {
            pair.a.agent.add_named_candidate(candidate);
            let address = at(B[0]).ip();
            pair.a.agent.name_resolved(pair.now, NAME, Some(address));
        } else {
            let told = pair.b.candidates().remove(0);
            pair.a.agent.add_remote_candidate(pair.now, told);
        }
        pair.run(secs(1));
        let sent = pair.a.sent.iter().filter(|(_, t)| t.remote == at(B[0]));
        let relayed = sent.filter(|(_, t)| t.local == at(RELAY)).count();
        assert_eq!(relayed == 0, named_first, "{relayed}");
        assert!(pair.a.sent_to(B[0]).len() > relayed);
    }
}

#[test]
fn names_that_cannot_be_resolved_are_ignored_and_their_number_is_bounded() {
    let mut pair = Pair::public();
    let candidate = named(&pair);
    pair.a.agent.add_named_candidate(candidate.clone());
    pair.a.agent.name_resolved(pair.now, NAME, None);
    let nobody = pair.b.candidates().remove(0).address.ip();
    pair.a.agent.name_resolved(pair.now, NAME, Some(nobody));
    assert_eq!(pair.a.agent.report().remote, Kinds::default());
    for number in 0..1000 {
        let line = candidate
            .to_string()
            .replace("4b2e9c52", &number.to_string());
        pair.a.agent.add_named_candidate(line.parse().unwrap());
    }
    pair.drain();
    let asked = pair.a.events.iter();
    let asked = asked.filter(|(_, e)| matches!(e, Event::ResolveName(_)));
    assert_eq!(asked.count(), 1 + MAX_REMOTE_NAMES);
}

#[test]
fn a_host_with_ipv6_alone_reaches_ipv4_candidates_through_nat64() {
    let prefix = Nat64Prefix::new("64:ff9b::".parse().unwrap(), 96).unwrap();
    let mut pair = Pair::behind_nat64(prefix);
    let told: Vec<_> = pair.a.candidates().iter().map(|c| c.address).collect();
    assert_eq!(told, [at("[2001:db8::1]:1000"), at("45.45.1.1:40000")]);
    assert_eq!(pair.a.agent.report().stun_servers_answered, 1);
    pair.link();
    pair.run_until_selected();
    let path = pair.a.agent.selected().unwrap();
    assert!(pair.a.agent.is_through_nat64(&path));
    assert_eq!(
        pair.a.agent.technique(&path),
        crate::punch::Technique::Nat64
    );
    assert_eq!(path.remote, at("[64:ff9b::45.45.2.2]:50000"));
    assert_eq!(path.local_kind, CandidateKind::ServerReflexive);
    let private = pair.a.sent.iter();
    let mut private = private.filter(|(_, t)| t.remote == at("[64:ff9b::10.0.2.2]:2000"));
    assert!(
        private.next().is_none(),
        "private addresses are not behind it"
    );
}
