//! The mailbox protocol, and the messages that two peers seal to each other.
//!
//! Two peers meet in a *mailbox* on a server. Every frame is one JSON object in one
//! WebSocket text message, told apart by its field `type`:
//!
//! | direction | type | module |
//! |---|---|---|
//! | client to server | [`ClientMessage`] | what a client asks of its mailbox |
//! | server to client | [`ServerMessage`] | what the server answers and passes on |
//! | peer to peer | [`PeerMessage`] | sealed inside the bodies; the server cannot read it |
//!
//! The peers name the mailbox and prove themselves to each other with a [`Code`].
//!
//! A parser accepts unknown fields, which newer versions may add, and refuses unknown
//! types, everything that exceeds a bound below, and text that could not be shown on a
//! terminal.
//!
//! ```text
//! creator                         server                          joiner
//!    | <------ welcome ------------- |                               |
//!    | ------- allocate -----------> |                               |
//!    | <------ mailbox 7 ----------- |                               |
//!    | ------- put (key exchange) -> |                               |
//!    |                               | ------- welcome ------------> |
//!    |                               | <------ join 7 -------------- |
//!    | <------ joined -------------- | ------- joined -------------> |
//!    |                               | ------- message (kept) -----> |
//!    | <------ message ------------- | <------ put ----------------- |
//!    | ------- put ----------------> | ------- message ------------> |
//!    | ------- close --------------> | ------- closed (done) ------> |
//! ```

mod client;
mod code;
mod envelope;
mod frame;
mod nat;
mod peer;
mod server;

pub use client::ClientMessage;
pub use code::{Code, CodeError, MAX_MAILBOX, WORDS_PER_CODE, word_list, words_with_prefix};
pub use envelope::{CONFIRMATION_LEN, Envelope, KEY_EXCHANGE_LEN};
pub use frame::ParseError;
pub use nat::{MAX_PREDICTED_PORTS, Nat, NatAllocation, NatFiltering, NatMapping, Prediction};
pub use peer::{ByeReason, Fingerprint, Hello, PURPOSE_TRANSFER, PeerMessage, Report};
pub use server::{CloseReason, ErrorKind, RelayServer, ServerMessage, stun_address, turn_address};

/// The version of the mailbox protocol and of the messages between peers.
pub const VERSION: u32 = 1;

/// Largest frame in bytes: a body of [`MAX_BODY`] in base64, and its JSON.
pub const MAX_FRAME: usize = 64 * 1024;

/// Largest body of a put or a message in bytes: a sealed message of [`MAX_PEER_MESSAGE`],
/// its tag and its kind.
pub const MAX_BODY: usize = MAX_PEER_MESSAGE + 64;

/// Largest peer message in bytes as JSON: a [`Hello`] with [`MAX_CANDIDATES`] of the
/// longest candidates, every byte of them escaped.
pub const MAX_PEER_MESSAGE: usize = 40 * 1024;

/// Bytes of the token by which two who have met before meet again.
pub const MEETING_TOKEN_LEN: usize = 32;

/// Most candidates in one [`Hello`]: more than a host with a dozen interfaces gathers.
pub const MAX_CANDIDATES: usize = 64;

/// Longest candidate line in bytes; the longest that postern writes is about 150.
pub const MAX_CANDIDATE: usize = 256;

/// Longest ICE user name fragment or password in bytes (RFC 8839 section 5.4).
pub const MAX_CREDENTIAL: usize = 256;

/// Longest purpose in bytes.
pub const MAX_PURPOSE: usize = 32;

/// Most STUN servers in a welcome: two families of a few servers.
pub const MAX_STUN_SERVERS: usize = 16;

/// Longest STUN URI in bytes.
pub const MAX_STUN_URI: usize = 128;

/// Most relays that a server may offer: two families of a few servers.
pub const MAX_RELAYS: usize = 4;

/// Most further ways to a relay: TCP and two ports of TLS in both families, and some more.
pub const MAX_RELAY_WAYS: usize = 8;

/// Longest user name or password of a relay in bytes; the ones that postern issues have
/// about 30.
pub const MAX_RELAY_CREDENTIAL: usize = 256;

/// Longest challenge of a relay in base64: a response with the longest REALM has 340.
pub const MAX_RELAY_CHALLENGE: usize = 512;

/// Longest explanation in a server's error in bytes.
pub const MAX_TEXT: usize = 256;

#[cfg(test)]
mod tests;
