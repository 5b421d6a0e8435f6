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

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    fn list(kinds: &[u16]) -> UnknownAttributes {
        kinds.iter().copied().map(AttributeType).collect()
    }

    #[test]
    fn it_survives_the_round_trip() {
        for kinds in [&[][..], &[1], &[1, 2, 0x7fff]] {
            let attribute = list(kinds);
            assert_eq!(decoded(&encoded(&attribute)), Ok(attribute));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        let value = encoded(&list(&[1, 2]));
        assert_eq!(
            one_short::<UnknownAttributes>(&value),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn a_type_is_listed_once_and_the_list_is_bounded() {
        assert_eq!(list(&[5, 5, 6]), list(&[5, 6]));
        let long: Vec<u8> = (0..100).flat_map(u16::to_be_bytes).collect();
        let attribute = decoded::<UnknownAttributes>(&long).unwrap();
        assert_eq!(attribute, list(&[0, 1, 2, 3, 4, 5, 6, 7]));
    }

    #[test]
    fn the_format_of_rfc_8489_is_two_bytes_a_type() {
        assert_eq!(encoded(&list(&[0x0003, 0x7f00])), [0, 3, 0x7f, 0]);
    }
}
