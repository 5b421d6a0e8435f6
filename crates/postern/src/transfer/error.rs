//! What can end a transfer.

use postern_wire::transfer::{Failure, FailureKind, Name, NameError, ParseError, escape};
use std::io;

/// Why [`send`](super::send()) failed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The receiver does not want the files.
    #[error("the other side did not take the files: {}", said(.0))]
    Refused(Failure),
    /// The receiver could not finish.
    #[error("the transfer failed on the other side: {}", said(.0))]
    PeerFailed(Failure),
    /// A file is not what it was when it was offered.
    #[error("{0} changed while it was being sent; send it again when no program writes to it")]
    Changed(Name),
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(Name, #[source] io::Error),
    /// The connection or the stream ended.
    #[error("the connection ended before the transfer was complete; start it again")]
    Disconnected(#[source] Option<io::Error>),
    /// The receiver sent bytes that have no meaning.
    #[error("the other side does not keep to the protocol: {0}")]
    Invalid(#[from] ParseError),
    /// The receiver sent a frame where it has no meaning.
    #[error("the other side does not keep to the protocol: {0}")]
    Violation(#[from] Violation),
}

impl SendError {
    /// The word for this error in the JSON output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(failure) | Self::PeerFailed(failure) => failure.kind.as_str(),
            Self::Changed(_) => FailureKind::Changed.as_str(),
            Self::Read(..) => FailureKind::Io.as_str(),
            Self::Disconnected(_) => "disconnected",
            Self::Invalid(ParseError::Version(_)) => FailureKind::Version.as_str(),
            Self::Invalid(_) | Self::Violation(_) => FailureKind::Protocol.as_str(),
        }
    }

    /// What the receiver is told; `None` when it knows or cannot hear.
    pub(super) fn to_failure(&self) -> Option<Failure> {
        let kind = match self {
            Self::Refused(_) | Self::PeerFailed(_) | Self::Disconnected(_) => return None,
            Self::Changed(_) => FailureKind::Changed,
            Self::Read(..) => FailureKind::Io,
            Self::Invalid(ParseError::Version(_)) => FailureKind::Version,
            Self::Invalid(_) | Self::Violation(_) => FailureKind::Protocol,
        };
        Some(Failure::new(kind, self.to_string()))
    }
}

/// Why [`receive`](super::receive()) failed. Files that were complete before it stay.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The question whether to accept was answered with no.
    #[error("the files were declined")]
    Declined,
    /// A file of that name is there already.
    #[error("{0} exists already; choose another directory, or allow overwriting")]
    Exists(Name),
    /// Something that is not a regular file has that name.
    #[error("{0} exists already and is not a regular file; it is never replaced")]
    NotReplaceable(Name),
    /// A name that is not acceptable.
    #[error("{0}; ask for it under another name")]
    BadName(#[from] NameError),
    /// A name with a dot in front, without permission for that.
    #[error("{0} is a hidden file, which programs may obey; it is taken only when that is allowed")]
    Hidden(Name),
    /// Two names that are one on some systems.
    #[error("the other side sends {0} twice, in the same or in another spelling")]
    Twin(Name),
    /// The files do not fit.
    #[error("the disk is full: {} are needed and {} are free", readable(*.needed), readable(*.free))]
    NoSpace {
        /// Bytes offered.
        needed: u64,
        /// Bytes free in the output directory.
        free: u64,
    },
    /// Writing failed because nothing was free any more.
    #[error("the disk became full while {0} was written; free some space and start again")]
    DiskFull(Name),
    /// A file cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(Name, #[source] io::Error),
    /// The bytes received are not the bytes sent.
    #[error("{0} arrived damaged and was thrown away; receive it again")]
    Corrupt(Name),
    /// The sender could not finish.
    #[error("the transfer failed on the other side: {}", said(.0))]
    PeerFailed(Failure),
    /// The connection or the stream ended.
    #[error("the connection ended before the transfer was complete; start it again")]
    Disconnected(#[source] Option<io::Error>),
    /// The sender sent bytes that have no meaning.
    #[error("the other side does not keep to the protocol: {0}")]
    Invalid(#[source] ParseError),
    /// The sender sent a frame where it has no meaning.
    #[error("the other side does not keep to the protocol: {0}")]
    Violation(#[from] Violation),
    /// The thread that writes could not be started or ended without a result.
    #[error("the system did not let postern start a thread")]
    NoThread,
}

impl ReceiveError {
    /// The word for this error in the JSON output.
    pub fn kind(&self) -> &'static str {
        match (self, self.failure_kind()) {
            (Self::PeerFailed(failure), _) => failure.kind.as_str(),
            (_, Some(kind)) => kind.as_str(),
            (_, None) => "disconnected",
        }
    }

    /// What the sender is told; `None` when it knows or cannot hear.
    pub(super) fn to_failure(&self) -> Option<Failure> {
        self.failure_kind()
            .map(|kind| Failure::new(kind, self.to_string()))
    }

    fn failure_kind(&self) -> Option<FailureKind> {
        Some(match self {
            Self::PeerFailed(_) | Self::Disconnected(_) => return None,
            Self::Declined => FailureKind::Refused,
            Self::Exists(_) | Self::NotReplaceable(_) => FailureKind::Exists,
            Self::BadName(_) | Self::Hidden(_) | Self::Twin(_) => FailureKind::BadName,
            Self::NoSpace { .. } | Self::DiskFull(_) => FailureKind::DiskFull,
            Self::Write(..) | Self::NoThread => FailureKind::Io,
            Self::Corrupt(_) => FailureKind::Corrupt,
            Self::Invalid(ParseError::Version(_)) => FailureKind::Version,
            Self::Invalid(_) | Self::Violation(_) => FailureKind::Protocol,
        })
    }
}

impl From<ParseError> for ReceiveError {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Name(error) => Self::BadName(error),
            ParseError::UnknownType(_)
            | ParseError::Length { .. }
            | ParseError::Body(_)
            | ParseError::Field(_)
            | ParseError::Version(_) => Self::Invalid(error),
        }
    }
}

/// Frames that are well formed and make no sense where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame that does not belong here.
    #[error("it sent a message that does not belong here")]
    Unexpected,
    /// A file whose number, name or size is not the one offered.
    #[error("it sends other files than it offered")]
    NotAsOffered,
    /// More bytes than the file was said to have.
    #[error("it sends more bytes than it announced")]
    TooManyBytes,
    /// Fewer bytes than the file was said to have.
    #[error("it sends fewer bytes than it announced")]
    TooFewBytes,
    /// Totals that do not match what was sent.
    #[error("its totals do not match what was transferred")]
    Totals,
}

fn said(failure: &Failure) -> String {
    match failure.message.as_str() {
        "" => failure.kind.as_str().to_owned(),
        message => escape(message.as_bytes()),
    }
}

/// `bytes` with a unit that people read, rounded down.
fn readable(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1000, "kB"),
    ];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", bytes / size, bytes % size / (size / 10)),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn sizes_are_rounded_down_to_a_unit() {
        let shown = [0, 999, 1000, 1_999_999, 2_050_000_000, u64::MAX].map(readable);
        let expected = [
            "0 bytes",
            "999 bytes",
            "1.0 kB",
            "1.9 MB",
            "2.0 GB",
            "18446744.0 TB",
        ];
        assert_eq!(shown, expected);
    }
}
