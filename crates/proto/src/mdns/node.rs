//! The machine: who asks, and who answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::mdns::{HostName, Kind, Message, PORT, Question, Record, TTL};

use super::{Event, Link, MAX_ASKED, MAX_LINKS, MAX_PUBLISHED};
use crate::timers::Timers;
use crate::{Datagram, Transmit, Verdict};

/// How long after each question the next one follows: at least a second, then twice as long each
/// time (RFC 6762 section 5.2). After the last one, how long is waited.
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
];

/// A record is not told to everybody more often than this (RFC 6762 section 6), and the second
/// announcement comes so long after the first (section 8.3).
const APART: Duration = Duration::from_secs(1);

/// The longest time that a program may keep an answer that knows unicast DNS alone (section 6.7).
const LEGACY_TTL: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Ask(HostName),
    Announce(HostName),
}

/// What is told about one of our addresses.
#[derive(Debug)]
struct Published {
    address: IpAddr,
    interface: u32,
    /// When everybody on a link was last told.
    told: BTreeMap<SocketAddr, Instant>,
}

/// A host of multicast DNS.
#[derive(Debug)]
pub struct Node {
    links: Vec<Link>,
    /// How often each was asked for.
    asked: BTreeMap<HostName, usize>,
    published: BTreeMap<HostName, Published>,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Node {
    /// A node on these links, that says nothing yet.
    #[must_use]
    pub fn new(mut links: Vec<Link>) -> Self {
        links.truncate(MAX_LINKS);
        Self {
            links,
            asked: BTreeMap::new(),
            published: BTreeMap::new(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Looks a name up: [`Event::Resolved`] follows within five seconds, at once if
    /// [`MAX_ASKED`] names are being looked up.
    pub fn ask(&mut self, now: Instant, name: HostName) {
        if self.asked.contains_key(&name) {
            return;
        }
        if self.asked.len() >= MAX_ASKED {
            self.resolved(name, None);
            return;
        }
        self.asked.insert(name, 0);
        self.send_question(now, name);
    }

    /// Tells everybody on the links of an interface that a name has this address. False if it is one
    /// of more than [`MAX_PUBLISHED`].
    pub fn publish(
        &mut self,
        now: Instant,
        name: HostName,
        address: IpAddr,
        interface: u32,
    ) -> bool {
        if self.published.len() >= MAX_PUBLISHED {
            return false;
        }
        let published = Published {
            address,
            interface,
            told: BTreeMap::new(),
        };
        self.published.insert(name, published);
        self.timers.set(Timer::Announce(name), after(now, APART));
        self.announce(now, name);
        true
    }

    /// Takes back all that was published (RFC 6762 section 10.1).
    pub fn withdraw(&mut self) {
        self.timers.clear_all();
        for (name, published) in std::mem::take(&mut self.published) {
            let record = Record {
                name,
                address: published.address,
                ttl: 0,
            };
            let links = self.links.iter();
            for link in links.filter(|link| link.interface == published.interface) {
                let message = Message::response(record);
                self.transmits.push_back(to(link, link.group(), &message));
            }
        }
    }

    /// Takes a datagram that has arrived at a link's socket.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let mut links = self.links.iter();
        let Some(link) = links.find(|link| link.local == datagram.local) else {
            return Verdict::NotMine;
        };
        let from = datagram.remote;
        if !link.has(from.ip()) {
            tracing::debug!("ignored multicast DNS from another link");
            return Verdict::Consumed;
        }
        let link = link.clone();
        match Message::parse(datagram.payload) {
            // Section 6: answers from other ports do not count.
            Ok(message) if message.is_response && from.port() == PORT => {
                self.on_response(&message);
            }
            Ok(message) if !message.is_response => self.on_query(now, &link, from, &message),
            Ok(_) => tracing::debug!("ignored an answer from another port"),
            Err(error) => tracing::debug!(%error, "ignored multicast DNS"),
        }
        Verdict::Consumed
    }

    /// Asks again, gives up, and announces again.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Ask(name) => self.send_question(now, name),
                Timer::Announce(name) => self.announce(now, name),
            }
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn send_question(&mut self, now: Instant, name: HostName) {
        let Some(sent) = self.asked.get_mut(&name) else {
            return;
        };
        let Some(wait) = WAITS.get(*sent) else {
            self.asked.remove(&name);
            self.resolved(name, None);
            return;
        };
        *sent = sent.saturating_add(1);
        self.timers.set(Timer::Ask(name), after(now, *wait));
        let questions = [Kind::V4, Kind::V6].map(|kind| Question { name, kind });
        let message = Message::query(questions);
        let transmits = self
            .links
            .iter()
            .map(|link| to(link, link.group(), &message));
        self.transmits.extend(transmits);
    }

    fn resolved(&mut self, name: HostName, address: Option<IpAddr>) {
        self.events.push_back(Event::Resolved { name, address });
    }

    fn on_response(&mut self, message: &Message) {
        let mut told: BTreeMap<HostName, BTreeSet<IpAddr>> = BTreeMap::new();
        let live = message.records.iter().filter(|record| record.ttl > 0);
        for record in live.filter(|record| self.asked.contains_key(&record.name)) {
            told.entry(record.name).or_default().insert(record.address);
        }
        for (name, addresses) in told {
            self.asked.remove(&name);
            self.timers.clear(Timer::Ask(name));
            // A name is for one address; of more all are ignored (the draft's section 3.2.2).
            let first = addresses.first().filter(|_| addresses.len() == 1);
            self.resolved(name, first.copied());
        }
    }

    fn on_query(&mut self, now: Instant, link: &Link, from: SocketAddr, message: &Message) {
        let published = self.published.iter_mut();
        for (name, published) in published.filter(|(_, p)| p.interface == link.interface) {
            let record = Record {
                name: *name,
                address: published.address,
                ttl: TTL,
            };
            let fits = |q: &&Question| q.name == *name && q.kind.fits(record.address);
            let Some(question) = message.questions.iter().find(fits) else {
                continue;
            };
            // Section 7.1: who knows it for long enough is not told.
            let is_known = |known: &Record| {
                (known.name, known.address) == (*name, record.address) && known.ttl >= TTL / 2
            };
            if message.records.iter().any(is_known) {
                continue;
            }
            let transmit = if from.port() != PORT {
                to(link, from, &legacy(message.id, *question, record))
            } else if published.was_told(now, link) {
                // Whoever has missed it is told alone.
                to(link, from, &Message::response(record))
            } else {
                published.told.insert(link.local, now);
                to(link, link.group(), &Message::response(record))
            };
            self.transmits.push_back(transmit);
        }
    }

    fn announce(&mut self, now: Instant, name: HostName) {
        let Some(published) = self.published.get_mut(&name) else {
            return;
        };
        let record = Record {
            name,
            address: published.address,
            ttl: TTL,
        };
        let message = Message::response(record);
        for link in &self.links {
            if link.interface == published.interface && !published.was_told(now, link) {
                published.told.insert(link.local, now);
                self.transmits.push_back(to(link, link.group(), &message));
            }
        }
    }
}

impl Published {
    /// Whether everybody on the link was told so short a time ago that they must not be told again.
    fn was_told(&self, now: Instant, link: &Link) -> bool {
        let told = self.told.get(&link.local);
        told.is_some_and(|told| now.saturating_duration_since(*told) < APART)
    }
}

fn to(link: &Link, remote: SocketAddr, message: &Message) -> Transmit {
    Transmit {
        local: link.local,
        remote,
        payload: message.to_bytes(),
    }
}

/// An answer to a program that knows unicast DNS alone (section 6.7).
fn legacy(id: u16, question: Question, record: Record) -> Message {
    Message {
        id,
        questions: vec![question],
        ..Message::response(Record {
            ttl: LEGACY_TTL,
            ..record
        })
    }
}

fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
