//! What an operator asks a running gateway.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use postern_proto::gateway::{Lease, Origin};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::config::GatewayConfig;
use super::driver::{Command, Input};
use super::metrics::Numbers;
use crate::os::netlink::Counted;

/// A running gateway, as others see it. A clone asks the same one.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) mpsc::Sender<Input>);

/// How a gateway is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The outside address.
    pub external_address: Option<Ipv4Addr>,
    /// The outside address of the next router, where that one opens the ports as well.
    pub upstream_address: Option<Ipv4Addr>,
    /// Whether the outside address, or the next router's, is one that the internet does not
    /// lead to: another NAT, or the carrier's, is in front.
    pub double_nat: bool,
    /// Leases.
    pub leases: usize,
    /// How long leases have been kept, in seconds.
    pub epoch: u64,
    /// Chains of other nftables tables that drop what the gateway lets in, as `nft` names
    /// them: [`describe_obstacle`] says what helps.
    pub obstacles: Vec<String>,
    /// Chains of other nftables tables that have the gateway's rule
    /// ([`GatewayConfig::integrate`]).
    pub integrated: Vec<String>,
}

/// A lease, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Its number, to take it back by.
    pub id: u64,
    /// `upnp`, `natpmp` or `pcp`.
    pub protocol: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// The outside port; nothing for a pinhole.
    pub external_port: Option<u16>,
    /// The host inside.
    pub internal_address: IpAddr,
    /// Its port.
    pub internal_port: u16,
    /// From where it may be reached; from everywhere if there is none.
    pub remote: Vec<String>,
    /// Seconds that it still lives; nothing for one without an end.
    pub lifetime: Option<u32>,
    /// What the client calls it: to be escaped before it is shown.
    pub description: String,
    /// Flows that came in by it.
    pub flows: u64,
    /// Packets that crossed by its port of the host, both ways.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Handle {
    /// How the gateway is; `None` if it has ended.
    pub async fn status(&self) -> Option<Status> {
        self.ask(Command::Status).await
    }

    /// All leases; `None` if the gateway has ended.
    pub async fn list(&self) -> Option<Vec<LeaseInfo>> {
        self.ask(Command::List).await
    }

    /// Takes one lease back; whether there was one.
    pub async fn revoke(&self, id: u64) -> Option<bool> {
        self.ask(|answer| Command::Revoke(id, answer)).await
    }

    /// Takes all leases back; how many there were.
    pub async fn flush(&self) -> Option<usize> {
        self.ask(Command::Flush).await
    }

    /// From now on this configuration holds: rules, quotas, interfaces, protocols. The
    /// directory of leases stays the one of the start. The sentence says why it cannot be
    /// used, and nothing is changed then; `None` if the gateway has ended.
    pub async fn reload(&self, config: GatewayConfig) -> Option<Result<(), String>> {
        let config = Box::new(config);
        self.ask(|answer| Command::Reload(config, answer)).await
    }

    pub(super) async fn numbers(&self) -> Option<Numbers> {
        self.ask(Command::Numbers).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Input::Command(command(answer))).await.ok()?;
        answered.await.ok()
    }
}

impl LeaseInfo {
    pub(super) fn new(now: Instant, lease: &Lease, flows: Option<u64>, crossed: Counted) -> Self {
        let remote = lease.filters.iter().map(|filter| {
            let network = filter.network;
            let text = format!("{}/{}", network.network(), network.prefix_length());
            match filter.port {
                Some(port) => format!("{text} port {port}"),
                None => text,
            }
        });
        Self {
            id: lease.id.number(),
            protocol: protocol_of(lease).to_owned(),
            transport: lease.transport.as_str().to_owned(),
            external_port: lease.kind.external_port(),
            internal_address: lease.internal.ip(),
            internal_port: lease.internal.port(),
            remote: remote.collect(),
            lifetime: lease.expires.map(|_| lease.seconds_left(now)),
            description: lease.description.clone(),
            flows: flows.unwrap_or_default(),
            packets: crossed.packets,
            bytes: crossed.bytes,
        }
    }
}

/// What a lease was asked for with.
pub(super) const fn protocol_of(lease: &Lease) -> &'static str {
    match lease.origin {
        Origin::Upnp => "upnp",
        Origin::NatPmp => "natpmp",
        Origin::Pcp(_) => "pcp",
    }
}

/// Whether the internet does not lead to this address.
pub(super) fn is_behind_nat(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    address.is_private() || address.is_link_local() || address.is_unspecified() || is_shared
}

/// How long a gateway waits for what it says before it ends.
pub(super) const GOODBYE: Duration = Duration::from_millis(200);

/// The sentence about a chain of [`Status::obstacles`], with the mark of
/// [`GatewayConfig::mark`].
#[must_use]
pub fn describe_obstacle(chain: &str, mark: u32) -> String {
    format!(
        "the firewall's chain `{chain}` drops what is forwarded, mapped ports included; let it \
         accept packets with the mark {mark:#010x}/{mark:#010x} (docs/gateway.md, \"Beside a \
         firewall\")"
    )
}
