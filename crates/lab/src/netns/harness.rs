//! A test program's `main` for cases that need namespaces.
//!
//! The usual test harness starts threads before any test runs, and a process with threads
//! cannot enter a user namespace. A test target with `harness = false` calls
//! [`run_cases`] instead.

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::time::Instant;

use super::enter::enter;

/// A test: its name, and a function that panics when it fails.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// A sentence with underscores, as test functions are named.
    pub name: &'static str,
    /// The test.
    pub run: fn(),
}

/// The named functions as [`Case`]s, in the order they run.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$($crate::netns::Case { name: stringify!($name), run: $name }),*]
    };
}

/// Enters a network of its own and runs the cases one after the other, with the
/// arguments of `cargo test` that choose among tests: names, `--exact`, `--skip` and
/// `--list`.
///
/// Where the system allows no namespaces it says so on standard error and succeeds:
/// nothing was tested, nothing is known to be wrong.
pub fn run_cases(cases: &[Case]) -> ExitCode {
    let choice = Choice::parse(std::env::args().skip(1));
    let chosen: Vec<&Case> = cases.iter().filter(|c| choice.takes(c.name)).collect();
    if choice.list {
        for case in chosen {
            say(&format!("{}: test\n", case.name));
        }
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = enter() {
        let _ = writeln!(
            io::stderr(),
            "\nskipped: ALL {} tests: {reason}\n",
            chosen.len()
        );
        return ExitCode::SUCCESS;
    }
    run_all(&chosen, cases.len() - chosen.len())
}

fn run_all(chosen: &[&Case], filtered: usize) -> ExitCode {
    say(&format!("\nrunning {} tests\n", chosen.len()));
    let failed: Vec<&str> = chosen
        .iter()
        .filter(|case| !passes(case))
        .map(|case| case.name)
        .collect();
    let passed = chosen.len() - failed.len();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {filtered} filtered out\n",
        failed.len()
    ));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}\n", failed.join(", ")));
    ExitCode::FAILURE
}

fn passes(case: &Case) -> bool {
    say(&format!("test {} ... ", case.name));
    let start = Instant::now();
    let passed = panic::catch_unwind(case.run).is_ok();
    let verdict = if passed { "ok" } else { "FAILED" };
    say(&format!(
        "{verdict} ({:.2} s)\n",
        start.elapsed().as_secs_f64()
    ));
    passed
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

#[derive(Debug, Default)]
struct Choice {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Choice {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut choice = Self::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => choice.exact = true,
                "--list" => choice.list = true,
                "--ignored" => choice.ignored = true,
                "--skip" => choice.skipped.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                name => choice.names.push(name.to_owned()),
            }
        }
        choice
    }

    fn takes(&self, name: &str) -> bool {
        let fits = |pattern: &String| name == pattern || !self.exact && name.contains(pattern);
        let chosen = self.names.is_empty() || self.names.iter().any(fits);
        chosen && !self.ignored && !self.skipped.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(arguments: &str) -> Choice {
        Choice::parse(arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_choose_by_part_and_exactly() {
        assert!(choice("").takes("a_b"));
        assert!(choice("--test-threads 1 a").takes("a_b"));
        assert!(!choice("--exact a").takes("a_b"));
        assert!(!choice("--skip b").takes("a_b"));
        assert!(!choice("--ignored").takes("a_b"));
    }
}
