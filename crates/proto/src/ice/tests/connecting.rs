//! From credentials to a selected path.

use super::super::*;
use super::net::{DependsOn, Nat, Pair, at};
use super::{ms, secs};

fn home_a() -> Nat {
    Nat::at("45.45.1.1:40000")
}

fn home_b() -> Nat {
    Nat::at("45.45.2.2:50000")
}

/// Both have selected the same path, seen from both ends without NATs.
fn assert_same_path(pair: &Pair) {
    let (a, b) = (
        pair.a.agent.selected().unwrap(),
        pair.b.agent.selected().unwrap(),
    );
    assert_eq!((a.local, a.remote), (b.remote, b.local));
}

#[test]
fn two_public_hosts_connect_after_one_round_trip_and_select_after_two() {
    let mut pair = Pair::public();
    pair.link();
    pair.run_until_selected();
    assert_same_path(&pair);
    assert_eq!(pair.a.valid_at(), Some(ms(60)));
    assert_eq!(pair.b.valid_at(), Some(ms(60)));
    assert_eq!(pair.b.selected_at(), Some(ms(90)));
    assert_eq!(pair.a.selected_at(), Some(ms(120)));
}

#[test]
fn ipv6_is_preferred_to_ipv4() {
    let mut pair = Pair::public();
    pair.host_a("[2001:db8::1]:1000");
    pair.host_b("[2001:db8::2]:2000");
    pair.link();
    pair.run_until_selected();
    assert_same_path(&pair);
    assert_eq!(
        pair.a.agent.selected().unwrap().remote,
        at("[2001:db8::2]:2000")
    );
}

#[test]
fn link_local_addresses_connect_on_their_interface_only() {
    let mut pair = Pair::new();
    pair.host_a("[fe80::1%2]:1000");
    pair.host_a("[2001:db8::1]:1000");
    pair.host_b("[fe80::2%2]:2000");
    pair.link();
    pair.run_until_selected();
    let path = pair.a.agent.selected().unwrap();
    assert_eq!(path.remote, at("[fe80::2%2]:2000"));
    let mixed = pair
        .a
        .sent
        .iter()
        .any(|(_, t)| t.local == at("[2001:db8::1]:1000"));
    assert!(!mixed);
}

#[test]
fn two_homes_connect_within_180_ms_by_their_reflexive_candidates() {
    let mut pair = Pair::behind(home_a(), home_b());
    let start = pair.elapsed();
    pair.link();
    pair.run_until_selected();
    let path = pair.a.agent.selected().unwrap();
    assert_eq!(path.remote, at("45.45.2.2:50000"));
    assert_eq!(path.local_kind, CandidateKind::ServerReflexive);
    assert_eq!(path.remote_kind, CandidateKind::ServerReflexive);
    assert!(pair.a.valid_at().unwrap() - start <= ms(180));
    assert!(pair.b.valid_at().unwrap() - start <= ms(180));
}

#[test]
fn a_first_check_that_the_other_nat_drops_costs_no_retransmission() {
    let mut pair = Pair::behind(home_a(), home_b());
    pair.link_b();
    pair.run(ms(250));
    assert_eq!(pair.b.valid_at(), None, "dropped by the NAT of a");
    let start = pair.elapsed();
    pair.link_a();
    pair.run_until_selected();
    assert!(pair.a.valid_at().unwrap() - start <= ms(180));
    assert!(pair.b.valid_at().unwrap() - start <= ms(180));
}

#[test]
fn a_check_before_the_credentials_is_answered_and_remembered() {
    let mut pair = Pair::public();
    pair.link_b();
    for candidate in pair.a.candidates() {
        pair.b.agent.add_remote_candidate(pair.now, candidate);
    }
    pair.drain();
    pair.run(ms(300));
    assert!(
        pair.b.valid_at().is_some(),
        "a answers without the credentials of b"
    );
    assert_eq!(pair.a.valid_at(), None);
    assert!(matches!(
        pair.a.events.last(),
        Some((_, Event::PeerSeen(_)))
    ));
    let start = pair.elapsed();
    pair.link_a();
    pair.run(ms(60));
    assert_eq!(pair.a.valid_at(), Some(start + ms(60)));
    pair.run_until_selected();
    assert_same_path(&pair);
}

#[test]
fn a_peer_that_never_signals_a_candidate_is_found_by_its_checks() {
    let mut pair = Pair::new();
    pair.a.nat = home_a().mapping(DependsOn::AddressAndPort);
    pair.b.nat = home_b().filtering(DependsOn::Nothing);
    pair.host_a("10.0.1.1:1000");
    pair.host_b("10.0.2.2:2000");
    pair.gather();
    pair.run(ms(100));
    pair.link();
    pair.run_until_selected();
    let path = pair.b.agent.selected().unwrap();
    assert_eq!(path.remote_kind, CandidateKind::PeerReflexive);
    assert_eq!(
        pair.a.agent.selected().unwrap().local_kind,
        CandidateKind::PeerReflexive
    );
    assert!(pair.a.agent.report().local_endpoint_dependent);
    assert!(pair.b.agent.report().remote_unsignalled);
}

#[test]
fn two_controlling_agents_agree_on_their_roles() {
    agree(Role::Controlling);
}

#[test]
fn two_controlled_agents_agree_on_their_roles() {
    agree(Role::Controlled);
}

fn agree(both: Role) {
    let mut pair = Pair::with(Config::default(), (both, both));
    pair.host_a("45.45.1.1:1000");
    pair.host_b("45.45.2.2:2000");
    pair.link();
    pair.run_until_selected();
    assert_same_path(&pair);
    assert_ne!(pair.a.agent.role(), pair.b.agent.role());
    assert!(pair.elapsed() < ms(400));
}

#[test]
fn roles_are_repaired_when_only_one_side_can_begin() {
    for both in [Role::Controlling, Role::Controlled] {
        for first in [true, false] {
            let mut pair = Pair::with(Config::default(), (both, both));
            pair.host_a("45.45.1.1:1000");
            pair.host_b("45.45.2.2:2000");
            if first {
                pair.link_a()
            } else {
                pair.link_b()
            }
            pair.run(ms(200));
            pair.link();
            pair.run_until_selected();
            assert_ne!(pair.a.agent.role(), pair.b.agent.role());
        }
    }
}

#[test]
fn nomination_waits_for_a_better_pair_but_not_long() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.host_a("45.45.1.9:1000");
    pair.host_b("45.45.2.2:2000");
    // The preferred host of a reaches nobody.
    pair.cut = Box::new(|_, from, to| from == at("45.45.1.1:1000") || to == at("45.45.1.1:1000"));
    pair.link();
    pair.run_until_selected();
    let valid = pair.a.valid_at().unwrap();
    assert_eq!(pair.b.selected_at().unwrap(), valid + ms(150) + ms(30));
    assert_eq!(pair.a.agent.selected().unwrap().local, at("45.45.1.9:1000"));
}

#[test]
fn a_better_pair_that_works_a_little_later_is_the_one_nominated() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.host_a("45.45.1.9:1000");
    pair.host_b("45.45.2.2:2000");
    let better = at("45.45.1.1:1000");
    pair.cut = Box::new(move |at, from, to| at < ms(100) && (from == better || to == better));
    let ta = ms(20);
    pair.link();
    pair.run(ms(90));
    assert!(pair.a.valid_at().is_some());
    // A repeated check of the better pair comes through in time when triggered.
    pair.run(ms(200) + ta);
    pair.run_until_selected();
    assert_same_path(&pair);
}

#[test]
fn a_nominated_pair_that_died_gives_way_to_the_next() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.host_a("45.45.1.9:1000");
    pair.host_b("45.45.2.2:2000");
    let best = at("45.45.1.1:1000");
    // Dies when the first pair has just become valid.
    pair.cut = Box::new(move |at, from, to| at >= ms(55) && (from == best || to == best));
    pair.link();
    pair.run_until_selected();
    assert_same_path(&pair);
    assert_eq!(pair.a.agent.selected().unwrap().local, at("45.45.1.9:1000"));
    assert!(pair.a.lost_at().is_some());
    assert!(pair.elapsed() < secs(7));
}

#[test]
fn three_dead_hosts_a_side_do_not_keep_two_homes_from_connecting_within_180_ms() {
    let mut pair = Pair::behind(home_a(), home_b());
    for n in 1..4 {
        pair.host_a(&format!("172.{n}.0.1:1000"));
        pair.host_b(&format!("172.{n}.1.1:1000"));
    }
    pair.run(ms(500));
    let start = pair.elapsed();
    pair.link();
    pair.run_until_selected();
    assert!(pair.a.valid_at().unwrap() - start < ms(180));
    assert!(pair.b.valid_at().unwrap() - start < ms(180));
}

#[test]
fn a_candidate_that_comes_right_after_the_selection_changes_nothing() {
    let mut pair = Pair::public();
    pair.link();
    pair.run_until_selected();
    let sent = pair.a.sent.len();
    let late = "candidate:9 1 udp 1694498815 45.45.2.9 2000 typ srflx raddr 192.168.1.2 rport 2000";
    let late = late.parse().unwrap();
    pair.a.agent.add_remote_candidate(pair.now, late);
    pair.run(ms(500));
    assert_eq!(pair.a.sent.len(), sent);
}

#[test]
fn the_selected_path_knows_its_round_trip() {
    let mut pair = Pair::public();
    pair.link();
    pair.run_until_selected();
    let path = pair.a.agent.selected().unwrap();
    assert_eq!(pair.a.agent.rtt(&path), Some(ms(60)));
}

#[test]
fn the_same_seeds_send_the_same_datagrams_at_the_same_times() {
    let run = || {
        let mut pair = Pair::behind(home_a(), home_b());
        pair.link();
        pair.run(secs(60));
        (pair.a.sent, pair.b.sent)
    };
    let (first, second) = (run(), run());
    assert!(first.0.len() > 10);
    assert_eq!(first, second);
}
