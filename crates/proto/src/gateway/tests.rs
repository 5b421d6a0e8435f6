//! A gateway, its clients, a kernel that keeps what it is told, and a clock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_in_result,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that overflows, misses a variant or panics has failed; its clock begins somewhere"
)]

mod events;
mod hostile;
mod mappings;
mod model;
mod natpmp;
mod pcp;
mod pinholes;
mod ssdp;
mod support;
mod upstream;
