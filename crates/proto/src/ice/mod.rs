//! An ICE agent (RFC 8445) for one data stream over UDP, and over [TCP](tcp) where it may (RFC 6544), with trickled candidates (RFC 8838),
//! consent (RFC 7675) and patience (RFC 8863).
//!
//! The agent finds the address pairs on which two peers reach each other, and keeps asking
//! whether the other still wants data there. It carries no data, resolves no names, opens no
//! socket and allocates no relayed candidates: a TURN client does
//! ([`turn::client`](crate::turn::client)), and [`Agent::add_relayed`] takes the result.
//!
//! 1. Make an [`Agent`]; signal [`Agent::local_credentials`] to the peer.
//! 2. Add the host addresses and STUN servers, then call [`Agent::end_of_hosts`].
//! 3. Signal each [`Event::LocalCandidate`]; hand over what the peer signals.
//! 4. Give it every STUN datagram, send what it wants sent, keep its time.
//! 5. Use the path of the first [`Event::Valid`]; change to that of [`Event::Selected`].
//!
//! A relayed candidate is a base of its own. What is sent from it has the relayed address as
//! `local` and goes through the TURN client; what the TURN client receives from a peer is handed
//! over with the relayed address as `local`. Relayed pairs are checked early and usable as soon
//! as they are valid, the checks of direct ones go on, and a direct one takes over when it
//! works. The best relayed pair stays valid behind it, for the day on which it does not.
//!
//! Assumptions: signalling is authentic and secret; `local` addresses are those of interfaces.
//! A host candidate is also a base; pairs are formed from bases only, since a server-reflexive
//! candidate is replaced by its base anyway (RFC 8445 section 6.1.2.4).
//!
//! [`Agent::restart`] begins another session with the same peer, when the network has changed, say,
//! and the paths of the one before carry data meanwhile.
//!
//! The peer may be lite ([`Agent::set_peer_lite`]); this agent never is.

mod agent;
mod assisted;
mod asymmetric;
mod candidate;
mod check_list;
mod checks;
mod components;
mod config;
mod consent;
mod credentials;
mod event;
mod exploring;
mod gather;
mod locals;
mod named;
mod nat64;
mod nomination;
mod pacer;
mod pair;
mod punching;
mod recovery;
mod remotes;
mod renewal;
mod requests;
mod restart;
mod sdp;
mod start;
mod tally;
pub mod tcp;
mod transactions;
mod upgrade;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use agent::Agent;
pub(crate) use assisted::transport_of;
pub use candidate::{Candidate, CandidateKind};
pub use config::{
    Config, MAX_COMPONENTS, MAX_EARLY_CHECKS, MAX_HOSTS, MAX_PAIRS, MAX_RELAYED,
    MAX_REMOTE_CANDIDATES, MAX_REMOTE_NAMES, MAX_REMOTE_PEER_REFLEXIVE, MAX_STUN_SERVERS, Role,
};
pub use credentials::Credentials;
pub use event::{Event, Kinds, Report};
pub use named::NamedCandidate;
pub use nat64::{Nat64Prefix, Nat64PrefixError};
pub use pair::Path;
pub use punching::PunchReport;
pub use sdp::ParseCandidateError;
pub use tally::{Tally, TallyState};

/// The time after a while; `now` itself where the clock cannot count that far.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
