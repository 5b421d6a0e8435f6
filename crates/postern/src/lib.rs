//! Connect programs that sit behind NATs and firewalls.
//!
//! Two programs that share a short code meet at a server, find a direct path between
//! their machines, and get a [`Connection`]: encrypted streams in both directions.
//!
//! 1. [`Endpoint::bind`] opens the sockets.
//! 2. One side calls [`Endpoint::invite`] and shows the code; the other [`Endpoint::join`]s
//!    with it. The server that introduces them ([`server`]) learns neither the code's words
//!    nor what is said.
//! 3. Both get a [`Connection`] to exactly the peer that knew the code. It moves to a better
//!    path when one is found and to another when one dies.
//! 4. [`transfer`] sends and receives files on it; [`Connection::open_bi`] is for everything
//!    else.
//! 5. [`Endpoint::finish`] waits until the peers know that it is over.
//!
//! This crate drives: sockets, timers and QUIC. What the protocols decide is decided in
//! `postern-proto`, which has neither.
//!
//! It assumes a tokio runtime. It never trusts the server with content, never lets an
//! address that has not passed an authenticated check speak to QUIC, and never writes outside
//! the directory that it was given. Out of scope so far: TCP paths.

mod aside;
pub mod check;
mod clock;
mod connection;
mod dialer;
mod dtls;
mod endpoint;
mod entropy;
mod explain;
#[cfg(target_os = "linux")]
pub mod gateway;
pub mod ice;
mod links;
mod mapped;
mod mdns;
mod metrics;
mod net;
mod os;
pub mod portmap;
pub mod probe;
mod quic;
mod race;
mod rendezvous;
pub mod server;
mod server_url;
mod session;
mod stun_servers;
mod tcp;
mod tls;

#[cfg(test)]
mod tests;
pub mod transfer;
mod trust;
pub mod turn;

pub use connection::{Connection, PathInfo, PathKind, PathProtocol};
pub use dtls::{DtlsError, DtlsSocket};
pub use endpoint::{BindError, Endpoint, EndpointConfig, Invitation};
pub use explain::Explanation;
pub use noq::{ConnectionError, RecvStream, SendStream};
pub use os::{LocalTime, local_time};
pub use postern_proto::connect::{
    Attempted, Cause, Explanation as Facts, Network, Reach, Sides, TriedResult,
};
pub use postern_proto::connect::{PathPolicy, RelayTransport, RelayTransports};
pub use postern_proto::punch::{
    Allocation, Filtering, Mapping, NatReport, PortRange, Technique, Techniques, UnknownTechnique,
};
pub use postern_proto::signal::{Failure as RendezvousError, Wait};
pub use postern_wire::signal::{Code, CodeError, Fingerprint};
pub use rendezvous::{MAX_WAIT, SignallingError};
pub use server_url::{DEFAULT_PORT, ServerUrl, ServerUrlError};
pub use session::EstablishError;
pub use tls::{CertificateFileError, ConnectError};
pub use trust::Trust;
