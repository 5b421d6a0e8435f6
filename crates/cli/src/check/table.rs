//! What `postern check` prints for people.

use postern::check::{Facts, PathMtu, Reach, Verdict};

use super::report::{self, Transport};
use super::ways;

/// The first column.
const WIDTH: usize = 22;

pub(super) fn print(facts: &Facts, verdict: &Verdict) -> String {
    let mut text = format!("{}\n", verdict.summary);
    for (name, value) in rows(facts) {
        text.push_str(&format!("\n  {name:WIDTH$}{value}"));
    }
    text.push('\n');
    section(&mut text, "What you can do", &verdict.advice);
    section(&mut text, "A direct connection with", &odds(facts, verdict));
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

/// The kinds of peers, and how likely a direct connection with each is, in words. Nothing where
/// there is no connection at all.
pub(super) fn odds(facts: &Facts, verdict: &Verdict) -> Vec<String> {
    if verdict.reach == Reach::Nothing {
        return Vec::new();
    }
    let chance = |probability: f64| match probability {
        p if p >= 0.99 => "certain, or nearly".to_owned(),
        p if p >= 0.01 => format!("about {:.0} in 100", p * 100.0),
        _ if facts.relay_works() == Some(true) => "none: it will be relayed".to_owned(),
        _ => "none".to_owned(),
    };
    let odds = verdict.odds.iter();
    odds.map(|odds| format!("{}: {}", odds.peer.name(), chance(odds.probability)))
        .collect()
}

/// Name and value of everything that is known.
pub(super) fn rows(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut rows = vec![("server", server(facts))];
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
    let tcp_out = match facts.tcp_needs_proxy() {
        true => "only through the proxy".to_owned(),
        false => transport(&tcp),
    };
    rows.push(("TCP", tcp_out));
    details(&mut rows, &tcp);
    let ipv6 = Transport::over_ipv6(facts);
    rows.push(("IPv6", transport(&ipv6)));
    rows.extend(firewall(&ipv6).map(|firewall| ("  firewall", firewall)));
    rows.extend(ways::rows(facts));
    gateway(&mut rows, facts);
    surroundings(&mut rows, facts);
    rows
}

fn server(facts: &Facts) -> String {
    match (&facts.server.trouble, facts.server.after) {
        (Some(trouble), _) => trouble.clone(),
        (None, Some(after)) => format!("answers after {} ms", after.as_millis()),
        (None, None) => "answers".to_owned(),
    }
}

/// What the firewall of IPv6 lets in, where nothing is translated.
fn firewall(ipv6: &Transport) -> Option<String> {
    if ipv6.mapping != Some("none") {
        return None;
    }
    match (ipv6.filtering, ipv6.unsolicited) {
        (Some("endpoint-independent"), _) => Some("open: lets in everybody".to_owned()),
        (Some(filtering), _) => Some(format!("lets in answers only ({filtering})")),
        (None, Some("accept")) => {
            Some("open, as far as one address of the server can tell".to_owned())
        }
        (None, _) => None,
    }
}

/// What the router does when it is asked.
fn gateway(rows: &mut Vec<(&'static str, String)>, facts: &Facts) {
    let Some(gateway) = &facts.gateway else {
        return;
    };
    let names: Vec<_> = facts.protocols().iter().map(|p| p.as_str()).collect();
    let opens = match names.is_empty() {
        true => "nobody answers".to_owned(),
        false => protocols(&names),
    };
    rows.push(("opens ports", opens));
    if let Some(names) = report::pinholes(facts).filter(|names| !names.is_empty()) {
        rows.push(("opens IPv6", protocols(&names)));
    }
    if let Some(router) = gateway.router {
        let mut models = gateway.found.iter().map(|found| found.model.trim());
        let model = models.find(|model| !model.is_empty());
        let model = model.map_or_else(String::new, |model| format!(" ({model})"));
        rows.push(("router", format!("{router}{model}")));
    }
    if let Some(external) = gateway.external {
        rows.push(("its outside address", external.to_string()));
    }
}

/// The names of protocols as their makers write them.
fn protocols(names: &[&str]) -> String {
    let proper = names.iter().map(|name| match *name {
        "upnp" => "UPnP",
        "natpmp" => "NAT-PMP",
        _ => "PCP",
    });
    proper.collect::<Vec<_>>().join(", ")
}

/// Where the machine is.
fn surroundings(rows: &mut Vec<(&'static str, String)>, facts: &Facts) {
    rows.extend(facts.path_mtu.map(|mtu| ("largest packet", largest(mtu))));
    if let Some(layers) = facts.layers() {
        rows.push(("translators", layers.to_string()));
    }
    let network = &facts.network;
    let of_family = |is_ipv4: bool| {
        let routers = network.routers.iter();
        routers
            .filter(move |router| router.address.is_ipv4() == is_ipv4)
            .count()
    };
    if of_family(true).max(of_family(false)) > 1 {
        let routers = network.routers.iter();
        let routers: Vec<_> = routers
            .map(|router| format!("{} at {}", router.address, router.interface))
            .collect();
        rows.push(("ways out", routers.join(", ")));
    }
    let tunnels: Vec<_> = network
        .interfaces
        .iter()
        .filter(|interface| interface.tunnel)
        .map(|interface| interface.name.as_str())
        .collect();
    if !tunnels.is_empty() {
        let through = match network.tunnel() {
            Some(tunnel) => format!("; the server is reached through {tunnel}"),
            None => "; the server is not reached through it".to_owned(),
        };
        rows.push(("tunnels", format!("{}{through}", tunnels.join(", "))));
    }
    rows.extend(network.nat64.clone().map(|prefix| ("NAT64", prefix)));
    rows.extend(network.proxy.clone().map(|proxy| ("proxy", proxy)));
    if let Some(portal) = &facts.heard.portal {
        let url = portal
            .url
            .as_deref()
            .unwrap_or("at an address that was not told");
        rows.push(("log-in page", url.to_owned()));
    }
    if let Some(ahead) = facts.heard.wrong_clock() {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let seconds = ahead.unsigned_abs();
        rows.push(("clock", format!("{seconds} s {way} the server's")));
    }
}

fn largest(mtu: PathMtu) -> String {
    let more = match mtu.black_hole {
        true => "; larger ones disappear without a word",
        false => "",
    };
    format!("{} bytes{more}", mtu.bytes)
}

fn transport(transport: &Transport) -> String {
    match transport.reachable {
        None => return "not known: no server with such an address is known".to_owned(),
        Some(false) => return "does not get out".to_owned(),
        Some(true) => {}
    }
    let public: Vec<_> = transport.public.iter().map(ToString::to_string).collect();
    let mut text = match public.is_empty() {
        true => "gets out".to_owned(),
        false => format!("gets out, seen as {}", public.join(" and ")),
    };
    if let Some(round_trip) = transport.round_trip_ms {
        text.push_str(&format!(", {}", ways::quick(round_trip)));
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

#[cfg(test)]
mod tests {
    const DOCS: &str = include_str!("../../../../docs/check.md");

    /// What stands first in pairs and calls of these files, up to their tests: names of lines.
    fn labels() -> Vec<String> {
        let sources = [include_str!("table.rs"), include_str!("ways.rs")];
        let own = sources.map(|source| source.split("#[cfg(test)]").next().unwrap());
        let texts: Vec<&str> = own.iter().flat_map(|source| source.split('"')).collect();
        let literals = texts.windows(3).skip(1).step_by(1);
        let first = literals.filter(|three| {
            three[0].trim_end().ends_with('(') && three[2].trim_start().starts_with(',')
        });
        let names = first.map(|three| three[1].trim().to_owned());
        names.filter(|name| !name.contains(['{', '\n'])).collect()
    }

    #[test]
    fn every_line_is_explained_in_the_documentation() {
        let labels = labels();
        for known in ["server", "mapping", "no answer", "relay", "clock"] {
            assert!(labels.iter().any(|label| label == known), "{labels:?}");
        }
        for label in &labels {
            assert!(
                DOCS.contains(&format!("| {label} |")),
                "{label:?} is not explained"
            );
        }
        for title in ["What you can do", "A direct connection with", "Not certain"] {
            assert!(DOCS.contains(title), "{title:?} is not explained");
        }
    }
}
