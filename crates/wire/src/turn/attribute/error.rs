//! ADDRESS-ERROR-CODE: why one of two families was not allocated; and the error codes.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Family       |    Reserved             |Class|     Number    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Reason Phrase (variable)                                ..
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::AddressFamily;
use crate::stun::{Attribute, AttributeType, ErrorCode, TransactionId, ValueError};

/// The error codes of TURN.
impl ErrorCode<'_> {
    /// 403: policy forbids it (RFC 8656).
    pub const FORBIDDEN: Self = Self::bare(403);
    /// 405: the server does not do mobility (RFC 8016).
    pub const MOBILITY_FORBIDDEN: Self = Self::bare(405);
    /// 437: there is an allocation already, or none (RFC 8656).
    pub const ALLOCATION_MISMATCH: Self = Self::bare(437);
    /// 440: the server has no such address family (RFC 8656, RFC 6156).
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: Self = Self::bare(440);
    /// 441: the credentials are not those of the allocation (RFC 8656).
    pub const WRONG_CREDENTIALS: Self = Self::bare(441);
    /// 442: the server does not relay this transport (RFC 8656).
    pub const UNSUPPORTED_TRANSPORT_PROTOCOL: Self = Self::bare(442);
    /// 443: the peer is of another family than the relayed address (RFC 8656, RFC 6156).
    pub const PEER_ADDRESS_FAMILY_MISMATCH: Self = Self::bare(443);
    /// 446: there is a connection to this peer already (RFC 6062).
    pub const CONNECTION_ALREADY_EXISTS: Self = Self::bare(446);
    /// 447: the peer did not take the connection (RFC 6062).
    pub const CONNECTION_TIMEOUT_OR_FAILURE: Self = Self::bare(447);
    /// 486: no more allocations for this user (RFC 8656).
    pub const ALLOCATION_QUOTA_REACHED: Self = Self::bare(486);
    /// 508: the server has no more of it (RFC 8656).
    pub const INSUFFICIENT_CAPACITY: Self = Self::bare(508);
}

/// ADDRESS-ERROR-CODE (RFC 8656 section 18.12): of the two families that were asked for,
/// this one was not allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressErrorCode<'a> {
    /// The family that is missing.
    pub family: AddressFamily,
    /// Why.
    pub error: ErrorCode<'a>,
}

impl<'a> Attribute<'a> for AddressErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    /// Behind the first byte it is an ERROR-CODE.
    fn decode(value: &'a [u8], id: TransactionId) -> Result<Self, ValueError> {
        let family = *value.first().ok_or(ValueError::Length)?;
        Ok(Self {
            family: AddressFamily::from_number(family)?,
            error: ErrorCode::decode(value, id)?,
        })
    }

    fn encode(&self, id: TransactionId, value: &mut Vec<u8>) {
        let first = value.len();
        self.error.encode(id, value);
        if let Some(family) = value.get_mut(first) {
            *family = self.family.number();
        }
    }
}

/// [`AddressErrorCode`] under the type that drafts of RFC 8656 gave it: what clients of
/// coturn before 4.8 understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftAddressErrorCode<'a>(pub AddressErrorCode<'a>);

impl<'a> Attribute<'a> for DraftAddressErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::DRAFT_ADDRESS_ERROR_CODE;

    fn decode(value: &'a [u8], id: TransactionId) -> Result<Self, ValueError> {
        AddressErrorCode::decode(value, id).map(Self)
    }

    fn encode(&self, id: TransactionId, value: &mut Vec<u8>) {
        self.0.encode(id, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    const ERROR: AddressErrorCode<'_> = AddressErrorCode {
        family: AddressFamily::V6,
        error: ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
    };

    #[test]
    fn it_survives_the_round_trip() {
        assert_eq!(encoded(&ERROR), [2, 0, 4, 40]);
        assert_eq!(decoded(&encoded(&ERROR)), Ok(ERROR));
        let draft = DraftAddressErrorCode(ERROR);
        assert_eq!(decoded(&encoded(&draft)), Ok(draft));
    }

    #[test]
    fn one_byte_short_is_refused() {
        let read = one_short::<AddressErrorCode<'_>>(&[2, 0, 4, 40]);
        assert_eq!(read, Err(ValueError::Length));
        assert_eq!(
            decoded::<AddressErrorCode<'_>>(&[]),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn another_family_and_another_code_are_refused() {
        let read = decoded::<AddressErrorCode<'_>>(&[0, 0, 4, 40]);
        assert_eq!(read, Err(ValueError::Family));
        let read = decoded::<AddressErrorCode<'_>>(&[1, 0, 2, 40]);
        assert_eq!(read, Err(ValueError::Range));
    }
}
