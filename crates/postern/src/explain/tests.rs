//! The sentences.

use super::*;

#[test]
fn the_sentence_says_what_each_side_did() {
    let blocked = Report {
        udp_blocked: true,
        ..Report::default()
    };
    let strict = Report {
        reflexive: true,
        checks_sent: 14,
        ..Report::default()
    };
    let sentence = explain(&blocked, Some(&strict), &NoRelay::NotOffered);
    for part in [
        "this side's network let no UDP out",
        "the other side's let UDP out, but nothing",
        "no relay to fall back to",
    ] {
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn a_silent_peer_and_a_relay_of_no_use_are_named_as_such() {
    let sentence = explain(&Report::default(), None, &NoRelay::Failed(Tried::default()));
    assert!(sentence.contains("the other side's did not say"));
    assert!(sentence.contains("offers no way to it"));
    assert!(explain(&Report::default(), None, &NoRelay::NotWanted).contains("--direct-only"));
}

#[test]
fn who_uses_relayed_paths_only_is_told_of_the_relay_only() {
    let tried = [(RelayTransport::Tcp, Trouble::Refused)]
        .into_iter()
        .collect();
    let sentence = explain_relayed(&NoRelay::Failed(tried));
    let expected = "no relayed path was found, and this side uses no other: \
        the server's relay could not be used: TCP was refused";
    assert_eq!(sentence, expected);
    assert!(explain_relayed(&NoRelay::NotOffered).contains("has no relay (`postern server"));
}

#[test]
fn each_way_to_the_relay_that_was_tried_is_named() {
    let tried = [
        (RelayTransport::Udp, Trouble::Silent),
        (RelayTransport::Tls, Trouble::Unreachable),
    ];
    let relay = NoRelay::Failed(tried.into_iter().collect());
    let sentence = explain(&Report::default(), None, &relay);
    let expected = "could not be used either: UDP got no answer, TLS made no connection";
    assert!(sentence.ends_with(expected), "{sentence}");
}
