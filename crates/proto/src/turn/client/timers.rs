//! What the client has deadlines for.

use std::net::{IpAddr, SocketAddr};

use postern_wire::turn::{ChannelNumber, ConnectionId};

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Refresh the allocation.
    Refresh,
    /// The allocation ends.
    Expiry,
    /// A permission is to be refreshed, or ends.
    Permission(IpAddr),
    /// A channel is to be refreshed, ends, or may be used again.
    Channel(ChannelNumber),
    /// A peer may be connected to again.
    Connect(SocketAddr),
    /// A connection has not been bound in time.
    Connection(ConnectionId),
}

/// One deadline for each thing.
pub(super) type Timers = crate::timers::Timers<Timer>;
