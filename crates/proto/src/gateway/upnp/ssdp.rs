//! SSDP: being found.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::upnp::ssdp::{Advertisement, Message, Notify, NotifyKind, Search};
use rand_core::RngCore;

use super::device::{DEVICES, PATH, SERVER, holder, urn};
use super::service::Service;
use super::{Place, Upnp};
use crate::gateway::Gateway;
use crate::{Datagram, Transmit, Verdict};

/// For how long an announcement is good (at least 1,800 s).
const MAX_AGE: u32 = 1800;

/// Announcements are repeated at less than half of that, at a random moment.
const REPEAT: Duration = Duration::from_secs(600);
const REPEAT_SPREAD: Duration = Duration::from_secs(240);

/// At the start, because datagrams are lost: so many, and the time between two.
const FIRST_ROUNDS: u32 = 3;
const FIRST_INTERVAL: Duration = Duration::from_millis(300);

/// Answers are spread over MX, but not over more than this (section 1.3.3).
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Answers that wait to be sent: two hundred searches for everything.
const MAX_WAITING: usize = 4096;

/// What one source may be sent beyond what came from it: twice the answers to a search for
/// everything. It grows back at the rate below.
const ALLOWANCE: u64 = 16 * 1024;
const REGAINED_PER_SECOND: u64 = 512;

/// Sources that are remembered.
const MAX_SOURCES: usize = 4096;

/// The number of the description (CONFIGID.UPNP.ORG): it does not change while we run.
const CONFIG_ID: u32 = 1;

#[derive(Debug, Default)]
pub(in super::super) struct Ssdp {
    waiting: BTreeMap<(Instant, u64), Transmit>,
    next: u64,
    sources: BTreeMap<IpAddr, Account>,
    rounds: u32,
    repeat: Option<Instant>,
}

/// What a source may still be sent.
#[derive(Debug, Clone, Copy)]
struct Account {
    bytes: u64,
    at: Instant,
}

/// A device or service, as SSDP names it.
struct Target {
    target: String,
    usn: String,
}

impl Ssdp {
    pub(in super::super) fn due(&self) -> Option<Instant> {
        let answer = self.waiting.first_key_value().map(|((due, _), _)| *due);
        [answer, self.repeat].into_iter().flatten().min()
    }

    /// Takes from the account of a source, which what it sends adds to.
    fn spend(&mut self, now: Instant, source: IpAddr, received: usize, bytes: usize) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.clear();
        }
        let account = self.sources.entry(source).or_insert(Account {
            bytes: ALLOWANCE,
            at: now,
        });
        let elapsed = now.saturating_duration_since(account.at).as_secs();
        let regained = elapsed.saturating_mul(REGAINED_PER_SECOND);
        if elapsed > 0 {
            account.at = now;
        }
        let received = u64::try_from(received).unwrap_or_default();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let has = account
            .bytes
            .saturating_add(regained)
            .min(ALLOWANCE)
            .saturating_add(received);
        account.bytes = has.saturating_sub(bytes);
        if bytes > has {
            account.bytes = has;
            return false;
        }
        true
    }

    fn put(&mut self, due: Instant, transmit: Transmit) {
        if self.waiting.len() < MAX_WAITING {
            self.next = self.next.wrapping_add(1);
            self.waiting.insert((due, self.next), transmit);
        }
    }

    fn pop(&mut self, now: Instant) -> Option<Transmit> {
        let (due, _) = *self.waiting.first_key_value()?.0;
        (due <= now)
            .then(|| self.waiting.pop_first())
            .flatten()
            .map(|(_, transmit)| transmit)
    }
}

impl Upnp {
    fn targets(&self, version: u8) -> Vec<Target> {
        let root = self.identity.udn(0);
        let mut targets = vec![Target {
            target: "upnp:rootdevice".to_owned(),
            usn: format!("{root}::upnp:rootdevice"),
        }];
        for (index, device) in DEVICES.iter().enumerate() {
            let udn = self.identity.udn(index);
            targets.push(Target {
                target: udn.clone(),
                usn: udn.clone(),
            });
            targets.push(named(&udn, urn(device, version)));
        }
        for service in Service::ALL {
            if let Some(version) = service.version(version) {
                let udn = self.identity.udn(holder(service));
                targets.push(named(&udn, service.urn(version)));
            }
        }
        targets
    }

    /// What a search is answered with: each target once, in the version that is asked for.
    fn answers(&self, target: &str) -> Vec<Target> {
        if target == "ssdp:all" {
            return self.targets(2);
        }
        let mut all = self.targets(2);
        all.extend(self.targets(1));
        let found = all.into_iter().find(|known| known.target == target);
        found.into_iter().collect()
    }

    fn advertisement(&self, place: &Place, target: Target) -> Advertisement {
        Advertisement {
            target: target.target,
            usn: target.usn,
            location: format!("http://{}{PATH}", without_scope(place.http)),
            server: SERVER.to_owned(),
            max_age: Some(MAX_AGE),
            boot_id: Some(self.identity.boot_id),
            config_id: Some(CONFIG_ID),
        }
    }
}

/// The scope of an address means nothing to another host.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn named(udn: &str, target: String) -> Target {
    Target {
        usn: format!("{udn}::{target}"),
        target,
    }
}

impl Gateway {
    /// Takes a datagram that came to port 1900 from inside. `datagram.local` is the address
    /// that it was sent to: the multicast group, or this gateway's own; `place` is where it
    /// came in.
    pub fn handle_search(&mut self, now: Instant, place: Place, datagram: Datagram<'_>) -> Verdict {
        let remote = datagram.remote;
        if !self.config.upnp || !self.config.is_inside(remote.ip()) || remote.port() == 0 {
            return Verdict::NotMine;
        }
        let Ok(Message::Search(search)) = Message::parse(datagram.payload) else {
            return Verdict::Consumed;
        };
        let multicast = datagram.local.ip().is_multicast();
        // A search by multicast without MX is not to be answered (section 1.3.3).
        if !multicast || search.mx.is_some_and(|mx| mx > 0) {
            self.answer_search(now, place, &datagram, &search, multicast);
        }
        Verdict::Consumed
    }

    fn answer_search(
        &mut self,
        now: Instant,
        place: Place,
        datagram: &Datagram<'_>,
        search: &Search,
        multicast: bool,
    ) {
        let spread = match search.mx {
            Some(mx) if multicast => Duration::from_secs(mx.into()).min(MAX_DELAY),
            _ => Duration::ZERO,
        };
        let mut received = datagram.payload.len();
        for target in self.upnp.answers(&search.target) {
            let about = self.upnp.advertisement(&place, target);
            let payload = Message::Response(about).to_bytes(place.group);
            let source = datagram.remote.ip();
            let length = payload.len();
            if !self
                .upnp
                .ssdp
                .spend(now, source, std::mem::take(&mut received), length)
            {
                return;
            }
            let due = now.checked_add(self.random_within(spread)).unwrap_or(now);
            let transmit = Transmit {
                local: SocketAddr::new(place.http.ip(), place.group.port()),
                remote: datagram.remote,
                payload,
            };
            self.upnp.ssdp.put(due, transmit);
        }
        self.send_waiting(now);
    }

    pub(super) fn random_within(&mut self, spread: Duration) -> Duration {
        let milliseconds = u64::try_from(spread.as_millis()).unwrap_or_default();
        let random = self.rng.next_u64().checked_rem(milliseconds.max(1));
        Duration::from_millis(random.unwrap_or_default())
    }

    fn send_waiting(&mut self, now: Instant) {
        while let Some(transmit) = self.upnp.ssdp.pop(now) {
            self.transmits.push_back(transmit);
        }
    }

    /// Announces the device at these places from now on.
    pub fn announce_device(&mut self, now: Instant, places: Vec<Place>) {
        self.upnp.places = places;
        self.upnp.ssdp.rounds = 0;
        self.upnp.ssdp.repeat = Some(now);
        self.work_ssdp(now);
    }

    /// Takes leave: what is to be sent is to be polled once more. Three times, because
    /// datagrams are lost.
    pub fn say_goodbye(&mut self) {
        for _ in 0..FIRST_ROUNDS {
            self.notify_all(NotifyKind::ByeBye);
        }
    }

    pub(in super::super) fn work_ssdp(&mut self, now: Instant) {
        self.send_waiting(now);
        if self.upnp.ssdp.repeat.is_none_or(|due| due > now) {
            return;
        }
        if self.config.upnp {
            self.notify_all(NotifyKind::Alive);
        }
        self.upnp.ssdp.rounds = self.upnp.ssdp.rounds.saturating_add(1);
        let interval = if self.upnp.ssdp.rounds < FIRST_ROUNDS {
            FIRST_INTERVAL
        } else {
            REPEAT.saturating_add(self.random_within(REPEAT_SPREAD))
        };
        self.upnp.ssdp.repeat = now.checked_add(interval);
    }

    fn notify_all(&mut self, kind: NotifyKind) {
        for place in self.upnp.places.clone() {
            for target in self.upnp.targets(2) {
                let about = self.upnp.advertisement(&place, target);
                let notify = Notify {
                    kind,
                    about,
                    next_boot_id: None,
                };
                self.transmits.push_back(Transmit {
                    local: SocketAddr::new(place.http.ip(), place.group.port()),
                    remote: place.group,
                    payload: Message::Notify(notify).to_bytes(without_scope(place.group)),
                });
            }
        }
    }
}
