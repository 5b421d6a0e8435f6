//! What all cases need: a world, a server's peers and clients, and what they say.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use postern_lab::netns::{Program, Server, Topology, World};

pub(crate) const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

const CLIENT: &str = "turnutils_uclient";
const PEER: &str = "turnutils_peer";
pub(crate) const STUN_CLIENT: &str = "turnutils_stunclient";
pub(crate) const DISCOVERY: &str = "turnutils_natdiscovery";

pub(crate) const SERVER_ADDRESS: &str = "45.45.1.2";
const PEER_ADDRESS: &str = "45.45.3.2";

/// Longer than a client takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);

/// Nothing was lost.
pub(crate) const ALL_ARRIVED: &str = "Total lost packets 0 (";

/// Whether coturn's programs are there; says so if not.
pub(crate) fn can_run() -> bool {
    for program in [CLIENT, PEER, STUN_CLIENT, DISCOVERY] {
        if !is_installed(program) {
            let line = format!("\nskipped: ALL: {program} is not installed (scripts/setup)\n\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            return false;
        }
    }
    true
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

/// Starts coturn's client on a host.
pub(crate) fn client(world: &World, host: &str, arguments: &str) -> Program {
    let mut command = world.command(host, CLIENT).unwrap();
    let arguments = arguments.replace("PEER", PEER_ADDRESS);
    command.args(arguments.split(' ')).arg(SERVER_ADDRESS);
    Program::start(command).unwrap()
}

/// What a client says, until it has said `verdict` or has ended.
pub(crate) fn hear(client: &mut Program, verdict: &str) -> String {
    hear_for(client, verdict, LIMIT)
}

/// The same, but no longer than it is not silent for so long.
pub(crate) fn hear_for(client: &mut Program, verdict: &str, patience: Duration) -> String {
    let mut said = String::new();
    while let Some(line) = client.line(patience) {
        said = said + &line + "\n";
        if line.contains(verdict) {
            return said;
        }
    }
    said + &client.complaints()
}

/// A server with so many IPv4 addresses, a client's host and a peer.
pub(crate) fn world(addresses: u8) -> World {
    let mut servers = ["server", "client", "peer"].map(Server::new).to_vec();
    servers[0].addresses = addresses;
    let topology = Topology {
        servers,
        ..Topology::default()
    };
    World::build(&topology).unwrap()
}

/// Echoes what it gets, at port 3480.
pub(crate) fn peer(world: &World) -> Command {
    let mut command = world.command("peer", PEER).unwrap();
    for address in world.addresses("peer").unwrap() {
        command.args(["-L", &address.to_string()]);
    }
    command.args(["-p", "3480"]);
    command
}
