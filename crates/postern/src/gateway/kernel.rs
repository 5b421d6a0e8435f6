//! Mappings as the kernel holds them: elements of maps, with the lease as their timeout, so
//! that they end on time even if this program has ended before.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::rules::{
    Maps, PINHOLES, PINHOLES_FROM, PINHOLES_PEER, PINHOLES_PREFIX, Rules, TABLE, TCP, UDP,
};
use crate::os::netlink::{Batch, Element, FlowFilter, Netlink, NetlinkError, StoredElement};

/// Why the kernel does not do what a mapping asks for.
pub(crate) type KernelError = NetlinkError;

/// The largest batch that is sent at once; longer lists are sent in several.
const MAX_BATCH: usize = 1 << 20;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const fn maps(self) -> Maps {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    const fn number(self) -> u8 {
        self.maps().protocol
    }
}

/// Who may use a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outside<A> {
    /// Everybody.
    Anybody,
    /// One remote address.
    Host(A),
    /// The remote addresses from the first to the last.
    Range(A, A),
}

/// An outside port that leads to a host inside, over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    pub(crate) external: SocketAddrV4,
    pub(crate) internal: SocketAddrV4,
    pub(crate) remote: Outside<Ipv4Addr>,
    /// Whether what the host sends from the inside port leaves from the outside one.
    pub(crate) both_ways: bool,
    /// Bytes for whoever reads it back.
    pub(crate) note: Vec<u8>,
}

/// A port of a host inside that may be reached from outside, over IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinhole {
    pub(crate) protocol: Protocol,
    pub(crate) internal: SocketAddrV6,
    pub(crate) remote: Outside<Ipv6Addr>,
    /// Only from this port, which needs one remote address.
    pub(crate) remote_port: Option<u16>,
    pub(crate) note: Vec<u8>,
}

/// What the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed<T> {
    pub(crate) what: T,
    /// How long it still lives; `None` for ever.
    pub(crate) left: Option<Duration>,
    /// New flows that came this way.
    pub(crate) flows: u64,
}

/// One element and the set that it belongs to.
type Placed = (&'static str, Element);

impl Mapping {
    fn elements(&self, lease: Option<Duration>) -> Vec<Placed> {
        let maps = self.protocol.maps();
        let (set, key, key_end) = self.key(&maps);
        let element = |key, key_end, to: SocketAddrV4| Element {
            key,
            key_end,
            data: endpoint(to),
            timeout: lease,
            note: self.note.clone(),
        };
        let mut elements = vec![(set, element(key, key_end, self.internal))];
        if self.both_ways {
            let back = element(endpoint(self.internal), None, self.external);
            elements.push((maps.back, back));
        }
        elements
    }

    fn key(&self, maps: &Maps) -> (&'static str, Vec<u8>, Option<Vec<u8>>) {
        let from = |ip: Ipv4Addr| [&ip.octets()[..], &endpoint(self.external)].concat();
        match self.remote {
            Outside::Anybody => (maps.open, endpoint(self.external), None),
            Outside::Host(host) => (maps.from, from(host), None),
            Outside::Range(first, last) => (maps.prefix, from(first), Some(from(last))),
        }
    }

    fn read(protocol: Protocol, remote: bool, stored: &StoredElement) -> Option<Self> {
        let Element {
            key,
            key_end,
            data,
            note,
            ..
        } = &stored.element;
        let (remote, external) = if remote {
            let (host, external) = key.split_first_chunk::<4>()?;
            let host = Ipv4Addr::from(*host);
            let last = key_end.as_ref().and_then(|end| end.first_chunk::<4>());
            let range = last.map(|last| Outside::Range(host, Ipv4Addr::from(*last)));
            (range.unwrap_or(Outside::Host(host)), external)
        } else {
            (Outside::Anybody, &key[..])
        };
        Some(Self {
            protocol,
            external: read_endpoint(external)?,
            internal: read_endpoint(data)?,
            remote,
            both_ways: false,
            note: note.clone(),
        })
    }
}

impl Pinhole {
    fn elements(&self, lease: Option<Duration>) -> Vec<Placed> {
        let (set, key, key_end) = self.key();
        let element = Element {
            key,
            key_end,
            timeout: lease,
            note: self.note.clone(),
            ..Element::default()
        };
        vec![(set, element)]
    }

    fn key(&self) -> (&'static str, Vec<u8>, Option<Vec<u8>>) {
        let own = self.own();
        let from = |ip: Ipv6Addr| [&ip.octets()[..], &own].concat();
        match (self.remote, self.remote_port) {
            (Outside::Anybody, _) => (PINHOLES, own, None),
            (Outside::Host(host), Some(port)) => {
                let key = [from(host), padded_port(port).to_vec()].concat();
                (PINHOLES_PEER, key, None)
            }
            (Outside::Host(host), None) => (PINHOLES_FROM, from(host), None),
            (Outside::Range(first, last), _) => (PINHOLES_PREFIX, from(first), Some(from(last))),
        }
    }

    fn own(&self) -> Vec<u8> {
        let protocol = [self.protocol.number(), 0, 0, 0];
        let port = padded_port(self.internal.port());
        [&self.internal.ip().octets()[..], &protocol, &port].concat()
    }
}

fn endpoint(address: SocketAddrV4) -> Vec<u8> {
    [address.ip().octets(), padded_port(address.port())].concat()
}

/// Parts of keys take whole registers of four bytes.
fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn read_endpoint(bytes: &[u8]) -> Option<SocketAddrV4> {
    let (ip, rest) = bytes.split_first_chunk::<4>()?;
    let (port, _) = rest.split_first_chunk::<2>()?;
    Some(SocketAddrV4::new(
        Ipv4Addr::from(*ip),
        u16::from_be_bytes(*port),
    ))
}

/// The gateway's table in the kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    netlink: Netlink,
    watcher: Netlink,
}

impl Kernel {
    /// Opens the kernel's netfilter; changes nothing.
    ///
    /// # Errors
    ///
    /// What the system says; `PermissionDenied` without CAP_NET_ADMIN.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            watcher: Netlink::watch()?,
        })
    }

    /// Makes the table anew, without mappings.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn install(&mut self, rules: &Rules) -> Result<(), KernelError> {
        self.netlink.commit(rules.install())
    }

    /// Takes the table away.
    ///
    /// # Errors
    ///
    /// What the kernel says; `NotFound` when there is none.
    pub(crate) fn remove(&mut self) -> Result<(), KernelError> {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        self.netlink.commit(batch)
    }

    /// Adds a mapping, or takes the place of `old` with it, all at once.
    ///
    /// # Errors
    ///
    /// What the kernel says; nothing has changed then. `NotFound` when `old` has ended
    /// meanwhile.
    pub(crate) fn map(
        &mut self,
        old: Option<&Mapping>,
        new: &Mapping,
        lease: Option<Duration>,
    ) -> Result<(), KernelError> {
        let removed = old.map(|old| old.elements(None)).unwrap_or_default();
        self.replace(&removed, &new.elements(lease))
    }

    /// Ends a mapping.
    ///
    /// # Errors
    ///
    /// What the kernel says; `NotFound` when it has ended by itself.
    pub(crate) fn unmap(&mut self, mapping: &Mapping) -> Result<(), KernelError> {
        self.replace(&mapping.elements(None), &[])
    }

    /// As [`Kernel::map`].
    ///
    /// # Errors
    ///
    /// As [`Kernel::map`].
    pub(crate) fn open_pinhole(
        &mut self,
        old: Option<&Pinhole>,
        new: &Pinhole,
        lease: Option<Duration>,
    ) -> Result<(), KernelError> {
        let removed = old.map(|old| old.elements(None)).unwrap_or_default();
        self.replace(&removed, &new.elements(lease))
    }

    /// As [`Kernel::unmap`].
    ///
    /// # Errors
    ///
    /// As [`Kernel::unmap`].
    pub(crate) fn close_pinhole(&mut self, pinhole: &Pinhole) -> Result<(), KernelError> {
        self.replace(&pinhole.elements(None), &[])
    }

    /// Adds many mappings to an empty table.
    ///
    /// # Errors
    ///
    /// What the kernel says; some of them may have been added.
    pub(crate) fn restore<'a>(
        &mut self,
        mappings: impl IntoIterator<Item = (&'a Mapping, Option<Duration>)>,
    ) -> Result<(), KernelError> {
        let placed = mappings
            .into_iter()
            .flat_map(|(mapping, lease)| mapping.elements(lease));
        let mut by_set = std::collections::BTreeMap::<_, Vec<Element>>::new();
        for (set, element) in placed {
            by_set.entry(set).or_default().push(element);
        }
        let mut batch = Batch::new();
        for (set, elements) in by_set {
            for some in elements.chunks(2048) {
                batch.add_elements(TABLE, set, some);
                if batch.len() > MAX_BATCH {
                    self.netlink.commit(std::mem::take(&mut batch))?;
                }
            }
        }
        self.netlink.commit(batch)
    }

    fn replace(&mut self, removed: &[Placed], added: &[Placed]) -> Result<(), KernelError> {
        let mut batch = Batch::new();
        for (set, element) in removed {
            batch.delete_elements(TABLE, set, std::slice::from_ref(element));
        }
        for (set, element) in added {
            batch.add_new_elements(TABLE, set, std::slice::from_ref(element));
        }
        self.netlink.commit(batch)
    }

    /// All mappings that the kernel holds, with the flows that came in by them.
    ///
    /// # Errors
    ///
    /// What the kernel says; `NotFound` when the table is not there.
    pub(crate) fn mappings(&mut self) -> Result<Vec<Installed<Mapping>>, KernelError> {
        let mut found = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let maps = protocol.maps();
            let back = self.netlink.elements(TABLE, maps.back)?;
            let back: std::collections::BTreeSet<_> =
                back.into_iter().map(|stored| stored.element.key).collect();
            for (set, remote) in [(maps.open, false), (maps.from, true), (maps.prefix, true)] {
                let stored = self.netlink.elements(TABLE, set)?;
                found.extend(stored.iter().filter_map(|stored| {
                    let mut what = Mapping::read(protocol, remote, stored)?;
                    what.both_ways = back.contains(&stored.element.data);
                    Some(Installed {
                        what,
                        left: stored.left,
                        flows: stored.packets,
                    })
                }));
            }
        }
        Ok(found)
    }

    /// Ends the flows that came in by a mapping; how many there were.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn end_flows(&mut self, mapping: &Mapping) -> Result<usize, KernelError> {
        let filter = FlowFilter {
            protocol: Some(mapping.protocol.number()),
            to: Some(SocketAddr::V4(mapping.external)),
            answered_by: Some(SocketAddr::V4(mapping.internal)),
        };
        let flows = self.netlink.flows(true, filter)?;
        for flow in &flows {
            match self.netlink.end_flow(flow) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(flows.len())
    }

    /// Whether somebody else took something away from the table since the last call.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn was_disturbed(&mut self) -> io::Result<bool> {
        let own = self.netlink.port();
        let mut disturbed = false;
        loop {
            match self.watcher.changes(own) {
                Ok(None) => return Ok(disturbed),
                Ok(Some(changes)) => {
                    let ours = |change: &crate::os::netlink::Change| {
                        change.table == TABLE && change.removed
                    };
                    disturbed |= changes.iter().any(ours);
                }
                // Some were missed: look at the table.
                Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => disturbed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

/// `ENOBUFS`.
const NO_BUFFERS: i32 = 105;

/// Readable when there are changes to ask [`Kernel::was_disturbed`] about.
impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watcher.as_fd()
    }
}
