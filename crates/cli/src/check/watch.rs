//! What has changed between two looks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use postern::check::Facts;

use super::table;

/// Name, value before and value now of every line that is another one. What differs from look to
/// look anyway is left out: times, losses, and the ports of sockets.
pub(super) fn changes(before: &Facts, now: &Facts) -> Vec<String> {
    let (old, new) = (steady(before), steady(now));
    let nothing = "nothing known".to_owned();
    let mut lines = Vec::new();
    for name in old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)))
    {
        let (was, is) = (old.get(name), new.get(name));
        if was != is {
            let was = was.unwrap_or(&nothing);
            let is = is.unwrap_or(&nothing);
            lines.push(format!("{name}: {was} -> {is}"));
        }
    }
    lines
}

/// The lines in their order, details with the name of what they are about.
fn steady(facts: &Facts) -> BTreeMap<String, String> {
    let mut above = "";
    let mut lines = BTreeMap::new();
    for (name, value) in table::rows(facts) {
        let name = match name.strip_prefix("  ") {
            Some(detail) => format!("{above}, {detail}"),
            None => {
                above = name;
                name.to_owned()
            }
        };
        lines.insert(name, steady_value(&value));
    }
    lines
}

fn steady_value(value: &str) -> String {
    let parts = value.split(", ").map(|part| {
        let words = part
            .split(' ')
            .map(|word| match word.parse::<SocketAddr>() {
                Ok(address) => address.ip().to_string(),
                Err(_) => word.to_owned(),
            });
        let part = words.collect::<Vec<_>>().join(" ");
        part.split(" after ").next().unwrap_or_default().to_owned()
    });
    let kept = parts.filter(|part| !part.ends_with(" ms") && !part.ends_with(" % lost"));
    let mut steady: Vec<String> = kept.collect();
    // The range of random ports is an estimate.
    if let Some(at) = steady.iter().position(|part| part == "random") {
        steady.truncate(at.saturating_add(1));
    }
    steady.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_look_to_look_is_no_change() {
        for (value, expected) in [
            (
                "gets out, seen as 45.0.0.1:6000 and 45.0.0.1:7000, 14 ms, 3 % lost",
                "gets out, seen as 45.0.0.1 and 45.0.0.1",
            ),
            ("answers after 31 ms", "answers"),
            ("random, 1024 to 65535", "random"),
            ("sequential, step 2", "sequential, step 2"),
            (
                "carries data over UDP 3478 (IPv6), TLS 443, there and back after 7 ms",
                "carries data over UDP 3478 (IPv6), TLS 443, there and back",
            ),
        ] {
            assert_eq!(steady_value(value), expected);
        }
    }

    #[test]
    fn a_line_that_is_another_one_is_told_with_both_values() {
        let before = Facts::default();
        let mut now = Facts::default();
        assert_eq!(changes(&before, &now), Vec::<String>::new());
        now.udp.reachable = true;
        now.udp.hairpin = Some(true);
        let told = changes(&before, &now);
        assert_eq!(
            told,
            [
                "UDP: not known: no server with such an address is known -> gets out",
                "UDP, hairpin: nothing known -> yes"
            ]
        );
    }
}
