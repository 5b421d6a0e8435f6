use std::net::IpAddr;

use super::config;
use crate::portmap::{Config, Protocols, is_on_link, is_public};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_that_only_some_can_reach_are_not_public() {
    for text in [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "169.254.1.1",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "2001:db8::1",
        "ff02::1",
    ] {
        assert!(!is_public(ip(text)), "{text}");
    }
    for text in [
        "1.1.1.1",
        "45.45.1.1",
        "100.63.0.1",
        "100.128.0.1",
        "172.32.0.1",
        "2a45::1",
    ] {
        assert!(is_public(ip(text)), "{text}");
    }
}

#[test]
fn who_shares_the_prefix_is_on_the_link() {
    let local = ip("192.168.1.10");
    for (prefix, address, on_link) in [
        (24, "192.168.1.1", true),
        (24, "192.168.2.1", false),
        (16, "192.168.2.1", true),
        (32, "192.168.1.1", false),
        (0, "8.8.8.8", true),
        (24, "192.168.1.10", false),
        (24, "fe80::1", false),
    ] {
        assert_eq!(
            is_on_link(local, prefix, ip(address)),
            on_link,
            "{address}/{prefix}"
        );
    }
    let local = ip("2a45:45:1::10");
    assert!(is_on_link(local, 64, ip("2a45:45:1::1")));
    assert!(is_on_link(local, 64, ip("fe80::1")));
    assert!(!is_on_link(local, 64, ip("2a45:45:2::1")));
}

#[test]
fn who_has_chosen_a_gateway_is_answered_by_no_other_one() {
    let (router, other, far) = (ip("192.168.1.1"), ip("192.168.1.2"), ip("8.8.8.8"));
    let config = config(Protocols::ALL);
    assert!(config.admits(router) && config.admits(other) && !config.admits(far));
    let chosen = Config {
        only_gateway: true,
        ..config
    };
    assert!(chosen.admits(router) && !chosen.admits(other) && !chosen.admits(far));
}
