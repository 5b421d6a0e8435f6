//! TURN (RFC 8656), its TCP relays (RFC 6062) and its mobility (RFC 8016).
//!
//! - [`server`] is the relay.

pub mod server;
