//! A page with a drawing, to be shown to others. It needs nothing from anywhere.

use std::net::{IpAddr, SocketAddr};

use postern::check::{Facts, Odds, Reach, Verdict};

use super::table;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}\
h1{font-size:1.4rem;line-height:1.3}h2{font-size:1.05rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%}td{padding:.25rem .75rem .25rem 0;vertical-align:top;border-bottom:1px solid #e3e8ee}\
td:first-child{color:#5a6b7c;white-space:pre}svg{width:100%;height:auto}\
.good{fill:#d9f2e3;stroke:#2b8a57}.bad{fill:#fbdcdc;stroke:#b83232}.plain{fill:#eef2f6;stroke:#8798a9}\
text{font:14px system-ui,sans-serif;fill:#1c2733}.small{font-size:12px;fill:#5a6b7c}";

/// The page; addresses are shortened unless it is to be `full`.
pub(super) fn draw(facts: &Facts, verdict: &Verdict, full: bool) -> String {
    let shorten = Shorten::new(facts, full);
    let mut rows = String::new();
    for (name, value) in table::rows(facts) {
        let value = escape(&shorten.in_text(&value));
        rows.push_str(&format!(
            "<tr><td>{}</td><td>{value}</td></tr>\n",
            escape(name)
        ));
    }
    let summary = escape(&shorten.in_text(&verdict.summary));
    let advice = list("What you can do", &verdict.advice, &shorten);
    let odds: Vec<String> = verdict.odds.iter().map(odds).collect();
    let odds = list("A direct connection with", &odds, &shorten);
    let uncertain = list("Not certain", &verdict.uncertain, &shorten);
    let drawing = drawing(facts, verdict, &shorten);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>postern check</title><style>{STYLE}</style></head><body>\n\
         <h1>{summary}</h1>\n{drawing}\n{advice}{odds}<h2>What was seen</h2>\n<table>\n{rows}</table>\n{uncertain}\
         <p class=\"small\">Made by postern {}.</p>\n</body></html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn odds(odds: &Odds) -> String {
    format!("{}: {:.0} %", odds.peer.name(), odds.probability * 100.0)
}

fn list(title: &str, lines: &[String], shorten: &Shorten) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines
        .iter()
        .map(|line| format!("<li>{}</li>\n", escape(&shorten.in_text(line))))
        .collect();
    format!("<h2>{title}</h2>\n<ul>\n{items}</ul>\n")
}

/// One box of the drawing.
struct Node {
    title: String,
    below: String,
    class: &'static str,
}

/// Host, routers and internet, from left to right.
fn drawing(facts: &Facts, verdict: &Verdict, shorten: &Shorten) -> String {
    let nodes = nodes(facts, verdict, shorten);
    let width = 170 * nodes.len();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} 120\" role=\"img\" aria-label=\"this machine, its routers and the internet\">\n"
    );
    for (n, node) in nodes.iter().enumerate() {
        let x = 170 * n;
        if n > 0 {
            svg.push_str(&format!(
                "<line x1=\"{}\" y1=\"45\" x2=\"{}\" y2=\"45\" stroke=\"#8798a9\" stroke-width=\"2\"/>\n",
                x - 30,
                x + 10
            ));
        }
        svg.push_str(&format!(
            "<rect x=\"{}\" y=\"15\" width=\"130\" height=\"60\" rx=\"8\" class=\"{}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"50\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"{}\" y=\"98\" text-anchor=\"middle\" class=\"small\">{}</text>\n",
            x + 10,
            node.class,
            x + 75,
            escape(&node.title),
            x + 75,
            escape(&node.below)
        ));
    }
    svg.push_str("</svg>");
    svg
}

fn nodes(facts: &Facts, verdict: &Verdict, shorten: &Shorten) -> Vec<Node> {
    let own = facts.addresses.iter().find(|ip| ip.is_ipv4());
    let own = own.or_else(|| facts.addresses.first());
    let node = |title: &str, below: String, class| Node {
        title: title.to_owned(),
        below,
        class,
    };
    let mut nodes = vec![node(
        "this machine",
        own.map_or_else(String::new, |ip| shorten.ip(*ip)),
        "plain",
    )];
    let gateway = facts.gateway.as_ref();
    if facts.udp.translated != Some(false) {
        let router = gateway.and_then(|gateway| gateway.router);
        let opens = gateway.is_some_and(|gateway| !gateway.found.is_empty());
        let class = if opens { "good" } else { "plain" };
        nodes.push(node(
            "your router",
            router.map_or_else(String::new, |ip| shorten.ip(ip)),
            class,
        ));
    }
    if facts.double_nat() == Some(true) {
        let external = gateway.and_then(|gateway| gateway.external);
        nodes.push(node(
            "another translator",
            external.map_or_else(String::new, |ip| shorten.ip(ip)),
            "bad",
        ));
    }
    let public = facts.udp.mapped.first().map(SocketAddr::ip);
    let class = match verdict.reach {
        Reach::Open | Reach::Direct | Reach::Strict => "good",
        Reach::Relay | Reach::Nothing => "bad",
    };
    nodes.push(node(
        "the internet",
        public.map_or_else(|| "UDP does not get out".to_owned(), |ip| shorten.ip(ip)),
        class,
    ));
    nodes
}

/// Makes own addresses unfit for finding anybody.
struct Shorten {
    own: Vec<IpAddr>,
    full: bool,
}

impl Shorten {
    fn new(facts: &Facts, full: bool) -> Self {
        let mut own = facts.addresses.clone();
        let mapped = [&facts.udp.mapped, &facts.ipv6.mapped, &facts.tcp.mapped];
        own.extend(mapped.into_iter().flatten().map(SocketAddr::ip));
        if let Some(gateway) = &facts.gateway {
            own.extend(gateway.router);
            own.extend(gateway.external);
        }
        // The longer ones first: one address may be the beginning of another.
        own.sort_by_key(|ip| std::cmp::Reverse(ip.to_string().len()));
        own.dedup();
        Self { own, full }
    }

    fn ip(&self, ip: IpAddr) -> String {
        if self.full {
            return ip.to_string();
        }
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                format!("{a}.{b}.x.x")
            }
            IpAddr::V6(ip) => {
                let [a, ..] = ip.segments();
                format!("{a:x}:x")
            }
        }
    }

    fn in_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for ip in &self.own {
            text = text.replace(&ip.to_string(), &self.ip(*ip));
        }
        text
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_is_no_markup() {
        let text = "<script>alert('x')</script>\u{1b}";
        assert_eq!(
            escape(text),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; "
        );
    }

    #[test]
    fn own_addresses_are_shortened_wherever_they_stand() {
        let own = ["192.168.1.10", "192.168.1.1", "2a00:1::2"];
        let shorten = |full| Shorten {
            own: own.map(|ip| ip.parse().unwrap()).to_vec(),
            full,
        };
        let text = "seen at 192.168.1.10:5000, router 192.168.1.1, [2a00:1::2]:1, server 45.0.0.1";
        let short = "seen at 192.168.x.x:5000, router 192.168.x.x, [2a00:x]:1, server 45.0.0.1";
        assert_eq!(shorten(false).in_text(text), short);
        assert_eq!(shorten(true).in_text(text), text);
    }
}
