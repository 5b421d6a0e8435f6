//! Gathering, late candidates, long waits and patience.

use super::super::*;
use super::net::{DependsOn, Nat, Pair, STUN, at};
use super::{ms, secs};

#[test]
fn a_host_behind_a_nat_gets_one_reflexive_candidate_and_then_the_end() {
    let pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::none());
    let lines: Vec<_> = pair
        .a
        .candidates()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lines,
        [
            "candidate:1 1 udp 2122317823 10.0.1.1 1000 typ host",
            "candidate:2 1 udp 1686109951 45.45.1.1 40000 typ srflx raddr 10.0.1.1 rport 1000",
        ]
    );
    assert_eq!(pair.b.candidates().len(), 1, "no NAT, nothing new");
    assert!(matches!(
        pair.a.events.last(),
        Some((_, Event::EndOfLocalCandidates))
    ));
}

#[test]
fn a_dead_stun_server_ends_gathering_after_7500_ms() {
    let mut pair = Pair::new();
    pair.stun_answers = false;
    pair.host_a("10.0.1.1:1000");
    pair.gather();
    pair.run(secs(10));
    let end = pair.a.first(|e| *e == Event::EndOfLocalCandidates);
    assert_eq!(end, Some(ms(7500)));
    assert_eq!(pair.a.agent.report().stun_servers_answered, 0);
}

#[test]
fn a_long_wait_keeps_the_mapping_alive_and_the_connection_ends_the_refreshes() {
    let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
    pair.run(secs(600));
    let asked = pair.a.sent_to(STUN);
    assert_eq!(asked.len(), 40);
    assert!(asked.windows(2).all(|w| w[1] - w[0] <= secs(16)));
    pair.link();
    pair.run_until_selected();
    let asked = pair.a.sent_to(STUN).len();
    pair.run(secs(100));
    assert_eq!(pair.a.sent_to(STUN).len(), asked);
}

#[test]
fn a_mapping_that_changes_during_the_wait_is_a_new_candidate() {
    let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
    pair.a.nat.reboot();
    pair.run(secs(20));
    let candidates = pair.a.candidates();
    assert_eq!(candidates.len(), 3);
    assert_eq!(candidates[2].address, at("45.45.1.1:41000"));
    let start = pair.elapsed();
    pair.link();
    pair.run_until_selected();
    assert!(
        pair.elapsed() - start < ms(400),
        "the dead candidate is no obstacle"
    );
}

#[test]
fn candidates_may_come_long_after_the_credentials() {
    let mut pair = Pair::new();
    pair.link();
    pair.run(secs(5));
    pair.host_a("45.45.1.1:1000");
    pair.run(secs(5));
    let start = pair.elapsed();
    pair.host_b("45.45.2.2:2000");
    pair.run_until_selected();
    assert!(pair.elapsed() - start <= ms(121));
}

#[test]
fn candidates_may_come_before_the_credentials() {
    let mut pair = Pair::public();
    let (a, b) = (pair.a.candidates(), pair.b.candidates());
    pair.a.agent.add_remote_candidate(pair.now, b[0].clone());
    pair.b.agent.add_remote_candidate(pair.now, a[0].clone());
    pair.run(secs(60));
    assert!(
        pair.a.sent.is_empty(),
        "nothing is sent before the credentials"
    );
    pair.link();
    pair.run_until_selected();
}

#[test]
fn two_endpoint_dependent_nats_fail_at_patience_with_a_report() {
    let config = Config {
        patience: secs(12),
        ..Config::default()
    };
    let mut pair = Pair::behind_with(
        config,
        Nat::at("45.45.1.1:40000").mapping(DependsOn::AddressAndPort),
        Nat::at("45.45.2.2:50000").mapping(DependsOn::AddressAndPort),
    );
    let start = pair.elapsed();
    pair.link();
    pair.run(secs(15));
    let Some((at, Event::Failed(report))) = pair.a.events.last() else {
        panic!("no failure: {:?}", pair.a.events.last());
    };
    assert_eq!(*at, start + secs(12));
    assert_eq!((report.local.host, report.local.server_reflexive), (1, 1));
    assert_eq!((report.remote.host, report.remote.server_reflexive), (1, 1));
    assert_eq!((report.stun_servers, report.stun_servers_answered), (1, 1));
    assert_eq!((report.checks_sent, report.checks_answered), (2, 0));
    assert_eq!(report.checks_received, 0);
    assert!(report.remote_ended && report.has_remote_credentials);
    assert!(pair.b.failed_at().is_some());
}

#[test]
fn failure_waits_for_patience_even_when_there_is_nothing_to_check() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.link_a();
    pair.run(ms(39_499));
    assert_eq!(pair.a.failed_at(), None);
    pair.run(ms(1));
    assert!(pair.a.failed_at().is_some());
}

#[test]
fn a_check_that_began_just_before_the_end_of_patience_has_its_chance() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.link();
    pair.run(ms(39_480));
    pair.host_b("45.45.2.2:2000");
    pair.run_until_selected();
    assert_eq!(pair.a.failed_at(), None);
}
