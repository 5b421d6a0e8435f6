//! The peer's candidates: signalled ones and those that its checks reveal.

use std::net::SocketAddr;

use super::candidate::{Candidate, CandidateKind, is_usable, unscoped};
use super::config::{MAX_REMOTE_CANDIDATES, MAX_REMOTE_PEER_REFLEXIVE};

/// What adding a candidate did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// A new address: pair it.
    New,
    /// An address that a check had revealed: its pairs take over kind and priority.
    Known,
    /// Unusable, a duplicate, or one too many.
    No,
}

/// Bounded, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    candidates: Vec<Candidate>,
    /// How many were learnt from checks so far.
    numbered: usize,
}

impl Remotes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    pub(super) fn find(&self, address: SocketAddr) -> Option<&Candidate> {
        let address = unscoped(address);
        self.iter().find(|candidate| candidate.address == address)
    }

    /// Adds a signalled candidate.
    pub(super) fn add(
        &mut self,
        mut candidate: Candidate,
        components: u16,
        allow_loopback: bool,
    ) -> Added {
        candidate.address = unscoped(candidate.address);
        let ours = (1..=components).contains(&candidate.component);
        if !ours || !is_usable(candidate.address, allow_loopback) {
            return Added::No;
        }
        let same = |known: &&mut Candidate| known.address == candidate.address;
        if let Some(known) = self.candidates.iter_mut().find(same) {
            return replace(known, candidate);
        }
        if self.is_full_of_signalled() {
            return Added::No;
        }
        self.candidates.push(candidate);
        Added::New
    }

    /// Adds a peer-reflexive candidate (RFC 8445 section 7.3.1.3) unless the address is
    /// known. False if it is not usable or one too many.
    pub(super) fn learn(
        &mut self,
        address: SocketAddr,
        component: u16,
        priority: u32,
        allow_loopback: bool,
    ) -> bool {
        if self.find(address).is_some() {
            return true;
        }
        if self.is_full_of_learnt() || !is_usable(address, allow_loopback) {
            return false;
        }
        self.numbered = self.numbered.saturating_add(1);
        let foundation = unique_foundation(self.numbered);
        self.candidates
            .push(peer_reflexive(address, component, priority, foundation));
        true
    }

    /// Its place in the order of arrival.
    pub(super) fn place(&self, address: SocketAddr) -> Option<usize> {
        let address = unscoped(address);
        self.iter().position(|known| known.address == address)
    }

    /// Whether no more of one kind are taken.
    pub(super) fn is_full(&self) -> bool {
        self.is_full_of_signalled() || self.is_full_of_learnt()
    }

    /// Forgets the oldest candidate that may be: mappings change, hosts stay what they are.
    pub(super) fn forget_oldest(&mut self, may: impl Fn(&Candidate) -> bool) -> Option<SocketAddr> {
        let position = |hosts: bool| {
            self.iter()
                .position(|known| (known.kind == CandidateKind::Host) == hosts && may(known))
        };
        let oldest = position(false).or_else(|| position(true))?;
        Some(self.candidates.remove(oldest).address)
    }

    fn is_full_of_signalled(&self) -> bool {
        self.candidates.len().saturating_sub(self.learnt()) >= MAX_REMOTE_CANDIDATES
    }

    /// What signalling has told of later counts as signalled: then there are fewer of these.
    fn is_full_of_learnt(&self) -> bool {
        let most = MAX_REMOTE_CANDIDATES.saturating_add(MAX_REMOTE_PEER_REFLEXIVE);
        self.learnt() >= MAX_REMOTE_PEER_REFLEXIVE || self.candidates.len() >= most
    }

    fn learnt(&self) -> usize {
        self.iter().filter(|known| is_learnt(known)).count()
    }
}

fn is_learnt(candidate: &Candidate) -> bool {
    candidate.kind == CandidateKind::PeerReflexive
}

/// Only what was learnt from a check is changed by signalling.
fn replace(known: &mut Candidate, signalled: Candidate) -> Added {
    if known.kind != CandidateKind::PeerReflexive || signalled.kind == known.kind {
        return Added::No;
    }
    *known = signalled;
    Added::Known
}

/// A foundation that differs from all others, as section 7.3.1.3 asks: "~" is not an ice-char,
/// so no signalled foundation can be the same.
fn unique_foundation(number: usize) -> String {
    format!("~{number}")
}

fn peer_reflexive(
    address: SocketAddr,
    component: u16,
    priority: u32,
    foundation: String,
) -> Candidate {
    Candidate {
        foundation,
        component,
        priority,
        address: unscoped(address),
        kind: CandidateKind::PeerReflexive,
        related: None,
        tcp: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signalled(port: u16) -> Candidate {
        Candidate {
            kind: CandidateKind::ServerReflexive,
            ..peer_reflexive(at(port), 1, 5, "f".into())
        }
    }

    fn at(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn signalling_corrects_what_a_check_revealed() {
        let mut remotes = Remotes::default();
        assert!(remotes.learn(at(9), 1, 77, false));
        assert_eq!(remotes.add(signalled(9), 1, false), Added::Known);
        assert_eq!(remotes.find(at(9)), Some(&signalled(9)));
        assert_eq!(remotes.add(signalled(9), 1, false), Added::No);
    }

    #[test]
    fn candidates_of_both_kinds_are_bounded() {
        let mut remotes = Remotes::default();
        for port in 1..1000 {
            remotes.add(signalled(port), 1, false);
            remotes.learn(at(port + 2000), 1, 1, false);
        }
        let bound = MAX_REMOTE_CANDIDATES + MAX_REMOTE_PEER_REFLEXIVE;
        assert_eq!(remotes.iter().count(), bound);
    }

    #[test]
    fn other_components_and_unusable_addresses_are_left_out() {
        let mut remotes = Remotes::default();
        let second = Candidate {
            component: 2,
            ..signalled(9)
        };
        assert_eq!(remotes.add(second, 1, false), Added::No);
        assert_eq!(remotes.add(signalled(0), 1, false), Added::No);
        assert!(!remotes.learn(at(0), 1, 1, false));
    }
}
