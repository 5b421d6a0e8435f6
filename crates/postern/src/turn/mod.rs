//! A client of TURN servers (RFC 8656): UDP and TCP relays, over UDP, TCP, TLS and DTLS.
//!
//! 1. [`Resolver::resolve`] finds the [`Server`]s behind a URI.
//! 2. [`Allocation::request`] asks servers, with [`Options`], for an address at one of them.
//! 3. [`Allocation::permit`], [`send_to`](Allocation::send_to) and
//!    [`recv_from`](Allocation::recv_from) exchange datagrams with peers;
//!    [`connect`](Allocation::connect) and [`accept`](Allocation::accept) make connections
//!    with them (RFC 6062).
//! 4. [`Allocation::close`] gives the address back.
//!
//! Nothing here decides what the protocol means: the machine in `postern-proto` does. What
//! passes a relay is as safe from it as from any network: its users encrypt.

mod allocation;
mod driver;
mod error;
mod framing;
mod link;
mod names;
mod options;
mod proxy;
mod relayed;
mod transport;

#[cfg(test)]
mod tests;

pub use allocation::Allocation;
pub use error::{AllocateError, ConnectError, MoveError, PeerError};
pub use framing::{MessageReader, MessageSender, MessageWriter};
pub use names::{ResolveError, Resolver};
pub use options::{Options, Server, time_limited};
pub use postern_proto::turn::client::{
    Allocation as Granted, ConnectError as ConnectRefusal, Credentials, Failure, Relay, SendError,
};
pub use postern_wire::turn::AddressFamily;
pub use postern_wire::uri::{Scheme, ServerUri, Transport};
pub use proxy::{Proxy, ProxyError, ProxyUrlError};
pub use relayed::RelayedStream;
pub use transport::{ServerStream, Target, TransportError};
