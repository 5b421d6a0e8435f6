//! Ports that gateways open on request.

use postern_wire::transport::Transport;

use super::super::{CandidateKind, Event};
use super::net::{DependsOn, Nat, Pair, at};
use super::{ms, secs};
use crate::punch::Technique;

/// Two NATs through which plain checks do not get.
fn strict() -> Pair {
    let nat = |public| {
        Nat::at(public)
            .mapping(DependsOn::AddressAndPort)
            .filtering(DependsOn::AddressAndPort)
    };
    Pair::behind(nat("45.45.1.1:40000"), nat("45.45.2.2:50000"))
}

const OF_A: &str = "45.45.1.1:9000";
const OF_B: &str = "45.45.2.2:9000";

fn assert_mapped(pair: &mut Pair) {
    pair.run_until_selected();
    pair.run(ms(500));
    for peer in [&pair.a, &pair.b] {
        let path = peer.agent.selected().unwrap();
        assert_eq!(peer.agent.technique(&path), Technique::Mapped);
    }
}

#[test]
fn one_port_connects_two_strict_nats_whichever_side_has_it() {
    for (is_a, external) in [(true, OF_A), (false, OF_B)] {
        let mut pair = strict();
        pair.open_port(is_a, external);
        pair.link();
        assert_mapped(&mut pair);
        assert!(pair.elapsed() < secs(2), "{:?}", pair.elapsed());
    }
}

#[test]
fn two_ports_do_as_well() {
    let mut pair = strict();
    pair.open_port(true, OF_A);
    pair.open_port(false, OF_B);
    pair.link();
    assert_mapped(&mut pair);
}

#[test]
fn a_port_that_comes_while_checks_fail_is_used_nonetheless() {
    let mut pair = strict();
    pair.link();
    pair.run(secs(5));
    assert_eq!(pair.a.valid_at(), None);
    pair.open_port(false, OF_B);
    assert_mapped(&mut pair);
}

#[test]
fn after_a_restart_the_port_is_told_again() {
    let mut pair = strict();
    pair.open_port(false, OF_B);
    pair.link();
    assert_mapped(&mut pair);
    let told = |pair: &Pair| {
        let mut all = pair.b.candidates();
        all.retain(|candidate| candidate.address == at(OF_B));
        assert!(all.iter().all(|c| c.kind == CandidateKind::ServerReflexive));
        all.len()
    };
    assert_eq!(told(&pair), 1);
    pair.restart();
    assert_mapped(&mut pair);
    assert_eq!(told(&pair), 2);
}

#[test]
fn what_cannot_be_a_candidate_is_ignored() {
    let mut pair = strict();
    let (now, base) = (pair.now, at("10.0.1.1:1000"));
    let agent = &mut pair.a.agent;
    while agent.poll_event().is_some() {}
    for (base, mapped) in [
        (base, at("45.45.1.1:0")),
        (base, at("[2001:db8::1]:9000")),
        (at("10.0.1.9:1000"), at(OF_A)),
    ] {
        agent.add_mapped(now, Transport::Udp, (base, mapped));
        let told = std::iter::from_fn(|| agent.poll_event())
            .any(|event| matches!(event, Event::LocalCandidate(_)));
        assert!(!told, "{base} {mapped}");
    }
}
