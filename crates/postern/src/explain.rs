//! Why there is no path, in a sentence.

use postern_proto::connect::{NoRelay, RelayTransport, Tried, Trouble};
use postern_wire::signal::Report;

/// One sentence about both sides' networks and what that means.
pub(crate) fn explain(ours: &Report, theirs: Option<&Report>, relay: &NoRelay) -> String {
    let here = network(ours);
    let there = theirs.map_or("did not say what it saw", network);
    let cause = cause(ours, theirs);
    let relay = match relay {
        NoRelay::NotWanted => "--direct-only forbids the relay".to_owned(),
        NoRelay::NotOffered => format!("{NO_RELAY} to fall back to {HAS_RELAY}"),
        NoRelay::Failed(tried) => unusable(tried, " either"),
    };
    format!(
        "no direct path was found: this side's network {here}, the other side's {there}; {cause}, and {relay}"
    )
}

/// One sentence for who looked for relayed paths only.
pub(crate) fn explain_relayed(relay: &NoRelay) -> String {
    let relay = match relay {
        NoRelay::NotWanted => "--direct-only forbids the relay".to_owned(),
        NoRelay::NotOffered => format!("{NO_RELAY} {HAS_RELAY}"),
        NoRelay::Failed(tried) => unusable(tried, ""),
    };
    format!("no relayed path was found, and this side uses no other: {relay}")
}

/// What a network did, as the end of a sentence that begins with it.
fn network(report: &Report) -> &'static str {
    if report.udp_blocked {
        "let no UDP out"
    } else if report.mapped_differs {
        "uses another port for each destination"
    } else if report.checks_received > 0 {
        "let packets of the other side in, but not back out"
    } else {
        "let UDP out, but nothing of the other side in"
    }
}

/// What the two together mean. Without a look from a second address nobody can tell
/// which of two networks is the strict one.
fn cause(ours: &Report, theirs: Option<&Report>) -> &'static str {
    let blocked = ours.udp_blocked || theirs.is_some_and(|theirs| theirs.udp_blocked);
    if blocked {
        "without UDP no direct path can be made, since this version has no TCP for it"
    } else {
        "most likely a router uses another port for each destination or a firewall drops UDP"
    }
}

/// Which servers have one.
const HAS_RELAY: &str = "(`postern server --relay` has one)";

const NO_RELAY: &str = "the server has no relay";

/// What came of each way to the relay.
fn unusable(tried: &Tried, either: &str) -> String {
    let ways: Vec<String> = tried.iter().map(outcome).collect();
    match ways.as_slice() {
        [] => "the server's relay offers no way to it that may be used".to_owned(),
        _ => format!(
            "the server's relay could not be used{either}: {}",
            ways.join(", ")
        ),
    }
}

fn outcome((transport, trouble): (RelayTransport, Trouble)) -> String {
    let transport = match transport {
        RelayTransport::Udp => "UDP",
        RelayTransport::Tcp => "TCP",
        RelayTransport::Tls => "TLS",
    };
    let came = match trouble {
        Trouble::Unreachable => "made no connection",
        Trouble::Silent => "got no answer",
        Trouble::Refused => "was refused",
        Trouble::Lost => "was cut off",
        Trouble::Allocated => "worked, but the other side was not heard through it",
    };
    format!("{transport} {came}")
}

#[cfg(test)]
mod tests {
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
}
