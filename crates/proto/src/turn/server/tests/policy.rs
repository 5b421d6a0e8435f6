//! What is said of an address. `deny.rs` asks for all of these as peers.

use std::net::IpAddr;

use super::super::policy::PeerVerdict;
use super::super::*;

/// One address of every denied prefix, its first and its last, and every disguise.
pub(super) const DENIED: &[&str] = &[
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "192.88.99.0",
    "192.88.99.255",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.0",
    "198.51.100.255",
    "203.0.113.0",
    "203.0.113.255",
    "224.0.0.0",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::ffff:ffff",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:0.0.0.0",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:192.168.1.1",
    "::ffff:224.0.0.1",
    "::ffff:255.255.255.255",
    "64:ff9b::",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "100::",
    "100::ffff:ffff:ffff:ffff",
    "2001::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:1f:ffff::1",
    "2001:20::1",
    "2001:2f:ffff::1",
    "2001:db8::9",
    "2001:db8:ffff::1",
    "2002::",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "5f00::1",
    "fc00::",
    "fdff:ffff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "feff::1",
    "ff00::",
    "ff02::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

/// The neighbours of the denied prefixes.
pub(super) const ALLOWED: &[&str] = &[
    "1.0.0.0",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b:2::1",
    "100:0:0:1::1",
    "2001:1::1",
    "2001:3::1",
    "2001:30::1",
    "2001:db7::1",
    "2001:db9::1",
    "2003::1",
    "2600::1",
    "2a00:1450:4001:831::200e",
    "3ffe::1",
    "4000::1",
    "5eff::1",
    "5f01::1",
];

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn every_row_of_the_deny_list_is_denied_and_its_neighbours_are_not() {
    let policy = PeerPolicy::new();
    for row in DENIED {
        assert_eq!(policy.verdict(ip(row)), PeerVerdict::Denied, "{row}");
    }
    for row in ALLOWED {
        assert_eq!(policy.verdict(ip(row)), PeerVerdict::Allowed, "{row}");
    }
}

#[test]
fn the_most_specific_rule_wins() {
    let policy = PeerPolicy::new()
        .allow(cidr("10.0.0.0/8"))
        .deny(cidr("10.1.0.0/16"))
        .allow(cidr("10.1.2.3"))
        .deny(cidr("8.8.8.0/24"));
    let verdicts = [
        ("10.0.0.1", PeerVerdict::Allowed),
        ("10.1.0.1", PeerVerdict::Denied),
        ("10.1.2.3", PeerVerdict::Allowed),
        ("::ffff:10.1.2.3", PeerVerdict::Allowed),
        ("8.8.8.8", PeerVerdict::Denied),
        ("::ffff:8.8.8.8", PeerVerdict::Denied),
        ("8.8.9.8", PeerVerdict::Allowed),
        ("192.168.0.1", PeerVerdict::Denied),
    ];
    for (row, verdict) in verdicts {
        assert_eq!(policy.verdict(ip(row)), verdict, "{row}");
    }
}

#[test]
fn of_two_equal_rules_the_one_that_denies_wins() {
    let (a, b) = (cidr("10.0.0.0/8"), cidr("10.0.0.0/8"));
    for policy in [
        PeerPolicy::new().allow(a).deny(b),
        PeerPolicy::new().deny(b).allow(a),
    ] {
        assert_eq!(policy.verdict(ip("10.0.0.1")), PeerVerdict::Denied);
    }
}

#[test]
fn allowing_a_disguise_does_not_allow_what_is_inside() {
    let policy = PeerPolicy::new()
        .allow(cidr("64:ff9b::/96"))
        .allow(cidr("2002::/16"))
        .own(ip("8.8.4.4"));
    let verdicts = [
        ("64:ff9b::808:808", PeerVerdict::Allowed),
        ("64:ff9b::7f00:1", PeerVerdict::Denied),
        ("64:ff9b::808:404", PeerVerdict::Denied),
        ("2002:808:808::1", PeerVerdict::Allowed),
        ("2002:7f00:1::1", PeerVerdict::Denied),
    ];
    for (row, verdict) in verdicts {
        assert_eq!(policy.verdict(ip(row)), verdict, "{row}");
    }
}

#[test]
fn the_servers_own_addresses_are_denied_unless_they_are_allowed() {
    let policy = PeerPolicy::new().own(ip("8.8.4.4"));
    assert_eq!(policy.verdict(ip("8.8.4.4")), PeerVerdict::Own);
    assert_eq!(policy.verdict(ip("::ffff:8.8.4.4")), PeerVerdict::Own);
    let policy = policy.allow(cidr("8.8.0.0/16"));
    assert_eq!(policy.verdict(ip("8.8.4.4")), PeerVerdict::Allowed);
}

#[test]
fn what_is_no_prefix_is_refused() {
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/-1",
        "10.0.0/8",
        "a/8",
        "1.2.3.4/",
    ] {
        assert_eq!(text.parse::<Cidr>(), Err(CidrError), "{text}");
    }
    assert!(cidr("::/0").contains(ip("ffff::")));
    assert!(cidr("0.0.0.0/0").contains(ip("255.0.0.1")));
    assert!(!cidr("0.0.0.0/0").contains(ip("::")));
}
