//! Entries of the connection tracker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::bytes::{Arrived, Attributes, Head, find, flags, message, number};
use super::socket::{Netlink, NetlinkError};

/// The subsystem of the connection tracker (`NFNL_SUBSYS_CTNETLINK`).
const SUBSYSTEM: u16 = 1;

/// Messages of the subsystem (`IPCTNL_MSG_CT_…`).
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = (SUBSYSTEM << 8) | 1;
const DELETE: u16 = (SUBSYSTEM << 8) | 2;

/// Attributes of an entry (`CTA_…`).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TIMEOUT: u16 = 7;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;

/// Attributes of a tuple (`CTA_TUPLE_…`, `CTA_IP_…`, `CTA_PROTO_…`).
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Entries deleted with one look at the table: more wait for the next look.
const MAX_MATCHES: usize = 65_536;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    /// `IPPROTO_…`.
    pub(crate) protocol: u8,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// What the tracker knows of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// As its first packet came.
    pub(crate) original: Tuple,
    /// As answers come: translations undone.
    pub(crate) reply: Tuple,
    /// Both ways together; 0 where the system does not count.
    pub(crate) packets: u64,
    /// Both ways together; 0 where the system does not count.
    pub(crate) bytes: u64,
}

impl Flow {
    fn read(arrived: &Arrived<'_>) -> Option<Self> {
        let (mut original, mut reply, mut packets, mut bytes) = (None, None, 0_u64, 0_u64);
        for (kind, value) in arrived.attributes() {
            match kind {
                ORIGINAL => original = Tuple::read(value),
                REPLY => reply = Tuple::read(value),
                COUNTERS_ORIGINAL | COUNTERS_REPLY => {
                    let of = |kind| find(value, kind).and_then(number).unwrap_or_default();
                    packets = packets.saturating_add(of(1));
                    bytes = bytes.saturating_add(of(2));
                }
                _ => {}
            }
        }
        Some(Self {
            original: original?,
            reply: reply?,
            packets,
            bytes,
        })
    }
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let ip = find(bytes, TUPLE_IP)?;
        let protocol = find(bytes, TUPLE_PROTOCOL)?;
        let address = |v4, v6| match find(ip, v4) {
            Some(v4) => <[u8; 4]>::try_from(v4)
                .ok()
                .map(|b| Ipv4Addr::from(b).into()),
            None => <[u8; 16]>::try_from(find(ip, v6)?)
                .ok()
                .map(|b| Ipv6Addr::from(b).into()),
        };
        let port = |kind| {
            find(protocol, kind)
                .and_then(number)
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or_default()
        };
        let source: IpAddr = address(V4_SOURCE, V6_SOURCE)?;
        let destination: IpAddr = address(V4_DESTINATION, V6_DESTINATION)?;
        Some(Self {
            protocol: *find(protocol, PROTOCOL_NUMBER)?.first()?,
            source: SocketAddr::new(source, port(SOURCE_PORT)),
            destination: SocketAddr::new(destination, port(DESTINATION_PORT)),
        })
    }

    fn write(&self, kind: u16, to: &mut Attributes<'_>) {
        to.nest(kind, |tuple| {
            tuple.nest(TUPLE_IP, |ip| {
                write_address(ip, self.source.ip(), V4_SOURCE, V6_SOURCE);
                write_address(ip, self.destination.ip(), V4_DESTINATION, V6_DESTINATION);
            });
            tuple.nest(TUPLE_PROTOCOL, |protocol| {
                protocol.u8(PROTOCOL_NUMBER, self.protocol);
                protocol.u16(SOURCE_PORT, self.source.port());
                protocol.u16(DESTINATION_PORT, self.destination.port());
            });
        });
    }
}

fn write_address(to: &mut Attributes<'_>, address: IpAddr, v4: u16, v6: u16) {
    match address {
        IpAddr::V4(address) => to.bytes(v4, &address.octets()),
        IpAddr::V6(address) => to.bytes(v6, &address.octets()),
    }
}

/// Which flows are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowFilter {
    /// `IPPROTO_…`; `None` for every protocol.
    pub(crate) protocol: Option<u8>,
    /// Who sent its first packet, before any translation.
    pub(crate) from: Option<SocketAddr>,
    /// Where its first packet went to, before any translation.
    pub(crate) to: Option<SocketAddr>,
    /// Who answers: the host behind a translation.
    pub(crate) answered_by: Option<SocketAddr>,
}

impl FlowFilter {
    /// Whether it means this one.
    pub(crate) fn takes(&self, flow: &Flow) -> bool {
        let is = |wanted: Option<SocketAddr>, found| wanted.is_none_or(|wanted| wanted == found);
        self.protocol.is_none_or(|p| p == flow.original.protocol)
            && is(self.from, flow.original.source)
            && is(self.to, flow.original.destination)
            && is(self.answered_by, flow.reply.source)
    }
}

impl Netlink {
    /// The flows of one family that are taken.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) fn flows(
        &mut self,
        v4: bool,
        takes: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let sequence = self.next();
        let mut request = Vec::new();
        let head = head(GET, flags::DUMP, sequence, v4);
        message(&mut request, head, |_| {});
        let mut flows = Vec::new();
        self.ask(&request, |arrived| {
            let flow = Flow::read(arrived).filter(|flow| takes(flow));
            if flows.len() < MAX_MATCHES {
                flows.extend(flow);
            }
        })?;
        Ok(flows)
    }

    /// Ends a flow: its packets are looked at as new ones.
    ///
    /// # Errors
    ///
    /// What the kernel said; `NotFound` when it has ended already.
    pub(crate) fn end_flow(&mut self, flow: &Flow) -> Result<(), NetlinkError> {
        let sequence = self.next();
        let v4 = flow.original.source.is_ipv4();
        let mut request = Vec::new();
        message(&mut request, head(DELETE, flags::ACK, sequence, v4), |to| {
            flow.original.write(ORIGINAL, to);
        });
        self.ask(&request, |_| {})
    }

    /// Lets a flow live so long without packets.
    ///
    /// # Errors
    ///
    /// What the kernel said; `NotFound` when there is no such flow.
    pub(crate) fn keep_flow(&mut self, flow: &Flow, life: Duration) -> Result<(), NetlinkError> {
        let sequence = self.next();
        let v4 = flow.original.source.is_ipv4();
        let seconds = u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
        let mut request = Vec::new();
        message(&mut request, head(NEW, flags::ACK, sequence, v4), |to| {
            flow.original.write(ORIGINAL, to);
            to.u32(TIMEOUT, seconds);
        });
        self.ask(&request, |_| {})
    }
}

fn head(kind: u16, asked: u16, sequence: u32, v4: bool) -> Head {
    const V4: u8 = 2;
    const V6: u8 = 10;
    Head {
        kind,
        flags: flags::REQUEST | asked,
        sequence,
        family: if v4 { V4 } else { V6 },
        resource: 0,
    }
}
