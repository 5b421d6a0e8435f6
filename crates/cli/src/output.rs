//! What the program says: lines for people, or one JSON object a line (docs/json.md).
//!
//! Whatever a peer, a server or the name of a file brings into a text, nothing reaches a
//! terminal from here that could steer it.

use std::io::{self, IsTerminal, Write};

use postern::transfer::escape;
use serde::Serialize;

use crate::explain::{Nat, Tried};
use crate::failure::Failure;

/// Where and how to say things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

/// One line of `--json`, as documented in docs/json.md.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    Ready {
        url: &'a str,
        stun: &'a [String],
        /// Left out without relays.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        turn: &'a [String],
        /// Left out without metrics.
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<std::net::SocketAddr>,
    },
    /// Who is left while the server drains.
    Draining {
        allocations: u32,
        meetings: usize,
    },
    Code {
        code: &'a str,
    },
    Path {
        kind: &'a str,
        protocol: &'a str,
        /// Left out where no relay of this side carries the path.
        #[serde(skip_serializing_if = "Option::is_none")]
        relay: Option<&'a str>,
        technique: &'a str,
        probes: u32,
        sockets: u32,
        local: String,
        remote: String,
        elapsed_ms: u64,
    },
    /// Why the path is what it is, or there is none.
    Explain {
        local_nat: Nat,
        remote_nat: Nat,
        tried: Vec<Tried>,
        /// `null` on a direct path.
        cause: Option<&'a str>,
        reason: &'a str,
    },
    Progress {
        bytes: u64,
        total: u64,
    },
    Done {
        bytes: u64,
        files: u64,
        seconds: f64,
        path: &'a str,
    },
    /// Of `gateway`.
    #[cfg(target_os = "linux")]
    #[serde(rename = "ready")]
    GatewayReady {
        wan: &'a [String],
        lan: &'a [String],
        external_address: Option<&'a str>,
        double_nat: bool,
        leases: usize,
        obstacles: &'a [String],
        integrated: &'a [String],
    },
    #[cfg(target_os = "linux")]
    #[serde(rename = "status")]
    GatewayStatus(&'a postern::gateway::Status),
    #[cfg(target_os = "linux")]
    Lease(&'a postern::gateway::LeaseInfo),
    #[cfg(target_os = "linux")]
    Revoked {
        count: usize,
    },
    #[cfg(target_os = "linux")]
    Rules {
        rules: &'a str,
    },
    Error {
        kind: &'a str,
        message: &'a str,
    },
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a progress bar can be drawn.
    pub(crate) fn has_terminal(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Prints a JSON line when programs listen, and nothing for people.
    pub(crate) fn tell_programs(self, event: &Event<'_>) {
        if self.json {
            self.say(event, "");
        }
    }

    /// Prints a JSON line when programs listen, `line` when people do. A closed standard
    /// output is no reason to stop: the exit code still tells.
    pub(crate) fn say(self, event: &Event<'_>, line: &str) {
        let _ = self.print(event, line);
    }

    /// The same for an object that is not an [`Event`].
    pub(crate) fn say_any(self, object: &impl Serialize, line: &str) {
        let _ = self.print(object, line);
    }

    /// The same for what somebody has to read, or nothing will come of it.
    pub(crate) fn must_say(self, event: &Event<'_>, line: &str) -> Result<(), Failure> {
        self.print(event, line).map_err(|error| {
            let why = format!(
                "standard output cannot be written: {error}; nobody would see what to do next"
            );
            Failure::failed("output", why)
        })
    }

    /// Prints what a command is for: one object that is no event, or sentences.
    pub(crate) fn report(self, report: &impl Serialize, sentences: &str) -> Result<(), Failure> {
        let printed = self.print(report, sentences);
        printed.map_err(|error| {
            Failure::failed(
                "output",
                format!("standard output cannot be written: {error}"),
            )
        })
    }

    fn print(self, event: &impl Serialize, line: &str) -> io::Result<()> {
        let text = if self.json {
            to_json(event)
        } else {
            harmless(line)
        };
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }
}

/// Prints an error of `postern map`: a sentence on standard error, and an object for programs.
pub(crate) fn report_object(kind: &str, message: &str) {
    let object = serde_json::json!({"error": {"kind": kind, "message": message}});
    let _ = writeln!(io::stdout().lock(), "{object}");
    report_error(false, kind, message);
}

/// Prints an error: a sentence on standard error, and for programs a line as well.
pub(crate) fn report_error(json: bool, kind: &str, message: &str) {
    if json {
        report_to_programs(kind, message);
    }
    let message = harmless_line(message);
    let _ = writeln!(io::stderr().lock(), "postern: {message}");
}

/// Tells people something that they may have to know, on standard error.
pub(crate) fn note(text: &str) {
    let text = harmless_line(text);
    let _ = writeln!(io::stderr().lock(), "postern: {text}");
}

/// Prints an error for programs alone.
pub(crate) fn report_to_programs(kind: &str, message: &str) {
    let event = Event::Error { kind, message };
    let _ = writeln!(io::stdout().lock(), "{}", to_json(&event));
}

/// Shows a question if there is somebody to answer it. It goes to standard error, so that
/// standard output stays what was asked for.
pub(crate) fn ask(question: &str) {
    if io::stdin().is_terminal() {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(harmless_line(question).as_bytes());
        let _ = stderr.flush();
    }
}

/// The text without anything that could steer a terminal, its line breaks excepted.
fn harmless(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(harmless_line).collect();
    lines.join("\n")
}

/// The same for a single line. Names in it are escaped already: their backslashes stay.
fn harmless_line(text: &str) -> String {
    let parts: Vec<_> = text
        .split('\\')
        .map(|part| escape(part.as_bytes()))
        .collect();
    parts.join("\\")
}

fn to_json(event: &impl Serialize) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_steers_a_terminal() {
        let text = "Receive \u{1b}[2Jphoto.jpg\r\u{202e}gpj?";
        let shown = "Receive \\u{1b}[2Jphoto.jpg\\u{d}\\u{202e}gpj?";
        assert_eq!(harmless(text), shown);
        assert_eq!(harmless_line("a\nb"), "a\\u{a}b");
    }

    #[test]
    fn own_line_breaks_and_what_is_escaped_already_stay() {
        let text = "Sending a\\u{1b}b.\n\n    postern receive\n";
        assert_eq!(harmless(text), text);
    }
}
