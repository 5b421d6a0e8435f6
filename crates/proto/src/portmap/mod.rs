//! The client of gateways that map ports: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP-IGD 1
//! and 2, raced.
//!
//! [`Client`] is one address of this machine. It opens no socket: what it needs opened is an
//! [`Event`]. With an IPv4 address it makes mappings at a NAT, with an IPv6 address pinholes in
//! a firewall.
//!
//! 1. Make a [`Client`]; it asks around at once, by all protocols.
//! 2. Give it what arrives at its socket, at 224.0.0.1:5350 and at 239.255.255.250:1900 (or
//!    the groups of IPv6), with the group as `local`; send what it wants sent.
//! 3. Carry out each [`Event::Exchange`]: one HTTP request on a connection of its own; give
//!    the answer to [`Client::handle_response`].
//! 4. [`Client::map`] what shall be reachable; [`Event::Made`], [`Event::Moved`],
//!    [`Event::Lost`], [`Event::Failed`] say what came of it, for as long as it is wanted.
//! 5. With [`Config::verify`] have each [`Event::Probe`] carried out, and say what came of it
//!    ([`Client::handle_probed`]): what is dead is made again ([`Event::Healed`]).
//! 6. [`Client::unmap`] it, and go on until [`Event::Removed`].
//!
//! | file | what |
//! |---|---|
//! | `client.rs` | the five verbs; what is sorted where |
//! | `types.rs` | settings, wishes, events |
//! | `probe.rs` | asking the default gateway for PCP and NAT-PMP |
//! | `search.rs`, `device.rs` | finding UPnP gateways; what is in them, and which is best |
//! | `choice.rs` | which way is taken, and what when it fails |
//! | `mapping.rs` | one mapping: add, renew, remove |
//! | `datagrams.rs` / `soap.rs`, `trouble.rs` | … by PCP and NAT-PMP / by UPnP, and what its errors mean |
//! | `verify.rs` | whether it works; healing it |
//! | `epoch.rs` | whether a gateway has forgotten its mappings |
//! | `heard.rs` | announcements |
//! | `query.rs` | lists, surveys, calls of actions |
//!
//! Assumptions: who answers from an address of the link is a gateway for what it says about
//! itself; it is asked for nothing but mappings to us, and what it says is text of a stranger.
//!
//! Out of scope: eventing (GENA), authentication (RFC 7652), gateways that are not on the link.

mod choice;
mod client;
mod datagrams;
mod device;
mod epoch;
mod heard;
mod mapping;
mod places;
mod probe;
mod query;
mod search;
mod soap;
mod timers;
mod trouble;
mod types;
mod verify;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use epoch::{NatPmpEpoch, PcpEpoch};
pub use places::{is_on_link, is_public};
pub use query::MAX_ENTRIES;
pub use types::{
    Config, Event, Exchange, ExchangeId, Failure, Found, Mapping, MappingId, Protocol, Protocols,
    Refusal, Survey, Ticket, Wish,
};
pub use verify::{Listener, Probe, ProbeId, Probed};

use std::time::{Duration, Instant};

/// The time after a while; `now` itself where the clock cannot count that far.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
