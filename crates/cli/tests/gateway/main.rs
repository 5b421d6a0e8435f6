//! `postern gateway` on a router of Linux: clients of others inside, the internet outside.
#![cfg_attr(
    target_os = "linux",
    expect(clippy::unwrap_used, reason = "a case fails by panicking")
)]

#[cfg(target_os = "linux")]
mod behind;
#[cfg(target_os = "linux")]
mod firewalls;
#[cfg(target_os = "linux")]
mod foreign;
#[cfg(target_os = "linux")]
mod forwarding;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod house;
#[cfg(target_os = "linux")]
mod lives;
#[cfg(target_os = "linux")]
mod numbers;
#[cfg(target_os = "linux")]
mod operator;
#[cfg(target_os = "linux")]
mod searches;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let all = [
        forwarding::CASES,
        lives::CASES,
        operator::CASES,
        hostile::CASES,
        firewalls::CASES,
        behind::CASES,
        numbers::CASES,
        foreign::CASES,
        searches::CASES,
    ]
    .concat();
    postern_lab::netns::run_cases(&all)
}
