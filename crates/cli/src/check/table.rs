//! What `postern check` prints for people.

use postern::check::{Facts, Odds, PathMtu, Verdict};

use super::report::{self, Transport};

/// The first column.
const WIDTH: usize = 22;

pub(super) fn print(facts: &Facts, verdict: &Verdict) -> String {
    let mut text = format!("{}\n", verdict.summary);
    for (name, value) in rows(facts) {
        text.push_str(&format!("\n  {name:WIDTH$}{value}"));
    }
    text.push('\n');
    section(&mut text, "What you can do", &verdict.advice);
    let odds: Vec<_> = verdict.odds.iter().map(odds).collect();
    section(&mut text, "A direct connection with", &odds);
    section(&mut text, "Not certain", &verdict.uncertain);
    text.truncate(text.trim_end().len());
    text
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}:\n"));
    for line in lines {
        text.push_str(&format!("  - {line}\n"));
    }
}

fn odds(odds: &Odds) -> String {
    let chance = match odds.probability {
        p if p >= 0.99 => "certain, or nearly".to_owned(),
        p if p < 0.01 => "none: it will be relayed".to_owned(),
        p => format!("about {:.0} in 100", p * 100.0),
    };
    format!("{}: {chance}", odds.peer.name())
}

/// Name and value of everything that is known.
pub(super) fn rows(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let server = match (&facts.server.trouble, facts.server.after) {
        (Some(trouble), _) => trouble.clone(),
        (None, Some(after)) => format!("answers after {} ms", after.as_millis()),
        (None, None) => "answers".to_owned(),
    };
    rows.push(("server", server));
    let udp = Transport::over_udp(facts);
    rows.push(("UDP", transport(&udp)));
    details(&mut rows, &udp);
    if let Some((at_least, at_most)) = report::lifetime(facts) {
        let lives = match at_most {
            Some(at_most) => format!("{at_least} to {at_most} s"),
            None => format!("more than {at_least} s"),
        };
        rows.push(("  idle mappings live", lives));
    }
    let tcp = Transport::tcp(facts);
    rows.push(("TCP", transport(&tcp)));
    details(&mut rows, &tcp);
    rows.push(("IPv6", transport(&Transport::udp(&facts.ipv6))));
    if let Some(gateway) = &facts.gateway {
        let names: Vec<_> = facts.protocols().iter().map(|p| p.as_str()).collect();
        let opens = match names.is_empty() {
            true => "nobody answers".to_owned(),
            false => names.join(", "),
        };
        rows.push(("opens ports", opens));
        if let Some(router) = gateway.router {
            rows.push(("router", router.to_string()));
        }
        if let Some(external) = gateway.external {
            rows.push(("its outside address", external.to_string()));
        }
    }
    if let Some(mtu) = facts.path_mtu {
        rows.push(("largest packet", largest(mtu)));
    }
    if let Some(layers) = facts.layers() {
        rows.push(("translators", layers.to_string()));
    }
    rows
}

fn largest(mtu: PathMtu) -> String {
    let more = match mtu.black_hole {
        true => "; larger ones disappear without a word",
        false => "",
    };
    format!("{} bytes{more}", mtu.bytes)
}

fn transport(transport: &Transport) -> String {
    if !transport.reachable {
        return "does not get out".to_owned();
    }
    let public: Vec<_> = transport.public.iter().map(ToString::to_string).collect();
    let mut text = match public.is_empty() {
        true => "gets out".to_owned(),
        false => format!("gets out, seen as {}", public.join(" and ")),
    };
    if let Some(round_trip) = transport.round_trip_ms {
        text.push_str(&format!(", {round_trip:.0} ms"));
    }
    match transport.loss {
        Some(loss) if loss >= 0.005 => text.push_str(&format!(", {:.0} % lost", loss * 100.0)),
        Some(_) | None => {}
    }
    text
}

fn details(rows: &mut Vec<(&'static str, String)>, transport: &Transport) {
    let mut add = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    add("  mapping", transport.mapping.map(str::to_owned));
    add("  filtering", transport.filtering.map(str::to_owned));
    let ports =
        transport
            .allocation
            .map(|allocation| match (transport.port_range, transport.step) {
                (Some([first, last]), _) => format!("{allocation}, {first} to {last}"),
                (None, Some(step)) => format!("{allocation}, step {step}"),
                (None, None) => allocation.to_owned(),
            });
    add("  ports", ports);
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let unsolicited = transport.unsolicited.map(|what| match what {
        "accept" => "let in from another port of the server",
        "drop" => "dropped",
        "reset" => "answered with a reset",
        _ => "refused by a router",
    });
    add("  unsolicited", unsolicited.map(str::to_owned));
    add(
        "  opened by both ends",
        transport.simultaneous_open.map(yes),
    );
    add("  hairpin", transport.hairpin.map(yes));
    add("  fragments", transport.fragments.map(yes));
}
