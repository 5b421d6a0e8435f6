use std::time::Duration;

use super::nonce::Nonces;
use super::*;

fn nonces() -> Nonces {
    Nonces::new([9; 32], Duration::from_secs(600))
}

fn datagram(address: &str) -> Origin {
    Origin::Datagram(address.parse().unwrap())
}

#[test]
fn a_nonce_has_32_characters_and_is_recognised() {
    let here = datagram("203.0.113.5:1");
    let nonce = nonces().issue(1_000, here, 3);
    assert_eq!(nonce.len(), 32);
    assert!(nonces().is_valid(1_000, here, 3, &nonce));
    assert!(nonces().is_valid(1_600, here, 3, &nonce));
}

#[test]
fn a_nonce_is_void_elsewhere_later_earlier_and_with_other_features() {
    let here = datagram("203.0.113.5:1");
    let nonce = nonces().issue(1_000, here, 3);
    let stream = Origin::Stream("203.0.113.5".parse().unwrap());
    let void = [
        (1_000, datagram("203.0.113.5:2"), 3),
        (1_000, datagram("203.0.113.6:1"), 3),
        (1_000, datagram("[2001:db8::1]:1"), 3),
        (1_000, stream, 3),
        (1_601, here, 3),
        (999, here, 3),
        (1_000, here, 1),
    ];
    for (unix, origin, features) in void {
        assert!(!nonces().is_valid(unix, origin, features, &nonce));
    }
}

#[test]
fn every_changed_character_makes_a_nonce_void() {
    let here = datagram("203.0.113.5:1");
    let nonce = nonces().issue(1_000, here, 3);
    for index in 0..nonce.len() {
        let mut forged = nonce.clone().into_bytes();
        forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert!(!nonces().is_valid(1_000, here, 3, &forged), "{index}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let credentials = Credentials::new("realm")
        .unwrap()
        .with_user("alice", "opensesame")
        .unwrap()
        .with_secret(b"topsecret");
    let issued = credentials
        .issue(Duration::from_secs(1), Duration::from_secs(1), None)
        .unwrap();
    let key = Key::md5("alice", "realm", "opensesame");
    let shown = format!("{credentials:?} {issued:?} {key:?}");
    assert!(!shown.contains("opensesame") && !shown.contains("topsecret"));
    assert!(!shown.contains(&issued.password));
}

#[test]
fn a_realm_and_a_name_have_limits() {
    assert!(Credentials::new(&"a".repeat(128)).is_err());
    let credentials = Credentials::new("realm").unwrap();
    assert!(credentials.with_user(&"a".repeat(509), "x").is_err());
}

#[test]
fn an_introduction_counts_for_all_ports_of_an_ipv4_address_and_an_ipv6_network() {
    let credentials = Credentials::new("r").unwrap().with_secret(b"secret");
    let nonces = Credentials::introductions(b"secret", Duration::from_secs(600));
    let ip = |text: &str| text.parse().unwrap();
    let nonce = |text: &str| nonces.issue(1_000, Origin::introduced(ip(text)), 1);
    let good =
        |nonce: &str, text: &str| nonces.is_valid(1_000, Origin::introduced(ip(text)), 1, nonce);
    let (v4, v6) = (nonce("203.0.113.5"), nonce("2001:db8::1"));
    assert!(good(&v4, "203.0.113.5") && good(&v4, "::ffff:203.0.113.5"));
    assert!(!good(&v4, "203.0.113.6"));
    assert!(good(&v6, "2001:db8::ffff:2") && !good(&v6, "2001:db8:0:1::1"));
    let others = Credentials::introductions(b"other", Duration::from_secs(600));
    assert!(!others.is_valid(1_000, Origin::introduced(ip("203.0.113.5")), 1, &v4));
    let later = nonces.is_valid(1_601, Origin::introduced(ip("203.0.113.5")), 1, &v4);
    assert!(!later, "an introduction ages as every nonce does");
    assert!(
        credentials
            .challenge(Duration::ZERO, ip("203.0.113.5"))
            .is_some()
    );
    let without = Credentials::new("r").unwrap();
    assert_eq!(without.challenge(Duration::ZERO, ip("203.0.113.5")), None);
}
