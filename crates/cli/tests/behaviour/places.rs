//! What stands between a host and the internet, besides one translator.

use postern_lab::netns::{Case, Home, Ipv6, Topology};
use postern_lab::sim::{Filtering, Mapping, Nat, Unsolicited};
use serde_json::{Value, json};

use crate::house::House;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    without_a_translator_there_is_no_layer,
    one_router_at_home_is_one_layer,
    a_home_behind_a_carriers_translator_is_two_layers,
    a_firewall_without_a_translator_is_seen,
    an_ipv6_firewall_lets_in_what_was_asked_for,
    where_udp_is_blocked_tcp_still_tells_all,
    plain_servers_tell_the_mapping_as_far_as_they_see_it,
    the_largest_packet_is_found_and_a_black_hole_is_recognised,
    a_connection_that_both_ends_open_needs_a_way_out,
];

fn home(nat: Nat) -> Topology {
    Topology {
        homes: vec![Home::new("red", &["alice"], 1, nat)],
        ..Topology::default()
    }
}

#[track_caller]
fn assert_told(told: &Value, expected: &[(&str, Value)]) {
    for (place, expected) in expected {
        let found = told.pointer(place).unwrap_or(&Value::Null);
        assert_eq!(found, expected, "{place} {told}");
    }
}

fn without_a_translator_there_is_no_layer() {
    let house = House::at_a_distance(home(Nat::default()));
    let told = house.check_on("other", &[]);
    assert_told(
        &told,
        &[
            ("/layers", json!(0)),
            ("/double_nat", json!(false)),
            ("/udp/mapping", json!("none")),
            ("/udp/filtering", json!("endpoint-independent")),
            ("/udp/distance", Value::Null),
            ("/udp/hairpin", Value::Null),
            ("/tcp/mapping", json!("none")),
            ("/tcp/filtering", json!("endpoint-independent")),
            ("/tcp/unsolicited", json!("accept")),
            ("/tcp/simultaneous_open", json!(true)),
        ],
    );
}

fn one_router_at_home_is_one_layer() {
    for nat in [
        Nat::default(),
        Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ),
    ] {
        let told = House::new(home(nat)).check();
        assert_told(
            &told,
            &[("/layers", json!(1)), ("/double_nat", json!(false))],
        );
    }
    // Routers that say nothing: the distance tells.
    let house = House::new(home(Nat::default()));
    let silent = "table ip silent {\nchain outp {\ntype filter hook output priority 0\nicmp type time-exceeded drop\n}\n}\n";
    for router in ["red", "internet"] {
        house.world.nft(router, silent).unwrap();
    }
    let told = house.check();
    assert_told(&told, &[("/layers", json!(1)), ("/udp/distance", json!(1))]);
}

/// The network between the two has the addresses of RFC 6598.
fn a_home_behind_a_carriers_translator_is_two_layers() {
    let house = House::new(Topology {
        homes: vec![
            Home::new("carrier", &[], 3, Nat::default()),
            Home {
                behind: Some("carrier".to_owned()),
                ..Home::new("red", &["alice"], 1, Nat::default())
            },
        ],
        ..Topology::default()
    });
    let inside = "addr add 100.64.0.1/24 dev lan\naddr del 192.168.3.1/24 dev lan\n";
    house.world.ip("carrier", inside).unwrap();
    let outside = "addr add 100.64.0.10/24 dev wan\naddr del 192.168.3.10/24 dev wan\nroute replace default via 100.64.0.1\n";
    house.world.ip("red", outside).unwrap();
    let told = house.check();
    assert_told(
        &told,
        &[
            ("/layers", json!(2)),
            ("/double_nat", json!(true)),
            ("/udp/distance", json!(2)),
            ("/udp/mapping", json!("endpoint-independent")),
        ],
    );
    let summary = told["summary"].as_str().unwrap();
    assert!(summary.contains("Your provider shares"), "{told}");
}

/// On a host with a public address, in its own kernel.
fn a_firewall_without_a_translator_is_seen() {
    let house = House::new(home(Nat::default()));
    let firewall = "table ip guard {\nchain inp {\ntype filter hook input priority 0\nct state new iifname eth0 drop\n}\n}\n";
    house.world.nft("other", firewall).unwrap();
    let told = house.check_on("other", &[]);
    assert_told(
        &told,
        &[
            ("/udp/mapping", json!("none")),
            ("/udp/filtering", json!("address-and-port-dependent")),
            ("/udp/distance", json!(0)),
            ("/tcp/filtering", json!("address-and-port-dependent")),
            ("/tcp/unsolicited", json!("drop")),
            ("/tcp/simultaneous_open", json!(true)),
            ("/layers", json!(0)),
        ],
    );
}

fn an_ipv6_firewall_lets_in_what_was_asked_for() {
    let mut topology = home(Nat::default());
    topology.homes[0].ipv6 = Ipv6::Firewalled;
    let mut house = House::without_server(topology);
    let all = house.world.addresses("server").unwrap();
    let six: Vec<_> = all.iter().filter(|ip| ip.is_ipv6()).collect();
    let [first, second] = [six[0].to_string(), six[1].to_string()];
    let four = house.addresses("server")[1].clone();
    let arguments = [
        "--listen",
        &first,
        "--alternate-ip",
        &second,
        "--alternate-ip",
        &four,
    ];
    house.serve("server", &arguments);
    let told = house.check();
    assert_told(
        &told,
        &[
            ("/ipv6/mapping", json!("none")),
            ("/ipv6/filtering", json!("address-and-port-dependent")),
            ("/ipv6/distance", json!(1)),
            ("/udp/mapping", json!("endpoint-independent")),
            ("/udp/filtering", json!("address-and-port-dependent")),
        ],
    );
}

fn where_udp_is_blocked_tcp_still_tells_all() {
    let house = House::new(home(Nat::default()));
    let block = "table ip block {\nchain forward {\ntype filter hook forward priority -10\nmeta l4proto udp drop\n}\n}\n";
    house.world.nft("red", block).unwrap();
    let told = house.check();
    assert_told(
        &told,
        &[
            ("/reach", json!("tcp")),
            ("/udp/reachable", json!(false)),
            ("/udp/mapping", Value::Null),
            ("/path_mtu", Value::Null),
            ("/tcp/mapping", json!("endpoint-independent")),
            ("/tcp/filtering", json!("address-and-port-dependent")),
            ("/tcp/simultaneous_open", json!(true)),
        ],
    );
}

/// Servers at two places, each with one address.
fn plain_servers_tell_the_mapping_as_far_as_they_see_it() {
    for (nat, one, two) in [
        (Nat::default(), Value::Null, json!("endpoint-independent")),
        // Whether the ports of one address share a mapping nobody can say.
        (
            Nat::new(Mapping::AddressDependent, Filtering::AddressDependent),
            Value::Null,
            Value::Null,
        ),
    ] {
        let mut house = House::without_server(home(nat));
        house.serve("server", &[]);
        house.serve("other", &[]);
        let told = house.check();
        assert_told(&told, &[("/udp/mapping", one)]);
        let stun = format!("{}:3478", house.addresses("other")[0]);
        let told = house.check_on("alice", &["--stun", &stun]);
        assert_told(
            &told,
            &[
                ("/udp/mapping", two.clone()),
                ("/udp/distance", Value::Null),
                ("/tcp/mapping", two),
                ("/layers", json!(1)),
            ],
        );
    }
}

fn the_largest_packet_is_found_and_a_black_hole_is_recognised() {
    let house = House::new(home(Nat::default()));
    // PPPoE, between the home's router and the internet.
    for (node, port) in [("red", "wan"), ("internet", "port3")] {
        let smaller = format!("link set dev {port} mtu 1492\n");
        house.world.ip(node, &smaller).unwrap();
    }
    let told = house.check();
    assert_told(
        &told,
        &[
            ("/path_mtu", json!(1492)),
            ("/mtu_black_hole", json!(false)),
        ],
    );
    let silent = "table ip silent {\nchain outp {\ntype filter hook output priority 0\nicmp type destination-unreachable drop\n}\n}\n";
    house.world.nft("red", silent).unwrap();
    house
        .world
        .ip("red", "link set dev wan mtu 1400\n")
        .unwrap();
    house.world.ip("alice", "route flush cache\n").unwrap();
    let told = house.check();
    assert_told(
        &told,
        &[("/path_mtu", json!(1400)), ("/mtu_black_hole", json!(true))],
    );
    // A link of one's own that takes no more is no hole.
    let house = House::new(home(Nat::default()));
    house
        .world
        .ip("alice", "link set dev eth0 mtu 1280\n")
        .unwrap();
    let told = house.check();
    assert_told(
        &told,
        &[
            ("/path_mtu", json!(1280)),
            ("/mtu_black_hole", json!(false)),
        ],
    );
}

fn a_connection_that_both_ends_open_needs_a_way_out() {
    let house = House::new(home(Nat {
        unsolicited: Unsolicited::Drop,
        ..Nat::default()
    }));
    let block = "table ip block {\nchain forward {\ntype filter hook forward priority -10\noifname wan tcp dport 49152-65535 drop\n}\n}\n";
    house.world.nft("red", block).unwrap();
    let told = house.check();
    assert_told(&told, &[("/tcp/simultaneous_open", json!(false))]);
}
