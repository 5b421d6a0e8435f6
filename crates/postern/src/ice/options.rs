//! What a session is made of, and what the peers tell each other.

use std::io;
use std::net::SocketAddr;

use postern_proto::ice::{Config, Credentials, Role};

use crate::mdns::NamesError;
use crate::turn::{self, AllocateError};

/// What a session is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who nominates: the side that has made the offer controls (RFC 8445 section 6.1.1).
    pub role: Role,
    /// Components of the data stream, 1 to [`MAX_COMPONENTS`](super::MAX_COMPONENTS).
    pub components: u16,
    /// STUN servers; of more than eight the first ones are asked.
    pub stun: Vec<SocketAddr>,
    /// TURN servers: the first that answers relays.
    pub turn: Vec<turn::Server>,
    /// What to ask of them.
    pub relay: turn::Options,
    /// Whether loopback addresses are candidates.
    pub loopback: bool,
    /// Whether private addresses of this machine are told as random multicast DNS names, which are
    /// answered for on their networks while the session lives.
    pub mdns: bool,
}

impl Options {
    /// One component, and no servers.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            components: 1,
            stun: Vec::new(),
            turn: Vec::new(),
            relay: turn::Options::default(),
            loopback: false,
            mdns: false,
        }
    }

    pub(super) fn config(&self) -> Config {
        Config {
            components: self.components,
            allow_loopback: self.loopback,
            ..Config::default()
        }
    }
}

/// What a peer has to know of the other.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// The user fragment.
    pub ufrag: String,
    /// The password: secret.
    pub pwd: String,
    /// Lines `candidate:…` (RFC 8839 section 5.1).
    pub candidates: Vec<String>,
    /// Whether the agent is lite (`a=ice-lite`). Ours never is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lite: bool,
}

impl Description {
    pub(super) fn credentials(&self) -> Result<Credentials, DescriptionError> {
        let credentials = Credentials {
            ufrag: self.ufrag.clone(),
            pwd: self.pwd.clone(),
        };
        match credentials.is_valid() {
            true => Ok(credentials),
            false => Err(DescriptionError::Credentials),
        }
    }
}

/// Why there are no candidates.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The addresses of this machine are unknown, or no socket could be bound on any.
    #[error("no UDP socket could be bound on an address of this machine")]
    Sockets(#[source] io::Error),
    /// This machine has no address that a peer could reach.
    #[error("this machine has no address on any network")]
    NoAddress,
    /// Addresses cannot be told as names.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// There is no relay.
    #[error(transparent)]
    Relay(#[from] AllocateError),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// Why a peer's description cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// RFC 8445 section 5.3.
    #[error("ufrag needs 4 to 256 and pwd 22 to 256 letters, digits, + or /")]
    Credentials,
}
