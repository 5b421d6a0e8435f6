//! What gateways say unasked: announcements of PCP and NAT-PMP, notifications of SSDP.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_wire::upnp::ssdp::{Message, Notify, NotifyKind};

use super::after;
use super::client::Client;
use super::timers::Timer;
use super::types::Protocol;

/// Over how long all clients of a gateway that has restarted spread their requests (RFC 6887
/// section 14.1.3).
const SPREAD: Duration = Duration::from_secs(5);
/// How often a gateway's notifications make us look, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Client {
    /// The gateway's clock says that it has forgotten its mappings.
    pub(super) fn on_forgotten(&mut self, now: Instant, protocol: Protocol, announced: bool) {
        let wait = if announced {
            self.between(Duration::ZERO, SPREAD)
        } else {
            Duration::ZERO
        };
        self.renew_all(now, protocol, wait);
        // Whoever restarts forgets what was made by UPnP as well.
        self.renew_all(now, Protocol::Upnp, wait);
    }

    /// A datagram of discovery.
    pub(super) fn on_ssdp(&mut self, now: Instant, from: IpAddr, payload: &[u8]) {
        match Message::parse(payload) {
            Ok(Message::Response(about)) => {
                self.on_advertisement(now, from, &about);
                self.note_target(from, &about.target);
            }
            Ok(Message::Notify(notify)) => self.on_notify(now, from, &notify),
            Ok(Message::Search(_)) | Err(_) => {}
        }
    }

    /// A gateway is there, or leaves. A forged word makes us ask, no more.
    fn on_notify(&mut self, now: Instant, from: IpAddr, notify: &Notify) {
        let ours = self.devices.iter().any(|device| device.address == from);
        if !self.config.admits(from) || !(ours || self.config.gateway == Some(from)) {
            return;
        }
        match notify.kind {
            NotifyKind::ByeBye => self.has_left = true,
            NotifyKind::Alive | NotifyKind::Update => {
                let known = self.boot_id;
                self.boot_id = notify.about.boot_id.or(known);
                let same = known.is_some() && known == notify.about.boot_id && !self.has_left;
                self.on_advertisement(now, from, &notify.about);
                if !same {
                    self.look_soon(now);
                }
            }
        }
    }

    fn look_soon(&mut self, now: Instant) {
        let recent = |then: Instant| now.saturating_duration_since(then) < LOOK_AGAIN;
        if self.timers.is_set(Timer::Check) || self.checked.is_some_and(recent) {
            return;
        }
        let wait = self.between(Duration::ZERO, SPREAD);
        self.timers.set(Timer::Check, after(now, wait));
    }

    /// The mappings are asked for again: who still has them renews them.
    pub(super) fn on_check_due(&mut self, now: Instant) {
        self.checked = Some(now);
        self.has_left = false;
        for protocol in Protocol::ALL {
            self.renew_all(now, protocol, Duration::ZERO);
        }
    }
}
