//! Rendezvous by a short code: mailboxes, SPAKE2 and sealed messages.
//!
//! Two peers who share a code meet in a mailbox on a server that neither trusts. The
//! code is a mailbox number, which the server knows, and words, which it does not.
//!
//! - [`Rendezvous`] is a client, on either side.
//! - [`Mailboxes`] is the server.
//!
//! Both are machines as the crate describes, with text frames instead of datagrams; a
//! driver gives them one WebSocket text message at a time, in order.
//!
//! # What the code protects
//! SPAKE2 (RFC 9382, over Ed25519) turns the words into a key that only who knows them
//! derives. A stranger, the server included, has **one guess per code**: a machine
//! processes one key exchange and a mailbox lets one side join, once. Both sides prove
//! that they derived the same key before anything that is sealed with it is acted on.
//! The proofs bind the version, the purpose, the mailbox number, the roles and both
//! messages.
//!
//! # Meeting again
//! Two who have met and lost each other ([`Rendezvous::again`]) have a secret in common, from which
//! the name of a meeting comes that only they know. The server keeps nothing of it before the
//! first of them comes and after they have met. Each such meeting has keys of its own: the secret
//! takes the place of the words, and random numbers that of what SPAKE2 exchanges.
//!
//! # What it does not protect
//! The server can drop, delay and count messages. Anybody who guesses a mailbox number
//! in use can spoil that code by joining with wrong words: the sides are told and need
//! a new one. A sealed message is padded to a multiple of [`PADDING`] bytes, so that
//! its size says little.

mod exchange;
mod failure;
pub(crate) mod limits;
mod mailboxes;
mod rendezvous;
mod seal;

pub use exchange::{Role, Secret};
pub use failure::{Failure, ProtocolError, SendError, Wait};
pub use limits::Rate;
pub use mailboxes::{
    ClientId, Event as MailboxesEvent, Mailboxes, MailboxesConfig, OfferedServer, RelayOffer,
    Stats as MailboxesStats,
};
pub use rendezvous::{Event as RendezvousEvent, Rendezvous, RendezvousConfig};
pub use seal::PADDING;

#[cfg(test)]
mod tests;
