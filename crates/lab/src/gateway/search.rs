//! SSDP.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use postern_wire::natpmp::CLIENT_PORT;
use postern_wire::pcp::{self, Operation, Options};
use postern_wire::upnp::ssdp::{self, Advertisement, GROUP_V4, Message, Notify, NotifyKind};

use super::fake::{Gateway, Sent};
use super::personality::{IGD, Location, Pcp, Search};

impl Gateway {
    pub(super) fn search(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<Sent> {
        let multicast = to.ip().is_multicast();
        let heard = match self.personality.search {
            Search::Both => true,
            Search::Multicast => multicast,
            Search::Unicast => !multicast,
        };
        let Ok(Message::Search(search)) = Message::parse(payload) else {
            return Vec::new();
        };
        if !heard || !self.personality.targets.contains(&search.target.as_str()) {
            return Vec::new();
        }
        let own = SocketAddr::new(self.address, self.personality.search_port);
        let group = (GROUP_V4, ssdp::PORT).into();
        let mut sent = Vec::new();
        if self.personality.noisy {
            sent.push((own, from, b"\x00\x01garbage\xff\xfe".to_vec()));
            sent.push((
                own,
                from,
                b"HTTP/1.1 200 OK\r\nLOCATION: nowhere\r\n\r\n".to_vec(),
            ));
        }
        for location in self.locations() {
            let about = self.advertisement(&search.target, location);
            sent.push((own, from, Message::Response(about).to_bytes(group)));
        }
        sent
    }

    fn advertisement(&self, target: &str, location: String) -> Advertisement {
        let usn = if self.personality.udn {
            format!("uuid:12345678::{target}")
        } else {
            String::new()
        };
        Advertisement {
            target: target.to_owned(),
            usn,
            location,
            server: "Fake/1 UPnP/1.1 fake/1".to_owned(),
            max_age: Some(1800),
            boot_id: Some(self.boots),
            config_id: None,
        }
    }

    fn locations(&self) -> Vec<String> {
        let at = |host: &str| format!("http://{host}:{}/root.xml", self.port);
        let own = match self.address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        match self.personality.location {
            Location::Own => vec![at(&own)],
            Location::Nobody => vec![at("192.168.1.77")],
            Location::Elsewhere => vec![at("45.45.9.9")],
            Location::V6 => vec![at("[fe80::1%25br0]")],
            Location::Twice => vec![format!("http://{own}:{}/inner.xml", self.port), at(&own)],
        }
    }

    /// What it tells everybody when it starts, or when it leaves.
    #[must_use]
    pub fn notifications(&self, kind: NotifyKind) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let own = SocketAddr::new(self.address, ssdp::PORT);
        let group: SocketAddr = (GROUP_V4, ssdp::PORT).into();
        if !self.personality.upnp {
            return Vec::new();
        }
        let location = self.locations().pop().unwrap_or_default();
        let notify = Message::Notify(Notify {
            kind,
            about: self.advertisement(IGD, location),
            next_boot_id: None,
        });
        vec![(own, group, notify.to_bytes(group))]
    }

    /// What PCP and NAT-PMP tell everybody after a start.
    #[must_use]
    pub fn announcements(&self, now: Instant) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        use postern_wire::natpmp::{Answer, GATEWAY_PORT, Response};
        let own = SocketAddr::new(self.address, GATEWAY_PORT);
        let all: SocketAddr = ([224, 0, 0, 1], CLIENT_PORT).into();
        let epoch = self.epoch(now);
        let payload = if self.personality.pcp == Pcp::Off {
            let answer = Answer::ExternalAddress([45, 45, 1, 1].into());
            Response::granted(epoch, answer).to_bytes()
        } else {
            let options = Options::default();
            pcp::Response::granted(0, epoch, Operation::Announce, options).to_bytes()
        };
        vec![(own, all, payload)]
    }
}
