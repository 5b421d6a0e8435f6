//! What the peer and the server say.

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::signal::{Hello, PeerMessage, Report, stun_address};

use super::connector::{Connector, Stage};
use super::limits::{self, later};
use super::punching;
use super::types::{Event, Failure, PathPolicy};
use crate::ice::{Candidate, CandidateKind, Credentials};
use crate::punch::{self, Technique};

/// Relayed addresses of the peer that are remembered in order to leave them alone: one per
/// address family and side, and some for those that change.
const MAX_REFUSED: usize = 8;

/// What the peer and the server say.
impl Connector {
    /// `more` STUN servers are asked first: somebody named them.
    pub(super) fn on_welcome(&mut self, now: Instant, stun: &[String], more: &[SocketAddr]) {
        let named = stun.iter().filter_map(|uri| stun_address(uri));
        for server in more.iter().copied().chain(named) {
            self.agent.add_stun_server(now, server);
            self.agent.add_tcp_stun_server(now, server);
        }
        self.agent.end_of_hosts(now);
    }

    pub(super) fn on_message(&mut self, now: Instant, message: PeerMessage) {
        match message {
            PeerMessage::Hello(hello) => self.on_hello(now, hello),
            PeerMessage::Candidate { candidate, mapped } => {
                self.note_mapped(&candidate, mapped);
                self.add_candidate(now, &candidate);
            }
            PeerMessage::EndOfCandidates => self.on_end_of_candidates(now),
            PeerMessage::Nat(nat) => self.agent.handle_punch(now, punching::heard(&nat)),
            PeerMessage::Prediction(prediction) => {
                let message = punching::predicted(prediction);
                self.agent.handle_punch(now, message);
            }
            PeerMessage::Began => self.agent.handle_punch(now, punch::Message::Began),
            PeerMessage::Report(report) => self.on_peer_report(now, report),
            PeerMessage::Bye { .. } if self.stage == Stage::Connecting => {
                self.fail(Failure::PeerLeft);
            }
            PeerMessage::Bye { .. } => {}
        }
    }

    /// Only the first hello counts: the peer cannot become somebody else.
    pub(super) fn on_hello(&mut self, now: Instant, hello: Hello) {
        if self.peer.is_some() {
            return;
        }
        self.peer = Some(hello.fingerprint);
        if !self.is_creator {
            self.events.push_back(Event::Accept(hello.fingerprint));
        }
        let Hello { ufrag, pwd, .. } = hello;
        let credentials = Credentials { ufrag, pwd };
        self.agent.set_remote_credentials(now, credentials);
        self.early.introduced(now);
        for candidate in &hello.candidates {
            self.add_candidate(now, candidate);
        }
        if hello.end_of_candidates {
            self.on_end_of_candidates(now);
        }
    }

    fn note_mapped(&mut self, line: &str, mapped: bool) {
        if let Some(candidate) = line.parse::<Candidate>().ok().filter(|_| mapped) {
            self.agent.note_remote_mapped(&candidate);
        }
    }

    pub(super) fn add_candidate(&mut self, now: Instant, line: &str) {
        match line.parse::<Candidate>() {
            Ok(candidate) if self.refuses(&candidate) => self.refuse(candidate.address),
            Ok(candidate) => {
                self.note_relayed(&candidate);
                self.agent.add_remote_candidate(now, candidate);
                self.vouch(now);
            }
            Err(error) => tracing::debug!(%error, "a candidate was left out"),
        }
    }

    pub(super) fn refuses(&self, candidate: &Candidate) -> bool {
        let relayed = candidate.kind == CandidateKind::Relayed;
        match relayed {
            true => self.policy == PathPolicy::DirectOnly,
            false => self.is_off(Technique::Ipv6) && candidate.address.is_ipv6(),
        }
    }

    /// What comes from a refused address is not taken for a path that nobody has told of.
    pub(super) fn refuse(&mut self, address: SocketAddr) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.push(address);
        }
    }

    pub(super) fn on_end_of_candidates(&mut self, now: Instant) {
        self.candidates_heard = true;
        self.agent.end_of_remote_candidates(now);
        self.leave_if_done(now);
    }

    pub(super) fn on_peer_report(&mut self, now: Instant, report: Report) {
        self.peer_report = Some(report);
        self.await_report(now, self.report.is_some());
    }

    /// Without the mailbox a connection can still be made if the peer's hello is here.
    pub(super) fn on_mailbox_gone(&mut self, now: Instant, cause: Failure) {
        self.on_parted(now);
        let was_there = std::mem::take(&mut self.in_mailbox);
        if !was_there || self.stage != Stage::Connecting {
            return;
        }
        if self.peer.is_none() {
            return self.fail(cause);
        }
        self.cause = Some(cause);
        self.shorten_deadline(later(now, limits::FAREWELL));
    }

    pub(super) fn leave_if_done(&mut self, now: Instant) {
        let gathered = self.candidates_told && !self.relays.is_gathering();
        let quiet = gathered && self.candidates_heard;
        // Who punches may have ports to tell.
        let done = quiet && !self.agent.is_punching();
        let settled = done && self.agent.selected().is_some();
        let late = self.leave_at.is_some_and(|at| now >= at);
        let standing = self.stage == Stage::Established && !self.is_reunited();
        if self.in_mailbox && standing && (settled || late) {
            self.in_mailbox = false;
            self.events.push_back(Event::LeaveMailbox);
        }
    }
}
