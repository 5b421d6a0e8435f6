//! What the server answers and passes on.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::client::is_mailbox;
use super::frame::{self, Frame, ParseError, base64, is_printable, require};
use super::{
    MAX_BODY, MAX_FRAME, MAX_RELAY_CHALLENGE, MAX_RELAY_CREDENTIAL, MAX_RELAY_WAYS, MAX_RELAYS,
    MAX_STUN_SERVERS, MAX_STUN_URI, MAX_TEXT,
};

/// A message from the server to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// Is the first message on every connection.
    Welcome {
        /// The version of the protocol that the server speaks, [`VERSION`](super::VERSION).
        version: u32,
        /// STUN servers as `stun:ip:port`, at most [`MAX_STUN_SERVERS`]; [`stun_address`]
        /// reads one.
        #[serde(default)]
        stun: Vec<String>,
    },
    /// Answers an allocate.
    Mailbox {
        /// The number of the new mailbox, from 1 to [`MAX_MAILBOX`](super::MAX_MAILBOX).
        mailbox: u32,
    },
    /// Says that both sides are there: answers a join, and tells the creator of it.
    Joined,
    /// Offers relays for this meeting, just before both sides are told that the other one
    /// is there. A server without a relay does not send it.
    Relays {
        /// At most [`MAX_RELAYS`].
        relays: Vec<RelayServer>,
    },
    /// Is what the other side put.
    Message {
        /// Opaque bytes, at most [`MAX_BODY`].
        #[serde(with = "base64")]
        body: Vec<u8>,
    },
    /// Says that the mailbox is gone.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// Refuses what the client asked.
    Error {
        /// The kind, for programs.
        kind: ErrorKind,
        /// The explanation for people, printable ASCII of at most [`MAX_TEXT`] bytes.
        #[serde(default)]
        message: String,
    },
    /// Answers a ping.
    Pong,
}

/// A TURN server (RFC 8656), and credentials that it takes for a while.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayServer {
    /// Its address as `turn:ip:port` (RFC 7065), printable ASCII of at most
    /// [`MAX_STUN_URI`] bytes; [`turn_address`] reads it. UDP.
    pub uri: String,
    /// Other ways to it, the preferred one first: URIs of the same form with a transport,
    /// `turn:ip:port?transport=tcp` or `turns:ip:port?transport=tcp`, at most
    /// [`MAX_RELAY_WAYS`]. For `turns` the server shows the certificate of the WebSocket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The user name, printable ASCII of 1 to [`MAX_RELAY_CREDENTIAL`] bytes.
    pub username: String,
    /// The password, of the same form.
    pub password: String,
    /// What the server would challenge this client with (RFC 8489 section 9.2), so that its
    /// first request is authenticated: a response of class error with REALM and NONCE, at most
    /// [`MAX_RELAY_CHALLENGE`] bytes in base64. Clients that do not know it are challenged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

/// Shows no password, so that a log has none.
impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("uri", &self.uri)
            .field("also", &self.also)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why a mailbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// One side closed it.
    Done,
    /// The connection to the other side ended.
    PeerLeft,
    /// Nobody joined in time, or it has existed for too long.
    Expired,
    /// It carried more than a mailbox may.
    Limit,
    /// The connection was silent for too long.
    Idle,
    /// The server is going down.
    Shutdown,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Why the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// There is no mailbox of that number.
    NoSuchMailbox,
    /// The mailbox has had two sides already.
    Crowded,
    /// The client's address asked too often, or has too much open.
    RateLimited,
    /// The message, or what the mailbox keeps, is too large.
    TooLarge,
    /// The message cannot be understood, or not at this point.
    BadMessage,
    /// The server has no room.
    Full,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ServerMessage {
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

impl Frame for ServerMessage {
    const TYPES: &'static [&'static str] = &[
        "welcome", "mailbox", "joined", "relays", "message", "closed", "error", "pong",
    ];
    const LIMIT: usize = MAX_FRAME;

    fn check(&self) -> Result<(), ParseError> {
        match self {
            Self::Welcome { stun, .. } => check_stun(stun),
            Self::Mailbox { mailbox } => require(is_mailbox(*mailbox), "mailbox"),
            Self::Message { body } => require(body.len() <= MAX_BODY, "body"),
            Self::Relays { relays } => check_relays(relays),
            Self::Error { message, .. } => require(is_printable(message, MAX_TEXT), "message"),
            Self::Joined | Self::Closed { .. } | Self::Pong => Ok(()),
        }
    }
}

fn check_stun(stun: &[String]) -> Result<(), ParseError> {
    require(stun.len() <= MAX_STUN_SERVERS, "stun")?;
    let good = stun.iter().all(|uri| is_printable(uri, MAX_STUN_URI));
    require(good, "stun")
}

fn check_relays(relays: &[RelayServer]) -> Result<(), ParseError> {
    require(relays.len() <= MAX_RELAYS, "relays")?;
    let is_credential = |text: &str| !text.is_empty() && is_printable(text, MAX_RELAY_CREDENTIAL);
    let good = |relay: &RelayServer| {
        let uris = [&relay.uri].into_iter().chain(&relay.also);
        let few = relay.also.len() <= MAX_RELAY_WAYS;
        let sound = few && uris.into_iter().all(|uri| is_printable(uri, MAX_STUN_URI));
        let challenge = relay.challenge.as_deref().unwrap_or_default();
        sound
            && is_credential(&relay.username)
            && is_credential(&relay.password)
            && is_printable(challenge, MAX_RELAY_CHALLENGE)
    };
    require(relays.iter().all(good), "relays")
}

/// The address in a TURN URI whose host is an IP address, as [`stun_address`] for STUN.
#[must_use]
pub fn turn_address(uri: &str) -> Option<SocketAddr> {
    let host = uri.strip_prefix("turn:")?;
    stun_address(&format!("stun:{host}"))
}

/// The address in a STUN URI whose host is an IP address: `stun:192.0.2.1:3478` or
/// `stun:[2001:db8::1]:3478`, with port 3478 if there is none (RFC 7064).
///
/// `None` for every other URI: a client skips the servers that it cannot use.
#[must_use]
pub fn stun_address(uri: &str) -> Option<SocketAddr> {
    const DEFAULT_PORT: u16 = 3478;
    let host = uri.strip_prefix("stun:")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.parse().ok().or_else(|| {
        bare.parse()
            .ok()
            .map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
    })
}
