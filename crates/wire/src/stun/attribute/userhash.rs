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
