//! The networks of a machine change under a standing connection: addresses come and go.
//!
//! New candidates have to reach the peer, and the mailbox has been left long ago.
//!
//! 1. They are told over the connection itself ([`Event::TellDirectly`]), on whichever path it has.
//! 2. Checks from new addresses need no telling where the peer's NAT lets them in, and those
//!    from a new relayed address reach the peer's relay, which knows the relay's address.
//! 3. When no path is left, the two meet again at the server ([`Event::MeetAgain`]), where
//!    nothing was kept for it: a secret of the connection names the meeting. It is left as
//!    soon as a path is selected.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::signal::PeerMessage;

use super::connector::{Connector, Stage};
use super::limits::later;
use super::types::{Event, PathPolicy};
use crate::ice::{Candidate, CandidateKind};
use crate::punch::Technique;

/// So long checks alone may try to find the peer again. Where its NAT lets them in they need a
/// round trip or two.
const ALONE: Duration = Duration::from_millis(250);

/// The first pause after a meeting that came to nothing; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause: a network may be away for a while.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Candidates of ours that are told at a meeting: as many as the peer takes.
const MAX_TOLD: usize = 64;

/// What is done about the loss of every path.
#[derive(Debug, Default)]
pub(super) struct Reunion {
    state: State,
    /// Meetings that came to nothing since there was a path.
    failures: u32,
    /// There has been a path: before that the first mailbox is what there is.
    armed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is a path.
    #[default]
    Connected,
    /// There is none: to be met again from then on.
    Alone(Instant),
    /// The driver has been asked to meet the peer.
    Asked,
    /// The two have met.
    Met,
}

impl Reunion {
    /// There is a path.
    fn end(&mut self) {
        self.state = State::Connected;
        self.failures = 0;
    }
}

/// Addresses.
impl Connector {
    /// These are the addresses of this side's sockets from here on, the preferred one first.
    /// What is done about it is in the events.
    pub fn handle_addresses(&mut self, now: Instant, hosts: &[SocketAddr]) {
        // An interface that has gone may come back as it was, and there is nothing better.
        if self.stage == Stage::Ended || hosts.is_empty() {
            return;
        }
        let gone: Vec<_> = without(&self.hosts, hosts);
        let new: Vec<_> = without(hosts, &self.hosts);
        self.hosts = hosts.to_vec();
        let ips: Vec<_> = gone.iter().map(SocketAddr::ip).collect();
        let ips: Vec<IpAddr> = ips
            .into_iter()
            .filter(|ip| !hosts.iter().any(|host| host.ip() == *ip))
            .collect();
        // Nothing is moved to what goes next.
        self.moving = true;
        self.relays.leave(now, &ips);
        for host in gone {
            self.withdraw(now, host);
        }
        self.follow(now);
        self.moving = false;
        self.recover();
        if self.policy != PathPolicy::RelayOnly {
            let ipv6 = !self.is_off(Technique::Ipv6);
            for host in new.iter().filter(|host| ipv6 || host.is_ipv4()) {
                self.agent.add_host(now, *host);
            }
        }
        if !new.is_empty() {
            self.relays.hasten(now);
            self.hasten_reunion(now);
        }
        self.follow(now);
    }

    fn withdraw(&mut self, now: Instant, host: SocketAddr) {
        self.own
            .retain(|own| own.address != host && own.related != Some(host));
        self.agent.remove_host(now, host);
    }

    /// Remembers a candidate for whoever has to be told again.
    pub(super) fn remember(&mut self, candidate: &Candidate) {
        self.own.retain(|own| own.address != candidate.address);
        if self.own.len() < MAX_TOLD {
            self.own.push(candidate.clone());
        }
    }

    /// The relayed address is gone.
    pub(super) fn forget_relayed(&mut self, relayed: SocketAddr) {
        let is_it = |own: &Candidate| own.kind == CandidateKind::Relayed && own.address == relayed;
        self.own.retain(|own| !is_it(own));
    }
}

/// Without a path.
impl Connector {
    /// Takes what the peer has told over the connection.
    pub fn handle_told(&mut self, now: Instant, message: PeerMessage) {
        if self.stage == Stage::Established {
            self.on_message(now, message);
            self.follow(now);
        }
    }

    /// Whether the peer answers on any path.
    pub(super) fn is_connected(&self) -> bool {
        let alive = |path: &crate::ice::Path| self.agent.has_consent(path);
        self.valid.iter().any(alive)
    }

    /// Asks for a meeting when it is time, and ends one that is not needed any more.
    pub(super) fn run_reunion(&mut self, now: Instant) {
        if self.stage != Stage::Established {
            return;
        }
        let connected = self.is_connected();
        let settled = connected && self.agent.selected().is_some();
        self.reunion.armed |= settled;
        match self.reunion.state {
            State::Connected if !connected && self.reunion.armed => {
                self.reunion.state = State::Alone(later(now, ALONE));
            }
            State::Alone(_) if connected => {
                self.reunion.end();
                self.tell_all();
            }
            State::Alone(at) if at <= now => self.meet_again(),
            State::Asked | State::Met if settled => {
                self.reunion.end();
                self.leave_mailbox();
            }
            State::Connected | State::Alone(_) | State::Asked | State::Met => {}
        }
    }

    /// A mailbox from before may be one that only this side believes in.
    fn meet_again(&mut self) {
        if self.in_mailbox {
            self.leave_mailbox();
        }
        self.reunion.state = State::Asked;
        self.events.push_back(Event::MeetAgain);
    }

    fn leave_mailbox(&mut self) {
        self.in_mailbox = false;
        self.events.push_back(Event::LeaveMailbox);
    }

    pub(super) fn reunion_timeout(&self) -> Option<Instant> {
        match self.reunion.state {
            State::Alone(at) => Some(at),
            State::Connected | State::Asked | State::Met => None,
        }
    }

    /// There is a network again: no need to wait.
    pub(super) fn hasten_reunion(&mut self, now: Instant) {
        if let State::Alone(at) = &mut self.reunion.state {
            *at = (*at).min(later(now, ALONE));
            self.reunion.failures = 0;
        }
    }

    /// The two have met again: each tells the other all its candidates.
    pub(super) fn on_met(&mut self) {
        self.reunion.state = State::Met;
        self.in_mailbox = true;
        self.tell_all();
    }

    /// What was told while there was no path has not been heard.
    fn tell_all(&mut self) {
        for candidate in self.own.clone() {
            self.tell_candidate(candidate);
        }
    }

    /// The meeting is over, or did not come about.
    pub(super) fn on_parted(&mut self, now: Instant) {
        if matches!(self.reunion.state, State::Asked | State::Met) {
            let factor = 2_u32.saturating_pow(self.reunion.failures);
            let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
            self.reunion.failures = self.reunion.failures.saturating_add(1);
            self.reunion.state = State::Alone(later(now, pause));
        }
    }

    /// Whether the mailbox is that of a meeting.
    pub(super) fn is_reunited(&self) -> bool {
        self.reunion.state != State::Connected
    }
}

/// The addresses of one list that the other has not.
fn without(these: &[SocketAddr], those: &[SocketAddr]) -> Vec<SocketAddr> {
    let missing = these.iter().filter(|address| !those.contains(address));
    missing.copied().collect()
}
