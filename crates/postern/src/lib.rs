//! Connect programs that sit behind NATs and firewalls.

mod net;
mod quic;

pub use net::Sockets;
pub use quic::Fingerprint;
