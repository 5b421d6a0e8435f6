//! One world and one question each.

use std::fs;
use std::time::{Duration, Instant};

use postern_lab::netns::Case;
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports, Timeouts, Unsolicited};
use serde_json::{Value, json};

use crate::house::{House, each};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    every_mapping_and_filtering_of_a_real_nat_is_found,
    ports_in_a_block_in_order_and_preserved_are_told_apart,
    an_ordinary_home_reads_one_sentence_and_what_to_do,
    without_a_nat_the_machine_is_reachable_from_everywhere,
    a_server_with_one_address_tells_what_one_address_can,
    the_page_shows_no_whole_address_and_loads_nothing,
    a_check_is_over_within_seconds,
    how_long_idle_mappings_live_is_measured,
    connections_that_nobody_asked_for_are_dropped_or_reset,
    coturn_with_two_addresses_tells_the_same,
    an_ipv6_firewall_is_seen,
    the_page_reads_the_same_in_a_browser,
];

fn every_mapping_and_filtering_of_a_real_nat_is_found() {
    let pairs = Mapping::ALL.map(|mapping| Filtering::ALL.map(|filtering| (mapping, filtering)));
    each(pairs.as_flattened(), |(mapping, filtering)| {
        let house = House::behind(Nat::new(*mapping, *filtering));
        let told = house.check();
        let udp = &told["udp"];
        let world = format!("{mapping:?} {filtering:?} {told}");
        assert_eq!(udp["mapping"], mapping.as_str(), "{world}");
        assert_eq!(udp["filtering"], filtering.as_str(), "{world}");
    });
}

fn strict(allocation: Allocation) -> Nat {
    Nat {
        allocation,
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

fn ports_in_a_block_in_order_and_preserved_are_told_apart() {
    let told = House::behind(Nat::default()).check();
    assert_eq!(told["udp"]["allocation"], "preserving", "{told}");
    let block = Ports {
        first: 40_960,
        last: 41_983,
    };
    let told = House::behind(strict(Allocation::Random(block))).check();
    assert_eq!(told["udp"]["allocation"], "random", "{told}");
    let first = told["udp"]["port_range"][0].as_u64().unwrap();
    let last = told["udp"]["port_range"][1].as_u64().unwrap();
    let count = last - first + 1;
    assert!((512..=2048).contains(&count), "{told}");
}

fn an_ordinary_home_reads_one_sentence_and_what_to_do() {
    let house = House::behind(Nat::default());
    let checked = house.check_on("alice", &[]);
    assert_eq!(checked.code, 0);
    let expected = "You can be reached directly from most networks. Your router does not open ports by itself.\n";
    assert!(checked.text.starts_with(expected), "{}", checked.text);
    for part in [
        "What you can do:",
        "Switch on UPnP",
        "mapping",
        "endpoint-independent",
        "an ordinary home router: certain",
    ] {
        assert!(checked.text.contains(part), "{part}: {}", checked.text);
    }
    assert!(!checked.text.contains("Not certain"), "{}", checked.text);
}

fn without_a_nat_the_machine_is_reachable_from_everywhere() {
    let house = House::behind(Nat::default());
    let checked = house.check_on("server", &["--json"]);
    let told = checked.json();
    assert_eq!(checked.code, 0);
    assert_eq!(told["udp"]["mapping"], "none", "{told}");
    assert_eq!(told["layers"], 0, "{told}");
    assert_eq!(told["reach"], "open", "{told}");
}

fn a_server_with_one_address_tells_what_one_address_can() {
    let mut house = House::without_server(Nat::default());
    house.serve(&[]);
    let told = house.check();
    // A datagram from another port of it does not come in.
    assert_eq!(told["udp"]["unsolicited"], "drop", "{told}");
    assert_eq!(
        told["udp"]["filtering"], "address-and-port-dependent",
        "{told}"
    );
    assert_eq!(told["udp"]["allocation"], "preserving", "{told}");
    assert_eq!(told["reach"], "direct");
    assert_eq!(told["uncertain"].as_array().unwrap().len(), 1, "{told}");

    let lenient = Nat::new(Mapping::EndpointIndependent, Filtering::AddressDependent);
    let mut house = House::without_server(lenient);
    house.serve(&[]);
    let told = house.check();
    assert_eq!(told["udp"]["unsolicited"], "accept", "{told}");
    assert_eq!(told["udp"]["filtering"], Value::Null, "{told}");
}

fn the_page_shows_no_whole_address_and_loads_nothing() {
    let house = House::behind(Nat::default());
    let path = house.directory.path().join("report.html");
    let name = path.display().to_string();
    house.check_on("alice", &["--report", &name]);
    let page = fs::read_to_string(&path).unwrap();
    for hidden in [
        "192.168.1.10",
        "192.168.1.1",
        "<script",
        "src=",
        "http:",
        "https:",
        "url(",
    ] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    for shown in [
        "You can be reached directly",
        "192.168.x.x",
        "the internet",
        "<svg",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    house.check_on("alice", &["--report", &name, "--full"]);
    let full = fs::read_to_string(&path).unwrap();
    assert!(full.contains("192.168.1.10"), "{full}");
}

fn a_check_is_over_within_seconds() {
    let house = House::behind(strict(Allocation::Random(Ports::ALL)));
    let begun = Instant::now();
    let told = house.check();
    // The promise is five seconds; this machine may be busy.
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(told["reach"], "strict", "{told}");
    assert_eq!(told["port_mapping"], json!([]));
}

fn how_long_idle_mappings_live_is_measured() {
    let nat = Nat {
        timeouts: Timeouts {
            unreplied: Duration::from_secs(12),
            replied: Duration::from_secs(12),
            ..Timeouts::default()
        },
        ..Nat::default()
    };
    let house = House::behind(nat);
    let checked = house.check_on("alice", &["--json", "--lifetime"]);
    let told = checked.json();
    let bound = |n: usize| told["udp"]["lifetime"][n].as_u64().unwrap();
    assert!((8..=12).contains(&bound(0)), "{told}");
    assert!((12..=16).contains(&bound(1)), "{told}");
}

fn coturn_with_two_addresses_tells_the_same() {
    let rows = [
        (Mapping::EndpointIndependent, Filtering::AddressDependent),
        (
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ),
    ];
    each(&rows, |(mapping, filtering)| {
        let mut house = House::without_server(Nat::new(*mapping, *filtering));
        house.serve(&["--stun-port", "4000"]);
        house.run_coturn();
        let stun = format!("{}:3478", house.addresses()[0]);
        let checked = house.check_on("alice", &["--json", "--stun", &stun]);
        let told = checked.json();
        assert_eq!(told["udp"]["mapping"], mapping.as_str(), "{told}");
        assert_eq!(told["udp"]["filtering"], filtering.as_str(), "{told}");
        assert_eq!(told["tcp"]["mapping"], mapping.as_str(), "{told}");
    });
}

fn an_ipv6_firewall_is_seen() {
    let mut house = House::with_ipv6();
    let ipv6 = house.ipv6_address();
    house.serve(&["--listen", &ipv6]);
    let told = house.check();
    assert_eq!(told["ipv6"]["reachable"], true, "{told}");
    assert_eq!(told["ipv6"]["mapping"], "none", "{told}");
}

/// What Chromium makes of it, without a window.
fn the_page_reads_the_same_in_a_browser() {
    let house = House::behind(Nat::default());
    let path = house.directory.path().join("report.html");
    house.check_on("alice", &["--report", &path.display().to_string()]);
    let picture = house.directory.path().join("report.png");
    let text = house.browse(&path, &picture);
    for shown in [
        "You can be reached directly from most networks.",
        "your router",
        "the internet",
        "Switch on UPnP",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let size = fs::metadata(&picture).unwrap().len();
    assert!(size > 5_000, "the picture has {size} bytes");
}

fn connections_that_nobody_asked_for_are_dropped_or_reset() {
    for (unsolicited, named) in [(Unsolicited::Drop, "drop"), (Unsolicited::Reset, "reset")] {
        let nat = Nat {
            unsolicited,
            ..Nat::default()
        };
        let mut house = House::without_server(nat);
        house.serve(&["--relay"]);
        let told = house.check();
        let tcp = &told["tcp"];
        assert_eq!(tcp["unsolicited"], named, "{told}");
        assert_eq!(tcp["filtering"], "address-and-port-dependent", "{told}");
        assert_eq!(tcp["allocation"], "preserving", "{told}");
    }
}
