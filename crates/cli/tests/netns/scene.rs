//! Where a case plays: two homes, a server that runs, files, and a place for them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_lab::netns::{Topology, World};
use postern_lab::sim::Nat;
use tempfile::TempDir;

use crate::programs::Program;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Alice in the home `red`, Bob in the home `blue`, and the server between them.
#[derive(Debug)]
pub(crate) struct Scene {
    /// Dropped first: its program lives in the world.
    pub(crate) server: Option<Program>,
    pub(crate) url: String,
    pub(crate) world: World,
    directory: TempDir,
}

impl Scene {
    /// Both homes have the routers most homes have.
    pub(crate) fn plain() -> Self {
        Self::between(Nat::default(), Nat::default())
    }

    /// Homes with these routers.
    pub(crate) fn between(red: Nat, blue: Nat) -> Self {
        Self::of(&Topology::two_homes(red, blue))
    }

    /// A world with a server that is ready.
    pub(crate) fn of(topology: &Topology) -> Self {
        let mut scene = Self::without_server(topology);
        scene.serve(&[]);
        scene
    }

    pub(crate) fn without_server(topology: &Topology) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["sent", "received", "config"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self {
            server: None,
            url: "wss://45.45.1.2:8443/".to_owned(),
            world: World::build(topology).unwrap(),
            directory,
        }
    }

    /// Starts the server on its IPv4 address and on `more`.
    pub(crate) fn serve(&mut self, more: &[IpAddr]) {
        self.serve_with(more, &[]);
    }

    /// The same with further arguments.
    pub(crate) fn serve_with(&mut self, more: &[IpAddr], arguments: &[&str]) {
        let mut listen: Vec<IpAddr> = vec![self.world.ipv4("server").unwrap().into()];
        listen.extend(more);
        let mut command = self.postern("server", "server");
        for address in listen {
            command.args(["--listen", &address.to_string()]);
        }
        command.args(arguments);
        let mut server = self.start("server", command);
        self.url = server.event("ready")["url"].as_str().unwrap().to_owned();
        self.server = Some(server);
    }

    /// The command `postern subcommand` on a host, without any configuration.
    pub(crate) fn postern(&self, host: &str, subcommand: &str) -> Command {
        let mut command = self.world.command(host, POSTERN).unwrap();
        command
            .arg(subcommand)
            .current_dir(self.directory.path())
            .env_remove("POSTERN_SERVER")
            .env_remove("POSTERN_LOG")
            .env("XDG_CONFIG_HOME", self.config());
        command
    }

    /// Starts a program with `--json`.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> Program {
        command.arg("--json");
        Program::start(name, command, true)
    }

    /// Starts a program that speaks to people.
    pub(crate) fn start_for_people(&self, name: &str, command: Command) -> Program {
        Program::start(name, command, false)
    }

    /// Alice sends.
    pub(crate) fn send(&self, paths: &[impl AsRef<OsStr>]) -> Program {
        self.start("alice", self.sending(paths))
    }

    /// The command that Alice sends with.
    pub(crate) fn sending(&self, paths: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.postern("alice", "send");
        command.args(["--server", &self.url]).args(paths);
        command
    }

    /// Bob receives, without being asked.
    pub(crate) fn receive(&self, code: &str) -> Program {
        self.start("bob", self.receiving(&["--yes", code]))
    }

    /// The command that Bob receives with, into [`Scene::inbox`].
    pub(crate) fn receiving(&self, arguments: &[&str]) -> Command {
        let mut command = self.receiving_into(&self.inbox());
        command.args(arguments);
        command
    }

    /// The command that Bob receives with, into another directory.
    pub(crate) fn receiving_into(&self, directory: &Path) -> Command {
        let mut command = self.postern("bob", "receive");
        command
            .args(["--server", &self.url, "--output"])
            .arg(directory);
        command
    }

    /// Makes a file of Alice's with contents that never repeat.
    pub(crate) fn file(&self, name: impl AsRef<Path>, size: usize) -> PathBuf {
        let path = self.sent(name);
        fs::write(&path, contents(size)).unwrap();
        path
    }

    /// Makes a file of Alice's that is large and takes no space: all zeroes.
    pub(crate) fn sparse_file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.sent(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// The path of a file of Alice's.
    pub(crate) fn sent(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("sent").join(name)
    }

    /// Where Bob puts what he gets.
    pub(crate) fn inbox(&self) -> PathBuf {
        self.directory.path().join("received")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// A path that is in nobody's way.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Bob has exactly the files that Alice sent, byte for byte.
    pub(crate) fn assert_arrived(&self, paths: &[PathBuf]) {
        assert_eq!(names(&self.inbox()).len(), paths.len());
        for path in paths {
            let arrived = self.inbox().join(path.file_name().unwrap());
            let same = fs::read(path).unwrap() == fs::read(&arrived).unwrap();
            assert!(same, "{} is not what was sent", arrived.display());
        }
    }

    /// Bob has nothing, not even an unfinished file.
    pub(crate) fn assert_nothing_arrived(&self) {
        assert_eq!(names(&self.inbox()), Vec::<String>::new());
    }

    /// One whole transfer from Alice to Bob works.
    pub(crate) fn assert_still_works(&self) {
        let file = self.file("afterwards", 100_000);
        let mut sender = self.send(&[&file]);
        let mut receiver = self.receive(&sender.code());
        receiver.succeeds();
        sender.succeeds();
        let arrived = self.inbox().join("afterwards");
        assert_eq!(fs::read(&arrived).unwrap(), fs::read(file).unwrap());
    }

    /// Bytes that the server's counters have seen in both directions.
    pub(crate) fn bytes_through_server(&self) -> u64 {
        let counters = self.world.counters("server").unwrap();
        counters.values().map(|counter| counter.bytes).sum()
    }
}

/// The names in a directory, in order.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

/// Bytes of a xorshift generator: no two blocks are alike.
pub(crate) fn contents(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(size);
    bytes
}
