//! Two agents in a little internet, and a server between them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use postern_lab::netns::{Home, Ipv6, Program, Server, Topology, World};
use postern_lab::sim::Nat;
use serde_json::Value;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ice/peer.py");
/// Where scripts/setup puts it.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python");

const SERVER: &str = "45.45.1.2:3478";
const USER: &str = "user:pass";

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether there is a Python that has aioice.
pub(crate) enum Python {
    Works,
    /// It was installed, but cannot be used.
    Broken(String),
    Missing,
}

pub(crate) fn python() -> Python {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", INSTALLED);
    command.args(["-c", "import aioice"]).stdin(Stdio::null());
    let why = match command.output() {
        Ok(output) if output.status.success() => return Python::Works,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    match Path::new(INSTALLED).join("aioice").exists() {
        true => Python::Broken(why),
        false => Python::Missing,
    }
}

/// What the two agents are given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Means {
    pub(crate) stun: bool,
    pub(crate) turn: bool,
    pub(crate) components: u16,
    /// Whether names are told in place of addresses.
    pub(crate) mdns: bool,
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

    /// Both in one home, which may have IPv6.
    pub(crate) fn one_home(ipv6: Ipv6) -> Self {
        let home = Home {
            ipv6,
            ..Home::new("red", &["alice", "bob"], 1, Nat::default())
        };
        Self::of(&Topology {
            servers: vec![Server::new("server")],
            homes: vec![home],
            ..Topology::default()
        })
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

    /// An agent of ours on a node, and what it tells.
    pub(crate) fn start_ours(&self, node: &str, controlling: bool, means: Means) -> (Agent, Value) {
        Agent::told(self.ours_on(node, controlling, means))
    }

    /// One of the other make on `bob`, and what it tells.
    pub(crate) fn start_theirs(&self, controlling: bool, means: Means) -> (Agent, Value) {
        Agent::told(self.theirs(controlling, means))
    }

    fn ours(&self, controlling: bool, means: Means) -> (Command, u16) {
        self.ours_on("alice", controlling, means)
    }

    fn ours_on(&self, node: &str, controlling: bool, means: Means) -> (Command, u16) {
        let mut command = self.world.command(node, POSTERN).unwrap();
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
        let mut command = self.world.command("bob", "python3").unwrap();
        command.env("PYTHONPATH", INSTALLED).arg(PEER);
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
    if means.mdns {
        command.arg("--mdns");
    }
    command.args(["--components", &means.components.to_string()]);
    command
}

pub(crate) struct Agent {
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

    fn told(command: (Command, u16)) -> (Self, Value) {
        let mut agent = Self::new(command);
        let told = agent.event("local");
        (agent, told)
    }

    /// Tells it what it has to know.
    pub(crate) fn tell(&mut self, peer: &Value) {
        self.program.tell(&peer.to_string()).unwrap();
    }

    pub(crate) fn event(&mut self, name: &str) -> Value {
        let event = self.program.event(name, LIMIT);
        event.unwrap_or_else(|| panic!("no {name}: {}", self.program.complaints()))
    }
}
