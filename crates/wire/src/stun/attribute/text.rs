//! USERNAME, REALM, NONCE, SOFTWARE and ALTERNATE-DOMAIN: UTF-8 text with a limit.

use super::{Attribute, AttributeType};
use crate::stun::{TransactionId, ValueError};

/// The most bytes of a USERNAME: fewer than 509 (RFC 8489 section 14.3).
const MAX_USERNAME_BYTES: usize = 508;
/// The most characters of the other texts: fewer than 128 (sections 14.9, 14.10, 14.14).
const MAX_CHARS: usize = 127;
/// The most bytes that a receiver accepts for them (the same sections).
const MAX_BYTES: usize = 763;
/// The most bytes of a domain name (section 14.16, RFC 1035 section 2.3.4).
const MAX_DOMAIN_BYTES: usize = 255;

macro_rules! text_attribute {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $check:ident, $limit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            #[doc = concat!("Takes text of ", $limit, ".")]
            ///
            /// # Errors
            ///
            /// [`ValueError::TextTooLong`] above that.
            pub fn new(text: &'a str) -> Result<Self, ValueError> {
                $check(text).map(Self)
            }

            /// The text.
            #[must_use]
            pub const fn as_str(&self) -> &'a str {
                self.0
            }
        }

        impl<'a> Attribute<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, ValueError> {
                str::from_utf8(value)
                    .map_err(|_| ValueError::Utf8)
                    .and_then(Self::new)
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                value.extend_from_slice(self.0.as_bytes());
            }
        }
    };
}

text_attribute!(
    /// USERNAME (RFC 8489 section 14.3).
    Username, USERNAME, check_username, "at most 508 bytes"
);
text_attribute!(
    /// REALM (RFC 8489 section 14.9): who asks for the credentials.
    Realm, REALM, check_text, "at most 127 characters and 763 bytes"
);
text_attribute!(
    /// NONCE (RFC 8489 section 14.10): a server's challenge.
    Nonce, NONCE, check_text, "at most 127 characters and 763 bytes"
);
text_attribute!(
    /// SOFTWARE (RFC 8489 section 14.14): the program that sent the message.
    Software, SOFTWARE, check_text, "at most 127 characters and 763 bytes"
);
text_attribute!(
    /// ALTERNATE-DOMAIN (RFC 8489 section 14.16): the domain of an ALTERNATE-SERVER.
    AlternateDomain, ALTERNATE_DOMAIN, check_domain, "at most 255 bytes"
);

fn check_username(text: &str) -> Result<&str, ValueError> {
    within(text, text.len() <= MAX_USERNAME_BYTES)
}

/// Shared with the reason phrase of ERROR-CODE, which has the same limits.
pub(super) fn check_text(text: &str) -> Result<&str, ValueError> {
    within(
        text,
        text.len() <= MAX_BYTES && text.chars().count() <= MAX_CHARS,
    )
}

fn check_domain(text: &str) -> Result<&str, ValueError> {
    within(text, text.len() <= MAX_DOMAIN_BYTES)
}

fn within(text: &str, fits: bool) -> Result<&str, ValueError> {
    if fits {
        Ok(text)
    } else {
        Err(ValueError::TextTooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    #[test]
    fn every_text_survives_the_round_trip() {
        for text in ["", "a", "user:name", "\u{30de}\u{30c8}"] {
            let username = Username::new(text).unwrap();
            assert_eq!(decoded(&encoded(&username)), Ok(username));
            let realm = Realm::new(text).unwrap();
            assert_eq!(decoded(&encoded(&realm)), Ok(realm));
            let nonce = Nonce::new(text).unwrap();
            assert_eq!(decoded(&encoded(&nonce)), Ok(nonce));
            let software = Software::new(text).unwrap();
            assert_eq!(decoded(&encoded(&software)), Ok(software));
            let domain = AlternateDomain::new(text).unwrap();
            assert_eq!(decoded(&encoded(&domain)), Ok(domain));
        }
    }

    #[test]
    fn one_byte_short_is_other_text_or_none() {
        let value = encoded(&Username::new("ab").unwrap());
        assert_eq!(one_short(&value), Ok(Username::new("a").unwrap()));
        let value = encoded(&Username::new("\u{30de}").unwrap());
        assert_eq!(one_short::<Username<'_>>(&value), Err(ValueError::Utf8));
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        assert_eq!(decoded::<Username<'_>>(&[0xff]), Err(ValueError::Utf8));
        assert_eq!(decoded::<Realm<'_>>(&[0xff]), Err(ValueError::Utf8));
        assert_eq!(decoded::<Nonce<'_>>(&[0xff]), Err(ValueError::Utf8));
        assert_eq!(decoded::<Software<'_>>(&[0xff]), Err(ValueError::Utf8));
        assert_eq!(
            decoded::<AlternateDomain<'_>>(&[0xff]),
            Err(ValueError::Utf8)
        );
    }

    #[test]
    fn the_vectors_of_rfc_5769_decode() {
        let value = [0x65, 0x76, 0x74, 0x6a, 0x3a, 0x68, 0x36, 0x76, 0x59];
        assert_eq!(decoded(&value), Ok(Username::new("evtj:h6vY").unwrap()));
        let value = [
            0xe3, 0x83, 0x9e, 0xe3, 0x83, 0x88, 0xe3, 0x83, 0xaa, 0xe3, 0x83, 0x83, 0xe3, 0x82,
            0xaf, 0xe3, 0x82, 0xb9,
        ];
        let username = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
        assert_eq!(decoded(&value), Ok(Username::new(username).unwrap()));
    }

    #[test]
    fn a_username_has_fewer_than_509_bytes() {
        assert!(Username::new(&"a".repeat(508)).is_ok());
        let too_long = "a".repeat(509);
        assert_eq!(Username::new(&too_long), Err(ValueError::TextTooLong));
        assert_eq!(
            decoded::<Username<'_>>(too_long.as_bytes()),
            Err(ValueError::TextTooLong)
        );
    }

    #[test]
    fn the_other_texts_have_fewer_than_128_characters() {
        let (fits, too_long) = ("\u{10000}".repeat(127), "a".repeat(128));
        assert!(Realm::new(&fits).is_ok());
        assert!(Nonce::new(&fits).is_ok());
        assert!(Software::new(&fits).is_ok());
        assert_eq!(Realm::new(&too_long), Err(ValueError::TextTooLong));
        assert_eq!(Nonce::new(&too_long), Err(ValueError::TextTooLong));
        assert_eq!(Software::new(&too_long), Err(ValueError::TextTooLong));
    }

    #[test]
    fn a_domain_has_at_most_255_bytes() {
        assert!(AlternateDomain::new(&"a".repeat(255)).is_ok());
        let too_long = "a".repeat(256);
        assert_eq!(
            AlternateDomain::new(&too_long),
            Err(ValueError::TextTooLong)
        );
    }
}
