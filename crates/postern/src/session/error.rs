//! Why there is no connection.

use postern_proto::connect::Failure;

use crate::explain::Explanation;
use crate::rendezvous::SignallingError;

/// Why there is no connection to the peer.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The rendezvous could not begin.
    #[error(transparent)]
    Signalling(#[from] SignallingError),
    /// The rendezvous failed.
    #[error(transparent)]
    Rendezvous(#[from] postern_proto::signal::Failure),
    /// The peer left before there was a connection.
    #[error("the other side went away before a connection was made")]
    PeerLeft,
    /// The server closed the connection before both sides were connected.
    #[error("the connection to the server was lost before the two sides were connected")]
    ServerLost,
    /// The two networks let no direct path through; its sentence says what they did.
    #[error("{}", .0.reason())]
    NoPath(Box<Explanation>),
    /// A path was found, but no encrypted connection could be made over it.
    #[error("a path was found, but no encrypted connection could be made over it")]
    Handshake,
    /// The session ended early, because the endpoint is being closed.
    #[error("the session ended before a connection was made")]
    Ended,
    /// Cryptography could not be set up.
    #[error("the encrypted connection could not be set up")]
    Crypto(#[from] rustls::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

impl From<Failure> for EstablishError {
    fn from(failure: Failure) -> Self {
        if let Some(explanation) = Explanation::of_failure(&failure) {
            return Self::NoPath(Box::new(explanation));
        }
        match failure {
            Failure::Rendezvous(failure) => failure.into(),
            Failure::ServerLost => Self::ServerLost,
            Failure::PeerLeft | Failure::PeerSilent => Self::PeerLeft,
            Failure::Handshake | Failure::NoPath { .. } => Self::Handshake,
        }
    }
}
