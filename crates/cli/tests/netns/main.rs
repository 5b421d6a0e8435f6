//! The real program in real networks: homes behind Linux NATs and a public server.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

/// Cases, in the order they run.
#[cfg(target_os = "linux")]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$(postern_lab::netns::Case { name: stringify!($name), run: $name }),*]
    };
}
#[cfg(target_os = "linux")]
use cases;

#[cfg(target_os = "linux")]
mod contract;
#[cfg(target_os = "linux")]
mod paths;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod scene;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let all = [paths::CASES].concat();
    postern_lab::netns::run_cases(&all)
}
