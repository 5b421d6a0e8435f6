//! A server, its clients and a clock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that overflows, misses a variant or panics has failed"
)]

mod accounting;
mod allocating;
mod challenge;
mod connections;
mod data;
mod deny;
mod ending;
mod errors;
mod memory;
mod mobility;
mod model;
mod model_tcp;
mod permissions;
mod policy;
mod properties;
mod quotas;
mod refreshing;
mod shards;
mod stats;
mod world;
