//! ERROR-CODE: why a request was refused.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Reserved, should be 0         |Class|     Number    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Reason Phrase (variable)                                ..
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::text::check_text;
use super::{Attribute, AttributeType};
use crate::stun::{TransactionId, ValueError};

/// ERROR-CODE (RFC 8489 section 14.8): a code of 300 to 699 and a phrase for people.
///
/// The constants have no phrase: it is diagnostic only, and each of its bytes makes a
/// refusal a better amplifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode<'a> {
    code: u16,
    reason: &'a str,
}

impl<'a> ErrorCode<'a> {
    /// 300: ask the ALTERNATE-SERVER.
    pub const TRY_ALTERNATE: Self = Self::bare(300);
    /// 400: the request was malformed.
    pub const BAD_REQUEST: Self = Self::bare(400);
    /// 401: credentials are missing or wrong.
    pub const UNAUTHENTICATED: Self = Self::bare(401);
    /// 420: the request has comprehension-required attributes that are not known.
    pub const UNKNOWN_ATTRIBUTE: Self = Self::bare(420);
    /// 438: the nonce has run out.
    pub const STALE_NONCE: Self = Self::bare(438);
    /// 487: both agents have the same role (RFC 8445 section 7.3.1.1).
    pub const ROLE_CONFLICT: Self = Self::bare(487);
    /// 500: the server failed for the moment.
    pub const SERVER_ERROR: Self = Self::bare(500);

    pub(crate) const fn bare(code: u16) -> Self {
        Self { code, reason: "" }
    }

    /// A code of 300 to 699 with a phrase of at most 127 characters and 763 bytes.
    ///
    /// # Errors
    ///
    /// [`ValueError::Range`] or [`ValueError::TextTooLong`] outside of that.
    pub fn new(code: u16, reason: &'a str) -> Result<Self, ValueError> {
        if !(300..=699).contains(&code) {
            return Err(ValueError::Range);
        }
        check_text(reason).map(|reason| Self { code, reason })
    }

    /// The code, 300 to 699.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The phrase. It comes from the network: escape control characters before showing it.
    #[must_use]
    pub const fn reason(&self) -> &'a str {
        self.reason
    }
}

impl<'a> Attribute<'a> for ErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, ValueError> {
        let ([_, _, class, number], reason) =
            value.split_first_chunk().ok_or(ValueError::Length)?;
        let reason = str::from_utf8(reason).map_err(|_| ValueError::Utf8)?;
        if *number > 99 {
            return Err(ValueError::Range);
        }
        let hundreds = u16::from(class & 0x07).saturating_mul(100);
        Self::new(hundreds.saturating_add(u16::from(*number)), reason)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        let class = u8::try_from(self.code / 100).unwrap_or_default();
        let number = u8::try_from(self.code % 100).unwrap_or_default();
        value.extend_from_slice(&[0, 0, class, number]);
        value.extend_from_slice(self.reason.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    #[test]
    fn every_code_survives_the_round_trip() {
        for code in 300..=699 {
            let error = ErrorCode::new(code, "Reason").unwrap();
            assert_eq!(decoded(&encoded(&error)), Ok(error));
        }
    }

    #[test]
    fn one_byte_short_is_refused_when_there_is_no_reason() {
        let value = encoded(&ErrorCode::BAD_REQUEST);
        assert_eq!(value.len(), 4);
        assert_eq!(one_short::<ErrorCode<'_>>(&value), Err(ValueError::Length));
    }

    #[test]
    fn codes_outside_300_to_699_are_refused() {
        for (class, number) in [(2, 0), (7, 0), (0, 0), (4, 100), (4, 255)] {
            let value = [0, 0, class, number];
            assert_eq!(decoded::<ErrorCode<'_>>(&value), Err(ValueError::Range));
        }
        assert_eq!(ErrorCode::new(299, ""), Err(ValueError::Range));
        assert_eq!(ErrorCode::new(700, ""), Err(ValueError::Range));
    }

    #[test]
    fn the_format_of_rfc_8489_is_class_and_number() {
        assert_eq!(encoded(&ErrorCode::UNKNOWN_ATTRIBUTE), [0, 0, 4, 20]);
        assert_eq!(encoded(&ErrorCode::ROLE_CONFLICT), [0, 0, 4, 87]);
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let value = [0xff, 0xff, 0xfc, 20];
        assert_eq!(decoded(&value), Ok(ErrorCode::UNKNOWN_ATTRIBUTE));
    }

    #[test]
    fn a_reason_is_utf_8_of_fewer_than_128_characters() {
        let too_long = "a".repeat(128);
        assert_eq!(ErrorCode::new(400, &too_long), Err(ValueError::TextTooLong));
        assert_eq!(
            decoded::<ErrorCode<'_>>(&[0, 0, 4, 0, 0xff]),
            Err(ValueError::Utf8)
        );
    }
}
