//! `postern check` behind real Linux NATs says what they do.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod house;
#[cfg(target_os = "linux")]
mod nat64;
#[cfg(target_os = "linux")]
mod pages;
#[cfg(target_os = "linux")]
mod worlds;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    house::remember_the_machines_network();
    postern_lab::netns::run_cases(
        &[cases::CASES, worlds::CASES, pages::CASES, nat64::CASES].concat(),
    )
}
