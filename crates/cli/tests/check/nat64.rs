//! Routers that advertise the prefix of a NAT64 (RFC 8781), to a host whose resolver knows none.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use postern_lab::netns::{Case, Program, World};
use postern_wire::ndp::{Pref64, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::house::House;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    a_prefix_that_the_router_advertises_is_told,
    servers_of_ipv4_are_asked_through_the_nat64,
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

fn servers_of_ipv4_are_asked_through_the_nat64() {
    let mut house = House::with_ipv6();
    house.serve_with_both_addresses();
    house
        .world
        .ip("alice", "addr del 192.168.1.10/24 dev eth0\n")
        .unwrap();
    let _router = Router::of(&house.world);
    translate(&house.world);
    let told = house.check_on("alice", &["--json"]).json();
    assert_eq!(told["nat64"], "64:ff9b::/96", "{told}");
    let udp = &told["udp"];
    assert_eq!(udp["mapping"], "endpoint-independent", "{told}");
    // By the firewall of the router, and found by the server's second address.
    let filtering = "address-and-port-dependent";
    assert_eq!(udp["filtering"], filtering, "{told}");
    assert_eq!(told["reach"], "direct", "{told}");
    let mapped = udp["public"][0].as_str().unwrap();
    assert!(mapped.starts_with("45.45.2.2:"), "{told}");
}

/// Lets `red` carry UDP between its home and the server under the prefix: each socket inside has one
/// port outside.
fn translate(world: &World) {
    let addresses = world.addresses("server").unwrap();
    let servers: Vec<Ipv4Addr> = addresses.iter().filter_map(v4).collect();
    for server in servers.iter().copied() {
        let inside = synthesised(server);
        let add = format!("addr add {inside}/128 dev lan nodad\n");
        world.ip("red", &add).unwrap();
    }
    let bind = || {
        let ports = [3478, 3479];
        let all = servers
            .iter()
            .flat_map(|ip| ports.map(|port| SocketAddrV4::new(*ip, port)));
        let listen = |outside: SocketAddrV4| {
            let inside = (synthesised(*outside.ip()), outside.port());
            (outside, Arc::new(UdpSocket::bind(inside).unwrap()))
        };
        Arc::new(all.map(listen).collect::<Doors>())
    };
    let doors = world.run("red", bind).unwrap();
    let mapped = Arc::new(Mutex::new(BTreeMap::new()));
    for outside in doors.keys().copied() {
        let (doors, mapped) = (doors.clone(), mapped.clone());
        let thread = world.spawn("red", move || carry_out(outside, &doors, &mapped));
        thread.unwrap();
    }
}

/// The sockets that stand for the server's, by these.
type Doors = BTreeMap<SocketAddrV4, Arc<UdpSocket>>;
type Mapped = Mutex<BTreeMap<SocketAddr, Arc<UdpSocket>>>;

/// What comes for one of the server's sockets leaves from the port of who has sent it.
fn carry_out(outside: SocketAddrV4, doors: &Arc<Doors>, mapped: &Mapped) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = doors[&outside].recv_from(&mut buffer) {
        let port = mapped
            .lock()
            .unwrap()
            .entry(from)
            .or_insert_with(|| {
                let port = Arc::new(UdpSocket::bind("45.45.2.2:0").unwrap());
                let (doors, answered) = (doors.clone(), port.clone());
                thread::spawn(move || carry_in(&answered, from, &doors));
                port
            })
            .clone();
        let _ = port.send_to(&buffer[..length], outside);
    }
}

fn carry_in(port: &UdpSocket, inside: SocketAddr, doors: &Doors) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = port.recv_from(&mut buffer) {
        if let SocketAddr::V4(from) = from
            && let Some(door) = doors.get(&from)
        {
            let _ = door.send_to(&buffer[..length], inside);
        }
    }
}

fn synthesised(ip: Ipv4Addr) -> Ipv6Addr {
    let [.., high, low] = ip.to_ipv6_mapped().segments();
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
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
