use std::time::Duration;

use postern_proto::stun::behaviour::Findings;

use super::super::facts::{Gateways, ServerFacts, TcpFacts, Unsolicited};
use super::*;
use crate::portmap::Found;

fn findings(nat: NatReport, translated: bool) -> Findings {
    Findings {
        reachable: true,
        mapped: vec!["45.0.1.1:6000".parse().unwrap()],
        translated: Some(translated),
        nat: Some(nat),
        ..Findings::default()
    }
}

fn facts(udp: Findings) -> Facts {
    Facts {
        addresses: vec!["192.168.1.2".parse().unwrap()],
        server: ServerFacts {
            reachable: true,
            ..ServerFacts::default()
        },
        udp,
        ipv6: Findings::default(),
        tcp: TcpFacts::default(),
        gateway: Some(Gateways {
            router: Some("192.168.1.1".parse().unwrap()),
            found: Vec::new(),
            external: None,
        }),
        other_port: None,
        path_mtu: None,
        lifetime: None,
    }
}

fn found(external: &str) -> Gateways {
    let external = external.parse().ok();
    Gateways {
        router: Some("192.168.1.1".parse().unwrap()),
        found: vec![Found {
            protocol: Protocol::Upnp,
            gateway: "192.168.1.1".parse().unwrap(),
            after: Duration::ZERO,
            external_address: external,
            connected: Some(true),
            model: String::new(),
            service: String::new(),
            location: None,
            control: None,
            services: Vec::new(),
            targets: Vec::new(),
            presentation: String::new(),
        }],
        external,
    }
}

fn strict() -> NatReport {
    Peer::Strict.nat()
}

#[test]
fn an_ordinary_router_that_opens_no_ports_is_direct_and_there_is_something_to_do() {
    let verdict = facts(findings(plain(), true)).verdict();
    assert_eq!(verdict.reach, Reach::Direct);
    let expected = "You can be reached directly from most networks. Your router does not open ports by itself.";
    assert_eq!(verdict.summary, expected);
    assert!(verdict.advice[0].contains("Switch on UPnP"), "{verdict:?}");
    assert!(verdict.advice[0].contains("192.168.1.1"));
    assert!(verdict.advice[1].contains("IPv6"));
    let chances: Vec<_> = verdict.odds.iter().map(|odds| odds.probability).collect();
    assert_eq!(chances[..2], [1.0, 1.0]);
    assert!(chances[2] > 0.99 && chances[3] > 0.99, "{chances:?}");
}

#[test]
fn a_router_that_opens_ports_is_said_and_needs_no_setting() {
    let mut facts = facts(findings(plain(), true));
    facts.gateway = Some(found("45.0.1.1"));
    let verdict = facts.verdict();
    assert!(
        verdict.summary.ends_with("when programs ask it (UPnP)."),
        "{}",
        verdict.summary
    );
    assert!(!verdict.advice.iter().any(|advice| advice.contains("UPnP")));
    assert_eq!((facts.double_nat(), facts.layers()), (Some(false), Some(1)));
}

#[test]
fn two_translators_and_a_carriers_are_told_apart() {
    let mut facts = facts(findings(plain(), true));
    facts.gateway = Some(found("10.0.0.7"));
    let verdict = facts.verdict();
    assert!(
        verdict.summary.contains("two routers in a row"),
        "{}",
        verdict.summary
    );
    assert!(verdict.advice[0].contains("10.0.0.7"));
    assert_eq!((facts.double_nat(), facts.layers()), (Some(true), Some(2)));
    facts.gateway = Some(found("100.64.3.4"));
    let verdict = facts.verdict();
    assert!(
        verdict.summary.contains("Your provider shares"),
        "{}",
        verdict.summary
    );
    facts.gateway = Some(found("45.9.9.9"));
    assert_eq!(
        facts.double_nat(),
        Some(true),
        "a public address that is another one"
    );
}

#[test]
fn a_strict_network_is_direct_for_ordinary_ones_only() {
    let verdict = facts(findings(strict(), true)).verdict();
    assert_eq!(verdict.reach, Reach::Strict);
    assert!(verdict.advice[0].contains("static port"), "{verdict:?}");
    let chance = |peer| {
        let odds = verdict.odds.iter().find(|odds| odds.peer == peer);
        odds.unwrap().probability
    };
    assert!(chance(Peer::Home) > 0.99);
    assert!(chance(Peer::Strict) < 0.01);
}

#[test]
fn a_block_of_ports_can_be_met() {
    let verdict = facts(findings(Peer::Carrier.nat(), true)).verdict();
    assert_eq!(verdict.reach, Reach::Direct);
}

#[test]
fn public_addresses_with_and_without_a_firewall() {
    let walled = facts(findings(plain(), false)).verdict();
    assert_eq!(walled.reach, Reach::Direct);
    assert!(walled.summary.contains("a firewall lets in only"));
    let open = facts(findings(Peer::Public.nat(), false)).verdict();
    assert_eq!(open.reach, Reach::Open);
    assert!(open.summary.contains("no firewall"));
    assert!(open.advice.is_empty(), "{open:?}");
}

#[test]
fn without_udp_a_relay_is_left_and_without_tcp_nothing() {
    let mut blocked = facts(Findings::default());
    let verdict = blocked.verdict();
    assert_eq!(verdict.reach, Reach::Relay);
    assert!(verdict.advice[0].contains("outgoing UDP"), "{verdict:?}");
    assert!(verdict.odds.iter().all(|odds| odds.probability == 0.0));
    blocked.server = ServerFacts {
        trouble: Some("the server could not be reached".to_owned()),
        ..ServerFacts::default()
    };
    let verdict = blocked.verdict();
    assert_eq!(verdict.reach, Reach::Nothing);
    assert!(verdict.summary.contains("could not be reached"));
}

#[test]
fn what_one_address_cannot_see_is_said_to_be_uncertain() {
    let nat = NatReport {
        mapping: Mapping::PortIndependent,
        filtering: Filtering::Unknown,
        ..plain()
    };
    let verdict = facts(findings(nat, true)).verdict();
    assert_eq!(verdict.uncertain.len(), 2, "{verdict:?}");
    assert!(verdict.uncertain[0].contains("--stun"));
    assert!(verdict.uncertain[1].contains("--alternate-ip"));
    let mut probed = facts(findings(nat, true));
    probed.other_port = Some(Unsolicited::Drop);
    assert_eq!(probed.filtering(), Filtering::AddressAndPortDependent);
    assert_eq!(probed.verdict().uncertain.len(), 1);
    probed.other_port = Some(Unsolicited::Accept);
    assert_eq!(probed.filtering(), Filtering::Unknown);
    assert!(
        facts(findings(plain(), true))
            .verdict()
            .uncertain
            .is_empty()
    );
}
