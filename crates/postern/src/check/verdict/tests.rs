use std::time::Duration;

use postern_proto::stun::behaviour::Findings;

use super::super::facts::{Gateways, ServerFacts, TcpFacts, Unsolicited};
use super::super::network::{Interface, Network};
use super::super::odds::{Peer, plain};
use super::super::relays::Relaying;
use super::super::stranger::{Heard, Portal};
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
        gateway: Some(Gateways {
            router: Some("192.168.1.1".parse().unwrap()),
            found: Vec::new(),
            external: None,
        }),
        ..Facts::default()
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
    blocked.relays = Some(vec![relay(Relaying::Loses)]);
    let verdict = blocked.verdict();
    assert_eq!(
        verdict.summary,
        "Connections work only through a relay: this network lets no UDP out. No relay of this server can be used from here."
    );
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

fn relay(outcome: Relaying) -> Relayed {
    Relayed {
        transport: postern_proto::connect::RelayTransport::Tls,
        server: "45.0.0.1:443".parse().unwrap(),
        outcome,
    }
}

fn works() -> Relaying {
    Relaying::Works {
        after: Duration::ZERO,
        round_trip: Duration::ZERO,
    }
}

#[test]
fn tcp_that_can_be_opened_from_both_sides_is_direct_and_through_a_proxy_it_is_not() {
    let mut facts = facts(Findings::default());
    facts.tcp = TcpFacts {
        reachable: true,
        nat: Some(plain()),
        translated: Some(true),
        ..TcpFacts::default()
    };
    facts.relays = Some(vec![relay(works())]);
    let verdict = facts.verdict();
    assert_eq!(verdict.reach, Reach::Tcp);
    assert!(verdict.summary.ends_with("The relay works (over TLS)."));
    let chances: Vec<_> = verdict.odds.iter().map(|odds| odds.probability).collect();
    assert_eq!(chances, [1.0, 0.7, 0.0, 0.0]);
    facts.tcp = TcpFacts::default();
    facts.network.proxy = Some("proxy:3128".to_owned());
    let verdict = facts.verdict();
    assert_eq!(verdict.reach, Reach::Relay);
    assert!(verdict.summary.contains("is a proxy"), "{verdict:?}");
}

#[test]
fn a_port_that_the_router_opens_makes_a_strict_network_direct() {
    let mut facts = facts(findings(strict(), true));
    facts.gateway = Some(found("45.0.1.1"));
    let verdict = facts.verdict();
    assert_eq!(verdict.reach, Reach::Direct);
    assert!(verdict.odds.iter().all(|odds| odds.probability == 1.0));
    facts.gateway = Some(found("10.1.1.1"));
    assert_eq!(facts.verdict().reach, Reach::Strict);
}

#[test]
fn peers_with_ipv6_are_told_of_where_this_machine_has_it() {
    let mut facts = facts(findings(strict(), true));
    let mut ipv6 = findings(plain(), false);
    ipv6.mapped = vec!["[2a00::2]:6000".parse().unwrap()];
    facts.ipv6 = ipv6;
    facts.asked = vec!["[2a00::1]:3478".parse().unwrap()];
    facts.addresses.push("2a00::2".parse().unwrap());
    let verdict = facts.verdict();
    let last = verdict.odds.last().unwrap();
    assert_eq!((last.peer, last.probability), (Peer::Ipv6, 1.0));
    let firewall = verdict
        .advice
        .iter()
        .find(|advice| advice.contains("2a00::2"));
    assert!(firewall.unwrap().contains("IPv6 firewall"), "{verdict:?}");
}

#[test]
fn ipv6_that_could_not_be_asked_for_is_not_said_to_be_missing() {
    let mut facts = facts(findings(plain(), true));
    facts.asked = vec!["45.0.0.1:3478".parse().unwrap()];
    facts.addresses.push("2a00::2".parse().unwrap());
    assert_eq!(facts.udp_gets_out(false), None);
    let verdict = facts.verdict();
    assert!(
        verdict.uncertain[0].contains("no IPv6 address"),
        "{verdict:?}"
    );
    assert!(!verdict.advice.iter().any(|advice| advice.contains("IPv6")));
}

fn unreachable(kind: Trouble, heard: Heard) -> Verdict {
    let mut facts = facts(Findings::default());
    facts.server = ServerFacts {
        host: "example.org".to_owned(),
        port: 8443,
        trouble: Some("the server could not be reached".to_owned()),
        kind: Some(kind),
        ..ServerFacts::default()
    };
    facts.heard = heard;
    facts.verdict()
}

#[test]
fn what_is_in_the_way_of_everything_is_named() {
    let portal = Heard {
        portal: Some(Portal {
            url: Some("http://login/".to_owned()),
        }),
        ..Heard::default()
    };
    let verdict = unreachable(Trouble::Stranger, portal);
    assert!(
        verdict
            .summary
            .starts_with("This network has a log-in page")
    );
    assert!(verdict.advice[0].contains("Open http://login/ in a browser"));
    let clock = Heard {
        certificate: Some(Certificate::NotYetValid),
        clock_ahead: Some(-3 * 365 * 86_400),
        ..Heard::default()
    };
    let verdict = unreachable(Trouble::Stranger, clock);
    assert_eq!(
        verdict.summary,
        "The clock of this machine is 1095 days behind, so that the certificate of the server does not count here."
    );
    assert!(verdict.advice[0].contains("Set the clock"));
    let expired = Heard {
        certificate: Some(Certificate::Expired),
        clock_ahead: Some(2),
        ..Heard::default()
    };
    let verdict = unreachable(Trouble::Stranger, expired);
    assert_eq!(
        verdict.summary,
        "The certificate of the server has expired."
    );
    let verdict = unreachable(Trouble::Name, Heard::default());
    assert!(verdict.summary.contains("example.org, cannot be resolved"));
    let verdict = unreachable(Trouble::NoRoute, Heard::default());
    assert!(verdict.summary.contains("knows no router"), "{verdict:?}");
    let verdict = unreachable(Trouble::Stranger, Heard::default());
    assert!(verdict.summary.starts_with("Somebody else answers"));
    let verdict = unreachable(Trouble::Untrusted, Heard::default());
    assert!(verdict.summary.contains("is not trusted"), "{verdict:?}");
    assert!(verdict.advice[0].contains("#sha256="), "{verdict:?}");
    let verdict = unreachable(Trouble::Mute, Heard::default());
    assert!(
        verdict.advice[0].contains("8443 is the port"),
        "{verdict:?}"
    );
    let verdict = unreachable(Trouble::Refused, Heard::default());
    assert!(verdict.summary.contains("refuses connections"));
    assert_eq!(verdict.reach, Reach::Nothing);
}

#[test]
fn a_server_that_fails_where_the_network_works_is_said_behind_it() {
    let mut facts = facts(findings(plain(), true));
    facts.server = ServerFacts {
        host: "example.org".to_owned(),
        kind: Some(Trouble::Name),
        trouble: Some("no".to_owned()),
        ..ServerFacts::default()
    };
    let verdict = facts.verdict();
    assert_eq!(verdict.reach, Reach::Direct);
    assert!(
        verdict
            .summary
            .contains("But the server cannot be used: the name of the server"),
        "{}",
        verdict.summary
    );
}

#[test]
fn a_server_that_is_down_is_said_in_half_a_sentence() {
    let mut facts = facts(findings(plain(), true));
    for (kind, said) in [
        (Trouble::Refused, "its port 8443 refuses connections."),
        (Trouble::Silent, "nothing comes back from its port 8443."),
        (
            Trouble::Mute,
            "its port 8443 takes connections, and does not answer.",
        ),
        (
            Trouble::NoRoute,
            "this machine has no way out: it has an address, but knows no router.",
        ),
        (Trouble::Proxy, "the proxy says no."),
    ] {
        facts.server = ServerFacts {
            port: 8443,
            kind: Some(kind),
            trouble: Some("the proxy says no".to_owned()),
            ..ServerFacts::default()
        };
        let summary = facts.verdict().summary;
        let end = format!("But the server cannot be used: {said}");
        assert!(summary.ends_with(&end), "{summary}");
    }
}

#[test]
fn a_clock_that_is_off_is_said_in_units_that_people_use() {
    assert_eq!(off(90), "90 seconds ahead");
    assert_eq!(off(-3_600), "60 minutes behind");
    assert_eq!(off(40_000), "11 hours ahead");
    assert_eq!(off(-864_000), "10 days behind");
}

#[test]
fn a_carriers_address_on_this_machine_and_a_tunnel_are_said() {
    let mut facts = facts(findings(plain(), true));
    facts.addresses = vec!["100.64.0.10".parse().unwrap()];
    facts.network = Network {
        interfaces: vec![Interface {
            name: "wg0".to_owned(),
            tunnel: true,
            addresses: facts.addresses.clone(),
        }],
        way_out: Some("wg0".to_owned()),
        ..Network::default()
    };
    let verdict = facts.verdict();
    assert!(
        verdict.summary.contains("Your provider shares"),
        "{verdict:?}"
    );
    assert!(
        verdict
            .summary
            .ends_with("Everything goes through the tunnel wg0, so this is about its other end.")
    );
    assert!(verdict.advice[0].contains("public IPv4 address"));
}
