//! The attributes of ICE connectivity checks (RFC 8445 section 16.1), and the one of our own.

use super::{Attribute, AttributeType, exactly};
use crate::stun::{TransactionId, ValueError};

/// PRIORITY (RFC 8445 section 7.1.1): the priority a peer-reflexive candidate found by
/// this check would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub u32);

/// USE-CANDIDATE (RFC 8445 section 7.1.2): the controlling agent nominates this pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCandidate;

/// ICE-CONTROLLED (RFC 8445 section 7.1.3): the sender's role, with its tiebreaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IceControlled(pub u64);

/// ICE-CONTROLLING (RFC 8445 section 7.1.3): the sender's role, with its tiebreaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IceControlling(pub u64);

/// PUNCHED: what peers of ours tell each other about the way of a check or of a response, and that
/// they understand this. Comprehension-optional, so that others skip it; the type is an unassigned one
/// of those given by expert review (RFC 8489 section 18.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Punched {
    /// The port that this is sent to was guessed.
    pub guessed: bool,
    /// The sender sends on this path to one port and hears from another.
    pub asymmetric: bool,
}

impl Punched {
    const GUESSED: u32 = 1;
    const ASYMMETRIC: u32 = 2;
}

impl Attribute<'_> for Punched {
    const TYPE: AttributeType = AttributeType::PUNCHED;

    /// Bits that are not known are skipped.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let bits = exactly(value).map(u32::from_be_bytes)?;
        Ok(Self {
            guessed: bits & Self::GUESSED != 0,
            asymmetric: bits & Self::ASYMMETRIC != 0,
        })
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let bits = bit(self.guessed, Self::GUESSED) | bit(self.asymmetric, Self::ASYMMETRIC);
        value.extend_from_slice(&bits.to_be_bytes());
    }
}

impl Attribute<'_> for UseCandidate {
    const TYPE: AttributeType = AttributeType::USE_CANDIDATE;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        exactly::<0>(value).map(|_| Self)
    }

    fn encode(&self, _: TransactionId, _: &mut Vec<u8>) {}
}

macro_rules! number_attribute {
    ($name:ident, $number:ty, $kind:ident) => {
        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
                exactly(value).map(|bytes| Self(<$number>::from_be_bytes(bytes)))
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                value.extend_from_slice(&self.0.to_be_bytes());
            }
        }
    };
}

number_attribute!(Priority, u32, PRIORITY);
number_attribute!(IceControlled, u64, ICE_CONTROLLED);
number_attribute!(IceControlling, u64, ICE_CONTROLLING);

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    #[test]
    fn every_attribute_survives_the_round_trip() {
        let priority = Priority(0x6e00_01ff);
        assert_eq!(decoded(&encoded(&priority)), Ok(priority));
        assert_eq!(decoded(&encoded(&UseCandidate)), Ok(UseCandidate));
        let controlled = IceControlled(u64::MAX);
        assert_eq!(decoded(&encoded(&controlled)), Ok(controlled));
        let controlling = IceControlling(1);
        assert_eq!(decoded(&encoded(&controlling)), Ok(controlling));
        for (guessed, asymmetric) in [(false, false), (true, false), (false, true), (true, true)] {
            let punched = Punched {
                guessed,
                asymmetric,
            };
            assert_eq!(decoded(&encoded(&punched)), Ok(punched));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        assert_eq!(one_short::<Priority>(&[0; 4]), Err(ValueError::Length));
        assert_eq!(one_short::<Punched>(&[0; 4]), Err(ValueError::Length));
        assert_eq!(one_short::<IceControlled>(&[0; 8]), Err(ValueError::Length));
        assert_eq!(
            one_short::<IceControlling>(&[0; 8]),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn a_value_of_another_attribute_is_refused() {
        assert_eq!(decoded::<UseCandidate>(&[0]), Err(ValueError::Length));
        assert_eq!(decoded::<Priority>(&[0; 8]), Err(ValueError::Length));
        assert_eq!(decoded::<IceControlled>(&[0; 4]), Err(ValueError::Length));
    }

    #[test]
    fn bits_of_later_versions_are_skipped() {
        let value = [0x80, 0, 0, 0x06];
        let punched = Punched {
            guessed: false,
            asymmetric: true,
        };
        assert_eq!(decoded(&value), Ok(punched));
    }

    #[test]
    fn the_vectors_of_rfc_5769_decode() {
        let value = [0x6e, 0x00, 0x01, 0xff];
        assert_eq!(decoded(&value), Ok(Priority(0x6e00_01ff)));
        let value = [0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36];
        assert_eq!(decoded(&value), Ok(IceControlled(0x932f_f9b1_5126_3b36)));
    }
}
