//! A router: two sides and a gate for each address family.

use super::link::Link;
use super::nat::{
    Firewall, Gate, Hairpin, Nat, NatTable, Refusal, Timeouts, Translated, Unsolicited, embedded,
    synthesised,
};
use super::packet::{Body, Packet};
use super::random::Stream;
use super::tcp::Segment;
use super::topology::{InterfaceId, NetworkId};
use super::trace::DropReason;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// What a router is, as data. The default lets nothing pass.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Router {
    /// Its addresses on the outer network; a NAT needs one of its family and uses the
    /// first.
    pub outside: Vec<IpAddr>,
    /// Its link to the outer network.
    pub link: Link,
    /// What it does with IPv4.
    pub v4: Gate,
    /// What it does with IPv6.
    pub v6: Gate,
    /// What the inside may send out.
    pub egress: Egress,
}

/// What a router lets out, whatever its gates would do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// Everything.
    #[default]
    All,
    /// No UDP.
    NoUdp,
    /// TCP to this port and nothing else.
    Tcp(u16),
    /// TCP from this inside address and nothing else: a proxy's, which is the only way out.
    Proxy(IpAddr),
}

impl Egress {
    fn allows(self, packet: &Packet) -> bool {
        let is_tcp = matches!(packet.body, Body::Tcp(_));
        match self {
            Self::All => true,
            Self::NoUdp => is_tcp,
            Self::Tcp(port) => is_tcp && packet.dst.port() == port,
            Self::Proxy(address) => is_tcp && packet.src.ip() == address,
        }
    }
}

/// A router at work.
#[derive(Debug)]
pub(crate) struct RouterNode {
    pub(crate) name: String,
    pub(crate) outer: InterfaceId,
    pub(crate) inside: NetworkId,
    v4: GateNode,
    v6: GateNode,
    egress: Egress,
}

/// Where a packet goes on from a router.
#[derive(Debug)]
pub(crate) enum Forward {
    Outside(Packet),
    Inside(Packet),
}

#[derive(Debug)]
enum GateNode {
    Closed,
    Open,
    Firewall(Tables),
    Nat {
        address: IpAddr,
        hairpin: Hairpin,
        unsolicited: Unsolicited,
        tables: Tables,
        /// Inside is IPv6, outside IPv4.
        six: bool,
    },
}

/// The state of one family, by transport protocol.
#[derive(Debug)]
struct Tables {
    udp: NatTable,
    tcp: NatTable,
}

impl RouterNode {
    pub(crate) fn new(
        name: &str,
        outer: InterfaceId,
        inside: NetworkId,
        router: &Router,
        random: [[Stream; 2]; 2],
    ) -> Self {
        let [random_v4, random_v6] = random;
        let address = |v4: bool| router.outside.iter().copied().find(|a| a.is_ipv4() == v4);
        Self {
            name: name.to_owned(),
            outer,
            inside,
            v4: GateNode::new(router.v4, address(true), random_v4),
            v6: GateNode::new(router.v6, address(false), random_v6),
            egress: router.egress,
        }
    }

    pub(crate) fn keeps_addresses(&self, ipv4: bool) -> bool {
        let gate = if ipv4 { &self.v4 } else { &self.v6 };
        matches!(gate, GateNode::Open | GateNode::Firewall(_))
    }

    pub(crate) fn reboot(&mut self) {
        self.v4.flush();
        self.v6.flush();
    }

    /// The same, with other addresses outside.
    pub(crate) fn renumber(&mut self, outside: &[IpAddr]) {
        self.reboot();
        let address = |v4: bool| outside.iter().copied().find(|a| a.is_ipv4() == v4);
        self.v4.renumber(address(true));
        self.v6.renumber(address(false));
    }

    pub(crate) fn tables(&mut self) -> impl Iterator<Item = &mut NatTable> {
        [&mut self.v4, &mut self.v6]
            .into_iter()
            .flat_map(GateNode::tables)
    }

    /// A packet that the inside network could not deliver itself.
    pub(crate) fn on_inside(
        &mut self,
        now: Instant,
        packet: Packet,
    ) -> Result<Forward, DropReason> {
        let packet = hop(packet)?;
        if !self.egress.allows(&packet) {
            return Err(DropReason::Forbidden);
        }
        match self.gate(&packet) {
            GateNode::Closed => Err(DropReason::Closed),
            GateNode::Open => Ok(Forward::Outside(packet)),
            GateNode::Firewall(tables) => {
                tables.outbound(now, &packet)?;
                Ok(Forward::Outside(packet))
            }
            GateNode::Nat {
                address,
                hairpin,
                tables,
                six,
                ..
            } => {
                let packet = to_outside(packet, *six)?;
                if packet.dst.ip() == *address {
                    let table = tables.of(&packet);
                    let back = turn_back(now, table, *hairpin, packet)?;
                    return Ok(Forward::Inside(to_inside(back, *six)));
                }
                let out = tables.outbound(now, &packet)?;
                Ok(Forward::Outside(rewritten(packet, out.own, out.remote)))
            }
        }
    }

    /// A packet that arrived on the outside. One that a NAT takes for its own is not
    /// forwarded, so its time to live does not matter.
    pub(crate) fn on_outside(
        &mut self,
        now: Instant,
        packet: Packet,
    ) -> Result<Forward, DropReason> {
        let hopped = hop(packet.clone());
        if let (Err(reason), false) = (&hopped, self.translates(&packet)) {
            return Err(*reason);
        }
        match self.gate(&packet) {
            GateNode::Closed => Err(DropReason::Closed),
            GateNode::Open => Ok(Forward::Inside(hopped?)),
            GateNode::Firewall(tables) => {
                tables.inbound(now, &packet)?;
                Ok(Forward::Inside(hopped?))
            }
            GateNode::Nat { tables, six, .. } => {
                let inner = tables.inbound(now, &packet)?;
                let inward = rewritten(hopped?, inner.remote, inner.own);
                Ok(Forward::Inside(to_inside(inward, *six)))
            }
        }
    }

    /// What the router says to a packet from outside that it does not let in.
    pub(crate) fn answer(&mut self, packet: &Packet, reason: DropReason) -> Option<Packet> {
        let GateNode::Nat { unsolicited, .. } = *self.gate(packet) else {
            return None;
        };
        let refused = matches!(reason, DropReason::NoMapping | DropReason::Filtered);
        match unsolicited {
            Unsolicited::Accept | Unsolicited::Reset if refused => packet.bounced(Segment::Reset),
            Unsolicited::PortUnreachable if refused => packet.bounced(Segment::PortUnreachable),
            Unsolicited::Accept
            | Unsolicited::Reset
            | Unsolicited::PortUnreachable
            | Unsolicited::Drop => None,
        }
    }

    fn translates(&mut self, packet: &Packet) -> bool {
        matches!(self.gate(packet), GateNode::Nat { .. })
    }

    fn gate(&mut self, packet: &Packet) -> &mut GateNode {
        let is_nat64 = matches!(self.v4, GateNode::Nat { six: true, .. });
        if packet.dst.is_ipv4() || is_nat64 && embedded(packet.dst).is_some() {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }
}

impl GateNode {
    fn new(gate: Gate, address: Option<IpAddr>, [udp, tcp]: [Stream; 2]) -> Self {
        match (gate, address) {
            (Gate::Closed, _) => Self::Closed,
            (Gate::Open, _) => Self::Open,
            (Gate::Firewall(firewall), _) => {
                let of_tcp = Firewall {
                    timeouts: Timeouts::TCP,
                    ..firewall
                };
                Self::Firewall(Tables {
                    udp: NatTable::firewall(&firewall, udp),
                    tcp: NatTable::firewall(&of_tcp, tcp),
                })
            }
            (Gate::Nat(nat), Some(address)) => Self::nat(&nat, address, [udp, tcp], false),
            (Gate::Nat64(nat), Some(address)) => Self::nat(&nat, address, [udp, tcp], true),
            (Gate::Nat(_) | Gate::Nat64(_), None) => {
                panic!("a NAT needs an outside address of its family")
            }
        }
    }

    fn nat(nat: &Nat, address: IpAddr, [udp, tcp]: [Stream; 2], six: bool) -> Self {
        Self::Nat {
            address,
            hairpin: nat.hairpin,
            unsolicited: nat.unsolicited,
            tables: Tables {
                udp: NatTable::nat(nat, address, udp),
                tcp: NatTable::tcp(nat, address, tcp),
            },
            six,
        }
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut NatTable> {
        let tables = match self {
            Self::Closed | Self::Open => None,
            Self::Firewall(tables) | Self::Nat { tables, .. } => Some(tables),
        };
        let tables = tables.map(|tables| [&mut tables.udp, &mut tables.tcp]);
        tables.into_iter().flatten()
    }

    fn flush(&mut self) {
        self.tables().for_each(NatTable::flush);
    }

    fn renumber(&mut self, outside: Option<IpAddr>) {
        if let Self::Nat {
            address, tables, ..
        } = self
        {
            *address = outside.expect("a NAT needs an outside address of its family");
            tables.udp.renumber(*address);
            tables.tcp.renumber(*address);
        }
    }
}

impl Tables {
    const fn of(&mut self, packet: &Packet) -> &mut NatTable {
        match packet.body {
            Body::Udp(_) => &mut self.udp,
            Body::Tcp(_) => &mut self.tcp,
        }
    }

    fn outbound(&mut self, now: Instant, packet: &Packet) -> Result<Translated, Refusal> {
        let table = self.of(packet);
        let out = table.outbound(now, packet.src, packet.dst)?;
        if packet.body == Body::Tcp(Segment::Reset) {
            table.end(now, packet.src, packet.dst);
        }
        Ok(out)
    }

    fn inbound(&mut self, now: Instant, packet: &Packet) -> Result<Translated, Refusal> {
        let table = self.of(packet);
        let inner = table.inbound(now, packet.dst, packet.src)?;
        if packet.body == Body::Tcp(Segment::Reset) {
            table.end(now, inner.own, inner.remote);
        }
        Ok(inner)
    }
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoMapping => Self::NoMapping,
            Refusal::Filtered => Self::Filtered,
            Refusal::Full => Self::TableFull,
        }
    }
}

/// Sends a packet for the router's own external address back inside.
fn turn_back(
    now: Instant,
    table: &mut NatTable,
    hairpin: Hairpin,
    packet: Packet,
) -> Result<Packet, DropReason> {
    match hairpin {
        Hairpin::Off => Err(DropReason::NoHairpin),
        Hairpin::InternalSource => {
            let inner = table.behind(now, packet.dst);
            let src = packet.src;
            Ok(rewritten(packet, src, inner.ok_or(DropReason::NoMapping)?))
        }
        Hairpin::ExternalSource => {
            let out = table.outbound(now, packet.src, packet.dst)?;
            let inner = table.inbound(now, out.remote, out.own)?;
            Ok(rewritten(packet, inner.remote, inner.own))
        }
    }
}

/// A packet from inside with the destination that it has outside. Behind a NAT64 IPv4 does not
/// exist.
fn to_outside(packet: Packet, six: bool) -> Result<Packet, DropReason> {
    let (src, dst) = (packet.src, packet.dst);
    match (six, embedded(dst)) {
        (false, _) => Ok(packet),
        (true, Some(dst)) => Ok(rewritten(packet, src, dst)),
        (true, None) => Err(DropReason::Closed),
    }
}

/// A packet with the source that it has inside.
fn to_inside(packet: Packet, six: bool) -> Packet {
    let (src, dst) = (packet.src, packet.dst);
    if six {
        rewritten(packet, synthesised(src), dst)
    } else {
        packet
    }
}

fn hop(packet: Packet) -> Result<Packet, DropReason> {
    hops(packet, 1)
}

/// What is left of a packet after so many hops.
pub(crate) fn hops(packet: Packet, count: u8) -> Result<Packet, DropReason> {
    let ttl = packet.ttl.saturating_sub(count);
    if ttl == 0 {
        return Err(DropReason::TimeExceeded);
    }
    Ok(Packet { ttl, ..packet })
}

fn rewritten(packet: Packet, src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet { src, dst, ..packet }
}
