//! The configuration file of `postern gateway`.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern::gateway::{Action, Firewall, GatewayConfig, Quotas, Rule};
use serde::Deserialize;

use crate::failure::Failure;

/// What the file may hold; the names are those of the options.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    wan: Vec<String>,
    lan: Vec<String>,
    state: Option<PathBuf>,
    external_ip: Option<Ipv4Addr>,
    http_port: Option<u16>,
    upnp: bool,
    nat_pmp: bool,
    pcp: bool,
    third_party: bool,
    upstream: bool,
    name: Option<String>,
    integrate: Vec<String>,
    metrics: Option<SocketAddr>,
    /// Seconds.
    max_lease: Option<u32>,
    quota_host: Option<u32>,
    quota_total: Option<u32>,
    rate: Option<u32>,
    burst: Option<u32>,
    #[serde(rename = "rule")]
    rules: Vec<FileRule>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            wan: Vec::new(),
            lan: Vec::new(),
            state: None,
            external_ip: None,
            http_port: None,
            upnp: true,
            nat_pmp: true,
            pcp: true,
            third_party: false,
            upstream: false,
            name: None,
            integrate: Vec::new(),
            metrics: None,
            max_lease: None,
            quota_host: None,
            quota_total: None,
            rate: None,
            burst: None,
            rules: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileRule {
    action: FileAction,
    host: Option<String>,
    mac: Option<String>,
    protocol: Option<String>,
    external_ports: Option<String>,
    internal_ports: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileAction {
    Allow,
    Deny,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<GatewayConfig, Failure> {
    let fault = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("the configuration {}: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(&error))?;
    parse(&text).map_err(|error| fault(&error))
}

fn parse(text: &str) -> Result<GatewayConfig, String> {
    let file: File = toml::from_str(text).map_err(|error| in_a_line(text, &error))?;
    let default = GatewayConfig::default();
    let rules: Result<_, _> = file.rules.iter().map(FileRule::read).collect();
    let firewall = |name: &String| {
        Firewall::named(name).ok_or_else(|| format!("integrate: there is no firewall {name:?}"))
    };
    let integrate: Result<_, _> = file.integrate.iter().map(firewall).collect();
    Ok(GatewayConfig {
        wan: file.wan,
        lan: file.lan,
        external_ip: file.external_ip,
        http_port: file.http_port.unwrap_or(default.http_port),
        rules: rules?,
        quotas: Quotas {
            host: file.quota_host.unwrap_or(default.quotas.host),
            total: file.quota_total.unwrap_or(default.quotas.total),
            changes_per_second: file.rate.unwrap_or(default.quotas.changes_per_second),
            burst: file.burst.unwrap_or(default.quotas.burst),
        },
        max_lease: match file.max_lease {
            Some(seconds) => Duration::from_secs(seconds.into()).min(default.max_lease),
            None => default.max_lease,
        },
        third_party: file.third_party,
        upstream: file.upstream,
        upnp: file.upnp,
        nat_pmp: file.nat_pmp,
        pcp: file.pcp,
        name: file.name.unwrap_or(default.name),
        mark: default.mark,
        integrate: integrate?,
        metrics: file.metrics,
        state: file.state,
    })
}

/// What is wrong, and where, without the picture of the place.
fn in_a_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    format!("line {line}: {message}")
}

/// Reads a rule of an option: `deny,host=192.168.1.128/25,external-ports=80-90`.
pub(super) fn rule(text: &str) -> Result<Rule, String> {
    let mut words = text.split(',').map(str::trim);
    let action = match words.next() {
        Some("allow") => FileAction::Allow,
        Some("deny") => FileAction::Deny,
        _ => return Err("a rule begins with \"allow\" or \"deny\"".to_owned()),
    };
    let mut rule = FileRule {
        action,
        host: None,
        mac: None,
        protocol: None,
        external_ports: None,
        internal_ports: None,
    };
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let place = match name {
            "host" => &mut rule.host,
            "mac" => &mut rule.mac,
            "protocol" => &mut rule.protocol,
            "external-ports" => &mut rule.external_ports,
            "internal-ports" => &mut rule.internal_ports,
            _ => return Err(format!("a rule knows no {name:?}")),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    rule.read()
}

impl FileRule {
    fn read(&self) -> Result<Rule, String> {
        let hosts = self.host.as_ref().map(|host| {
            host.parse()
                .map_err(|error| format!("host {host:?} is {error}"))
        });
        let mac = self.mac.as_ref().map(|mac| {
            mac_address(mac).ok_or_else(|| format!("mac {mac:?} is not like 02:00:00:00:00:01"))
        });
        let transport = self.protocol.as_ref().map(|name| {
            name.parse()
                .map_err(|error| format!("protocol {name:?} is {error}"))
        });
        Ok(Rule {
            action: match self.action {
                FileAction::Allow => Action::Allow,
                FileAction::Deny => Action::Deny,
            },
            hosts: hosts.transpose()?,
            mac: mac.transpose()?,
            transport: transport.transpose()?,
            external_ports: ports(self.external_ports.as_deref())?,
            internal_ports: ports(self.internal_ports.as_deref())?,
        })
    }
}

fn mac_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// One port, or `FIRST-LAST`; all of them without a word.
fn ports(text: Option<&str>) -> Result<RangeInclusive<u16>, String> {
    let Some(text) = text else {
        return Ok(0..=u16::MAX);
    };
    let fault = || format!("ports {text:?} are neither a port nor FIRST-LAST");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.trim().parse().map_err(|_| fault())?;
    let last: u16 = last.trim().parse().map_err(|_| fault())?;
    if first > last {
        return Err(fault());
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_options_say_and_rules() {
        let config = parse(
            "wan = [\"ppp0\"]\nlan = [\"eth0\", \"eth1\"]\nquota-host = 10\n\
             [[rule]]\naction = \"deny\"\nhost = \"192.168.1.128/25\"\n\
             [[rule]]\naction = \"allow\"\nmac = \"02:00:00:00:00:01\"\nprotocol = \"udp\"\n\
             external-ports = \"80-90\"\ninternal-ports = \"80\"\n",
        )
        .unwrap();
        assert_eq!(config.lan, ["eth0", "eth1"]);
        assert_eq!(config.quotas.host, 10);
        assert_eq!(config.rules.len(), 2);
        assert_eq!(config.rules[1].external_ports, 80..=90);
        assert_eq!(config.rules[1].mac, Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn an_option_says_a_rule_as_the_file_does() {
        let said = rule(
            "allow, mac=02:00:00:00:00:01, protocol=udp, external-ports=80-90,internal-ports=80",
        );
        let said = said.unwrap();
        assert_eq!((said.action, said.external_ports), (Action::Allow, 80..=90));
        assert_eq!(said.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(rule("deny").unwrap().action, Action::Deny);
        for (text, word) in [
            ("", "allow"),
            ("open", "allow"),
            ("allow,hots=10.0.0.1", "hots"),
            ("allow,host=home", "home"),
            ("allow,mac=x,mac=y", "twice"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("wam = []", "wam"),
            ("http-port = 70000", "70000"),
            ("[[rule]]\naction = \"open\"", "open"),
            ("[[rule]]\naction = \"allow\"\nmac = \"x\"", "mac"),
            ("[[rule]]\naction = \"allow\"\nhost = \"home\"", "home"),
            (
                "[[rule]]\naction = \"allow\"\nexternal-ports = \"9-1\"",
                "9-1",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let second = parse("upnp = true\nwam = []").unwrap_err();
        assert!(second.starts_with("line 2: "), "{second}");
    }
}
