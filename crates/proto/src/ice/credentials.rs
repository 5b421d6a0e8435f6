//! User fragments and passwords (RFC 8445 section 5.3).

use std::fmt;

use rand_core::RngCore;

/// The 64 ice-chars (RFC 8445 section 5.3), so that six random bits make one character.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// 48 bits: enough to tell agents on one socket apart.
const UFRAG_LENGTH: usize = 8;
/// 144 bits; the RFC asks for 128.
const PASSWORD_LENGTH: usize = 24;
/// The longest user fragment or password that the RFC allows.
const MAX_LENGTH: usize = 256;

/// The credentials of one side of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user fragment: names the agent in the USERNAME of checks.
    pub ufrag: String,
    /// The password: the key of MESSAGE-INTEGRITY. Secret.
    pub pwd: String,
}

impl Credentials {
    /// Draws new credentials.
    pub(super) fn random(rng: &mut impl RngCore) -> Self {
        Self {
            ufrag: ice_chars(rng, UFRAG_LENGTH),
            pwd: ice_chars(rng, PASSWORD_LENGTH),
        }
    }

    /// Whether both values have the lengths (4 to 256 and 22 to 256) and the characters that RFC 8445
    /// section 5.3 asks for. An agent ignores other credentials.
    pub fn is_valid(&self) -> bool {
        (4..=MAX_LENGTH).contains(&self.ufrag.len())
            && (22..=MAX_LENGTH).contains(&self.pwd.len())
            && self.ufrag.bytes().chain(self.pwd.bytes()).all(is_ice_char)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("ufrag", &self.ufrag)
            .field("pwd", &"…")
            .finish()
    }
}

/// ALPHA, DIGIT, "+" or "/".
pub(super) fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

fn ice_chars(rng: &mut impl RngCore, length: usize) -> String {
    (0..length)
        .filter_map(|_| ICE_CHARS.get((rng.next_u32() & 63) as usize))
        .map(|&byte| char::from(byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn credentials(ufrag: &str, pwd: &str) -> Credentials {
        Credentials {
            ufrag: ufrag.into(),
            pwd: pwd.into(),
        }
    }

    #[test]
    fn random_credentials_are_valid_and_come_from_the_seed() {
        let one = Credentials::random(&mut ChaCha20Rng::from_seed([1; 32]));
        let same = Credentials::random(&mut ChaCha20Rng::from_seed([1; 32]));
        let other = Credentials::random(&mut ChaCha20Rng::from_seed([2; 32]));
        assert!(one.is_valid());
        assert_eq!((one.ufrag.len(), one.pwd.len()), (8, 24));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }

    #[test]
    fn short_long_and_strange_credentials_are_not_valid() {
        let pwd = "abcdefghijklmnopqrstuv";
        assert!(credentials("abcd", pwd).is_valid());
        assert!(!credentials("abc", pwd).is_valid());
        assert!(!credentials("ab:d", pwd).is_valid());
        assert!(!credentials("abcd", "abcdefghijklmnopqrstu").is_valid());
        assert!(!credentials(&"a".repeat(257), pwd).is_valid());
    }

    #[test]
    fn the_password_is_not_printed() {
        assert!(!format!("{:?}", credentials("abcd", "secret")).contains("secret"));
    }
}
