//! CreatePermission (RFC 8656 section 10) and ChannelBind (section 12.2).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::turn::AddressFamily;

use super::accounts::{Holder, Resource};
use super::dispatch::{Answer, Caller};
use super::later;
use super::policy::PeerVerdict;
use super::reject::Reject;
use super::request::{Authenticated, ChannelBind, CreatePermission};
use super::types::{AllocationId, PeerAddr, RelayTransport};
use super::{Config, Server};

/// How long a permission lives (RFC 8656 section 9).
const PERMISSION: Duration = Duration::from_secs(300);
/// How long a channel is bound (RFC 8656 section 12).
const CHANNEL: Duration = Duration::from_secs(600);

/// The most permissions of one allocation, whatever the quotas: a client that pairs with
/// more hosts than this at a time is not connecting, but scanning.
const MAX_PERMISSIONS: usize = 1024;
/// The same for channels, of which there are 4,096 numbers.
const MAX_CHANNELS: usize = 1024;

impl Server {
    /// All of the peers, or none of them.
    pub(super) fn create_permission(
        &mut self,
        now: Instant,
        caller: &Caller,
        Authenticated { session, request }: &Authenticated<CreatePermission>,
    ) -> Answer {
        let id = self.own(now, caller, session)?;
        for peer in &request.peers {
            self.check_permission(id, *peer)?;
        }
        self.settle(id, caller);
        self.purge(now, id);
        self.take_permissions(id, &request.peers)?;
        for peer in &request.peers {
            self.permit(now, id, *peer);
        }
        Ok(Some(caller.success()))
    }

    pub(super) fn channel_bind(
        &mut self,
        now: Instant,
        caller: &Caller,
        Authenticated { session, request }: &Authenticated<ChannelBind>,
    ) -> Answer {
        let id = self.own(now, caller, session)?;
        let (channel, peer) = (request.channel, canonical(request.peer));
        self.check_channel_peer(id, peer)?;
        self.settle(id, caller);
        self.purge(now, id);
        let allocation = self.table.get(id).ok_or(Reject::MISMATCH)?;
        let holder = allocation.holder;
        let is_bound = allocation
            .channels
            .check(channel, peer)
            .ok_or(Reject::BAD_REQUEST)?;
        let count = allocation.channels.len();
        if !is_bound {
            self.take_channel(holder, count)?;
        }
        if let Err(reject) = self.take_permissions(id, &[peer]) {
            self.release(holder, Resource::Channel, usize::from(!is_bound));
            return Err(reject);
        }
        self.permit(now, id, peer);
        let expires = later(now, CHANNEL);
        if let Some(allocation) = self.table.get_mut(id) {
            allocation.channels.bind(channel, peer, expires);
        }
        self.bring_forward(id, expires);
        Ok(Some(caller.success()))
    }

    fn take_channel(&self, holder: Holder, count: usize) -> Result<(), Reject> {
        let quotas = &self.config.quotas;
        if count < MAX_CHANNELS
            && self
                .shared
                .accounts()
                .take(quotas, holder, Resource::Channel)
        {
            Ok(())
        } else {
            Err(Reject::NO_CAPACITY)
        }
    }

    /// The port of a permission does not count, unless the address is our own: there, it
    /// is what tells a relay from the host.
    fn check_permission(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Reject> {
        self.check_family_of(id, peer)?;
        let transport = self.transport(id)?;
        if self.may_reach(transport, canonical(peer)) {
            Ok(())
        } else {
            Err(Reject::FORBIDDEN)
        }
    }

    /// There are no channels on TCP relays (RFC 6062 section 5), and nobody at port 0.
    fn check_channel_peer(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Reject> {
        if self.transport(id)? != RelayTransport::Udp {
            return Err(Reject::BAD_REQUEST);
        }
        if peer.0.port() == 0 {
            return Err(Reject::FORBIDDEN);
        }
        self.check_permission(id, peer)
    }

    fn transport(&self, id: AllocationId) -> Result<RelayTransport, Reject> {
        let allocation = self.table.get(id).ok_or(Reject::MISMATCH)?;
        Ok(allocation.transport)
    }

    pub(super) fn check_family_of(&self, id: AllocationId, peer: PeerAddr) -> Result<(), Reject> {
        let allocation = self.table.get(id).ok_or(Reject::MISMATCH)?;
        let family = AddressFamily::of(canonical(peer).0.ip());
        if allocation.relays.get(family).is_some() {
            Ok(())
        } else {
            Err(Reject::FAMILY_MISMATCH)
        }
    }

    /// Counts the permissions that these peers need and do not have.
    fn take_permissions(&self, id: AllocationId, peers: &[PeerAddr]) -> Result<(), Reject> {
        let allocation = self.table.get(id).ok_or(Reject::MISMATCH)?;
        let holder = allocation.holder;
        let mut new: Vec<_> = peers
            .iter()
            .map(|peer| canonical(*peer).0.ip())
            .filter(|ip| !allocation.permissions.contains(*ip))
            .collect();
        new.sort_unstable();
        new.dedup();
        if allocation.permissions.len().saturating_add(new.len()) > MAX_PERMISSIONS {
            return Err(Reject::NO_CAPACITY);
        }
        for taken in 0..new.len() {
            let fits =
                self.shared
                    .accounts()
                    .take(&self.config.quotas, holder, Resource::Permission);
            if !fits {
                self.release(holder, Resource::Permission, taken);
                return Err(Reject::NO_CAPACITY);
            }
        }
        Ok(())
    }

    /// Installs or refreshes a permission that was counted.
    fn permit(&mut self, now: Instant, id: AllocationId, peer: PeerAddr) {
        let expires = later(now, PERMISSION);
        if let Some(allocation) = self.table.get_mut(id) {
            allocation
                .permissions
                .install(canonical(peer).0.ip(), expires);
        }
        self.bring_forward(id, expires);
    }

    /// Drops what has run out, and gives it back.
    pub(super) fn purge(&mut self, now: Instant, id: AllocationId) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let holder = allocation.holder;
        let permissions = allocation.permissions.retain(now, |_| true);
        let channels = allocation.channels.purge(now);
        self.release(holder, Resource::Permission, permissions);
        self.release(holder, Resource::Channel, channels);
    }

    /// Drops permissions that the policy or the loss of a relay have made void, and
    /// connections with such peers.
    pub(super) fn drop_forbidden(&mut self, now: Instant, id: AllocationId) {
        for connection in self.void_connections(id) {
            self.end_connection(connection);
        }
        let config = &self.config;
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let (holder, relays) = (allocation.holder, &allocation.relays);
        let has_family = [AddressFamily::V4, AddressFamily::V6]
            .map(|family| (family, relays.get(family).is_some()));
        let dropped = allocation.permissions.retain(now, |ip| {
            has_family.contains(&(AddressFamily::of(ip), true)) && may_be_peer(config, ip)
        });
        self.release(holder, Resource::Permission, dropped);
    }

    fn void_connections(&self, id: AllocationId) -> Vec<u32> {
        let Some(allocation) = self.table.get(id) else {
            return Vec::new();
        };
        let connections = allocation.connections.iter();
        connections
            .filter(|(peer, _)| {
                let family = AddressFamily::of(peer.0.ip());
                allocation.relays.get(family).is_none()
                    || !self.may_reach(RelayTransport::Tcp, **peer)
            })
            .map(|(_, connection)| *connection)
            .collect()
    }
}

/// Whether the policy leaves any port of an address. Of our own addresses only those of
/// relays have one.
fn may_be_peer(config: &Config, ip: IpAddr) -> bool {
    match config.policy.verdict(ip) {
        PeerVerdict::Allowed => true,
        PeerVerdict::Own => config.has_relays_at(ip),
        PeerVerdict::Denied => false,
    }
}

/// A peer, with an IPv4-mapped address unwrapped.
pub(super) fn canonical(PeerAddr(peer): PeerAddr) -> PeerAddr {
    PeerAddr(std::net::SocketAddr::new(
        peer.ip().to_canonical(),
        peer.port(),
    ))
}
