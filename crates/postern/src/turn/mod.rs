//! A client of STUN and TURN servers.
//!
//! Nothing here decides what the protocol means: the machine in `postern-proto` does.

mod framing;
mod proxy;
mod transport;

pub use framing::{MessageReader, MessageSender, MessageWriter};
pub use proxy::{Proxy, ProxyError, ProxyUrlError};
pub use transport::{ServerStream, Target, TransportError};
