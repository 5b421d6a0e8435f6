//! What happened: counters for each node, and a trace to read.

use super::packet::{Body, Packet};
use super::topology::{HostId, RouterId};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Packets of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent by this host.
    pub sent: u64,
    /// Arrived at this host.
    pub received: u64,
    /// Passed on by this router.
    pub forwarded: u64,
    /// Dropped at this node or lost on its link, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Counters {
    /// Packets dropped for whatever reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// Why a packet got no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The link lost it, or its queue was full.
    Lost,
    /// The interface is down.
    InterfaceDown,
    /// No interface of the host has its source address.
    NoSuchSource,
    /// Nobody has its destination address.
    NoRoute,
    /// Its time to live ran out.
    TimeExceeded,
    /// The router lets nothing of its address family pass.
    Closed,
    /// The router does not let such packets out.
    Forbidden,
    /// No mapping has the external endpoint.
    NoMapping,
    /// The filter of the mapping keeps the sender out.
    Filtered,
    /// The router's table or port range is full.
    TableFull,
    /// It was for the router's own external address and the router does not hairpin.
    NoHairpin,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost on the link",
            Self::InterfaceDown => "interface is down",
            Self::NoSuchSource => "no interface has this source",
            Self::NoRoute => "no route",
            Self::TimeExceeded => "time to live exceeded",
            Self::Closed => "address family closed",
            Self::Forbidden => "not let out",
            Self::NoMapping => "no mapping",
            Self::Filtered => "filtered",
            Self::TableFull => "table full",
            Self::NoHairpin => "no hairpin",
        })
    }
}

/// A place where packets are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Host(HostId),
    Router(RouterId),
    Core,
}

/// Counters and trace of a world.
#[derive(Debug)]
pub(crate) struct Journal {
    start: Instant,
    counters: BTreeMap<Node, Counters>,
    lines: Option<Vec<String>>,
    describe: fn(&[u8]) -> String,
}

impl Journal {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            counters: BTreeMap::new(),
            lines: None,
            describe: |payload| format!("{} bytes", payload.len()),
        }
    }

    pub(crate) fn trace(&mut self, describe: fn(&[u8]) -> String) {
        self.describe = describe;
        self.lines.get_or_insert_with(Vec::new);
    }

    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    pub(crate) fn counters(&self, node: Node) -> Counters {
        self.counters.get(&node).cloned().unwrap_or_default()
    }

    pub(crate) fn count(&mut self, node: Node) -> &mut Counters {
        self.counters.entry(node).or_default()
    }

    pub(crate) fn drop(&mut self, node: Node, reason: DropReason) {
        *self.count(node).dropped.entry(reason).or_default() += 1;
    }

    /// Adds a line when the trace is on.
    pub(crate) fn line(&mut self, at: Instant, name: &str, verb: &str, packet: &Packet) {
        self.write(at, name, verb, packet, String::new);
    }

    /// Adds a line with the reason at its end when the trace is on.
    pub(crate) fn drop_line(
        &mut self,
        at: Instant,
        name: &str,
        reason: DropReason,
        packet: &Packet,
    ) {
        self.write(at, name, "drops", packet, || format!("  {reason}"));
    }

    fn write(
        &mut self,
        at: Instant,
        name: &str,
        verb: &str,
        packet: &Packet,
        remark: impl Fn() -> String,
    ) {
        let Some(lines) = &mut self.lines else {
            return;
        };
        let ms = at.duration_since(self.start).as_secs_f64() * 1000.0;
        let (src, dst) = (packet.src, packet.dst);
        let what = match &packet.body {
            Body::Udp(payload) => (self.describe)(payload),
            Body::Tcp(segment) => segment.to_string(),
        };
        let remark = remark();
        lines.push(format!(
            "{ms:>10.3} ms  {name:<10} {verb:<8} {src} -> {dst}  [{what}]{remark}"
        ));
    }
}
