//! An internet in memory: virtual time, seeded, reproducible.
//!
//! A [`World`] holds networks, hosts, routers and the links between them. The public
//! internet is the network [`World::core`]; each router attaches its outside to one
//! network and makes another inside, so nested NATs are routers behind routers. What a
//! router does is data: [`Gate`], [`Nat`], [`Firewall`].
//!
//! The world reads no clock and draws no randomness of its own: the same start, seed and
//! calls give the same packets at the same times. It is driven in one of two ways.
//!
//! 1. By hand, from any driver (a test on tokio's paused clock, say): [`World::send`]
//!    takes a datagram, [`World::next_event_time`] says when something happens,
//!    [`World::advance`] moves time and returns what arrived.
//! 2. By a [`Runner`], which connects sans-IO machines ([`Machine`]) to hosts and runs
//!    them to a deadline.
//!
//! ```
//! use postern_lab::sim::{Gate, Link, Nat, Router, World, seed};
//! use std::net::{IpAddr, SocketAddr};
//! use std::time::{Duration, Instant};
//!
//! let mut world = World::new(Instant::now(), seed(1));
//! let server = world.add_host("server");
//! let link = Link::with_latency(Duration::from_millis(20));
//! world.attach(server, world.core(), &[IpAddr::from([45, 45, 0, 1])], link);
//! let router = Router {
//!     outside: vec![IpAddr::from([45, 45, 1, 1])],
//!     v4: Gate::Nat(Nat::default()),
//!     ..Router::default()
//! };
//! let router = world.add_router("home", world.core(), &router);
//! let alice = world.add_host("alice");
//! let inside = world.inside(router);
//! world.attach(alice, inside, &[IpAddr::from([192, 168, 1, 10])], Link::default());
//!
//! let from = SocketAddr::from(([192, 168, 1, 10], 5000));
//! let to = SocketAddr::from(([45, 45, 0, 1], 3478));
//! world.send(world.now(), alice, from, to, b"hello");
//! while let Some(at) = world.next_event_time() {
//!     for delivery in world.advance(at) {
//!         assert_eq!(delivery.remote, SocketAddr::from(([45, 45, 1, 1], 5000)));
//!     }
//! }
//! ```
//!
//! [`scenario`] holds ready-made worlds as data, [`matrix`] the table of NAT pairs, [`survey`] random
//! worlds.
//!
//! The world carries UDP, and [TCP](TcpCall) as far as hole punching needs it. It never
//! fragments, and a host accepts every UDP port: which are open is the driver's business.

mod link;
pub mod matrix;
pub mod nat;
mod packet;
mod random;
mod router;
mod runner;
pub mod scenario;
pub mod survey;
mod tcp;
mod topology;
mod trace;
mod world;

pub(crate) use link::Conduit;
pub use link::{Link, Pipe};
pub use nat::{
    Allocation, Filtering, Firewall, Gate, Hairpin, Mapping, Nat, Ports, Timeouts, Unsolicited,
    synthesised,
};
pub use packet::{Body, Delivery, Packet};
pub(crate) use random::Stream;
pub use random::seed;
pub use router::{Egress, Router};
pub use runner::{Machine, MachineId, Occurrence, Runner};
pub use tcp::{ConnectError, Segment, TcpCall, TcpDelivery, TcpEvent};
pub use topology::{HostId, InterfaceId, NetworkId, RouterId};
pub use trace::{Counters, DropReason};
pub use world::World;
