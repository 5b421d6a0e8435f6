//! What the three kinds of message have in common: JSON, bounds and text.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a frame is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The frame is larger than its kind may be.
    #[error("a message of {len} bytes is larger than {limit}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The bound that it exceeds, in bytes.
        limit: usize,
    },
    /// The frame is not a JSON object with the fields that its type requires.
    #[error("a message is not the JSON that its type requires")]
    Malformed,
    /// The frame is a message of a type that this version does not know.
    #[error("a message has an unknown type")]
    UnknownType,
    /// A field is longer than its bound, or has characters that it must not have.
    #[error("the field `{0}` of a message is out of bounds")]
    BadField(&'static str),
}

/// A message that travels as one JSON object.
pub(super) trait Frame: Serialize + DeserializeOwned {
    /// Every value that the field `type` may have.
    const TYPES: &'static [&'static str];
    /// Largest frame in bytes.
    const LIMIT: usize;

    /// Checks what the shape alone does not: lengths and characters.
    fn check(&self) -> Result<(), ParseError>;
}

pub(super) fn parse<T: Frame>(frame: &[u8]) -> Result<T, ParseError> {
    if frame.len() > T::LIMIT {
        return Err(ParseError::TooLarge {
            len: frame.len(),
            limit: T::LIMIT,
        });
    }
    let message: T = serde_json::from_slice(frame).map_err(|_| shape_error::<T>(frame))?;
    message.check()?;
    Ok(message)
}

/// The messages are maps with string keys, which serde_json always can write.
pub(super) fn to_json<T: Frame>(message: &T) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

fn shape_error<T: Frame>(frame: &[u8]) -> ParseError {
    #[derive(Deserialize)]
    struct Tag {
        r#type: String,
    }
    match serde_json::from_slice::<Tag>(frame) {
        Ok(tag) if !T::TYPES.contains(&tag.r#type.as_str()) => ParseError::UnknownType,
        Ok(_) | Err(_) => ParseError::Malformed,
    }
}

/// Requires `good`, and names the field that is not.
pub(super) fn require(good: bool, field: &'static str) -> Result<(), ParseError> {
    if good {
        Ok(())
    } else {
        Err(ParseError::BadField(field))
    }
}

/// Whether `text` has at most `limit` bytes of printable ASCII: nothing in it can
/// move a terminal's cursor or hide another character.
pub(super) fn is_printable(text: &str, limit: usize) -> bool {
    text.len() <= limit && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// Bytes in a JSON string: base64 with padding (RFC 4648 section 4).
pub(super) mod base64 {
    use data_encoding::BASE64;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
