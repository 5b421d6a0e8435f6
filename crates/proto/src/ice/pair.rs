//! Candidate pairs (RFC 8445 section 6.1.2).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::candidate::{Candidate, CandidateKind, scoped};
use super::config::Role;

/// A way to the peer: send from `local` to `remote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The base to send from: an interface's address and the socket's port.
    pub local: SocketAddr,
    /// The peer's address as this side has to write it.
    pub remote: SocketAddr,
    /// How the peer sees us: as the host address itself, or through a NAT.
    pub local_kind: CandidateKind,
    /// How the peer's address became known.
    pub remote_kind: CandidateKind,
}

/// What identifies a pair: the base it sends from and where it sends to.
///
/// A server-reflexive candidate is replaced by its base before pairs are pruned (section
/// 6.1.2.4), so no two pairs of a pruned check list have the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairKey {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl PairKey {
    pub(super) fn new(base: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: base,
            remote: scoped(remote, base),
        }
    }
}

/// The state of a pair (RFC 8445 section 6.1.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Frozen,
    Waiting,
    InProgress,
    Succeeded,
    Failed,
}

/// What a successful check proved (RFC 8445 section 7.2.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Valid {
    /// The kind of the local candidate that the peer saw.
    pub(super) local_kind: CandidateKind,
    /// Unknown when the check had to be retransmitted: the answer may be to either.
    pub(super) rtt: Option<Duration>,
}

/// How good a pair is, whatever its priority: one of a higher rank takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Relayed,
    /// Direct, over TCP.
    Stream,
    Direct,
}

/// One line of the check list.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: PairKey,
    pub(super) component: u16,
    pub(super) state: State,
    /// The foundations of both candidates.
    pub(super) foundation: (String, String),
    pub(super) priority: u64,
    local_kind: CandidateKind,
    /// Over a TCP connection.
    stream: bool,
    local_priority: u32,
    remote_kind: CandidateKind,
    remote_priority: u32,
    /// Set while the pair is in the valid list.
    pub(super) valid: Option<Valid>,
    /// The peer sent USE-CANDIDATE on this pair (RFC 8445 section 7.3.1.5).
    pub(super) use_candidate: bool,
    /// A check of the peer has arrived on it, and the user has been told.
    pub(super) seen: bool,
    /// Its latest check was a triggered one (section 6.1.4.1).
    pub(super) triggered: bool,
    /// When its latest check began.
    pub(super) checked_at: Option<Instant>,
}

impl Pair {
    pub(super) fn new(base: &Candidate, remote: &Candidate, role: Role) -> Self {
        let mut pair = Self {
            key: PairKey::new(base.address, remote.address),
            component: base.component,
            state: State::Frozen,
            foundation: (base.foundation.clone(), remote.foundation.clone()),
            priority: 0,
            local_kind: base.kind,
            stream: base.tcp.is_some(),
            local_priority: base.priority,
            remote_kind: remote.kind,
            remote_priority: remote.priority,
            valid: None,
            use_candidate: false,
            seen: false,
            triggered: false,
            checked_at: None,
        };
        pair.set_role(role);
        pair
    }

    /// Computes the priority again, which depends on the role (section 6.1.2.3).
    pub(super) fn set_role(&mut self, role: Role) {
        self.priority = match role {
            Role::Controlling => priority(self.local_priority, self.remote_priority),
            Role::Controlled => priority(self.remote_priority, self.local_priority),
        };
    }

    /// Takes over what signalling says about a candidate that a check had revealed first.
    pub(super) fn set_remote(&mut self, remote: &Candidate, role: Role) {
        self.remote_kind = remote.kind;
        self.remote_priority = remote.priority;
        self.foundation.1.clone_from(&remote.foundation);
        self.set_role(role);
    }

    /// Neither valid nor being checked, so that the list may drop it.
    pub(super) fn is_idle(&self) -> bool {
        self.valid.is_none() && self.state != State::InProgress
    }

    /// Whether its remote candidate is an address on the peer's own network.
    pub(super) fn is_to_host(&self) -> bool {
        self.remote_kind == CandidateKind::Host
    }

    /// Whether it leads through a relay, ours or the peer's.
    pub(super) fn is_relayed(&self) -> bool {
        self.is_from_relay() || self.remote_kind == CandidateKind::Relayed
    }

    /// Whether it is as good as pairs get: over UDP and without a relay.
    pub(super) fn is_direct(&self) -> bool {
        self.rank() == Rank::Direct
    }

    /// What counts before its priority.
    pub(super) fn rank(&self) -> Rank {
        match (self.is_relayed(), self.stream) {
            (true, _) => Rank::Relayed,
            (false, true) => Rank::Stream,
            (false, false) => Rank::Direct,
        }
    }

    /// Whether it is what remains when nothing direct works: from our relay to where the
    /// peer's NAT or relay can be reached.
    pub(super) fn is_fallback(&self) -> bool {
        self.is_from_relay() && !self.is_to_host()
    }

    /// Whether it leads through a relay of ours.
    pub(super) fn is_from_relay(&self) -> bool {
        self.local_kind == CandidateKind::Relayed
    }

    pub(super) fn path(&self) -> Path {
        Path {
            local: self.key.local,
            remote: self.key.remote,
            local_kind: self.valid.map_or(self.local_kind, |valid| valid.local_kind),
            remote_kind: self.remote_kind,
        }
    }
}

/// The priority of a pair (RFC 8445 section 6.1.2.3), of the priorities of the
/// controlling and of the controlled agent's candidates.
pub(super) fn priority(controlling: u32, controlled: u32) -> u64 {
    let (g, d) = (u64::from(controlling), u64::from(controlled));
    (g.min(d) << 32)
        .saturating_add(g.max(d).saturating_mul(2))
        .saturating_add(u64::from(g > d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agents_compute_the_same_priority_and_the_roles_break_ties() {
        assert_eq!(priority(1, 2), (1 << 32) + 4);
        assert_eq!(priority(2, 1), (1 << 32) + 4 + 1);
        assert_eq!(priority(7, 7), (7 << 32) + 14);
        assert!(priority(u32::MAX, u32::MAX) > priority(u32::MAX, 7));
    }
}
