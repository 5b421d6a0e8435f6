use std::marker::PhantomData;

use super::attribute::{Attribute, AttributeType};
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, message_type};
use super::integrity;

/// A builder that takes attributes.
#[derive(Debug, Clone, Copy)]
pub struct Open;

/// A builder that has MESSAGE-INTEGRITY.
#[derive(Debug, Clone, Copy)]
pub struct Signed;

/// A builder that has MESSAGE-INTEGRITY-SHA256.
#[derive(Debug, Clone, Copy)]
pub struct SignedSha256;

/// A builder that has FINGERPRINT.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprinted;

/// Writes a message. The type parameter is how far the message has come: each stage
/// offers only what RFC 8489 allows next (sections 14.5 to 14.7).
///
/// A message has at most 65,532 bytes behind its header. An attribute that does not fit
/// is left out; only [`Builder::raw_attribute`] and [`Padding`](super::Padding) can come
/// near that.
#[derive(Debug, Clone)]
pub struct Builder<Stage = Open> {
    bytes: Vec<u8>,
    id: TransactionId,
    stage: PhantomData<Stage>,
}

impl Builder {
    /// A message without attributes.
    #[must_use]
    pub fn new(class: Class, method: Method, id: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&message_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&id.0);
        Self {
            bytes,
            id,
            stage: PhantomData,
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute<'a>(mut self, attribute: &impl Attribute<'a>) -> Self {
        let id = self.id;
        self.append(attribute_type(attribute), |value| {
            attribute.encode(id, value);
        });
        self
    }

    /// Adds an attribute if there is one.
    #[must_use]
    pub fn maybe_attribute<'a>(self, attribute: Option<&impl Attribute<'a>>) -> Self {
        match attribute {
            Some(attribute) => self.attribute(attribute),
            None => self,
        }
    }

    /// Adds an attribute whose value is given as bytes, for attributes that this module
    /// does not know.
    #[must_use]
    pub fn raw_attribute(mut self, kind: AttributeType, value: &[u8]) -> Self {
        self.append(kind, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// Adds MESSAGE-INTEGRITY, an HMAC-SHA1 of everything so far.
    #[must_use]
    pub fn message_integrity(mut self, key: &[u8]) -> Builder<Signed> {
        let value = integrity::sha1(key, &self.bytes);
        self.append(AttributeType::MESSAGE_INTEGRITY, |bytes| {
            bytes.extend_from_slice(&value)
        });
        self.into_stage()
    }
}

impl<Stage: BeforeSha256> Builder<Stage> {
    /// Adds MESSAGE-INTEGRITY-SHA256, an HMAC-SHA256 of everything so far, untruncated.
    #[must_use]
    pub fn message_integrity_sha256(mut self, key: &[u8]) -> Builder<SignedSha256> {
        let value = integrity::sha256(key, &self.bytes);
        self.append(AttributeType::MESSAGE_INTEGRITY_SHA256, |bytes| {
            bytes.extend_from_slice(&value)
        });
        self.into_stage()
    }
}

impl<Stage: BeforeFingerprint> Builder<Stage> {
    /// Adds FINGERPRINT, a checksum of everything so far.
    #[must_use]
    pub fn fingerprint(mut self) -> Builder<Fingerprinted> {
        let value = integrity::fingerprint(&self.bytes);
        self.append(AttributeType::FINGERPRINT, |bytes| {
            bytes.extend_from_slice(&value)
        });
        self.into_stage()
    }
}

impl<Stage> Builder<Stage> {
    /// The message.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        self.bytes
    }

    fn into_stage<Next>(self) -> Builder<Next> {
        Builder {
            bytes: self.bytes,
            id: self.id,
            stage: PhantomData,
        }
    }

    /// Appends an attribute whose value `write` appends, or nothing if it does not fit.
    fn append(&mut self, AttributeType(kind): AttributeType, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
        let before_value = self.bytes.len();
        write(&mut self.bytes);
        if self.close_attribute(before_value).is_none() {
            self.bytes.truncate(start);
        }
    }

    /// Pads the last attribute, and writes its length and the message's.
    fn close_attribute(&mut self, before_value: usize) -> Option<()> {
        let length = self.bytes.len().checked_sub(before_value)?;
        let length = u16::try_from(length).ok()?;
        let end = self.bytes.len().next_multiple_of(4);
        let body = u16::try_from(end.checked_sub(HEADER_LEN)?).ok()?;
        self.bytes.resize(end, 0);
        self.write_u16(before_value.checked_sub(2)?, length)?;
        self.write_u16(2, body)
    }

    fn write_u16(&mut self, offset: usize, number: u16) -> Option<()> {
        let field = self.bytes.get_mut(offset..)?.first_chunk_mut()?;
        *field = number.to_be_bytes();
        Some(())
    }
}

/// The stages in which MESSAGE-INTEGRITY-SHA256 can be added.
pub trait BeforeSha256: BeforeFingerprint {}

impl BeforeSha256 for Open {}
impl BeforeSha256 for Signed {}

/// The stages in which FINGERPRINT can be added.
pub trait BeforeFingerprint {}

impl BeforeFingerprint for Open {}
impl BeforeFingerprint for Signed {}
impl BeforeFingerprint for SignedSha256 {}

const fn attribute_type<'a, A: Attribute<'a>>(_: &A) -> AttributeType {
    A::TYPE
}
