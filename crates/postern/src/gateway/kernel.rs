//! The gateway's table in the kernel.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use postern_proto::gateway::{Kind, Lease, Opening};
use postern_wire::transport::Transport;

use super::placement::{self, Placed, Placement};
use super::rules::{ALL_MAPS, Rules, TABLE, TRAFFIC4, TRAFFIC6};
use crate::os::netlink::{
    Batch, Change, Counted, Element, Flow, FlowFilter, Netlink, NetlinkError,
};

/// What has crossed, by transport and inside endpoint.
pub(super) type Crossed = BTreeMap<(Transport, SocketAddr), Counted>;

/// Why the kernel does not do what is asked of it.
pub(super) type KernelError = NetlinkError;

/// A batch is sent when it is longer than this: the kernel takes messages of a few megabytes,
/// and what it tells the watcher of one must fit into the watcher's buffer.
const LONG_BATCH: usize = 1 << 19;

/// `ENOBUFS`.
const NO_BUFFERS: i32 = 105;

/// `ENFILE`: what the kernel says when a set has as many elements as it may.
const SET_FULL: i32 = 23;

/// The table, and what others do to it.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) netlink: Netlink,
    watcher: Netlink,
    /// Others have changed other tables.
    pub(super) others_changed: bool,
    /// Others have taken something away from ours.
    disturbed: bool,
}

impl Kernel {
    /// Opens the kernel's netfilter; changes nothing.
    ///
    /// # Errors
    ///
    /// What the system says; `PermissionDenied` without CAP_NET_ADMIN.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            watcher: Netlink::watch()?,
            others_changed: true,
            disturbed: false,
        })
    }

    /// What is readable when [`Kernel::was_disturbed`] has something to tell.
    pub(super) fn watched(&self) -> io::Result<OwnedFd> {
        self.watcher.as_fd().try_clone_to_owned()
    }

    /// Makes the table anew, without mappings.
    pub(super) fn install(&mut self, rules: &Rules) -> Result<(), KernelError> {
        self.netlink.commit(rules.install())
    }

    /// Puts what is added in the place of what is removed, all at once. What is to be removed
    /// may have ended by itself.
    pub(super) fn change(
        &mut self,
        removed: Option<&Placement>,
        added: Option<(&Placement, Duration)>,
    ) -> Result<(), KernelError> {
        let counting = match (removed, added) {
            (Some(removed), Some((added, _))) => Some(self.counting_on(removed, added)),
            _ => None,
        };
        let added = match (&counting, added) {
            (Some(counting), Some((_, life))) => Some((counting, life)),
            (_, added) => added,
        };
        let committed = self.netlink.commit(batch(removed, added));
        match committed {
            Err(error) if error.kind() == io::ErrorKind::NotFound && removed.is_some() => {
                let left = removed
                    .map(|placement| self.still_there(placement))
                    .transpose()?;
                self.netlink.commit(batch(left.as_ref(), added))
            }
            committed => committed,
        }
    }

    /// Elements that take the place of others with the same key count on from them.
    fn counting_on(&mut self, removed: &Placement, added: &Placement) -> Placement {
        let mut counting = added.clone();
        for (set, element) in &mut counting.0 {
            let same = |(other, old): &&Placed| {
                other == set && (&old.key, &old.key_end) == (&element.key, &element.key_end)
            };
            if let Some((_, old)) = removed.0.iter().find(same) {
                let stored = self.netlink.element(TABLE, set, old);
                element.counted = stored.map(|stored| stored.counted).unwrap_or_default();
            }
        }
        counting
    }

    /// Those elements of a placement that have not ended.
    fn still_there(&mut self, placement: &Placement) -> Result<Placement, KernelError> {
        let mut left = Vec::new();
        for (set, element) in &placement.0 {
            match self.netlink.element(TABLE, set, element) {
                Ok(_) => left.push((*set, element.clone())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Placement(left))
    }

    /// Adds many to an empty table.
    pub(super) fn restore(
        &mut self,
        placements: impl Iterator<Item = (Placement, Duration)>,
    ) -> Result<(), KernelError> {
        let mut by_set = BTreeMap::<&str, Vec<Element>>::new();
        for (placement, life) in placements {
            for (set, element) in placement.0 {
                by_set.entry(set).or_default().push(living(element, life));
            }
        }
        let mut batch = Batch::new();
        for (set, elements) in by_set {
            for some in elements.chunks(1024) {
                batch.add_elements(TABLE, set, some);
                if batch.len() > LONG_BATCH {
                    self.netlink.commit(std::mem::take(&mut batch))?;
                    // Else the watcher misses something, and everything is made anew for that.
                    self.note_changes()?;
                }
            }
        }
        self.netlink.commit(batch)?;
        Ok(self.note_changes()?)
    }

    /// The leases that the kernel holds: addresses, ports, and what their notes say.
    pub(super) fn leases(&mut self, now: Instant) -> Result<Vec<Lease>, KernelError> {
        let mut leases = BTreeMap::<u64, Lease>::new();
        for set in ALL_MAPS {
            for stored in self.netlink.elements(TABLE, set)? {
                placement::read(now, set, &stored, &mut leases);
            }
        }
        Ok(leases.into_values().collect())
    }

    /// New flows that came in, by the numbers of leases.
    pub(super) fn flows_by_lease(&mut self) -> Result<BTreeMap<u64, u64>, KernelError> {
        let mut flows = BTreeMap::<u64, u64>::new();
        for set in ALL_MAPS.iter().filter(|set| placement::counts_inbound(set)) {
            for stored in self.netlink.elements(TABLE, set)? {
                if let Some(id) = placement::lease_of(&stored.element.note) {
                    let count = flows.entry(id).or_default();
                    *count = count.saturating_add(stored.counted.packets);
                }
            }
        }
        Ok(flows)
    }

    /// How many packets have crossed by an opening's port of the host.
    pub(super) fn packets(&mut self, opening: &Opening) -> Result<u64, KernelError> {
        let counted = Opening {
            both_ways: true,
            ..opening.clone()
        };
        let mut placed = Placement::of(&counted).0.into_iter();
        let Some((set, element)) = placed.find(|(set, _)| [TRAFFIC4, TRAFFIC6].contains(set))
        else {
            return Ok(0);
        };
        match self.netlink.element(TABLE, set, &element) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            stored => Ok(stored?.counted.packets),
        }
    }

    /// What has crossed by mappings and pinholes, by transport and inside endpoint.
    pub(super) fn traffic(&mut self) -> Result<Crossed, KernelError> {
        let mut crossed = Crossed::new();
        for set in [TRAFFIC4, TRAFFIC6] {
            for stored in self.netlink.elements(TABLE, set)? {
                let endpoint = placement::endpoint_of(set, &stored.element.key);
                crossed.extend(endpoint.map(|endpoint| (endpoint, stored.counted)));
            }
        }
        Ok(crossed)
    }

    /// Ends the flows that came in by openings, with one look at each family's; how many there were.
    pub(super) fn end_flows(&mut self, openings: &[Opening]) -> Result<usize, KernelError> {
        let mut ended = 0;
        for v4 in [true, false] {
            let of_family = openings.iter().filter(|o| o.lease.internal.is_ipv4() == v4);
            let filters: Vec<FlowFilter> = of_family.filter_map(filter_of).collect();
            if filters.is_empty() {
                continue;
            }
            // Found by the end that is always known, and then looked at as a whole.
            let mut by_end = BTreeMap::<_, Vec<FlowFilter>>::new();
            for filter in filters {
                by_end
                    .entry((filter.from, filter.to))
                    .or_default()
                    .push(filter);
            }
            let takes = |flow: &Flow| {
                let (from, to) = (flow.original.source, flow.original.destination);
                let ends = [(None, Some(to)), (Some(from), Some(to))];
                let known = ends.iter().filter_map(|ends| by_end.get(ends));
                known.flatten().any(|filter| filter.takes(flow))
            };
            let flows = self.netlink.flows(v4, takes)?;
            ended += self.end_all(&flows)?;
        }
        Ok(ended)
    }

    fn end_all(&mut self, flows: &[Flow]) -> Result<usize, KernelError> {
        for flow in flows {
            match self.netlink.end_flow(flow) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(flows.len())
    }

    /// Lets the flows of an opening live so long without packets.
    pub(super) fn keep_flows(
        &mut self,
        opening: &Opening,
        life: Duration,
    ) -> Result<(), KernelError> {
        for flow in self.flows(opening)? {
            self.netlink.keep_flow(&flow, life)?;
        }
        Ok(())
    }

    fn flows(&mut self, opening: &Opening) -> Result<Vec<Flow>, KernelError> {
        let Some(filter) = filter_of(opening) else {
            return Ok(Vec::new());
        };
        let v4 = opening.lease.internal.is_ipv4();
        self.netlink.flows(v4, |flow| filter.takes(flow))
    }

    /// Whether somebody else took something away from the table since the last call.
    pub(super) fn was_disturbed(&mut self) -> io::Result<bool> {
        self.note_changes()?;
        Ok(std::mem::take(&mut self.disturbed))
    }

    fn note_changes(&mut self) -> io::Result<()> {
        let own = self.netlink.port();
        loop {
            match self.watcher.changes(own) {
                Ok(None) => return Ok(()),
                Ok(Some(changes)) => {
                    let ours = |change: &Change| change.table == TABLE && change.removed;
                    self.disturbed |= changes.iter().any(ours);
                    // Elements of others' sets decide nothing about us.
                    let others = |change: &Change| change.table != TABLE && !change.elements;
                    self.others_changed |= changes.iter().any(others);
                }
                // Some were missed: what they were is seen when the table is made anew.
                Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => {
                    self.disturbed = true;
                    self.others_changed = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Which flows an opening makes; none where it leads nowhere.
fn filter_of(opening: &Opening) -> Option<FlowFilter> {
    let lease = &opening.lease;
    let mut filter = FlowFilter {
        protocol: Some(lease.transport.ip_protocol()),
        ..FlowFilter::default()
    };
    match lease.kind {
        Kind::Mapping { external_port } => {
            let external = opening.external?;
            filter.to = Some(SocketAddr::new(external.into(), external_port));
            filter.answered_by = Some(lease.internal);
        }
        Kind::Peer { remote, .. } => {
            filter.from = Some(lease.internal);
            filter.to = Some(remote.into());
        }
        Kind::Pinhole => filter.to = Some(lease.internal),
        Kind::PeerPinhole { remote } => {
            filter.from = Some(remote.into());
            filter.to = Some(lease.internal);
        }
    }
    Some(filter)
}

/// Whether a change was refused because there is no room.
pub(super) fn is_full(error: &KernelError) -> bool {
    match error {
        NetlinkError::Refused { source, .. } => source.raw_os_error() == Some(SET_FULL),
        NetlinkError::Io(_) => false,
    }
}

fn batch(removed: Option<&Placement>, added: Option<(&Placement, Duration)>) -> Batch {
    let mut batch = Batch::new();
    let removed: &[Placed] = removed.map(|removed| &removed.0[..]).unwrap_or_default();
    for (set, element) in removed {
        batch.delete_elements(TABLE, set, std::slice::from_ref(element));
    }
    if let Some((added, life)) = added {
        // An element of one lease may be that of two filters.
        let unique: BTreeSet<_> = added.0.iter().collect();
        for (set, element) in unique {
            batch.add_new_elements(TABLE, set, &[living(element.clone(), life)]);
        }
    }
    batch
}

fn living(element: Element, life: Duration) -> Element {
    Element {
        timeout: Some(life),
        ..element
    }
}
