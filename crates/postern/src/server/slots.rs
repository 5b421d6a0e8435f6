//! How many connections the server holds, in all and from one source.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections. One costs about 40 kB while TLS is set up.
const MAX_CONNECTIONS: usize = 4096;

/// Most connections of one source: an office behind one address, as in the mailboxes.
const MAX_PER_SOURCE: usize = 64;

/// Most bits of an IPv6 address that tell two customers apart.
const NETWORK_V6: u128 = !0 << 64;

/// The places for connections. A clone shares them.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

/// Connections by source. A source without any is not in it, so it never has more
/// entries than there are places.
type Taken = BTreeMap<IpAddr, usize>;

/// A place that nobody has yet.
pub(super) type Free = OwnedSemaphorePermit;

/// A place that a connection has until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _place: Free,
    source: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            taken: Arc::default(),
        }
    }

    /// Waits for a free place; `None` never happens, because nobody closes the semaphore.
    pub(super) async fn free(&self) -> Option<Free> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// Whether nobody has a place.
    pub(super) fn are_free(&self) -> bool {
        let taken = self.taken.lock();
        taken.unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// How many places are taken.
    pub(super) fn count(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.values().sum()
    }

    /// A place for a connection from `address`, if there is one at once.
    pub(super) fn try_seat(&self, address: IpAddr) -> Option<Slot> {
        let place = self.free.clone().try_acquire_owned().ok()?;
        self.seat(place, address)
    }

    /// Gives the place to a connection from `address`; `None` if its source has too many.
    pub(super) fn seat(&self, place: Free, address: IpAddr) -> Option<Slot> {
        let source = source_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(source).or_default();
        if *count >= MAX_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Slot {
            _place: place,
            source,
            taken: self.taken.clone(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// Whom the limit counts: an IPv4 address, or an IPv6 network of 64 bits.
pub(super) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & NETWORK_V6).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seat(slots: &Slots, address: &str) -> Option<Slot> {
        let place = slots.free().await.unwrap();
        slots.seat(place, address.parse().unwrap())
    }

    #[tokio::test]
    async fn a_source_has_its_share_and_others_have_theirs() {
        let slots = Slots::new();
        let mut seated = Vec::new();
        for _ in 0..MAX_PER_SOURCE {
            seated.push(seat(&slots, "192.0.2.1").await.unwrap());
        }
        assert!(seat(&slots, "192.0.2.1").await.is_none());
        assert!(seat(&slots, "::ffff:192.0.2.1").await.is_none());
        assert!(seat(&slots, "192.0.2.2").await.is_some());
        seated.pop();
        assert!(seat(&slots, "192.0.2.1").await.is_some());
    }

    #[tokio::test]
    async fn an_ipv6_network_of_64_bits_is_one_source() {
        let slots = Slots::new();
        let mut seated = Vec::new();
        for n in 0..MAX_PER_SOURCE {
            let address = format!("2001:db8::{n:x}:1");
            seated.push(seat(&slots, &address).await.unwrap());
        }
        assert!(seat(&slots, "2001:db8::ffff").await.is_none());
        assert!(seat(&slots, "2001:db8:0:1::1").await.is_some());
        assert_eq!(slots.count(), MAX_PER_SOURCE);
    }

    #[tokio::test]
    async fn nothing_is_remembered_of_who_has_left() {
        let slots = Slots::new();
        drop(seat(&slots, "192.0.2.1").await);
        assert!(slots.taken.lock().unwrap().is_empty());
        assert_eq!(slots.free.available_permits(), MAX_CONNECTIONS);
    }
}
