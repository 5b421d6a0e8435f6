//! The connection: on which path it is opened and kept, and why there is none.

use std::time::Instant;

use postern_wire::signal::PeerMessage;

use super::connector::{Connector, Handshake, Stage};
use super::explanation::is_relayed;
use super::limits::{self, later};
use super::paths::{Step, same};
use super::summary;
use super::types::{Event, Failure, NoRelay, PathPolicy};
use crate::ice::Path;

/// The connection.
impl Connector {
    pub(super) fn shake_hands(&mut self, now: Instant, path: Path) {
        let (Some(peer), true) = (self.peer, self.is_creator) else {
            return;
        };
        let patience = limits::HANDSHAKE.saturating_add(self.round_trip.saturating_mul(4));
        self.handshake = Some(Handshake {
            path,
            patience: later(now, patience),
        });
        self.events.push_back(Event::Connect { path, peer });
    }

    /// The valid path after the one that was tried; with only that one, it is tried again.
    pub(super) fn try_next_path(&mut self, now: Instant) {
        let tried = self.handshake.take().map(|handshake| handshake.path);
        let place = tried.and_then(|tried| self.valid.iter().position(|path| same(*path, tried)));
        let after = place.map_or(0, |place| place.saturating_add(1));
        let next = self
            .valid
            .get(after)
            .or_else(|| self.valid.first())
            .copied();
        if let Some(path) = next {
            self.shake_hands(now, path);
        }
    }

    pub(super) fn want(&mut self, path: Path) {
        if self.is_creator && self.stage == Stage::Established {
            let step = self.paths.want(path);
            self.take(step);
        }
    }

    /// Without any path left, that will do on which the peer has answered last, until ICE selects.
    pub(super) fn recover(&mut self) {
        if self.moving || self.paths.has_one() {
            return;
        }
        let heard = |path: &Path| self.agent.consent_until(path);
        let alive = self
            .valid
            .iter()
            .filter_map(|path| Some((heard(path)?, *path)));
        if let Some((_, path)) = alive.max_by_key(|(until, _)| *until) {
            self.want(path);
        }
    }

    /// A connection that began on the relay takes the first direct path that works: what is nominated
    /// may replace it. Later on, nomination decides.
    pub(super) fn leave_relay(&mut self, path: Path) {
        let current = self.paths.current().filter(is_relayed);
        let begins = current.is_some() && self.agent.selected().is_none();
        if begins && !is_relayed(&path) {
            self.left_relay = true;
            self.want(path);
        }
    }

    /// Whether a relayed pair was being nominated when the direct path that is used was found. The
    /// nomination of that one follows, and to go back for a moment might be to stay: QUIC opens no path
    /// that it is closing.
    pub(super) fn is_overtaken(&mut self, selected: Path) -> bool {
        let left = std::mem::take(&mut self.left_relay);
        let works = |wanted: Path| {
            !is_relayed(&wanted) && self.valid.iter().any(|valid| same(*valid, wanted))
        };
        left && is_relayed(&selected) && self.paths.wanted().is_some_and(works)
    }

    pub(super) fn take(&mut self, step: Option<Step>) {
        match step {
            Some(Step::Open(path)) => self.events.push_back(Event::OpenPath(path)),
            Some(Step::Settle(path)) => self.events.push_back(Event::SettleOn(path)),
            None => {}
        }
    }
}

/// The end.
impl Connector {
    pub(super) fn tell(&mut self, message: PeerMessage) {
        if self.in_mailbox {
            self.events.push_back(Event::Tell(message));
        } else if self.stage == Stage::Established && self.is_connected() {
            self.events.push_back(Event::TellDirectly(message));
        }
    }

    pub(super) fn await_report(&mut self, now: Instant, is_here: bool) {
        match is_here {
            true => self.give_up(now),
            false => self.shorten_deadline(later(now, limits::REPORT)),
        }
    }

    pub(super) fn shorten_deadline(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    pub(super) fn give_up(&mut self, now: Instant) {
        let failure = self.verdict(now);
        if let (Failure::NoPath { ours, .. }, None) = (&failure, &self.report) {
            self.tell(PeerMessage::Report(*ours));
        }
        self.fail(failure);
    }

    pub(super) fn verdict(&mut self, now: Instant) -> Failure {
        let heard = self.report.is_some() || self.peer_report.is_some();
        match self.cause.take() {
            Some(cause) if !heard => return cause,
            Some(_) | None => {}
        }
        if self.peer.is_none() {
            return Failure::PeerSilent;
        }
        if !self.valid.is_empty() && !heard {
            return Failure::Handshake;
        }
        let ours = self.report.clone().unwrap_or_else(|| self.agent.report());
        Failure::NoPath {
            ours: summary(&ours),
            theirs: self.peer_report,
            relay: self.no_relay(),
            looked: ours.local.host > 0 || ours.tcp_hosts > 0,
            explanation: Box::new(self.explanation(now, true)),
        }
    }

    pub(super) fn no_relay(&self) -> NoRelay {
        match (self.policy, self.relays.were_offered()) {
            (PathPolicy::DirectOnly, _) => NoRelay::NotWanted,
            (PathPolicy::Any | PathPolicy::RelayOnly, false) => NoRelay::NotOffered,
            (PathPolicy::Any | PathPolicy::RelayOnly, true) => {
                NoRelay::Failed(self.relays.tried().clone())
            }
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.stage = Stage::Ended;
        self.events.push_back(Event::Failed(failure));
    }
}
