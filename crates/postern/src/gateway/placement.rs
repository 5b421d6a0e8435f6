//! Where a lease stands in the kernel: the elements of the maps and sets that it needs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Instant;

use postern_proto::gateway::{Filter, Kind, Lease, LeaseId, Opening, Origin};
use postern_proto::turn::server::Cidr;
use postern_wire::pcp::Nonce;
use postern_wire::transport::Transport;

use super::rules::{
    Maps, PINHOLES, PINHOLES_FROM, PINHOLES_PEER, PINHOLES_PREFIX, TCP, TRAFFIC4, TRAFFIC6, UDP,
    maps_of,
};
use crate::os::netlink::{Element, StoredElement};

/// One element and the set that it belongs to.
pub(super) type Placed = (&'static str, Element);

/// All elements of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placement(pub(super) Vec<Placed>);

impl Placement {
    /// What the kernel is to hold for an opening.
    pub(super) fn of(opening: &Opening) -> Self {
        let lease = &opening.lease;
        let maps = match lease.transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        };
        let placed = match (lease.kind, lease.internal) {
            (Kind::Mapping { external_port }, SocketAddr::V4(internal)) => {
                let external = external(opening, external_port);
                mapping(&maps, opening, external, internal)
            }
            (
                Kind::Peer {
                    external_port,
                    remote,
                },
                SocketAddr::V4(internal),
            ) => {
                let key = [endpoint(internal), endpoint(remote)].concat();
                let data = endpoint(external(opening, external_port));
                vec![(maps.peer, element(key, None, data))]
            }
            (Kind::Pinhole, SocketAddr::V6(internal)) => pinhole(&maps, opening, internal),
            (Kind::PeerPinhole { remote }, SocketAddr::V6(internal)) => {
                let key = [
                    &remote.ip().octets()[..],
                    &own(&maps, internal),
                    &port(remote.port()),
                ];
                vec![(PINHOLES_PEER, element(key.concat(), None, Vec::new()))]
            }
            // The machine makes no such lease.
            (Kind::Mapping { .. } | Kind::Peer { .. }, SocketAddr::V6(_))
            | (Kind::Pinhole | Kind::PeerPinhole { .. }, SocketAddr::V4(_)) => Vec::new(),
        };
        let note = note(lease);
        let noted = placed.into_iter().map(|(set, element)| {
            let note = note.clone();
            (set, Element { note, ..element })
        });
        Self(noted.collect())
    }
}

fn external(opening: &Opening, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(opening.external.unwrap_or(Ipv4Addr::UNSPECIFIED), port)
}

fn mapping(
    maps: &Maps,
    opening: &Opening,
    external: SocketAddrV4,
    internal: SocketAddrV4,
) -> Vec<Placed> {
    let filters = &opening.lease.filters;
    let mut placed = Vec::new();
    if filters.is_empty() {
        placed.push((
            maps.open,
            element(endpoint(external), None, endpoint(internal)),
        ));
    }
    for filter in filters {
        let (IpAddr::V4(first), IpAddr::V4(last)) = filter.network.bounds() else {
            continue;
        };
        let from = |ip: Ipv4Addr| [&ip.octets()[..], &endpoint(external)].concat();
        placed.push(if first == last && filter.port.is_none() {
            (maps.from, element(from(first), None, endpoint(internal)))
        } else {
            let (low, high) = ports(filter);
            let key = [from(first), port(low).to_vec()].concat();
            let end = [from(last), port(high).to_vec()].concat();
            (maps.prefix, element(key, Some(end), endpoint(internal)))
        });
    }
    if opening.both_ways {
        placed.push((
            maps.back,
            element(endpoint(internal), None, endpoint(external)),
        ));
        let key = [&internal.ip().octets()[..], &counted(maps, internal.port())];
        placed.push((TRAFFIC4, element(key.concat(), None, Vec::new())));
    }
    placed
}

fn pinhole(maps: &Maps, opening: &Opening, internal: SocketAddrV6) -> Vec<Placed> {
    let lease = &opening.lease;
    let own = own(maps, internal);
    let mut placed = Vec::new();
    if opening.both_ways {
        placed.push((TRAFFIC6, element(own.clone(), None, Vec::new())));
    }
    if lease.filters.is_empty() {
        placed.push((PINHOLES, element(own, None, Vec::new())));
        return placed;
    }
    for filter in &lease.filters {
        let (IpAddr::V6(first), IpAddr::V6(last)) = filter.network.bounds() else {
            continue;
        };
        let from = |ip: Ipv6Addr| [&ip.octets()[..], &own].concat();
        placed.push(if first == last && filter.port.is_none() {
            (PINHOLES_FROM, element(from(first), None, Vec::new()))
        } else {
            let (low, high) = ports(filter);
            let key = [from(first), port(low).to_vec()].concat();
            let end = [from(last), port(high).to_vec()].concat();
            (PINHOLES_PREFIX, element(key, Some(end), Vec::new()))
        });
    }
    placed
}

/// The remote ports that a filter lets in.
fn ports(filter: &Filter) -> (u16, u16) {
    filter.port.map_or((0, u16::MAX), |port| (port, port))
}

fn element(key: Vec<u8>, key_end: Option<Vec<u8>>, data: Vec<u8>) -> Element {
    Element {
        key,
        key_end,
        data,
        ..Element::default()
    }
}

fn endpoint(address: SocketAddrV4) -> Vec<u8> {
    [address.ip().octets(), port(address.port())].concat()
}

/// Parts of keys take whole registers of four bytes.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn own(maps: &Maps, internal: SocketAddrV6) -> Vec<u8> {
    [&internal.ip().octets()[..], &counted(maps, internal.port())].concat()
}

/// Protocol and port, as keys of sets for all protocols end.
fn counted(maps: &Maps, number: u16) -> [u8; 8] {
    let [high, low, ..] = port(number);
    [maps.protocol, 0, 0, 0, high, low, 0, 0]
}

/// Whose traffic an element counts: transport and inside endpoint.
pub(super) fn endpoint_of(set: &str, key: &[u8]) -> Option<(Transport, SocketAddr)> {
    let mut key = Reader(key);
    let address: IpAddr = if set == TRAFFIC4 {
        key.v4()?.into()
    } else {
        key.v6()?.into()
    };
    let transport = Transport::from_ip_protocol(*key.take::<4>()?.first()?)?;
    Some((transport, SocketAddr::new(address, key.port()?)))
}

/// What tells whose element it is: the lease's number, the protocol that it was asked for
/// with, and PCP's nonce.
fn note(lease: &Lease) -> Vec<u8> {
    let mut note = lease.id.number().to_be_bytes().to_vec();
    match lease.origin {
        Origin::Upnp => note.push(0),
        Origin::NatPmp => note.push(1),
        Origin::Pcp(Nonce(nonce)) => {
            note.push(2);
            note.extend(nonce);
        }
    }
    note
}

/// The number of the lease that an element is of.
pub(super) fn lease_of(note: &[u8]) -> Option<u64> {
    note.first_chunk().map(|number| u64::from_be_bytes(*number))
}

fn origin_of(note: &[u8]) -> Option<Origin> {
    match note.get(8..)? {
        [0] => Some(Origin::Upnp),
        [1] => Some(Origin::NatPmp),
        [2, nonce @ ..] => Some(Origin::Pcp(Nonce(nonce.try_into().ok()?))),
        _ => None,
    }
}

/// Whether new flows from outside match the elements of a set.
pub(super) fn counts_inbound(set: &str) -> bool {
    ![TCP, UDP]
        .iter()
        .any(|maps| set == maps.back || set == maps.peer)
}

/// Reads one element of a dump, and adds what it says to its lease. What cannot be read is
/// left out.
pub(super) fn read(
    now: Instant,
    set: &str,
    stored: &StoredElement,
    leases: &mut BTreeMap<u64, Lease>,
) {
    let note = &stored.element.note;
    let (Some(id), Some(origin)) = (lease_of(note), origin_of(note)) else {
        return;
    };
    let Some(found) = Found::of(set, &stored.element) else {
        return;
    };
    let left = stored.left.or(stored.element.timeout);
    let lease = leases.entry(id).or_insert_with(|| Lease {
        id: LeaseId::default(),
        transport: found.transport,
        kind: found.kind,
        internal: found.internal,
        filters: Vec::new(),
        owner: found.internal.ip(),
        origin,
        description: String::new(),
        enabled: true,
        expires: left.and_then(|left| now.checked_add(left)),
    });
    lease.filters.extend(found.filter);
}

/// What an element says.
struct Found {
    transport: Transport,
    kind: Kind,
    internal: SocketAddr,
    filter: Option<Filter>,
}

impl Found {
    fn of(set: &str, element: &Element) -> Option<Self> {
        match maps_of(set) {
            Some(maps) => Self::over_v4(set, &maps, element),
            None => Self::over_v6(set, element),
        }
    }

    fn over_v4(set: &str, maps: &Maps, element: &Element) -> Option<Self> {
        let transport = Transport::from_ip_protocol(maps.protocol)?;
        let mut key = Reader(&element.key);
        let mut data = Reader(&element.data);
        if set == maps.back {
            return None;
        }
        if set == maps.peer {
            let (internal, remote) = (key.endpoint()?, key.endpoint()?);
            let external_port = data.endpoint()?.port();
            return Some(Self {
                transport,
                kind: Kind::Peer {
                    external_port,
                    remote,
                },
                internal: internal.into(),
                filter: None,
            });
        }
        let remote = if set == maps.open {
            None
        } else {
            Some(key.v4()?)
        };
        let external_port = key.endpoint()?.port();
        let last = match &element.key_end {
            Some(end) => Some(Reader(end).v4()?),
            None => None,
        };
        let filter = match remote {
            None => None,
            Some(first) => Some(Filter {
                network: Cidr::spanning(first.into(), last.unwrap_or(first).into())?,
                port: key.only_port(element.key_end.as_deref()),
            }),
        };
        Some(Self {
            transport,
            kind: Kind::Mapping { external_port },
            internal: data.endpoint()?.into(),
            filter,
        })
    }

    fn over_v6(set: &str, element: &Element) -> Option<Self> {
        let mut key = Reader(&element.key);
        let remote = if set == PINHOLES {
            None
        } else {
            Some(key.v6()?)
        };
        let host = key.v6()?;
        let transport = Transport::from_ip_protocol(*key.take::<4>()?.first()?)?;
        let internal = SocketAddr::new(host.into(), key.port()?);
        if set == PINHOLES_PEER {
            let remote = SocketAddrV6::new(remote?, key.port()?, 0, 0);
            return Some(Self {
                transport,
                kind: Kind::PeerPinhole { remote },
                internal,
                filter: None,
            });
        }
        let last = match &element.key_end {
            Some(end) => Some(Reader(end).v6()?),
            None => remote,
        };
        let filter = match (remote, last) {
            (Some(first), Some(last)) => Some(Filter {
                network: Cidr::spanning(first.into(), last.into())?,
                port: key.only_port(element.key_end.as_deref()),
            }),
            _ => None,
        };
        Some(Self {
            transport,
            kind: Kind::Pinhole,
            internal,
            filter,
        })
    }
}

/// Reads the parts of a key.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn v4(&mut self) -> Option<Ipv4Addr> {
        self.take::<4>().map(Ipv4Addr::from)
    }

    fn v6(&mut self) -> Option<Ipv6Addr> {
        self.take::<16>().map(Ipv6Addr::from)
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, _, _] = self.take()?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn endpoint(&mut self) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(self.v4()?, self.port()?))
    }

    /// The remote port at the end of a key, if it is the same at the end of the range.
    fn only_port(&mut self, end: Option<&[u8]>) -> Option<u16> {
        let low = self.port()?;
        let last = end.and_then(|end| end.get(end.len().checked_sub(4)?..));
        let high = last.and_then(|last| Reader(last).port());
        (high == Some(low)).then_some(low)
    }
}
