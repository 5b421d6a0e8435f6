//! Relayed candidates: a way at once, and behind a direct one.

use std::time::Duration;

use super::super::*;
use super::net::{DependsOn, Nat, Pair, STUN, at};
use super::{ms, secs};

const RELAY_A: &str = "198.51.100.1:50000";
const RELAY_B: &str = "198.51.100.2:50000";
const NAT_A: &str = "45.45.1.1:40000";
const NAT_B: &str = "45.45.2.2:40000";

fn is_relayed(path: &Path) -> bool {
    [path.local_kind, path.remote_kind].contains(&CandidateKind::Relayed)
}

/// Behind NATs that no check passes.
fn symmetric() -> Pair {
    let nat = |public| Nat::at(public).mapping(DependsOn::AddressAndPort);
    Pair::behind(nat(NAT_A), nat(NAT_B))
}

fn ordinary() -> Pair {
    Pair::behind(Nat::at(NAT_A), Nat::at(NAT_B))
}

#[test]
fn one_relay_connects_peers_behind_symmetric_nats() {
    for (a, b) in [(true, false), (false, true), (true, true)] {
        let mut pair = symmetric();
        if a {
            pair.relay_a(RELAY_A);
        }
        if b {
            pair.relay_b(RELAY_B);
        }
        pair.link();
        pair.run_until_selected();
        let (a, b) = (pair.a.agent.selected(), pair.b.agent.selected());
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(is_relayed(&a) && is_relayed(&b), "{a:?} {b:?}");
        assert!(pair.a.agent.report().had_relay());
        let (a, b) = (pair.a.valid_at().unwrap(), pair.b.valid_at().unwrap());
        assert!(
            a <= ms(400) && b <= ms(400),
            "{a:?} {b:?}: within two round trips"
        );
    }
}

#[test]
fn a_relayed_candidate_has_type_preference_zero_and_is_no_base_for_stun() {
    let mut pair = ordinary();
    pair.relay_a(RELAY_A);
    pair.run(secs(1));
    let relayed = pair.a.candidates().pop().unwrap();
    assert_eq!(relayed.kind, CandidateKind::Relayed);
    assert_eq!(relayed.address, at(RELAY_A));
    assert!(relayed.priority < 1 << 24);
    assert!(relayed.to_string().contains("typ relay"));
    assert!(pair.a.sent.iter().all(|(_, t)| t.local != at(RELAY_A)));
    assert!(!pair.a.sent_to(STUN).is_empty());
}

#[test]
fn a_direct_path_is_preferred_and_the_relay_stays_valid_behind_it() {
    let mut pair = ordinary();
    pair.relay_a(RELAY_A);
    pair.link();
    pair.run(secs(120));
    for peer in [&pair.a, &pair.b] {
        let selections = peer.selections();
        assert_eq!(selections.len(), 1, "{selections:?}");
        assert!(!is_relayed(&selections[0].1));
        assert_eq!(peer.lost_at(), None);
    }
    let through = |(at, t): &&(Duration, crate::Transmit)| {
        *at > secs(60) && t.local == super::net::at(RELAY_A)
    };
    let kept = pair.a.sent.iter().filter(through).count();
    assert!((8..=40).contains(&kept), "consent goes on: {kept}");
}

#[test]
fn a_direct_path_that_opens_later_takes_the_relays_place() {
    let mut pair = ordinary();
    pair.relay_a(RELAY_A);
    pair.cut = Box::new(|elapsed, from, to| {
        let relayed = [from, to].contains(&at(RELAY_A));
        elapsed < secs(5) && !relayed && ![from, to].contains(&at(STUN))
    });
    pair.link();
    pair.run(secs(30));
    for peer in [&pair.a, &pair.b] {
        let selections = peer.selections();
        assert_eq!(selections.len(), 2, "{selections:?}");
        let (first, second) = (selections[0], selections[1]);
        assert!(is_relayed(&first.1) && first.0 < secs(3), "{first:?}");
        assert!(!is_relayed(&second.1) && second.0 > secs(5), "{second:?}");
        assert!(second.0 < secs(12), "{second:?}");
        assert_eq!(peer.lost_at(), None, "the relay was not lost");
    }
}

#[test]
fn the_relay_takes_over_when_the_direct_path_is_cut_and_gives_it_back() {
    let mut pair = ordinary();
    pair.relay_a(RELAY_A);
    pair.cut = Box::new(|elapsed, from, to| {
        let relayed = [from, to].contains(&at(RELAY_A));
        (secs(20)..secs(80)).contains(&elapsed) && !relayed
    });
    pair.link();
    pair.run(secs(180));
    for peer in [&pair.a, &pair.b] {
        let kinds: Vec<_> = peer
            .selections()
            .iter()
            .map(|(_, p)| is_relayed(p))
            .collect();
        assert_eq!(kinds, [false, true, false], "{:?}", peer.selections());
        let lost = peer
            .events
            .iter()
            .filter(|(_, e)| matches!(e, Event::Lost(_)));
        assert_eq!(lost.count(), 1, "only the direct path was lost");
        assert_eq!(peer.failed_at(), None);
    }
}

#[test]
fn an_allocation_that_ends_takes_its_paths_along() {
    let mut pair = symmetric();
    pair.relay_a(RELAY_A);
    pair.relay_b(RELAY_B);
    pair.link();
    pair.run_until_selected();
    let now = pair.now;
    pair.a.agent.remove_relayed(now, at(RELAY_A));
    pair.drain();
    pair.run(secs(60));
    let path = pair.a.agent.selected().unwrap();
    assert_eq!(path.remote, at(RELAY_B));
    let after = pair.elapsed() - secs(60);
    let late = pair.a.sent.iter().filter(|(at, _)| *at > after);
    assert!(late.into_iter().all(|(_, t)| t.local != at(RELAY_A)));
    assert_eq!(pair.b.agent.selected().unwrap().local, at(RELAY_B));
}

#[test]
fn a_long_list_of_direct_pairs_does_not_push_the_relay_out() {
    let mut pair = symmetric();
    for n in 0..8 {
        pair.host_a(&format!("172.17.{n}.1:1000"));
    }
    pair.relay_a(RELAY_A);
    pair.link();
    for n in 0..20 {
        let line = format!("candidate:x{n} 1 udp 2130706431 172.18.{n}.1 2000 typ host");
        let candidate: Candidate = line.parse().unwrap();
        pair.a.agent.add_remote_candidate(pair.now, candidate);
    }
    pair.run_until_selected();
    assert!(is_relayed(&pair.a.agent.selected().unwrap()));
    assert!(pair.a.valid_at().unwrap() < secs(1));
}

#[test]
fn relayed_candidates_are_bounded_and_known_ones_are_ignored() {
    let mut pair = Pair::public();
    for n in 0..20 {
        pair.relay_a(&format!("198.51.100.1:{}", 50_000 + n));
        pair.relay_a(&format!("198.51.100.1:{}", 50_000 + n));
    }
    assert_eq!(pair.a.agent.report().local.relayed, MAX_RELAYED);
}
