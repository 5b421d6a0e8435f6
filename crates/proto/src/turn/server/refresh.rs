//! Refresh (RFC 8656 section 8).

use std::time::{Duration, Instant};

use postern_wire::stun::Builder;
use postern_wire::turn::{AddressFamily, Lifetime, MobilityTicket};

use super::allocate::seconds;
use super::allocation::relay_id;
use super::deadlines::Deadline;
use super::dispatch::{Answer, Caller};
use super::reject::Reject;
use super::request::{Authenticated, Refresh};
use super::types::AllocationId;
use super::{Event, Server, later};

/// How long a client may send the request again that ended its allocation: all
/// retransmissions of RFC 8489 section 6.2.1 are over by then.
const DEPARTED: Duration = Duration::from_secs(40);

/// The most 5-tuples that are remembered for it; beyond, the answer is 437, which clients
/// take as success.
const MAX_DEPARTED: usize = 4096;

impl Server {
    pub(super) fn refresh(
        &mut self,
        now: Instant,
        caller: &Caller,
        request: Authenticated<Refresh<'_>>,
    ) -> Answer {
        if let Some(ticket) = request.request.ticket {
            self.follow(now, caller, &request.session, ticket)?;
        }
        let Authenticated { session, request } = request;
        if request.ends() && self.departed.get(&caller.client) == Some(&caller.id) {
            return Ok(Some(caller.success().attribute(&Lifetime(0))));
        }
        let id = self.own(now, caller, &session)?;
        self.check_family(id, request.family)?;
        if request.ends() {
            self.end_by_request(now, caller, id, request.family);
            return Ok(Some(caller.success().attribute(&Lifetime(0))));
        }
        Ok(self.extend(now, caller, id, &request))
    }

    fn check_family(&self, id: AllocationId, family: Option<AddressFamily>) -> Result<(), Reject> {
        let has = |family| {
            self.table
                .get(id)
                .is_some_and(|allocation| allocation.relays.get(family).is_some())
        };
        if family.is_none_or(has) {
            Ok(())
        } else {
            Err(Reject::FAMILY_MISMATCH)
        }
    }

    fn extend(
        &mut self,
        now: Instant,
        caller: &Caller,
        id: AllocationId,
        request: &Refresh<'_>,
    ) -> Option<Builder> {
        let lifetime = self.config.lifetime(request.lifetime);
        let ticket = request.ticket.and_then(|_| self.ticket(id));
        let allocation = self.table.get_mut(id)?;
        allocation.expires = later(now, lifetime);
        let due = allocation.next_end();
        self.bring_forward(id, due);
        let ticket = ticket.as_ref().map(|ticket| MobilityTicket(ticket));
        Some(
            caller
                .success()
                .attribute(&seconds(lifetime))
                .maybe_attribute(ticket.as_ref()),
        )
    }

    /// Ends an allocation, or one family of two.
    fn end_by_request(
        &mut self,
        now: Instant,
        caller: &Caller,
        id: AllocationId,
        family: Option<AddressFamily>,
    ) {
        let relays = self
            .table
            .get(id)
            .map_or(0, |allocation| allocation.relays.count());
        match family {
            Some(family) if relays > 1 => self.end_family(now, id, family),
            _ => {
                self.end_allocation(id);
                self.remember_departed(now, caller);
            }
        }
    }

    /// What has no relay any more has no permission either.
    fn end_family(&mut self, now: Instant, id: AllocationId, family: AddressFamily) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let transport = allocation.transport;
        let Some(relay) = allocation.relays.slot(family).take() else {
            return;
        };
        self.shared.unlist(transport, relay.relayed());
        self.shared.ports().give_back(relay.bind, relay.port);
        let relay = relay_id(id, family);
        self.events.push_back(Event::CloseRelay { relay });
        self.end_connections_of(relay);
        self.drop_forbidden(now, id);
    }

    fn remember_departed(&mut self, now: Instant, caller: &Caller) {
        if self.departed.len() < MAX_DEPARTED && !caller.client.transport.is_stream() {
            self.departed.insert(caller.client, caller.id);
            self.deadlines
                .add(later(now, DEPARTED), Deadline::Departed(caller.client));
        }
    }
}
