//! `postern map` and a real router: miniupnpd, as Debian ships it, in network namespaces.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod home;
#[cfg(target_os = "linux")]
mod verify;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    home::remember_the_machines_network();
    postern_lab::netns::run_cases(&[cases::CASES, verify::CASES].concat())
}
