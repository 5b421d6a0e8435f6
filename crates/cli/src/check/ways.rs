//! The lines about which ports get out, and about relays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use postern::RelayTransport;
use postern::check::{Facts, Passage, Relaying, Way};

use super::report::{NO_ECHO, milliseconds};

/// Name and value of what gets out, what does not, and the relays.
pub(super) fn rows(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut add = |name, ways: Vec<String>| {
        if !ways.is_empty() {
            rows.push((name, ways.join(", ")));
        }
    };
    let with = |wanted: &dyn Fn(&Way) -> bool| named(facts, wanted);
    add(
        "gets out",
        with(&|way| matches!(way.passage, Passage::Open(_))),
    );
    add("  refused", with(&|way| way.passage == Passage::Refused));
    // Where nobody was said to listen, silence means nothing.
    add(
        "  no answer",
        with(&|way| way.passage == Passage::Silent && way.told),
    );
    add(
        "  stopped by a router",
        with(&|way| way.passage == Passage::Rejected),
    );
    add(
        "  accepts, says nothing",
        with(&|way| way.passage == Passage::Mute),
    );
    rows.extend(relays(facts));
    rows
}

/// A transport and a port, and the families in which there is a server there: one with several
/// addresses is one server to people.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(RelayTransport, u16);

#[derive(Debug, Default)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    fn add(&mut self, server: SocketAddr) {
        self.v4 |= server.is_ipv4();
        self.v6 |= server.is_ipv6();
    }
}

/// As people read it: `UDP 3478`, with the family where it is not IPv4 alone.
fn say(name: &Name, families: &Families) -> String {
    let Name(transport, port) = name;
    let family = match (families.v4, families.v6) {
        (true, true) => " (IPv4, IPv6)",
        (false, true) => " (IPv6)",
        (_, false) => "",
    };
    format!("{} {port}{family}", transport.as_str().to_uppercase())
}

fn named(facts: &Facts, wanted: &dyn Fn(&Way) -> bool) -> Vec<String> {
    let mut names: BTreeMap<Name, Families> = BTreeMap::new();
    for way in facts.ways.iter().filter(|way| wanted(way)) {
        let name = Name(way.transport, way.server.port());
        names.entry(name).or_default().add(way.server);
    }
    names
        .iter()
        .map(|(name, families)| say(name, families))
        .collect()
}

fn relays(facts: &Facts) -> Vec<(&'static str, String)> {
    let Some(relays) = &facts.relays else {
        return Vec::new();
    };
    if relays.is_empty() {
        return vec![("relay", "this server offers none".to_owned())];
    }
    let mut working: BTreeMap<Name, Families> = BTreeMap::new();
    let mut quickest: Option<Duration> = None;
    let mut failing: BTreeMap<&str, BTreeMap<Name, Families>> = BTreeMap::new();
    for relay in relays {
        let name = Name(relay.transport, relay.server.port());
        let why = match &relay.outcome {
            Relaying::Works { round_trip, .. } => {
                working.entry(name).or_default().add(relay.server);
                quickest = Some(quickest.map_or(*round_trip, |known| known.min(*round_trip)));
                continue;
            }
            Relaying::Loses => NO_ECHO,
            Relaying::Fails(why) => why,
        };
        let ways = failing.entry(why).or_default();
        ways.entry(name).or_default().add(relay.server);
    }
    let working = working.iter().map(|(name, families)| say(name, families));
    let working: Vec<String> = working.collect();
    let mut rows = Vec::new();
    let works = match quickest {
        None => "cannot be used".to_owned(),
        Some(quickest) => format!(
            "carries data over {}, there and back after {}",
            working.join(", "),
            quick(milliseconds(quickest))
        ),
    };
    rows.push(("relay", works));
    for (why, ways) in failing {
        let ways = ways.iter().map(|(name, families)| say(name, families));
        let ways: Vec<String> = ways.collect();
        rows.push(("  not over", format!("{}: {why}", ways.join(", "))));
    }
    rows
}

/// A time in milliseconds, for people.
pub(super) fn quick(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 1.0 => "less than 1 ms".to_owned(),
        long => format!("{long:.0} ms"),
    }
}
