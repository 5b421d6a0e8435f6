//! Tests of the whole library on the simulated internet: real sessions, real QUIC, real
//! ICE, virtual time.

mod connect;
mod data_connections;
mod first_byte;
mod hostile_streams;
mod internet;
mod meeting;
mod paths;
mod relay;
mod relayed;
mod reunions;
mod roaming;
mod takeover;
mod tcp_relays;
mod turn_client;
