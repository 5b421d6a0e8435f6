//! GENA (UPnP Device Architecture 2.0 section 4): telling subscribers what has changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::upnp::http::{Headers, Request};
use postern_wire::upnp::soap::CONTENT_TYPE;
use postern_wire::upnp::url::HttpUrl;
use postern_wire::upnp::xml::push_element;
use rand_core::RngCore;

use super::device::{SERVER, uuid};
use super::listing::is_mapping;
use super::requests::{Asked, empty};
use super::service::Service;
use crate::gateway::{Event, Gateway};

/// Subscriptions in all, and of one host.
const MAX_SUBSCRIPTIONS: usize = 64;
const MAX_OF_HOST: usize = 8;

/// Seconds of a subscription (at least 1,800), whatever is asked for.
const TIMEOUT: u64 = 1800;

/// Changes are told together, at most this often (section 4.3.2 knows such limits).
const MODERATION: Duration = Duration::from_millis(200);

/// Deliveries that fail in a row before a subscription ends.
const MAX_FAILURES: u32 = 3;

/// A subscription. A number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u128);

#[derive(Debug)]
struct Subscription {
    host: IpAddr,
    service: Service,
    callback: HttpUrl,
    ends: Instant,
    sequence: u32,
    failures: u32,
}

#[derive(Debug, Default)]
pub(in super::super) struct Events {
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// When subscribers are told that something has changed.
    due: Option<Instant>,
    told: Option<Instant>,
    /// Counts the changes of mappings (SystemUpdateID).
    updates: u32,
}

impl Events {
    pub(in super::super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Gateway {
    /// SUBSCRIBE (sections 4.1.2 and 4.1.3).
    pub(super) fn on_subscribe(&mut self, now: Instant, asked: &Asked<'_>, path: &str) {
        let status = match Service::at(path, "event") {
            None => 404,
            Some(service) => match asked.request.headers.get("SID") {
                Some(_) => self.renew_subscription(now, asked),
                None => self.subscribe(now, asked, service),
            },
        };
        if status != 200 {
            self.respond(asked.exchange, empty(status));
        }
    }

    fn subscribe(&mut self, now: Instant, asked: &Asked<'_>, service: Service) -> u16 {
        let headers = &asked.request.headers;
        if headers.get("NT") != Some("upnp:event") {
            return 412;
        }
        let callback = headers.get("CALLBACK").and_then(first_callback);
        // Events go back to whoever asked for them, and nowhere else (CVE-2020-12695).
        let Some(callback) = callback.filter(|url| url.address.ip() == asked.client.address) else {
            return 412;
        };
        self.end_subscriptions(now);
        let subscriptions = &self.upnp.events.subscriptions;
        let host = asked.client.address;
        let of_host = subscriptions.values().filter(|s| s.host == host).count();
        if subscriptions.len() >= MAX_SUBSCRIPTIONS || of_host >= MAX_OF_HOST {
            return 503;
        }
        let number = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64());
        let id = SubscriptionId(number);
        let subscription = Subscription {
            host,
            service,
            callback,
            ends: after_timeout(now),
            sequence: 0,
            failures: 0,
        };
        self.upnp.events.subscriptions.insert(id, subscription);
        self.confirm(asked, id);
        self.tell(id);
        200
    }

    fn renew_subscription(&mut self, now: Instant, asked: &Asked<'_>) -> u16 {
        let headers = &asked.request.headers;
        if headers.get("NT").is_some() || headers.get("CALLBACK").is_some() {
            return 400;
        }
        self.end_subscriptions(now);
        let Some(id) = self.own_subscription(asked) else {
            return 412;
        };
        if let Some(subscription) = self.upnp.events.subscriptions.get_mut(&id) {
            subscription.ends = after_timeout(now);
        }
        self.confirm(asked, id);
        200
    }

    fn confirm(&mut self, asked: &Asked<'_>, id: SubscriptionId) {
        let mut response = empty(200);
        response.headers.add("SID", &id.text());
        response
            .headers
            .add("TIMEOUT", &format!("Second-{TIMEOUT}"));
        self.respond(asked.exchange, response);
    }

    /// UNSUBSCRIBE (section 4.1.4).
    pub(super) fn on_unsubscribe(&mut self, asked: &Asked<'_>, path: &str) {
        let status = match (Service::at(path, "event"), self.own_subscription(asked)) {
            (None, _) => 404,
            (Some(_), None) => 412,
            (Some(_), Some(id)) => {
                self.upnp.events.subscriptions.remove(&id);
                200
            }
        };
        self.respond(asked.exchange, empty(status));
    }

    fn own_subscription(&self, asked: &Asked<'_>) -> Option<SubscriptionId> {
        let sid = asked.request.headers.get("SID")?;
        let mut all = self.upnp.events.subscriptions.iter();
        all.find_map(|(id, subscription)| {
            let own = subscription.host == asked.client.address;
            (own && id.text() == sid).then_some(*id)
        })
    }

    fn end_subscriptions(&mut self, now: Instant) {
        let subscriptions = &mut self.upnp.events.subscriptions;
        subscriptions.retain(|_, subscription| subscription.ends > now);
    }

    /// Mappings or the outside address have changed: subscribers are told soon.
    pub(in super::super) fn changed(&mut self, now: Instant) {
        self.upnp.events.updates = self.upnp.events.updates.wrapping_add(1);
        if self.upnp.events.due.is_none() {
            let told = self.upnp.events.told;
            let earliest = told.and_then(|told| told.checked_add(MODERATION));
            self.upnp.events.due = Some(earliest.unwrap_or(now).max(now));
        }
    }

    pub(in super::super) fn work_events(&mut self, now: Instant) {
        if self.upnp.events.due.is_none_or(|due| due > now) {
            return;
        }
        self.upnp.events.due = None;
        self.upnp.events.told = Some(now);
        self.end_subscriptions(now);
        let subscriptions = self.upnp.events.subscriptions.iter();
        let concerned = subscriptions.filter(|(_, s)| s.service != Service::Ipv6Firewall);
        let ids: Vec<_> = concerned.map(|(id, _)| *id).collect();
        for id in ids {
            self.tell(id);
        }
    }

    /// Tells one subscriber all that its service tells.
    fn tell(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.upnp.events.subscriptions.get(&id) else {
            return;
        };
        let body = self.properties(subscription.service);
        let Some(subscription) = self.upnp.events.subscriptions.get_mut(&id) else {
            return;
        };
        let request = Request {
            method: "NOTIFY".to_owned(),
            target: subscription.callback.path.clone(),
            headers: Headers::default()
                .with("HOST", &subscription.callback.host())
                .with("CONTENT-TYPE", CONTENT_TYPE)
                .with("SERVER", SERVER)
                .with("NT", "upnp:event")
                .with("NTS", "upnp:propchange")
                .with("SID", &id.text())
                .with("SEQ", &subscription.sequence.to_string())
                .with("CONNECTION", "close"),
            body: body.into_bytes(),
        };
        // It wraps to 1: 0 is the first one (section 4.3.1).
        subscription.sequence = subscription.sequence.checked_add(1).unwrap_or(1);
        let to = subscription.callback.address;
        self.events.push_back(Event::Deliver {
            subscription: id,
            to,
            request,
        });
    }

    /// Whether a subscriber took what it was told: the answer to [`Event::Deliver`].
    pub fn handle_delivered(&mut self, subscription: SubscriptionId, taken: bool) {
        let subscriptions = &mut self.upnp.events.subscriptions;
        let Some(found) = subscriptions.get_mut(&subscription) else {
            return;
        };
        found.failures = if taken {
            0
        } else {
            found.failures.saturating_add(1)
        };
        if found.failures >= MAX_FAILURES {
            subscriptions.remove(&subscription);
        }
    }

    fn properties(&self, service: Service) -> String {
        let mappings = self.table.iter().filter(|lease| is_mapping(lease)).count();
        let mappings = mappings.min(usize::from(u16::MAX)).to_string();
        let update = self.upnp.events.updates.to_string();
        let external = self.external_text();
        let default = self.default_connection_service();
        let properties: Vec<(&str, &str)> = match service {
            Service::Layer3Forwarding => vec![("DefaultConnectionService", &default)],
            Service::WanCommon => vec![("PhysicalLinkStatus", self.link_status())],
            Service::WanIp => vec![
                ("PossibleConnectionTypes", "IP_Routed"),
                ("ConnectionStatus", self.connection_status()),
                ("ExternalIPAddress", &external),
                ("PortMappingNumberOfEntries", &mappings),
                ("SystemUpdateID", &update),
            ],
            Service::Ipv6Firewall => {
                vec![("FirewallEnabled", "1"), ("InboundPinholeAllowed", "1")]
            }
        };
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\r\n\
             <e:propertyset xmlns:e=\"urn:schemas-upnp-org:event-1-0\">",
        );
        for (name, value) in properties {
            xml.push_str("<e:property>");
            push_element(&mut xml, name, value);
            xml.push_str("</e:property>");
        }
        xml.push_str("</e:propertyset>\r\n");
        xml
    }
}

impl SubscriptionId {
    fn text(self) -> String {
        format!("uuid:{}", uuid(self.0))
    }
}

fn after_timeout(now: Instant) -> Instant {
    now.checked_add(Duration::from_secs(TIMEOUT)).unwrap_or(now)
}

/// The first URL of `<url1><url2>`.
fn first_callback(header: &str) -> Option<HttpUrl> {
    let (url, _) = header.trim().strip_prefix('<')?.split_once('>')?;
    url.parse().ok()
}

/// Where a delivery goes, for the log.
impl std::fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}
