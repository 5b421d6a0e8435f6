//! The attributes of ICE connectivity checks (RFC 8445 section 16.1).

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
