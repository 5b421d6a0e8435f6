//! STUN messages (RFC 8489), with the attributes of ICE (RFC 8445) and of NAT behaviour
//! discovery (RFC 5780).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |0 0|     STUN Message Type     |         Message Length        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Magic Cookie                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     Transaction ID (96 bits)                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Two levels:
//!
//! 1. [`Message::parse`] checks the frame and gives a view. Its accessors cannot fail.
//! 2. [`Message::get`] reads one attribute as a typed value and says what is wrong with it.
//!
//! [`Builder`] writes messages; its type allows MESSAGE-INTEGRITY,
//! MESSAGE-INTEGRITY-SHA256 and FINGERPRINT only in the order of RFC 8489.
//!
//! ```
//! use postern_wire::stun::{Builder, Class, Message, Method, Priority, TransactionId, Username};
//!
//! let bytes = Builder::new(Class::Request, Method::BINDING, TransactionId([7; 12]))
//!     .attribute(&Username::new("remote:local")?)
//!     .attribute(&Priority(1_845_501_695))
//!     .message_integrity(b"password")
//!     .fingerprint()
//!     .build();
//!
//! let message = Message::parse(&bytes).expect("a message that was just built");
//! assert_eq!(message.verify_fingerprint(), Ok(()));
//! assert_eq!(message.verify_integrity(b"password"), Ok(()));
//! assert_eq!(message.get::<Priority>(), Ok(Some(Priority(1_845_501_695))));
//! # Ok::<(), postern_wire::stun::ValueError>(())
//! ```
//!
//! Out of scope: classic STUN without the magic cookie (RFC 3489) beyond [`ClassicRequest`], and
//! the preparation of user names, realms and passwords as OpaqueString (RFC 8265): strings are used as they
//! are given, so callers with non-ASCII credentials prepare them first.

pub(crate) mod attribute;
mod binding;
mod builder;
mod classic;
mod error;
mod header;
mod integrity;
mod message;

#[cfg(test)]
mod tests;

pub use attribute::{
    Algorithm, AlternateDomain, AlternateServer, Attribute, AttributeType, ChangeRequest,
    ErrorCode, IceControlled, IceControlling, MappedAddress, Nonce, OtherAddress, Padding,
    PasswordAlgorithm, PasswordAlgorithms, Priority, Punched, Realm, ResponseOrigin, ResponsePort,
    Software, UnknownAttributes, UseCandidate, Userhash, Username, XorMappedAddress,
};
pub use binding::{BindingResponse, bare_binding_request};
pub use builder::{
    BeforeFingerprint, BeforeSha256, Builder, Fingerprinted, Open, Signed, SignedSha256,
};
pub use classic::ClassicRequest;
pub use error::{IntegrityError, ParseError, ValueError};
pub use header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId};
pub use integrity::{long_term_key_md5, long_term_key_sha256, short_term_key};
pub use message::{Attributes, MAX_ATTRIBUTES, Message, is_stun};
