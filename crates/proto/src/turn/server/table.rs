//! All allocations, and how to find one.

use std::collections::BTreeMap;

use super::allocation::Allocation;
use super::shared::Shared;
use super::types::{AllocationId, FiveTuple, ShardIndex};

#[derive(Debug)]
pub(super) struct Table {
    shard: ShardIndex,
    shared: Shared,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: BTreeMap<FiveTuple, AllocationId>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

impl Table {
    pub(super) const fn new(shard: ShardIndex, shared: Shared) -> Self {
        Self {
            shard,
            shared,
            slots: Vec::new(),
            free: Vec::new(),
            by_client: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let client = allocation.client;
        let index = self.vacant();
        let mut id = AllocationId {
            shard: self.shard,
            index,
            generation: 0,
        };
        if let Some(slot) = self.slots.get_mut(to_usize(index)) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.allocation = Some(Box::new(allocation));
            id.generation = slot.generation;
        }
        self.by_client.insert(client, id);
        id
    }

    /// Takes an allocation out, and all ways to it.
    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let slot = self.slots.get_mut(to_usize(id.index))?;
        if (self.shard, slot.generation) != (id.shard, id.generation) {
            return None;
        }
        let allocation = *slot.allocation.take()?;
        self.free.push(id.index);
        self.forget_client(id, &allocation.client);
        if let Some(former) = &allocation.former {
            self.forget_client(id, former);
        }
        for (_, relay) in allocation.relays.iter().filter(|(_, relay)| relay.open) {
            self.shared.unlist(allocation.transport, relay.relayed());
        }
        Some(allocation)
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(to_usize(id.index))?;
        ((self.shard, slot.generation) == (id.shard, id.generation))
            .then_some(slot.allocation.as_deref())
            .flatten()
    }

    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(to_usize(id.index))?;
        ((self.shard, slot.generation) == (id.shard, id.generation))
            .then_some(slot.allocation.as_deref_mut())
            .flatten()
    }

    pub(super) fn of_client(&self, client: &FiveTuple) -> Option<AllocationId> {
        self.by_client.get(client).copied()
    }

    /// Makes another 5-tuple lead to the allocation too, whichever shard it comes to.
    pub(super) fn add_client(&mut self, id: AllocationId, client: FiveTuple) {
        self.by_client.insert(client, id);
        self.shared.add_stray(client, self.shard);
    }

    /// Makes a 5-tuple lead nowhere, if it leads to this allocation.
    pub(super) fn forget_client(&mut self, id: AllocationId, client: &FiveTuple) {
        if self.by_client.get(client) == Some(&id) {
            self.by_client.remove(client);
            self.shared.remove_stray(client, self.shard);
        }
    }

    /// All allocations, for what happens when an operator decides.
    pub(super) fn ids(&self) -> Vec<AllocationId> {
        let entries = self.slots.iter().zip(0_u32..);
        entries
            .filter(|(slot, _)| slot.allocation.is_some())
            .map(|(slot, index)| AllocationId {
                shard: self.shard,
                index,
                generation: slot.generation,
            })
            .collect()
    }

    fn vacant(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        self.slots.push(Slot::default());
        u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
