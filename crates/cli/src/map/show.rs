//! What `postern map` says, for people and for programs (docs/json.md).

use std::net::IpAddr;

use postern::portmap::{Entry, Found, PortMapping, Protocol, Transport};
use serde::Serialize;

/// A mapping, or what is known of one.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<&'static str>,
    protocol: &'static str,
    transport: &'static str,
    external_address: Option<IpAddr>,
    external_port: u16,
    internal_address: String,
    internal_port: u16,
    lifetime: u32,
    gateway: Option<IpAddr>,
    double_nat: bool,
    verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

impl Shown {
    pub(super) fn mapping(mapping: &PortMapping) -> Self {
        Self {
            event: None,
            protocol: mapping.protocol.as_str(),
            transport: mapping.transport.as_str(),
            external_address: mapping.external_address,
            external_port: mapping.external_port,
            internal_address: mapping.internal_address.to_string(),
            internal_port: mapping.internal_port,
            lifetime: mapping.lifetime,
            gateway: Some(mapping.gateway),
            double_nat: mapping.double_nat,
            verified: mapping.verified,
            description: None,
        }
    }

    /// An entry of a gateway's table.
    pub(super) fn entry(entry: &Entry, gateway: Option<&Found>) -> Self {
        let external = gateway.and_then(|found| found.external_address);
        Self {
            event: None,
            protocol: Protocol::Upnp.as_str(),
            transport: entry.key.transport.as_str(),
            external_address: external,
            external_port: entry.key.external_port,
            internal_address: entry.internal_client.clone(),
            internal_port: entry.internal_port,
            lifetime: entry.lease,
            gateway: gateway.map(|found| found.gateway),
            double_nat: !external.is_some_and(postern::portmap::is_public),
            verified: None,
            description: Some(entry.description.clone()),
        }
    }

    pub(super) fn line(&self) -> String {
        let outside = match self.external_address {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.external_port),
            Some(IpAddr::V4(ip)) => format!("{ip}:{}", self.external_port),
            None => format!("port {}", self.external_port),
        };
        let lasts = match self.lifetime {
            0 => "until it is deleted".to_owned(),
            seconds => format!("for {seconds} s"),
        };
        let what = self
            .event
            .map_or_else(String::new, |event| format!("{event}: "));
        let mut line = format!(
            "{what}{outside}/{} leads to {} port {} {lasts} ({})",
            self.transport, self.internal_address, self.internal_port, self.protocol
        );
        if let Some(description) = self.description.as_ref().filter(|text| !text.is_empty()) {
            line.push_str(&format!(" \"{description}\""));
        }
        line.push_str(match self.verified {
            Some(true) => "; the internet reaches it",
            Some(false) if !self.double_nat => "; but the internet does not reach it",
            Some(false) | None => "",
        });
        if self.double_nat && self.verified != Some(true) {
            line.push_str(
                "; the router is itself behind a NAT, so that the internet cannot reach it",
            );
        }
        line
    }
}

/// A gateway by one protocol.
#[derive(Debug, Serialize)]
pub(super) struct ShownGateway {
    protocol: &'static str,
    gateway: IpAddr,
    external_address: Option<IpAddr>,
    double_nat: Option<bool>,
    elapsed_ms: u128,
    #[serde(skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
}

impl ShownGateway {
    pub(super) fn new(found: &Found) -> Self {
        let private = |ip| !postern::portmap::is_public(ip);
        Self {
            protocol: found.protocol.as_str(),
            gateway: found.gateway,
            external_address: found.external_address,
            double_nat: found.external_address.map(private),
            elapsed_ms: found.after.as_millis(),
            model: found.model.clone(),
            connected: found.connected,
            location: found.location.as_ref().map(ToString::to_string),
        }
    }

    pub(super) fn line(&self) -> String {
        let outside = self
            .external_address
            .map_or_else(String::new, |ip| format!(", external address {ip}"));
        let model = if self.model.is_empty() {
            String::new()
        } else {
            format!(", {}", self.model)
        };
        format!(
            "{} at {} after {} ms{model}{outside}",
            self.protocol, self.gateway, self.elapsed_ms
        )
    }
}

/// What was deleted.
#[derive(Debug, Serialize)]
pub(super) struct Deleted {
    pub(super) external_port: u16,
    pub(super) transport: &'static str,
    pub(super) deleted: bool,
}

impl Deleted {
    pub(super) const fn new(external_port: u16, transport: Transport) -> Self {
        Self {
            external_port,
            transport: transport.as_str(),
            deleted: true,
        }
    }
}
