//! A page with a drawing, to be shown to others. It needs nothing from anywhere.

use std::net::{IpAddr, SocketAddr};

use postern::check::{Facts, Verdict};
use postern::portmap::is_public;

use super::drawing::draw as drawing;
use super::table;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}\
h1{font-size:1.4rem;line-height:1.3}h2{font-size:1.05rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%}td{padding:.25rem .75rem .25rem 0;vertical-align:top;border-bottom:1px solid #e3e8ee}\
td:first-child{color:#5a6b7c;white-space:pre}svg{width:100%;height:auto}\
.out{stroke:#2b8a57;stroke-width:2}.stop{stroke:#b83232;stroke-width:2}.open{stroke:#8798a9;stroke-width:2;stroke-dasharray:4 4}\
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
    let odds = table::odds(facts, verdict);
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

/// Makes addresses unfit for finding anybody: those of this machine, its routers and its network.
pub(super) struct Shorten {
    own: Vec<IpAddr>,
    /// The log-in page's whole URL may name this machine.
    portal: Option<String>,
    full: bool,
}

impl Shorten {
    fn new(facts: &Facts, full: bool) -> Self {
        let mut own = facts.addresses.clone();
        let mapped = [&facts.udp.mapped, &facts.ipv6.mapped, &facts.tcp.mapped];
        own.extend(mapped.into_iter().flatten().map(SocketAddr::ip));
        own.extend(facts.network.routers.iter().map(|router| router.address));
        if let Some(gateway) = &facts.gateway {
            own.extend(gateway.router);
            own.extend(gateway.external);
        }
        let portal = facts.heard.portal.as_ref();
        Self {
            own,
            portal: portal.and_then(|portal| portal.url.clone()),
            full,
        }
    }

    pub(super) fn ip(&self, ip: IpAddr) -> String {
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

    /// With every address that is this machine's, or of a private network.
    pub(super) fn in_text(&self, text: &str) -> String {
        if self.full {
            return text.to_owned();
        }
        let mut text = text.to_owned();
        if let Some(url) = &self.portal {
            let end = url.find(['?', '#', ';']).unwrap_or(url.len());
            text = text.replace(url, url.get(..end).unwrap_or_default());
        }
        let mut short = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let is_part = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            short.push_str(&self.word(word));
            let next = after.find(is_part).unwrap_or(after.len());
            let (between, after) = after.split_at(next);
            short.push_str(between);
            rest = after;
        }
        short
    }

    /// A run of characters that addresses are made of, with the port or the full stop behind.
    fn word(&self, word: &str) -> String {
        let bare = word.trim_end_matches(['.', ':']);
        let (ip, port) = match (bare.parse(), bare.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, String::new()),
            (Err(_), Ok(address)) => (address.ip(), format!(":{}", address.port())),
            (Err(_), Err(_)) => return word.to_owned(),
        };
        let end = word.get(bare.len()..).unwrap_or_default();
        match self.own.contains(&ip) || !is_public(ip) {
            true => format!("{}{port}{end}", self.ip(ip)),
            false => word.to_owned(),
        }
    }
}

pub(super) fn escape(text: &str) -> String {
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
            portal: Some("http://login/?mac=02:00".to_owned()),
            full,
        };
        let text = "seen at 192.168.1.10:5000, router 192.168.1.1. [2a00:1::2]:1, server 45.0.0.1:3478, \
                    proxy 10.1.2.3:80, after 12.5 ms: face it, open http://login/?mac=02:00 now";
        let short = "seen at 192.168.x.x:5000, router 192.168.x.x. [2a00:x]:1, server 45.0.0.1:3478, \
                     proxy 10.1.x.x:80, after 12.5 ms: face it, open http://login/ now";
        assert_eq!(shorten(false).in_text(text), short);
        assert_eq!(shorten(true).in_text(text), text);
    }
}
