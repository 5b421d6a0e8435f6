//! Sans-IO state machines of every protocol postern speaks.
//!
//! Nothing in this crate reads a clock, draws randomness, opens a socket or awaits. A
//! machine is made with `now` and a 32-byte seed, and does nothing unless called:
//!
//! 1. `handle_input(now, Datagram)` hands it what arrived and returns a [`Verdict`].
//! 2. `handle_timeout(now)` tells it that time has passed.
//! 3. `poll_transmit()` yields datagrams to send, until `None`.
//! 4. `poll_event()` yields what happened, until `None`.
//! 5. `poll_timeout()` says when to call `handle_timeout` next.
//!
//! After every call that changes a machine: drain transmits, drain events, read the
//! timeout again.
#![warn(
    missing_docs,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::iter_over_hash_type
)]

pub mod connect;
pub mod fuzz;
pub mod gateway;
pub mod ice;
pub mod mdns;
pub mod ndp;
pub mod portmap;
pub mod probe;
pub mod punch;
pub mod signal;
pub mod stun;
mod timers;
pub mod turn;

use std::net::SocketAddr;

/// A datagram that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The address it arrived at: an interface's address and the socket's port, never
    /// the unspecified address.
    pub local: SocketAddr,
    /// The address it came from, as seen in the packet.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: &'a [u8],
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The local address to send from: an interface's address and the socket's port.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What a machine did with an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The input belonged to this machine, which has dealt with it (or dropped it).
    Consumed,
    /// The input does not belong to this machine: offer it to the next one.
    NotMine,
    /// The input is data that the machine vouches for: pass it up.
    Forward,
}
