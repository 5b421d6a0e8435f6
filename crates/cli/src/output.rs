//! What the program says: lines for people, or one JSON object a line (docs/json.md).

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

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
    },
    Code {
        code: &'a str,
    },
    Path {
        kind: &'a str,
        protocol: &'a str,
        local: String,
        remote: String,
        elapsed_ms: u64,
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

    /// Prints a JSON line when programs listen, `line` when people do. A closed standard
    /// output is no reason to stop: the exit code still tells.
    pub(crate) fn say(self, event: &Event<'_>, line: &str) {
        let text = if self.json {
            to_json(event)
        } else {
            line.to_owned()
        };
        if !text.is_empty() {
            let _ = writeln!(io::stdout().lock(), "{text}");
        }
    }
}

/// Prints an error: a sentence on standard error, and for programs a line as well.
pub(crate) fn report_error(json: bool, kind: &str, message: &str) {
    if json {
        let event = Event::Error { kind, message };
        let _ = writeln!(io::stdout().lock(), "{}", to_json(&event));
    }
    let _ = writeln!(io::stderr().lock(), "postern: {message}");
}

fn to_json(event: &Event<'_>) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
