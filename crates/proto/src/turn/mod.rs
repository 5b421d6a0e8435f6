//! TURN (RFC 8656): relays for peers that cannot reach each other.

pub mod client;
