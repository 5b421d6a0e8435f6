//! The table of NAT pairs behind real Linux NATs, beside the simulator's: a sample of it. The whole
//! is `make matrix`.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
#[path = "netns_matrix/cases.rs"]
mod cases;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    postern_lab::netns::run_cases(cases::ALL)
}
