//! The two programs that configure a namespace: `ip` and `nft`.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where system programs are when an ordinary user's PATH does not say so.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why a program that configures namespaces did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("the program {0} is missing: install the package {package}", package = package(.0))]
    Missing(&'static str),
    /// It could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Its name.
        program: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// It refused its input.
    #[error("{program} refused: {message}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What it printed.
        message: String,
    },
}

fn package(program: &str) -> &'static str {
    if program == "nft" {
        "nftables"
    } else {
        "iproute2"
    }
}

/// Finds a system program, also outside the PATH.
pub(super) fn find(program: &'static str) -> Result<PathBuf, ToolError> {
    find_in(program, env::var_os("PATH")).ok_or(ToolError::Missing(program))
}

fn find_in(program: &str, path: Option<OsString>) -> Option<PathBuf> {
    let path = path.unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.is_absolute() && file.is_file()
}

/// Runs `ip` over lines of commands, in the namespace of the calling thread.
pub(super) fn ip(batch: &str) -> Result<(), ToolError> {
    feed("ip", &["-batch", "-"], batch).map(drop)
}

/// Loads a rule set into the namespace of the calling thread: all of it or nothing.
pub(super) fn nft(rules: &str) -> Result<(), ToolError> {
    feed("nft", &["-f", "-"], rules).map(drop)
}

/// Runs `nft` with arguments and returns what it printed.
pub(super) fn nft_list(arguments: &[&str]) -> Result<Vec<u8>, ToolError> {
    feed("nft", arguments, "").map(|output| output.stdout)
}

fn feed(program: &'static str, arguments: &[&str], input: &str) -> Result<Output, ToolError> {
    let file = find(program)?;
    let run = || -> io::Result<Output> {
        let mut child = Command::new(file)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that gives up early says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|source| ToolError::Run { program, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ToolError::Refused { program, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_directories_are_searched_without_a_path() {
        assert_eq!(find_in("no-such-program", None), None);
        let sh = find_in("sh", Some(OsString::from("/bin")));
        assert_eq!(sh, Some(PathBuf::from("/bin/sh")));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let text = ToolError::Missing("nft").to_string();
        assert_eq!(
            text,
            "the program nft is missing: install the package nftables"
        );
    }
}
