//! Candidates that a gateway assists with: a port of it leads to a base of ours on request (PCP,
//! NAT-PMP, UPnP), so that whoever sends to it arrives, from behind any NAT.
//!
//! To the peer they are server-reflexive candidates. Which of its own are of this kind it says
//! beside them; that is for telling people how a path came about, and for nothing else. Over TCP
//! they are passive (RFC 6544 section 4.5): the port behind them listens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::transport::Transport;

use super::agent::Agent;
use super::candidate::{Candidate, CandidateKind, is_usable, unscoped};
use super::event::Event;
use super::pair::{PairKey, Path};

/// The most addresses of the peer's that are remembered: a few mappings, moved now and then.
const MAX_THEIRS: usize = 16;
/// The most pairs: more than a check list has.
const MAX_PAIRS: usize = 256;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Assisted {
    /// Addresses of the peer's.
    theirs: BTreeSet<(Transport, SocketAddr)>,
    /// Pairs on which the peer has seen us at such an address of ours.
    pairs: BTreeSet<PairKey>,
}

/// For the user.
impl Agent {
    /// Adds a candidate at a gateway that leads `mapped` to `base`, a host candidate over this
    /// transport. At any time:
    /// it is signalled also after [`Event::EndOfLocalCandidates`]. When the mapping moves, add the
    /// new one.
    ///
    /// Ignored are unknown bases and addresses that cannot be sent to.
    pub fn add_mapped(
        &mut self,
        now: Instant,
        transport: Transport,
        (base, mapped): (SocketAddr, SocketAddr),
    ) {
        let usable = is_usable(mapped, self.config.allow_loopback);
        if !usable || mapped.is_ipv4() != base.is_ipv4() {
            return;
        }
        let candidate = match transport {
            Transport::Udp => self.locals.assist(base, unscoped(mapped)),
            Transport::Tcp => self.tcp.assist(base, unscoped(mapped)),
        };
        if let Some(candidate) = candidate {
            self.events.push_back(Event::LocalCandidate(candidate));
        }
        self.work(now);
    }

    /// Takes note that no gateway leads this address here any more. Says whether it is of no use now:
    /// STUN servers may see it as well. Pairs that work go on until they fall silent.
    pub fn remove_mapped(&mut self, transport: Transport, mapped: SocketAddr) -> bool {
        match transport {
            Transport::Udp => self.locals.end_assistance(unscoped(mapped)),
            Transport::Tcp => self.tcp.end_assistance(unscoped(mapped)),
        }
    }

    /// Takes note that a gateway leads the address of this candidate to the peer.
    pub fn note_remote_mapped(&mut self, candidate: &Candidate) {
        if self.assisted.theirs.len() < MAX_THEIRS {
            let transport = transport_of(candidate);
            let address = unscoped(candidate.address);
            self.assisted.theirs.insert((transport, address));
        }
    }
}

/// For the agent.
impl Agent {
    /// A check has shown at which address the peer sees us.
    pub(super) fn note_assisted(&mut self, key: PairKey, mapped: SocketAddr) {
        let assisted =
            self.locals.is_assisted(key.local, mapped) || self.tcp.is_assisted(key.local, mapped);
        if assisted && self.assisted.pairs.len() < MAX_PAIRS {
            self.assisted.pairs.insert(key);
        }
    }

    /// Whether a path leads through a port that a gateway opened on request, ours or the
    /// peer's.
    pub(super) fn is_assisted(&self, path: &Path) -> bool {
        let kinds = [path.local_kind, path.remote_kind];
        let key = PairKey::new(path.local, path.remote);
        let transport = match self.tcp.base(path.local) {
            Some(_) => Transport::Tcp,
            None => Transport::Udp,
        };
        let remote = (transport, unscoped(path.remote));
        let theirs = self.assisted.theirs.contains(&remote);
        let ours = self.assisted.pairs.contains(&key);
        !kinds.contains(&CandidateKind::Relayed) && (theirs || ours)
    }
}

/// What a candidate is reached over.
pub(crate) const fn transport_of(candidate: &Candidate) -> Transport {
    match candidate.tcp {
        Some(_) => Transport::Tcp,
        None => Transport::Udp,
    }
}
