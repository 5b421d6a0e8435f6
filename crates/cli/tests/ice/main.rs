//! `postern lab ice` and aioice, an ICE agent in Python, each in both roles.
#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        clippy::print_stderr,
        reason = "a case fails by panicking, and what is skipped is told"
    )
)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod names;
#[cfg(target_os = "linux")]
mod scene;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    match scene::python() {
        scene::Python::Works => {
            let cases = cases::CASES.iter().chain(names::CASES);
            postern_lab::netns::run_cases(&cases.copied().collect::<Vec<_>>())
        }
        scene::Python::Broken(why) => {
            eprintln!("\nscripts/setup has installed aioice, and it does not work: {why}\n");
            ExitCode::FAILURE
        }
        scene::Python::Missing => {
            eprintln!("\nskipped: ALL: aioice is not installed (scripts/setup)\n");
            ExitCode::SUCCESS
        }
    }
}
