//! The drawing of a report: host, routers, carrier and internet, and what passes where.

use std::fmt::Write as _;
use std::net::SocketAddr;

use postern::check::{Facts, Reach, Verdict};

use super::page::{Shorten, escape};

/// Where the boxes begin; the names of the lanes are left of them.
const LEFT: usize = 120;
/// From one box to the next, and how wide a box is.
const STEP: usize = 170;
const BOX: usize = 140;
/// The first lane below the boxes, and the distance to the next.
const LANES: usize = 130;
const LANE: usize = 28;

/// One box of the drawing.
struct Node {
    title: &'static str,
    below: String,
    class: &'static str,
}

/// What goes through the boxes, or does not.
struct Lane {
    name: &'static str,
    /// From the outside in.
    inward: bool,
    /// `None` if it is not known.
    passes: Option<bool>,
    said: &'static str,
}

/// The drawing as SVG, without anything that would have to be loaded.
pub(super) fn draw(facts: &Facts, verdict: &Verdict, shorten: &Shorten) -> String {
    let nodes = nodes(facts, verdict, shorten);
    let lanes = lanes(facts, verdict);
    let width = LEFT + STEP * nodes.len() + 90;
    let height = LANES + LANE * lanes.len();
    let label = "this machine, its routers and the internet, and what passes between them";
    let mut svg =
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">\n");
    for (at, node) in nodes.iter().enumerate() {
        boxed(&mut svg, at, node);
    }
    for (at, lane) in lanes.iter().enumerate() {
        line(&mut svg, LANES + LANE * at, lane, nodes.len());
    }
    svg.push_str("</svg>");
    svg
}

fn boxed(svg: &mut String, at: usize, node: &Node) {
    let x = LEFT + STEP * at;
    let middle = x + BOX / 2;
    if at > 0 {
        let _ = writeln!(
            svg,
            "<line x1=\"{}\" y1=\"45\" x2=\"{x}\" y2=\"45\" stroke=\"#8798a9\" stroke-width=\"2\"/>",
            x + BOX - STEP
        );
    }
    let _ = write!(
        svg,
        "<rect x=\"{x}\" y=\"15\" width=\"{BOX}\" height=\"60\" rx=\"8\" class=\"{}\" stroke-width=\"2\"/>\n\
         <text x=\"{middle}\" y=\"50\" text-anchor=\"middle\">{}</text>\n\
         <text x=\"{middle}\" y=\"95\" text-anchor=\"middle\" class=\"small\">{}</text>\n",
        node.class,
        escape(node.title),
        escape(&node.below)
    );
}

/// An arrow as far as it gets: through all boxes, or to the second one from where it begins.
fn line(svg: &mut String, y: usize, lane: &Lane, nodes: usize) {
    let (first, last) = (LEFT + BOX / 2, LEFT + STEP * (nodes - 1) + BOX / 2);
    let (class, end) = match lane.passes {
        Some(true) => ("out", last),
        Some(false) => ("stop", first + STEP - BOX / 2 - 4),
        None => ("open", last),
    };
    // Inward the way is the same, from the other end.
    let mirrored = |x: usize| if lane.inward { first + last - x } else { x };
    let (from, to) = (mirrored(first), mirrored(end));
    let tip = match lane.inward {
        true => to + 9,
        false => to - 9,
    };
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"{}\">{}</text>\n\
         <line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" class=\"{class}\"/>\n\
         <path d=\"M{tip} {} L{to} {y} L{tip} {}\" fill=\"none\" class=\"{class}\"/>\n\
         <text x=\"{}\" y=\"{}\" class=\"small\">{}</text>\n",
        y + 5,
        escape(lane.name),
        y - 5,
        y + 5,
        last + 12,
        y + 4,
        escape(lane.said),
    );
    if lane.passes == Some(false) {
        let _ = writeln!(
            svg,
            "<path d=\"M{0} {1} L{2} {3} M{0} {3} L{2} {1}\" fill=\"none\" class=\"stop\"/>",
            to - 6,
            y - 6,
            to + 6,
            y + 6
        );
    }
}

fn lanes(facts: &Facts, verdict: &Verdict) -> Vec<Lane> {
    let outward = |name, passes| Lane {
        name,
        inward: false,
        passes,
        said: match passes {
            Some(true) => "gets out",
            Some(false) => "blocked",
            None => "not known",
        },
    };
    let unasked = match verdict.reach {
        Reach::Open => Some(true),
        Reach::Nothing | Reach::Relay => Some(false),
        Reach::Tcp | Reach::Strict | Reach::Direct => Some(facts.opens_ports()),
    };
    let inward = Lane {
        name: "unasked, in",
        inward: true,
        passes: unasked,
        said: match (unasked, verdict.reach) {
            (Some(true), Reach::Open) => "comes in",
            (Some(true), _) => "by opened ports",
            (Some(false) | None, _) => "kept out",
        },
    };
    let mut lanes = vec![
        outward("UDP", facts.udp_gets_out(true)),
        Lane {
            said: match (facts.tcp_needs_proxy(), facts.tcp_gets_out()) {
                (true, _) => "by the proxy",
                (false, true) => "gets out",
                (false, false) => "blocked",
            },
            ..outward("TCP", Some(facts.tcp_gets_out()))
        },
        outward("IPv6", facts.udp_gets_out(false)),
    ];
    if let Some(relays) = facts.relays.as_ref().filter(|relays| !relays.is_empty()) {
        lanes.push(Lane {
            said: match relays.iter().any(|relay| relay.outcome.works()) {
                true => "works",
                false => "does not work",
            },
            ..outward("relay", facts.relay_works())
        });
    }
    lanes.push(inward);
    lanes
}

fn nodes(facts: &Facts, verdict: &Verdict, shorten: &Shorten) -> Vec<Node> {
    let own = facts
        .own_ipv4()
        .or_else(|| facts.addresses.first().copied());
    let below = |ip: Option<std::net::IpAddr>| ip.map_or_else(String::new, |ip| shorten.ip(ip));
    let mut nodes = vec![Node {
        title: "this machine",
        below: below(own),
        class: "plain",
    }];
    let gateway = facts.gateway.as_ref();
    if facts.udp.translated != Some(false) {
        nodes.push(Node {
            title: "your router",
            below: below(gateway.and_then(|gateway| gateway.router)),
            class: if facts.opens_ports() { "good" } else { "plain" },
        });
    }
    if facts.double_nat() == Some(true) {
        nodes.push(Node {
            title: match facts.is_behind_carrier() {
                true => "your provider",
                false => "another router",
            },
            below: below(gateway.and_then(|gateway| gateway.external)),
            class: "bad",
        });
    }
    let public = facts.udp.mapped.first().map(SocketAddr::ip);
    nodes.push(Node {
        title: "the internet",
        below: match public {
            Some(ip) => shorten.ip(ip),
            None => "UDP does not get out".to_owned(),
        },
        class: match verdict.reach {
            Reach::Open | Reach::Direct | Reach::Strict | Reach::Tcp => "good",
            Reach::Relay | Reach::Nothing => "bad",
        },
    });
    nodes
}
