//! The relay and the programs of coturn, as Debian ships them.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod deny;
#[cfg(target_os = "linux")]
mod interop;
#[cfg(target_os = "linux")]
mod operator;
#[cfg(target_os = "linux")]
mod scene;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if !scene::can_run() {
        return std::process::ExitCode::SUCCESS;
    }
    let cases = [interop::CASES, client::CASES, deny::CASES, operator::CASES].concat();
    postern_lab::netns::run_cases(&cases)
}
