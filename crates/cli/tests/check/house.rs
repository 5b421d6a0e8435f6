//! Alice at home, and a server outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns::{Home, Ipv6, Server, Topology, World, miniupnpd};
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
    /// Runs a command and takes what it says.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap(),
            text: String::from_utf8(output.stdout).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// The firewall of a router that runs miniupnpd: strangers do not reach the router itself.
const OWN_FIREWALL: &str = r#"table inet own {
  chain input {
    type filter hook input priority 0; policy accept;
    iifname "wan" ct state new drop
  }
}
"#;

pub(crate) struct House {
    server: Option<Child>,
    /// Programs besides.
    others: Vec<Child>,
    pub(crate) url: String,
    pub(crate) world: World,
    pub(crate) directory: TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        for program in self.server.iter_mut().chain(&mut self.others) {
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
        topology.servers[0].addresses = 2;
        topology.homes[0].ipv6 = Ipv6::Firewalled;
        Self::of(&topology)
    }

    /// Behind two routers: `red`, in which Alice is, and `outer`.
    pub(crate) fn behind_another() -> Self {
        let outer = Home::new("outer", &["bob"], 9, Nat::default());
        let mut inner = Home::new("red", &["alice"], 1, Nat::default());
        inner.behind = Some("outer".to_owned());
        let mut server = Server::new("server");
        server.addresses = 2;
        Self::of(&Topology {
            servers: vec![server],
            homes: vec![outer, inner],
            ..Topology::default()
        })
    }

    fn of(topology: &Topology) -> Self {
        Self {
            server: None,
            others: Vec::new(),
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
        self.others.push(command.spawn().unwrap());
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
        let mut command = self.command("server", "server");
        command.args(["--json", "--listen", &first]).args(arguments);
        let (child, ready) = start(&mut command);
        self.url = ready["url"].as_str().unwrap().to_owned();
        self.server = Some(child);
    }

    /// With both addresses, and a relay.
    pub(crate) fn serve_with_both_addresses(&mut self) {
        let second = self.addresses()[1].clone();
        self.serve(&["--relay", "--alternate-ip", &second]);
    }

    /// On the first address of each family, with a relay.
    pub(crate) fn serve_over_both(&mut self) {
        let (v6, second) = (self.ipv6_address(), self.addresses()[1].clone());
        self.serve(&["--relay", "--listen", &v6, "--alternate-ip", &second]);
    }

    /// Another server with a certificate of its own, that nobody's URL names.
    pub(crate) fn serve_stranger(&mut self, address: &str) {
        let mut command = self.command("server", "server");
        command.args(["--json", "--listen", address, "--stun-port", "4478"]);
        command.env("HOME", self.directory.path().join("stranger"));
        command.env("XDG_CONFIG_HOME", self.directory.path().join("stranger"));
        let (child, _) = start(&mut command);
        self.others.push(child);
    }

    /// In place of the server, one with a certificate that is good in these years, and that says
    /// this date, or the right one. The file with the authority that vouches for it.
    pub(crate) fn serve_with_clock(&mut self, years: Range<i32>, date: &str) -> PathBuf {
        let address = self.addresses()[0].clone();
        let path = |name: &str| self.directory.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![address.clone()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(path("authority.pem"), issuer.pem()).unwrap();
        fs::write(path("certificate.pem"), certificate.pem()).unwrap();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check/clock.py");
        let mut command = self.world.command("server", "python3").unwrap();
        command
            .args([program, &address])
            .args([path("certificate.pem"), path("key.pem")])
            .arg(date)
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.others.push(child);
        path("authority.pem")
    }

    pub(crate) fn stop_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Our gateway on a router.
    pub(crate) fn run_gateway(&mut self, router: &str) {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = self.command(router, "gateway");
        command
            .args(["--wan", "wan", "--lan", "lan", "--json", "--state"])
            .arg(path("gateway"))
            .arg("--socket")
            .arg(path("gateway.sock"));
        fs::create_dir_all(path("gateway")).unwrap();
        let (child, ready) = start(&mut command);
        assert_eq!(ready["event"], "ready", "{ready}");
        self.others.push(child);
    }

    /// miniupnpd on Alice's router, and waits until it answers.
    pub(crate) fn run_miniupnpd(&mut self) {
        for rules in [miniupnpd::RULES_ALONE, OWN_FIREWALL] {
            self.world.nft("red", rules).unwrap();
        }
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let external = self.world.ipv4("red").unwrap();
        let leases = format!("lease_file={}\n", path("leases"));
        let conf = miniupnpd::config(external.into(), &leases);
        fs::write(path("leases"), "").unwrap();
        fs::write(path("conf"), conf).unwrap();
        let mut command = self.world.command("red", "miniupnpd").unwrap();
        command
            .args(["-d", "-f", &path("conf"), "-P", &path("pid")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.others.push(command.spawn().unwrap());
        let end = Instant::now() + STARTING;
        let external = |house: &Self| {
            let mut command = house.command("alice", "map");
            let output = command.args(["external", "--json"]).output().unwrap();
            output.status.success()
        };
        while !external(self) {
            assert!(Instant::now() < end, "miniupnpd does not answer");
        }
    }

    /// A resolver on a router that knows no name but the one of RFC 7050, for ever.
    pub(crate) fn run_dns(&self, router: &str) {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53));
        let socket = self.world.run(router, bind).unwrap().unwrap();
        let answer = move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&dns_answer(&buffer[..length]), from);
            }
        };
        self.world.spawn(router, answer).unwrap();
    }

    /// Runs `postern check` on Alice's machine with this resolver, in a mount namespace of its own.
    pub(crate) fn check_with_dns(&self, resolver: &str, arguments: &[&str]) -> Checked {
        let file = self.directory.path().join(format!("resolv-{resolver}"));
        fs::write(&file, format!("nameserver {resolver}\n")).unwrap();
        let like = self.command("alice", "check");
        let mut command = self.world.command("alice", "unshare").unwrap();
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(&file);
        command.arg(POSTERN).arg("check").args(arguments);
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Checked::of(&mut command)
    }

    pub(crate) fn command(&self, host: &str, subcommand: &str) -> Command {
        let mut command = self.world.command(host, POSTERN).unwrap();
        command
            .arg(subcommand)
            .env("POSTERN_NETWORK_GUARD", MACHINE.get().unwrap())
            .env("HOME", self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("POSTERN_SERVER");
        for proxy in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs `postern check` on a host.
    pub(crate) fn check_on(&self, host: &str, arguments: &[&str]) -> Checked {
        let mut command = self.command(host, "check");
        Checked::of(command.args(["--server", &self.url]).args(arguments))
    }

    /// The object that Alice is told.
    pub(crate) fn check(&self) -> Value {
        let checked = self.check_on("alice", &["--json"]);
        assert_eq!(checked.code, 0, "{}", checked.text);
        checked.json()
    }
}

/// Starts one of our programs, and waits for its first line.
fn start(command: &mut Command) -> (Child, Value) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

/// What a resolver with DNS64 says (RFC 6147): the two addresses of `ipv4only.arpa` behind the
/// well-known prefix, and of any other name that there is none.
fn dns_answer(question: &[u8]) -> Vec<u8> {
    const AAAA: [u8; 2] = [0, 28];
    let end = question[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let known = question[12..].starts_with(b"\x08ipv4only\x04arpa\x00");
    let is_aaaa = question[end..].starts_with(&AAAA);
    let count = if known && is_aaaa { 2 } else { 0 };
    let code = if known { 0x80 } else { 0x83 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[12..end + 4]);
    for last in (170..).take(count.into()) {
        answer.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
        answer.extend([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 0, last]);
    }
    answer
}

/// Three at a time: a check waits more than it works.
pub(crate) fn each<T: Sync>(rows: &[T], run: impl Fn(&T) + Sync) {
    for some in rows.chunks(3) {
        thread::scope(|scope| {
            for row in some {
                scope.spawn(|| run(row));
            }
        });
    }
}
