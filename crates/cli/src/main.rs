//! The program `postern`: each subcommand is a file, and thin.

mod check;
mod config;
#[cfg(all(feature = "lab", target_os = "linux"))]
mod demo;
mod explain;
mod failure;
#[cfg(target_os = "linux")]
mod gateway;
mod generate;
mod interrupt;
#[cfg(feature = "lab")]
mod lab;
mod map;
mod output;
mod progress;
mod receive;
mod relay;
mod send;
mod server;
mod session;
mod stun;
mod upnpc;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use failure::Failure;

/// Connect programs and send files, whatever routers are between.
#[derive(Debug, Parser)]
#[command(name = "postern", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send files to another person's machine
    Send(send::Arguments),
    /// Receive the files that somebody sends
    Receive(receive::Arguments),
    /// Let a port of the home router lead to this machine (UPnP, NAT-PMP, PCP)
    Map(map::Arguments),
    /// Find out why others cannot reach this machine
    Check(check::Arguments),
    /// Introduce peers to each other: run this on a machine that both can reach
    Server(Box<server::Arguments>),
    /// Open ports on request: run this on a Linux router
    #[cfg(target_os = "linux")]
    Gateway(Box<gateway::Arguments>),
    /// Test relays
    Relay(relay::Arguments),
    /// Show the whole of it on this machine: two homes, two NATs, a server, a file
    #[cfg(all(feature = "lab", target_os = "linux"))]
    Demo(demo::Arguments),
    /// Measure connections in a simulated internet
    #[cfg(feature = "lab")]
    Lab(lab::Arguments),
    /// Print what lets a shell complete the options of this program
    Completions(generate::Completions),
    /// Print the manual page
    Man(generate::Man),
}

fn main() -> ExitCode {
    start_log();
    if let Some(code) = upnpc::if_called(std::env::args_os()) {
        return code;
    }
    let json = usage::wants_json(std::env::args_os());
    let arguments = match usage::parse(json) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.in_json(json).exit_code(),
    }
}

/// The log is for finding faults: it is off unless POSTERN_LOG asks for it.
fn start_log() {
    let filter = EnvFilter::try_from_env("POSTERN_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Send(arguments) => on_runtime(send::run(arguments)),
        Command::Receive(arguments) => on_runtime(receive::run(arguments)),
        Command::Map(arguments) => on_one_thread(map::run(arguments)),
        Command::Check(arguments) => on_runtime(check::run(arguments)),
        Command::Server(arguments) => on_runtime(server::run(*arguments)),
        #[cfg(target_os = "linux")]
        Command::Gateway(arguments) => on_one_thread(gateway::run(*arguments)),
        Command::Relay(arguments) => on_runtime(relay::run(arguments)),
        // The demonstration enters namespaces, which must happen before threads exist.
        #[cfg(all(feature = "lab", target_os = "linux"))]
        Command::Demo(arguments) => demo::run(arguments),
        #[cfg(feature = "lab")]
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    }
}

/// For little work: routers have little memory, and a mapping is made before threads have begun.
fn on_one_thread(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::system)?;
    let result = runtime.block_on(task);
    runtime.shutdown_background();
    result
}

fn on_runtime(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::system)?;
    let result = runtime.block_on(task);
    // A blocked read of standard input must not hold the program back.
    runtime.shutdown_background();
    result
}
