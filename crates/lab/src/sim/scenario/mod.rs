//! Ready-made worlds as data: two homes, their routers, a STUN server, signalling.
//!
//! A [`TwoHomes`] says what there is; [`Meeting`] builds it for a seed and lets two real
//! ICE agents find each other in it.
//!
//! ```text
//!            server 45.45.0.1:3478
//!                   |
//!   ----------------+-- the core -----------
//!      |                          |
//!   router 45.45.1.1           router 45.45.2.1        each outermost first
//!      |                          |
//!   left 192.168.1.10          right 192.168.2.10      UDP port 5000 on each
//! ```

mod describe;
mod forecast;
mod meeting;
mod party;
mod peer;
mod proxy;
mod relay;

pub use describe::describe;
pub use meeting::{Meeting, Outcome, SideOutcome};
pub use party::{Party, PartyEvent, PartySignal, StunServer};
pub use peer::Peer;
pub use proxy::Proxy;
pub use relay::Relay;

use super::link::{Link, Pipe};
use super::nat::{Gate, Nat};
use super::router::{Egress, Router};
use super::topology::{HostId, NetworkId, RouterId};
use super::world::World;
use postern_proto::ice::Config;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The UDP port of both peers. The same on both sides, so that nothing works only because
/// the two differ.
const PEER_PORT: u16 = 5000;
/// The port of the STUN server (RFC 8489, section 9).
const STUN_PORT: u16 = 3478;
/// The port of the relay: the one that is open where hardly any are.
const RELAY_PORT: u16 = 443;
/// Of a peer's client of the relay.
const RELAY_CLIENT_PORT: u16 = 5001;
/// The port of a home's HTTP proxy.
const PROXY_PORT: u16 = 3128;
/// The carrier's place among the sides in [`outside_v4`] and [`outside_v6`].
const CARRIER: u8 = 99;
const NAMES: [&str; 2] = ["left", "right"];

/// Two homes, a server, and how their people exchange messages.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoHomes {
    /// The left one, whose agent is controlling, and the right one.
    pub homes: [Home; 2],
    /// A router between both homes and the core, as a carrier has it. With homes that have
    /// no router of their own, both hosts are in one network behind it.
    pub carrier: Option<Layer>,
    /// Whether the two homes use the same private addresses, as most homes do.
    pub same_addresses: bool,
    /// The link of the STUN server to the core.
    pub server: Pipe,
    /// How many more IPv4 endpoints the STUN server has: with one a second address, with two
    /// a second port of the first, too.
    pub vantages: u8,
    /// Whether both have an allocation at a TURN server, by UDP where that is let out, else by TCP.
    pub relay: bool,
    /// Whether both look for direct connections over TCP, too.
    pub tcp: bool,
    /// How credentials and candidates get across.
    pub signalling: Signalling,
    /// Settings of both agents.
    pub config: Config,
}

/// A home: routers between the core and one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Home {
    /// The routers, outermost first; none puts the host on the core.
    pub routers: Vec<Layer>,
    /// The link between the home and the core, in each direction.
    pub access: Pipe,
    /// The direction from the core to the home, where it is another.
    pub back: Option<Pipe>,
    /// Whether the host has an IPv4 address.
    pub ipv4: bool,
    /// Whether the host has an IPv6 address.
    pub ipv6: bool,
    /// What the innermost router lets out.
    pub outlet: Outlet,
    /// Further IPv4 interfaces of the host, from 172.17.0.1 on, that lead nowhere: bridges
    /// for containers. They are the same in both homes.
    pub bridges: u8,
}

/// What a home lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outlet {
    /// Everything.
    #[default]
    All,
    /// No UDP.
    NoUdp,
    /// TCP to port 443.
    Https,
    /// What an HTTP proxy in the home sends for others.
    Proxy,
}

/// One router of a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layer {
    /// What it does with IPv4.
    pub v4: Gate,
    /// What it does with IPv6.
    pub v6: Gate,
}

/// How credentials and candidates reach the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalling {
    /// Each at once (RFC 8838), this much later.
    Trickled(Duration),
    /// All together, when both sides have gathered all candidates: the left side has the
    /// right one's at that moment, the right side has the left one's this much later.
    Together {
        /// How much later; zero for exactly at once.
        stagger: Duration,
    },
}

impl Home {
    /// A home with IPv4 behind one NAT, 15 ms from the core.
    #[must_use]
    pub fn behind(nat: Nat) -> Self {
        Self {
            routers: vec![Layer {
                v4: Gate::Nat(nat),
                v6: Gate::Closed,
            }],
            access: Pipe {
                latency: Duration::from_millis(15),
                ..Pipe::default()
            },
            back: None,
            ipv4: true,
            ipv6: false,
            outlet: Outlet::All,
            bridges: 0,
        }
    }

    /// Its link to the core.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            up: self.access,
            down: self.back.unwrap_or(self.access),
        }
    }

    /// The same home behind one more router, further out: a carrier's, say.
    #[must_use]
    pub fn and_behind(mut self, nat: Nat) -> Self {
        let layer = Layer {
            v4: Gate::Nat(nat),
            v6: Gate::Closed,
        };
        self.routers.insert(0, layer);
        self
    }
}

impl TwoHomes {
    /// Two homes, 30 ms one way apart; candidates are trickled in 30 ms; agents with their
    /// default settings.
    #[must_use]
    pub fn new(left: Home, right: Home) -> Self {
        Self {
            homes: [left, right],
            carrier: None,
            same_addresses: false,
            server: Pipe::default(),
            vantages: 0,
            relay: false,
            tcp: false,
            signalling: Signalling::Trickled(Duration::from_millis(30)),
            config: Config::default(),
        }
    }

    fn build_server(&self, world: &mut World) -> (HostId, Vec<SocketAddr>) {
        let addresses = [
            IpAddr::from([45, 45, 0, 1]),
            IpAddr::from([0x2a05, 0x4545, 0, 0, 0, 0, 0, 1]),
        ];
        let host = world.add_host("server");
        let link = Link::symmetric(self.server);
        world.attach(host, world.core(), &addresses, link);
        let second = IpAddr::from([45, 45, 0, 2]);
        world.attach(host, world.core(), &[second], link);
        let mut stun = addresses
            .map(|address| SocketAddr::new(address, STUN_PORT))
            .to_vec();
        let more = [
            SocketAddr::new(second, STUN_PORT),
            SocketAddr::new(addresses[0], STUN_PORT + 1),
        ];
        stun.extend(more.iter().take(usize::from(self.vantages)));
        (host, stun)
    }

    /// The network that both homes attach to.
    fn build_carrier(&self, world: &mut World) -> NetworkId {
        let Some(layer) = self.carrier else {
            return world.core();
        };
        let router = layer.router(CARRIER, 0, Link::default());
        let carrier = world.add_router("carrier", world.core(), &router);
        world.inside(carrier)
    }

    fn build_home(&self, world: &mut World, network: NetworkId, side: u8) -> BuiltHome {
        let home = &self.homes[usize::from(side)];
        let name = NAMES[usize::from(side)];
        let outermost = u8::from(self.carrier.is_some());
        let mut link = home.link();
        let mut network = network;
        let mut routers = Vec::new();
        for (depth, layer) in (outermost..).zip(&home.routers) {
            let mut router = layer.router(side, depth, std::mem::take(&mut link));
            if routers.len() + 1 == home.routers.len() {
                router.egress = self.egress(side);
            }
            let router = world.add_router(&format!("{name}-nat{depth}"), network, &router);
            network = world.inside(router);
            routers.push(router);
        }
        let host = world.add_host(name);
        world.attach(host, network, &self.host_addresses(side), link);
        build_bridges(world, host, home.bridges);
        let proxy = (home.outlet == Outlet::Proxy).then(|| {
            let host = world.add_host(&format!("{name}-proxy"));
            let address = self.proxy(side);
            world.attach(host, network, &[address], Link::default());
            (host, SocketAddr::new(address, PROXY_PORT))
        });
        let addresses = world.addresses(host).into_iter();
        let endpoints = addresses.map(|address| SocketAddr::new(address, PEER_PORT));
        BuiltHome {
            host,
            routers,
            endpoints: endpoints.collect(),
            proxy,
        }
    }

    fn egress(&self, side: u8) -> Egress {
        match self.homes[usize::from(side)].outlet {
            Outlet::All => Egress::All,
            Outlet::NoUdp => Egress::NoUdp,
            Outlet::Https => Egress::Tcp(RELAY_PORT),
            Outlet::Proxy => Egress::Proxy(self.proxy(side)),
        }
    }

    fn proxy(&self, side: u8) -> IpAddr {
        let home = if self.same_addresses { 1 } else { side + 1 };
        IpAddr::from([192, 168, home, 3])
    }

    fn host_addresses(&self, side: u8) -> Vec<IpAddr> {
        let home = &self.homes[usize::from(side)];
        let v4 = if home.routers.is_empty() {
            outside_v4(side, u8::from(self.carrier.is_some()))
        } else {
            self.inside_v4(side)
        };
        let network = 1 + u16::from(side);
        let v6 = IpAddr::from([0x2a05, 0x4545, network, 0, 0, 0, 0, 0x10]);
        let v6 = home.ipv6.then_some(v6);
        v6.into_iter().chain(home.ipv4.then_some(v4)).collect()
    }

    fn inside_v4(&self, side: u8) -> IpAddr {
        let home = if self.same_addresses { 1 } else { side + 1 };
        IpAddr::from([192, 168, home, 10])
    }
}

impl Layer {
    fn router(self, side: u8, depth: u8, link: Link) -> Router {
        Router {
            outside: vec![outside_v4(side, depth), outside_v6(side, depth)],
            link,
            v4: self.v4,
            v6: self.v6,
            egress: Egress::All,
        }
    }
}

fn build_bridges(world: &mut World, host: HostId, count: u8) {
    for number in 0..count {
        let nowhere = world.add_network();
        let address = IpAddr::from([172, 17 + number, 0, 1]);
        world.attach(host, nowhere, &[address], Link::default());
    }
}

/// A home in a world.
#[derive(Debug)]
struct BuiltHome {
    host: HostId,
    routers: Vec<RouterId>,
    endpoints: Vec<SocketAddr>,
    proxy: Option<(HostId, SocketAddr)>,
}

/// Public for the outermost router, shared address space (RFC 6598) for those behind it.
fn outside_v4(side: u8, depth: u8) -> IpAddr {
    match depth {
        0 => IpAddr::from([45, 45, side + 1, 1]),
        _ => IpAddr::from([100, 64, side + 1, depth]),
    }
}

fn outside_v6(side: u8, depth: u8) -> IpAddr {
    let network = 1 + u16::from(side);
    IpAddr::from([
        0x2a05,
        0x4545,
        network,
        0xffff,
        0,
        0,
        0,
        1 + u16::from(depth),
    ])
}
