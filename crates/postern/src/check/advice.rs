//! What somebody can do about it.

use std::net::IpAddr;

use super::facts::{Facts, Trouble};
use super::stranger::Certificate;
use super::verdict::{Reach, off};

/// The port of HTTPS, which is let out where nothing else is.
const HTTPS_PORT: u16 = 443;

/// The most useful first.
pub(super) fn advice(facts: &Facts, reach: Reach) -> Vec<String> {
    let mut advice = Vec::new();
    if !facts.server.reachable {
        advice.extend(about_server(facts, reach));
    }
    match reach {
        Reach::Nothing => return advice,
        Reach::Relay | Reach::Tcp => {
            advice.push(format!(
                "Ask whoever runs this network to allow outgoing UDP, at least to {}.",
                facts.udp_target()
            ));
            advice.extend(about_relay(facts));
        }
        Reach::Strict => advice.push("If the router is yours, look for a setting such as \"endpoint-independent NAT\", \"static port\" or \"NAT type: open\": it makes the router use one outside port for all destinations.".to_owned()),
        Reach::Direct | Reach::Open => {}
    }
    if reach != Reach::Open && facts.udp.translated == Some(true) {
        advice.extend(about_ports(facts));
    }
    if reach != Reach::Open {
        advice.extend(about_ipv6(facts));
    }
    advice.extend(about_routers(facts));
    if facts.server.reachable
        && let Some(ahead) = facts.heard.wrong_clock()
    {
        advice.push(format!(
            "Set the clock of this machine, which is {} by the clock of the server: certificates do not count where it is wrong.",
            off(ahead)
        ));
    }
    advice
}

/// How the server could be used.
fn about_server(facts: &Facts, reach: Reach) -> Vec<String> {
    let heard = &facts.heard;
    let one = |text: &str| vec![text.to_owned()];
    if let Some(portal) = &heard.portal {
        return vec![match &portal.url {
            Some(url) => format!("Open {url} in a browser, log in, and check again."),
            None => "Open any web page in a browser, log in, and check again.".to_owned(),
        }];
    }
    match (heard.certificate, heard.wrong_clock()) {
        (Some(Certificate::NotYetValid | Certificate::Expired), Some(_)) => {
            return one("Set the clock of this machine, best by NTP, and check again.");
        }
        (Some(Certificate::Expired), None) => {
            return one("Whoever runs the server has to renew its certificate.");
        }
        _ => {}
    }
    let port = facts.server_port();
    match facts.server.kind {
        Some(Trouble::Name) => one(
            "Check how the name is written, and the DNS servers of this machine; a URL with the address of the server needs no DNS.",
        ),
        Some(Trouble::NoRoute) if !facts.network.routers.is_empty() => vec![format!(
            "Check the address of the server, {}: a router says that no way leads there.",
            facts.server.host
        )],
        Some(Trouble::NoRoute) => one(
            "Connect this machine to a network with a router, or ask for an address there again (DHCP).",
        ),
        Some(Trouble::Stranger) => one(
            "If this is a network with a log-in page, open a web page first and log in; if the server was set up anew, ask its owner for the URL; a company that opens all TLS has to let this server through.",
        ),
        Some(Trouble::Untrusted) => one(
            "If the server made its certificate itself, use the whole URL that it printed, with #sha256= and what follows. If not, somebody opens TLS on the way, a company or a program against viruses, say: it has to let this server through.",
        ),
        Some(Trouble::Proxy) => vec![format!(
            "Check the proxy's address and password, and have its owner allow CONNECT to {} port {port}.",
            facts.server.host
        )],
        Some(Trouble::Refused) => vec![format!(
            "Check that the server runs, and that {port} is its port.",
        )],
        Some(Trouble::Mute) => vec![format!(
            "Check that {port} is the port of the server's URL: something else may listen there, or a firewall that stops TLS takes connections in its name."
        )],
        Some(Trouble::Silent) | None => {
            let mut advice = vec![match reach {
                Reach::Nothing => format!(
                    "Check that this machine is online, and that the server runs and TCP port {port} to it is allowed."
                ),
                Reach::Relay | Reach::Tcp | Reach::Strict | Reach::Direct | Reach::Open => {
                    format!(
                        "Check that the server runs, and that TCP port {port} to it is allowed."
                    )
                }
            }];
            if port != HTTPS_PORT {
                advice.push("Run the server at TCP port 443 (`postern server --port 443`): networks that let nothing else out let that out. If there is an HTTP proxy here, name it with --proxy.".to_owned());
            }
            advice
        }
    }
}

/// What else the server could do where a relay is all there is.
fn about_relay(facts: &Facts) -> Option<String> {
    let relays = facts.relays.as_ref()?;
    if relays.is_empty() {
        return Some(
            "Have the server relay (`postern server --relay`): without one there is no connection from here."
                .to_owned(),
        );
    }
    (facts.relay_works() == Some(false)).then(|| {
        format!(
            "Have the server relay at the port that gets out: its TCP port {} takes TURN over TLS, too.",
            facts.server_port()
        )
    })
}

/// How ports could be opened.
fn about_ports(facts: &Facts) -> Option<String> {
    if facts.is_behind_carrier() {
        return Some(
            "Ask your provider for a public IPv4 address of your own, or for IPv6.".to_owned(),
        );
    }
    let gateway = facts.gateway.as_ref()?;
    if facts.double_nat() == Some(true) {
        let inner = gateway.external.map_or_else(
            || "the inner one".to_owned(),
            |external| external.to_string(),
        );
        return Some(format!(
            "Set the inner router to work as a bridge or access point, or let the outer one send everything to {inner} (\"exposed host\" or \"DMZ\")."
        ));
    }
    let router = match gateway.router {
        Some(router) => format!(" ({router})"),
        None => String::new(),
    };
    let own = facts.own_ipv4();
    let here = own.map_or_else(|| "this machine".to_owned(), |own| own.to_string());
    gateway.found.is_empty().then(|| {
        format!("Switch on UPnP, NAT-PMP or PCP in the settings of your router{router}, or forward the port of your program to {here} there by hand.")
    })
}

/// What could be done about IPv6.
fn about_ipv6(facts: &Facts) -> Option<String> {
    let mut addresses = facts.addresses.iter();
    let own = addresses.find(|ip| is_global_v6(ip));
    match (own, facts.udp_gets_out(false)) {
        (None, _) if facts.udp.translated != Some(false) => Some("Switch on IPv6 in the router if your provider has it: then this machine has a public address of its own.".to_owned()),
        (Some(own), Some(false)) if facts.udp.reachable => Some(format!(
            "This machine has the IPv6 address {own}, but nothing comes back over IPv6: have the router's IPv6 looked at, or switch it off."
        )),
        (Some(own), Some(true)) if facts.ipv6.translated == Some(false) => {
            let opens = facts.pinholes.as_ref().is_some_and(|found| !found.is_empty());
            let open = facts.filtering_v6() == postern_proto::punch::Filtering::EndpointIndependent;
            (!opens && !open).then(|| format!(
                "To be reached over IPv6 by everybody, let the port of your program in to {own} in the router's IPv6 firewall."
            ))
        }
        (None | Some(_), _) => None,
    }
}

fn is_global_v6(ip: &IpAddr) -> bool {
    ip.is_ipv6() && postern_proto::portmap::is_public(*ip)
}

fn about_routers(facts: &Facts) -> Option<String> {
    let routers = facts.network.ipv4_routers();
    let used = facts.gateway.as_ref().and_then(|gateway| gateway.router);
    (routers.len() > 1).then(|| {
        let used = used.map_or_else(String::new, |used| format!(" (now {used})"));
        format!(
            "This machine knows {} routers that lead out, and only one is used{used}: ports that another one opens lead nowhere.",
            routers.len()
        )
    })
}
