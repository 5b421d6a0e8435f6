//! What fails, and whose fault it is.

use std::io;

use postern_proto::turn::client::{ConnectError as Impossible, Failure, SendError};

use super::transport::TransportError;
use crate::dtls::DtlsError;

/// Why there is no allocation.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// There is no server to ask, or none with an address.
    #[error("there is no TURN server to ask")]
    NoServer,
    /// There is no way to the server.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server ended the connection before it gave a relay.
    #[error("the server {server} ended the connection; check that it is a TURN server")]
    HungUp {
        /// The server and the way to it.
        server: String,
        /// How the connection ended.
        #[source]
        source: io::Error,
    },
    /// The server gives no relay, or does not answer.
    #[error("there is no relay at {server}: {failure}")]
    Refused {
        /// The server and the way to it.
        server: String,
        /// Why.
        failure: Failure,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[from] getrandom::Error),
}

impl AllocateError {
    /// How much it says to somebody who has several of them.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::NoServer => 0,
            Self::Transport(
                TransportError::Unreachable { .. }
                | TransportError::Silent { .. }
                | TransportError::Dtls(DtlsError::Silent { .. }),
            ) => 1,
            Self::Refused {
                failure: Failure::TimedOut,
                ..
            } => 2,
            Self::HungUp { .. } => 3,
            Self::Transport(_) => 4,
            Self::Refused { .. } | Self::Entropy(_) => 5,
        }
    }
}

/// Why a peer cannot be reached with datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no allocation any longer.
    #[error("there is no relay any longer: {0}")]
    Ended(Failure),
    /// This allocation cannot send to this peer.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The server does not relay to the peer's address.
    #[error("the server does not relay to this peer: {0}")]
    Refused(Failure),
}

/// Why there is no connection with a peer (RFC 6062).
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no allocation any longer.
    #[error("there is no relay any longer: {0}")]
    Ended(Failure),
    /// It cannot be asked for.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// The server did not connect.
    #[error("the relay has no connection with this peer: {0}")]
    Refused(Failure),
    /// The connection to the server that was to carry it failed.
    #[error("the relay is connected with the peer, but the data connection failed")]
    Transport(#[from] TransportError),
}

/// Why an allocation did not move to another address of ours.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The server did not agree, and there is no allocation any longer.
    #[error("there is no relay any longer: {0}")]
    Ended(Failure),
    /// There is no new way to the server; the allocation is where it was.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It is being moved already.
    #[error("the relay is being moved already")]
    Busy,
}
