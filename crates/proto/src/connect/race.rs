//! One relay, and the ways to its server that are tried until one works.
//!
//! ```text
//! begin --> UDP --STAGGER--> TCP --STAGGER--> TLS, the web server's port --STAGGER--> TLS
//! ```
//!
//! Of a server with several addresses all ways to the first one come before those to the next: where
//! only one port is open, another address opens no other.
//!
//! A way that fails makes the next one begin at once. The first allocation ends those that are
//! worse; those that are better get [`GRACE`] to replace it, as long as nobody uses it.
//!
//! When the allocation is lost, because a connection breaks or the server starts anew, the race
//! begins again, and goes on until there is another one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::limits::later;
use super::relays::{Book, Event, LinkId, Relay, RelayTransport};
use super::tried::Trouble;
use crate::turn::client::{self, Client, Credentials};
use crate::{Datagram, Transmit, Verdict};

/// A way has a head start of so long before the next begins beside it (RFC 8305 section 5). An
/// allocation over UDP takes two round trips: up to 125 ms each it is alone, and where UDP is
/// blocked TCP has lost no more than this.
const STAGGER: Duration = Duration::from_millis(250);

/// So long may better ways go on when a worse one works: a lost datagram is repeated after
/// 500 ms.
const GRACE: Duration = Duration::from_secs(1);

/// A server that is asked whether an allocation is still there, and says nothing for so long, is
/// not reached any more. Over a stream the system repeats what was lost.
const DOUBT: Duration = Duration::from_millis(1500);

/// The same over UDP, and twice what the allocation took: the request is repeated after 500 ms.
const UDP_DOUBT: Duration = Duration::from_millis(600);

/// After the loss of an allocation the ways are tried again so soon.
const AGAIN: Duration = Duration::from_millis(250);

/// So long without success, and all ways begin anew: those over TCP have failed at once where the
/// server was not there, and those over UDP wait ever longer.
const ROUND: Duration = Duration::from_secs(3);

/// After so many rounds, a minute, there is one in [`LATE_ROUND`].
const EARLY_ROUNDS: u32 = 20;

/// A server that was away for a minute may be away for long.
const LATE_ROUND: Duration = Duration::from_secs(30);

/// Most ways that are tried: UDP, TCP, and TLS on two ports, at two addresses.
pub(super) const MAX_WAYS: usize = 8;

/// A way to a TURN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) transport: RelayTransport,
    pub(super) server: SocketAddr,
    pub(super) credentials: Credentials,
    /// What the server would challenge us with.
    pub(super) challenge: Option<Vec<u8>>,
}

/// A way that is being tried, or that works.
#[derive(Debug)]
struct Attempt {
    link: LinkId,
    way: Way,
    /// `None` while the driver opens the link.
    client: Option<Client>,
    /// When the server was asked, and then how long its answer took.
    asked: Option<Instant>,
    took: Option<Duration>,
    relayed: Option<SocketAddr>,
}

impl Attempt {
    fn is_udp(&self) -> bool {
        self.way.transport == RelayTransport::Udp
    }

    /// How long a server may be silent that has been asked whether it knows us.
    fn patience(&self) -> Duration {
        match (self.is_udp(), self.took) {
            (true, Some(took)) => UDP_DOUBT.saturating_add(took.saturating_mul(2)).min(DOUBT),
            (true, None) | (false, _) => DOUBT,
        }
    }
}

/// The ways to one server.
#[derive(Debug)]
pub(super) struct Race {
    pub(super) is_ipv4: bool,
    /// All ways, the best one first.
    ways: VecDeque<Way>,
    waiting: VecDeque<Way>,
    /// When to try them again, and how often that has been done since the loss.
    again_at: Option<Instant>,
    rounds: u32,
    next_at: Option<Instant>,
    /// The best one first.
    running: Vec<Attempt>,
    /// Those that give back what they may have.
    ending: Vec<Attempt>,
    grace: Option<Instant>,
    /// The link that may be dead, and how long to wait for a sign of life.
    doubt: Option<(LinkId, Instant)>,
    in_use: bool,
    closing: bool,
    events: VecDeque<Event>,
}

impl Race {
    /// Begins with the best of the ways, which all are of one address family.
    pub(super) fn new(now: Instant, ways: Vec<Way>, book: &mut Book) -> Self {
        let ways = ranked(ways);
        let mut race = Self {
            is_ipv4: ways.front().is_some_and(|way| way.server.is_ipv4()),
            waiting: ways.clone(),
            ways,
            again_at: None,
            rounds: 0,
            next_at: None,
            running: Vec::new(),
            ending: Vec::new(),
            grace: None,
            doubt: None,
            in_use: false,
            closing: false,
            events: VecDeque::new(),
        };
        race.begin_next(now, book);
        race
    }

    fn begin_next(&mut self, now: Instant, book: &mut Book) {
        let Some(way) = self.waiting.pop_front() else {
            self.next_at = None;
            return;
        };
        let link = book.next.take();
        book.tried.note(way.transport, Trouble::Unreachable);
        self.events.push_back(Event::Open {
            link,
            transport: way.transport,
            server: way.server,
        });
        self.running.push(Attempt {
            link,
            way,
            client: None,
            asked: None,
            took: None,
            relayed: None,
        });
        self.next_at = Some(later(now, STAGGER)).filter(|_| !self.waiting.is_empty());
    }

    /// Whether an answer is still awaited, and nothing else works.
    pub(super) fn is_gathering(&self) -> bool {
        let idle = self.running.is_empty() && self.waiting.is_empty();
        !idle && self.allocation().is_none()
    }

    pub(super) fn has(&self, relayed: SocketAddr) -> bool {
        self.allocation()
            .is_some_and(|attempt| attempt.relayed == Some(relayed))
    }

    /// A path from the relayed address works: it stays.
    pub(super) fn keep(&mut self, relayed: SocketAddr) {
        self.in_use |= self.has(relayed);
    }

    fn allocation(&self) -> Option<&Attempt> {
        self.running
            .iter()
            .find(|attempt| attempt.relayed.is_some())
    }

    /// The address of the allocation.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.allocation()?.relayed
    }

    /// How long the server took to give the allocation.
    pub(super) fn took(&self) -> Option<Duration> {
        self.allocation()?.took
    }

    /// The client of the allocation.
    pub(super) fn client(&mut self, relayed: SocketAddr) -> Option<(LinkId, &mut Client)> {
        let mut running = self.running.iter_mut();
        let attempt = running.find(|attempt| attempt.relayed == Some(relayed))?;
        Some((attempt.link, attempt.client.as_mut()?))
    }

    /// The driver has opened a link; `local` is its own address. `false` if it is not ours.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        rng: &mut ChaCha20Rng,
        (link, local): (LinkId, SocketAddr),
        book: &mut Book,
    ) -> bool {
        let attempt = self.running.iter_mut().find(|known| known.link == link);
        let Some(attempt) = attempt else {
            return false;
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let Way {
            transport,
            server,
            credentials,
            challenge,
        } = attempt.way.clone();
        let mut config = client::Config::new(local, server, Some(credentials));
        config.challenge = challenge;
        config.transport = match transport {
            RelayTransport::Udp => client::Transport::Datagram,
            RelayTransport::Tcp | RelayTransport::Tls => client::Transport::Stream,
        };
        book.tried.note(transport, Trouble::Silent);
        attempt.client = Some(Client::new(now, seed, config));
        attempt.asked = Some(now);
        true
    }

    /// A link could not be opened, or is gone. `false` if it is not ours.
    pub(super) fn closed(&mut self, now: Instant, link: LinkId, book: &mut Book) -> bool {
        self.ending.retain(|attempt| attempt.link != link);
        let place = self.running.iter().position(|known| known.link == link);
        let Some(place) = place else {
            return false;
        };
        let attempt = self.running.remove(place);
        if attempt.client.is_some() {
            book.tried.note(attempt.way.transport, Trouble::Lost);
        }
        self.on_gone(now, attempt.relayed, book);
        true
    }

    /// Whoever meets again gets credentials that are new. Those in use are good for a while.
    pub(super) fn take_ways(&mut self, now: Instant, ways: Vec<Way>, book: &mut Book) {
        self.ways = ranked(ways);
        if self.allocation().is_none() && !self.closing {
            self.begin_again(now, book);
        }
    }

    /// These addresses are gone: so is every link from one of them.
    pub(super) fn leave(&mut self, now: Instant, gone: &[IpAddr], book: &mut Book) {
        let dead = |attempt: &&Attempt| {
            let local = attempt.client.as_ref().map(Client::local);
            local.is_some_and(|local| gone.contains(&local.ip()))
        };
        let links: Vec<_> = self.running.iter().filter(dead).map(|a| a.link).collect();
        for link in links {
            self.events.push_back(Event::Close(link));
            self.closed(now, link, book);
        }
    }

    /// There may be a way now where there was none.
    pub(super) fn hasten(&mut self, now: Instant, book: &mut Book) {
        if self.allocation().is_none() && !self.closing {
            self.rounds = 0;
            self.begin_again(now, book);
        }
    }

    /// A path has fallen silent: the way to the server may have been the reason, or may have
    /// died with it. A server that answers is not left.
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.doubt.is_some() {
            return;
        }
        let mut running = self.running.iter_mut();
        let attempt = running.find(|attempt| attempt.relayed.is_some());
        let Some(attempt) = attempt else { return };
        let patience = attempt.patience();
        if let Some(client) = &mut attempt.client {
            client.verify(now);
            self.doubt = Some((attempt.link, later(now, patience)));
        }
    }

    /// The doubt was right. Where it was UDP that has fallen silent, the next transport does not wait
    /// for it.
    fn abandon(&mut self, now: Instant, link: LinkId, book: &mut Book) {
        let mut running = self.running.iter();
        let was_udp = running.any(|attempt| attempt.link == link && attempt.is_udp());
        self.events.push_back(Event::Close(link));
        self.closed(now, link, book);
        self.hasten(now, book);
        if was_udp && self.running.iter().all(Attempt::is_udp) {
            self.begin_next(now, book);
        }
    }

    /// A way is of no use any more.
    fn on_gone(&mut self, now: Instant, relayed: Option<SocketAddr>, book: &mut Book) {
        if let Some(relayed) = relayed {
            self.in_use = false;
            self.events.push_back(Event::Ended { relayed });
            self.again_at = Some(later(now, AGAIN)).filter(|_| !self.closing);
        } else if self.allocation().is_none() && !self.closing {
            self.begin_next(now, book);
        }
    }

    /// All ways begin anew.
    fn begin_again(&mut self, now: Instant, book: &mut Book) {
        self.rounds = self.rounds.saturating_add(1);
        let pause = match self.rounds {
            ..=EARLY_ROUNDS => ROUND,
            _ => LATE_ROUND,
        };
        self.again_at = Some(later(now, pause));
        self.end_where(now, |_| true);
        self.waiting.clone_from(&self.ways);
        self.begin_next(now, book);
    }

    pub(super) fn input(&mut self, now: Instant, link: LinkId, payload: &[u8]) -> bool {
        let mut all = self.running.iter_mut().chain(&mut self.ending);
        let Some(attempt) = all.find(|attempt| attempt.link == link) else {
            return false;
        };
        self.doubt.take_if(|(doubtful, _)| *doubtful == link);
        let Some(client) = &mut attempt.client else {
            return true;
        };
        let datagram = Datagram {
            local: client.local(),
            remote: client.server(),
            payload,
        };
        if client.handle_input(now, datagram) == Verdict::NotMine {
            tracing::debug!("the relay sent what nobody asked for");
        }
        true
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, book: &mut Book) {
        for attempt in self.running.iter_mut().chain(&mut self.ending) {
            if let Some(client) = &mut attempt.client {
                client.handle_timeout(now);
            }
        }
        if let Some((link, _)) = self.doubt.take_if(|(_, until)| now >= *until) {
            self.abandon(now, link, book);
        }
        if self.next_at.is_some_and(|at| now >= at) {
            self.begin_next(now, book);
        }
        if self.again_at.take_if(|at| now >= *at).is_some() {
            self.begin_again(now, book);
        }
        if self.grace.take_if(|at| now >= *at).is_some() {
            self.end_where(now, |attempt| attempt.relayed.is_none());
        }
    }

    /// Gives everything back.
    pub(super) fn close(&mut self, now: Instant) {
        self.closing = true;
        self.waiting.clear();
        self.next_at = None;
        self.again_at = None;
        self.end_where(now, |_| true);
    }

    /// Ends the attempts that `which` names.
    fn end_where(&mut self, now: Instant, which: impl Fn(&Attempt) -> bool) {
        let running = std::mem::take(&mut self.running);
        let (ending, running): (Vec<_>, Vec<_>) = running.into_iter().partition(which);
        self.running = running;
        for mut attempt in ending {
            match &mut attempt.client {
                Some(client) => {
                    client.close(now);
                    self.ending.push(attempt);
                }
                None => self.events.push_back(Event::Close(attempt.link)),
            }
        }
    }

    /// What is to go over which link.
    pub(super) fn poll_output(&mut self) -> Option<(LinkId, Vec<u8>)> {
        let mut all = self.running.iter_mut().chain(&mut self.ending);
        all.find_map(|attempt| {
            let Transmit { payload, .. } = attempt.client.as_mut()?.poll_transmit()?;
            Some((attempt.link, payload))
        })
    }

    pub(super) fn poll_event(&mut self, now: Instant, book: &mut Book) -> Option<Event> {
        self.drain_ending();
        while self.events.is_empty() {
            let mut polled = self.running.iter_mut().filter_map(|attempt| {
                let event = attempt.client.as_mut()?.poll_event()?;
                Some((attempt.link, event))
            });
            let Some((link, event)) = polled.next() else {
                break;
            };
            drop(polled);
            self.on_client_event(now, link, event, book);
        }
        self.events.pop_front()
    }

    /// Whoever gives something back is forgotten when that is done.
    fn drain_ending(&mut self) {
        let events = &mut self.events;
        self.ending.retain_mut(|attempt| {
            let Some(client) = &mut attempt.client else {
                return false;
            };
            while let Some(event) = client.poll_event() {
                if matches!(event, client::Event::Closed | client::Event::Failed(_)) {
                    events.push_back(Event::Close(attempt.link));
                    return false;
                }
            }
            true
        });
    }

    fn on_client_event(
        &mut self,
        now: Instant,
        link: LinkId,
        event: client::Event,
        book: &mut Book,
    ) {
        let place = self.running.iter().position(|known| known.link == link);
        let Some(attempt) = place.and_then(|place| self.running.get_mut(place)) else {
            return;
        };
        let transport = attempt.way.transport;
        match (event, attempt.relayed) {
            (client::Event::Allocated(allocation), _) => {
                book.tried.note(transport, Trouble::Allocated);
                self.on_allocated(now, link, &allocation);
            }
            (client::Event::Failed(failure), relayed) => {
                tracing::debug!(%failure, ?transport, "the relay is of no use");
                book.tried.note(transport, Trouble::of(failure));
                self.give_up(link);
                self.on_gone(now, relayed, book);
            }
            (client::Event::Redirected { .. }, None) => {
                book.tried.note(transport, Trouble::Refused);
                self.give_up(link);
                self.on_gone(now, None, book);
            }
            (event, Some(relayed)) => self.events.extend(translate(relayed, event)),
            (_, None) => {}
        }
    }

    fn give_up(&mut self, link: LinkId) {
        self.running.retain(|known| known.link != link);
        self.events.push_back(Event::Close(link));
    }

    fn on_allocated(&mut self, now: Instant, link: LinkId, allocation: &client::Allocation) {
        let place = self.running.iter().position(|known| known.link == link);
        let Some(place) = place else { return };
        let older = self.allocation().map(|older| (older.link, older.relayed));
        if older.is_some() && self.in_use {
            // Who uses an allocation does not leave it for another one.
            return self.end_where(now, |attempt| attempt.link == link);
        }
        if let Some((old, Some(relayed))) = older {
            self.end_where(now, |attempt| attempt.link == old);
            self.events.push_back(Event::Ended { relayed });
        }
        self.waiting.clear();
        self.next_at = None;
        self.again_at = None;
        self.rounds = 0;
        let worse: Vec<_> = self.running.iter().skip(place.saturating_add(1)).collect();
        let worse: Vec<_> = worse.iter().map(|attempt| attempt.link).collect();
        self.end_where(now, |attempt| worse.contains(&attempt.link));
        let better = self.running.len() > 1;
        self.grace = better.then(|| later(now, GRACE));
        let Some(attempt) = self.running.iter_mut().find(|known| known.link == link) else {
            return;
        };
        attempt.relayed = Some(allocation.relayed);
        attempt.took = attempt.asked.map(|at| now.saturating_duration_since(at));
        self.events.push_back(Event::Allocated(Relay {
            link,
            transport: attempt.way.transport,
            server: attempt.way.server,
            relayed: allocation.relayed,
            mapped: allocation.mapped,
        }));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let all = self.running.iter().chain(&self.ending);
        let clients = all.filter_map(|attempt| attempt.client.as_ref()?.poll_timeout());
        let doubt = self.doubt.map(|(_, until)| until);
        let own = [self.next_at, self.again_at, self.grace, doubt];
        clients.chain(own.into_iter().flatten()).min()
    }
}

/// The ways in the order of preference: by the server's address as it names them, then by transport.
fn ranked(ways: Vec<Way>) -> VecDeque<Way> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for way in &ways {
        if !addresses.contains(&way.server.ip()) {
            addresses.push(way.server.ip());
        }
    }
    let place = |way: &Way| addresses.iter().position(|ip| *ip == way.server.ip());
    let mut ways = ways;
    ways.sort_by_key(|way| (place(way), way.transport));
    ways.dedup_by(|one, other| (one.transport, one.server) == (other.transport, other.server));
    ways.truncate(MAX_WAYS);
    ways.into()
}

/// An event of an allocation that concerns the attempt; others are passed over.
fn translate(relayed: SocketAddr, event: client::Event) -> Option<Event> {
    match event {
        client::Event::Data { peer, payload } => Some(Event::Data {
            relayed,
            peer,
            payload,
        }),
        client::Event::ChannelBound { peer, channel } => Some(Event::Bound {
            relayed,
            peer,
            channel,
        }),
        client::Event::ChannelEnded { peer, .. } => Some(Event::Unbound { relayed, peer }),
        client::Event::Allocated(_)
        | client::Event::Failed(_)
        | client::Event::Closed
        | client::Event::Moved
        | client::Event::Redirected { .. }
        | client::Event::Icmp { .. }
        | client::Event::Permitted(_)
        | client::Event::PeerRefused { .. }
        | client::Event::Connected { .. }
        | client::Event::ConnectionAttempt { .. }
        | client::Event::ConnectionBound { .. }
        | client::Event::ConnectionFailed { .. } => None,
    }
}

#[cfg(test)]
mod tests;
