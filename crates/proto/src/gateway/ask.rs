//! Granting and taking back, whatever the protocol.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::transport::Transport;
use rand_core::RngCore;

use super::config::Wish;
use super::lease::{Client, Filter, Kind, Lease, LeaseId, Origin};
use super::natpmp::NatPmpAnswer;
use super::pcp::PcpAnswer;
use super::refusal::Refusal;
use super::upnp::SoapAnswer;
use super::{ChangeError, ChangeId, Event, Gateway, MAX_LEASE, Opening, kernel_life};

/// Random ports that are tried before the range is searched from one of them on.
const RANDOM_TRIES: usize = 16;

/// The lowest port that is chosen for a client.
const FIRST_CHOSEN: u16 = 1024;

/// Leases without an end are renewed in the kernel after half of the longest lease.
const RENEWAL: Duration = Duration::from_secs(MAX_LEASE.as_secs() >> 1);

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) client: Client,
    pub(super) internal: SocketAddr,
    pub(super) transport: Transport,
    pub(super) what: What,
    pub(super) filters: Vec<Filter>,
    /// `None` for a lease without an end.
    pub(super) life: Option<Duration>,
    pub(super) origin: Origin,
    pub(super) description: String,
    pub(super) enabled: bool,
}

impl Ask {
    /// Whether a lease's port is no obstacle: it is to become this, or the flow to one remote
    /// endpoint leaves from the same inside port.
    fn shares(&self, lease: &Lease, old: Option<LeaseId>) -> bool {
        let is_peer = matches!(self.what, What::Peer(..));
        Some(lease.id) == old || (is_peer && lease.internal == self.internal)
    }
}

/// What is to be opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// This outside port, or none.
    Exactly(u16),
    /// This outside port if it is free; 0 for any.
    Preferably(u16),
    /// A port, this one if it is free, to one remote endpoint.
    Peer(u16, std::net::SocketAddrV4),
    /// The host's own port.
    Pinhole,
    /// The host's own port, to one remote endpoint.
    PeerPinhole(std::net::SocketAddrV6),
}

/// Who waits for a change.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Nobody,
    NatPmp(NatPmpAnswer),
    Pcp(PcpAnswer),
    Soap(SoapAnswer),
}

/// Whether another port than this would do.
#[derive(Debug)]
enum OtherPort {
    No,
    /// To whoever asked for this.
    Yes(Box<Ask>),
    /// This is the other port.
    Tried,
}

/// A change that the kernel is being asked for.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The lease as it is from now on; `None` if it was taken back.
    lease: Option<LeaseId>,
    /// The lease as it was before.
    before: Option<Lease>,
    /// Whether it led then.
    led: bool,
    /// Nothing but the way out is changed.
    only_leads: bool,
    other_port: OtherPort,
    answer: Answer,
}

impl Gateway {
    /// Grants a lease, or changes the one with the name `old`; the asker is answered when the
    /// kernel has it.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        ask: Ask,
        old: Option<LeaseId>,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let kind = self
            .kind(now, &ask, old)
            .and_then(|kind| self.check_quotas(now, &ask, old).map(|()| kind))
            .inspect_err(|why| self.refused.count(*why))?;
        let other_port = match ask.what {
            What::Preferably(_) => OtherPort::Yes(Box::new(ask.clone())),
            What::Exactly(_) | What::Peer(..) | What::Pinhole | What::PeerPinhole(_) => {
                OtherPort::No
            }
        };
        self.enter(now, ask, kind, old, other_port, answer);
        Ok(())
    }

    /// The next router offers another port: a lease of that one, if it may be had here.
    fn grant_instead(
        &mut self,
        now: Instant,
        ask: Ask,
        external_port: u16,
        old: Option<LeaseId>,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let why = Refusal::NoResources;
        self.check_port(now, &ask, external_port, old)
            .map_err(|_| why)
            .inspect_err(|why| self.refused.count(*why))?;
        let kind = Kind::Mapping { external_port };
        self.enter(now, ask, kind, old, OtherPort::Tried, answer);
        Ok(())
    }

    fn enter(
        &mut self,
        now: Instant,
        ask: Ask,
        kind: Kind,
        old: Option<LeaseId>,
        other_port: OtherPort,
        answer: Answer,
    ) {
        let id = old.unwrap_or_else(|| self.table.new_id());
        let lease = Lease {
            id,
            transport: ask.transport,
            kind,
            internal: ask.internal,
            filters: ask.filters,
            owner: ask.client.address,
            origin: ask.origin,
            description: shortened(ask.description),
            enabled: ask.enabled,
            expires: ask.life.and_then(|life| now.checked_add(life)),
        };
        self.change_to(now, lease, other_port, answer);
    }

    fn change_to(&mut self, now: Instant, lease: Lease, other_port: OtherPort, answer: Answer) {
        let id = lease.id;
        let before = self.table.get(id).filter(|before| before.enabled);
        let remove = before.map(|before| self.opening(before));
        let led = before.is_some_and(|before| self.table.leads(before));
        let before = self.table.put(lease);
        let after = self.table.get(id).filter(|after| after.enabled);
        let add = after.map(|lease| (self.opening(lease), kernel_life(now, lease)));
        if after.is_some_and(|lease| lease.expires.is_none()) && self.renewal.is_none() {
            self.renewal = now.checked_add(RENEWAL);
        }
        let in_flight = InFlight {
            lease: Some(id),
            before,
            led,
            only_leads: false,
            other_port,
            answer,
        };
        self.request(in_flight, remove, add);
    }

    fn request(
        &mut self,
        in_flight: InFlight,
        remove: Option<Opening>,
        add: Option<(Opening, Duration)>,
    ) {
        self.next_change = self.next_change.saturating_add(1);
        let id = ChangeId(self.next_change);
        self.in_flight.insert(id, in_flight);
        self.events.push_back(Event::Change { id, remove, add });
    }

    /// Takes a lease back before its time, and ends its flows.
    pub(super) fn take_back(&mut self, id: LeaseId, answer: Answer) {
        let Some(opening) = self.table.get(id).map(|lease| self.opening(lease)) else {
            return;
        };
        let before = self.table.take(id);
        let in_flight = InFlight {
            lease: None,
            before,
            led: opening.both_ways,
            only_leads: false,
            other_port: OtherPort::No,
            answer,
        };
        let remove = opening.lease.enabled.then(|| opening.clone());
        self.request(in_flight, remove, None);
        self.events.push_back(Event::EndFlows(opening));
    }

    /// The way out of an inside port that has none: another mapping's outside port, if there
    /// is one.
    fn lead_out(&mut self, now: Instant, transport: Transport, internal: SocketAddr) {
        let Some(id) = self.table.new_leader(transport, internal) else {
            return;
        };
        let Some(lease) = self.table.get(id) else {
            return;
        };
        let opening = self.opening(lease);
        let life = kernel_life(now, lease);
        let without = Opening {
            both_ways: false,
            ..opening.clone()
        };
        let in_flight = InFlight {
            lease: Some(id),
            before: None,
            led: false,
            only_leads: true,
            other_port: OtherPort::No,
            answer: Answer::Nobody,
        };
        self.request(in_flight, Some(without), Some((opening, life)));
    }

    /// Takes a lease back, because an operator wants it; `false` if there is none.
    pub fn revoke(&mut self, id: LeaseId) -> bool {
        let found = self.table.get(id).is_some();
        self.take_back(id, Answer::Nobody);
        found
    }

    /// The change was made, or not; whoever waits for it is answered.
    pub fn handle_changed(&mut self, now: Instant, id: ChangeId, result: Result<(), ChangeError>) {
        let Some(in_flight) = self.in_flight.remove(&id) else {
            return;
        };
        if let (Err(ChangeError::Instead(port)), OtherPort::Yes(ask)) =
            (result, &in_flight.other_port)
        {
            return self.change_instead(now, (**ask).clone(), port, in_flight);
        }
        let place = in_flight
            .before
            .as_ref()
            .map(|lease| (lease.transport, lease.internal));
        let lease = in_flight.lease;
        let answer = in_flight.answer.clone();
        let result = result.map_err(|error| {
            let why = match (error, &in_flight.other_port) {
                (ChangeError::Taken | ChangeError::Instead(_), OtherPort::No) => Refusal::Conflict,
                _ => Refusal::NoResources,
            };
            self.undo(in_flight);
            self.refused.count(why);
            why
        });
        if let Some((transport, internal)) = place.filter(|_| result.is_ok()) {
            self.lead_out(now, transport, internal);
        }
        let lease = lease.and_then(|id| self.table.get(id)).cloned();
        self.answer(now, answer, lease.as_ref(), result);
        self.changed(now);
        self.store();
    }

    fn change_instead(&mut self, now: Instant, ask: Ask, port: u16, in_flight: InFlight) {
        let old = in_flight.before.as_ref().map(|lease| lease.id);
        let answer = in_flight.answer.clone();
        self.undo(in_flight);
        if let Err(why) = self.grant_instead(now, ask, port, old, answer.clone()) {
            self.answer(now, answer, None, Err(why));
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        answer: Answer,
        lease: Option<&Lease>,
        result: Result<(), Refusal>,
    ) {
        match answer {
            Answer::Nobody => {}
            Answer::NatPmp(answer) => self.answer_nat_pmp(now, answer, lease, result),
            Answer::Pcp(answer) => self.answer_pcp(now, answer, lease, result),
            Answer::Soap(answer) => self.answer_soap(&answer, lease, result),
        }
    }

    /// What was refused has not happened.
    fn undo(&mut self, in_flight: InFlight) {
        if in_flight.only_leads {
            let lease = in_flight.lease.and_then(|id| self.table.get(id)).cloned();
            lease.inspect(|lease| self.table.unlead(lease));
            return;
        }
        let Some(before) = in_flight.before else {
            in_flight.lease.inspect(|id| drop(self.table.take(*id)));
            return;
        };
        // A lease that was only asked for is gone with the first refusal, whoever asked again.
        if in_flight
            .lease
            .is_none_or(|id| self.table.take(id).is_some())
        {
            self.table.put(before.clone());
            if !in_flight.led {
                self.table.unlead(&before);
            }
        }
    }

    /// Says that leases are others than before: once, until the driver has heard it.
    pub(super) fn store(&mut self) {
        if !self.events.contains(&Event::Store) {
            self.events.push_back(Event::Store);
        }
    }

    pub(super) fn end_leases(&mut self, now: Instant) {
        let ended: Vec<Lease> = std::iter::from_fn(|| self.table.take_ended(now)).collect();
        // The way out ended with them, though another lease may have a use for it.
        for lease in &ended {
            self.lead_out(now, lease.transport, lease.internal);
        }
        if !ended.is_empty() {
            self.changed(now);
            self.store();
        }
    }

    /// Leases without an end are in the kernel for a week at a time.
    pub(super) fn renew_permanent(&mut self, now: Instant) {
        if self.renewal.is_none_or(|due| due > now) {
            return;
        }
        let permanent = self.table.iter().filter(|lease| lease.expires.is_none());
        let permanent: Vec<_> = permanent.cloned().collect();
        self.renewal = now.checked_add(RENEWAL);
        self.renewal = self.renewal.filter(|_| !permanent.is_empty());
        for lease in permanent {
            self.change_to(now, lease, OtherPort::No, Answer::Nobody);
        }
    }

    /// The kernel's side of a lease.
    pub(super) fn opening(&self, lease: &Lease) -> Opening {
        Opening {
            external: lease.kind.external_port().and(self.config.external),
            both_ways: self.table.leads(lease),
            lease: lease.clone(),
        }
    }

    fn kind(&mut self, now: Instant, ask: &Ask, old: Option<LeaseId>) -> Result<Kind, Refusal> {
        match ask.what {
            What::Exactly(external_port) => {
                self.check_port(now, ask, external_port, old)?;
                Ok(Kind::Mapping { external_port })
            }
            What::Preferably(port) => {
                let external_port = self.choose(now, ask, port, old)?;
                Ok(Kind::Mapping { external_port })
            }
            What::Peer(port, remote) => {
                let external_port = self.choose(now, ask, port, old)?;
                Ok(Kind::Peer {
                    external_port,
                    remote,
                })
            }
            What::Pinhole => {
                self.check_rules(ask, ask.internal.port())?;
                Ok(Kind::Pinhole)
            }
            What::PeerPinhole(remote) => {
                self.check_rules(ask, ask.internal.port())?;
                Ok(Kind::PeerPinhole { remote })
            }
        }
    }

    fn check_rules(&self, ask: &Ask, external_port: u16) -> Result<(), Refusal> {
        let wish = Wish {
            client: ask.client,
            host: ask.internal.ip(),
            transport: ask.transport,
            external_port,
            internal_port: ask.internal.port(),
        };
        match self.config.allows(&wish) {
            true => Ok(()),
            false => Err(Refusal::NotAuthorized),
        }
    }

    fn check_port(
        &self,
        now: Instant,
        ask: &Ask,
        port: u16,
        old: Option<LeaseId>,
    ) -> Result<(), Refusal> {
        if self.config.external.is_none() {
            return Err(Refusal::NoExternal);
        }
        self.check_rules(ask, port)?;
        let other = |lease: &Lease| lease.is_live(now) && !ask.shares(lease, old);
        let taken = self
            .table
            .conflict(ask.transport, port, &ask.filters, other);
        if taken.is_some() {
            return Err(Refusal::Conflict);
        }
        Ok(())
    }

    /// A port that is free: the preferred one, the inside one, a random one.
    fn choose(
        &mut self,
        now: Instant,
        ask: &Ask,
        preferred: u16,
        old: Option<LeaseId>,
    ) -> Result<u16, Refusal> {
        let mut refusal = Refusal::Conflict;
        for port in [preferred, ask.internal.port()] {
            if port != 0 && self.is_free_for(ask, port, old) {
                match self.check_port(now, ask, port, old) {
                    Ok(()) => return Ok(port),
                    Err(Refusal::NoExternal) => return Err(Refusal::NoExternal),
                    Err(other) => refusal = other,
                }
            }
        }
        let random = self.random_port(now, ask, old);
        let authorized = refusal != Refusal::NotAuthorized;
        random.ok_or(if authorized {
            Refusal::NoResources
        } else {
            refusal
        })
    }

    fn random_port(&mut self, now: Instant, ask: &Ask, old: Option<LeaseId>) -> Option<u16> {
        let mut start = FIRST_CHOSEN;
        for _ in 0..RANDOM_TRIES {
            start = random_above(&mut self.rng, FIRST_CHOSEN);
            if self.may_choose(now, ask, start, old) {
                return Some(start);
            }
        }
        let behind = start.saturating_add(1)..=u16::MAX;
        let mut ports = behind.chain(FIRST_CHOSEN..=start);
        ports.find(|port| self.may_choose(now, ask, *port, old))
    }

    fn may_choose(&self, now: Instant, ask: &Ask, port: u16, old: Option<LeaseId>) -> bool {
        self.is_free_for(ask, port, old) && self.check_port(now, ask, port, old).is_ok()
    }

    /// A port that is chosen for a host is not another host's over the other transport
    /// (RFC 6886 section 3.3).
    fn is_free_for(&self, ask: &Ask, port: u16, old: Option<LeaseId>) -> bool {
        let hosts = Transport::ALL
            .into_iter()
            .flat_map(|transport| self.table.at_external(transport, port))
            .filter(|lease| Some(lease.id) != old)
            .map(|lease| lease.internal.ip());
        let same = hosts
            .into_iter()
            .all(|host: IpAddr| host == ask.internal.ip());
        same && self
            .table
            .at_external(ask.transport, port)
            .all(|lease| ask.shares(lease, old) || matches!(lease.kind, Kind::Peer { .. }))
    }

    fn check_quotas(
        &mut self,
        now: Instant,
        ask: &Ask,
        old: Option<LeaseId>,
    ) -> Result<(), Refusal> {
        let quotas = self.config.quotas;
        let owner = ask.client.address;
        if !self.rates.allow(now, owner, &quotas) {
            return Err(Refusal::Quota);
        }
        if old.is_some() {
            return Ok(());
        }
        if quotas.host > 0 && self.table.count_of(owner) >= quotas.host {
            return Err(Refusal::Quota);
        }
        if self.table.len() >= usize::try_from(quotas.total).unwrap_or(usize::MAX) {
            return Err(Refusal::NoResources);
        }
        Ok(())
    }

    /// Puts a lease in that was granted earlier, before the first event: [`Event::Reinstall`]
    /// brings them into the kernel. `false` if it is of no use: it has ended, another one has
    /// its port, or it is of a host that is not inside.
    pub fn restore(&mut self, now: Instant, lease: Lease) -> bool {
        let inside = self.config.is_inside(lease.internal.ip());
        let port = lease.kind.external_port();
        let conflict = port.is_some_and(|port| {
            let filters = &lease.filters;
            let found = self
                .table
                .conflict(lease.transport, port, filters, |_| true);
            found.is_some()
        });
        let known = self
            .table
            .at_internal(lease.transport, lease.internal)
            .any(|other| other.kind == lease.kind && same(&other.filters, &lease.filters));
        if !lease.is_live(now) || !inside || port == Some(0) || conflict || known {
            return false;
        }
        if lease.expires.is_none() && self.renewal.is_none() {
            self.renewal = now.checked_add(RENEWAL);
        }
        let id = self.table.new_id();
        self.table.put(Lease { id, ..lease });
        true
    }
}

/// Whether filters let the same in: the kernel does not keep their order.
fn same(one: &[Filter], other: &[Filter]) -> bool {
    let has = |filters: &[Filter], filter| filters.contains(filter);
    one.iter().all(|filter| has(other, filter)) && other.iter().all(|filter| has(one, filter))
}

/// A port from `first` up; each as likely as the others.
fn random_above(rng: &mut impl RngCore, first: u16) -> u16 {
    let count = u32::from(u16::MAX.saturating_sub(first)).saturating_add(1);
    // The bias of 2^-48 is of no use to anybody.
    let offset = rng
        .next_u64()
        .checked_rem(u64::from(count))
        .unwrap_or_default();
    first.saturating_add(u16::try_from(offset).unwrap_or_default())
}

fn shortened(mut description: String) -> String {
    let mut end = super::MAX_DESCRIPTION.min(description.len());
    while !description.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    description.truncate(end);
    description
}
