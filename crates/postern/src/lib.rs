//! Connect programs that sit behind NATs and firewalls.

mod clock;
mod connection;
mod endpoint;
mod entropy;
mod explain;
mod net;
mod os;
mod quic;
mod race;
mod rendezvous;
pub mod server;
mod server_url;
mod session;
mod stun_servers;
mod tls;

#[cfg(test)]
mod tests;
pub mod transfer;

pub use connection::{Connection, PathInfo, PathKind, PathProtocol};
pub use endpoint::{BindError, Endpoint, Invitation};
pub use net::Sockets;
pub use noq::{ConnectionError, RecvStream, SendStream};
pub use postern_proto::signal::{Failure as RendezvousError, Wait};
pub use postern_wire::signal::{Code, CodeError, Fingerprint};
pub use rendezvous::{MAX_WAIT, SignallingError};
pub use server_url::{DEFAULT_PORT, ServerUrl, ServerUrlError};
pub use session::EstablishError;
pub use tls::{CertificateFileError, ConnectError};
