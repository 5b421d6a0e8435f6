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

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    interop::main()
}
