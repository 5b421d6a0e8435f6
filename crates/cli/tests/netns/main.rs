//! The real program in real networks: homes behind Linux NATs and a public server.
//!
//! A case that fails shows what each of its programs printed, and when; with
//! `POSTERN_TEST_TELL=1` every case does.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod codes;
#[cfg(target_os = "linux")]
mod contract;
#[cfg(target_os = "linux")]
mod disks;
#[cfg(target_os = "linux")]
mod explain;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod garbage;
#[cfg(target_os = "linux")]
mod mapped;
#[cfg(target_os = "linux")]
mod moved;
#[cfg(target_os = "linux")]
mod outages;
#[cfg(target_os = "linux")]
mod paths;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod punch;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod roaming;
#[cfg(target_os = "linux")]
mod scene;
#[cfg(target_os = "linux")]
mod servers;
#[cfg(target_os = "linux")]
mod silence;
#[cfg(target_os = "linux")]
mod tcp;
#[cfg(target_os = "linux")]
mod transports;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let all = [
        paths::CASES,
        punch::CASES,
        mapped::CASES,
        explain::CASES,
        relay::CASES,
        transports::CASES,
        tcp::CASES,
        roaming::CASES,
        outages::CASES,
        silence::CASES,
        moved::CASES,
        files::CASES,
        disks::CASES,
        codes::CASES,
        servers::CASES,
        faults::CASES,
        garbage::CASES,
    ]
    .concat();
    postern_lab::netns::run_cases(&all)
}
