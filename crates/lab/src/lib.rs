//! Worlds to test in.
//!
//! [`sim`] is an internet in memory with virtual time; [`netns`] builds the same
//! topologies from real Linux NATs in network namespaces. [`gateway`] has gateways that map
//! ports as badly as real ones do.

pub mod gateway;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod sim;
