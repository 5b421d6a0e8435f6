//! USERHASH: who asks, without saying so.

use sha2::Sha256;

use super::{Attribute, AttributeType, exactly};
use crate::stun::integrity::hash_joined;
use crate::stun::{TransactionId, ValueError};

/// USERHASH (RFC 8489 section 14.4): stands for a USERNAME that is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Userhash(pub [u8; 32]);

impl Userhash {
    /// The SHA-256 of `username ":" realm`. Both are used as they are: OpaqueString
    /// preparation (RFC 8265) is the caller's.
    #[must_use]
    pub fn new(username: &str, realm: &str) -> Self {
        Self(hash_joined::<Sha256>(&[username, realm]).into())
    }
}

impl Attribute<'_> for Userhash {
    const TYPE: AttributeType = AttributeType::USERHASH;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        exactly(value).map(Self)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    #[test]
    fn it_survives_the_round_trip() {
        let hash = Userhash::new("somebody", "example.org");
        assert_eq!(decoded(&encoded(&hash)), Ok(hash));
    }

    #[test]
    fn one_byte_short_is_refused() {
        let value = encoded(&Userhash([1; 32]));
        assert_eq!(one_short::<Userhash>(&value), Err(ValueError::Length));
    }

    #[test]
    fn one_byte_more_is_refused() {
        assert_eq!(decoded::<Userhash>(&[0; 33]), Err(ValueError::Length));
    }

    #[test]
    fn the_vector_of_rfc_8489_is_computed() {
        let username = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
        let expected = [
            0x4a, 0x3c, 0xf3, 0x8f, 0xef, 0x69, 0x92, 0xbd, 0xa9, 0x52, 0xc6, 0x78, 0x04, 0x17,
            0xda, 0x0f, 0x24, 0x81, 0x94, 0x15, 0x56, 0x9e, 0x60, 0xb2, 0x05, 0xc4, 0x6e, 0x41,
            0x40, 0x7f, 0x17, 0x04,
        ];
        assert_eq!(Userhash::new(username, "example.org"), Userhash(expected));
    }
}
