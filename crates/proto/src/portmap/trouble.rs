//! What the errors of UPnP gateways mean, and what then.

use std::time::Instant;

use postern_wire::upnp::igd;
use postern_wire::upnp::soap::{Arguments, ErrorCode as E};

use super::client::Client;
use super::mapping::Kind;
use super::soap::{Step, client, key};
use super::types::{Event, Failure, Mapping, MappingId, Protocol, Refusal, Ticket};

/// How many ports are tried when the one that was wanted is taken.
const MAX_CONFLICTS: u8 = 4;

impl Client {
    pub(super) fn on_fault(&mut self, now: Instant, id: MappingId, step: Step, code: E) {
        match step {
            Step::External => self.step(now, id, Step::Add),
            Step::Add => self.on_add_fault(now, id, code),
            // Not all can look; what we asked for counts.
            Step::Look => {
                let lease = self.job(id).map_or(0, |job| job.attempt.lease);
                self.hold(now, id, lease);
            }
            // There is something that is not in the list.
            Step::Inspect if code == E::NO_SUCH_ENTRY_IN_ARRAY => self.clear(now, id),
            Step::Inspect => self.other_port(now, id, Failure::PortTaken),
            // There was nothing to delete, as far as it says: it may have been deleted still.
            Step::Clear => self.step(now, id, Step::Add),
            Step::Delete | Step::Shut if is_gone(code) => self.on_removed(now, id, Ok(())),
            Step::Delete | Step::Shut => self.on_upnp_refused(now, id, code),
            // The firewall has forgotten it.
            Step::Update if code == E::NO_SUCH_ENTRY => self.step(now, id, Step::Open),
            Step::Update | Step::Open => self.on_upnp_refused(now, id, code),
        }
    }

    fn on_add_fault(&mut self, now: Instant, id: MappingId, code: E) {
        let Some((internal, exact, wanted, must_end)) = self.mappings.get(&id).map(|entry| {
            let wish = &entry.wish;
            let ports = (wish.internal_port, wish.exact, wish.external_port);
            (ports.0, ports.1, ports.2, wish.must_end)
        }) else {
            return;
        };
        let Some(job) = self.job(id) else {
            return;
        };
        job.attempt.uncertain = false;
        let attempt = &mut job.attempt;
        match code {
            // AddAnyPortMapping is not known after all.
            E::INVALID_ACTION | E::OPTIONAL_NOT_IMPLEMENTED if attempt.any => {
                attempt.any = false;
                self.step(now, id, Step::Add);
            }
            E::ONLY_PERMANENT_LEASES_SUPPORTED if must_end => {
                self.on_refused(now, id, Failure::Unsupported);
            }
            // The second says in other words that no lease is wanted.
            E::ONLY_PERMANENT_LEASES_SUPPORTED | E::INVALID_ARGS
                if attempt.lease != 0 && !must_end =>
            {
                attempt.lease = 0;
                self.announce_endless(id);
                self.step(now, id, Step::Add);
            }
            E::INVALID_ARGS if attempt.any => {
                attempt.any = false;
                self.step(now, id, Step::Add);
            }
            E::SAME_PORT_VALUES_REQUIRED
                if attempt.external_port != internal && !(exact && wanted != 0) =>
            {
                attempt.external_port = internal;
                attempt.any = false;
                self.step(now, id, Step::Add);
            }
            // Zero would be every port, and every service of this host.
            E::SAME_PORT_VALUES_REQUIRED | E::EXTERNAL_PORT_ONLY_SUPPORTS_WILDCARD => {
                self.on_refused(now, id, Failure::PortUnsupported);
            }
            E::CONFLICT_IN_MAPPING_ENTRY if attempt.cleared => {
                self.other_port(now, id, Failure::PortTaken);
            }
            E::CONFLICT_IN_MAPPING_ENTRY => self.step(now, id, Step::Inspect),
            // Either of them is "taken" to some.
            E::CONFLICT_WITH_OTHER_MECHANISMS => self.other_port(now, id, Failure::PortTaken),
            E::ACTION_FAILED => {
                self.other_port(now, id, Failure::Refused(Refusal::Upnp(code)));
            }
            code => self.other_service(now, id, code),
        }
    }

    /// The port is somebody's. If it is ours, from an earlier run, it is made anew.
    pub(super) fn on_owner(&mut self, now: Instant, id: MappingId, arguments: &Arguments) {
        let own = self.config.local.ip().to_string();
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        let told = igd::Entry::from_specific_answer(key(entry, job), arguments);
        if told.is_some_and(|told| told.internal_client == client(entry, &own)) {
            self.clear(now, id);
        } else {
            self.other_port(now, id, Failure::PortTaken);
        }
    }

    fn clear(&mut self, now: Instant, id: MappingId) {
        if let Some(job) = self.job(id) {
            job.attempt.cleared = true;
        }
        self.step(now, id, Step::Clear);
    }

    /// It was made, and is another host's: the port is not ours to delete.
    pub(super) fn on_conflict(&mut self, now: Instant, id: MappingId, why: Failure) {
        self.other_port(now, id, why);
    }

    /// Tries another port, unless this one is insisted on or enough were tried.
    fn other_port(&mut self, now: Instant, id: MappingId, why: Failure) {
        let port = self.rng_port();
        let exact = self
            .mappings
            .get(&id)
            .is_some_and(|entry| entry.wish.exact && entry.wish.external_port != 0);
        let Some(job) = self.job(id) else {
            return;
        };
        if exact || job.attempt.conflicts >= MAX_CONFLICTS {
            if let Failure::Refused(Refusal::Upnp(code)) = why {
                return self.other_service(now, id, code);
            }
            return self.on_refused(now, id, why);
        }
        job.attempt.conflicts = job.attempt.conflicts.saturating_add(1);
        job.attempt.external_port = port;
        if job.attempt.lease == 0 {
            self.announce_endless(id);
        }
        self.step(now, id, Step::Add);
    }

    /// A mapping that no lease ends is written down before it is made.
    fn announce_endless(&mut self, id: MappingId) {
        let own = self.config.local.ip();
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        let Some(device) = self.device(job.route) else {
            return;
        };
        let mapping = Mapping {
            protocol: Protocol::Upnp,
            gateway: device.address,
            transport: entry.wish.transport,
            external_address: None,
            external_port: job.attempt.external_port,
            internal_address: entry.wish.internal_host.unwrap_or(own),
            internal_port: entry.wish.internal_port,
            lifetime: 0,
            double_nat: false,
            verified: None,
            ticket: Ticket::Upnp(device.location.clone()),
        };
        self.events.push_back(Event::Endless(id, mapping));
    }

    /// A gateway with a service over IP and one over PPP may do it with the other one.
    fn other_service(&mut self, now: Instant, id: MappingId, code: E) {
        let Some(job) = self.job(id) else {
            return;
        };
        let (route, next) = (job.route, job.attempt.service.saturating_add(1));
        if job.kind != Kind::Add || self.service(route, next).is_none() {
            return self.on_upnp_refused(now, id, code);
        }
        if let Some(job) = self.job(id) {
            job.attempt.service = next;
            job.attempt.any = false;
            job.attempt.conflicts = 0;
            job.attempt.external_port = job.attempt.first_port;
        }
        self.step(now, id, Step::Add);
    }
}

/// Whether there is nothing to delete: some have other words for that.
const fn is_gone(code: E) -> bool {
    matches!(
        code,
        E::NO_SUCH_ENTRY_IN_ARRAY | E::NO_SUCH_ENTRY | E::SPECIFIED_ARRAY_INDEX_INVALID
    )
}
