//! From a rendezvous to a connection: which path it uses, and when to give up.
//!
//! A [`Connector`] owns the ICE agent of one attempt. It is fed with what the rendezvous
//! and QUIC report, and says what to do: what to tell the peer, which address pairs may
//! carry packets, on which path to open the connection, which path to add, when to leave
//! the mailbox, and why there is no connection.
//!
//! 1. Its hello waits in the rendezvous until both sides have authenticated each other.
//! 2. The creator of the code opens the connection on the first valid path, and tries
//!    the next one when the handshake takes too long there.
//! 3. Once the connection stands, the creator moves it to the path that ICE selects, and
//!    to any that works when that one is lost. The other side follows.
//!    While data is in flight, silence is noticed sooner ([`Connector::handle_traffic`]).
//! 4. The mailbox is left when ICE has selected and no candidates are outstanding.
//! 5. Networks change: candidates that come later are told over the connection itself, and when
//!    no path is left the two meet again at the server ([`Event::MeetAgain`]).
//! 6. When no path is found, both sides tell each other what they saw, and give up within
//!    15 s of having authenticated each other.

mod agent;
mod changes;
mod connector;
mod early;
mod explanation;
mod limits;
mod mapping;
mod outcome;
mod paths;
mod peer;
mod punching;
mod race;
mod relaying;
mod relays;
mod tcp;
mod traffic;
mod tried;
mod types;

pub use connector::Connector;
pub use explanation::{Attempted, Cause, Explanation, Network, Reach, Sides, TriedResult};
pub use relays::{LinkId, Relay, RelayTransport, RelayTransports, relay_address};
pub use traffic::Traffic;
pub use tried::{Tried, Trouble};
pub use types::{ConnectorConfig, Event, Failure, NoRelay, PathPolicy};

use crate::ice;
use postern_wire::signal::Report;

/// What the agent saw, as it is told to the peer.
fn summary(report: &ice::Report) -> Report {
    let count = |checks: u64| u32::try_from(checks).unwrap_or(u32::MAX);
    Report {
        reflexive: report.stun_servers_answered > 0,
        checks_sent: count(report.checks_sent),
        checks_received: count(report.checks_received),
        mapped_differs: report.local_endpoint_dependent,
        // Without an address nothing was asked.
        udp_blocked: report.local.host > 0
            && report.stun_servers > 0
            && report.stun_servers_answered == 0,
    }
}

#[cfg(test)]
mod tests;
