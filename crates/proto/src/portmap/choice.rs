//! Which way is taken, and what is done when it fails.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::after;
use super::client::Client;
use super::device::State;
use super::is_public;
use super::mapping::Kind;
use super::probe::Probe;
use super::timers::Timer;
use super::types::{Event, Failure, Found, MappingId, Protocol};

/// How long after the first that is ready others may be ready, too.
const COLLECT: Duration = Duration::from_millis(50);
/// How long after the first that is ready slow gateways may describe themselves.
const PATIENCE: Duration = Duration::from_millis(500);
/// After how long nobody is there.
pub(super) const SETTLE: Duration = Duration::from_millis(2700);
/// After how long we look around again when nothing was found, or everything refused.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// A way to a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    Pcp,
    NatPmp,
    /// The gateway with this index.
    Upnp(usize),
}

impl Route {
    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Pcp => Protocol::Pcp,
            Self::NatPmp => Protocol::NatPmp,
            Self::Upnp(_) => Protocol::Upnp,
        }
    }
}

impl Client {
    /// Looks around, by all protocols that are wanted.
    pub(super) fn look_around(&mut self, now: Instant) {
        self.settled = false;
        self.collected = false;
        self.patient = true;
        self.search_rounds = 0;
        self.started = now;
        self.timers.clear(Timer::Again);
        self.timers.set(Timer::Settled, after(now, SETTLE));
        self.start_probes(now);
        if let Some(location) = self
            .config
            .location
            .clone()
            .filter(|_| self.config.protocols.upnp)
        {
            let address = location.address.ip();
            if self.config.admits(address) {
                self.add_device(now, address, &location, true);
            }
        }
        let stale: Vec<usize> = self
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| device.state == State::Useless)
            .map(|(index, _)| index)
            .collect();
        for index in stale {
            self.describe(now, index);
        }
        self.send_search(now);
    }

    /// Somebody is ready.
    pub(super) fn on_ready(&mut self, now: Instant) {
        if !self.collected && !self.timers.is_set(Timer::Collected) {
            self.timers.set(Timer::Collected, after(now, COLLECT));
            self.timers.set(Timer::Patience, after(now, PATIENCE));
        }
        for entry in self.mappings.values_mut() {
            entry.paused = false;
        }
        self.choose(now);
    }

    pub(super) fn on_settled(&mut self, now: Instant) {
        self.settled = true;
        if !self.is_looking() {
            self.timers.set(Timer::Again, after(now, AGAIN));
        }
        self.choose(now);
    }

    /// Gives every mapping that waits a way, if there is one to be taken, and answers who
    /// asked for what is known once everybody is settled.
    pub(super) fn choose(&mut self, now: Instant) {
        let waiting: Vec<MappingId> = self
            .mappings
            .iter()
            .filter(|(_, entry)| entry.is_waiting())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.assign(now, id);
        }
        self.answer_queries(now);
    }

    fn assign(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        if let Some(protocol) = entry.adopted_by() {
            return self.assign_adopted(now, id, protocol);
        }
        let third_party = entry.wish.internal_host.is_some();
        let refused = |route: &Route| entry.refused.iter().any(|(refused, _)| refused == route);
        let next = self
            .routes()
            .into_iter()
            .find(|route| !(refused(route) || third_party && *route == Route::NatPmp));
        match next {
            Some(route) if self.may_take(route) => self.begin(now, id, Kind::Add, route),
            Some(_) => {}
            None if self.is_hopeless() => self.give_up(now, id),
            None => {}
        }
    }

    /// One that was made by another process is dealt with by the way it was made.
    fn assign_adopted(&mut self, now: Instant, id: MappingId, protocol: Protocol) {
        let route = match protocol {
            Protocol::Pcp => Some(Route::Pcp),
            Protocol::NatPmp => Some(Route::NatPmp),
            Protocol::Upnp => self
                .routes()
                .into_iter()
                .find(|route| route.protocol() == Protocol::Upnp),
        };
        match route {
            Some(route) => self.begin_adopted(now, id, route),
            None if self.is_hopeless() => self.give_up(now, id),
            None => {}
        }
    }

    /// Whether nobody else will be ready soon.
    pub(super) fn is_hopeless(&self) -> bool {
        let in_progress = self
            .devices
            .iter()
            .any(|device| device.state == State::InProgress);
        let searched = self.config.protocols.upnp && self.config.search;
        let nobody_is_asked =
            !(self.probes.pcp.is_asking() || self.probes.natpmp.is_asking() || searched);
        !in_progress && (self.settled || nobody_is_asked)
    }

    fn is_looking(&self) -> bool {
        self.devices
            .iter()
            .any(|device| matches!(device.state, State::Ready(_)))
            || self.probes.pcp.is_ready()
            || self.probes.natpmp.is_ready()
    }

    /// Everybody who is ready, the best first: PCP, NAT-PMP, then UPnP gateways by rank; but a
    /// UPnP gateway with a public address goes before NAT-PMP with a private one.
    pub(super) fn routes(&self) -> Vec<Route> {
        let mut upnp: Vec<usize> = (0..self.devices.len())
            .filter(|index| {
                self.devices
                    .get(*index)
                    .is_some_and(|d| matches!(d.state, State::Ready(_)))
            })
            .collect();
        let rank = |index: &usize| {
            let service = self
                .devices
                .get(*index)
                .and_then(|device| device.services.first());
            service.map(|service| service.rank())
        };
        upnp.sort_by_key(|index| std::cmp::Reverse(rank(index)));
        let mut routes: Vec<Route> = upnp.into_iter().map(Route::Upnp).collect();
        if self.probes.natpmp.is_ready() {
            let private = self.probes.external.is_some_and(|ip| !is_public(ip));
            let better = routes
                .first()
                .is_some_and(|route| self.external_of(*route).is_some_and(is_public));
            let place = usize::from(private && better);
            routes.insert(place, Route::NatPmp);
        }
        if self.probes.pcp.is_ready() {
            routes.insert(0, Route::Pcp);
        }
        routes
    }

    /// Whether there is no point in waiting for a better way.
    pub(super) fn may_take(&self, route: Route) -> bool {
        match route {
            Route::Pcp => true,
            Route::NatPmp => self.collected || !self.probes.pcp.is_asking(),
            Route::Upnp(index) => {
                let named = self.devices.get(index).is_some_and(|device| device.named);
                let in_progress = self
                    .devices
                    .iter()
                    .any(|device| device.state == State::InProgress);
                named || self.settled || (self.collected && !(in_progress && self.patient))
            }
        }
    }

    /// A mapping cannot be made by this way.
    pub(super) fn refuse(&mut self, now: Instant, id: MappingId, route: Route, why: Failure) {
        if let Some(entry) = self.mappings.get_mut(&id) {
            entry.job = None;
            entry.refused.push((route, why));
        }
        self.timers.clear(Timer::Mapping(id));
        self.choose(now);
    }

    /// No mapping can be made by this way.
    pub(super) fn abandon_route(&mut self, now: Instant, route: Route, why: Failure) {
        let affected: Vec<MappingId> = self
            .mappings
            .iter()
            .filter(|(_, entry)| {
                entry
                    .job
                    .as_ref()
                    .is_some_and(|job| job.route == route && job.kind == Kind::Add)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in affected {
            self.refuse(now, id, route, why);
        }
    }

    /// There is no way left. It is tried again after a while.
    fn give_up(&mut self, now: Instant, id: MappingId) {
        let probes = [self.probes.pcp, self.probes.natpmp];
        let absent = probes.into_iter().find_map(|probe| match probe {
            Probe::Absent(why) => why,
            Probe::Off | Probe::Asking(_) | Probe::Ready(_) => None,
        });
        let Some(entry) = self.mappings.get_mut(&id) else {
            return;
        };
        // A clear word counts for more than silence.
        let worst =
            |(_, why): &&(Route, Failure)| !matches!(why, Failure::Silent | Failure::Garbled);
        let why = entry
            .refused
            .iter()
            .rfind(worst)
            .or_else(|| entry.refused.last())
            .map(|(_, why)| *why);
        let why = why.or(absent).unwrap_or(Failure::NoGateway);
        if entry.leaving {
            self.mappings.remove(&id);
            self.timers.clear(Timer::Mapping(id));
            return self.events.push_back(Event::Removed(id, Err(why)));
        }
        // The port is still the one that is wanted, if it stood before.
        if let Some(told) = entry.told.take()
            && entry.wish.external_port == 0
        {
            entry.wish.external_port = told.external_port;
        }
        entry.healed = false;
        entry.refused.clear();
        entry.paused = true;
        self.timers.set(Timer::Mapping(id), after(now, AGAIN));
        self.events.push_back(Event::Failed(id, why));
    }

    /// Everybody who is ready, with what they told.
    #[must_use]
    pub fn found(&self) -> Vec<Found> {
        self.routes()
            .into_iter()
            .filter_map(|route| self.found_by(route))
            .collect()
    }

    fn found_by(&self, route: Route) -> Option<Found> {
        let (ready, device) = match route {
            Route::Pcp => (self.probes.pcp, None),
            Route::NatPmp => (self.probes.natpmp, None),
            Route::Upnp(index) => (Probe::Off, Some(self.devices.get(index)?)),
        };
        let state = device.map(|device| device.state);
        let ((Probe::Ready(ready), _) | (_, Some(State::Ready(ready)))) = (ready, state) else {
            return None;
        };
        let service = device.and_then(|device| device.services.first());
        Some(Found {
            protocol: route.protocol(),
            gateway: device
                .map(|device| device.address)
                .or(self.config.gateway)?,
            after: ready.saturating_duration_since(self.started),
            external_address: self.external_of(route),
            connected: service.and_then(|service| service.connected),
            model: device
                .map(|device| device.model.clone())
                .unwrap_or_default(),
            service: service
                .map(|service| service.urn.clone())
                .unwrap_or_default(),
            location: device.map(|device| device.location.clone()),
            control: service.map(|service| service.control.clone()),
        })
    }

    /// The address outside that this gateway has told, if any and if it is one.
    pub(super) fn external_of(&self, route: Route) -> Option<IpAddr> {
        let told = match route {
            Route::Pcp => None,
            Route::NatPmp => self.probes.external,
            Route::Upnp(index) => self.devices.get(index)?.services.first()?.external,
        };
        told.filter(|ip| !ip.is_unspecified())
    }
}
