//! UNKNOWN-ATTRIBUTES: what a server did not understand.

use super::{Attribute, AttributeType};
use crate::stun::{TransactionId, ValueError};

/// UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13): a list of attribute types, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownAttributes(Vec<AttributeType>);

impl UnknownAttributes {
    /// The most types listed: more help nobody, and the list goes back to a stranger.
    pub const MAX: usize = 8;

    /// The types, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[AttributeType] {
        &self.0
    }

    /// Whether the list is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, kind: AttributeType) {
        if self.0.len() < Self::MAX && !self.0.contains(&kind) {
            self.0.push(kind);
        }
    }
}

/// Keeps the first [`UnknownAttributes::MAX`] different types.
impl FromIterator<AttributeType> for UnknownAttributes {
    fn from_iter<I: IntoIterator<Item = AttributeType>>(kinds: I) -> Self {
        let mut list = Self::default();
        kinds.into_iter().for_each(|kind| list.push(kind));
        list
    }
}

impl Attribute<'_> for UnknownAttributes {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    /// Types beyond [`Self::MAX`] are dropped.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let (kinds, []) = value.as_chunks::<2>() else {
            return Err(ValueError::Length);
        };
        Ok(kinds
            .iter()
            .map(|kind| AttributeType(u16::from_be_bytes(*kind)))
            .collect())
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        for AttributeType(kind) in &self.0 {
            value.extend_from_slice(&kind.to_be_bytes());
        }
    }
}
