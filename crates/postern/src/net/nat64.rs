//! Whether a NAT64 is in front of this machine (RFC 7050).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::ice::Nat64Prefix;
use tokio::time::timeout;

/// The name that has IPv4 addresses alone, so that a resolver that tells IPv6 ones has made
/// them up (RFC 7050 section 3).
const NAME: &str = "ipv4only.arpa";

/// A resolver that takes longer is of no use to a meeting that waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The prefix of the NAT64, if this machine has IPv6 addresses alone and its resolver knows of one.
pub(crate) async fn nat64_prefix(hosts: &[SocketAddr]) -> Option<Nat64Prefix> {
    if hosts.is_empty() || hosts.iter().any(SocketAddr::is_ipv4) {
        return None;
    }
    prefix().await
}

/// The prefix of the NAT64 that the resolver knows of, whatever addresses this machine has.
pub(crate) async fn prefix() -> Option<Nat64Prefix> {
    let found = timeout(PATIENCE, tokio::net::lookup_host((NAME, 0))).await;
    let addresses = found.ok()?.ok()?.filter_map(|address| match address.ip() {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    let prefix = Nat64Prefix::discover(addresses);
    tracing::debug!(?prefix, "asked for the prefix of a NAT64");
    prefix
}
