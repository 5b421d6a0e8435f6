//! A TURN client (RFC 8656), with TCP relays (RFC 6062) and mobility (RFC 8016).
//!
//! [`Client`] is one allocation at one server. It opens no socket: what it needs opened is an
//! [`Event`].
//!
//! 1. Make a [`Client`]; it asks for the allocation at once.
//! 2. Give it what arrives from the server, send what it wants sent, keep its time. Over TCP
//!    and TLS the payloads are pieces of the stream, in order.
//! 3. After [`Event::Allocated`], [`Client::permit`] the peers that may answer and
//!    [`Client::send`] to them; their data comes as [`Event::Data`].
//! 4. [`Client::close`] it, and go on until [`Event::Closed`].
//!
//! A driver that moves trains of datagrams asks [`Client::channel_of`] once and puts the
//! four-byte header in front of each itself; [`Client::peer_of`] is the way back.
//!
//! Assumptions: whoever answers from the server's address over a datagram transport is the
//! server only if the response is signed; indications and ChannelData cannot be signed.
//!
//! Out of scope: third-party authorisation (RFC 7635), resolving names, racing servers (see
//! [`Servers`] for the order to try them in).

mod auth;
mod channels;
mod config;
mod connections;
mod data;
mod event;
mod machine;
mod message;
mod peers;
mod requests;
mod servers;
mod stream;
mod timers;

#[cfg(test)]
mod tests;

pub use auth::Credentials;
pub use config::{
    Config, MAX_CHANNELS, MAX_CONNECTIONS, MAX_PERMISSIONS, MAX_REDIRECTS, MAX_WAITING, Relay,
    Transport,
};
pub use connections::ConnectError;
pub use data::SendError;
pub use event::{Allocation, Event, Failure};
pub use machine::Client;
pub use servers::{MAX_SERVERS, Servers};

use std::time::{Duration, Instant};

/// The time after a while; `now` itself where the clock cannot count that far.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
