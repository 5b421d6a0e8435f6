//! DATA and MOBILITY-TICKET: bytes that only their receiver understands.

use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

/// DATA (RFC 8656 section 18.4): what is relayed, in Send and Data indications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

/// MOBILITY-TICKET (RFC 8016 section 3.1.1): empty in an Allocate request, and then
/// what the server gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MobilityTicket<'a>(pub &'a [u8]);

macro_rules! opaque_attribute {
    ($name:ident, $kind:ident) => {
        impl<'a> Attribute<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, ValueError> {
                Ok(Self(value))
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                value.extend_from_slice(self.0);
            }
        }
    };
}

opaque_attribute!(Data, DATA);
opaque_attribute!(MobilityTicket, MOBILITY_TICKET);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn both_survive_the_round_trip() {
        for bytes in [&[][..], b"x", &[0; 1500]] {
            assert_eq!(decoded(&encoded(&Data(bytes))), Ok(Data(bytes)));
            let ticket = MobilityTicket(bytes);
            assert_eq!(decoded(&encoded(&ticket)), Ok(ticket));
        }
    }

    #[test]
    fn one_byte_short_is_other_data() {
        assert_eq!(one_short(b"ab"), Ok(Data(b"a")));
    }
}
