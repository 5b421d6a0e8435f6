//! What frames say.

use super::Name;
use std::time::{Duration, SystemTime};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// Most files that an [`Offer`] names; what it does not name it counts.
pub const MAX_LISTED: usize = 1000;

/// Most files in one transfer: the receiver remembers 8 bytes for each to find twins.
pub const MAX_FILES: u64 = 1 << 20;

/// Most bytes in the text of a [`Failure`].
pub const MAX_MESSAGE: usize = 512;

/// One frame, except `Data`, whose body never needs to be in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Sender: what is about to come.
    Offer(Offer),
    /// Sender: the bytes of this file follow.
    File(File),
    /// Sender: the BLAKE3 hash of the bytes since [`Frame::File`].
    End {
        /// 32 bytes of BLAKE3 output.
        hash: [u8; 32],
    },
    /// Sender: all files were sent.
    Finish(Totals),
    /// Receiver: send the files.
    Accept {
        /// The version that the receiver speaks.
        version: u16,
    },
    /// Receiver: do not send the files.
    Refuse(Failure),
    /// Receiver: all files are verified and in place.
    Done(Totals),
    /// Either: the transfer ends here.
    Failed(Failure),
}

/// What a sender is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Number of files, 1 to [`MAX_FILES`].
    pub files: u64,
    /// Sum of their sizes in bytes; `None` when the sender does not know.
    pub bytes: Option<u64>,
    /// The first files: all of them, or [`MAX_LISTED`].
    pub listed: Vec<Listed>,
}

/// A file in an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub size: u64,
}

/// A file whose bytes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its number, counted from 0 without gaps.
    pub index: u64,
    /// Its name.
    pub name: Name,
    /// Its size in bytes: exactly so many follow.
    pub size: u64,
    /// Its Unix permission bits, unmasked; the receiver decides what it takes over.
    pub mode: u32,
    /// When it was last modified.
    pub modified: Option<Timestamp>,
}

/// A point in time: seconds and nanoseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

impl Timestamp {
    const NANOS: u32 = 1_000_000_000;

    /// `None` unless `nanos` is below 1,000,000,000.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        (nanos < Self::NANOS).then_some(Self { seconds, nanos })
    }

    /// The same point as the standard library's type; `None` before 1970 or after the year
    /// 9999, which file systems do not keep and only a broken or hostile peer sends.
    pub fn to_system_time(self) -> Option<SystemTime> {
        const YEAR_10000: u64 = 253_402_300_800;
        let seconds = u64::try_from(self.seconds)
            .ok()
            .filter(|s| *s < YEAR_10000)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, self.nanos))
    }

    /// `None` before 1970.
    pub fn from_system_time(time: SystemTime) -> Option<Self> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Self::new(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
    }
}

/// How much was sent or received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of files.
    pub files: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// Why a peer refuses or ends a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What programs act on.
    pub kind: FailureKind,
    /// One sentence for people, not escaped.
    pub message: String,
}

impl Failure {
    /// A failure whose text is cut to [`MAX_MESSAGE`] bytes.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind, message }
    }
}

macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong, as a number on the wire and as a word in the JSON output.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailureKind {
            $($(#[$doc])* $name,)*
            /// A kind that this version does not know.
            Unknown,
        }

        impl FailureKind {
            /// The word used in the JSON output.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown => "peer",
                }
            }

            pub(super) fn from_number(number: u8) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unknown,
                }
            }

            pub(super) fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown => 0,
                }
            }
        }
    };
}

failure_kinds! {
    /// A person or a rule said no.
    Refused = 1, "refused";
    /// A file of that name is there already.
    Exists = 2, "exists";
    /// A file name is not acceptable.
    BadName = 3, "bad_name";
    /// No space left.
    DiskFull = 4, "disk_full";
    /// A file changed while it was being sent.
    Changed = 5, "changed";
    /// Reading or writing failed.
    Io = 6, "io";
    /// The bytes do not match their hash.
    Corrupt = 7, "corrupt";
    /// Somebody interrupted the program.
    Cancelled = 8, "cancelled";
    /// The peer did not keep to the protocol.
    Protocol = 9, "protocol";
    /// The two versions do not understand each other.
    Version = 10, "version";
}
