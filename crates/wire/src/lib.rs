//! Bytes to typed messages and back, for every protocol postern speaks.
//!
//! This crate has no clock, no randomness, no socket and no async. Each protocol is a
//! module with two levels: a checked *view* whose accessors cannot fail, and a typed
//! value that holds only what postern supports.
//!
//! | module | protocol |
//! |---|---|
//! | [`natpmp`], [`pcp`] | NAT-PMP (RFC 6886) and PCP (RFC 6887): what gateways and their clients say |
//! | [`upnp`] | UPnP Internet gateways: SSDP, HTTP, descriptions, SOAP and the actions that map ports |
//! | [`mdns`] | multicast DNS (RFC 6762): questions for random names of hosts, and answers |
//! | [`ndp`] | router advertisements (RFC 4861), as far as they tell of a NAT64 (RFC 8781) |
//! | [`probe`] | what a client asks a server to find out: can its port be reached from outside? |
//! | [`stun`] | STUN messages (RFC 8489) and the ICE attributes (RFC 8445) |
//! | [`signal`] | the mailbox protocol between `postern` and its server, and what peers seal to each other |
//! | [`turn`] | the attributes and the ChannelData framing of TURN (RFC 8656, RFC 6062, RFC 8016) |
//! | [`uri`] | the URIs of STUN and TURN servers (RFC 7064, RFC 7065) |
//! | [`transfer`] | offers, files and receipts on a connection between two peers |
#![warn(
    missing_docs,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::iter_over_hash_type
)]

pub mod framing;
pub mod fuzz;
pub mod mdns;
pub mod natpmp;
pub mod ndp;
pub mod pcp;
pub mod probe;
pub mod signal;
pub mod stun;
pub mod transfer;
pub mod transport;
pub mod turn;
pub mod upnp;
pub mod uri;
