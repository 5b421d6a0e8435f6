//! A home whose router runs miniupnpd, a host in it, and a server outside.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use postern_lab::netns::{Ipv6, Program, Topology, World, miniupnpd};
use postern_lab::sim::Nat;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
/// How long the daemon may take to start.
const STARTING: Duration = Duration::from_secs(20);

/// Lets in over IPv6 what the gateway has marked, as docs/gateway.md says.
const KNOW_THE_MARK: &str =
    "insert rule ip6 firewall forw meta mark & 0x01000000 == 0x01000000 accept\n";

pub(crate) struct Home {
    daemon: Option<Child>,
    gateway: Option<Program>,
    pub(crate) world: World,
    directory: TempDir,
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Home {
    /// With miniupnpd on the router.
    pub(crate) fn with_router() -> Self {
        let mut home = Self::without_router();
        home.world.nft("red", miniupnpd::RULES_ALONE).unwrap();
        home.start();
        home
    }

    /// The same, and it says that this is its address outside.
    pub(crate) fn with_router_that_says(external: IpAddr) -> Self {
        let mut home = Self::without_router();
        home.world.nft("red", miniupnpd::RULES_ALONE).unwrap();
        home.start_as(external);
        home
    }

    /// `postern server` outside, over both families, and its URL.
    pub(crate) fn serve(&self, more: &[&str]) -> (Program, String) {
        let mut command = self.world.command("server", POSTERN).unwrap();
        command.arg("server").args(more).arg("--json");
        for address in self.world.addresses("server").unwrap() {
            command.args(["--listen", &address.to_string()]);
        }
        let mut server = Program::start(command).unwrap();
        let ready = server.event("ready", STARTING);
        let ready = ready.unwrap_or_else(|| panic!("{}", server.complaints()));
        let url = ready["url"].as_str().unwrap().to_owned();
        (server, url)
    }

    /// With a router that maps nothing.
    pub(crate) fn without_router() -> Self {
        let mut topology = Topology::two_homes(Nat::default(), Nat::default());
        for home in &mut topology.homes {
            home.ipv6 = Ipv6::Firewalled;
        }
        Self {
            daemon: None,
            gateway: None,
            world: World::build(&topology).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// With our own gateway on the router.
    pub(crate) fn with_our_gateway() -> Self {
        let mut home = Self::without_router();
        home.world.nft("red", KNOW_THE_MARK).unwrap();
        home.start_our_gateway();
        home
    }

    fn start_our_gateway(&mut self) {
        let mut command = self.world.command("red", POSTERN).unwrap();
        let state = self.directory.path().join("gateway");
        fs::create_dir_all(&state).unwrap();
        command
            .args(["gateway", "--wan", "wan", "--lan", "lan", "--json"])
            .arg("--state")
            .arg(state)
            .arg("--socket")
            .arg(self.socket());
        let mut gateway = Program::start(command).unwrap();
        let ready = gateway.event("ready", STARTING);
        assert!(ready.is_some(), "not ready: {}", gateway.complaints());
        self.gateway = Some(gateway);
    }

    /// Takes the power of our gateway, its leases and its rules, and starts it again.
    pub(crate) fn restart_our_gateway_empty(&mut self) {
        self.gateway.take().unwrap().kill().unwrap();
        fs::remove_dir_all(self.directory.path().join("gateway")).unwrap();
        self.world
            .nft(
                "red",
                "delete table inet postern
",
            )
            .unwrap();
        self.start_our_gateway();
    }

    /// The leases of our gateway, as its operator sees them.
    pub(crate) fn leases(&self) -> Vec<Value> {
        let mut command = self.world.command("red", POSTERN).unwrap();
        command.args(["gateway", "list", "--json", "--socket"]);
        let output = command.arg(self.socket()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap();
        text.lines().map(parse).collect()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("gateway.sock")
    }

    /// The router's address outside.
    pub(crate) fn wan(&self) -> IpAddr {
        self.world.ipv4("red").unwrap().into()
    }

    fn start(&mut self) {
        self.start_as(self.wan());
    }

    fn start_as(&mut self, external: IpAddr) {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let more = format!(
            "lease_file={}\nsystem_uptime=yes\nclean_ruleset_interval=600\nforce_igd_desc_v1=no\n",
            path("leases")
        );
        let conf = miniupnpd::config(external, &more);
        fs::write(path("leases"), "").unwrap();
        fs::write(path("conf"), conf).unwrap();
        let mut command = self.world.command("red", "miniupnpd").unwrap();
        command
            .args(["-d", "-f", &path("conf"), "-P", &path("pid")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
        let end = Instant::now() + STARTING;
        while self.map(&["external"]).status.code() != Some(0) {
            assert!(Instant::now() < end, "miniupnpd does not answer");
        }
    }

    /// `postern map` on Alice's machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command("alice", POSTERN).unwrap();
        command.arg("map").args(arguments).arg("--json");
        remembering(&mut command, self.directory.path());
        command
    }

    pub(crate) fn map(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The objects that it prints when it succeeds.
    pub(crate) fn told(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.map(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text} {stderr}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The kind of its error.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.map(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        told["error"]["kind"].as_str().unwrap().to_owned()
    }

    /// Whether a connection from the server to this address reaches a listener of Alice's.
    pub(crate) fn tcp_arrives(&self, outside: SocketAddr, port: u16) -> bool {
        let inside: SocketAddr = (any(outside), port).into();
        let listener = self
            .world
            .run("alice", || TcpListener::bind(inside))
            .unwrap()
            .unwrap();
        let word = self.world.run("server", move || {
            let mut stream = TcpStream::connect_timeout(&outside, Duration::from_secs(2))?;
            stream.write_all(b"knock")
        });
        if word.unwrap().is_err() {
            return false;
        }
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text == "knock"
    }
}

impl Home {
    /// Whether a datagram from the server to this address reaches a socket of Alice's.
    pub(crate) fn udp_arrives(&self, outside: SocketAddr, port: u16) -> bool {
        let inside: SocketAddr = (any(outside), port).into();
        let bind = move |address| UdpSocket::bind(address);
        let socket = self.world.run("alice", move || bind(inside));
        let socket = socket.unwrap().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let sender = self.world.run("server", move || bind(any_port(outside)));
        let sender = sender.unwrap().unwrap();
        sender.send_to(b"knock", outside).unwrap();
        let mut buffer = [0; 16];
        socket
            .recv(&mut buffer)
            .is_ok_and(|length| buffer.get(..length) == Some(&b"knock"[..]))
    }
}

/// Lets a program remember things in this directory. That it searches in namespaces only is
/// the harness's care.
pub(crate) fn remembering(command: &mut Command, directory: &Path) {
    command.env("HOME", directory).env_remove("XDG_STATE_HOME");
}

fn any_port(like: SocketAddr) -> SocketAddr {
    (any(like), 0).into()
}

fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}
