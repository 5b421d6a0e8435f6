use super::attribute::{Attribute, AttributeType, UnknownAttributes};
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, split_message_type};
use super::integrity;
use super::{IntegrityError, ParseError};

/// The most attributes a message may have: several times what any STUN, TURN or ICE
/// message has, and a bound on the work that one datagram can cause.
pub const MAX_ATTRIBUTES: usize = 64;

/// Whether a datagram is to be treated as STUN (RFC 8489 section 5, RFC 9443): the first
/// byte is 0 to 3, there is room for a header, and the magic cookie is there.
///
/// A datagram that passes can still fail [`Message::parse`].
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN
        && datagram.first().is_some_and(|byte| *byte <= 3)
        && datagram.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes())
}

/// A checked view of a STUN message: a sound header, and all attributes inside.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    id: TransactionId,
}

impl<'a> Message<'a> {
    /// Checks a datagram, or one message taken from a stream.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the header or the frame of the attributes. The values of
    /// attributes are checked by [`Message::get`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, body) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(ParseError::Truncated)?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, id @ ..] = *header;
        if t0 & 0xc0 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        if !body.len().is_multiple_of(4) || body.len() != usize::from(u16::from_be_bytes([l0, l1]))
        {
            return Err(ParseError::Length);
        }
        check_attributes(body)?;
        let (class, method) = split_message_type(u16::from_be_bytes([t0, t1]));
        let id = TransactionId(id);
        Ok(Self {
            bytes,
            class,
            method,
            id,
        })
    }

    /// Request, indication, success or error response.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// What it asks for or answers.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The transaction it belongs to.
    #[must_use]
    pub const fn transaction_id(&self) -> TransactionId {
        self.id
    }

    /// The whole message, header included.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes that count, in order, as type and raw value without padding.
    ///
    /// Attributes behind MESSAGE-INTEGRITY do not count, except MESSAGE-INTEGRITY-SHA256
    /// and FINGERPRINT; behind MESSAGE-INTEGRITY-SHA256 only FINGERPRINT does, and
    /// behind FINGERPRINT nothing (RFC 8489 sections 14.5 to 14.7).
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes {
            bytes: self.bytes,
            offset: HEADER_LEN,
            last: None,
        }
    }

    /// The raw value of the first attribute of this type, if there is one.
    #[must_use]
    pub fn raw(&self, kind: AttributeType) -> Option<&'a [u8]> {
        self.attributes()
            .find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// Whether there is an attribute of this type.
    #[must_use]
    pub fn contains(&self, kind: AttributeType) -> bool {
        self.raw(kind).is_some()
    }

    /// The first attribute of the type `A`, as a typed value; `None` if there is none.
    /// Further ones are ignored (RFC 8489 section 14).
    ///
    /// # Errors
    ///
    /// [`ParseError::Attribute`] if its value is malformed.
    pub fn get<A: Attribute<'a>>(&self) -> Result<Option<A>, ParseError> {
        self.raw(A::TYPE)
            .map(|value| A::decode(value, self.id))
            .transpose()
            .map_err(|error| ParseError::Attribute {
                attribute: A::TYPE,
                error,
            })
    }

    /// The comprehension-required attributes that are not in `known`, each once, in
    /// order, at most [`UnknownAttributes::MAX`].
    ///
    /// MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 are always known: this module
    /// understands them.
    #[must_use]
    pub fn unknown_comprehension_required(&self, known: &[AttributeType]) -> UnknownAttributes {
        self.attributes()
            .map(|(kind, _)| kind)
            .filter(|kind| kind.is_comprehension_required())
            .filter(|kind| !kind.is_integrity() && !known.contains(kind))
            .collect()
    }

    /// Checks MESSAGE-INTEGRITY (RFC 8489 section 14.5) in constant time.
    ///
    /// # Errors
    ///
    /// Says whether the attribute is missing, malformed or wrong for this key.
    pub fn verify_integrity(&self, key: &[u8]) -> Result<(), IntegrityError> {
        let (covered, value) = self.sealed(AttributeType::MESSAGE_INTEGRITY)?;
        integrity::verify_sha1(key, covered, value)
    }

    /// Checks MESSAGE-INTEGRITY-SHA256 (RFC 8489 section 14.6) in constant time. Values
    /// truncated to 16 to 32 bytes, in steps of four, are accepted.
    ///
    /// # Errors
    ///
    /// Says whether the attribute is missing, malformed or wrong for this key.
    pub fn verify_integrity_sha256(&self, key: &[u8]) -> Result<(), IntegrityError> {
        let (covered, value) = self.sealed(AttributeType::MESSAGE_INTEGRITY_SHA256)?;
        integrity::verify_sha256(key, covered, value)
    }

    /// Checks FINGERPRINT (RFC 8489 section 14.7), which must be the last attribute.
    ///
    /// # Errors
    ///
    /// Says whether the attribute is missing, malformed or misplaced, or wrong.
    pub fn verify_fingerprint(&self) -> Result<(), IntegrityError> {
        let (covered, value) = self.sealed(AttributeType::FINGERPRINT)?;
        integrity::verify_fingerprint(covered, value, self.bytes.len())
    }

    /// What precedes the attribute of type `kind`, and its value.
    fn sealed(&self, kind: AttributeType) -> Result<(&'a [u8], &'a [u8]), IntegrityError> {
        let mut attributes = self.attributes();
        loop {
            let covered = attributes.consumed();
            match attributes.next() {
                Some((found, value)) if found == kind => return Ok((covered, value)),
                Some(_) => {}
                None => return Err(IntegrityError::Missing),
            }
        }
    }
}

/// The attributes of a [`Message`] that count; see [`Message::attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// The last attribute that closed the message to some of the following ones.
    last: Option<AttributeType>,
}

impl<'a> Attributes<'a> {
    /// The message up to the next attribute that counts, with what is skipped before it:
    /// integrity attributes cover that too.
    fn consumed(&mut self) -> &'a [u8] {
        self.skip_what_does_not_count();
        self.bytes.get(..self.offset).unwrap_or_default()
    }

    fn skip_what_does_not_count(&mut self) {
        while let Some((kind, _, end)) = self.peek() {
            if self.counts(kind) {
                break;
            }
            self.offset = end;
        }
    }

    fn counts(&self, kind: AttributeType) -> bool {
        match self.last {
            None => true,
            Some(AttributeType::MESSAGE_INTEGRITY) => {
                kind == AttributeType::MESSAGE_INTEGRITY_SHA256
                    || kind == AttributeType::FINGERPRINT
            }
            Some(AttributeType::MESSAGE_INTEGRITY_SHA256) => kind == AttributeType::FINGERPRINT,
            Some(_) => false,
        }
    }

    /// The next attribute whether it counts or not, and the offset behind it.
    fn peek(&self) -> Option<(AttributeType, &'a [u8], usize)> {
        let rest = self.bytes.get(self.offset..)?;
        let (kind, value, rest) = split_attribute(rest)?;
        Some((kind, value, self.bytes.len().checked_sub(rest.len())?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (AttributeType, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_what_does_not_count();
        let (kind, value, end) = self.peek()?;
        self.offset = end;
        if kind.is_integrity() || kind == AttributeType::FINGERPRINT {
            self.last = Some(kind);
        }
        Some((kind, value))
    }
}

fn check_attributes(mut rest: &[u8]) -> Result<(), ParseError> {
    for _ in 0..MAX_ATTRIBUTES {
        if rest.is_empty() {
            return Ok(());
        }
        (_, _, rest) = split_attribute(rest).ok_or(ParseError::AttributeOverrun)?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(ParseError::TooManyAttributes)
    }
}

/// Type, value and what follows the padding of the first attribute.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Type                  |            Length             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         Value (variable)                ....
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
fn split_attribute(bytes: &[u8]) -> Option<(AttributeType, &[u8], &[u8])> {
    let ([t0, t1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    let (padded, rest) = rest.split_at_checked(length.next_multiple_of(4))?;
    let kind = AttributeType(u16::from_be_bytes([*t0, *t1]));
    Some((kind, padded.get(..length)?, rest))
}
