//! `postern map` and routers, in network namespaces: miniupnpd, as Debian ships it, our own
//! gateway, and the cast of fakes.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod cast;
#[cfg(target_os = "linux")]
mod home;
#[cfg(target_os = "linux")]
mod own;
#[cfg(target_os = "linux")]
mod upnpc;
#[cfg(target_os = "linux")]
mod verify;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let all = [
        cases::CASES,
        verify::CASES,
        upnpc::CASES,
        own::CASES,
        cast::CASES,
    ]
    .concat();
    postern_lab::netns::run_cases(&all)
}
