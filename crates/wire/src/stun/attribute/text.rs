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
