//! What there are deadlines for.

use super::types::{ExchangeId, MappingId, Protocol};

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Ask the default gateway again.
    Probe(Protocol),
    /// Search again.
    Search,
    /// Whoever was a little later than the first has had its time.
    Collected,
    /// Gateways that are slow to describe themselves have had their time.
    Patience,
    /// Everybody has had the time to answer.
    Settled,
    /// Look around once more.
    Again,
    /// A mapping: send again, renew, try again.
    Mapping(MappingId),
    /// It ends.
    Expiry(MappingId),
    /// It is looked at again, or the look has had its time.
    Verify(MappingId),
    /// An exchange has had its time.
    Exchange(ExchangeId),
    /// A gateway may have forgotten everything: look.
    Check,
}

/// One deadline for each thing.
pub(super) type Timers = crate::timers::Timers<Timer>;
