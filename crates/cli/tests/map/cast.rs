//! The program against every gateway of the cast, over real sockets: what is right is the same
//! as in virtual time (`crates/lab/tests/gateways.rs`).

use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::gateway::{Expected, Fault, Killer, Role, Row, Served, personalities};
use postern_lab::netns::{Case, Home, Topology, World};
use postern_lab::sim::Nat;
use postern_wire::transport::Transport;
use serde_json::Value;
use tempfile::TempDir;

use crate::home::{POSTERN, remembering};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    every_gateway_of_the_cast_is_understood_over_real_sockets,
    no_fault_over_real_sockets_leaves_a_mapping_without_an_end,
];

/// How many stages there are at once: the program waits most of the time.
const STAGES: usize = 16;
/// For those who are late on a busy machine.
const LATE: Duration = Duration::from_millis(200);

type Rows = Vec<(Transport, u16, Row)>;

/// A host and a router on which gateways are played, in namespaces of their own.
struct Stage {
    world: World,
}

/// A gateway or two on a stage, and a user without a past.
struct Scene<'a> {
    stage: &'a Stage,
    gateways: Served,
    home: TempDir,
}

impl Stage {
    fn new() -> Self {
        let topology = Topology {
            homes: vec![Home::new("router", &["alice"], 1, Nat::default())],
            ..Topology::default()
        };
        let world = World::build(&topology).unwrap();
        // The second gateway of some.
        world
            .ip("router", "addr add 192.168.1.2/24 dev lan\n")
            .unwrap();
        Self { world }
    }

    fn play(&self, role: &Role) -> Scene<'_> {
        let gateways = role.gateways.clone();
        let served = self.world.run("router", || Served::start(gateways));
        Scene {
            stage: self,
            gateways: served.unwrap().unwrap(),
            home: tempfile::tempdir().unwrap(),
        }
    }
}

impl Scene<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = self.stage.world.command("alice", POSTERN).unwrap();
        command
            .arg("map")
            .args(line.split_whitespace())
            .arg("--json");
        remembering(&mut command, self.home.path());
        command
    }

    fn run(&self, line: &str) -> (Option<i32>, Vec<Value>) {
        let Output { stdout, status, .. } = self.command(line).output().unwrap();
        let text = String::from_utf8(stdout).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap();
        (status.code(), text.lines().map(parse).collect())
    }

    /// What is wrong with what the program makes of these gateways, if anything is.
    fn complaint(&self, expected: Expected) -> Option<String> {
        let (code, told) = self.run("add 4000 --external 4001 --lifetime 3600");
        let [object] = &told[..] else {
            return Some(format!("exit code {code:?}, {told:?}"));
        };
        let Expected::Mapped {
            protocol,
            gateway,
            port,
            lifetime,
            double_nat,
        } = expected
        else {
            return self.wrong_failure(expected, code, object);
        };
        let external = object["external_port"].as_u64().unwrap_or(0);
        let lasts = object["lifetime"].as_u64().unwrap_or(u64::MAX);
        let right = code == Some(0)
            && object["protocol"] == protocol.as_str()
            && object["gateway"] == gateway.to_string()
            && port.map_or(external != 4001, |port| u64::from(port) == external)
            && lasts.abs_diff(lifetime.into()) <= 2
            && object["double_nat"] == double_nat
            && object["verified"].is_null();
        if !right {
            return Some(format!("exit code {code:?}, {object}"));
        }
        self.wrong_life(external)
    }

    fn wrong_failure(&self, expected: Expected, code: Option<i32>, told: &Value) -> Option<String> {
        let Expected::Failed(why) = expected else {
            return Some("not expected".to_owned());
        };
        let right = code == Some(1)
            && told["error"]["message"] == why.to_string()
            && self.gateways.rows().is_empty();
        (!right).then(|| format!("exit code {code:?}, {told}"))
    }

    /// It stands, is listed, and goes.
    fn wrong_life(&self, external: u64) -> Option<String> {
        let rows = self.gateways.rows();
        if !matches!(&rows[..], [(Transport::Tcp, port, row)]
            if u64::from(*port) == external && row.internal_port == 4000)
        {
            return Some(format!("made {rows:?}"));
        }
        let (code, listed) = self.run("list");
        let ours = |object: &&Value| object["external_port"] == external;
        if code != Some(0) || listed.iter().find(ours).is_none() {
            return Some(format!("exit code {code:?}, listed {listed:?}"));
        }
        let (code, told) = self.run(&format!("delete {external} --protocol tcp"));
        let (rows, violations) = (self.gateways.rows(), self.gateways.violations());
        let right = code == Some(0) && rows.is_empty() && violations.is_empty();
        (!right).then(|| format!("exit code {code:?}, {told:?}, left {rows:?}, {violations:?}"))
    }

    /// A mapping and its end, with one fault; what is left, and whether there were as many
    /// messages.
    fn with_fault(&self, message: usize, fault: Fault) -> (Rows, bool) {
        let add = "add 4000 --external 4001 --lifetime 3600";
        let mut command = self.command(add);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // It asks as soon as it runs: the fault has to be there before.
        let victim = std::sync::Arc::new(Mutex::new(None));
        let killer: Killer = {
            let victim = std::sync::Arc::clone(&victim);
            Box::new(move || kill_it(&victim))
        };
        self.gateways.inject(message, fault, Some(killer));
        let mut program = {
            let mut victim = victim.lock().unwrap();
            let program = command.spawn().unwrap();
            *victim = Some(Pid::from_raw(program.id().try_into().unwrap()));
            program
        };
        let ended = program.wait().unwrap();
        // What the dead has sent may still be under way.
        if ended.code().is_none() {
            std::thread::sleep(LATE);
        }
        let happened = self.gateways.messages() > message;
        self.gateways.inject(usize::MAX, Fault::Drop, None);
        for (_, port, _) in self.gateways.rows() {
            self.run(&format!("delete {port} --protocol tcp"));
        }
        (self.gateways.rows(), happened)
    }
}

fn kill_it(victim: &Mutex<Option<Pid>>) {
    if let Some(pid) = *victim.lock().unwrap() {
        // It may have ended already.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Does something for every item, on several stages at once; what was said about any.
fn on_stages<T: Send>(
    items: Vec<T>,
    act: impl Fn(&Stage, &T) -> Option<String> + Sync,
) -> Vec<String> {
    let items = Mutex::new(items);
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..STAGES {
            scope.spawn(|| {
                let stage = Stage::new();
                loop {
                    let Some(item) = items.lock().unwrap().pop() else {
                        return;
                    };
                    let what = act(&stage, &item);
                    said.lock().unwrap().extend(what);
                }
            });
        }
    });
    said.into_inner().unwrap()
}

fn every_gateway_of_the_cast_is_understood_over_real_sockets() {
    let roles = personalities();
    assert!(roles.len() >= 40, "{}", roles.len());
    let wrong = on_stages(roles, |stage, role| {
        let scene = stage.play(role);
        let complaint = scene.complaint(role.expected);
        complaint.map(|complaint| format!("{}: {complaint}", role.name))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Those that differ in how a mapping is made.
const FAULTY: [&str; 5] = [
    "IGD 1",
    "IGD 2",
    "725: permanent leases only",
    "NAT-PMP alone, which answers PCP by version 0",
    "PCP alone, which answers NAT-PMP by version 2",
];

fn no_fault_over_real_sockets_leaves_a_mapping_without_an_end() {
    let cast = personalities();
    let roles = cast.iter().filter(|role| FAULTY.contains(&role.name));
    let faults = [Fault::Drop, Fault::Garbage, Fault::Kill];
    let roles: Vec<&Role> = roles.collect();
    assert_eq!(roles.len(), FAULTY.len());
    let stage = Stage::new();
    let mut plays = Vec::new();
    for role in roles {
        let scene = stage.play(role);
        scene.run("add 4000 --external 4001 --lifetime 3600");
        // A few more than it takes, for what is sent again.
        let messages = 0..scene.gateways.messages() + 4;
        let all = messages.flat_map(|message| faults.map(|fault| (role, message, fault)));
        plays.extend(all);
    }
    assert!(plays.len() > 200, "{} faults only", plays.len());
    let happened = Mutex::new(0);
    let wrong = on_stages(plays, |stage, (role, message, fault)| {
        let scene = stage.play(role);
        let (rows, is_reached) = scene.with_fault(*message, *fault);
        *happened.lock().unwrap() += usize::from(is_reached);
        let endless = rows.iter().any(|(_, _, row)| row.ends.is_none());
        let wrong = endless || rows.len() > 1;
        wrong.then(|| format!("{}: {fault:?} at {message}: {rows:?}", role.name))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let happened = *happened.lock().unwrap();
    assert!(happened > 150, "{happened} faults only");
}
