//! All leases, whatever protocol they were asked for with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use postern_wire::transport::Transport;

use super::lease::{Filter, Kind, Lease, LeaseId};

/// The leases, and the orders in which they are looked for.
#[derive(Debug, Default)]
pub(super) struct Table {
    leases: BTreeMap<LeaseId, Lease>,
    by_external: BTreeSet<(Transport, u16, LeaseId)>,
    by_internal: BTreeSet<(Transport, SocketAddr, LeaseId)>,
    by_end: BTreeSet<(Instant, LeaseId)>,
    by_owner: BTreeMap<IpAddr, u32>,
    /// Of the mappings of an inside port, the one whose outside port its traffic leaves from;
    /// of pinholes, the one that it is counted with.
    leaders: BTreeMap<(Transport, SocketAddr), LeaseId>,
    next: u64,
}

impl Table {
    /// A name that no lease has had.
    pub(super) fn new_id(&mut self) -> LeaseId {
        self.next = self.next.saturating_add(1);
        LeaseId(self.next)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// In the order in which they were granted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Of a host: those that it asked for.
    pub(super) fn count_of(&self, owner: IpAddr) -> u32 {
        self.by_owner.get(&owner).copied().unwrap_or_default()
    }

    /// Puts a lease in, in the place of the one with its name.
    pub(super) fn put(&mut self, lease: Lease) -> Option<Lease> {
        let old = self.take(lease.id);
        self.next = self.next.max(lease.id.0);
        if let Some(port) = lease.kind.external_port() {
            self.by_external.insert((lease.transport, port, lease.id));
        }
        self.by_internal
            .insert((lease.transport, lease.internal, lease.id));
        if let Some(end) = lease.expires {
            self.by_end.insert((end, lease.id));
        }
        if may_lead(&lease) {
            let place = (lease.transport, lease.internal);
            self.leaders.entry(place).or_insert(lease.id);
        }
        let count = self.by_owner.entry(lease.owner).or_default();
        *count = count.saturating_add(1);
        self.leases.insert(lease.id, lease);
        old
    }

    pub(super) fn take(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(port) = lease.kind.external_port() {
            self.by_external.remove(&(lease.transport, port, id));
        }
        self.by_internal
            .remove(&(lease.transport, lease.internal, id));
        if let Some(end) = lease.expires {
            self.by_end.remove(&(end, id));
        }
        self.unlead(&lease);
        if let Some(count) = self.by_owner.get_mut(&lease.owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_owner.remove(&lease.owner);
            }
        }
        Some(lease)
    }

    /// Whether what leaves from the inside port leaves from this lease's outside one.
    pub(super) fn leads(&self, lease: &Lease) -> bool {
        self.leaders.get(&(lease.transport, lease.internal)) == Some(&lease.id)
    }

    /// What leaves from the inside port leaves from none of this lease's.
    pub(super) fn unlead(&mut self, lease: &Lease) {
        if self.leads(lease) {
            self.leaders.remove(&(lease.transport, lease.internal));
        }
    }

    /// Finds a new leader for an inside port that has none: the oldest mapping or pinhole.
    pub(super) fn new_leader(
        &mut self,
        transport: Transport,
        internal: SocketAddr,
    ) -> Option<LeaseId> {
        if self.leaders.contains_key(&(transport, internal)) {
            return None;
        }
        let id = self
            .at_internal(transport, internal)
            .find(|lease| may_lead(lease))?
            .id;
        self.leaders.insert((transport, internal), id);
        Some(id)
    }

    /// Those that have an outside port.
    pub(super) fn at_external(
        &self,
        transport: Transport,
        port: u16,
    ) -> impl Iterator<Item = &Lease> {
        let from = (transport, port, LeaseId(0));
        let to = (transport, port, LeaseId(u64::MAX));
        let ids = self.by_external.range(from..=to);
        ids.filter_map(|(_, _, id)| self.leases.get(id))
    }

    /// Those that lead to a port of a host inside.
    pub(super) fn at_internal(
        &self,
        transport: Transport,
        internal: SocketAddr,
    ) -> impl Iterator<Item = &Lease> {
        let from = (transport, internal, LeaseId(0));
        let to = (transport, internal, LeaseId(u64::MAX));
        let ids = self.by_internal.range(from..=to);
        ids.filter_map(|(_, _, id)| self.leases.get(id))
    }

    /// Those that have an outside port in a range, in the order of ports.
    pub(super) fn externals(
        &self,
        transport: Transport,
        ports: std::ops::RangeInclusive<u16>,
    ) -> impl Iterator<Item = &Lease> {
        let from = (transport, *ports.start(), LeaseId(0));
        let to = (transport, *ports.end(), LeaseId(u64::MAX));
        let wanted = (!ports.is_empty()).then(|| self.by_external.range(from..=to));
        let ids = wanted.into_iter().flatten();
        ids.filter_map(|(_, _, id)| self.leases.get(id))
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Takes one lease that has ended.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<Lease> {
        let (end, id) = *self.by_end.first()?;
        (end <= now).then(|| self.take(id)).flatten()
    }

    /// A mapping that has the port, or part of what comes to it, among those that are `other`
    /// ones.
    pub(super) fn conflict(
        &self,
        transport: Transport,
        port: u16,
        filters: &[Filter],
        other: impl Fn(&Lease) -> bool,
    ) -> Option<&Lease> {
        self.at_external(transport, port)
            .filter(|lease| matches!(lease.kind, Kind::Mapping { .. }) && other(lease))
            .find(|lease| overlap(lease, filters))
    }
}

const fn may_lead(lease: &Lease) -> bool {
    matches!(lease.kind, Kind::Mapping { .. } | Kind::Pinhole) && lease.enabled
}

/// Whether a remote endpoint could come to both.
fn overlap(lease: &Lease, filters: &[Filter]) -> bool {
    if lease.filters.is_empty() || filters.is_empty() {
        return true;
    }
    let meets = |a: &Filter, b: &Filter| {
        let ports = a.port.is_none() || b.port.is_none() || a.port == b.port;
        ports && a.network.overlaps(&b.network)
    };
    lease
        .filters
        .iter()
        .any(|a| filters.iter().any(|b| meets(a, b)))
}
