//! turnutils_uclient against `postern server`.
//!
//! A client's exit code says nothing; what it prints at the end does. Its clients wait for
//! seconds more than they work, so those of one case run at the same time.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use postern_lab::netns::{Case, Program, Server, Topology, World, run_cases};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

const CLIENT: &str = "turnutils_uclient";
const PEER: &str = "turnutils_peer";

const SERVER_ADDRESS: &str = "45.45.1.2";
const PEER_ADDRESS: &str = "45.45.3.2";

/// Longer than a client takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(150);

/// Nothing was lost.
const ALL_ARRIVED: &str = "Total lost packets 0 (";

const CASES: &[Case] = &[
    Case {
        name: "data_arrives_over_every_transport",
        run: data_arrives_over_every_transport,
    },
    Case {
        name: "data_arrives_over_tcp_relays",
        run: data_arrives_over_tcp_relays,
    },
    Case {
        name: "clients_that_misbehave_do_not_disturb_others",
        run: clients_that_misbehave_do_not_disturb_others,
    },
    Case {
        name: "relays_reach_ipv6_peers",
        run: relays_reach_ipv6_peers,
    },
    Case {
        name: "peers_off_the_public_internet_are_forbidden",
        run: peers_off_the_public_internet_are_forbidden,
    },
    Case {
        name: "strangers_get_nothing",
        run: strangers_get_nothing,
    },
];

pub(crate) fn main() -> ExitCode {
    for program in [CLIENT, PEER] {
        if !is_installed(program) {
            let line = format!("\nskipped: ALL: {program} is not installed (scripts/setup)\n\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            return ExitCode::SUCCESS;
        }
    }
    run_cases(CASES)
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .map(|mut child| {
            let _ = child.kill();
            child.wait()
        })
        .is_ok()
}

fn data_arrives_over_every_transport() {
    let scene = Scene::new();
    scene.expect(
        ALL_ARRIVED,
        &[
            "-u user -w pass -c -e PEER -r 3480",
            "-u user -w pass -c -s -e PEER -r 3480",
            "-u user -w pass -c -y",
            "-u user -w pass -c -t -e PEER -r 3480",
            "-u user -w pass -c -t -S -p 5349 -e PEER -r 3480",
            "-u user -w pass -c -S -p 5349 -e PEER -r 3480",
            "-u user -w pass -c -t -S -p 8443 -e PEER -r 3480",
            "-u user -w pass -c -M -e PEER -r 3480",
            "-u joe -W s3cret -c -e PEER -r 3480",
        ],
    );
}

fn data_arrives_over_tcp_relays() {
    let scene = Scene::new();
    scene.expect(
        ALL_ARRIVED,
        &["-u user -w pass -T", "-u user -w pass -T -S -p 5349"],
    );
    drop(scene);
    // The client is its own peer at 127.0.0.1. The mark is the tool's own: half of what it
    // counts is never sent.
    let allowed = [
        "--allow-peer",
        "127.0.0.0/8",
        "--allow-peer",
        SERVER_ADDRESS,
    ];
    let scene = Scene::with("server", &allowed);
    scene.expect("Total lost packets 20 (50", &["-u user -w pass -P"]);
}

/// Those that send nonsense, or leave, sometimes wait for ever for what they spoilt, with
/// coturn's server as with this one.
fn clients_that_misbehave_do_not_disturb_others() {
    let scene = Scene::with("client", &["--unproven-rate", "0"]);
    let _bad = ["-R", "-N", "-B"].map(|way| scene.start(&format!("-u user -w pass {way} -c -y")));
    scene.expect(
        ALL_ARRIVED,
        &[
            "-u user -w pass -G -c -y",
            "-u user -w pass -c -e PEER -r 3480",
            "-u user -w pass -c -t -e PEER -r 3480",
        ],
    );
}

fn relays_reach_ipv6_peers() {
    let scene = Scene::new();
    let peer = scene.world.addresses("peer").unwrap();
    let peer = peer.iter().find(|ip| ip.is_ipv6()).unwrap();
    let six = format!("-u user -w pass -x -c -e {peer} -r 3480");
    scene.expect(ALL_ARRIVED, &[&six]);
}

fn peers_off_the_public_internet_are_forbidden() {
    let scene = Scene::new();
    scene.expect(
        "error 403",
        &[
            "-u user -w pass -c -e 127.0.0.1 -r 3480",
            "-u user -w pass -c -s -e 10.0.0.1 -r 3480",
            "-u user -w pass -c -e 45.45.1.2 -r 8443",
        ],
    );
}

fn strangers_get_nothing() {
    let scene = Scene::new();
    scene.expect(
        "Cannot complete Allocation",
        &[
            "-u user -w wrong -c -e PEER -r 3480",
            "-u joe -W wrong -c -e PEER -r 3480",
        ],
    );
}

/// A server, a client's host and a peer, all with public addresses.
struct Scene {
    _server: Program,
    _peer: Program,
    world: World,
    host: &'static str,
}

impl Scene {
    fn new() -> Self {
        Self::with("client", &[])
    }

    /// Clients run on this host, and the server has these options, too.
    fn with(host: &'static str, options: &[&str]) -> Self {
        let topology = Topology {
            servers: ["server", "client", "peer"].map(Server::new).to_vec(),
            ..Topology::default()
        };
        let world = World::build(&topology).unwrap();
        let mut command = serving(&world);
        command.args(options);
        let mut server = Program::start(command).unwrap();
        let ready = server.event("ready", LIMIT).unwrap();
        assert_eq!(ready["turn"][0], "turn:45.45.1.2:3478?transport=udp");
        Self {
            _server: server,
            _peer: Program::start(peer(&world)).unwrap(),
            world,
            host,
        }
    }

    /// Runs clients with these arguments, and waits until each has said `verdict`.
    fn expect(&self, verdict: &str, clients: &[&str]) {
        let start = |arguments| (arguments, self.start(arguments));
        let started: Vec<_> = clients.iter().copied().map(start).collect();
        for (arguments, mut client) in started {
            let said = hear(&mut client, verdict);
            assert!(said.contains(verdict), "{arguments} said:\n{said}");
        }
    }

    fn start(&self, arguments: &str) -> Program {
        let mut command = self.world.command(self.host, CLIENT).unwrap();
        let arguments = arguments.replace("PEER", PEER_ADDRESS);
        command.args(arguments.split(' '));
        command.args(["-n", "20", "-z", "5", SERVER_ADDRESS]);
        Program::start(command).unwrap()
    }
}

/// What a client says, until it has said `verdict` or has ended.
fn hear(client: &mut Program, verdict: &str) -> String {
    let mut said = String::new();
    while let Some(line) = client.line(LIMIT) {
        said = said + &line + "\n";
        if line.contains(verdict) {
            return said;
        }
    }
    said + &client.complaints()
}

fn serving(world: &World) -> Command {
    let mut command = world.command("server", POSTERN).unwrap();
    command.args(["server", "--json", "--realm", "example.org"]);
    command.args(["--user", "user:pass", "--turn-secret", "s3cret"]);
    for address in world.addresses("server").unwrap() {
        command.args(["--listen", &address.to_string()]);
    }
    command
}

fn peer(world: &World) -> Command {
    let mut command = world.command("peer", PEER).unwrap();
    for address in world.addresses("peer").unwrap() {
        command.args(["-L", &address.to_string()]);
    }
    command.args(["-p", "3480"]);
    command
}
