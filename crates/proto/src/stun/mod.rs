//! STUN (RFC 8489): client transactions and the Binding server.
//!
//! - [`Transactions`] sends requests again until they are answered or given up. What the
//!   requests say is opaque to it, so that ICE and TURN use it too.
//! - [`BindingServer`] tells clients their address and keeps no state about them, except
//!   how much it sent to each network.
//!
//! - [`behaviour`] is what a client learns about its NATs (RFC 5780).
//! - [`Credentials`] are those whom a server believes, by a password or for a time.
//!
//! Out of scope: authentication of responses. Whoever builds a request with a key verifies
//! the response to it: see [`Transactions::response`].

mod auth;
pub mod behaviour;
mod budget;
mod server;
mod transactions;

pub(crate) use auth::{Authenticator, Origin, Refusal};
pub use auth::{Credentials, Integrity, Key, Session, TimeLimited};
pub use server::{Alternate, BindingServer};
pub use transactions::{
    Event, MAX_OUTSTANDING, Request, RequestError, Response, RetransmitPolicy, Transactions,
    random_transaction_id,
};

#[cfg(test)]
mod tests;
