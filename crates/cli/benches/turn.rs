//! What relaying costs the server: the same load on this relay, on coturn and on bare loops
//! of system calls, in turn, in one run.
//!
//! `make bench-turn` prints the table and writes `target/bench/turn.json`; `ROUNDS=1`
//! makes it shorter, `ROWS="binding,trains"` chooses rows by parts of their names.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    use std::path::Path;

    if postern_bench::limit::serve_if_asked()? {
        return Ok(());
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return postern_bench::report::say("skipped: it runs with `make bench-turn`\n");
    }
    postern_bench::turn::run(Path::new(env!("CARGO_BIN_EXE_postern")))
}
