//! The programs of the demonstration: this one, started in the little network.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use postern_lab::netns::World;
use serde_json::Value;

/// A child whose JSON lines are read. It is killed when dropped.
#[derive(Debug)]
struct Program {
    name: &'static str,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(
        world: &World,
        node: &'static str,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let this = std::env::current_exe().context("this program does not know where it is")?;
        let this = this.to_str().context("this program's path is not UTF-8")?;
        let mut command = world.command(node, this)?;
        arguments(&mut command);
        let mut child = command
            .arg("--json")
            .env_remove("POSTERN_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("{node} could not start postern"))?;
        let stdout = child
            .stdout
            .take()
            .context("a program without standard output")?;
        let lines = BufReader::new(stdout);
        Ok(Self {
            name: node,
            child,
            lines,
        })
    }

    /// The next event of the given kind; others before it are passed over.
    fn event(&mut self, kind: &str) -> Result<Value> {
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            let event: Value = serde_json::from_str(&line)
                .with_context(|| format!("{} said {line}", self.name))?;
            match event["event"].as_str() {
                Some(found) if found == kind => return Ok(event),
                Some("error") => bail!("{}: {}", self.name, event["message"]),
                Some(_) | None => line.clear(),
            }
        }
        bail!("{} ended before it said \"{kind}\"", self.name)
    }

    fn succeed(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} failed: {status}", self.name);
        }
        Ok(())
    }
}

/// The server.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) url: String,
    _program: Program,
}

impl Serving {
    pub(super) fn start(world: &World) -> Result<Self> {
        let address = world.ipv4("server")?.to_string();
        let mut program = Program::start(world, "server", |command| {
            command.args(["server", "--listen", &address]);
        })?;
        let ready = program.event("ready")?;
        Ok(Self {
            url: text(&ready, "url")?,
            _program: program,
        })
    }
}

/// Alice, who sends.
#[derive(Debug)]
pub(super) struct Sending(Program);

impl Sending {
    pub(super) fn start(world: &World, url: &str, file: &Path) -> Result<Self> {
        let start = |command: &mut Command| {
            command.args(["send", "--server", url]).arg(file);
        };
        Program::start(world, "alice", start).map(Self)
    }

    pub(super) fn code(&mut self) -> Result<String> {
        text(&self.0.event("code")?, "code")
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.0.event("done")?;
        self.0.succeed()
    }
}

/// Bob, who receives.
#[derive(Debug)]
pub(super) struct Receiving(Program);

/// The path that the connection took.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) words: String,
    pub(super) sentence: String,
}

impl Receiving {
    pub(super) fn start(world: &World, url: &str, code: &str, directory: &Path) -> Result<Self> {
        let start = |command: &mut Command| {
            command
                .args(["receive", "--yes", "--server", url, "--output"])
                .arg(directory)
                .arg(code);
        };
        Program::start(world, "bob", start).map(Self)
    }

    pub(super) fn path(&mut self) -> Result<Route> {
        let event = self.0.event("path")?;
        let (kind, protocol) = (text(&event, "kind")?, text(&event, "protocol")?);
        let remote = text(&event, "remote")?;
        let milliseconds = &event["elapsed_ms"];
        let words = format!("{kind} over {}", protocol.to_uppercase());
        let sentence = format!(
            "is connected to {remote}, {words}, {milliseconds} ms after both knew each other"
        );
        Ok(Route { words, sentence })
    }

    pub(super) fn finish(&mut self) -> Result<f64> {
        let done = self.0.event("done")?;
        self.0.succeed()?;
        done["seconds"].as_f64().context("no duration was told")
    }
}

fn text(event: &Value, field: &str) -> Result<String> {
    let text = event[field]
        .as_str()
        .with_context(|| format!("{event} has no {field}"))?;
    Ok(text.to_owned())
}
