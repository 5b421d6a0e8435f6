use super::AttributeType;

/// Why bytes are not a STUN message that can be used: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than a STUN header has.
    #[error("shorter than a STUN header")]
    Truncated,
    /// The first two bits are not zero or the magic cookie is missing.
    #[error("not a STUN message")]
    NotStun,
    /// The length field is not a multiple of four, or not the length of what follows.
    #[error("the STUN length field does not match the message")]
    Length,
    /// An attribute ends outside the message.
    #[error("a STUN attribute ends outside the message")]
    AttributeOverrun,
    /// More than [`MAX_ATTRIBUTES`](super::MAX_ATTRIBUTES) attributes.
    #[error("too many STUN attributes")]
    TooManyAttributes,
    /// The frame is sound, but the value of this attribute is not.
    #[error("STUN attribute {attribute}: {error}")]
    Attribute {
        /// Which attribute.
        attribute: AttributeType,
        /// What is wrong with it.
        error: ValueError,
    },
}

/// Why a value cannot be that of an attribute. Decoding and constructors share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Fewer or more bytes than the attribute has.
    #[error("wrong length")]
    Length,
    /// Text beyond the limit of RFC 8489.
    #[error("text too long")]
    TextTooLong,
    /// Text that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// An address family other than IPv4 and IPv6.
    #[error("unknown address family")]
    Family,
    /// A number outside its range.
    #[error("number out of range")]
    Range,
}

/// Why a check of MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 or FINGERPRINT failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// The message does not carry the attribute, or not where it counts.
    #[error("missing")]
    Missing,
    /// The attribute has a length that it cannot have, or FINGERPRINT is not the last one.
    #[error("malformed")]
    Malformed,
    /// The value is not what the key and the message give.
    #[error("does not match")]
    Mismatch,
}
