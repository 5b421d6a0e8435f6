//! Beside the firewalls that routers have: with the rule that `--integrate` keeps in theirs,
//! what is mapped passes, and without it does not.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postern_lab::netns::Case;
use postern_wire::pcp::Options;
use serde_json::json;

use crate::house::{ALICE6, EVERYWHERE, House, LIMIT, OUTSIDE, ROUTER6, SERVER, Tcp, Udp, map};
use crate::lives::A_SECOND;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    firewalld_lets_in_what_is_mapped,
    fw4_lets_in_what_is_mapped,
    ufw_lets_in_what_is_mapped,
    iptables_lets_in_what_is_mapped,
    iptables_from_before_nftables_lets_in_what_is_mapped,
    docker_lets_in_what_is_mapped,
    a_firewall_that_comes_later_gets_the_rule,
];

/// One of them, on the router of a house.
struct Firewall {
    /// As it is called in `--integrate`.
    name: &'static str,
    /// Its chains that decide about what is forwarded.
    chains: &'static [&'static str],
    /// What loads its rules.
    load: fn(&House),
    /// Whether it lets mappings of IPv4, and pinholes, in by itself.
    alone: (bool, bool),
    /// How many rules of ours it has.
    count: fn(&House) -> usize,
    /// How soon it is noticed that our rule is gone.
    soon: Duration,
}

const IPTABLES: &[&str] = &["ip filter FORWARD", "ip6 filter FORWARD"];

fn firewalld_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "firewalld",
        chains: &["inet firewalld filter_FORWARD"],
        load: |house| nft(house, include_str!("firewalls/firewalld.nft")),
        // It accepts all that is translated.
        alone: (true, false),
        count: rules_of_ours,
        soon: A_SECOND,
    });
}

fn fw4_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "fw4",
        chains: &["inet fw4 forward"],
        load: |house| nft(house, include_str!("firewalls/fw4.nft")),
        alone: (false, false),
        count: rules_of_ours,
        soon: A_SECOND,
    });
}

fn ufw_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "ufw",
        chains: IPTABLES,
        load: |house| {
            iptables(house, "iptables", include_str!("firewalls/ufw.v4"));
            iptables(house, "ip6tables", include_str!("firewalls/ufw.v6"));
        },
        alone: (false, false),
        count: rules_of_ours,
        soon: A_SECOND,
    });
}

fn iptables_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "iptables",
        chains: IPTABLES,
        load: |house| {
            let rules = include_str!("firewalls/iptables.rules");
            iptables(house, "iptables", rules);
            iptables(house, "ip6tables", rules);
        },
        alone: (false, false),
        count: rules_of_ours,
        soon: A_SECOND,
    });
}

fn iptables_from_before_nftables_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "iptables",
        chains: &[
            "ip filter FORWARD (iptables-legacy)",
            "ip6 filter FORWARD (iptables-legacy)",
        ],
        load: |house| {
            let rules = include_str!("firewalls/iptables.rules");
            iptables(house, "iptables-legacy", rules);
            iptables(house, "ip6tables-legacy", rules);
        },
        alone: (false, false),
        count: |house| {
            let programs = ["iptables-legacy", "ip6tables-legacy"];
            let listed = programs.map(|program| house.run("router", program, "-S FORWARD"));
            listed.concat().matches("\"postern gateway\"").count()
        },
        // The kernel tells nobody.
        soon: LIMIT,
    });
}

fn docker_lets_in_what_is_mapped() {
    lets_in_what_is_mapped(&Firewall {
        name: "iptables",
        chains: &["ip filter FORWARD"],
        load: |house| iptables(house, "iptables", include_str!("firewalls/docker.v4")),
        // It leaves IPv6 as it is unless told.
        alone: (false, true),
        count: rules_of_ours,
        soon: A_SECOND,
    });
}

fn lets_in_what_is_mapped(firewall: &Firewall) {
    let mut house = without_firewall();
    (firewall.load)(&house);
    assert_eq!(house.start(&[])["obstacles"], json!(firewall.chains));
    open(&house);
    assert_let_in(&house, firewall.alone, "without the rule");
    house.stop(Signal::SIGTERM);

    let ready = house.start(&["--integrate", firewall.name]);
    assert_eq!(ready["integrated"], json!(firewall.chains));
    assert_eq!(ready["obstacles"], json!([]));
    assert_let_in(&house, (true, true), "with the rule");
    assert_eq!(house.reached_from(Udp, 4001, 4000), EVERYWHERE);
    assert_eq!((firewall.count)(&house), firewall.chains.len());

    (firewall.load)(&house);
    let begin = Instant::now();
    while (firewall.count)(&house) < firewall.chains.len() {
        assert!(begin.elapsed() < firewall.soon, "after a reload");
    }
    assert_let_in(&house, (true, true), "after a reload");
    assert_eq!((firewall.count)(&house), firewall.chains.len());

    house.stop(Signal::SIGTERM);
    assert_eq!((firewall.count)(&house), 0);
    assert_let_in(&house, firewall.alone, "when the gateway has ended");

    // A run that ended badly leaves its rule behind, for the next one.
    house.start(&["--integrate", firewall.name]);
    house.stop(Signal::SIGKILL);
    assert_eq!((firewall.count)(&house), firewall.chains.len());
    house.start(&["--integrate", firewall.name]);
    assert_eq!((firewall.count)(&house), firewall.chains.len());
}

fn a_firewall_that_comes_later_gets_the_rule() {
    let mut house = without_firewall();
    assert_eq!(
        house.start(&["--integrate", "fw4"])["integrated"],
        json!([])
    );
    open(&house);
    nft(&house, include_str!("firewalls/fw4.nft"));
    let status = || house.ask_json(&["status"]).swap_remove(0);
    let begin = Instant::now();
    while status()["integrated"] != json!(["inet fw4 forward"]) {
        assert!(begin.elapsed() < LIMIT);
    }
    assert_eq!(status()["obstacles"], json!([]));
    assert_let_in(&house, (true, true), "when it has come");
}

/// A house whose router keeps nobody out.
fn without_firewall() -> House {
    let house = House::without_gateway();
    for table in ["ip firewall", "ip6 firewall"] {
        nft(&house, &format!("delete table {table}\n"));
    }
    house
}

/// A mapping of each transport, and a pinhole.
fn open(house: &House) {
    for over in [Tcp, Udp] {
        house.pcp(map(over, 4000, 4001), 600, Options::default());
    }
    let mut pinhole = map(Tcp, 4000, 4000);
    pinhole.external_address = [0_u16; 8].into();
    let (alice, router) = (ALICE6.parse().unwrap(), ROUTER6.parse().unwrap());
    house.ask_pcp(alice, router, pinhole, 600, Options::default());
}

/// Whether the mapping, and the pinhole, lead in from the internet.
#[track_caller]
fn assert_let_in(house: &House, expected: (bool, bool), when: &str) {
    let outside = SocketAddr::from((OUTSIDE, 4001));
    let reaches = |expected, from, to| match expected {
        true => house.reaches_soon(Tcp, from, to, 4000),
        false => house.reaches(Tcp, from, to, 4000),
    };
    let mapped = reaches(expected.0, ("server", SERVER.into()), outside);
    let server = house.world.addresses("server").unwrap()[2];
    let alice = SocketAddr::new(ALICE6.parse::<IpAddr>().unwrap(), 4000);
    let pinhole = reaches(expected.1, ("server", server), alice);
    assert_eq!((mapped, pinhole), expected, "{when}");
}

fn rules_of_ours(house: &House) -> usize {
    let all = house.run("router", "nft", "list ruleset");
    all.matches("comment \"postern gateway\"").count()
}

fn nft(house: &House, rules: &str) {
    house.world.nft("router", rules).unwrap();
}

fn iptables(house: &House, program: &str, rules: &str) {
    let file = house.path(program);
    std::fs::write(&file, rules).unwrap();
    let restore = format!("{program}-restore");
    house.run("router", &restore, file.to_str().unwrap());
}
