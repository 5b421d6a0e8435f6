//! The state of a NAT or a stateful firewall: mappings and sessions.

use super::ports::Allocator;
use super::{Filtering, Firewall, Mapping, Nat, Ports, Timeouts, Unsolicited};
use crate::sim::random::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The two ends of a packet after translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translated {
    /// The end that belongs to the router's own side.
    pub(crate) own: SocketAddr,
    /// The end on the far side.
    pub(crate) remote: SocketAddr,
}

/// Why a packet does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No mapping has this external endpoint.
    NoMapping,
    /// A mapping has it, but its filter keeps the sender out.
    Filtered,
    /// Every session or port is taken.
    Full,
}

/// The part of a remote endpoint that a mapping depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl Scope {
    const fn of(mapping: Mapping, remote: SocketAddr) -> Self {
        match mapping {
            Mapping::EndpointIndependent => Self::Any,
            Mapping::AddressDependent => Self::Address(remote.ip()),
            Mapping::AddressAndPortDependent => Self::Endpoint(remote),
        }
    }
}

impl Scope {
    /// Whether a remote endpoint belongs to it.
    fn covers(self, remote: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Address(address) => address == remote.ip(),
            Self::Endpoint(endpoint) => endpoint == remote,
        }
    }
}

/// A mapping's place: its external endpoint, and a number that tells those apart that
/// share it where the NAT overloads ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    external: SocketAddr,
    number: u32,
}

#[derive(Debug)]
struct Entry {
    internal: SocketAddr,
    scope: Scope,
    dies: Option<Instant>,
    /// By remote endpoint as it is outside.
    sessions: BTreeMap<SocketAddr, Session>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    /// The remote endpoint as the inside sees it.
    seen_as: SocketAddr,
    begun: Direction,
    replied: bool,
    expires: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Outbound,
    Inbound,
}

/// The mappings and sessions of one router for one protocol.
#[derive(Debug)]
pub(crate) struct NatTable {
    mapping: Mapping,
    filtering: Filtering,
    unsolicited: Unsolicited,
    timeouts: Timeouts,
    capacity: usize,
    overload: bool,
    tracks_inbound: bool,
    allocator: Allocator,
    /// The external address, or `None` where addresses stay as they are.
    address: Option<IpAddr>,
    entries: BTreeMap<Key, Entry>,
    by_scope: BTreeMap<(SocketAddr, Scope), Key>,
    /// Internal endpoint and remote as seen inside, to mapping and remote outside.
    by_flow: BTreeMap<(SocketAddr, SocketAddr), (Key, SocketAddr)>,
    /// Flows that the router took for its own, by external and remote endpoint.
    strays: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    /// No later than each session's end; the session itself knows its end.
    deadlines: BTreeSet<(Instant, Key, SocketAddr)>,
}

impl NatTable {
    pub(crate) fn nat(nat: &Nat, address: IpAddr, random: Stream) -> Self {
        Self {
            mapping: nat.mapping,
            filtering: nat.filtering,
            unsolicited: nat.unsolicited,
            timeouts: nat.timeouts,
            capacity: nat.capacity,
            overload: nat.overload,
            tracks_inbound: nat.tracks_inbound,
            allocator: Allocator::new(nat, random),
            address: Some(address),
            entries: BTreeMap::new(),
            by_scope: BTreeMap::new(),
            by_flow: BTreeMap::new(),
            strays: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// The same for TCP. A RST ends the session that it belongs to, so that nothing is left
    /// of packets that the router has taken for its own and refused.
    pub(crate) fn tcp(nat: &Nat, address: IpAddr, random: Stream) -> Self {
        let nat = Nat {
            timeouts: nat.tcp_timeouts,
            unsolicited: Unsolicited::Drop,
            ..*nat
        };
        Self::nat(&nat, address, random)
    }

    pub(crate) fn firewall(firewall: &Firewall, random: Stream) -> Self {
        let nat = Nat {
            timeouts: firewall.timeouts,
            capacity: firewall.capacity,
            ..Nat::new(Mapping::EndpointIndependent, firewall.filtering)
        };
        let unused = IpAddr::from([0, 0, 0, 0]);
        Self {
            address: None,
            ..Self::nat(&nat, unused, random)
        }
    }

    /// Forgets everything, as a reboot does.
    pub(crate) fn flush(&mut self) {
        self.entries.clear();
        self.by_scope.clear();
        self.by_flow.clear();
        self.strays.clear();
        self.deadlines.clear();
    }

    /// Forgets everything and has another external address from here on, where it had one.
    pub(crate) fn renumber(&mut self, address: IpAddr) {
        self.flush();
        self.address = self.address.map(|_| address);
    }

    /// Sessions alive at `now`.
    pub(crate) fn sessions(&mut self, now: Instant) -> usize {
        self.expire(now);
        self.by_flow.len()
    }

    /// The mappings alive at `now`: internal and external endpoint.
    pub(crate) fn mappings(&mut self, now: Instant) -> Vec<(SocketAddr, SocketAddr)> {
        self.expire(now);
        let entries = self.entries.iter();
        entries
            .map(|(key, entry)| (entry.internal, key.external))
            .collect()
    }

    /// Translates a packet from inside; `own` of the result is the external endpoint.
    pub(crate) fn outbound(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Translated, Refusal> {
        self.expire(now);
        if let Some(&(key, remote)) = self.by_flow.get(&(internal, remote)) {
            self.refresh(now, key, remote, Direction::Outbound);
            let own = key.external;
            return Ok(Translated { own, remote });
        }
        if self.by_flow.len() >= self.capacity {
            return Err(Refusal::Full);
        }
        let key = self.mapping_for(now, internal, remote)?;
        self.open(now, key, remote, remote, Direction::Outbound);
        let own = key.external;
        Ok(Translated { own, remote })
    }

    /// Translates a packet from outside; `own` of the result is the internal endpoint.
    pub(crate) fn inbound(
        &mut self,
        now: Instant,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Translated, Refusal> {
        self.expire(now);
        match self.admit(external, remote) {
            Ok((key, internal)) => self.pass_inbound(now, internal, key, remote),
            Err(refusal) => {
                self.on_unsolicited(now, external, remote);
                Err(refusal)
            }
        }
    }

    /// Ends the session between an internal endpoint and a remote one as it sees it.
    pub(crate) fn end(&mut self, now: Instant, internal: SocketAddr, seen_as: SocketAddr) {
        let Some(&(key, remote)) = self.by_flow.get(&(internal, seen_as)) else {
            return;
        };
        let entry = self.entries.get_mut(&key);
        if let Some(session) = entry.and_then(|entry| entry.sessions.get_mut(&remote)) {
            session.expires = now;
        }
        self.close_if_over(now, key, remote);
    }

    /// The internal endpoint behind an external one, whatever the filter says.
    pub(crate) fn behind(&mut self, now: Instant, external: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        let (_, entry) = self.sharing(external).next_back()?;
        Some(entry.internal)
    }

    /// The mappings that have this external endpoint, the latest last.
    fn sharing(&self, external: SocketAddr) -> impl DoubleEndedIterator<Item = (Key, &Entry)> {
        let key = |number| Key { external, number };
        let range = self.entries.range(key(0)..=key(u32::MAX));
        range.map(|(key, entry)| (*key, entry))
    }

    fn mapping_for(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Key, Refusal> {
        let scope = Scope::of(self.mapping, remote);
        match self.by_scope.get(&(internal, scope)) {
            Some(&key) if !self.is_stray(now, key.external, remote) => Ok(key),
            Some(_) => self.allocate_aside(now, internal, remote),
            None => self.allocate(now, internal, remote, scope),
        }
    }

    fn allocate(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        remote: SocketAddr,
        scope: Scope,
    ) -> Result<Key, Refusal> {
        let Some(address) = self.address else {
            return Ok(self.insert(now, internal, internal, scope));
        };
        let (entries, strays, overload) = (&self.entries, &self.strays, self.overload);
        let is_free = |port| {
            let own = SocketAddr::new(address, port);
            is_open(entries, own, scope, overload) && !is_live(strays, now, own, remote)
        };
        let port = self.allocator.port(now, internal, is_free);
        let own = SocketAddr::new(address, port.ok_or(Refusal::Full)?);
        Ok(self.insert(now, internal, own, scope))
    }

    /// A mapping for this one flow, because the one it should have is taken towards
    /// this remote endpoint by a flow of the router's own.
    fn allocate_aside(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Key, Refusal> {
        let Some(address) = self.address else {
            return Ok(Key {
                external: internal,
                number: 0,
            });
        };
        let (entries, overload) = (&self.entries, self.overload);
        let scope = Scope::Endpoint(remote);
        let is_free = |port| is_open(entries, SocketAddr::new(address, port), scope, overload);
        let port = self.allocator.any(Ports::ALL, is_free);
        let own = SocketAddr::new(address, port.ok_or(Refusal::Full)?);
        Ok(self.insert(now, internal, own, Scope::Endpoint(remote)))
    }

    fn insert(&mut self, now: Instant, internal: SocketAddr, own: SocketAddr, scope: Scope) -> Key {
        let entry = Entry {
            internal,
            scope,
            dies: self.timeouts.lifetime.map(|lifetime| now + lifetime),
            sessions: BTreeMap::new(),
        };
        let last = self.sharing(own).next_back();
        let number = last.map_or(0, |(key, _)| key.number + 1);
        let key = Key {
            external: own,
            number,
        };
        self.entries.insert(key, entry);
        self.by_scope.insert((internal, scope), key);
        key
    }

    /// The mapping that a packet from outside belongs to: the one that has the flow, else
    /// the latest whose filter lets it in.
    fn admit(
        &self,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(Key, SocketAddr), Refusal> {
        let flow = |(_, entry): &(Key, &Entry)| entry.sessions.contains_key(&remote);
        let admits = |(_, entry): &(Key, &Entry)| match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => entry.knows_address(remote.ip()),
            Filtering::AddressAndPortDependent => false,
        };
        let known = self.sharing(external).next().ok_or(Refusal::NoMapping)?;
        let admitted = if self.overload {
            let mut sharing = self.sharing(external);
            let flow = sharing.find(flow);
            flow.or_else(|| self.sharing(external).rev().find(admits))
        } else {
            Some(known).filter(|entry| flow(entry) || admits(entry))
        };
        let (key, entry) = admitted.ok_or(Refusal::Filtered)?;
        Ok((key, entry.internal))
    }

    fn pass_inbound(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        external: Key,
        remote: SocketAddr,
    ) -> Result<Translated, Refusal> {
        if let Some(seen_as) = self.refresh(now, external, remote, Direction::Inbound) {
            return Ok(Translated {
                own: internal,
                remote: seen_as,
            });
        }
        if !self.tracks_inbound && !self.covers(external, remote) {
            return Ok(Translated {
                own: internal,
                remote,
            });
        }
        if self.by_flow.len() >= self.capacity {
            return Err(Refusal::Full);
        }
        let seen_as = self.distinct_source(internal, remote)?;
        self.open(now, external, remote, seen_as, Direction::Inbound);
        Ok(Translated {
            own: internal,
            remote: seen_as,
        })
    }

    /// Whether the inside, too, would be given this mapping towards `remote`.
    fn covers(&self, external: Key, remote: SocketAddr) -> bool {
        let entry = self.entries.get(&external);
        entry.is_some_and(|entry| entry.scope.covers(remote))
    }

    /// The source under which the inside sees `remote`. When the internal endpoint has a
    /// flow to `remote` through another mapping, answers could not tell the two apart:
    /// like Linux, the new one then gets another source port.
    fn distinct_source(
        &mut self,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        let by_flow = &self.by_flow;
        let is_free = |port| !by_flow.contains_key(&(internal, SocketAddr::new(remote.ip(), port)));
        if is_free(remote.port()) {
            return Ok(remote);
        }
        let port = self.allocator.any(Ports::ALL, is_free);
        Ok(SocketAddr::new(remote.ip(), port.ok_or(Refusal::Full)?))
    }

    fn open(
        &mut self,
        now: Instant,
        own: Key,
        remote: SocketAddr,
        seen_as: SocketAddr,
        begun: Direction,
    ) {
        let Some(entry) = self.entries.get_mut(&own) else {
            return;
        };
        let expires = capped(now + self.timeouts.unreplied, entry.dies);
        let session = Session {
            seen_as,
            begun,
            replied: false,
            expires,
        };
        entry.sessions.insert(remote, session);
        self.by_flow
            .insert((entry.internal, seen_as), (own, remote));
        self.deadlines.insert((expires, own, remote));
    }

    /// Prolongs a session that a packet has used; returns how the inside sees its
    /// remote endpoint, or `None` when there is no such session.
    fn refresh(
        &mut self,
        now: Instant,
        own: Key,
        remote: SocketAddr,
        direction: Direction,
    ) -> Option<SocketAddr> {
        let entry = self.entries.get_mut(&own)?;
        let session = entry.sessions.get_mut(&remote)?;
        session.replied |= direction != session.begun;
        if direction == Direction::Outbound || self.timeouts.inbound_refresh {
            session.expires = capped(now + self.timeouts.idle(session.replied), entry.dies);
        }
        Some(session.seen_as)
    }

    fn on_unsolicited(&mut self, now: Instant, external: SocketAddr, remote: SocketAddr) {
        if self.unsolicited != Unsolicited::Accept {
            return;
        }
        if self.strays.len() >= self.capacity {
            self.strays.retain(|_, &mut expires| expires > now);
        }
        if self.strays.len() < self.capacity {
            let expires = now + self.timeouts.unreplied;
            self.strays.insert((external, remote), expires);
        }
    }

    fn is_stray(&self, now: Instant, own: SocketAddr, remote: SocketAddr) -> bool {
        is_live(&self.strays, now, own, remote)
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(at, own, remote)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.close_if_over(now, own, remote);
        }
    }

    fn close_if_over(&mut self, now: Instant, own: Key, remote: SocketAddr) {
        let Some(entry) = self.entries.get_mut(&own) else {
            return;
        };
        let Some(session) = entry.sessions.get(&remote).copied() else {
            return;
        };
        if session.expires > now {
            self.deadlines.insert((session.expires, own, remote));
            return;
        }
        entry.sessions.remove(&remote);
        self.by_flow.remove(&(entry.internal, session.seen_as));
        if entry.sessions.is_empty() {
            self.remove_mapping(own);
        }
    }

    fn remove_mapping(&mut self, own: Key) {
        let Some(entry) = self.entries.remove(&own) else {
            return;
        };
        let key = (entry.internal, entry.scope);
        if self.by_scope.get(&key) == Some(&own) {
            self.by_scope.remove(&key);
        }
    }
}

impl Entry {
    fn knows_address(&self, address: IpAddr) -> bool {
        let first = SocketAddr::new(address, 0);
        let mut from_there = self.sessions.range(first..);
        from_there
            .next()
            .is_some_and(|(remote, _)| remote.ip() == address)
    }
}

impl Timeouts {
    const fn idle(&self, replied: bool) -> std::time::Duration {
        if replied {
            self.replied
        } else {
            self.unreplied
        }
    }
}

fn capped(expires: Instant, dies: Option<Instant>) -> Instant {
    dies.map_or(expires, |dies| expires.min(dies))
}

/// Whether an external endpoint can serve a new mapping of this scope: nobody has it, or
/// the NAT overloads ports and nobody who has it has a flow with the same remote endpoint.
fn is_open(
    entries: &BTreeMap<Key, Entry>,
    external: SocketAddr,
    scope: Scope,
    overload: bool,
) -> bool {
    let key = |number| Key { external, number };
    let mut sharing = entries.range(key(0)..=key(u32::MAX)).map(|(_, e)| e);
    if !overload || scope == Scope::Any {
        return sharing.next().is_none();
    }
    !sharing.any(|entry| {
        entry.scope == Scope::Any || entry.sessions.keys().any(|remote| scope.covers(*remote))
    })
}

fn is_live(
    strays: &BTreeMap<(SocketAddr, SocketAddr), Instant>,
    now: Instant,
    own: SocketAddr,
    remote: SocketAddr,
) -> bool {
    strays
        .get(&(own, remote))
        .is_some_and(|&expires| expires > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::nat::Allocation;
    use crate::sim::random::seed;
    use std::time::Duration;

    const CAPACITY: usize = 20;

    /// A small world of endpoints, so that everything collides with everything.
    fn endpoint(network: u8, dice: &mut Stream) -> SocketAddr {
        let host = u8::try_from(dice.below(3)).unwrap();
        let port = 2000 + u16::try_from(dice.below(4)).unwrap();
        SocketAddr::from(([network, 0, 0, host], port))
    }

    fn random_nat(dice: &mut Stream) -> Nat {
        let mappings = [
            Mapping::EndpointIndependent,
            Mapping::AddressDependent,
            Mapping::AddressAndPortDependent,
        ];
        let filterings = [
            Filtering::EndpointIndependent,
            Filtering::AddressDependent,
            Filtering::AddressAndPortDependent,
        ];
        let narrow = Ports {
            first: 2000,
            last: 2015,
        };
        let allocations = [Allocation::Preserving, Allocation::Random(narrow)];
        let mut roll = |sides| usize::try_from(dice.below(sides)).unwrap();
        let nat = Nat::new(mappings[roll(3)], filterings[roll(3)]);
        let unsolicited = [Unsolicited::Drop, Unsolicited::Accept][roll(2)];
        Nat {
            allocation: allocations[roll(2)],
            unsolicited,
            capacity: CAPACITY,
            ..nat
        }
    }

    fn assert_consistent(table: &NatTable) {
        let sessions: usize = table.entries.values().map(|e| e.sessions.len()).sum();
        assert_eq!(sessions, table.by_flow.len(), "one flow for each session");
        assert!(sessions <= CAPACITY && table.strays.len() <= CAPACITY);
        for (&(internal, seen_as), (own, remote)) in &table.by_flow {
            let entry = &table.entries[own];
            let session = &entry.sessions[remote];
            assert_eq!((entry.internal, session.seen_as), (internal, seen_as));
            let mut deadlines = table.deadlines.iter();
            let ends = |&(at, o, r): &_| (o, r) == (*own, *remote) && at <= session.expires;
            assert!(deadlines.any(ends), "every session ends by itself");
        }
        for (&(internal, _), own) in &table.by_scope {
            assert_eq!(table.entries[own].internal, internal);
        }
        assert!(table.entries.values().all(|e| !e.sessions.is_empty()));
    }

    /// A packet out is answered on the way that it took; a packet in likewise.
    fn assert_answered(table: &mut NatTable, now: Instant, dice: &mut Stream) {
        let (inside, outside) = (endpoint(10, dice), endpoint(45, dice));
        let external = endpoint(99, dice);
        if dice.chance(0.5) {
            if let Ok(out) = table.outbound(now, inside, outside) {
                let back = table.inbound(now, out.own, out.remote).unwrap();
                assert_eq!((back.own, back.remote), (inside, outside));
            }
        } else if let Ok(inner) = table.inbound(now, external, outside) {
            let back = table.outbound(now, inner.own, inner.remote).unwrap();
            assert_eq!((back.own, back.remote), (external, outside));
        }
    }

    #[test]
    fn whatever_happens_the_table_stays_consistent_and_answers_find_back() {
        for number in 0..200 {
            let mut dice = Stream::new(seed(number), 0);
            let nat = random_nat(&mut dice);
            let address = IpAddr::from([99, 0, 0, 0]);
            let mut table = NatTable::nat(&nat, address, Stream::new(seed(number), 1));
            let mut now = Instant::now();
            for _ in 0..200 {
                assert_answered(&mut table, now, &mut dice);
                assert_consistent(&table);
                now += Duration::from_secs(dice.below(20));
            }
            table.expire(now + Duration::from_secs(1000));
            assert!(table.entries.is_empty() && table.deadlines.is_empty());
        }
    }
}
