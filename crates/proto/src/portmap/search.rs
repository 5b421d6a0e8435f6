//! Searching for UPnP gateways.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::upnp::igd::GATEWAY_DEVICE;
use postern_wire::upnp::ssdp::{self, Advertisement, GROUP_V4, GROUP_V6, Search};
use postern_wire::upnp::url::HttpUrl;

use super::after;
use super::client::Client;
use super::device::Origin;
use super::timers::Timer;
use crate::Transmit;

/// When it is searched again: a datagram may have been lost, and a firewall of ours that is
/// stateful may have learnt from the first that answers are welcome.
const ROUNDS: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1000)];
/// Over how many seconds answers may be spread.
const MX: u8 = 1;

impl Client {
    /// Sends a round: to the gateway by unicast first, then to the group.
    pub(super) fn send_search(&mut self, now: Instant) {
        if !self.config.protocols.upnp || !self.config.search {
            return;
        }
        let round = self.search_rounds;
        self.search_rounds = round.saturating_add(1);
        let mut places = Vec::new();
        places.extend(self.config.gateway.map(|ip| self.config.at(ip, ssdp::PORT)));
        let group: IpAddr = if self.config.is_v6() {
            GROUP_V6.into()
        } else {
            GROUP_V4.into()
        };
        places.push(self.config.at(group, ssdp::PORT));
        for place in places {
            for target in targets(round) {
                self.send_search_to(place, target);
            }
        }
        if let Some(wait) = ROUNDS.get(round) {
            self.timers.set(Timer::Search, after(now, *wait));
        }
    }

    fn send_search_to(&mut self, place: SocketAddr, target: String) {
        let search = Search {
            target,
            mx: Some(MX),
            host: SocketAddr::new(place.ip(), place.port()).to_string(),
            user_agent: String::new(),
        };
        self.transmits.push_back(Transmit {
            local: self.config.local,
            remote: place,
            payload: search.to_bytes(),
        });
    }

    /// Somebody says where it is described. The port that it says so from does not matter.
    pub(super) fn on_advertisement(&mut self, now: Instant, from: IpAddr, about: &Advertisement) {
        if !self.config.protocols.upnp
            || !self.config.admits(from)
            || !self.is_promising(from, about)
        {
            return;
        }
        if let Ok(location) = about.location.parse::<HttpUrl>() {
            self.add_device(now, from, &location, Origin::Heard);
        }
    }

    /// Whether a gateway may be there. Who is a root device of whatever kind is asked only at
    /// the address of the default router.
    fn is_promising(&self, from: IpAddr, about: &Advertisement) -> bool {
        let known = [
            "internetgatewaydevice",
            "wanipconnection",
            "wanpppconnection",
            "wanconnectiondevice",
            "wandevice",
        ];
        let target = about.target.to_ascii_lowercase();
        known.iter().any(|name| target.contains(name)) || self.config.gateway == Some(from)
    }
}

/// What is looked for. Asking for everything first makes some answer with something else.
fn targets(round: usize) -> Vec<String> {
    let mut targets = vec![format!("{GATEWAY_DEVICE}:1"), format!("{GATEWAY_DEVICE}:2")];
    if round > 0 {
        targets.extend([
            "urn:schemas-upnp-org:service:WANIPConnection:1".to_owned(),
            "urn:schemas-upnp-org:service:WANPPPConnection:1".to_owned(),
            "upnp:rootdevice".to_owned(),
        ]);
    }
    targets
}
