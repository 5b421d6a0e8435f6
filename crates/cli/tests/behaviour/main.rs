//! The table: `postern check` behind every real Linux NAT of the lab, UDP and TCP.
#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        clippy::print_stderr,
        reason = "a case fails by panicking, and what is skipped is told"
    )
)]

#[cfg(target_os = "linux")]
mod house;
#[cfg(target_os = "linux")]
mod interop;
#[cfg(target_os = "linux")]
mod places;
#[cfg(target_os = "linux")]
mod table;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    house::remember_the_machines_network();
    let cases = [table::CASES, places::CASES, interop::CASES].concat();
    postern_lab::netns::run_cases(&cases)
}
