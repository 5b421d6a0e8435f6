//! One mapping: it is added, renewed, and removed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::pcp::Nonce;

use super::after;
use super::choice::{AGAIN, Route};
use super::client::{Client, Purpose};
use super::device::State;
use super::soap::Step;
use super::timers::Timer;
use super::types::{Event, ExchangeId, Failure, Mapping, MappingId, Protocol, Ticket, Wish};
use super::verify::Check;

/// The most mappings at once: whoever wants more is not one application.
pub(super) const MAX_MAPPINGS: usize = 256;
/// The least time between two renewals (RFC 6887 section 11.2.1).
const LEAST_RENEWAL: Duration = Duration::from_secs(4);
/// What is asked for when the caller asks for no port and its own is a well-known one.
const PORTS: std::ops::Range<u16> = 40_000..50_000;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Add,
    Renew,
    Remove,
}

/// Something under way, at one gateway.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) route: Route,
    /// How often the present question was sent.
    pub(super) tries: u32,
    pub(super) step: Step,
    pub(super) exchange: Option<ExchangeId>,
    pub(super) attempt: Attempt,
}

/// What is asked for; a UPnP gateway may make us ask for something else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) external_port: u16,
    /// The one that was asked for first.
    pub(super) first_port: u16,
    pub(super) lease: u32,
    /// Whether AddAnyPortMapping is called.
    pub(super) any: bool,
    /// How many ports were taken.
    pub(super) conflicts: u8,
    /// Whether what stood in the way was deleted.
    pub(super) cleared: bool,
    /// Which of the gateway's services is called.
    pub(super) service: usize,
    /// Whether a mapping may have been made that we were not told of.
    pub(super) uncertain: bool,
    /// Whether the mapping may be another service's: somebody else made it.
    pub(super) guessed: bool,
    /// Whether a service has said that it has no such mapping.
    pub(super) gone: bool,
}

/// A mapping that stands.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) route: Route,
    pub(super) service: usize,
    pub(super) mapping: Mapping,
    ends: Option<Instant>,
}

/// A wish, and how far it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wish: Wish,
    pub(super) nonce: Nonce,
    pub(super) held: Option<Held>,
    pub(super) job: Option<Job>,
    /// Ways that did not work.
    pub(super) refused: Vec<(Route, Failure)>,
    /// Whether it shall be removed.
    pub(super) leaving: bool,
    /// Whether it shall be removed and made again.
    pub(super) healing: bool,
    /// Whether that was because it did not work, and nobody has been told.
    pub(super) healed: bool,
    /// Whether it works is being looked at.
    pub(super) check: Option<Check>,
    /// Whether it waits before it is tried again.
    pub(super) paused: bool,
    /// It was made by another process.
    adopted: Option<Mapping>,
    /// What the caller knows.
    pub(super) told: Option<Mapping>,
}

impl Entry {
    pub(super) const fn is_waiting(&self) -> bool {
        self.job.is_none() && self.held.is_none() && !self.paused
    }

    /// By which protocol and which gateway another process has made it.
    pub(super) fn adopted_from(&self) -> Option<(Protocol, IpAddr)> {
        let adopted = self.adopted.as_ref();
        adopted.map(|mapping| (mapping.protocol, mapping.gateway))
    }
}

/// What a gateway has granted.
pub(super) struct Grant {
    pub(super) external_port: u16,
    pub(super) external_address: Option<IpAddr>,
    pub(super) lifetime: u32,
    pub(super) ticket: Ticket,
    pub(super) gateway: IpAddr,
}

impl Client {
    /// Wants a port to be reachable, until [`Client::unmap`].
    pub fn map(&mut self, now: Instant, wish: Wish) -> MappingId {
        let id = self.insert(wish, None);
        if self.mappings.len() > MAX_MAPPINGS
            || self
                .mappings
                .get(&id)
                .is_some_and(|e| e.wish.internal_port == 0)
        {
            self.mappings.remove(&id);
            self.events.push_back(Event::Failed(id, Failure::TooMany));
        } else {
            self.choose(now);
        }
        id
    }

    /// Takes over a mapping that another process made: it can be removed, and is renewed.
    pub fn adopt(&mut self, now: Instant, wish: Wish, mapping: Mapping) -> MappingId {
        let id = self.insert(wish, Some(mapping));
        self.choose(now);
        id
    }

    /// Takes over a mapping that another process made, and removes it.
    /// [`Event::Removed`] follows.
    pub fn remove_foreign(&mut self, now: Instant, wish: Wish, mapping: Mapping) -> MappingId {
        let id = self.insert(wish, Some(mapping));
        if let Some(entry) = self.mappings.get_mut(&id) {
            entry.leaving = true;
        }
        self.choose(now);
        id
    }

    fn insert(&mut self, wish: Wish, adopted: Option<Mapping>) -> MappingId {
        let id = MappingId(self.next_mapping);
        self.next_mapping = self.next_mapping.wrapping_add(1);
        let nonce = match adopted.as_ref().map(|mapping| &mapping.ticket) {
            Some(Ticket::Pcp(nonce)) => *nonce,
            _ => wish.nonce.unwrap_or_else(|| self.nonce()),
        };
        let entry = Entry {
            wish,
            nonce,
            held: None,
            job: None,
            refused: Vec::new(),
            leaving: false,
            healing: false,
            healed: false,
            check: None,
            paused: false,
            adopted,
            told: None,
        };
        self.mappings.insert(id, entry);
        id
    }

    /// Wants it no longer. [`Event::Removed`] follows when the gateway has agreed or not
    /// answered, which takes some seconds, and up to twenty by UPnP.
    pub fn unmap(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        entry.leaving = true;
        match (&entry.job, &entry.held) {
            // What is under way is waited for: a gateway may serve two connections in any order.
            (Some(job), _) if job.kind == Kind::Remove || matches!(job.route, Route::Upnp(_)) => {}
            (Some(job), _) => {
                let route = job.route;
                self.begin(now, id, Kind::Remove, route);
            }
            (None, Some(held)) => {
                let route = held.route;
                self.begin(now, id, Kind::Remove, route);
            }
            (None, None) => self.forget(id, Ok(())),
        }
    }

    /// Leaves it to its lease: it is neither renewed nor removed, and nothing follows.
    pub fn release(&mut self, id: MappingId) {
        self.mappings.remove(&id);
        self.timers.clear(Timer::Mapping(id));
        self.timers.clear(Timer::Expiry(id));
        self.timers.clear(Timer::Verify(id));
    }

    /// Wants nothing any longer.
    pub fn close(&mut self, now: Instant) {
        let all: Vec<MappingId> = self.mappings.keys().copied().collect();
        for id in all {
            self.unmap(now, id);
        }
    }

    /// Whether no mapping is wanted, and none is being made or removed.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        let of_mapping =
            |purpose: &Purpose| matches!(purpose, Purpose::Mapping(_) | Purpose::Nothing);
        self.mappings.is_empty() && !self.exchanges.values().any(of_mapping)
    }

    /// Whether nothing is wanted, and nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.mappings.is_empty() && self.exchanges.is_empty()
    }

    fn forget(&mut self, id: MappingId, result: Result<(), Failure>) {
        self.release(id);
        self.events.push_back(Event::Removed(id, result));
    }

    /// Begins something at a gateway.
    pub(super) fn begin(&mut self, now: Instant, id: MappingId, kind: Kind, route: Route) {
        if kind == Kind::Remove {
            self.drop_check(id);
        }
        let any = self.rng_port();
        let version = self
            .service(route, 0)
            .map_or(1, |service| service.kind.version);
        let is_v6 = self.config.is_v6();
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let held = entry.held.as_ref();
        let known = held
            .map(|held| &held.mapping)
            .or(entry.told.as_ref())
            .map(|m| m.external_port);
        let own = Some(entry.wish.internal_port).filter(|port| *port >= 1024 || is_v6);
        let wanted = Some(entry.wish.external_port).filter(|port| *port != 0);
        let first_port = known.or(wanted).or(own).unwrap_or(any);
        let attempt = Attempt {
            external_port: first_port,
            first_port,
            lease: entry.wish.lifetime,
            any: version >= 2 && !entry.wish.exact && kind == Kind::Add,
            conflicts: 0,
            cleared: false,
            service: held.map_or(0, |held| held.service),
            uncertain: false,
            guessed: false,
            gone: false,
        };
        entry.job = Some(Job {
            kind,
            route,
            tries: 0,
            step: Step::first(kind, is_v6),
            exchange: None,
            attempt,
        });
        self.send_job(now, id);
    }

    /// Begins what is to be done with a mapping of another process.
    pub(super) fn begin_adopted(&mut self, now: Instant, id: MappingId, route: Route) {
        let ends = |mapping: &Mapping| match mapping.lifetime {
            0 => None,
            lifetime => Some(after(now, Duration::from_secs(lifetime.into()))),
        };
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(mapping) = entry.adopted.take() else {
            return;
        };
        entry.held = Some(Held {
            route,
            service: 0,
            ends: ends(&mapping),
            mapping,
        });
        let kind = if entry.leaving {
            Kind::Remove
        } else {
            Kind::Renew
        };
        self.begin(now, id, kind, route);
        if let Some(job) = self.job(id) {
            job.attempt.guessed = true;
        }
    }

    /// Sends the present question, for the first time or again.
    pub(super) fn send_job(&mut self, now: Instant, id: MappingId) {
        let job = self.mappings.get(&id).and_then(|entry| entry.job.as_ref());
        match job.map(|job| job.route) {
            Some(Route::Pcp | Route::NatPmp) => self.send_datagram(now, id),
            Some(Route::Upnp(index)) => self.send_call(now, id, index),
            None => {}
        }
    }

    /// The deadline of a mapping: something was not answered, or is due.
    pub(super) fn on_mapping_due(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        match (&entry.job, &entry.held) {
            (Some(_), _) => self.send_job(now, id),
            (None, Some(held)) => {
                let route = held.route;
                self.begin(now, id, Kind::Renew, route);
            }
            (None, None) => {
                entry.paused = false;
                if self.routes().is_empty() {
                    self.look_around(now);
                }
                self.choose(now);
            }
        }
    }

    /// It was not renewed in time.
    pub(super) fn on_expiry(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        if entry
            .job
            .as_ref()
            .is_some_and(|job| job.kind == Kind::Remove)
        {
            return;
        }
        self.lose(now, id, Failure::Silent);
    }

    /// The gateway has agreed.
    pub(super) fn on_granted(&mut self, now: Instant, id: MappingId, grant: Grant) {
        let double_nat = self.is_double(grant.external_address);
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(job) = entry.job.take() else {
            return;
        };
        self.timers.clear(Timer::Mapping(id));
        let mapping = Mapping {
            protocol: job.route.protocol(),
            gateway: grant.gateway,
            transport: entry.wish.transport,
            external_address: grant.external_address,
            external_port: grant.external_port,
            internal_address: entry
                .wish
                .internal_host
                .unwrap_or_else(|| self.config.local.ip()),
            internal_port: entry.wish.internal_port,
            lifetime: grant.lifetime,
            double_nat,
            verified: None,
            ticket: grant.ticket,
        };
        let lifetime = Duration::from_secs(u64::from(grant.lifetime));
        let ends = (!lifetime.is_zero()).then(|| after(now, lifetime));
        entry.held = Some(Held {
            route: job.route,
            service: job.attempt.service,
            mapping,
            ends,
        });
        entry.refused.clear();
        entry.healing = false;
        let leaving = entry.leaving;
        let taken = entry.wish.exact
            && entry.wish.external_port != grant.external_port
            && entry.wish.external_port != 0;
        if leaving {
            return self.begin(now, id, Kind::Remove, job.route);
        }
        if taken {
            return self.return_it(now, id, job.route);
        }
        self.schedule(now, id, ends);
        if self.is_verified(id) {
            // A look that is under way goes on, whatever was renewed meanwhile.
            if !self.is_checking(id) {
                self.verify(now, id);
            }
        } else {
            self.tell(id, None);
        }
    }

    /// Another port than the one that was insisted on is given back.
    fn return_it(&mut self, now: Instant, id: MappingId, route: Route) {
        if let Some(entry) = self.mappings.get_mut(&id) {
            entry.healing = true;
            entry.refused.push((route, Failure::PortTaken));
        }
        self.begin(now, id, Kind::Remove, route);
    }

    /// When to renew: at a random time between a half and five eighths of what is left (RFC
    /// 6887 section 11.2.1), which for NAT-PMP is half of it, too.
    fn schedule(&mut self, now: Instant, id: MappingId, ends: Option<Instant>) {
        let left = match (ends, self.mappings.get(&id)) {
            (Some(ends), _) => ends.saturating_duration_since(now),
            (None, Some(entry)) => Duration::from_secs(entry.wish.lifetime.into()),
            (None, None) => return,
        };
        match ends {
            Some(ends) => self.timers.set(Timer::Expiry(id), ends),
            None => self.timers.clear(Timer::Expiry(id)),
        }
        let half = left.div_f32(2.0);
        let wait = self.between(half, half.saturating_add(left.div_f32(8.0)));
        self.timers
            .set(Timer::Mapping(id), after(now, wait.max(LEAST_RENEWAL)));
    }

    /// The gateway has refused, or said something that cannot be.
    pub(super) fn on_refused(&mut self, now: Instant, id: MappingId, why: Failure) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(job) = entry.job.take() else {
            return;
        };
        self.timers.clear(Timer::Mapping(id));
        let leaving = entry.leaving;
        match job.kind {
            Kind::Remove => self.on_removed(now, id, Err(why)),
            Kind::Add if leaving => self.forget(id, Ok(())),
            Kind::Add => self.refuse(now, id, job.route, why),
            Kind::Renew => self.lose(now, id, why),
        }
    }

    /// The gateway has not answered, however often it was asked.
    pub(super) fn on_silence(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        if job.kind == Kind::Renew && !entry.leaving {
            let ends = entry.held.as_ref().and_then(|held| held.ends);
            let route = job.route;
            entry.job = None;
            if let Route::Upnp(index) = route {
                // It may be there still, at another port than before.
                if let Some(device) = self.devices.get_mut(index) {
                    device.state = State::Useless;
                }
                return self.lose(now, id, Failure::Silent);
            }
            return match ends {
                Some(ends) => self.schedule(now, id, Some(ends)),
                // It does not end, and the gateway may be starting.
                None => self.timers.set(Timer::Mapping(id), after(now, AGAIN)),
            };
        }
        self.on_refused(now, id, Failure::Silent);
    }

    /// It does not stand any longer: it is made again, at once and by whoever answers.
    fn lose(&mut self, now: Instant, id: MappingId, why: Failure) {
        self.timers.clear(Timer::Mapping(id));
        self.timers.clear(Timer::Expiry(id));
        self.drop_check(id);
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        entry.job = None;
        entry.held = None;
        entry.healed = false;
        if entry.leaving {
            return self.forget(id, Ok(()));
        }
        // The port is still the one that is wanted.
        if let Some(told) = entry.told.take()
            && entry.wish.external_port == 0
        {
            entry.wish.external_port = told.external_port;
        }
        entry.refused.clear();
        self.events.push_back(Event::Lost(id, why));
        self.look_around(now);
        self.choose(now);
    }

    /// It is gone, or the gateway would not.
    pub(super) fn on_removed(&mut self, now: Instant, id: MappingId, result: Result<(), Failure>) {
        self.timers.clear(Timer::Mapping(id));
        self.timers.clear(Timer::Expiry(id));
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        entry.job = None;
        entry.held = None;
        if entry.healing && !entry.leaving {
            entry.healing = false;
            return self.choose(now);
        }
        self.forget(id, result);
    }

    /// All mappings of a way are asked for again, since the gateway may have forgotten them.
    pub(super) fn renew_all(&mut self, now: Instant, protocol: Protocol, wait: Duration) {
        let affected: Vec<MappingId> = self
            .mappings
            .iter()
            .filter(|(_, entry)| {
                let held = entry
                    .held
                    .as_ref()
                    .is_some_and(|held| held.route.protocol() == protocol);
                held && entry.job.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        for id in affected {
            self.timers.set(Timer::Mapping(id), after(now, wait));
        }
    }

    pub(super) fn is_double(&self, external: Option<IpAddr>) -> bool {
        if self.config.is_v6() {
            return false;
        }
        match (external, self.public_address) {
            (Some(external), Some(public)) => external != public,
            (Some(external), None) => !super::is_public(external),
            (None, _) => true,
        }
    }

    pub(super) fn rng_port(&mut self) -> u16 {
        let span = PORTS.end.saturating_sub(PORTS.start);
        let offset = self.random_below(span.into());
        PORTS
            .start
            .saturating_add(u16::try_from(offset).unwrap_or(0))
    }
}
