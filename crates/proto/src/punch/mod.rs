//! Hole punching beyond RFC 8445: what a NAT does, and how two that map
//! endpoint-dependently are passed all the same.
//!
//! An ICE agent learns that a NAT exists; it does not learn how the NAT chooses ports. A
//! [`Classifier`] does, from a few dozen mappings that a STUN server saw: which remote
//! endpoints share a mapping, whether ports are preserved, given in order, or drawn from a
//! range, and which range. Both peers tell each other ([`NatReport`]), and [`Plan::new`]
//! says what the two together can do, at what price and with what chance:
//!
//! - **prediction**, where ports follow each other or are preserved: the side behind that NAT
//!   opens one mapping between two that it has a STUN server look at, and tells the other
//!   side the few ports that it can have;
//! - **birthday**, where ports are random: one side opens many mappings, the other tries many
//!   ports, and soon two meet. Where both map endpoint-dependently both do both, which
//!   works when ports are few or a filter looks at addresses only.
//!
//! The [`Puncher`] carries a plan out. It is part of the ICE agent
//! ([`Config::punch`](crate::ice::Config::punch)), which sends its probes as ordinary checks, so
//! a hit is an ordinary valid pair. What strangers' routers are asked to bear is bounded by the
//! constants of this module.

mod budget;
mod classify;
mod nat;
mod plan;
mod puncher;
mod shuffle;
mod technique;

#[cfg(test)]
mod tests;

pub use budget::{
    ATTEMPT_PAUSE, HostBudget, MAX_NARROW_PROBES, MAX_PROBES, MAX_SAMPLES, MAX_SOCKETS,
    NARROW_PORTS, PROBES_PER_SECOND, is_forbidden,
};
pub use classify::{Classifier, Sample};
pub use nat::{Allocation, Filtering, Mapping, NatReport, PortRange};
pub use plan::{Lead, Part, Plan};
pub use puncher::{Action, Message, Prediction, Puncher, Tried};
pub(crate) use shuffle::Shuffle;
pub use technique::{Technique, Techniques, UnknownTechnique};
