//! What the shards of one server have in common, each behind a lock of its own.
//!
//! No two of the locks are held at the same time. The data path takes one only where a
//! rate is limited, for a peer that is a relay of ours, and while clients are away from
//! the shard that has their allocation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_wire::turn::ReservationToken;

use super::accounts::Accounts;
use super::allocate::Reservation;
use super::ports::Ports;
use super::types::{FiveTuple, RelayId, RelayTransport, RelayedAddr, ShardIndex};

#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    accounts: Mutex<Accounts>,
    ports: Mutex<Ports>,
    reservations: Mutex<BTreeMap<ReservationToken, Reservation>>,
    relayed: Mutex<BTreeMap<(RelayTransport, SocketAddr), RelayId>>,
    strays: Mutex<BTreeMap<FiveTuple, ShardIndex>>,
    stray_count: AtomicUsize,
}

impl Shared {
    pub(super) fn new(ports: Ports) -> Self {
        Self(Arc::new(Parts {
            accounts: Mutex::default(),
            ports: Mutex::new(ports),
            reservations: Mutex::default(),
            relayed: Mutex::default(),
            strays: Mutex::default(),
            stray_count: AtomicUsize::new(0),
        }))
    }

    pub(super) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.0.accounts)
    }

    pub(super) fn ports(&self) -> MutexGuard<'_, Ports> {
        lock(&self.0.ports)
    }

    pub(super) fn reservations(&self) -> MutexGuard<'_, BTreeMap<ReservationToken, Reservation>> {
        lock(&self.0.reservations)
    }

    /// Makes a relayed address known, so that other clients may reach it.
    pub(super) fn list(
        &self,
        transport: RelayTransport,
        RelayedAddr(address): RelayedAddr,
        relay: RelayId,
    ) {
        lock(&self.0.relayed).insert((transport, address), relay);
    }

    pub(super) fn unlist(&self, transport: RelayTransport, RelayedAddr(address): RelayedAddr) {
        lock(&self.0.relayed).remove(&(transport, address));
    }

    /// The live relay that has this address.
    pub(super) fn of_relayed(
        &self,
        transport: RelayTransport,
        address: SocketAddr,
    ) -> Option<RelayId> {
        lock(&self.0.relayed).get(&(transport, address)).copied()
    }

    /// A client that moved (RFC 8016) may come to another shard than the one that has its
    /// allocation: there it is known as a stray.
    pub(super) fn add_stray(&self, client: FiveTuple, owner: ShardIndex) {
        self.change_strays(|strays| {
            strays.insert(client, owner);
        });
    }

    pub(super) fn remove_stray(&self, client: &FiveTuple, owner: ShardIndex) {
        if !self.has_strays() {
            return;
        }
        self.change_strays(|strays| {
            if strays.get(client) == Some(&owner) {
                strays.remove(client);
            }
        });
    }

    /// The shard that has a client's allocation, if the client has moved.
    pub(super) fn owner(&self, client: &FiveTuple) -> Option<ShardIndex> {
        self.has_strays()
            .then(|| lock(&self.0.strays).get(client).copied())
            .flatten()
    }

    fn has_strays(&self) -> bool {
        self.0.stray_count.load(Ordering::Acquire) > 0
    }

    fn change_strays(&self, change: impl FnOnce(&mut BTreeMap<FiveTuple, ShardIndex>)) {
        let mut strays = lock(&self.0.strays);
        change(&mut strays);
        self.0.stray_count.store(strays.len(), Ordering::Release);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.accounts().is_empty()
            && self.reservations().is_empty()
            && lock(&self.0.relayed).is_empty()
            && lock(&self.0.strays).is_empty()
    }
}

/// What is behind a lock is whole after every statement: a panic elsewhere does not spoil
/// it.
fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
