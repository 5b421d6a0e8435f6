//! Mappings and pinholes by UPnP.

use std::time::{Duration, Instant};

use postern_wire::upnp::igd::{self, Key, Pinhole};
use postern_wire::upnp::soap::{Arguments, ErrorCode, Reply};

use super::after;
use super::choice::Route;
use super::client::{Client, Purpose};
use super::device::{Device, Service};
use super::mapping::{Entry, Grant, Job, Kind};
use super::timers::Timer;
use super::types::{Failure, MappingId, Refusal, Ticket};

/// How long an action may take. There are gateways that write their flash first.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call is made whose answer does not come or cannot be read.
const TRIES: u32 = 3;
/// How long before it is made again, doubled each time.
const RETRY: Duration = Duration::from_millis(300);
/// The most characters of a description: there are gateways that store no more.
const MAX_DESCRIPTION: usize = 32;

/// Which action is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// GetExternalIPAddress, before a renewal: a failure then leaves nothing behind.
    External,
    /// AddPortMapping or AddAnyPortMapping.
    Add,
    /// GetSpecificPortMappingEntry: what was made?
    Look,
    /// The same: who has the port?
    Inspect,
    /// DeletePortMapping of what stands in the way and is ours, or nobody's.
    Clear,
    /// DeletePortMapping.
    Delete,
    /// AddPinhole.
    Open,
    /// UpdatePinhole.
    Update,
    /// DeletePinhole.
    Shut,
}

impl Step {
    pub(super) const fn first(kind: Kind, is_v6: bool) -> Self {
        match (kind, is_v6) {
            (Kind::Add, false) => Self::Add,
            (Kind::Renew, false) => Self::External,
            (Kind::Remove, false) => Self::Delete,
            (Kind::Add, true) => Self::Open,
            (Kind::Renew, true) => Self::Update,
            (Kind::Remove, true) => Self::Shut,
        }
    }
}

impl Client {
    pub(super) fn service(&self, route: Route, number: usize) -> Option<&Service> {
        match route {
            Route::Upnp(index) => self.devices.get(index)?.services.get(number),
            Route::Pcp | Route::NatPmp => None,
        }
    }

    /// Calls the action of the present step.
    pub(super) fn send_call(&mut self, now: Instant, id: MappingId, index: usize) {
        let own = self.config.local.ip().to_string();
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        let service = self.service(Route::Upnp(index), job.attempt.service);
        let Some((urn, control)) =
            service.map(|service| (service.urn.clone(), service.control.clone()))
        else {
            return self.on_refused(now, id, Failure::Silent);
        };
        let question = question(entry, job, &own);
        let exchange = self.call(
            now,
            (&urn, &control),
            question,
            CALL_TIMEOUT,
            Purpose::Mapping(id),
        );
        self.timers.clear(Timer::Mapping(id));
        if let Some(job) = self.job(id) {
            job.exchange = Some(exchange);
            job.tries = job.tries.saturating_add(1);
            job.attempt.uncertain |= matches!(job.step, Step::Add | Step::Open);
        }
    }

    pub(super) fn device(&self, route: Route) -> Option<&Device> {
        match route {
            Route::Upnp(index) => self.devices.get(index),
            Route::Pcp | Route::NatPmp => None,
        }
    }

    pub(super) fn job(&mut self, id: MappingId) -> Option<&mut Job> {
        self.mappings.get_mut(&id)?.job.as_mut()
    }

    /// Goes on with another step.
    pub(super) fn step(&mut self, now: Instant, id: MappingId, step: Step) {
        if let Some(job) = self.job(id) {
            job.step = step;
            job.tries = 0;
        }
        self.send_job(now, id);
    }

    /// An action was done, refused, or not answered.
    pub(super) fn on_call(&mut self, now: Instant, id: MappingId, reply: Option<Reply>) {
        let Some(job) = self.job(id) else {
            return;
        };
        job.exchange = None;
        let (step, tries) = (job.step, job.tries);
        match reply {
            Some(Reply::Done(arguments)) => self.on_done(now, id, step, &arguments),
            Some(Reply::Fault(fault)) => self.on_fault(now, id, step, fault.code),
            // These are only for our information.
            None if matches!(step, Step::External | Step::Look) && tries > 0 => {
                self.on_fault(now, id, step, ErrorCode::NONE);
            }
            None if tries < TRIES => {
                let wait = RETRY.saturating_mul(1_u32.checked_shl(tries).unwrap_or(1));
                self.timers.set(Timer::Mapping(id), after(now, wait));
            }
            None => self.on_mute(now, id),
        }
    }

    /// Nothing that can be understood comes. What may have been made is taken back.
    fn on_mute(&mut self, now: Instant, id: MappingId) {
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        if job.kind == Kind::Add && job.attempt.uncertain {
            self.sweep(now, job.route, job.attempt.service, &key(entry, job));
        }
        self.on_silence(now, id);
    }

    fn on_done(&mut self, now: Instant, id: MappingId, step: Step, arguments: &Arguments) {
        match step {
            Step::External => {
                self.note_external(id, arguments);
                self.step(now, id, Step::Add);
            }
            Step::Add => {
                self.note_port(id, arguments);
                self.step(now, id, Step::Look);
            }
            Step::Look => self.on_entry(now, id, arguments),
            Step::Inspect => self.on_owner(now, id, arguments),
            Step::Clear => self.step(now, id, Step::Add),
            Step::Delete | Step::Shut => self.on_removed(now, id, Ok(())),
            Step::Open | Step::Update => self.on_pinhole(now, id, arguments),
        }
    }

    fn note_external(&mut self, id: MappingId, arguments: &Arguments) {
        let Some(job) = self.job(id) else {
            return;
        };
        let (route, service) = (job.route, job.attempt.service);
        let told = arguments.get("NewExternalIPAddress").unwrap_or_default();
        let told = told.trim().parse().ok();
        if let Route::Upnp(index) = route
            && let Some(device) = self.devices.get_mut(index)
            && let Some(service) = device.services.get_mut(service)
        {
            service.external = told;
        }
    }

    /// AddAnyPortMapping tells the port, under a name that not all gateways know.
    fn note_port(&mut self, id: MappingId, arguments: &Arguments) {
        let Some(job) = self.job(id).filter(|job| job.attempt.any) else {
            return;
        };
        let told = ["NewReservedPort", "NewExternalPort"];
        let told = told.iter().find_map(|name| arguments.get(name));
        let port = told.and_then(|port| port.trim().parse().ok());
        if let Some(port) = port.filter(|port| *port != 0) {
            job.attempt.external_port = port;
        }
    }

    /// What the gateway says it has made.
    fn on_entry(&mut self, now: Instant, id: MappingId, arguments: &Arguments) {
        let own = self.config.local.ip().to_string();
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(job) = &entry.job else {
            return;
        };
        let asked = job.attempt.lease;
        let Some(told) = igd::Entry::from_specific_answer(key(entry, job), arguments) else {
            return self.hold(now, id, asked);
        };
        if told.internal_client != client(entry, &own)
            || told.internal_port != entry.wish.internal_port
        {
            return self.on_conflict(now, id, Failure::OtherHost);
        }
        let told_any = arguments.get("NewLeaseDuration").is_some();
        self.hold(now, id, if told_any { told.lease } else { asked });
    }

    /// It stands.
    pub(super) fn hold(&mut self, now: Instant, id: MappingId, lifetime: u32) {
        let Some(job) = self.job(id) else {
            return;
        };
        let (route, port, number) = (job.route, job.attempt.external_port, job.attempt.service);
        let Route::Upnp(index) = route else {
            return;
        };
        let external = self
            .service(route, number)
            .and_then(|service| service.external);
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let grant = Grant {
            external_port: port,
            external_address: external.filter(|ip| !ip.is_unspecified()),
            lifetime,
            ticket: Ticket::Upnp(device.location.clone()),
            gateway: device.address,
        };
        self.on_granted(now, id, grant);
    }

    fn on_pinhole(&mut self, now: Instant, id: MappingId, arguments: &Arguments) {
        let known = self.mappings.get(&id).and_then(unique_id);
        let told = arguments
            .get("UniqueID")
            .and_then(|text| text.trim().parse().ok());
        let Some(unique) = told.or(known) else {
            return self.on_refused(now, id, Failure::Garbled);
        };
        let own = self.config.local.ip();
        let Some(entry) = self.mappings.get(&id) else {
            return;
        };
        let Some(Route::Upnp(index)) = entry.job.as_ref().map(|job| job.route) else {
            return;
        };
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let grant = Grant {
            external_port: entry.wish.internal_port,
            external_address: Some(entry.wish.internal_host.unwrap_or(own)),
            lifetime: entry.wish.lifetime.min(MAX_PINHOLE),
            ticket: Ticket::Pinhole(device.location.clone(), unique),
            gateway: device.address,
        };
        self.on_granted(now, id, grant);
    }

    /// Deletes a mapping that nobody waits for: it may have been made by a call that was not
    /// answered.
    fn sweep(&mut self, now: Instant, route: Route, number: usize, key: &Key) {
        let service = self.service(route, number);
        if let Some((urn, control)) = service.map(|s| (s.urn.clone(), s.control.clone())) {
            let question = ("DeletePortMapping", key.to_arguments());
            self.call(
                now,
                (&urn, &control),
                question,
                CALL_TIMEOUT,
                Purpose::Nothing,
            );
        }
    }

    pub(super) fn on_upnp_refused(&mut self, now: Instant, id: MappingId, code: ErrorCode) {
        let why = if code == ErrorCode::NONE {
            Failure::Garbled
        } else {
            Failure::Refused(Refusal::Upnp(code))
        };
        self.on_refused(now, id, why);
    }
}

/// The longest lease of a pinhole, in seconds (WANIPv6FirewallControl:1 section 2.3.6).
const MAX_PINHOLE: u32 = 86_400;

fn unique_id(entry: &Entry) -> Option<u16> {
    match entry.held.as_ref()?.mapping.ticket {
        Ticket::Pinhole(_, unique) => Some(unique),
        Ticket::Pcp(_) | Ticket::NatPmp | Ticket::Upnp(_) => None,
    }
}

/// By what the mapping is known to the gateway.
pub(super) fn key(entry: &Entry, job: &Job) -> Key {
    Key {
        remote_host: String::new(),
        external_port: job.attempt.external_port,
        transport: entry.wish.transport,
    }
}

/// The host that is meant.
pub(super) fn client(entry: &Entry, own: &str) -> String {
    entry
        .wish
        .internal_host
        .map_or_else(|| own.to_owned(), |host| host.to_string())
}

fn question(entry: &Entry, job: &Job, own: &str) -> (&'static str, Arguments) {
    let unique = || Arguments::default().with("UniqueID", unique_id(entry).unwrap_or(0));
    let key = || key(entry, job).to_arguments();
    match job.step {
        Step::External => ("GetExternalIPAddress", Arguments::default()),
        Step::Add if job.attempt.any => ("AddAnyPortMapping", add(entry, job, own)),
        Step::Add => ("AddPortMapping", add(entry, job, own)),
        Step::Look | Step::Inspect => ("GetSpecificPortMappingEntry", key()),
        Step::Clear | Step::Delete => ("DeletePortMapping", key()),
        Step::Open => ("AddPinhole", open(entry, own)),
        Step::Update => {
            let lease = entry.wish.lifetime.min(MAX_PINHOLE);
            ("UpdatePinhole", unique().with("NewLeaseTime", lease))
        }
        Step::Shut => ("DeletePinhole", unique()),
    }
}

fn add(entry: &Entry, job: &Job, own: &str) -> Arguments {
    igd::Entry {
        key: key(entry, job),
        internal_port: entry.wish.internal_port,
        internal_client: client(entry, own),
        enabled: true,
        description: plain(&entry.wish.description),
        lease: job.attempt.lease.min(igd::MAX_LEASE),
    }
    .to_arguments()
}

fn open(entry: &Entry, own: &str) -> Arguments {
    Pinhole {
        remote_host: String::new(),
        remote_port: 0,
        internal_client: client(entry, own),
        internal_port: entry.wish.internal_port,
        protocol: entry.wish.transport.ip_protocol().into(),
        lease: entry.wish.lifetime.min(MAX_PINHOLE),
    }
    .to_arguments()
}

/// A description that every gateway stores.
fn plain(text: &str) -> String {
    let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
    text.chars()
        .filter(printable)
        .take(MAX_DESCRIPTION)
        .collect()
}
