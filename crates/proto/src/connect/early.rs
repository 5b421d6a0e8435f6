//! The handshake on relayed addresses that need no check.
//!
//! A relayed address of the peer at the same relay as ours, told in its sealed hello, is vouched
//! for: only the peer's allocation sends from there, nobody can forge it, and nothing that is
//! sent there leaves the relay. So packets may pass between the two at once, and the connection
//! begins without a round trip of checks if no direct path is valid soon.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connector::{Connector, Stage};
use super::limits::later;
use super::paths::same;
use super::types::Event;
use crate::ice::{Candidate, CandidateKind, Path};

/// Direct paths have so long, from the peer's hello on, before the connection begins on the
/// relay: two or three checks. With the handshake it is within two round trips if these take 50 ms
/// and more.
const HEAD_START: Duration = Duration::from_millis(50);

/// The same where the relay is near: there the pace of the checks takes longer than all round trips,
/// and what a fast network would send through the relay meanwhile is much.
const LONG_HEAD_START: Duration = Duration::from_millis(150);

/// A relay is near if it takes less than this to get an allocation.
const NEAR: Duration = Duration::from_millis(25);

/// Relayed addresses of the peer that are remembered: one of each family at a few relays.
const MAX_RELAYED: usize = 8;

/// What is known about relayed addresses that need no check.
#[derive(Debug, Default)]
pub(super) struct Early {
    introduced: Option<Instant>,
    /// The peer's relayed addresses.
    theirs: Vec<SocketAddr>,
    vouched: Vec<Path>,
    begun: bool,
}

impl Early {
    /// The peer's hello is here.
    pub(super) fn introduced(&mut self, now: Instant) {
        self.introduced.get_or_insert(now);
    }

    /// The paths that were vouched for.
    pub(super) fn paths(&self) -> &[Path] {
        &self.vouched
    }

    fn start_at(&self, is_near: bool) -> Option<Instant> {
        let head_start = if is_near { LONG_HEAD_START } else { HEAD_START };
        let idle = !self.begun && !self.vouched.is_empty();
        self.introduced
            .filter(|_| idle)
            .map(|at| later(at, head_start))
    }
}

impl Connector {
    pub(super) fn note_relayed(&mut self, candidate: &Candidate) {
        let relayed = candidate.kind == CandidateKind::Relayed && candidate.tcp.is_none();
        if relayed && self.early.theirs.len() < MAX_RELAYED {
            self.early.theirs.push(candidate.address);
        }
    }

    /// Lets packets pass between relayed addresses of both sides at one relay.
    pub(super) fn vouch(&mut self, now: Instant) {
        if self.peer.is_none() || self.stage != Stage::Connecting {
            return;
        }
        let ours: Vec<_> = self.relays.relayed().collect();
        for path in ours
            .iter()
            .flat_map(|ours| neighbours(*ours, &self.early.theirs))
        {
            if !self.early.vouched.iter().any(|known| same(*known, path)) {
                self.early.vouched.push(path);
                self.events.push_back(Event::Admit(path));
            }
        }
        self.begin_early(now);
    }

    /// A relayed address of ours is gone.
    pub(super) fn unvouch(&mut self, relayed: SocketAddr) {
        self.early.vouched.retain(|path| path.local != relayed);
    }

    pub(super) fn early_timeout(&self) -> Option<Instant> {
        let waits = self.is_creator && self.stage == Stage::Connecting && self.handshake.is_none();
        let is_near = self.relays.took().is_some_and(|took| took < NEAR);
        self.early.start_at(is_near).filter(|_| waits)
    }

    /// Begins the handshake if it is time and no other one is under way.
    pub(super) fn begin_early(&mut self, now: Instant) {
        let due = self.early_timeout().is_some_and(|at| at <= now);
        if let Some(path) = self.early.vouched.first().copied().filter(|_| due) {
            self.early.begun = true;
            self.relays.keep(path.local);
            self.shake_hands(now, path);
        }
    }
}

/// The paths from our relayed address to those of the peer at the same relay.
fn neighbours(ours: SocketAddr, theirs: &[SocketAddr]) -> Vec<Path> {
    let near = |theirs: &&SocketAddr| theirs.ip() == ours.ip() && **theirs != ours;
    let path = |theirs: &SocketAddr| Path {
        local: ours,
        remote: *theirs,
        local_kind: CandidateKind::Relayed,
        remote_kind: CandidateKind::Relayed,
    };
    theirs.iter().filter(near).map(path).collect()
}
