//! TURN (RFC 8656), its TCP relays (RFC 6062) and its mobility (RFC 8016).
//!
//! - [`client`] is one allocation at a relay.
//! - [`server`] is the relay.

pub mod client;
pub mod server;
