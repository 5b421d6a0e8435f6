//! Alice at home, and a server outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use postern_lab::netns::{Ipv6, Topology, World};
use postern_lab::sim::Nat;
use serde_json::Value;
use tempfile::TempDir;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// How long another server may take to start.
const STARTING: Duration = Duration::from_secs(20);

/// The network of whoever runs the tests, in which nothing may be searched.
static MACHINE: OnceLock<PathBuf> = OnceLock::new();

/// Notes which network that is, before it is left.
pub(crate) fn remember_the_machines_network() {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    MACHINE.set(own).unwrap();
}

/// What `postern check` came to.
pub(crate) struct Checked {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Checked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

pub(crate) struct House {
    server: Option<Child>,
    coturn: Option<Child>,
    pub(crate) url: String,
    pub(crate) world: World,
    pub(crate) directory: TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        for program in [&mut self.server, &mut self.coturn].into_iter().flatten() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl House {
    /// Behind this router, with a server that has two addresses.
    pub(crate) fn behind(nat: Nat) -> Self {
        let mut house = Self::without_server(nat);
        let second = house.addresses()[1].clone();
        house.serve(&["--alternate-ip", &second]);
        house
    }

    pub(crate) fn without_server(nat: Nat) -> Self {
        let mut topology = Topology::two_homes(nat, Nat::default());
        topology.servers[0].addresses = 2;
        Self::of(&topology)
    }

    /// With IPv6 behind a firewall.
    pub(crate) fn with_ipv6() -> Self {
        let mut topology = Topology::two_homes(Nat::default(), Nat::default());
        topology.homes[0].ipv6 = Ipv6::Firewalled;
        Self::of(&topology)
    }

    fn of(topology: &Topology) -> Self {
        Self {
            server: None,
            coturn: None,
            url: "wss://45.45.1.2:8443/".to_owned(),
            world: World::build(topology).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The server's IPv4 addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let all = self.world.addresses("server").unwrap();
        let v4 = all.iter().filter(|address| address.is_ipv4());
        v4.map(ToString::to_string).collect()
    }

    /// The server's IPv6 address.
    pub(crate) fn ipv6_address(&self) -> String {
        let all = self.world.addresses("server").unwrap();
        let v6 = all.iter().find(|address| address.is_ipv6()).unwrap();
        v6.to_string()
    }

    /// Debian's STUN server on both addresses, and waits until it answers.
    pub(crate) fn run_coturn(&mut self) {
        let addresses = self.addresses();
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = self.world.command("server", "turnserver").unwrap();
        command
            .args([
                "-n",
                "-c",
                "/dev/null",
                "--no-cli",
                "--no-tls",
                "--no-dtls",
                "-S",
            ])
            .args(["-L", &addresses[0], "-L", &addresses[1]])
            .args(["-p", "3478", "--alt-listening-port", "3479"])
            .args(["--simple-log", "--log-file", &path("log")])
            .args(["--pidfile", &path("pid"), "--userdb", &path("users")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.coturn = Some(command.spawn().unwrap());
        let end = Instant::now() + STARTING;
        let probe = ["-p", "3478", &addresses[0]];
        while !self.answers("turnutils_stunclient", &probe) {
            assert!(Instant::now() < end, "coturn does not answer");
        }
    }

    fn answers(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = self.world.command("bob", "timeout").unwrap();
        let output = command.args(["1", program]).args(arguments).output();
        String::from_utf8_lossy(&output.unwrap().stdout).contains("reflexive")
    }

    /// What a browser shows of a page, as text, and a picture of it.
    pub(crate) fn browse(&self, page: &Path, picture: &Path) -> String {
        let url = format!("file://{}", page.display());
        let profile = self.directory.path().join("browser");
        let run = |what: &str| {
            let mut command = self.world.command("bob", "chromium").unwrap();
            let output = command
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--no-first-run",
                ])
                .arg(format!("--user-data-dir={}", profile.display()))
                .args([what, &url])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(&format!("--screenshot={}", picture.display()));
        run("--dump-dom")
    }

    /// Starts the server on its first address.
    pub(crate) fn serve(&mut self, arguments: &[&str]) {
        let first = self.addresses()[0].clone();
        let mut child = self
            .command("server", "server")
            .args(["--json", "--listen", &first])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        self.url = ready["url"].as_str().unwrap().to_owned();
        self.server = Some(child);
    }

    pub(crate) fn command(&self, host: &str, subcommand: &str) -> Command {
        let mut command = self.world.command(host, POSTERN).unwrap();
        command
            .arg(subcommand)
            .env("POSTERN_NETWORK_GUARD", MACHINE.get().unwrap())
            .env("HOME", self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env_remove("POSTERN_SERVER");
        command
    }

    /// Runs `postern check` on a host.
    pub(crate) fn check_on(&self, host: &str, arguments: &[&str]) -> Checked {
        let mut command = self.command(host, "check");
        let output = command
            .args(["--server", &self.url])
            .args(arguments)
            .output()
            .unwrap();
        Checked {
            code: output.status.code().unwrap(),
            text: String::from_utf8(output.stdout).unwrap(),
        }
    }

    /// The object that Alice is told.
    pub(crate) fn check(&self) -> Value {
        let checked = self.check_on("alice", &["--json"]);
        assert_eq!(checked.code, 0, "{}", checked.text);
        checked.json()
    }
}
