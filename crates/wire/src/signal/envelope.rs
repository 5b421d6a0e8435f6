//! What the body of a put holds.

use super::frame::ParseError;

/// Bytes of a SPAKE2 message: the side and a point of Ed25519.
pub const KEY_EXCHANGE_LEN: usize = 33;

/// Bytes of a key confirmation: one HMAC-SHA256.
pub const CONFIRMATION_LEN: usize = 32;

const KEY_EXCHANGE: u8 = 1;
const CONFIRMATION: u8 = 2;
const SEALED: u8 = 3;

/// The body of a put: one byte for the kind, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// A SPAKE2 message.
    KeyExchange(&'a [u8; KEY_EXCHANGE_LEN]),
    /// The proof that the sender derived the same key.
    Confirmation(&'a [u8; CONFIRMATION_LEN]),
    /// A sealed [`PeerMessage`](super::PeerMessage).
    Sealed(&'a [u8]),
}

impl<'a> Envelope<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ParseError::UnknownType`] for another kind, [`ParseError::Malformed`] for no
    /// bytes or the wrong number of them.
    pub fn parse(body: &'a [u8]) -> Result<Self, ParseError> {
        let (kind, rest) = body.split_first().ok_or(ParseError::Malformed)?;
        match *kind {
            KEY_EXCHANGE => Ok(Self::KeyExchange(exactly(rest)?)),
            CONFIRMATION => Ok(Self::Confirmation(exactly(rest)?)),
            SEALED => Ok(Self::Sealed(rest)),
            _ => Err(ParseError::UnknownType),
        }
    }

    /// Writes the body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match *self {
            Self::KeyExchange(bytes) => [&[KEY_EXCHANGE], bytes.as_slice()].concat(),
            Self::Confirmation(bytes) => [&[CONFIRMATION], bytes.as_slice()].concat(),
            Self::Sealed(bytes) => [&[SEALED], bytes].concat(),
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], ParseError> {
    bytes.try_into().map_err(|_| ParseError::Malformed)
}
