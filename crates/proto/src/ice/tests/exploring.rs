//! What appears while a path works.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test may panic on overflow"
)]

use super::super::*;
use super::net::{Nat, Pair, at};
use super::{ms, secs};

const IPV6: &str = "[2001:db8::1]:1000";

/// Two who have been connected over IPv4 for ten seconds.
fn at_rest() -> Pair {
    let mut pair = Pair::public();
    pair.host_b("[2001:db8::2]:2000");
    pair.link();
    pair.run_until_selected();
    pair.run(secs(10));
    pair
}

#[test]
fn a_preferred_host_that_appears_takes_over_and_the_old_path_works_until_then() {
    let mut pair = at_rest();
    let before = pair.elapsed();
    pair.host_a(IPV6);
    pair.run(secs(5));
    for (peer, local) in [(&pair.a, IPV6), (&pair.b, "[2001:db8::2]:2000")] {
        let selections = peer.selections();
        assert_eq!(selections.len(), 2);
        let (when, path) = selections[1];
        assert_eq!(path.local, at(local));
        assert!(
            when >= before + secs(1),
            "it must have been there for a while"
        );
        assert!(when <= before + ms(1500), "{when:?}");
        assert_eq!(peer.lost_at(), None);
    }
    pair.run(secs(60));
    assert_eq!((pair.a.lost_at(), pair.b.lost_at()), (None, None));
}

#[test]
fn it_takes_over_as_well_when_it_is_the_controlled_side_that_has_it() {
    let mut pair = Pair::public();
    pair.host_a(IPV6);
    pair.link();
    pair.run_until_selected();
    pair.run(secs(10));
    pair.host_b("[2001:db8::2]:2000");
    pair.run(secs(5));
    assert_eq!(pair.a.agent.selected().unwrap().local, at(IPV6));
    assert_eq!(pair.b.agent.selected().unwrap().remote, at(IPV6));
    assert_eq!((pair.a.lost_at(), pair.b.lost_at()), (None, None));
}

#[test]
fn a_host_that_appears_right_after_the_selection_takes_over_as_well() {
    let (a, b) = (IPV6, "[2001:db8::2]:2000");
    for (known, new) in [(b, a), (a, b)] {
        for pause in [ms(20), ms(500), ms(1900)] {
            let mut pair = Pair::public();
            let add = |pair: &mut Pair, host: &str| match host == a {
                true => pair.host_a(host),
                false => pair.host_b(host),
            };
            add(&mut pair, known);
            pair.link();
            pair.run_until_selected();
            pair.run(pause);
            let before = pair.elapsed();
            add(&mut pair, new);
            pair.run(secs(6));
            for (peer, local) in [(&pair.a, a), (&pair.b, b)] {
                let selections = peer.selections();
                let (when, path) = selections.last().unwrap();
                assert_eq!(path.local, at(local), "{new} after {pause:?}");
                assert!(*when <= before + secs(3), "{when:?}");
                assert_eq!(peer.lost_at(), None);
            }
        }
    }
}

#[test]
fn another_host_that_is_no_better_changes_nothing_and_is_left_alone_after_a_while() {
    let mut pair = at_rest();
    pair.host_a("45.45.1.9:1000");
    pair.run(secs(30));
    assert_eq!(pair.a.selections().len(), 1);
    let sent = pair.a.sent.len();
    pair.run(secs(60));
    // Consent, and answers, every five seconds on the one path.
    let more = pair.a.sent.len() - sent;
    assert!(more < 32, "{more}");
    let of_it = pair
        .a
        .sent
        .iter()
        .filter(|(_, t)| t.local == at("45.45.1.9:1000"));
    assert!(of_it.clone().count() < 30, "{}", of_it.count());
}

#[test]
fn an_interface_that_comes_and_goes_is_not_used_and_costs_little() {
    let mut pair = at_rest();
    let sent = pair.a.sent.len() + pair.b.sent.len();
    for _ in 0..10 {
        pair.host_a(IPV6);
        pair.run(ms(500));
        pair.a.agent.remove_host(pair.now, at(IPV6));
        pair.drain();
        pair.run(ms(500));
    }
    assert_eq!(pair.a.selections().len(), 1);
    let costs = pair.a.sent.len() + pair.b.sent.len() - sent;
    assert!(costs < 150, "{costs} datagrams in ten seconds");
    pair.host_a(IPV6);
    pair.run(secs(5));
    assert_eq!(pair.a.agent.selected().unwrap().local, at(IPV6));
}

#[test]
fn a_peer_that_tells_ever_more_addresses_is_still_found_at_the_latest() {
    let mut pair = Pair::behind(Nat::none(), Nat::none());
    pair.link();
    pair.run_until_selected();
    pair.run(secs(10));
    let candidate = |port: u16, host: u8| -> Candidate {
        let line = format!("candidate:9 1 udp 2130706431 10.9.9.{host} {port} typ host");
        line.parse().unwrap()
    };
    for port in 1..500 {
        pair.a
            .agent
            .add_remote_candidate(pair.now, candidate(port, 9));
        pair.run(secs(1));
    }
    pair.host_b("[2001:db8::2]:2000");
    pair.host_a(IPV6);
    pair.run(secs(20));
    assert_eq!(pair.a.agent.selected().unwrap().local, at(IPV6));
    let bound = MAX_REMOTE_CANDIDATES + MAX_REMOTE_PEER_REFLEXIVE;
    assert!(pair.a.agent.remotes.iter().count() <= bound);
}

#[test]
fn when_the_last_path_is_lost_the_mappings_are_looked_at_again_and_again() {
    let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
    pair.link();
    pair.run_until_selected();
    pair.run(secs(1));
    pair.a.nat.reboot();
    pair.cut = Box::new(|_, _, _| true);
    pair.run(secs(31));
    let lost = pair.a.lost_at().unwrap();
    pair.run(secs(5));
    let asked = pair.a.sent_to(super::net::STUN);
    let since = asked.iter().filter(|at| **at >= lost).count();
    assert!((4..20).contains(&since), "{asked:?}");
    pair.cut = Box::new(|_, _, _| false);
    let back = pair.elapsed();
    pair.run(secs(2));
    let told = pair.a.candidates().last().unwrap().address;
    assert_eq!(told, at("45.45.1.1:41000"));
    let (when, _) = *pair.a.selections().last().unwrap();
    assert!(when >= back && when < back + ms(1600), "{when:?}");
}
