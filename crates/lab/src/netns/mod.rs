//! Real Linux NATs in network namespaces.
//!
//! A [`World`] is a small internet built from a [`Topology`]: every server, home router
//! and host is a network namespace, joined by virtual cables to one core router, and the
//! NATs are the kernel's own. Nothing in it can reach the machine's network.
//!
//! 1. Call [`enter`] first thing in `main`, before any thread: it moves the process into
//!    namespaces of its own, for which neither root nor a helper program is needed.
//! 2. [`World::build`] makes the namespaces, cables, addresses, routes and NAT rules.
//! 3. [`World::command`] runs a program on a host, which [`Program`] can watch;
//!    [`World::run`] and [`World::spawn`] run a closure; [`World::traffic`] and
//!    [`World::counters`] say what went where.
//! 4. [`meet`] lets two agents look for each other on real sockets; [`run_twin`] does so behind the
//!    real twins of the [simulator's](crate::sim::matrix) routers.
//! 5. Dropping the world takes all of it down. The namespaces have no names: when the
//!    process dies, however it dies, the kernel removes them, and programs that were
//!    started with [`World::command`] die too.
//!
//! Addresses: the `n`-th server or home hangs on the core router by `45.45.n.0/24` and
//! `2a45:45:n::/64`; public-looking, so that no rule about private or documentation
//! addresses applies to them. Programs `ip` (iproute2) and `nft` (nftables) are needed,
//! the queue discipline netem is not: delay and loss are made by the lab itself.

mod agents;
mod build;
mod enter;
mod harness;
mod link;
pub mod miniupnpd;
mod namespace;
mod program;
mod proxy;
mod rules;
mod sys;
mod tool;
mod topology;
mod traffic;
mod twin;
mod world;

pub use agents::{Met, Plan, Reflector, meet};
pub use build::BuildError;
pub use enter::{GUARD, Unavailable, assert_isolated, enter};
pub use harness::{Case, run_cases};
pub use program::Program;
pub use tool::ToolError;
pub use topology::{Home, Ipv6, Server, Topology};
pub use traffic::{Counter, InterfaceTraffic};
pub use twin::{build as build_twin, run as run_twin};
pub use world::World;
