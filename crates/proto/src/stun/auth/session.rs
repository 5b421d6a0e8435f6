use std::fmt;
use std::sync::Arc;

use postern_wire::stun::{
    Algorithm, BeforeFingerprint, Builder, Message, Open, long_term_key_md5, long_term_key_sha256,
};
use zeroize::Zeroize;

/// A long-term key (RFC 8489 section 18.5.1). It is wiped when it is dropped, and not
/// shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    algorithm: Algorithm,
    bytes: [u8; 32],
}

impl Key {
    /// The key that the password algorithm MD5 gives.
    #[must_use]
    pub fn md5(username: &str, realm: &str, password: &str) -> Self {
        let mut bytes = [0; 32];
        let key = long_term_key_md5(username, realm, password);
        bytes.iter_mut().zip(key).for_each(|(to, from)| *to = from);
        Self {
            algorithm: Algorithm::MD5,
            bytes,
        }
    }

    /// The key that the password algorithm SHA-256 gives.
    #[must_use]
    pub fn sha256(username: &str, realm: &str, password: &str) -> Self {
        Self {
            algorithm: Algorithm::SHA256,
            bytes: long_term_key_sha256(username, realm, password),
        }
    }

    /// The password algorithm that made it.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// 16 bytes for MD5, 32 for SHA-256.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = if self.algorithm == Algorithm::MD5 {
            16
        } else {
            32
        };
        self.bytes.get(..length).unwrap_or_default()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// How a request was sealed, and how its response has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// Who sent a request, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The user name, in clear also when the request had USERHASH.
    pub user: Arc<str>,
    /// Who that is: the user name, or for time-limited credentials the part behind the
    /// time with its colon, so that new ones are those of the same user.
    pub account: Arc<str>,
    /// The key of the request.
    pub key: Key,
    /// How the request was sealed.
    pub integrity: Integrity,
}

impl Session {
    /// Seals a response, and adds FINGERPRINT if `fingerprint`.
    #[must_use]
    pub fn seal(&self, response: Builder<Open>, fingerprint: bool) -> Vec<u8> {
        match self.integrity {
            Integrity::Sha1 => finish(response.message_integrity(self.key.as_bytes()), fingerprint),
            Integrity::Sha256 => finish(
                response.message_integrity_sha256(self.key.as_bytes()),
                fingerprint,
            ),
        }
    }

    /// Whether the message is sealed with this session's key, in either way.
    pub(super) fn sealed(key: &Key, integrity: Integrity, message: &Message<'_>) -> bool {
        let verified = match integrity {
            Integrity::Sha1 => message.verify_integrity(key.as_bytes()),
            Integrity::Sha256 => message.verify_integrity_sha256(key.as_bytes()),
        };
        verified.is_ok()
    }
}

fn finish<Stage: BeforeFingerprint>(response: Builder<Stage>, fingerprint: bool) -> Vec<u8> {
    if fingerprint {
        response.fingerprint().build()
    } else {
        response.build()
    }
}
