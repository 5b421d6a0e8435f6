//! One home behind one router, and a server with two addresses.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its own part; a test may panic"
)]

pub(crate) mod behaviour;

use postern_lab::sim::{
    Delivery, Gate, HostId, Link, Nat, NetworkId, Router, RouterId, World, seed,
};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) const SERVER: [&str; 2] = ["45.45.0.1", "45.45.0.2"];
pub(crate) const WAN: &str = "45.45.1.1";

pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) server: HostId,
    pub(crate) router: RouterId,
    pub(crate) lan: NetworkId,
    pub(crate) alice: HostId,
    pub(crate) bob: HostId,
}

/// Alice (192.168.1.10) and Bob (192.168.1.11) behind a NAT; no link takes any time.
pub(crate) fn home(nat: Nat) -> Lab {
    home_with_seed(nat, 1)
}

pub(crate) fn home_with_seed(nat: Nat, number: u64) -> Lab {
    let mut world = World::new(Instant::now(), seed(number));
    let core = world.core();
    let server = world.add_host("server");
    world.attach(server, core, &SERVER.map(ip), Link::default());
    let router = world.add_router("home", core, &masquerade(WAN, nat));
    let lan = world.inside(router);
    let alice = world.add_host("alice");
    let bob = world.add_host("bob");
    world.attach(alice, lan, &[ip("192.168.1.10")], Link::default());
    world.attach(bob, lan, &[ip("192.168.1.11")], Link::default());
    Lab {
        world,
        server,
        router,
        lan,
        alice,
        bob,
    }
}

pub(crate) fn masquerade(wan: &str, nat: Nat) -> Router {
    Router {
        outside: vec![ip(wan)],
        v4: Gate::Nat(nat),
        ..Router::default()
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Lab {
    /// Sends one datagram and returns what arrives anywhere.
    pub(crate) fn send(&mut self, host: HostId, from: &str, to: SocketAddr) -> Vec<Delivery> {
        exchange(&mut self.world, host, at(from), to)
    }

    /// The external endpoint that the server sees when Alice sends from a port of hers.
    pub(crate) fn mapped(&mut self, port: u16, to: &str) -> SocketAddr {
        let arrived = self.send(self.alice, &format!("192.168.1.10:{port}"), at(to));
        assert_eq!(arrived.len(), 1, "the server hears Alice");
        arrived[0].remote
    }

    /// Whether a datagram of the server reaches anybody.
    pub(crate) fn reaches(&mut self, from: &str, to: SocketAddr) -> bool {
        !self.send(self.server, from, to).is_empty()
    }

    pub(crate) fn sleep(&mut self, seconds: u64) {
        let to = self.world.now() + Duration::from_secs(seconds);
        assert!(self.world.advance(to).is_empty());
    }
}

pub(crate) fn exchange(
    world: &mut World,
    host: HostId,
    from: SocketAddr,
    to: SocketAddr,
) -> Vec<Delivery> {
    let now = world.now();
    world.send(now, host, from, to, b"probe");
    let mut arrived = Vec::new();
    while let Some(time) = world.next_event_time() {
        arrived.extend(world.advance(time));
    }
    arrived
}
