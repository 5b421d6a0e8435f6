//! Tests must not ask the network of whoever runs them for ports: the guard refuses.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::Command;

use postern::portmap::GUARD;

/// Everything that searches.
const LINES: [&[&str]; 7] = [
    &["map", "status"],
    &["map", "add", "4000"],
    &["map", "list"],
    &["map", "delete", "4000"],
    &["map", "external"],
    &["map", "pinhole", "add", "4000"],
    &["map", "watch", "--gateway", "192.168.1.1"],
];

/// Runs `postern` where this test runs: in the network of whoever runs it. The guard has to be
/// set already, or is set here.
fn assert_refused(arguments: &[&str], guard: Option<&Path>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).arg("--json");
    if let Some(guard) = guard {
        command.env(GUARD, guard);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["error"]["kind"], "guarded", "{arguments:?}");
}

/// `guard` is the name of that network, so nothing is sent even where the other form of the
/// guard, which compares with process 1, could not tell.
#[test]
fn with_the_guard_set_nothing_is_searched_in_the_machines_own_network() {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    for arguments in LINES {
        assert_refused(arguments, Some(&own));
    }
}

/// The program under its other name is refused, too.
#[test]
fn as_upnpc_nothing_is_searched_in_the_machines_own_network() {
    use std::os::unix::process::CommandExt as _;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_postern"))
        .arg0("upnpc")
        .arg("-s")
        .env(GUARD, &own)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("tests may only search in namespaces"),
        "{told}"
    );
}

/// What cargo starts has the guard without any test's doing: `.cargo/config.toml`. In a
/// namespace that somebody made for all of cargo it would rightly not refuse, so nothing is
/// started there.
#[test]
fn whatever_cargo_starts_is_guarded() {
    let guard = std::env::var_os(GUARD);
    assert_eq!(
        guard.as_deref(),
        Some("namespace".as_ref()),
        "run it with cargo"
    );
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if network("1").is_none_or(|first| Some(first) != network("self")) {
        println!("not checked further: this is not known to be the network of process 1");
        return;
    }
    for arguments in LINES {
        assert_refused(arguments, None);
    }
}

/// Names of candidates are told by multicast, which is no different.
#[test]
#[cfg(feature = "lab")]
fn names_are_not_told_in_the_machines_own_network() {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(["lab", "ice", "--controlling", "--mdns", "--json"]);
    let output = command.env(GUARD, &own).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["kind"], "guarded", "{told}");
}

/// The harness of namespaces sets the same variable.
#[test]
#[cfg(feature = "lab")]
fn the_harness_sets_the_guard_that_the_program_knows() {
    assert_eq!(postern_lab::netns::GUARD, GUARD);
}
