//! What a client asks of the server.

use serde::{Deserialize, Serialize};

use super::frame::{self, Frame, ParseError, base64, require};
use super::{MAX_BODY, MAX_FRAME, MAX_MAILBOX, MEETING_TOKEN_LEN};

/// A message from a client to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Wants a new mailbox.
    Allocate,
    /// Wants to be the other side of a mailbox.
    Join {
        /// Its number, from 1 to [`MAX_MAILBOX`].
        mailbox: u32,
    },
    /// Wants to meet again whoever else knows the token: two who have met before and lost
    /// each other. Whoever comes first waits; who comes twice takes the place of the first time.
    Meet {
        /// The name of the meeting, which nobody guesses.
        #[serde(with = "base64")]
        token: Vec<u8>,
        /// Whether this side made the code when they met first.
        creator: bool,
    },
    /// Is for the other side, or is kept until there is one.
    Put {
        /// Opaque bytes, at most [`MAX_BODY`].
        #[serde(with = "base64")]
        body: Vec<u8>,
    },
    /// Is done with the mailbox, which ends for both sides.
    Close,
    /// Wants a pong, and keeps the connection alive.
    Ping,
}

impl ClientMessage {
    /// Reads a frame.
    ///
    /// # Errors
    /// Any [`ParseError`].
    pub fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        frame::parse(frame)
    }

    /// Writes the frame: JSON without line breaks.
    #[must_use]
    pub fn to_json(&self) -> String {
        frame::to_json(self)
    }
}

impl Frame for ClientMessage {
    const TYPES: &'static [&'static str] = &["allocate", "join", "meet", "put", "close", "ping"];
    const LIMIT: usize = MAX_FRAME;

    fn check(&self) -> Result<(), ParseError> {
        match self {
            Self::Join { mailbox } => require(is_mailbox(*mailbox), "mailbox"),
            Self::Meet { token, .. } => require(token.len() == MEETING_TOKEN_LEN, "token"),
            Self::Put { body } => require(body.len() <= MAX_BODY, "body"),
            Self::Allocate | Self::Close | Self::Ping => Ok(()),
        }
    }
}

/// Whether `number` can be a mailbox.
pub(super) fn is_mailbox(number: u32) -> bool {
    (1..=MAX_MAILBOX).contains(&number)
}
