//! What the client tells its user.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_wire::turn::{AddressFamily, ChannelNumber, ConnectionId, Icmp};

/// What the server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The relayed transport address: where peers reach us.
    pub relayed: SocketAddr,
    /// The second one, of the other family, if it was asked for and given.
    pub additional: Option<SocketAddr>,
    /// Why the second one is missing (ADDRESS-ERROR-CODE).
    pub missing: Option<(AddressFamily, Failure)>,
    /// Our address as the server sees it: a server-reflexive candidate over UDP.
    pub mapped: Option<SocketAddr>,
    /// How long it lives without refreshes, which the client sends by itself.
    pub lifetime: Duration,
    /// The reservation of the next higher port, for another client's
    /// [`Config::reservation`](super::Config::reservation).
    pub reservation: Option<[u8; 8]>,
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The allocation is there.
    Allocated(Allocation),
    /// The server has moved the allocation to our new address (RFC 8016).
    Moved,
    /// Another server of the same family is to be asked: make a transport to it of the same
    /// kind, then call [`Client::reconnected`](super::Client::reconnected).
    Redirected {
        /// The server.
        server: SocketAddr,
        /// The name that its TLS or DTLS certificate must have, if it is not the first
        /// server's.
        domain: Option<String>,
    },
    /// A peer sent this.
    Data {
        /// The peer.
        peer: SocketAddr,
        /// Its datagram.
        payload: Vec<u8>,
    },
    /// A datagram to the peer met an ICMP error.
    Icmp {
        /// The peer.
        peer: SocketAddr,
        /// The error.
        icmp: Icmp,
    },
    /// Peers at this address may send to us. Comes once, not with each refresh.
    Permitted(IpAddr),
    /// The server does not relay to this address; nothing else is concerned.
    PeerRefused {
        /// The address.
        peer: IpAddr,
        /// Why.
        failure: Failure,
    },
    /// Data to this peer may be framed as ChannelData.
    ChannelBound {
        /// The peer.
        peer: SocketAddr,
        /// The channel.
        channel: ChannelNumber,
    },
    /// The channel is no more; data to the peer goes in indications.
    ChannelEnded {
        /// The peer.
        peer: SocketAddr,
        /// The channel.
        channel: ChannelNumber,
    },
    /// The server is connected with the peer (RFC 6062): open a data connection to the
    /// server, then call [`Client::bind_connection`](super::Client::bind_connection) within
    /// 30 s.
    Connected {
        /// The peer.
        peer: SocketAddr,
        /// The connection.
        id: ConnectionId,
    },
    /// A peer has connected to the relayed address: as [`Connected`](Self::Connected), or
    /// ignore it.
    ConnectionAttempt {
        /// The peer.
        peer: SocketAddr,
        /// The connection.
        id: ConnectionId,
    },
    /// From here on the data connection carries the peer's bytes and nothing else.
    ConnectionBound {
        /// The connection.
        id: ConnectionId,
        /// The peer.
        peer: SocketAddr,
        /// The local address of the data connection.
        local: SocketAddr,
        /// The peer's bytes that came along with the server's answer.
        early: Vec<u8>,
    },
    /// There is no connection with the peer.
    ConnectionFailed {
        /// The peer.
        peer: SocketAddr,
        /// The connection, if there was one to be bound.
        id: Option<ConnectionId>,
        /// Why.
        failure: Failure,
    },
    /// There is no allocation, or not any longer. The client does nothing from here on.
    Failed(Failure),
    /// [`Client::close`](super::Client::close) is done.
    Closed,
}

/// Why the server, or the way to it, did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer.
    #[error("the TURN server does not answer")]
    TimedOut,
    /// The allocation has run out without a refresh having been answered.
    #[error("the allocation has run out")]
    Expired,
    /// The answer lacks what it must have, or a stream is out of step.
    #[error("the TURN server's answer is malformed")]
    Malformed,
    /// Over a stream relaying TCP, or a datagram transport asked for what only streams do.
    #[error("TCP relays need a connection over TCP or TLS")]
    NeedsStream,
    /// The server asks for credentials and we have none.
    #[error("the TURN server asks for credentials")]
    NoCredentials,
    /// 401: user name or password are wrong.
    #[error("the TURN server refuses the credentials")]
    Unauthenticated,
    /// The nonce says that the server has password algorithms and the response has none, or
    /// they were there before: somebody may want us to use weaker ones (RFC 8489 section
    /// 9.2.5).
    #[error("the challenge was weakened on its way")]
    BidDown,
    /// The server has no password algorithm in common with us.
    #[error("no password algorithm in common")]
    NoAlgorithm,
    /// 438 again and again.
    #[error("the TURN server calls every nonce stale")]
    StaleNonce,
    /// 300 too often, in a circle, without an address, or to the other family.
    #[error("the TURN server redirects to where it cannot")]
    BadRedirect,
    /// Our address has changed and the server has given no mobility ticket.
    #[error("the allocation cannot move")]
    Immobile,
    /// 400.
    #[error("the TURN server calls the request malformed")]
    BadRequest,
    /// 403: the policy of the server forbids it.
    #[error("forbidden by the TURN server")]
    Forbidden,
    /// 405: no mobility (RFC 8016).
    #[error("the TURN server does not do mobility")]
    MobilityForbidden,
    /// 420.
    #[error("the TURN server does not know an attribute")]
    UnknownAttribute,
    /// 437 to an Allocate: the server still has one for our port; make another client with a
    /// new socket. To anything else: the server has forgotten the allocation.
    #[error("the TURN server has another idea of the allocation")]
    AllocationMismatch,
    /// 440.
    #[error("the TURN server has no such address family")]
    FamilyNotSupported,
    /// 441.
    #[error("the allocation belongs to other credentials")]
    WrongCredentials,
    /// 442.
    #[error("the TURN server does not relay this protocol")]
    TransportNotSupported,
    /// 443.
    #[error("the peer is of another address family")]
    PeerFamily,
    /// 446: there is a connection to this peer.
    #[error("there is a connection to this peer")]
    ConnectionExists,
    /// 447: the peer did not take the connection.
    #[error("the peer does not take the connection")]
    ConnectionFailed,
    /// 486: the user has too many allocations.
    #[error("too many allocations of this user")]
    QuotaReached,
    /// 500.
    #[error("the TURN server failed")]
    ServerError,
    /// 508: the server is full.
    #[error("the TURN server is full")]
    NoCapacity,
    /// Another error code.
    #[error("the TURN server answers with error {0}")]
    Code(u16),
}

impl Failure {
    pub(super) const fn from_code(code: u16) -> Self {
        match code {
            300 => Self::BadRedirect,
            400 => Self::BadRequest,
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            405 => Self::MobilityForbidden,
            420 => Self::UnknownAttribute,
            437 => Self::AllocationMismatch,
            438 => Self::StaleNonce,
            440 => Self::FamilyNotSupported,
            441 => Self::WrongCredentials,
            442 => Self::TransportNotSupported,
            443 => Self::PeerFamily,
            446 => Self::ConnectionExists,
            447 => Self::ConnectionFailed,
            486 => Self::QuotaReached,
            500 => Self::ServerError,
            508 => Self::NoCapacity,
            code => Self::Code(code),
        }
    }
}
