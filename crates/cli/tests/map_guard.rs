//! Tests must not ask the network of whoever runs them for ports: the guard refuses.
#![cfg(target_os = "linux")]

use std::process::Command;

/// Starts `postern map` where this test runs: in the network of whoever runs it. `guard` is
/// the name of that network, so nothing is sent even where the other form of the guard, which
/// compares with process 1, could not tell.
#[test]
fn with_the_guard_set_nothing_is_searched_in_the_machines_own_network() {
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    for arguments in [
        &["status"][..],
        &["add", "4000"],
        &["list"],
        &["pinhole", "add", "4000"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_postern"))
            .arg("map")
            .args(arguments)
            .arg("--json")
            .env("POSTERN_NETWORK_GUARD", &own)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["error"]["kind"], "guarded", "{arguments:?}");
    }
}
