//! How a rendezvous fails, and whose fault it is.

use std::fmt;

use postern_wire::signal::{CloseReason, ErrorKind, ParseError, VERSION};

/// Why a rendezvous failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side used other words: mistyped, or a stranger guessed.
    #[error("the code is wrong")]
    WrongCode,
    /// The server has no mailbox of that number.
    #[error("there is nobody with this code")]
    NoSuchMailbox,
    /// Two sides have met in that mailbox already.
    #[error("somebody else used this code already")]
    Crowded,
    /// The other side went away.
    #[error("the other side went away")]
    PeerLeft,
    /// The server gave up the mailbox because of its age.
    #[error("the code has expired")]
    Expired,
    /// The server refused for another reason.
    #[error("the server refused: {}", refusal(*.kind))]
    ServerRefused {
        /// The reason.
        kind: ErrorKind,
    },
    /// The server ended the mailbox for another reason.
    #[error("the server ended the meeting: {}", ending(*.reason))]
    ServerClosed {
        /// The reason.
        reason: CloseReason,
    },
    /// The server, or the other side, does not follow the protocol.
    #[error("the protocol was broken")]
    Protocol(#[source] ProtocolError),
    /// Something did not happen in time.
    #[error("{0} in time")]
    TimedOut(Wait),
}

/// How the protocol was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame or a body is not a message.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The server speaks another version.
    #[error("the server speaks version {theirs} of the protocol, this program {VERSION}")]
    Version {
        /// The server's version.
        theirs: u32,
    },
    /// A message came where it must not.
    #[error("a message came out of turn")]
    Unexpected,
    /// The other side's key exchange is this side's own.
    #[error("the key exchange was reflected")]
    Reflected,
    /// The other side's key exchange is not valid.
    #[error("the key exchange is not valid")]
    BadKeyExchange,
    /// A sealed message was changed, repeated, left out or reordered.
    #[error("a sealed message was changed on its way")]
    BadSeal,
    /// Too many messages came before the confirmation.
    #[error("too many messages came before the proof of the code")]
    TooManyEarly,
}

/// What a rendezvous was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// An answer of the server.
    Server,
    /// The other side.
    Peer,
    /// The other side's proof that it knows the words.
    Proof,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the server did not answer",
            Self::Peer => "the other side did not come",
            Self::Proof => "the other side did not prove itself",
        })
    }
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The machine is inert.
    #[error("the mailbox is closed")]
    Closed,
    /// Too many messages wait for the other side.
    #[error("too many messages wait for the other side")]
    Full,
    /// The other side would not parse the message.
    #[error(transparent)]
    Invalid(#[from] ParseError),
}

fn refusal(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoSuchMailbox => "there is no such mailbox",
        ErrorKind::Crowded => "the mailbox has two sides already",
        ErrorKind::RateLimited => "too many requests from this address; try again in a minute",
        ErrorKind::TooLarge => "a message was too large",
        ErrorKind::BadMessage => "it did not understand a message",
        ErrorKind::Full => "it has no room",
        ErrorKind::Unknown => "it gave no reason that this version knows",
    }
}

fn ending(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Done => "it was done",
        CloseReason::PeerLeft => "the other side went away",
        CloseReason::Expired => "it took too long",
        CloseReason::Limit => "too much was sent",
        CloseReason::Idle => "nothing was heard for too long",
        CloseReason::Shutdown => "the server is going down",
        CloseReason::Unknown => "it gave no reason that this version knows",
    }
}
