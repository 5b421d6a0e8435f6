//! Routers that advertise the prefix of a NAT64 (RFC 8781), to a host whose resolver knows none.

use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use postern_lab::netns::{Case, Program, World};
use postern_wire::ndp::{Pref64, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::house::House;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    a_prefix_that_the_router_advertises_is_told,
    an_ipv4_candidate_is_reached_through_the_prefix_once_the_router_advertises_it,
];

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Longer than a check between neighbours.
const A_MOMENT: Duration = Duration::from_millis(1500);

const SECONDS: u16 = 1800;

/// How the translator's side of 45.45.1.2 looks from inside.
const INSIDE: &str = "64:ff9b::2d2d:102";

fn a_prefix_that_the_router_advertises_is_told() {
    let house = House::with_ipv6();
    assert_eq!(nat64(&house), Value::Null);
    let router = Router::of(&house.world);
    assert_eq!(nat64(&house), "64:ff9b::/96");
    router.advertise(0);
    assert_eq!(nat64(&house), Value::Null);
}

fn nat64(house: &House) -> Value {
    house.check_on("alice", &["--json"]).json()["nat64"].clone()
}

/// The peer is on the router itself, which has its address behind the prefix: no translator, but
/// the host cannot tell. The router advertises the prefix when it is asked to, or first when the
/// agents try to meet.
fn an_ipv4_candidate_is_reached_through_the_prefix_once_the_router_advertises_it() {
    for early in [true, false] {
        let house = House::with_ipv6();
        let world = &house.world;
        world
            .ip("alice", "addr del 192.168.1.10/24 dev eth0\n")
            .unwrap();
        world
            .ip("red", &format!("addr add {INSIDE}/128 dev lan nodad\n"))
            .unwrap();
        let router = Router::of(world);
        if !early {
            router.advertise(0);
        }
        let (mut alice, mut told) = agent(&house, "alice", "--controlling");
        let (mut peer, mut behind) = agent(&house, "red", "--controlled");
        told["candidates"] = json!(["candidate:1 1 udp 2130706431 2a45:45:99::9 9 typ host"]);
        peer.tell(&told.to_string()).unwrap();
        behind["candidates"] = json!([outside_line(&behind)]);
        alice.tell(&behind.to_string()).unwrap();
        if !early {
            let connected = alice.event("connected", A_MOMENT);
            assert_eq!(connected, None, "without a prefix");
            router.advertise(SECONDS);
        }
        let connected = alice.event("connected", LIMIT);
        let pair = connected.unwrap_or_else(|| panic!("{}", alice.complaints()))["pair"].clone();
        let remote = pair["remote"].as_str().unwrap();
        assert!(remote.starts_with(&format!("[{INSIDE}]:")), "{pair}");
        assert!(peer.event("connected", LIMIT).is_some());
    }
}

fn agent(house: &House, node: &str, role: &str) -> (Program, Value) {
    let mut command = house.command(node, "lab");
    command.args(["ice", "--json", role]);
    let mut program = Program::start(command).unwrap();
    let told = program.event("local", LIMIT);
    let told = told.unwrap_or_else(|| panic!("{}", program.complaints()));
    (program, told)
}

/// The candidate behind the prefix, as a peer in the IPv4 internet would tell it.
fn outside_line(told: &Value) -> String {
    let lines = told["candidates"].as_array().unwrap().iter();
    let mut lines = lines.filter_map(Value::as_str);
    let line = lines.find(|line| line.contains(&format!(" {INSIDE} ")));
    line.unwrap().replace(INSIDE, "45.45.1.2")
}

/// What the router says: whenever it is asked, and when it is told to.
struct Router {
    lifetime: Arc<AtomicU16>,
    sender: Socket,
}

impl Router {
    /// Lets `red` advertise a prefix, and alice listen to it.
    fn of(world: &World) -> Self {
        let listen = || std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1");
        world.run("alice", listen).unwrap().unwrap();
        let lifetime = Arc::new(AtomicU16::new(SECONDS));
        let answered = lifetime.clone();
        let (given, ready) = mpsc::channel();
        // It ends with the world's process.
        let thread = world.spawn("red", move || {
            let socket = icmp();
            given.send(socket.try_clone().unwrap()).unwrap();
            answer(&socket, &answered);
        });
        thread.unwrap();
        Self {
            lifetime,
            sender: ready.recv_timeout(LIMIT).unwrap(),
        }
    }

    /// Advertises it for so many seconds from now on.
    fn advertise(&self, lifetime: u16) {
        self.lifetime.store(lifetime, Ordering::SeqCst);
        advertise(&self.sender, lifetime);
    }
}

fn icmp() -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(b"lan")).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let lan = nix::net::if_::if_nametoindex("lan").unwrap();
    socket.join_multicast_v6(&all_routers, lan).unwrap();
    socket
}

fn answer(socket: &Socket, lifetime: &AtomicU16) {
    let mut socket_to_read = socket;
    let mut buffer = [0; 1500];
    while let Ok(length) = socket_to_read.read(&mut buffer) {
        if buffer[..length].first() == ROUTER_SOLICITATION.first() {
            advertise(socket, lifetime.load(Ordering::SeqCst));
        }
    }
}

/// A router advertisement (RFC 4861 section 4.2) with nothing but the prefix.
fn advertise(socket: &Socket, lifetime: u16) {
    let option = Pref64 {
        prefix: "64:ff9b::".parse().unwrap(),
        length: 96,
        lifetime,
    };
    let head = [ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8];
    let times = [0; 8];
    let message = [&head[..], &times, &option.to_bytes()].concat();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = SocketAddrV6::new(all_nodes, 0, 0, 0);
    socket.send_to(&message, &to.into()).unwrap();
}
