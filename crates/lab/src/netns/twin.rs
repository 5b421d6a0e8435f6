//! The simulator's two homes, built from real Linux NATs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use super::agents::{Met, Plan, Reflector, meet};
use super::build::BuildError;
use super::topology::{Home, Ipv6, Server, Topology};
use super::world::World;
use crate::sim::scenario::{Layer, Signalling, TwoHomes};
use crate::sim::{Allocation, Gate, Nat, Ports, Stream, seed};

/// The two who meet.
const HOSTS: [&str; 2] = ["alice", "bob"];
/// Their routers, the innermost of each side.
const ROUTERS: [&str; 2] = ["red", "blue"];
const CARRIER: &str = "carrier";
const SERVER: &str = "server";
const STUN_PORT: u16 = 3478;
/// Where the flows of others lead (RFC 863).
const DISCARD_PORT: u16 = 9;
/// The kernel counts ports with a table, which has to stay short.
const COUNTED: Ports = Ports {
    first: 30_000,
    last: 33_999,
};

/// Lets two agents meet behind the real twins of the routers, as
/// [`sim::matrix::run`](crate::sim::matrix::run) does behind simulated ones.
///
/// # Errors
///
/// [`BuildError`]: the kernel cannot do what a router does in the simulator, or the world cannot
/// be built.
pub fn run(homes: &TwoHomes, number: u64) -> Result<Met, BuildError> {
    let topology = topology(homes)?;
    let world = World::build(&topology)?;
    let stun = stun_servers(&world, homes.vantages)?;
    let _reflector = Reflector::start(&world, SERVER, &stun)?;
    let noises = [0, 1].map(|side| Noise::behind(&world, homes, side, stun[0].ip(), number));
    let _noises = noises.into_iter().collect::<Result<Vec<_>, _>>()?;
    let stagger = match homes.signalling {
        Signalling::Together { stagger } => stagger,
        Signalling::Trickled(_) => Duration::ZERO,
    };
    let plan = Plan {
        stun,
        config: homes.config,
        stagger,
        seed: number,
    };
    meet(&world, HOSTS, &plan)
}

/// The same endpoints as in the simulator.
fn stun_servers(world: &World, vantages: u8) -> Result<Vec<SocketAddr>, BuildError> {
    let addresses = world.addresses(SERVER)?;
    let [first, second] = [addresses[0], addresses[1]];
    let mut stun = vec![SocketAddr::new(first, STUN_PORT)];
    let more = [
        SocketAddr::new(second, STUN_PORT),
        SocketAddr::new(first, STUN_PORT + 1),
    ];
    stun.extend(more.iter().take(vantages.into()));
    Ok(stun)
}

fn topology(homes: &TwoHomes) -> Result<Topology, BuildError> {
    if homes.relay || homes.tcp {
        return Err(BuildError::Unsupported("agents with a relay or TCP"));
    }
    let mut all = Vec::new();
    if let Some(layer) = &homes.carrier {
        let inside = |side: &usize| homes.homes[*side].routers.is_empty();
        let hosts = (0..2).filter(inside).map(|side| HOSTS[side]);
        let hosts: Vec<_> = hosts.collect();
        all.push(home(CARRIER, &hosts, 100, layer)?);
    }
    for (side, lan) in [(0, 1), (1, 2)] {
        let lan = if homes.same_addresses { 1 } else { lan };
        let mut behind = homes.carrier.map(|_| CARRIER.to_owned());
        let mut link = homes.homes[side].link();
        let routers = &homes.homes[side].routers;
        for (depth, layer) in (1_u8..).zip(routers) {
            let innermost = usize::from(depth) == routers.len();
            let name = ROUTERS[side].to_owned();
            let (name, lan, hosts) = if innermost {
                (name, lan, vec![HOSTS[side]])
            } else {
                (format!("{name}{depth}"), 100 + 10 * lan + depth, Vec::new())
            };
            let mut router = home(&name, &hosts, lan, layer)?;
            if innermost && foreign_flows(layer) > 0 {
                router.hosts.push(noise_host(side));
            }
            router.link = std::mem::take(&mut link);
            router.behind = behind.replace(name);
            all.push(router);
        }
    }
    Ok(Topology {
        servers: vec![Server {
            addresses: 2,
            ..Server::new(SERVER)
        }],
        homes: all,
        ..Topology::default()
    })
}

fn home(name: &str, hosts: &[&str], lan: u8, layer: &Layer) -> Result<Home, BuildError> {
    let Gate::Nat(nat) = layer.v4 else {
        return Err(BuildError::Unsupported("a home without a NAT"));
    };
    let allocation = match nat.allocation {
        Allocation::Sequential { step, .. } => Allocation::Sequential {
            ports: COUNTED,
            step,
        },
        Allocation::Preserving | Allocation::Random(_) | Allocation::Block { .. } => nat.allocation,
    };
    let nat = Nat {
        allocation,
        foreign_flows: 0,
        ..nat
    };
    let ipv6 = match layer.v6 {
        Gate::Closed => Ipv6::None,
        Gate::Firewall(_) => Ipv6::Firewalled,
        Gate::Open | Gate::Nat(_) | Gate::Nat64(_) => {
            return Err(BuildError::Unsupported("this kind of IPv6"));
        }
    };
    Ok(Home {
        ipv6,
        ..Home::new(name, hosts, lan, nat)
    })
}

fn foreign_flows(layer: &Layer) -> u16 {
    match layer.v4 {
        Gate::Nat(nat) => nat.foreign_flows,
        Gate::Closed | Gate::Open | Gate::Firewall(_) | Gate::Nat64(_) => 0,
    }
}

fn noise_host(side: usize) -> String {
    format!("noise{side}")
}

/// Somebody else behind the same router, who opens flows at random times until it is dropped.
#[derive(Debug)]
struct Noise {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Noise {
    fn behind(
        world: &World,
        homes: &TwoHomes,
        side: usize,
        server: IpAddr,
        number: u64,
    ) -> Result<Option<Self>, BuildError> {
        let rate = homes.homes[side].routers.last().map_or(0, foreign_flows);
        if rate == 0 {
            return Ok(None);
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let to = SocketAddr::new(server, DISCARD_PORT);
        let mut dice = Stream::new(seed(number), side as u64);
        let flows = move || {
            while !stop.load(Ordering::Relaxed) {
                let flow = UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), 0));
                let _ = flow.and_then(|flow| flow.send_to(b"flow", to));
                thread::sleep(Duration::from_secs_f64(dice.exponential(rate)));
            }
        };
        Ok(Some(Self {
            stopping,
            thread: Some(world.spawn(&noise_host(side), flows)?),
        }))
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
