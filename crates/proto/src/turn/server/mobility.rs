//! Mobility (RFC 8016): an allocation follows its owner to another address.
//!
//! A ticket names the allocation and has 128 random bits. It is good for the user of the
//! allocation alone, once: every move gives a new one.

use std::time::Instant;

use postern_wire::stun::ErrorCode;
use subtle::ConstantTimeEq;

use super::Server;
use super::accounts::Resource;
use super::dispatch::Caller;
use super::reject::Reject;
use super::types::{AllocationId, RelayTransport, ShardIndex, Source};
use crate::stun::Session;

/// Bytes of a ticket.
const TICKET_LEN: usize = 26;

impl Server {
    /// The ticket that is good for an allocation, if it can move.
    pub(super) fn ticket(&self, id: AllocationId) -> Option<[u8; TICKET_LEN]> {
        let secret = self.table.get(id)?.ticket?;
        let mut ticket = [0; TICKET_LEN];
        let bytes = id
            .shard
            .0
            .to_be_bytes()
            .into_iter()
            .chain(id.index.to_be_bytes())
            .chain(id.generation.to_be_bytes())
            .chain(secret);
        ticket
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        Some(ticket)
    }

    /// Lets the allocation of this ticket follow the caller, unless it is there already.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        caller: &Caller,
        session: &Session,
        ticket: &[u8],
    ) -> Result<(), Reject> {
        if !self.config.mobility {
            return Err(Reject::new(ErrorCode::MOBILITY_FORBIDDEN));
        }
        if let Some(id) = self.table.of_client(&caller.client) {
            return self.check_at_home(caller, id, ticket);
        }
        let id = self.of_ticket(now, ticket).ok_or(Reject::BAD_REQUEST)?;
        let allocation = self.table.get(id).ok_or(Reject::BAD_REQUEST)?;
        if allocation.session.account != session.account {
            return Err(Reject::new(ErrorCode::WRONG_CREDENTIALS));
        }
        let needs_stream = allocation.transport == RelayTransport::Tcp;
        if needs_stream && !caller.client.transport.is_stream() {
            return Err(Reject::BAD_REQUEST);
        }
        self.move_accounts(caller, id)?;
        self.relocate(caller, session, id);
        Ok(())
    }

    /// From the address where the allocation is, the ticket must be the current one, or
    /// the request the one that brought it here.
    fn check_at_home(
        &self,
        caller: &Caller,
        id: AllocationId,
        ticket: &[u8],
    ) -> Result<(), Reject> {
        let is_repeated = self
            .table
            .get(id)
            .is_some_and(|allocation| allocation.moved_by == Some(caller.id));
        let is_current = self.ticket(id).is_some_and(|current| ticket == current);
        if is_repeated || is_current {
            Ok(())
        } else {
            Err(Reject::BAD_REQUEST)
        }
    }

    fn of_ticket(&self, now: Instant, ticket: &[u8]) -> Option<AllocationId> {
        let (shard, rest) = ticket.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (generation, secret) = rest.split_first_chunk()?;
        let id = AllocationId {
            shard: ShardIndex(u16::from_be_bytes(*shard)),
            index: u32::from_be_bytes(*index),
            generation: u32::from_be_bytes(*generation),
        };
        let allocation = self.table.get(id)?;
        let expected = allocation.ticket?;
        let is_right = bool::from(expected.ct_eq(secret));
        (is_right && allocation.is_live(now)).then_some(id)
    }

    /// What the allocation has counts for the new address.
    fn move_accounts(&mut self, caller: &Caller, id: AllocationId) -> Result<(), Reject> {
        let quota = Reject::new(ErrorCode::ALLOCATION_QUOTA_REACHED);
        let allocation = self.table.get(id).ok_or(Reject::BAD_REQUEST)?;
        let (user, old) = (allocation.session.account.clone(), allocation.holder);
        let has = [
            (Resource::Allocation, 1),
            (Resource::Permission, allocation.permissions.len()),
            (Resource::Channel, allocation.channels.len()),
            (Resource::Connection, allocation.connections.len()),
        ];
        let source = Source::from(caller.client.client.0.ip());
        let new = self
            .shared
            .accounts()
            .relocate(&self.config.quotas, old, source, &user, &has)
            .ok_or(quota)?;
        if let Some(allocation) = self.table.get_mut(id) {
            allocation.holder = new;
        }
        Ok(())
    }

    fn relocate(&mut self, caller: &Caller, session: &Session, id: AllocationId) {
        let ticket = self.draw_ticket();
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let old = std::mem::replace(&mut allocation.client, caller.client);
        let relay = allocation.transport;
        let dropped = allocation.former.replace(Box::new(old));
        allocation.session = session.clone();
        allocation.ticket = Some(ticket);
        allocation.moved_by = Some(caller.id);
        if let Some(dropped) = dropped {
            self.table.forget_client(id, &dropped);
        }
        self.table.add_client(id, caller.client);
        self.stats.ended(old.transport, relay);
        self.stats.allocated(caller.client.transport, relay);
        tracing::info!(allocation = id.index(), "moved");
    }
}
