//! The servers under load. Each listens on loopback, and ends when it is dropped.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_lab::netns::Program;
use serde_json::Value;

use crate::client::{PASSWORD, USER};
use crate::limit;
use crate::load;
use crate::process;

/// Every server is up sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `postern server`.
    Postern,
    /// coturn's turnserver.
    Coturn,
    /// A bare loop.
    Limit(limit::Kind),
}

/// What servers are started from.
#[derive(Debug)]
pub struct Programs {
    postern: PathBuf,
    directory: tempfile::TempDir,
}

impl Programs {
    /// With this program `postern`.
    pub fn new(postern: &Path) -> Result<Self> {
        Ok(Self {
            postern: postern.to_owned(),
            directory: tempfile::tempdir()?,
        })
    }

    /// Starts a server, and waits until it is up.
    pub fn start(&self, subject: Subject) -> Result<Server> {
        match subject {
            Subject::Postern => self.postern(),
            Subject::Coturn => self.coturn(),
            Subject::Limit(kind) => bare(kind),
        }
    }

    /// With the limits off that would stop a load from one address.
    fn postern(&self) -> Result<Server> {
        let mut command = Command::new(&self.postern);
        command.args(["server", "--listen", "127.0.0.1", "--json"]);
        command.args(["--port", "0", "--stun-port", "0", "--tls-port", "0"]);
        command.args(["--user", &format!("{USER}:{PASSWORD}")]);
        command.args([
            "--allow-peer",
            "127.0.0.0/8",
            "--relay-ports",
            "10000-19999",
        ]);
        command.args(["--unproven-rate", "0", "--quota-address", "0"]);
        let mut program = process::start(command)?;
        let Some(ready) = program.event("ready", PATIENCE) else {
            bail!("postern is not ready: {}", program.complaints());
        };
        Ok(Server {
            udp: address(&ready, "udp")?,
            tcp: address(&ready, "tcp")?,
            limit: None,
            program: Some(program),
        })
    }

    fn coturn(&self) -> Result<Server> {
        let port = free_port()?;
        let own = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new("turnserver");
        command.args([
            "-n",
            "-c",
            "/dev/null",
            "-L",
            "127.0.0.1",
            "-E",
            "127.0.0.1",
        ]);
        command.args(["-p", &port.to_string(), "-r", "example.org"]);
        command.args(["--lt-cred-mech", "-u", &format!("{USER}:{PASSWORD}")]);
        command.args([
            "--allow-loopback-peers",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
        ]);
        command.args([
            "--min-port",
            "20000",
            "--max-port",
            "29999",
            "--no-stdout-log",
        ]);
        command.args(["--simple-log", "--log-file", &own("log")]);
        command.args(["--pidfile", &own("pid"), "--userdb", &own("users")]);
        let mut program = process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let begin = Instant::now();
        while !load::answers(address)? {
            let ended = program.end(Duration::ZERO)?;
            ensure!(ended.is_none(), "coturn ended: {}", program.complaints());
            ensure!(begin.elapsed() < PATIENCE, "coturn does not answer");
        }
        Ok(Server {
            udp: address,
            tcp: address,
            limit: None,
            program: Some(program),
        })
    }
}

/// Whether coturn is installed, and which.
#[must_use]
pub fn coturn_version() -> Option<String> {
    let output = Command::new("turnserver").arg("--version").output();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(_) => Some("of unknown version".to_owned()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn bare(kind: limit::Kind) -> Result<Server> {
    let mut program = process::start(limit::command(kind)?)?;
    let line = program.line(PATIENCE).context("the limit is not ready")?;
    Ok(Server {
        program: Some(program),
        ..Server::limit_at(line.parse()?, kind)
    })
}

fn free_port() -> Result<u16> {
    loop {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

/// The address in the URI for this transport, `turn:IP:PORT?transport=…`.
fn address(ready: &Value, transport: &str) -> Result<SocketAddr> {
    let uris = ready["turn"].as_array().context("no relay")?;
    let uri = uris.iter().filter_map(Value::as_str).find_map(|uri| {
        let (address, query) = uri.strip_prefix("turn:")?.split_once('?')?;
        (query == format!("transport={transport}")).then_some(address)
    });
    Ok(uri.context("no such transport")?.parse()?)
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    udp: SocketAddr,
    tcp: SocketAddr,
    limit: Option<limit::Kind>,
    program: Option<Program>,
}

impl Server {
    /// A limit that somebody else has started.
    #[must_use]
    pub const fn limit_at(address: SocketAddr, kind: limit::Kind) -> Self {
        Self {
            udp: address,
            tcp: address,
            limit: Some(kind),
            program: None,
        }
    }

    /// Where it listens on UDP.
    #[must_use]
    pub const fn udp(&self) -> SocketAddr {
        self.udp
    }

    /// Where it listens on TCP.
    #[must_use]
    pub const fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Which limit it is, if it is one.
    #[must_use]
    pub const fn limit(&self) -> Option<limit::Kind> {
        self.limit
    }

    /// Its processor time so far, in microseconds.
    pub fn cpu_micros(&self) -> Result<f64> {
        process::cpu_micros(self.id()?)
    }

    /// Its memory, in bytes.
    pub fn resident(&self) -> Result<f64> {
        process::resident(self.id()?)
    }

    fn id(&self) -> Result<u32> {
        let program = self.program.as_ref();
        Ok(program.context("not a program of its own")?.id())
    }
}
