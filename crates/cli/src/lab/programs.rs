//! Situations with a relay or TCP, which take more than two agents: the programs themselves.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postern::Technique;
use postern_lab::netns::{Program, World, build_twin};
use postern_lab::sim::matrix::Run;
use postern_lab::sim::scenario::{Outlet, TwoHomes};
use serde_json::Value;

/// How long a program may take to say what it has to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a relayed connection has to become direct.
const UPGRADE: Duration = Duration::from_secs(6);
/// The port that is open where hardly any are.
const PORT: &str = "443";

/// Lets alice offer a file to bob, and sees which path they find meanwhile.
pub(super) fn meet(homes: &TwoHomes) -> Result<Run> {
    let world = build_twin(homes)?;
    let directory = tempfile::tempdir().context("no temporary directory could be made")?;
    let letter = directory.path().join("letter");
    File::create(&letter)?.set_len(1)?;
    let inbox = directory.path().join("inbox");
    fs::create_dir(&inbox)?;
    let address = world.ipv4("server")?.to_string();
    let mut server = start(&world, "server", directory.path(), |command| {
        command.args(["server", "--relay", "--port", PORT, "--listen", &address]);
    })?;
    let url = said(&mut server, "ready", "url")?;
    let proxies = [0, 1].map(|side| proxy(&world, homes, side));
    let [left, right] = proxies;
    let (left, right) = (left?, right?);
    let mut alice = start(&world, "alice", directory.path(), |command| {
        command
            .args(["send", "--server", &url])
            .args(&left)
            .arg(&letter);
    })?;
    let code = said(&mut alice, "code", "code")?;
    // What exists is refused at once, and ends the connection. Without --yes, bob is asked whether he wants it, and nobody answers.
    let mut bob = start(&world, "bob", directory.path(), |command| {
        command
            .args(["receive", "--server", &url, "--output"])
            .arg(&inbox)
            .args(&right)
            .arg(&code);
    })?;
    let path = best_path(&mut bob)?;
    run(&world, &path)
}

fn start(
    world: &World,
    node: &str,
    directory: &Path,
    arguments: impl FnOnce(&mut Command),
) -> Result<Program> {
    let this = std::env::current_exe().context("this program does not know where it is")?;
    let this = this.to_str().context("this program's path is not UTF-8")?;
    let mut command = world.command(node, this)?;
    arguments(&mut command);
    command
        .arg("--json")
        .current_dir(directory)
        .env("XDG_CONFIG_HOME", directory)
        .env_remove("POSTERN_SERVER");
    Ok(Program::start(command)?)
}

fn said(program: &mut Program, event: &str, field: &str) -> Result<String> {
    let said = program.event(event, PATIENCE);
    let said = said.with_context(|| format!("no \"{event}\" was said"))?;
    let text = said[field].as_str();
    Ok(text
        .with_context(|| format!("{said} has no {field}"))?
        .to_owned())
}

fn proxy(world: &World, homes: &TwoHomes, side: usize) -> Result<Vec<String>> {
    if homes.homes[side].outlet != Outlet::Proxy {
        return Ok(Vec::new());
    }
    let address = world.ipv4("proxy")?;
    Ok(vec!["--proxy".to_owned(), format!("http://{address}:3128")])
}

/// The first direct path, or else a relayed one that has had its time.
fn best_path(program: &mut Program) -> Result<Value> {
    let first = program.event("path", PATIENCE);
    let Some(mut path) = first else {
        bail!("no path was found: {}", program.complaints().trim())
    };
    let deadline = Instant::now() + UPGRADE;
    while path["kind"] != "direct" {
        let left = deadline.saturating_duration_since(Instant::now());
        match program.event("path", left) {
            Some(next) => path = next,
            None => break,
        }
    }
    Ok(path)
}

fn run(world: &World, path: &Value) -> Result<Run> {
    let name = path["technique"].as_str().unwrap_or_default();
    let technique = Technique::ALL
        .into_iter()
        .find(|known| known.as_str() == name);
    let technique = technique.with_context(|| format!("{path} names no technique"))?;
    let number = |field: &str| path[field].as_u64().unwrap_or(0);
    let count = |field: &str| u32::try_from(number(field)).unwrap_or(u32::MAX);
    let time = Duration::from_millis(number("elapsed_ms"));
    let is_direct = path["kind"] == "direct";
    Ok(Run {
        direct: is_direct.then_some((time, technique)),
        relayed: (!is_direct).then_some(time),
        is_tcp: is_direct && path["protocol"] == "tcp",
        probes: count("probes"),
        sockets: count("sockets"),
        datagrams: sent(world, "alice")?.max(sent(world, "bob")?),
    })
}

/// Packets that a host has sent.
fn sent(world: &World, host: &str) -> Result<u64> {
    let traffic = world.traffic(host)?;
    Ok(traffic.get("eth0").map_or(0, |eth0| eth0.sent_packets))
}
