//! A home whose router runs miniupnpd, a host in it, and a server outside.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use postern_lab::netns::{Ipv6, Program, Topology, World};
use postern_lab::sim::Nat;
use serde_json::Value;
use tempfile::TempDir;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
/// How long the daemon may take to start.
const STARTING: Duration = Duration::from_secs(20);

/// The network of whoever runs the tests, in which nothing may be searched.
static MACHINE: OnceLock<PathBuf> = OnceLock::new();

/// Notes which network that is, before it is left.
pub(crate) fn remember_the_machines_network() {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    MACHINE.set(own).unwrap();
}

/// What the daemon puts its rules into, in place of the router's own translator and firewalls,
/// which would drop or translate first. The regular chains come first.
const RULES: &str = r#"
delete table ip nat
delete table ip firewall
delete table ip6 firewall
table inet filter {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "wan" accept
    jump miniupnpd
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    jump postrouting_miniupnpd
    meta nfproto ipv4 oifname "wan" masquerade
  }
}
"#;

pub(crate) struct Home {
    daemon: Option<Child>,
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
        home.world.nft("red", RULES).unwrap();
        home.start();
        home
    }

    /// The same, and it says that this is its address outside.
    pub(crate) fn with_router_that_says(external: IpAddr) -> Self {
        let mut home = Self::without_router();
        home.world.nft("red", RULES).unwrap();
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
            world: World::build(&topology).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
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
        let conf = format!(
            "ext_ip={}\next_ifname=wan\nlistening_ip=lan\nport=5000\nhttp_port=5000\n\
             enable_natpmp=yes\nenable_upnp=yes\nsecure_mode=yes\nsystem_uptime=yes\n\
             notify_interval=30\nclean_ruleset_interval=600\nuuid=11111111-2222-3333-4444-555555555555\n\
             force_igd_desc_v1=no\nlease_file={}\nupnp_table_name=filter\n\
             upnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\n\
             upnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             allow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            external,
            path("leases"),
        );
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
        command
            .arg("map")
            .args(arguments)
            .arg("--json")
            .env("POSTERN_NETWORK_GUARD", MACHINE.get().unwrap())
            .env("HOME", self.directory.path())
            .env_remove("XDG_STATE_HOME");
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
