//! Long-term credentials (RFC 8489 section 9.2), the server's side.
//!
//! The challenge is stateless: its nonce is a MAC over the time and the client's address,
//! so that nothing is kept of whoever has not answered it.

mod credentials;
mod nonce;
mod session;
mod verify;

#[cfg(test)]
mod tests;

pub use credentials::{Credentials, TimeLimited};
pub(crate) use nonce::Origin;
pub use session::{Integrity, Key, Session};
pub(crate) use verify::{Authenticator, Refusal};
