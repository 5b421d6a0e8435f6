//! Behind another router: what is opened here is opened there as well (`--upstream`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postern_lab::netns::{Case, Home, Program, Server, Topology, World, miniupnpd};
use postern_lab::sim::Nat;
use postern_wire::natpmp;
use postern_wire::pcp::{self, Operation, Options, ResultCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::house::{LIMIT, OUTSIDE, POSTERN, SERVER, Tcp, connect, map};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    what_is_mapped_behind_two_of_our_routers_is_reached_from_the_internet,
    what_is_mapped_behind_miniupnpd_is_reached_from_the_internet,
    a_port_that_the_next_router_has_given_away_is_another_one_here_too,
    without_a_router_that_answers_nothing_is_promised,
    another_address_of_the_next_router_is_told,
];

/// What PCP grants: address and port outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granted {
    Mapping(IpAddr, u16),
    Nothing(ResultCode),
}

/// The inner router from outside and inside, its host, and a neighbour of the inner router.
const INNER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 10);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 12);

/// A router behind a router, a host behind it, and a server on the internet. Programs are
/// dropped first: they live in the world.
struct Behind {
    inner: Option<Program>,
    outer: Option<Program>,
    miniupnpd: Option<Child>,
    /// Holds the namespace of the host until the cable is there.
    holder: Child,
    world: World,
    directory: TempDir,
}

impl Drop for Behind {
    fn drop(&mut self) {
        let children = [Some(&mut self.holder), self.miniupnpd.as_mut()];
        for child in children.into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Behind {
    /// Two routers and no gateway on either.
    fn new() -> Self {
        let hosts = ["inner", "host", "neighbour"];
        let topology = Topology {
            servers: vec![Server::new("server")],
            homes: vec![Home::new("router", &hosts, 1, Nat::default())],
            ..Topology::default()
        };
        let world = World::build(&topology).unwrap();
        let mut sleep = world.command("host", "sleep").unwrap();
        let holder = sleep.arg("600").spawn().unwrap();
        let behind = Self {
            inner: None,
            outer: None,
            miniupnpd: None,
            holder,
            world,
            directory: tempfile::tempdir().unwrap(),
        };
        behind.cable();
        behind
    }

    /// The host is moved from the outer network to one behind the inner router.
    fn cable(&self) {
        let id = self.holder.id();
        let ip = |node, batch: &str| self.world.ip(node, batch).unwrap();
        ip(
            "inner",
            &format!(
                "link add lan type veth peer name eth1 netns {id}\naddr add {ROUTER}/24 dev lan\nlink set lan up\n"
            ),
        );
        ip(
            "host",
            &format!(
                "link set eth0 down\naddr add {HOST}/24 dev eth1\nlink set eth1 up\nroute add default via {ROUTER}\n"
            ),
        );
        let mut sysctl = self.world.command("inner", "sysctl").unwrap();
        let output = sysctl.args(["-qw", "net.ipv4.ip_forward=1"]).output();
        assert!(output.unwrap().status.success());
        let masquerade = "table ip home {\n chain post {\n type nat hook postrouting priority 100\n \
                          oifname \"eth0\" masquerade\n }\n}\n";
        self.world.nft("inner", masquerade).unwrap();
    }

    /// With our gateway on the outer router.
    fn with_ours() -> Self {
        let mut behind = Self::new();
        let program = behind.start("router", &["--wan", "wan", "--lan", "lan"]);
        behind.outer = Some(program);
        behind
    }

    fn with_miniupnpd() -> Self {
        let mut behind = Self::new();
        behind.world.nft("router", miniupnpd::RULES).unwrap();
        let file = behind.path("miniupnpd.conf");
        std::fs::write(
            &file,
            miniupnpd::config([45, 45, 2, 2].into(), "system_uptime=no\n"),
        )
        .unwrap();
        let mut command = behind.world.command("router", "miniupnpd").unwrap();
        command.arg("-d").arg("-f").arg(file);
        command.arg("-P").arg(behind.path("miniupnpd.pid"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        behind.miniupnpd = Some(command.spawn().unwrap());
        behind
    }

    fn start_inner(&mut self) {
        let arguments = ["--wan", "eth0", "--lan", "lan", "--upstream"];
        self.inner = Some(self.start("inner", &arguments));
    }

    fn start(&self, node: &str, arguments: &[&str]) -> Program {
        let mut command = self.world.command(node, POSTERN).unwrap();
        command.env_remove("POSTERN_LOG").arg("gateway");
        command.args(arguments).arg("--json");
        command.arg("--socket").arg(self.path(node));
        let mut program = Program::start(command).unwrap();
        let ready = program.event("ready", LIMIT);
        assert!(ready.is_some(), "{}", program.complaints());
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What one of our gateways says of itself.
    fn ask(&self, node: &str, what: &str) -> Vec<Value> {
        let mut command: Command = self.world.command(node, POSTERN).unwrap();
        command.args(["gateway", what, "--json", "--socket"]);
        let output = command.arg(self.path(node)).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until the inner router knows the address of the outer one.
    fn wait_for_address(&self, address: Ipv4Addr) {
        let begin = Instant::now();
        loop {
            let status = self.ask("inner", "status").swap_remove(0);
            if status["upstream_address"] == address.to_string() {
                assert_eq!(status["external_address"], INNER.to_string());
                assert_eq!(status["double_nat"], false);
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{status}");
        }
    }

    /// A PCP request to a router, and what it grants: address and port outside.
    fn pcp(
        &self,
        (node, client, router): (&str, Ipv4Addr, Ipv4Addr),
        port: u16,
        lifetime: u32,
    ) -> Granted {
        let request = pcp::Request {
            lifetime,
            client: client.into(),
            operation: Operation::Map(map(Tcp, 4000, port)),
            options: Options::default(),
        };
        let socket = self.world.udp(node, (client, 0).into()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
            .send_to(&request.to_bytes(), (router, pcp::GATEWAY_PORT))
            .unwrap();
        let mut buffer = [0; pcp::MAX_LEN];
        let length = socket.recv(&mut buffer).unwrap();
        let response = pcp::Response::parse(&buffer[..length]).unwrap();
        match (response.result, response.operation) {
            (ResultCode::SUCCESS, Some(Operation::Map(map))) => {
                let address = map.external_address.to_canonical();
                Granted::Mapping(address, map.external_port)
            }
            (code, _) => Granted::Nothing(code),
        }
    }

    fn ask_inner(&self, port: u16, lifetime: u32) -> Granted {
        self.pcp(("host", HOST, ROUTER), port, lifetime)
    }

    /// Whether a connection from the internet arrives at the host's port 4000.
    fn is_reached(&self, at: Ipv4Addr, port: u16) -> bool {
        let listen = || TcpListener::bind((HOST, 4000)).unwrap();
        let listener = self.world.run("host", listen).unwrap();
        let to = SocketAddr::from((at, port));
        let connect = || connect(SERVER.into(), to);
        let connected = self.world.run("server", connect).unwrap().is_ok();
        listener.set_nonblocking(true).unwrap();
        connected && listener.accept().is_ok()
    }

    fn is_reached_in_the_end(&self, at: Ipv4Addr, port: u16, expected: bool) {
        let begin = Instant::now();
        while self.is_reached(at, port) != expected {
            assert!(begin.elapsed() < LIMIT, "{at}:{port} is not {expected}");
        }
    }
}

fn what_is_mapped_behind_two_of_our_routers_is_reached_from_the_internet() {
    let mut behind = Behind::with_ours();
    behind.start_inner();
    is_reached_from_the_internet(&behind);
    // What the inner router has no use for, the outer one does not keep.
    assert_eq!(behind.ask("router", "list").len(), 1);
    behind.inner = None;
}

fn what_is_mapped_behind_miniupnpd_is_reached_from_the_internet() {
    let mut behind = Behind::with_miniupnpd();
    behind.start_inner();
    is_reached_from_the_internet(&behind);
}

/// And leaves one mapping of port 4002.
fn is_reached_from_the_internet(behind: &Behind) {
    behind.wait_for_address(OUTSIDE);
    assert!(!behind.is_reached(OUTSIDE, 4001));
    assert_eq!(
        behind.ask_inner(4001, 600),
        Granted::Mapping(OUTSIDE.into(), 4001)
    );
    assert!(behind.is_reached(OUTSIDE, 4001));
    assert_eq!(
        behind.ask_inner(4001, 600),
        Granted::Mapping(OUTSIDE.into(), 4001)
    );
    assert!(matches!(behind.ask_inner(4001, 0), Granted::Mapping(..)));
    behind.is_reached_in_the_end(OUTSIDE, 4001, false);

    // UPnP and NAT-PMP say the same.
    let upnpc = |arguments: &str| {
        let mut command = behind.world.command("host", "upnpc").unwrap();
        let url = "-u http://192.168.7.1:5000/rootDesc.xml";
        command.args(url.split(' ').chain(arguments.split(' ')));
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = upnpc("-a 192.168.7.10 4000 4002 tcp 600");
    assert!(said.contains(&format!("external {OUTSIDE}:4002")), "{said}");
    assert!(behind.is_reached(OUTSIDE, 4002));
    assert_eq!(behind.natpmp_address().0, OUTSIDE);
}

impl Behind {
    /// The outside address that the inner router tells by NAT-PMP, and the epoch.
    fn natpmp_address(&self) -> (Ipv4Addr, u32) {
        let socket = self.world.udp("host", (HOST, 0).into()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let request = natpmp::Request::ExternalAddress.to_bytes();
        socket
            .send_to(&request, (ROUTER, natpmp::GATEWAY_PORT))
            .unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        let response = natpmp::Response::parse(&buffer[..length]).unwrap();
        match response.outcome {
            Ok(natpmp::Answer::ExternalAddress(address)) => (address, response.epoch),
            other => panic!("{other:?}"),
        }
    }
}

fn a_port_that_the_next_router_has_given_away_is_another_one_here_too() {
    let mut behind = Behind::with_ours();
    let neighbour = ("neighbour", NEIGHBOUR, Ipv4Addr::new(192, 168, 1, 1));
    assert_eq!(
        behind.pcp(neighbour, 4001, 600),
        Granted::Mapping(OUTSIDE.into(), 4001)
    );
    behind.start_inner();
    behind.wait_for_address(OUTSIDE);
    let mut command = behind.world.command("host", "upnpc").unwrap();
    let words = "-u http://192.168.7.1:5000/rootDesc.xml -a 192.168.7.10 4000 4001 tcp 600";
    let output = command.args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("718"), "{said}");
    let Granted::Mapping(address, port) = behind.ask_inner(4001, 600) else {
        panic!("nothing")
    };
    assert_eq!(address, OUTSIDE);
    assert_ne!(port, 4001);
    assert!(behind.is_reached(OUTSIDE, port));
    // One of the neighbour, one of ours: what was tried in vain is gone.
    assert_eq!(behind.ask("router", "list").len(), 2);
    assert_eq!(behind.ask("inner", "list").len(), 1);
}

fn without_a_router_that_answers_nothing_is_promised() {
    let mut behind = Behind::new();
    behind.start_inner();
    let refused = behind.ask_inner(4001, 600);
    assert_eq!(refused, Granted::Nothing(ResultCode::NO_RESOURCES));
    assert_eq!(behind.ask("inner", "list"), Vec::<Value>::new());
    let status = behind.ask("inner", "status").swap_remove(0);
    assert_eq!(status["double_nat"], true);
    assert_eq!(status["upstream_address"], json!(null));
}

fn another_address_of_the_next_router_is_told() {
    let mut behind = Behind::with_ours();
    behind.start_inner();
    behind.wait_for_address(OUTSIDE);
    let granted = behind.ask_inner(4001, 600);
    assert_eq!(granted, Granted::Mapping(OUTSIDE.into(), 4001));
    let another = Ipv4Addr::new(45, 45, 2, 9);
    let change = format!(
        "addr del {OUTSIDE}/24 dev wan\naddr add {another}/24 dev wan\n\
         route replace default via 45.45.2.1\n"
    );
    behind.world.ip("router", &change).unwrap();
    let begin = Instant::now();
    // Clients of a router that has begun anew wait a while, so that not all ask at once.
    let epoch = loop {
        match behind.natpmp_address() {
            (address, epoch) if address == another => break epoch,
            _ => assert!(begin.elapsed() < LIMIT),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(epoch <= 1, "{epoch}");
    behind.is_reached_in_the_end(another, 4001, true);
}
