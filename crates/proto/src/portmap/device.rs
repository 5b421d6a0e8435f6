//! UPnP gateways: what is in them, and which is best.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::upnp::description::Description;
use postern_wire::upnp::http::{Headers, Request, Response};
use postern_wire::upnp::igd::{ServiceKind, ServiceType};
use postern_wire::upnp::soap::{Arguments, CONTENT_TYPE, Call, Reply};
use postern_wire::upnp::url::HttpUrl;

use super::client::{Client, Purpose};
use super::is_public;
use super::types::{Event, Exchange, ExchangeId, ServiceAt};
use super::{after, timers::Timer};

/// The most gateways that are looked at: more do not answer in an honest network.
pub(super) const MAX_DEVICES: usize = 8;
/// The most services of a gateway that are asked: one over IP and one over PPP of each of two
/// lines.
const MAX_SERVICES: usize = 4;
/// The most types that a gateway is known to answer for: we ask for six.
const MAX_TARGETS: usize = 8;
/// How long a gateway may take to describe itself.
const DESCRIPTION_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long it may take to tell its state.
const STATUS_TIMEOUT: Duration = Duration::from_millis(2000);

/// A gateway that was found.
#[derive(Debug)]
pub(super) struct Device {
    /// Who answered, or who is at the location that was given.
    pub(super) address: IpAddr,
    /// Where the description is being read, or was.
    pub(super) location: HttpUrl,
    /// Where else it may be.
    other_location: Option<HttpUrl>,
    pub(super) state: State,
    /// The services that can do something for us; the best first when it is ready.
    pub(super) services: Vec<Service>,
    pub(super) model: String,
    pub(super) origin: Origin,
    /// Everything that it describes.
    pub(super) described: Vec<ServiceAt>,
    /// What it has answered for.
    pub(super) targets: Vec<String>,
    pub(super) presentation: String,
}

/// From where we know of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// We were told where it is.
    Named,
    /// It was there before.
    Remembered,
    /// It has answered.
    Heard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being looked at.
    InProgress,
    /// It can be asked, and could at this time.
    Ready(Instant),
    /// It is of no use, or has stopped answering.
    Useless,
}

/// A service of a gateway.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) kind: ServiceType,
    /// Its type as the description writes it.
    pub(super) urn: String,
    pub(super) control: HttpUrl,
    pub(super) connected: Option<bool>,
    pub(super) external: Option<IpAddr>,
    pending: u8,
}

impl Service {
    pub(super) fn is_public(&self) -> bool {
        self.external.is_some_and(is_public)
    }

    /// Connected and public, connected and private, connected and mute, not connected. IP
    /// before PPP and 2 before 1 among equals.
    pub(super) fn rank(&self) -> (u8, u8, bool) {
        let address = match (self.connected, self.external) {
            (Some(false), _) => 0,
            (_, Some(ip)) if is_public(ip) => 3,
            (_, Some(ip)) if !ip.is_unspecified() => 2,
            _ => 1,
        };
        (
            address,
            self.kind.version,
            self.kind.kind == ServiceKind::WanIp,
        )
    }
}

impl Client {
    /// Looks at a gateway. What it says is at another address is looked for there if that is
    /// on the link, and else at its own.
    pub(super) fn add_device(
        &mut self,
        now: Instant,
        from: IpAddr,
        location: &HttpUrl,
        origin: Origin,
    ) {
        let told = location.address.ip();
        let own = self.located(location.moved_to(from));
        let (first, second) = if told == from {
            (self.located(location.clone()), None)
        } else if told.is_ipv4() == from.is_ipv4() && self.config.admits(told) {
            (self.located(location.clone()), Some(own))
        } else {
            (own, None)
        };
        let known =
            |device: &Device| device.location == first || Some(&device.location) == second.as_ref();
        if self.devices.len() >= MAX_DEVICES || self.devices.iter().any(known) {
            return;
        }
        let index = self.devices.len();
        self.devices.push(Device {
            address: from,
            location: first,
            other_location: second,
            state: State::InProgress,
            services: Vec::new(),
            model: String::new(),
            origin,
            described: Vec::new(),
            targets: Vec::new(),
            presentation: String::new(),
        });
        self.describe(now, index);
    }

    /// Notes what whoever is at this address answers for.
    pub(super) fn note_target(&mut self, from: IpAddr, target: &str) {
        for device in self.devices.iter_mut().filter(|d| d.address == from) {
            let is_known = device.targets.iter().any(|known| known == target);
            if !is_known && device.targets.len() < MAX_TARGETS {
                device.targets.push(target.to_owned());
            }
        }
    }

    /// With our interface in it, if it is link-local.
    fn located(&self, mut url: HttpUrl) -> HttpUrl {
        url.address = self.config.at(url.address.ip(), url.address.port());
        url
    }

    /// Reads the description of a gateway, again if it was read before.
    pub(super) fn describe(&mut self, now: Instant, index: usize) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        device.state = State::InProgress;
        device.services.clear();
        let url = device.location.clone();
        let request = Request {
            method: "GET".to_owned(),
            target: url.path.clone(),
            headers: headers(&url),
            body: Vec::new(),
        };
        self.exchange(
            now,
            &url,
            &request,
            DESCRIPTION_TIMEOUT,
            Purpose::Describe(index),
        );
    }

    /// Sends a request on a connection of its own.
    pub(super) fn exchange(
        &mut self,
        now: Instant,
        url: &HttpUrl,
        request: &Request,
        timeout: Duration,
        purpose: Purpose,
    ) -> ExchangeId {
        let id = ExchangeId(self.next_exchange);
        self.next_exchange = self.next_exchange.wrapping_add(1);
        self.exchanges.insert(id, purpose);
        self.timers.set(Timer::Exchange(id), after(now, timeout));
        self.events.push_back(Event::Exchange(Exchange {
            id,
            from: self.config.local.ip(),
            to: url.address,
            request: request.to_bytes(),
            timeout,
        }));
        id
    }

    /// Calls an action.
    pub(super) fn call(
        &mut self,
        now: Instant,
        (urn, control): (&str, &HttpUrl),
        (action, arguments): (&str, Arguments),
        timeout: Duration,
        purpose: Purpose,
    ) -> ExchangeId {
        let call = Call {
            service: urn.to_owned(),
            action: action.to_owned(),
            arguments,
        };
        let request = Request {
            method: "POST".to_owned(),
            target: control.path.clone(),
            headers: headers(control)
                .with("Content-Type", CONTENT_TYPE)
                .with("SOAPAction", &call.header()),
            body: call.to_xml().into_bytes(),
        };
        self.exchange(now, control, &request, timeout, purpose)
    }

    /// The description of a gateway is here, or will not come.
    pub(super) fn on_description(
        &mut self,
        now: Instant,
        index: usize,
        response: Option<Response>,
    ) {
        let description = response
            .filter(|response| response.status == 200)
            .and_then(|response| Description::parse(&response.body).ok());
        let kinds: &[ServiceKind] = if self.config.is_v6() {
            &[ServiceKind::Ipv6Firewall]
        } else {
            &[ServiceKind::WanIp, ServiceKind::WanPpp]
        };
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        if let Some(description) = description {
            device.model = model(&description);
            device.described = described(&description, &device.location);
            device.services = services(&device.described, kinds);
            device.presentation = description.device.presentation_url;
        }
        if !device.services.is_empty() {
            return self.ask_services(now, index);
        }
        match device.other_location.take() {
            Some(other) => {
                device.location = other;
                self.describe(now, index);
            }
            None => {
                device.state = State::Useless;
                self.choose(now);
            }
        }
    }

    fn ask_services(&mut self, now: Instant, index: usize) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        for service in &mut device.services {
            service.pending = if self.config.is_v6() { 1 } else { 2 };
        }
        let questions: &[&str] = if self.config.is_v6() {
            &["GetFirewallStatus"]
        } else {
            &["GetStatusInfo", "GetExternalIPAddress"]
        };
        for (number, service) in device.services.clone().iter().enumerate() {
            for question in questions {
                self.call(
                    now,
                    (&service.urn, &service.control),
                    (question, Arguments::default()),
                    STATUS_TIMEOUT,
                    Purpose::Status(index, number),
                );
            }
        }
    }

    /// A service has told its state or its address, or will not.
    pub(super) fn on_status(
        &mut self,
        now: Instant,
        index: usize,
        number: usize,
        reply: Option<&Reply>,
    ) {
        let device = self.devices.get_mut(index);
        let Some((device, service)) = device.and_then(|device| {
            let service = device.services.get_mut(number)?;
            service.pending = service.pending.saturating_sub(1);
            if let Some(Reply::Done(arguments)) = reply {
                service.note(arguments);
            }
            Some((&mut device.services, &mut device.state))
        }) else {
            return;
        };
        if *service == State::InProgress && device.iter().all(|service| service.pending == 0) {
            device.sort_by_key(|service| std::cmp::Reverse(service.rank()));
            *service = State::Ready(now);
            self.on_ready(now);
        }
    }
}

impl Service {
    fn note(&mut self, arguments: &Arguments) {
        if let Some(status) = arguments.get("NewConnectionStatus") {
            // "Up" is what some say instead.
            let up = ["connected", "up"];
            self.connected = Some(up.iter().any(|word| status.eq_ignore_ascii_case(word)));
        }
        if let Some(address) = arguments.get("NewExternalIPAddress") {
            self.external = address.trim().parse().ok();
        }
        if let Some(allowed) = arguments.get("InboundPinholeAllowed") {
            let enabled = arguments.get("FirewallEnabled").unwrap_or("1");
            let yes = |text: &str| matches!(text, "1" | "true" | "yes");
            self.connected = Some(yes(allowed) || !yes(enabled));
        }
    }
}

/// All services that can be called.
fn described(description: &Description, location: &HttpUrl) -> Vec<ServiceAt> {
    let mut found = Vec::new();
    for service in description.services() {
        let Ok(control) = description.resolve(location, &service.control_url) else {
            continue;
        };
        // No host but the one that was asked is ever called.
        let mut control = control;
        if control.address.ip() != location.address.ip() {
            control.address.set_ip(location.address.ip());
        }
        if let (std::net::SocketAddr::V6(control), std::net::SocketAddr::V6(location)) =
            (&mut control.address, &location.address)
        {
            control.set_scope_id(location.scope_id());
        }
        found.push(ServiceAt {
            service_type: service.service_type.clone(),
            control,
        });
    }
    found
}

/// Those that map ports, the best first as far as is known.
fn services(described: &[ServiceAt], kinds: &[ServiceKind]) -> Vec<Service> {
    let mut found = Vec::new();
    for service in described {
        let kind = service.service_type.parse::<ServiceType>();
        let Some(kind) = kind.ok().filter(|kind| kinds.contains(&kind.kind)) else {
            continue;
        };
        found.push(Service {
            kind,
            urn: service.service_type.clone(),
            control: service.control.clone(),
            connected: None,
            external: None,
            pending: 0,
        });
    }
    found.sort_by_key(|service: &Service| std::cmp::Reverse(service.rank()));
    found.truncate(MAX_SERVICES);
    found
}

fn model(description: &Description) -> String {
    let device = &description.device;
    let parts = [
        &device.manufacturer,
        &device.model_name,
        &device.model_number,
    ];
    let filled: Vec<&str> = parts
        .into_iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    filled.join(" ")
}

fn headers(url: &HttpUrl) -> Headers {
    Headers::default()
        .with("Host", &url.host())
        .with("User-Agent", "postern UPnP/1.1")
        .with("Connection", "close")
}
