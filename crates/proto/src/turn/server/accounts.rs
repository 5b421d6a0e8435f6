//! Quotas: what each user, each address and everybody together has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::types::Source;

/// What may be had at once; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Allocations.
    pub allocations: u32,
    /// Permissions.
    pub permissions: u32,
    /// Channels.
    pub channels: u32,
    /// Connections with peers (RFC 6062).
    pub connections: u32,
    /// Bytes of relayed data a second, both directions together.
    pub bytes_per_second: u64,
}

/// The limits that hold at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// For each user.
    pub user: Limits,
    /// For each client address: an IPv4 address or an IPv6 /64.
    pub address: Limits,
    /// For all together.
    pub total: Limits,
}

impl Quotas {
    /// Whether no rate is limited.
    pub(super) const fn are_unmetered(&self) -> bool {
        self.user.bytes_per_second == 0
            && self.address.bytes_per_second == 0
            && self.total.bytes_per_second == 0
    }
}

/// The most accounts without an allocation that are kept because bandwidth was spent in
/// advance; beyond, the ones with the least of it are forgotten. No more owe something for
/// long: a second's worth and one train.
const MAX_OWING: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Allocation,
    Permission,
    Channel,
    Connection,
}

/// The accounts of one allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    user: u32,
    address: u32,
}

/// What is had.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    slots: Vec<Usage>,
    free: Vec<u32>,
    users: BTreeMap<Arc<str>, u32>,
    addresses: BTreeMap<Source, u32>,
    /// Accounts without an allocation, and until when their bandwidth is spent: a new
    /// allocation does not begin anew.
    owing: BTreeSet<(Instant, u32)>,
    total: Usage,
}

#[derive(Debug, Default)]
struct Usage {
    allocations: u32,
    permissions: u32,
    channels: u32,
    connections: u32,
    owner: Owner,
    meter: Option<Instant>,
}

#[derive(Debug, Default)]
enum Owner {
    #[default]
    Nobody,
    User(Arc<str>),
    Address(Source),
}

impl Accounts {
    /// Takes one allocation for a user at an address, and gives their accounts; `None` if
    /// one of them, or all together, have as many as they may.
    pub(super) fn open(
        &mut self,
        now: Instant,
        quotas: &Quotas,
        user: &Arc<str>,
        address: Source,
    ) -> Option<Holder> {
        self.forget_settled(now);
        let holder = Holder {
            user: self.account_of_user(user),
            address: self.account_of_address(address),
        };
        let taken = self.take(quotas, holder, Resource::Allocation);
        if !taken {
            self.close_if_idle(holder);
        }
        taken.then_some(holder)
    }

    /// Gives an allocation back, and what is left of its accounts.
    pub(super) fn close(&mut self, holder: Holder) {
        self.give_back(holder, Resource::Allocation);
        self.close_if_idle(holder);
    }

    /// Takes one, unless a limit is reached.
    pub(super) fn take(&mut self, quotas: &Quotas, holder: Holder, what: Resource) -> bool {
        let fits = self.usage(holder.user).fits(&quotas.user, what)
            && self.usage(holder.address).fits(&quotas.address, what)
            && self.total.fits(&quotas.total, what);
        if fits {
            self.change(holder, |usage| {
                let count = usage.count(what);
                *count = count.saturating_add(1);
            });
        }
        fits
    }

    /// Whether all together have as many allocations as they may.
    pub(super) const fn are_full(&self, quotas: &Quotas) -> bool {
        !self.total.fits(&quotas.total, Resource::Allocation)
    }

    pub(super) fn give_back(&mut self, holder: Holder, what: Resource) {
        self.change(holder, |usage| {
            let count = usage.count(what);
            *count = count.saturating_sub(1);
        });
    }

    /// Spends bandwidth, unless there is none left.
    pub(super) fn spend(
        &mut self,
        now: Instant,
        quotas: &Quotas,
        holder: Holder,
        bytes: usize,
    ) -> bool {
        let user = cost(bytes, quotas.user.bytes_per_second);
        let address = cost(bytes, quotas.address.bytes_per_second);
        let total = cost(bytes, quotas.total.bytes_per_second);
        let allowed = self.usage(holder.user).can_spend(now, user)
            && self.usage(holder.address).can_spend(now, address)
            && self.total.can_spend(now, total);
        if allowed {
            self.total.spend(now, total);
            if let Some(usage) = self.slot(holder.user) {
                usage.spend(now, user);
            }
            if let Some(usage) = self.slot(holder.address) {
                usage.spend(now, address);
            }
        }
        allowed
    }

    /// The accounts of a user's allocation that goes to another address with all that it
    /// has; `None` if the address may not have so much more.
    pub(super) fn relocate(
        &mut self,
        quotas: &Quotas,
        old: Holder,
        address: Source,
        user: &Arc<str>,
        has: &[(Resource, usize)],
    ) -> Option<Holder> {
        let new = Holder {
            user: self.account_of_user(user),
            address: self.account_of_address(address),
        };
        let there = self.usage(new.address);
        let fits = new.address == old.address
            || has
                .iter()
                .all(|(what, count)| there.has_room(&quotas.address, *what, *count));
        if fits {
            for (what, count) in has {
                self.transfer(old, new, *what, *count);
            }
        }
        self.close_if_idle(if fits { old } else { new });
        fits.then_some(new)
    }

    /// Moves what is counted for one address to another one's account.
    fn transfer(&mut self, old: Holder, new: Holder, what: Resource, count: usize) {
        let moved = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(usage) = self.slot(old.address) {
            let count = usage.count(what);
            *count = count.saturating_sub(moved);
        }
        if let Some(usage) = self.slot(new.address) {
            let count = usage.count(what);
            *count = count.saturating_add(moved);
        }
    }

    /// How many allocations there are.
    pub(super) const fn allocations(&self) -> u32 {
        self.total.allocations
    }

    fn account_of_user(&mut self, user: &Arc<str>) -> u32 {
        match self.users.get(user) {
            Some(index) => *index,
            None => {
                let index = self.insert(Owner::User(Arc::clone(user)));
                self.users.insert(Arc::clone(user), index);
                index
            }
        }
    }

    fn account_of_address(&mut self, address: Source) -> u32 {
        match self.addresses.get(&address) {
            Some(index) => *index,
            None => {
                let index = self.insert(Owner::Address(address));
                self.addresses.insert(address, index);
                index
            }
        }
    }

    fn insert(&mut self, owner: Owner) -> u32 {
        let usage = Usage {
            owner,
            ..Usage::default()
        };
        let free = self.free.pop();
        if let Some((index, slot)) =
            free.and_then(|index| Some((index, self.slots.get_mut(to_usize(index))?)))
        {
            *slot = usage;
            return index;
        }
        self.slots.push(usage);
        u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Whether nobody has anything; what is owed does not count.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let mut accounts = self.users.values().chain(self.addresses.values());
        let kept = self.users.len().saturating_add(self.addresses.len());
        self.total.is_empty()
            && accounts.all(|index| self.usage(*index).is_empty())
            && self.owing.len() >= kept
    }

    /// What each user, each address and all together have: allocations, permissions,
    /// channels, connections.
    #[cfg(test)]
    pub(super) fn counted(&self) -> Counted {
        let counts = |index: &u32| self.usage(*index).counts();
        let users = self.users.iter();
        let addresses = self.addresses.iter();
        Counted {
            users: users
                .map(|(user, index)| (user.to_string(), counts(index)))
                .collect(),
            addresses: addresses
                .map(|(address, index)| (*address, counts(index)))
                .collect(),
            total: self.total.counts(),
        }
    }

    fn close_if_idle(&mut self, holder: Holder) {
        for index in [holder.user, holder.address] {
            let usage = self.usage(index);
            match (usage.allocations, usage.meter) {
                (0, None) => self.forget(index),
                (0, Some(meter)) => self.keep_owing(meter, index),
                _ => {}
            }
        }
    }

    fn keep_owing(&mut self, until: Instant, index: u32) {
        self.owing.insert((until, index));
        if self.owing.len() > MAX_OWING
            && let Some((_, first)) = self.owing.pop_first()
            && self.usage(first).allocations == 0
        {
            self.forget(first);
        }
    }

    /// Forgets accounts whose bandwidth is paid, unless they are in use again.
    fn forget_settled(&mut self, now: Instant) {
        while let Some((until, index)) = self.owing.first().copied().filter(|(at, _)| *at <= now) {
            self.owing.remove(&(until, index));
            let usage = self.usage(index);
            if usage.allocations == 0 && usage.meter.is_none_or(|meter| meter <= now) {
                self.forget(index);
            }
        }
    }

    fn forget(&mut self, index: u32) {
        let Some(usage) = self.slot(index) else {
            return;
        };
        match std::mem::take(usage).owner {
            Owner::Nobody => return,
            Owner::User(user) => self.users.remove(&user),
            Owner::Address(address) => self.addresses.remove(&address),
        };
        self.free.push(index);
    }

    fn usage(&self, index: u32) -> &Usage {
        self.slots.get(to_usize(index)).unwrap_or(&self.total)
    }

    fn slot(&mut self, index: u32) -> Option<&mut Usage> {
        self.slots.get_mut(to_usize(index))
    }

    fn change(&mut self, holder: Holder, change: impl Fn(&mut Usage)) {
        change(&mut self.total);
        for index in [holder.user, holder.address] {
            if let Some(usage) = self.slot(index) {
                change(usage);
            }
        }
    }
}

/// What is counted, for tests.
#[cfg(test)]
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) users: BTreeMap<String, [u32; 4]>,
    pub(super) addresses: BTreeMap<Source, [u32; 4]>,
    pub(super) total: [u32; 4],
}

impl Usage {
    #[cfg(test)]
    const fn counts(&self) -> [u32; 4] {
        [
            self.allocations,
            self.permissions,
            self.channels,
            self.connections,
        ]
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.counts() == [0; 4]
    }

    const fn count(&mut self, what: Resource) -> &mut u32 {
        match what {
            Resource::Allocation => &mut self.allocations,
            Resource::Permission => &mut self.permissions,
            Resource::Channel => &mut self.channels,
            Resource::Connection => &mut self.connections,
        }
    }

    const fn fits(&self, limits: &Limits, what: Resource) -> bool {
        self.has_room(limits, what, 1)
    }

    const fn has_room(&self, limits: &Limits, what: Resource, more: usize) -> bool {
        let (count, limit) = match what {
            Resource::Allocation => (self.allocations, limits.allocations),
            Resource::Permission => (self.permissions, limits.permissions),
            Resource::Channel => (self.channels, limits.channels),
            Resource::Connection => (self.connections, limits.connections),
        };
        let room = limit.saturating_sub(count) as usize;
        limit == 0 || more == 0 || more <= room
    }

    /// One second's worth may be spent at once, and the last train may overdraw it.
    fn can_spend(&self, now: Instant, cost: Duration) -> bool {
        cost.is_zero()
            || self
                .meter
                .is_none_or(|meter| meter.saturating_duration_since(now) < Duration::from_secs(1))
    }

    fn spend(&mut self, now: Instant, cost: Duration) {
        if !cost.is_zero() {
            self.meter = Some(self.paid_until(now, cost));
        }
    }

    fn paid_until(&self, now: Instant, cost: Duration) -> Instant {
        let from = self.meter.map_or(now, |meter| meter.max(now));
        from.checked_add(cost).unwrap_or(from)
    }
}

/// The time that a rate takes for so many bytes; none without a limit.
fn cost(bytes: usize, rate: u64) -> Duration {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let nanos = bytes.saturating_mul(1_000_000_000).checked_div(rate);
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
