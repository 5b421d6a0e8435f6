//! Worlds to test in.
//!
//! [`sim`] is an internet in memory with virtual time; [`netns`] builds the same
//! topologies from real Linux NATs in network namespaces.

#[cfg(target_os = "linux")]
pub mod netns;
pub mod sim;
