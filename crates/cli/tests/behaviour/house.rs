//! A little internet in which `postern check` is run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use postern_lab::netns::{Server, Topology, World};
use postern_lab::sim::Link;
use serde_json::Value;
use tempfile::TempDir;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The network of whoever runs the tests, in which nothing may be searched.
static MACHINE: OnceLock<PathBuf> = OnceLock::new();

/// Notes which network that is, before it is left.
pub(crate) fn remember_the_machines_network() {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    MACHINE.set(own).unwrap();
}

/// Servers, routers and hosts.
pub(crate) struct House {
    servers: Vec<Child>,
    url: String,
    pub(crate) world: World,
    pub(crate) directory: TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl House {
    /// With a server at two addresses.
    pub(crate) fn new(topology: Topology) -> Self {
        let mut house = Self::without_server(topology);
        house.serve_two();
        house
    }

    fn serve_two(&mut self) {
        let second = self.addresses("server")[1].clone();
        self.serve("server", &["--alternate-ip", &second]);
    }

    /// The same, and the way to the server takes as long as one through a country.
    pub(crate) fn at_a_distance(topology: Topology) -> Self {
        let link = Link::with_latency(Duration::from_millis(30));
        let mut house = Self::build(topology, link);
        house.serve_two();
        house
    }

    pub(crate) fn without_server(topology: Topology) -> Self {
        Self::build(topology, Link::default())
    }

    fn build(mut topology: Topology, link: Link) -> Self {
        topology.servers = ["server", "other"]
            .map(|name| Server {
                addresses: 2,
                ..Server::new(name)
            })
            .to_vec();
        topology.servers[0].link = link;
        Self {
            servers: Vec::new(),
            url: String::new(),
            world: World::build(&topology).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A node's IPv4 addresses.
    pub(crate) fn addresses(&self, node: &str) -> Vec<String> {
        let all = self.world.addresses(node).unwrap();
        let v4 = all.iter().filter(|address| address.is_ipv4());
        v4.map(ToString::to_string).collect()
    }

    /// Starts a server on the first address of a host; the first one is the one that is asked.
    pub(crate) fn serve(&mut self, host: &str, arguments: &[&str]) {
        let first = self.addresses(host)[0].clone();
        let mut child = self
            .command(host, "server")
            .args(["--json", "--listen", &first])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        if self.servers.is_empty() {
            ready["url"].as_str().unwrap().clone_into(&mut self.url);
        }
        self.servers.push(child);
    }

    fn command(&self, host: &str, subcommand: &str) -> Command {
        let mut command = self.world.command(host, POSTERN).unwrap();
        command
            .arg(subcommand)
            .env("POSTERN_NETWORK_GUARD", MACHINE.get().unwrap())
            .env("HOME", self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env_remove("POSTERN_SERVER");
        command
    }

    /// The object that is told on a host.
    pub(crate) fn check_on(&self, host: &str, arguments: &[&str]) -> Value {
        let mut command = self.command(host, "check");
        let output = command
            .args(["--server", &self.url, "--json"])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(crate) fn check(&self) -> Value {
        self.check_on("alice", &[])
    }
}
