//! Allocate (RFC 8656 section 7, RFC 6062 section 5.1), and the end of allocations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, ErrorCode, Method, XorMappedAddress};
use postern_wire::turn::{
    AddressErrorCode, AddressFamily, DraftAddressErrorCode, Lifetime, MobilityTicket,
    ReservationToken, XorRelayedAddress,
};
use rand_core::RngCore;

use super::accounts::{Holder, Resource};
use super::allocation::{Allocation, Channels, Opening, Permissions, Relay, Relays, relay_id};
use super::config::RelayAddress;
use super::deadlines::Deadline;
use super::dispatch::{Answer, Caller};
use super::ports::Parity;
use super::reject::Reject;
use super::request::{Additional, Allocate, Authenticated, PortWish};
use super::types::{AllocationId, FiveTuple, RelayId, RelayPort, Source};
use super::{Event, OpenError, Server, later};
use crate::stun::Session;

/// How long a port is kept for a RESERVATION-TOKEN: RFC 8656 section 7.2 wants 30 seconds
/// at least.
const RESERVATION: Duration = Duration::from_secs(30);

/// How many other ports are tried when another program has the first one.
const ATTEMPTS: u8 = 8;

/// A port that is kept for whoever has the token.
#[derive(Debug)]
pub(super) struct Reservation {
    family: AddressFamily,
    address: RelayAddress,
    port: RelayPort,
    account: Arc<str>,
    expires: Instant,
}

/// Why one of two families is not there.
pub(super) type Missing = AddressErrorCode<'static>;

/// The relays of a new allocation, not opened.
struct Plan {
    relays: Relays,
    missing: Option<Missing>,
    reservation: Option<ReservationToken>,
    /// What another port would have to be; `None` if there can be no other.
    parity: Option<Parity>,
}

impl Server {
    /// What an Allocate request gets on a 5-tuple that has an allocation: the same answer
    /// again if it is the same request, else 437.
    pub(super) fn repeated(
        &mut self,
        caller: &Caller,
        session: &Session,
    ) -> Result<Option<Answer>, Reject> {
        let Some(id) = self.table.of_client(&caller.client) else {
            return Ok(None);
        };
        let Some(allocation) = self.table.get_mut(id) else {
            return Ok(None);
        };
        if allocation.client != caller.client {
            // The client has moved away from here; somebody else is welcome, at the shard
            // where the request is sent again to if this is not the one.
            allocation.former = None;
            let is_stray = self.shared.owner(&caller.client).is_some();
            self.table.forget_client(id, &caller.client);
            return Ok(is_stray.then_some(Ok(None)));
        }
        if allocation.created_by != caller.id || allocation.session.account != session.account {
            return Err(Reject::MISMATCH);
        }
        if allocation.opening.is_some() {
            return Ok(Some(Ok(None)));
        }
        Ok(Some(Ok(self.describe(id, caller.success()))))
    }

    pub(super) fn allocate(
        &mut self,
        now: Instant,
        caller: &Caller,
        Authenticated { session, request }: Authenticated<Allocate>,
    ) -> Answer {
        self.check_willing(caller, &request)?;
        let source = Source::from(caller.client.client.0.ip());
        let account = &session.account;
        let holder = self
            .shared
            .accounts()
            .open(now, &self.config.quotas, account, source);
        // The lock is not held any more: the answer to who gets none needs it, too.
        let holder = holder.ok_or_else(|| self.no_quota(caller))?;
        let plan = self.plan(now, &request, &session);
        match plan.map_err(|reject| self.or_elsewhere(caller, &request, reject)) {
            Ok(plan) => {
                self.start(now, caller, session, &request, plan, holder);
                Ok(None)
            }
            Err(reject) => {
                self.shared.accounts().close(holder);
                Err(reject)
            }
        }
    }

    /// Of a user or an address that has enough, another server is not to take more.
    fn no_quota(&self, caller: &Caller) -> Reject {
        let quota = Reject::new(ErrorCode::ALLOCATION_QUOTA_REACHED);
        if self.shared.accounts().are_full(&self.config.quotas) {
            self.alternate(caller).unwrap_or(quota)
        } else {
            quota
        }
    }

    /// Without a port here another server may have one; not that of a token.
    fn or_elsewhere(&self, caller: &Caller, request: &Allocate, reject: Reject) -> Reject {
        let drawn = matches!(request.port, PortWish::Draw(_));
        if drawn && reject == Reject::NO_CAPACITY {
            self.alternate(caller).unwrap_or(reject)
        } else {
            reject
        }
    }

    fn alternate(&self, caller: &Caller) -> Option<Reject> {
        let other = self.config.overflow.of(caller.client.client.0);
        other.map(Reject::alternate)
    }

    fn check_willing(&self, caller: &Caller, request: &Allocate) -> Result<(), Reject> {
        if let Some(alternates) = &self.draining {
            let other = alternates.of(caller.client.client.0);
            return Err(other.map_or(Reject::NO_CAPACITY, Reject::alternate));
        }
        if request.transport == super::RelayTransport::Tcp && !self.config.tcp_relays {
            return Err(Reject::new(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL));
        }
        if request.mobility && !self.config.mobility {
            return Err(Reject::new(ErrorCode::MOBILITY_FORBIDDEN));
        }
        Ok(())
    }

    fn plan(
        &mut self,
        now: Instant,
        request: &Allocate,
        session: &Session,
    ) -> Result<Plan, Reject> {
        match request.port {
            PortWish::Reserved(token) => self.plan_reserved(now, token, session),
            PortWish::Draw(parity) if request.additional.is_some() => self.plan_both(parity),
            PortWish::Draw(parity) => self.plan_one(now, request.family, parity, session),
        }
    }

    fn plan_reserved(
        &mut self,
        now: Instant,
        token: ReservationToken,
        session: &Session,
    ) -> Result<Plan, Reject> {
        let is_theirs = |kept: &Reservation| kept.account == session.account && now < kept.expires;
        let kept = self.take_reservation(token, is_theirs);
        let kept = kept.ok_or(Reject::NO_CAPACITY)?;
        // The shard that made it may be another one; there, nothing will be due.
        self.deadlines
            .remove(kept.expires, Deadline::Reservation(token));
        let mut relays = Relays::default();
        *relays.slot(kept.family) = Some(relay(kept.address, kept.port));
        Ok(Plan {
            relays,
            missing: None,
            reservation: None,
            parity: None,
        })
    }

    fn plan_one(
        &mut self,
        now: Instant,
        family: AddressFamily,
        parity: Parity,
        session: &Session,
    ) -> Result<Plan, Reject> {
        let relay = self.take_port(family, parity)?;
        let reservation = (parity == Parity::EvenAndNext)
            .then(|| self.reserve_next(now, family, &relay, session));
        let mut relays = Relays::default();
        *relays.slot(family) = Some(relay);
        Ok(Plan {
            relays,
            missing: None,
            reservation,
            parity: (parity != Parity::EvenAndNext).then_some(parity),
        })
    }

    /// RFC 8656 section 7.2: with one of two families the request succeeds, and
    /// ADDRESS-ERROR-CODE says why there is only one.
    fn plan_both(&self, parity: Parity) -> Result<Plan, Reject> {
        let v4 = self.take_port(AddressFamily::V4, parity);
        let v6 = self.take_port(AddressFamily::V6, parity);
        let absent = match (&v4, &v6) {
            (Err(reject), Err(_)) => return Err(reject.clone()),
            (Err(reject), Ok(_)) => Some(missing(AddressFamily::V4, reject.error)),
            (Ok(_), Err(reject)) => Some(missing(AddressFamily::V6, reject.error)),
            (Ok(_), Ok(_)) => None,
        };
        let mut relays = Relays::default();
        *relays.slot(AddressFamily::V4) = v4.ok();
        *relays.slot(AddressFamily::V6) = v6.ok();
        Ok(Plan {
            relays,
            missing: absent,
            reservation: None,
            parity: Some(parity),
        })
    }

    fn take_port(&self, family: AddressFamily, parity: Parity) -> Result<Relay, Reject> {
        let address = self
            .config
            .relay_address(family)
            .ok_or(Reject::FAMILY_NOT_SUPPORTED)?;
        let port = self
            .shared
            .ports()
            .take(address.bind, parity)
            .ok_or(Reject::NO_CAPACITY)?;
        Ok(relay(address, port))
    }

    /// Keeps the port behind that of `relay`, which the pool gave with it.
    fn reserve_next(
        &mut self,
        now: Instant,
        family: AddressFamily,
        relay: &Relay,
        session: &Session,
    ) -> ReservationToken {
        let mut token = ReservationToken([0; 8]);
        self.rng.fill_bytes(&mut token.0);
        let expires = later(now, RESERVATION);
        let reservation = Reservation {
            family,
            address: RelayAddress {
                bind: relay.bind,
                advertised: relay.advertised,
            },
            port: RelayPort(relay.port.0.saturating_add(1)),
            account: Arc::clone(&session.account),
            expires,
        };
        self.shared.reservations().insert(token, reservation);
        self.deadlines.add(expires, Deadline::Reservation(token));
        token
    }

    /// Takes a reservation out, if it is what it is to be.
    fn take_reservation(
        &self,
        token: ReservationToken,
        is_right: impl Fn(&Reservation) -> bool,
    ) -> Option<Reservation> {
        let mut reservations = self.shared.reservations();
        let right = reservations.get(&token).is_some_and(is_right);
        right.then(|| reservations.remove(&token)).flatten()
    }

    pub(super) fn on_reservation_due(&self, token: ReservationToken) {
        if let Some(kept) = self.take_reservation(token, |_| true) {
            self.shared.ports().give_back(kept.address.bind, kept.port);
        }
    }

    /// A port is kept no longer than the allocation that asked for it: else a user could
    /// keep more ports than allocations.
    fn end_reservation(&mut self, token: ReservationToken) {
        if let Some(kept) = self.take_reservation(token, |_| true) {
            self.deadlines
                .remove(kept.expires, Deadline::Reservation(token));
            self.shared.ports().give_back(kept.address.bind, kept.port);
        }
    }

    fn start(
        &mut self,
        now: Instant,
        caller: &Caller,
        session: Session,
        request: &Allocate,
        plan: Plan,
        holder: Holder,
    ) {
        let lifetime = self.config.lifetime(request.lifetime);
        let expires = later(now, lifetime);
        let opening = Opening {
            pending: caller.pending(),
            attempts: ATTEMPTS,
            parity: plan.parity,
        };
        let ticket = request.mobility.then(|| self.draw_ticket());
        let id = self.table.insert(Allocation {
            client: caller.client,
            former: None,
            session,
            transport: request.transport,
            relays: plan.relays,
            opening: Some(Box::new(opening)),
            lifetime,
            expires,
            created_by: caller.id,
            moved_by: None,
            ticket,
            reservation: plan.reservation,
            missing: plan.missing,
            asked_as_draft: request.additional == Some(Additional::Draft),
            permissions: Permissions::default(),
            channels: Channels::default(),
            connections: std::collections::BTreeMap::new(),
            holder,
            due: expires,
        });
        self.stats
            .allocated(caller.client.transport, request.transport);
        self.deadlines.add(expires, Deadline::Allocation(id));
        for family in [AddressFamily::V4, AddressFamily::V6] {
            self.open(relay_id(id, family));
        }
    }

    pub(super) fn draw_ticket(&mut self) -> [u8; 16] {
        let mut ticket = [0; 16];
        self.rng.fill_bytes(&mut ticket);
        ticket
    }

    /// Asks for a planned relay to be opened.
    fn open(&mut self, id: RelayId) {
        let Some(allocation) = self.table.get(id.allocation) else {
            return;
        };
        if let Some(relay) = allocation.relays.get(id.family) {
            self.events.push_back(Event::OpenRelay {
                relay: id,
                transport: allocation.transport,
                address: relay.bound(),
            });
        }
    }

    /// Takes the result of [`Event::OpenRelay`].
    pub fn handle_relay_opened(
        &mut self,
        _now: Instant,
        id: RelayId,
        result: Result<(), OpenError>,
    ) {
        let Some(allocation) = self.table.get_mut(id.allocation) else {
            return;
        };
        let (transport, opening) = (allocation.transport, allocation.opening.is_some());
        let Some(relay) = allocation.relays.slot(id.family) else {
            return;
        };
        if relay.open || !opening {
            return;
        }
        match result {
            Ok(()) => {
                relay.open = true;
                let relayed = relay.relayed();
                self.shared.list(transport, relayed, id);
            }
            Err(error) => self.on_open_failed(id, error),
        }
        self.finish_opening(id.allocation);
    }

    /// Tries another port if there is hope, else goes without this family.
    fn on_open_failed(&mut self, id: RelayId, error: OpenError) {
        let Some((bind, port)) = self.drop_relay(id) else {
            return;
        };
        self.shared.ports().give_back(bind, port);
        let parity = self.another_try(id.allocation, error);
        let retry = parity.map(|parity| self.take_port(id.family, parity));
        let Some(allocation) = self.table.get_mut(id.allocation) else {
            return;
        };
        match retry {
            Some(Ok(relay)) => {
                *allocation.relays.slot(id.family) = Some(relay);
                self.open(id);
            }
            Some(Err(_)) | None => {
                allocation.missing = Some(missing(id.family, ErrorCode::INSUFFICIENT_CAPACITY));
            }
        }
    }

    fn drop_relay(&mut self, id: RelayId) -> Option<(std::net::IpAddr, RelayPort)> {
        let allocation = self.table.get_mut(id.allocation)?;
        let relay = allocation.relays.slot(id.family).take()?;
        Some((relay.bind, relay.port))
    }

    fn another_try(&mut self, id: AllocationId, error: OpenError) -> Option<Parity> {
        let opening = self.table.get_mut(id)?.opening.as_deref_mut()?;
        if error == OpenError::Unavailable {
            return None;
        }
        opening.attempts = opening.attempts.checked_sub(1)?;
        opening.parity
    }

    /// Answers the Allocate request when nothing is left to open.
    fn finish_opening(&mut self, id: AllocationId) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        if !allocation.relays.all_open() {
            return;
        }
        let Some(opening) = allocation.opening.take() else {
            return;
        };
        let pending = opening.pending;
        if allocation.relays.is_empty() {
            let response = Builder::new(Class::Error, Method::ALLOCATE, pending.id);
            self.stats
                .answered(Method::ALLOCATE, Reject::NO_CAPACITY.error.code());
            self.answer_late(id, pending, Reject::NO_CAPACITY.describe(response));
            self.end_allocation(id);
            return;
        }
        tracing::info!(allocation = id.index(), user = %allocation.session.user, "allocated");
        self.stats.answered(Method::ALLOCATE, 0);
        let response = Builder::new(Class::Success, Method::ALLOCATE, pending.id);
        if let Some(response) = self.describe(id, response) {
            self.answer_late(id, pending, response);
        }
    }

    /// Adds what a successful Allocate response says.
    fn describe(&self, id: AllocationId, mut response: Builder) -> Option<Builder> {
        let allocation = self.table.get(id)?;
        for (_, relay) in allocation.relays.iter() {
            response = response.attribute(&XorRelayedAddress(relay.relayed().0));
        }
        let missing = allocation.missing;
        let draft = missing.map(DraftAddressErrorCode);
        let (missing, draft) = if allocation.asked_as_draft {
            (None, draft)
        } else {
            (missing, None)
        };
        let ticket = self.ticket(id);
        let ticket = ticket.as_ref().map(|ticket| MobilityTicket(ticket));
        Some(
            response
                .attribute(&seconds(allocation.lifetime))
                .attribute(&mapped(&allocation.client))
                .maybe_attribute(missing.as_ref())
                .maybe_attribute(draft.as_ref())
                .maybe_attribute(allocation.reservation.as_ref())
                .maybe_attribute(ticket.as_ref()),
        )
    }

    /// Ends an allocation and all that hangs on it.
    pub(super) fn end_allocation(&mut self, id: AllocationId) {
        let connections = self.connections_of(id);
        for connection in connections {
            self.end_connection(connection);
        }
        let Some(allocation) = self.table.remove(id) else {
            return;
        };
        self.stats
            .ended(allocation.client.transport, allocation.transport);
        self.deadlines
            .remove(allocation.due, Deadline::Allocation(id));
        for (family, relay) in allocation.relays.iter() {
            self.shared.ports().give_back(relay.bind, relay.port);
            let relay = relay_id(id, family);
            self.events.push_back(Event::CloseRelay { relay });
        }
        if let Some(token) = allocation.reservation {
            self.end_reservation(token);
        }
        let holder = allocation.holder;
        self.release(holder, Resource::Permission, allocation.permissions.len());
        self.release(holder, Resource::Channel, allocation.channels.len());
        self.shared.accounts().close(holder);
        tracing::info!(allocation = id.index(), user = %allocation.session.user, "ended");
    }

    pub(super) fn release(&self, holder: Holder, what: Resource, count: usize) {
        for _ in 0..count {
            self.shared.accounts().give_back(holder, what);
        }
    }

    /// A client's stream has ended. Its allocation ends too, unless it can move to another
    /// one (RFC 8016).
    pub fn handle_client_closed(&mut self, _now: Instant, client: &FiveTuple) {
        let Some(id) = self.table.of_client(client) else {
            return;
        };
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        if allocation.client != *client {
            allocation.former = None;
            self.table.forget_client(id, client);
        } else if allocation.ticket.is_none() {
            self.end_allocation(id);
        }
    }
}

const fn missing(family: AddressFamily, error: ErrorCode<'static>) -> Missing {
    AddressErrorCode { family, error }
}

const fn relay(address: RelayAddress, port: RelayPort) -> Relay {
    Relay {
        bind: address.bind,
        advertised: address.advertised,
        port,
        open: false,
    }
}

pub(super) fn seconds(lifetime: Duration) -> Lifetime {
    Lifetime(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
}

/// The client's address in its own family, also when a socket for both shows it mapped.
pub(super) fn mapped(client: &FiveTuple) -> XorMappedAddress {
    let address = client.client.0;
    XorMappedAddress(std::net::SocketAddr::new(
        address.ip().to_canonical(),
        address.port(),
    ))
}
