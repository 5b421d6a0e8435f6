//! How the program fails: a kind for programs, a sentence for people, an exit code.

use std::error::Error;
use std::process::ExitCode;

use postern::{ConnectError, EstablishError, RendezvousError as Rendezvous, SignallingError, Wait};

use crate::output;

/// Exit codes are an interface (docs/json.md).
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const PEER: u8 = 3;
const INTERRUPTED: u8 = 4;

/// Why the program failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    message: String,
    code: u8,
    json: bool,
    object: bool,
}

impl Failure {
    /// Something on this machine or on the way failed.
    pub(crate) fn failed(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            code: FAILED,
            json: false,
            object: false,
        }
    }

    /// Everything is said already; only the exit code is to tell.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            ..Self::failed("", "")
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            ..Self::failed("usage", message)
        }
    }

    /// The peer is not there or said no.
    pub(crate) fn peer(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: PEER,
            ..Self::failed(kind, message)
        }
    }

    /// The user interrupted.
    pub(crate) fn interrupted() -> Self {
        Self {
            code: INTERRUPTED,
            ..Self::failed("cancelled", "interrupted before everything was done")
        }
    }

    /// The operating system refused something that never should be refused.
    pub(crate) fn system(error: impl Error) -> Self {
        Self::failed("system", chain(&error))
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// The same failure, counted as a wrong command line.
    pub(crate) fn into_usage(self) -> Self {
        Self {
            code: USAGE,
            ..self
        }
    }

    /// The sentence for people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Its sentence, for where it is no end.
    #[cfg(target_os = "linux")]
    pub(crate) fn into_message(self) -> String {
        self.message
    }

    /// Says whether `--json` is on, so that the error can be told in that way.
    pub(crate) fn in_json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// The same failure, told to programs as an object with the one member `error`.
    pub(crate) fn into_object(self) -> Self {
        Self {
            object: true,
            ..self
        }
    }

    /// Tells the error and yields the exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::from(self.code);
        }
        if self.object && self.json {
            output::report_object(self.kind, &self.message);
        } else {
            output::report_error(self.json, self.kind, &self.message);
        }
        ExitCode::from(self.code)
    }
}

/// An error and its causes in one line. Sentences end with advice after a semicolon; the
/// causes belong before it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let text = error.to_string();
    let (what, advice) = match text.split_once("; ") {
        Some((what, advice)) => (what, Some(advice)),
        None => (text.as_str(), None),
    };
    let mut sentence = what.to_owned();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = plain(cause.to_string());
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) && !sentence.contains(&cause_text) {
            sentence.push_str(": ");
            sentence.push_str(&cause_text);
        }
        source = cause.source();
    }
    if let Some(advice) = advice {
        sentence.push_str("; ");
        sentence.push_str(advice);
    }
    plain(sentence)
}

/// The text without the system's numbers for errors, which it has words for.
fn plain(text: String) -> String {
    let Some((before, rest)) = text.split_once(" (os error ") else {
        return text;
    };
    match rest.split_once(')') {
        Some((number, after)) if number.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{before}{after}")
        }
        Some(_) | None => text,
    }
}

impl From<EstablishError> for Failure {
    fn from(error: EstablishError) -> Self {
        let message = chain(&error);
        match &error {
            EstablishError::Rendezvous(failure) => from_rendezvous(failure),
            EstablishError::Signalling(SignallingError::Connect(error)) => from_connect(error),
            EstablishError::Signalling(_) => Self::failed("server", message),
            EstablishError::PeerLeft => Self::peer("not_connected", message),
            EstablishError::ServerLost => Self::failed("server_unreachable", message),
            EstablishError::NoPath(_) => Self::failed("no_path", message),
            EstablishError::Handshake => Self::failed("handshake", message),
            EstablishError::Ended | EstablishError::Crypto(_) | EstablishError::Entropy(_) => {
                Self::failed("system", message)
            }
        }
    }
}

fn from_rendezvous(failure: &Rendezvous) -> Failure {
    let message = chain(failure);
    match failure {
        Rendezvous::WrongCode => Failure::peer(
            "wrong_code",
            "the code is wrong: it was mistyped, or somebody else guessed; \
             nothing was sent, start again with a new code",
        ),
        Rendezvous::NoSuchMailbox => Failure::peer(
            "not_connected",
            "nobody waits under this code: it was used already, it expired, or the other side uses another server",
        ),
        Rendezvous::Crowded => Failure::peer(
            "not_connected",
            "somebody else used this code already: ask for a new one",
        ),
        Rendezvous::TimedOut(Wait::Peer) => Failure::peer(
            "not_connected",
            "the other side did not come in time; start again, or wait longer with --wait",
        ),
        Rendezvous::PeerLeft | Rendezvous::Expired | Rendezvous::TimedOut(Wait::Proof) => {
            Failure::peer("not_connected", message)
        }
        Rendezvous::ServerRefused { .. }
        | Rendezvous::ServerClosed { .. }
        | Rendezvous::TimedOut(Wait::Server) => Failure::failed("server", message),
        Rendezvous::Protocol(_) => Failure::failed("protocol", message),
    }
}

fn from_connect(error: &ConnectError) -> Failure {
    let kind = match error {
        ConnectError::Proxy(_)
        | ConnectError::Resolve { .. }
        | ConnectError::Unreachable { .. }
        | ConnectError::Silent { .. } => "server_unreachable",
        ConnectError::WrongPin { .. } | ConnectError::Tls { .. } => "server_certificate",
        ConnectError::NotTls { .. } => "server",
    };
    Failure::failed(kind, chain(error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_cause_stands_before_the_advice_and_without_numbers() {
        let error = ConnectError::Unreachable {
            url: "wss://a/".to_owned(),
            source: io::Error::from_raw_os_error(111),
        };
        let sentence = chain(&error);
        let begins = "the server wss://a/ could not be reached: Connection refused; check";
        assert!(sentence.starts_with(begins), "{sentence}");
    }

    #[test]
    fn an_error_without_a_cause_is_its_own_sentence() {
        let error = io::Error::other("nothing (os error nine) to see; move on");
        assert_eq!(chain(&error), "nothing (os error nine) to see; move on");
    }
}
