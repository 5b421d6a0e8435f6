//! Candidates whose address is a multicast DNS name (draft-ietf-mmusic-mdns-ice-candidates): what
//! browsers tell in place of addresses of their own network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;

use super::agent::Agent;
use super::candidate::{Candidate, CandidateKind};
use super::config::{MAX_REMOTE_CANDIDATES, MAX_REMOTE_NAMES};
use super::event::Event;
use super::sdp::{ParseCandidateError, read_line};

/// The longest name: what DNS allows.
const MAX_NAME: usize = 253;
/// The end of every multicast DNS name (RFC 6762 section 3).
const LOCAL: &str = ".local";

/// A candidate at a name.
///
/// Reads and writes itself as the SDP attribute of RFC 8839 section 5.1, as a
/// [`Candidate`] does; what has an address does not read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCandidate {
    name: String,
    /// All but the address.
    candidate: Candidate,
}

impl NamedCandidate {
    /// Hides the address of a candidate behind a name: one label and `.local`, in which a random UUID is
    /// usual. None if the name is none of these.
    pub fn new(name: &str, candidate: Candidate) -> Option<Self> {
        let port = candidate.address.port();
        is_local(name).then(|| Self {
            name: name.to_ascii_lowercase(),
            candidate: Candidate {
                address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
                related: None,
                ..candidate
            },
        })
    }

    /// The name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The candidate at an address.
    fn at(&self, address: IpAddr) -> Candidate {
        let port = self.candidate.address.port();
        Candidate {
            address: SocketAddr::new(address, port),
            ..self.candidate.clone()
        }
    }
}

impl FromStr for NamedCandidate {
    type Err = ParseCandidateError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut name = None;
        let candidate = read_line(line, |field| {
            name = is_local(field).then(|| field.to_ascii_lowercase());
            match name {
                Some(_) => Ok(Ipv4Addr::UNSPECIFIED.into()),
                None => Err(ParseCandidateError::NotAnAddress),
            }
        })?;
        let name = name.ok_or(ParseCandidateError::NotAnAddress)?;
        Ok(Self { name, candidate })
    }
}

impl fmt::Display for NamedCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.candidate.write_at(f, &self.name)
    }
}

/// Whether it is one label and `.local`. Names of more labels are left alone, since the draft
/// (section 3.2.1) has them ignored.
pub(super) fn is_local(name: &str) -> bool {
    let Some((label, end)) = name
        .len()
        .checked_sub(LOCAL.len())
        .and_then(|at| name.split_at_checked(at))
    else {
        return false;
    };
    let host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    end.eq_ignore_ascii_case(LOCAL)
        && !label.is_empty()
        && name.len() <= MAX_NAME
        && label.bytes().all(host)
}

/// The peer's names.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those that are being looked up, each with the candidates that wait for it.
    waiting: BTreeMap<String, Vec<NamedCandidate>>,
    /// Addresses that are known by their names alone.
    hidden: BTreeSet<SocketAddr>,
}

impl Names {
    /// Whether a relay would learn with an address what its owner hides (the draft's section 3.3.2).
    /// The peer's own way to the relayed address remains.
    pub(super) fn hide(&self, base: CandidateKind, remote: SocketAddr) -> bool {
        base == CandidateKind::Relayed && self.hidden.contains(&remote)
    }
}

impl Agent {
    /// Adds a candidate of the peer whose address is a name. [`Event::ResolveName`] asks for it, once a
    /// name; until [`name_resolved`](Self::name_resolved) has told, or if nobody does, the
    /// candidate does not count.
    ///
    /// Ignored are those beyond [`MAX_REMOTE_NAMES`](super::MAX_REMOTE_NAMES).
    pub fn add_named_candidate(&mut self, candidate: NamedCandidate) {
        let waiting: usize = self.names.waiting.values().map(Vec::len).sum();
        if waiting >= MAX_REMOTE_NAMES {
            tracing::debug!("ignored a remote candidate at a name");
            return;
        }
        let name = candidate.name.clone();
        let same = self.names.waiting.entry(name.clone()).or_default();
        if same.is_empty() {
            self.events.push_back(Event::ResolveName(name));
        }
        if !same.contains(&candidate) {
            same.push(candidate);
        }
    }

    /// Takes the address of a name that [`Event::ResolveName`] asked for, the first one if there are
    /// several, or none if it cannot be resolved.
    pub fn name_resolved(&mut self, now: Instant, name: &str, address: Option<IpAddr>) {
        let candidates = self.names.waiting.remove(&name.to_ascii_lowercase());
        for candidate in candidates.unwrap_or_default() {
            match address {
                Some(address) => self.add_hidden_candidate(now, candidate.at(address)),
                None => tracing::debug!("a name of the peer cannot be resolved"),
            }
        }
    }

    fn add_hidden_candidate(&mut self, now: Instant, candidate: Candidate) {
        let known = self.remotes.find(candidate.address);
        let is_told = known.is_some_and(|known| known.kind != CandidateKind::PeerReflexive);
        let hidden = &mut self.names.hidden;
        if !is_told && hidden.len() < MAX_REMOTE_CANDIDATES {
            hidden.insert(candidate.address);
        }
        self.add_remote_candidate(now, candidate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "candidate:1 1 udp 2122260223 4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local 54321 typ host";

    #[test]
    fn a_line_of_a_browser_is_read_and_written() {
        let candidate: NamedCandidate = LINE.parse().unwrap();
        assert_eq!(
            candidate.name(),
            "4b2e9c52-12ab-4c1d-9d5d-7a0f8e1f3c11.local"
        );
        assert_eq!(candidate.to_string(), LINE);
        let at = candidate.at("192.168.1.7".parse().unwrap());
        assert_eq!(at.address, "192.168.1.7:54321".parse().unwrap());
        assert_eq!(NamedCandidate::new(candidate.name(), at), Some(candidate));
    }

    #[test]
    fn only_one_label_and_local_make_a_name() {
        for name in ["a.local", "A-b.LOCAL", "4b2e.local"] {
            assert!(is_local(name), "{name}");
        }
        for name in [
            ".local",
            "local",
            "a.b.local",
            "a.locale",
            "ü.local",
            "a_b.local",
            "10.0.0.1",
        ] {
            assert!(!is_local(name), "{name}");
        }
        let long = format!("{}.local", "a".repeat(250));
        assert!(!is_local(&long));
        let line = LINE.replace("4b2e9c52-", "a.");
        assert!(line.parse::<NamedCandidate>().is_err());
    }

    #[test]
    fn a_line_with_an_address_is_no_name() {
        let line = "candidate:1 1 udp 5 10.0.0.1 9 typ host";
        assert_eq!(
            line.parse::<NamedCandidate>(),
            Err(ParseCandidateError::NotAnAddress)
        );
    }
}
