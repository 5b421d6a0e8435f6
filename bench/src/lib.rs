//! What `make bench-…` runs: loads, the limits that they are compared with, and the report.
//!
//! The benchmarks themselves are `crates/cli/benches/`: cargo tells them where the program
//! is. This library is a dev-dependency of `cli` and of nothing else.
//!
//! - [`report`]: rows of samples, printed as a table and written to `target/bench/X.json`.
//! - [`options`]: `ROUNDS`, `ROWS` and other variables of the environment.
//! - [`turn`]: the rows of `make bench-turn`. The same load runs on this server, on coturn
//!   and on a program that does nothing but the system calls (the limit), in turn.
//! - [`client`], [`load`]: a small TURN client, and what it sends and counts.
//! - [`limit`]: the bare loops.
//! - [`subject`], [`process`]: the servers under load, and what they cost.
//!
//! Everything stays on the loopback interface, and is bounded in packets on the way and in
//! time. Programs that were started end with this one, whichever way it ends.

#![expect(
    clippy::missing_errors_doc,
    reason = "every error is what the system or the server under load said, and ends the benchmark"
)]

pub mod options;
pub mod report;

#[cfg(target_os = "linux")]
pub mod client;
#[cfg(target_os = "linux")]
pub mod limit;
#[cfg(target_os = "linux")]
pub mod load;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod subject;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
pub mod turn;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
