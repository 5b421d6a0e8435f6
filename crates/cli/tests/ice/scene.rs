//! Two agents in a little internet, and a server between them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use postern_lab::netns::{Program, Server, Topology, World};
use postern_lab::sim::Nat;
use serde_json::Value;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ice/peer.py");
/// Where scripts/setup puts it.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/aioice");

const SERVER: &str = "45.45.1.2:3478";
const USER: &str = "user:pass";

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A Python that has aioice.
pub(crate) enum Python {
    Works(PathBuf),
    /// It was installed, but cannot be used.
    Broken(String),
    Missing,
}

pub(crate) fn python() -> Python {
    let installed = PathBuf::from(INSTALLED).join("bin/python3");
    if installed.exists() {
        return match imports(&installed) {
            Ok(()) => Python::Works(installed),
            Err(why) => Python::Broken(why),
        };
    }
    let system = PathBuf::from("python3");
    match imports(&system) {
        Ok(()) => Python::Works(system),
        Err(_) => Python::Missing,
    }
}

fn imports(python: &PathBuf) -> Result<(), String> {
    let mut command = Command::new(python);
    command.args(["-c", "import aioice"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What the two agents are given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Means {
    pub(crate) stun: bool,
    pub(crate) turn: bool,
    pub(crate) components: u16,
}

/// Where the agents are: ours on `alice`, the other on `bob`.
pub(crate) struct Scene {
    world: World,
    _server: Program,
}

impl Scene {
    /// Both on the public internet.
    pub(crate) fn public() -> Self {
        Self::of(&Topology {
            servers: ["server", "alice", "bob"].map(Server::new).to_vec(),
            ..Topology::default()
        })
    }

    /// Both at home behind such routers.
    pub(crate) fn homes(nat: Nat) -> Self {
        Self::of(&Topology::two_homes(nat, nat))
    }

    fn of(topology: &Topology) -> Self {
        let world = World::build(topology).unwrap();
        let mut command = world.command("server", POSTERN).unwrap();
        command.args(["server", "--json", "--realm", "example.org"]);
        command.args(["--user", USER, "--listen", "45.45.1.2"]);
        let mut server = Program::start(command).unwrap();
        server.event("ready", LIMIT).unwrap();
        Self {
            world,
            _server: server,
        }
    }

    /// Lets the two meet; the pair that ours has selected for each component.
    pub(crate) fn meet(&self, we_control: bool, ours: Means, theirs: Means) -> Vec<Value> {
        let mut ours = Agent::new(self.ours(we_control, ours));
        let mut theirs = Agent::new(self.theirs(!we_control, theirs));
        let (us, them) = (ours.event("local"), theirs.event("local"));
        ours.program.tell(&them.to_string()).unwrap();
        theirs.program.tell(&us.to_string()).unwrap();
        theirs.event("connected");
        let components = 1..=u64::from(theirs.components);
        let mut pairs = Vec::new();
        for component in components {
            let echoed = theirs.event("echoed");
            assert_eq!(
                (&echoed["component"], &echoed["count"]),
                (&component.into(), &20.into())
            );
            pairs.push(ours.event("connected")["pair"].clone());
        }
        pairs.sort_by_key(|pair| pair["component"].as_u64());
        pairs
    }

    fn ours(&self, controlling: bool, means: Means) -> (Command, u16) {
        let mut command = self.world.command("alice", POSTERN).unwrap();
        command.args(["lab", "ice", "--json"]);
        command.arg(match controlling {
            true => "--controlling",
            false => "--controlled",
        });
        if means.turn {
            command.args(["--turn", &format!("turn:{SERVER}?transport=udp")]);
        }
        (with(command, means), means.components)
    }

    fn theirs(&self, controlling: bool, means: Means) -> (Command, u16) {
        let Python::Works(python) = python() else {
            panic!("aioice is gone");
        };
        let mut command = self.world.command("bob", python.to_str().unwrap()).unwrap();
        command.arg(PEER);
        if controlling {
            command.arg("--controlling");
        }
        if means.turn {
            command.args(["--turn", SERVER]);
        }
        (with(command, means), means.components)
    }
}

/// The options that both have.
fn with(mut command: Command, means: Means) -> Command {
    if means.stun {
        command.args(["--stun", SERVER]);
    }
    if means.turn {
        command.args(["--user", USER]);
    }
    command.args(["--components", &means.components.to_string()]);
    command
}

struct Agent {
    program: Program,
    components: u16,
}

impl Agent {
    fn new((command, components): (Command, u16)) -> Self {
        Self {
            program: Program::start(command).unwrap(),
            components,
        }
    }

    fn event(&mut self, name: &str) -> Value {
        let event = self.program.event(name, LIMIT);
        event.unwrap_or_else(|| panic!("no {name}: {}", self.program.complaints()))
    }
}
