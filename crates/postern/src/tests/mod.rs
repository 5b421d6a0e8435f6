//! Tests of the whole library on the simulated internet: real sessions, real QUIC, real
//! ICE, virtual time.

mod connect;
mod internet;
mod meeting;
mod paths;
mod relay;
mod relayed;
mod tcp_relays;
