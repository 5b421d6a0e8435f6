//! A start that both sides make together, and primers for what comes before it.
//!
//! Whoever knows the peer's candidates first would send checks that the other NAT drops or, worse,
//! takes for its router's own: then it gives the answer to them another port than the one that was
//! told. So the earlier side opens its mappings with datagrams that pass its own NATs and do not reach
//! the other's, and holds the checks back until the other side is known to have begun, too.

use std::time::{Duration, Instant};

use super::after;
use super::agent::Agent;
use super::event::Event;
use super::pair::{Pair, PairKey};
use crate::punch::{Message, Technique};

/// The other side's start is waited for so long at most: signalling takes less.
const LONGEST_WAIT: Duration = Duration::from_millis(1100);
/// The times to live of primers, one after the other: the first passes one NAT of ours, for there may
/// be several in a row. A fourth could reach the peer's on a short way.
const TTLS: [u8; 3] = [2, 3, 4];
/// Between two primers of one pair.
const RAMP: Duration = Duration::from_millis(20);
/// Pairs that are primed: a peer names their addresses.
const MAX_PRIMED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Start {
    /// The peer has said that it has begun.
    peer_began: bool,
    /// Checks are held back until then.
    until: Option<Instant>,
    /// The pairs that have been primed, and what is left of it.
    primed: Vec<Primed>,
}

#[derive(Debug)]
struct Primed {
    key: PairKey,
    sent: usize,
    next: Instant,
}

impl Agent {
    /// Our side begins: the peer's agent is told, if it is one of ours.
    pub(super) fn begin_start(&mut self, now: Instant) {
        if !self.config.punch || self.config.disabled.contains(Technique::Primer) {
            return;
        }
        self.events.push_back(Event::TellPeer(Message::Began));
        if !self.start.peer_began {
            self.start.until = Some(after(now, LONGEST_WAIT));
            self.list.hold(true);
        }
    }

    /// The peer has begun: it says so, or a check of it has arrived.
    pub(super) fn peer_began(&mut self) {
        self.start.peer_began = true;
        self.start.until = None;
        self.list.hold(false);
    }

    /// Another session: it has a start of its own.
    pub(super) fn restart_start(&mut self) {
        self.start = Start::default();
    }

    /// Sends the primers that are due, and ends the wait.
    pub(super) fn run_start(&mut self, now: Instant) {
        let Some(until) = self.start.until else {
            return;
        };
        if until <= now {
            return self.peer_began();
        }
        let new = self.list.iter().filter(|pair| pair.is_held());
        let new = new.map(|pair| pair.key);
        let known = |key: &PairKey| self.start.primed.iter().any(|primed| primed.key == *key);
        let new: Vec<_> = new.filter(|key| !known(key)).collect();
        for key in new {
            if self.start.primed.len() < MAX_PRIMED {
                self.start.primed.push(Primed {
                    key,
                    sent: 0,
                    next: now,
                });
            }
        }
        let mut due = Vec::new();
        for primed in &mut self.start.primed {
            if let Some(ttl) = TTLS.get(primed.sent)
                && primed.next <= now
            {
                due.push((primed.key, *ttl));
                primed.sent = primed.sent.saturating_add(1);
                primed.next = after(now, RAMP);
            }
        }
        for (key, ttl) in due {
            self.send_probe(key, Some(ttl));
        }
    }

    pub(super) fn start_timeout(&self) -> Option<Instant> {
        let until = self.start.until?;
        let primed = self.start.primed.iter();
        let next = primed.filter(|primed| primed.sent < TTLS.len());
        Some(next.map(|primed| primed.next).fold(until, Instant::min))
    }
}

impl Pair {
    /// Whether its checks wait for the peer's start: they go from a socket of ours to where the peer's
    /// NAT maps it.
    pub(super) fn is_held(&self) -> bool {
        self.key.remote.is_ipv4() && self.is_to_mapping()
    }
}
