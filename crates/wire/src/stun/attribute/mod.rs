//! Attributes: one file per family.

pub(crate) mod address;
mod discovery;
mod error_code;
mod ice;
mod password_algorithm;
mod text;
mod unknown;
mod userhash;

use std::fmt;

use super::{TransactionId, ValueError};

pub use address::{AlternateServer, MappedAddress, OtherAddress, ResponseOrigin, XorMappedAddress};
pub use discovery::{ChangeRequest, Padding, ResponsePort};
pub use error_code::ErrorCode;
pub use ice::{IceControlled, IceControlling, Priority, Punched, UseCandidate};
pub use password_algorithm::{Algorithm, PasswordAlgorithm, PasswordAlgorithms};
pub use text::{AlternateDomain, Nonce, Realm, Software, Username};
pub use unknown::UnknownAttributes;
pub use userhash::Userhash;

/// An attribute as a typed value. Text and lists borrow from the message.
pub trait Attribute<'a>: Sized {
    /// Its attribute type.
    const TYPE: AttributeType;

    /// Reads the value, without padding, from a message with this transaction id.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the value.
    fn decode(value: &'a [u8], id: TransactionId) -> Result<Self, ValueError>;

    /// Appends the value, without padding, for a message with this transaction id.
    fn encode(&self, id: TransactionId, value: &mut Vec<u8>);
}

/// An attribute type (RFC 8489 section 18.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// MAPPED-ADDRESS (RFC 8489).
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// CHANGE-REQUEST (RFC 5780).
    pub const CHANGE_REQUEST: Self = Self(0x0003);
    /// USERNAME (RFC 8489).
    pub const USERNAME: Self = Self(0x0006);
    /// MESSAGE-INTEGRITY (RFC 8489).
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// ERROR-CODE (RFC 8489).
    pub const ERROR_CODE: Self = Self(0x0009);
    /// UNKNOWN-ATTRIBUTES (RFC 8489).
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000a);
    /// REALM (RFC 8489).
    pub const REALM: Self = Self(0x0014);
    /// NONCE (RFC 8489).
    pub const NONCE: Self = Self(0x0015);
    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489).
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001c);
    /// PASSWORD-ALGORITHM (RFC 8489).
    pub const PASSWORD_ALGORITHM: Self = Self(0x001d);
    /// USERHASH (RFC 8489).
    pub const USERHASH: Self = Self(0x001e);
    /// XOR-MAPPED-ADDRESS (RFC 8489).
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// PRIORITY (RFC 8445).
    pub const PRIORITY: Self = Self(0x0024);
    /// USE-CANDIDATE (RFC 8445).
    pub const USE_CANDIDATE: Self = Self(0x0025);
    /// PADDING (RFC 5780).
    pub const PADDING: Self = Self(0x0026);
    /// RESPONSE-PORT (RFC 5780).
    pub const RESPONSE_PORT: Self = Self(0x0027);
    /// PASSWORD-ALGORITHMS (RFC 8489).
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    /// ALTERNATE-DOMAIN (RFC 8489).
    pub const ALTERNATE_DOMAIN: Self = Self(0x8003);
    /// SOFTWARE (RFC 8489).
    pub const SOFTWARE: Self = Self(0x8022);
    /// ALTERNATE-SERVER (RFC 8489).
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// FINGERPRINT (RFC 8489).
    pub const FINGERPRINT: Self = Self(0x8028);
    /// ICE-CONTROLLED (RFC 8445).
    pub const ICE_CONTROLLED: Self = Self(0x8029);
    /// ICE-CONTROLLING (RFC 8445).
    pub const ICE_CONTROLLING: Self = Self(0x802a);
    /// RESPONSE-ORIGIN (RFC 5780).
    pub const RESPONSE_ORIGIN: Self = Self(0x802b);
    /// OTHER-ADDRESS (RFC 5780).
    pub const OTHER_ADDRESS: Self = Self(0x802c);
    /// PUNCHED, of ours ([`Punched`]).
    pub const PUNCHED: Self = Self(0xdb70);

    /// Whether a receiver that does not know it must refuse the message (RFC 8489
    /// section 14): types below 0x8000.
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }

    pub(super) const fn is_integrity(self) -> bool {
        matches!(
            self,
            Self::MESSAGE_INTEGRITY | Self::MESSAGE_INTEGRITY_SHA256
        )
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl fmt::Debug for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttributeType({:#06x})", self.0)
    }
}

/// A value that must have exactly `N` bytes.
pub(crate) fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], ValueError> {
    value.try_into().map_err(|_| ValueError::Length)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// The transaction id of RFC 5769 sections 2.1 to 2.3.
    pub(crate) const ID: TransactionId = TransactionId([
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ]);

    pub(crate) fn encoded<'a>(attribute: &impl Attribute<'a>) -> Vec<u8> {
        let mut value = Vec::new();
        attribute.encode(ID, &mut value);
        value
    }

    pub(crate) fn decoded<'a, A: Attribute<'a>>(value: &'a [u8]) -> Result<A, ValueError> {
        A::decode(value, ID)
    }

    /// What the value without its last byte gives.
    pub(crate) fn one_short<'a, A: Attribute<'a>>(value: &'a [u8]) -> Result<A, ValueError> {
        let (_, value) = value.split_last().unwrap();
        decoded(value)
    }
}
