//! One allocation: its relays, permissions and channels.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::TransactionId;
use postern_wire::turn::{AddressFamily, ChannelNumber, ReservationToken};

use super::accounts::Holder;
use super::allocate::Missing;
use super::types::{
    AllocationId, FiveTuple, PeerAddr, RelayId, RelayPort, RelayTransport, RelayedAddr,
};
use crate::stun::Session;

/// An allocation (RFC 8656 section 2.2).
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) client: FiveTuple,
    /// Where it moved from (RFC 8016): what is on the way from there still counts.
    pub(super) former: Option<Box<FiveTuple>>,
    pub(super) session: Session,
    pub(super) transport: RelayTransport,
    pub(super) relays: Relays,
    /// What is kept until all relays are open.
    pub(super) opening: Option<Box<Opening>>,
    pub(super) lifetime: Duration,
    pub(super) expires: Instant,
    pub(super) created_by: TransactionId,
    pub(super) moved_by: Option<TransactionId>,
    pub(super) ticket: Option<[u8; 16]>,
    pub(super) reservation: Option<ReservationToken>,
    /// The family that was asked for and not given, and why.
    pub(super) missing: Option<Missing>,
    /// Whether that is to be told with the attribute type of the drafts of RFC 8656.
    pub(super) asked_as_draft: bool,
    pub(super) permissions: Permissions,
    pub(super) channels: Channels,
    pub(super) connections: BTreeMap<PeerAddr, u32>,
    pub(super) holder: Holder,
    /// When its entry among the deadlines is due.
    pub(super) due: Instant,
}

impl Allocation {
    /// Whether it can be used: its relays are open and its time has not come.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.opening.is_none() && now < self.expires
    }

    /// When something of it ends next.
    pub(super) fn next_end(&self) -> Instant {
        let parts = [
            Some(self.expires),
            self.permissions.next_end(),
            self.channels.next_end(),
        ];
        parts.into_iter().flatten().min().unwrap_or(self.expires)
    }
}

/// A response that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) id: TransactionId,
    pub(super) fingerprint: bool,
}

/// An allocation whose relays are not all open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) pending: Pending,
    /// How many more ports may be tried.
    pub(super) attempts: u8,
    /// Whether another port would do.
    pub(super) parity: Option<super::ports::Parity>,
}

/// A relay socket or listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relay {
    pub(super) bind: IpAddr,
    pub(super) advertised: IpAddr,
    pub(super) port: RelayPort,
    pub(super) open: bool,
}

impl Relay {
    pub(super) const fn bound(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.port.0)
    }

    pub(super) const fn relayed(&self) -> RelayedAddr {
        RelayedAddr(SocketAddr::new(self.advertised, self.port.0))
    }
}

/// At most one relay of each family.
#[derive(Debug, Default)]
pub(super) struct Relays {
    v4: Option<Relay>,
    v6: Option<Relay>,
}

impl Relays {
    pub(super) const fn get(&self, family: AddressFamily) -> Option<&Relay> {
        self.slot_ref(family).as_ref()
    }

    pub(super) const fn slot(&mut self, family: AddressFamily) -> &mut Option<Relay> {
        match family {
            AddressFamily::V4 => &mut self.v4,
            AddressFamily::V6 => &mut self.v6,
        }
    }

    const fn slot_ref(&self, family: AddressFamily) -> &Option<Relay> {
        match family {
            AddressFamily::V4 => &self.v4,
            AddressFamily::V6 => &self.v6,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressFamily, &Relay)> {
        [AddressFamily::V4, AddressFamily::V6]
            .into_iter()
            .filter_map(|family| Some((family, self.get(family)?)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn all_open(&self) -> bool {
        self.iter().all(|(_, relay)| relay.open)
    }

    pub(super) fn count(&self) -> usize {
        self.iter().count()
    }
}

/// Names the relay of an allocation.
pub(super) const fn relay_id(allocation: AllocationId, family: AddressFamily) -> RelayId {
    RelayId { allocation, family }
}

/// Which IP addresses may send to the client and be sent to (RFC 8656 section 9).
#[derive(Debug, Default)]
pub(super) struct Permissions(Vec<Permission>);

#[derive(Debug, Clone, Copy)]
struct Permission {
    ip: IpAddr,
    expires: Instant,
}

impl Permissions {
    pub(super) fn is_live(&self, now: Instant, ip: IpAddr) -> bool {
        self.find(ip)
            .ok()
            .and_then(|index| self.0.get(index))
            .is_some_and(|permission| now < permission.expires)
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.find(ip).is_ok()
    }

    /// Installs or refreshes.
    pub(super) fn install(&mut self, ip: IpAddr, expires: Instant) {
        match self.find(ip) {
            Ok(index) => {
                if let Some(permission) = self.0.get_mut(index) {
                    permission.expires = expires;
                }
            }
            Err(index) => self.0.insert(index, Permission { ip, expires }),
        }
    }

    /// Drops those that have run out or are not kept, and says how many.
    pub(super) fn retain(&mut self, now: Instant, keep: impl Fn(IpAddr) -> bool) -> usize {
        let before = self.0.len();
        self.0
            .retain(|permission| now < permission.expires && keep(permission.ip));
        before.saturating_sub(self.0.len())
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(|permission| permission.expires).min()
    }

    fn find(&self, ip: IpAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ip, |permission| permission.ip)
    }
}

/// Which channel stands for which peer (RFC 8656 section 12).
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: Vec<Channel>,
    by_peer: Vec<(PeerAddr, ChannelNumber)>,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: ChannelNumber,
    peer: PeerAddr,
    expires: Instant,
}

impl Channels {
    pub(super) fn peer(&self, now: Instant, number: ChannelNumber) -> Option<PeerAddr> {
        let channel = self.by_number.get(self.find(number).ok()?)?;
        (now < channel.expires).then_some(channel.peer)
    }

    pub(super) fn channel(&self, now: Instant, peer: PeerAddr) -> Option<ChannelNumber> {
        let index = self.find_peer(peer).ok()?;
        let (_, number) = *self.by_peer.get(index)?;
        self.peer(now, number).map(|_| number)
    }

    /// Whether the pair can be bound: both are free, or bound to each other. `Some(true)`
    /// if it is bound.
    pub(super) fn check(&self, number: ChannelNumber, peer: PeerAddr) -> Option<bool> {
        let channel = self.find(number).ok().and_then(|i| self.by_number.get(i));
        let bound = self.find_peer(peer).ok().and_then(|i| self.by_peer.get(i));
        match (channel, bound) {
            (None, None) => Some(false),
            (Some(channel), Some((_, bound))) if channel.peer == peer && *bound == number => {
                Some(true)
            }
            _ => None,
        }
    }

    /// Binds or refreshes a pair that was checked.
    pub(super) fn bind(&mut self, number: ChannelNumber, peer: PeerAddr, expires: Instant) {
        let channel = Channel {
            number,
            peer,
            expires,
        };
        match self.find(number) {
            Ok(index) => {
                if let Some(bound) = self.by_number.get_mut(index) {
                    *bound = channel;
                }
            }
            Err(index) => self.by_number.insert(index, channel),
        }
        if let Err(index) = self.find_peer(peer) {
            self.by_peer.insert(index, (peer, number));
        }
    }

    /// Drops those that have run out, and says how many.
    pub(super) fn purge(&mut self, now: Instant) -> usize {
        let before = self.by_number.len();
        self.by_number.retain(|channel| now < channel.expires);
        let dropped = before.saturating_sub(self.by_number.len());
        if dropped > 0 {
            let left = &self.by_number;
            self.by_peer.retain(|(_, number)| {
                left.binary_search_by_key(number, |channel| channel.number)
                    .is_ok()
            });
        }
        dropped
    }

    pub(super) const fn len(&self) -> usize {
        self.by_number.len()
    }

    fn next_end(&self) -> Option<Instant> {
        self.by_number.iter().map(|channel| channel.expires).min()
    }

    fn find(&self, number: ChannelNumber) -> Result<usize, usize> {
        self.by_number
            .binary_search_by_key(&number, |channel| channel.number)
    }

    fn find_peer(&self, peer: PeerAddr) -> Result<usize, usize> {
        self.by_peer.binary_search_by_key(&peer, |(peer, _)| *peer)
    }
}
