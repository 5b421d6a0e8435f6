//! Why there is no direct path, in a sentence.

use postern_proto::ice;
use postern_wire::signal::Report;

/// What the agent saw, as it is told to the peer.
pub(crate) fn summary(report: &ice::Report) -> Report {
    let count = |checks: u64| u32::try_from(checks).unwrap_or(u32::MAX);
    Report {
        reflexive: report.stun_servers_answered > 0,
        checks_sent: count(report.checks_sent),
        checks_received: count(report.checks_received),
        mapped_differs: report.local_endpoint_dependent,
        udp_blocked: report.stun_servers > 0 && report.stun_servers_answered == 0,
    }
}

/// One sentence about both sides' networks, and one about what helps.
pub(crate) fn explain(ours: &Report, theirs: Option<&Report>) -> String {
    let other = theirs.map_or("did not say what it saw", network);
    let here = network(ours);
    format!(
        "no direct path was found: this side's network {here}, and the other side's {other}; and there is no relay to fall back to"
    )
}

/// What a network did, as the end of a sentence that begins with it.
fn network(report: &Report) -> &'static str {
    match report {
        Report {
            udp_blocked: true, ..
        } => "lets no UDP out",
        Report {
            mapped_differs: true,
            ..
        } => "uses another port for each destination (address-dependent mapping)",
        Report {
            checks_received: 0,
            reflexive: true,
            ..
        } => "let none of the other side's packets in",
        Report {
            reflexive: false, ..
        } => "showed no public address",
        Report { .. } => "let packets in but not back out",
    }
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
        let sentence = explain(&blocked, Some(&strict));
        assert!(
            sentence.contains("this side's network lets no UDP out"),
            "{sentence}"
        );
        assert!(sentence.contains("the other side's let none"), "{sentence}");
    }

    #[test]
    fn a_silent_peer_is_named_as_such() {
        assert!(explain(&Report::default(), None).contains("the other side's did not say"));
    }
}
