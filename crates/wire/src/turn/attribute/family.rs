//! REQUESTED-ADDRESS-FAMILY and ADDITIONAL-ADDRESS-FAMILY.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   Family      |            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::IpAddr;

use crate::stun::attribute::exactly;
use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

/// An address family, as STUN numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4, 0x01.
    V4,
    /// IPv6, 0x02.
    V6,
}

impl AddressFamily {
    /// The family of an address, as it is written: an IPv4-mapped IPv6 address is IPv6.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::V4 => 0x01,
            Self::V6 => 0x02,
        }
    }

    pub(super) const fn from_number(number: u8) -> Result<Self, ValueError> {
        match number {
            0x01 => Ok(Self::V4),
            0x02 => Ok(Self::V6),
            _ => Err(ValueError::Family),
        }
    }
}

/// REQUESTED-ADDRESS-FAMILY (RFC 8656 section 18.6): the family of the relayed transport
/// address, or in a Refresh the one that is meant. Another family than IPv4 and IPv6 is
/// [`ValueError::Family`], for which a server answers 440.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedAddressFamily(pub AddressFamily);

/// ADDITIONAL-ADDRESS-FAMILY (RFC 8656 section 18.11): a second relayed transport address
/// of this family, please. Only IPv6 is allowed; a server answers 400 to IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdditionalAddressFamily(pub AddressFamily);

/// [`AdditionalAddressFamily`] under the type that drafts of RFC 8656 gave it: what clients
/// of coturn before 4.8 send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftAdditionalAddressFamily(pub AddressFamily);

macro_rules! family_attribute {
    ($name:ident, $kind:ident) => {
        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
                let [family, ..] = exactly::<4>(value)?;
                AddressFamily::from_number(family).map(Self)
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                value.extend_from_slice(&[self.0.number(), 0, 0, 0]);
            }
        }
    };
}

family_attribute!(RequestedAddressFamily, REQUESTED_ADDRESS_FAMILY);
family_attribute!(AdditionalAddressFamily, ADDITIONAL_ADDRESS_FAMILY);
family_attribute!(
    DraftAdditionalAddressFamily,
    DRAFT_ADDITIONAL_ADDRESS_FAMILY
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn both_survive_the_round_trip() {
        for family in [AddressFamily::V4, AddressFamily::V6] {
            let requested = RequestedAddressFamily(family);
            assert_eq!(decoded(&encoded(&requested)), Ok(requested));
            let additional = AdditionalAddressFamily(family);
            assert_eq!(decoded(&encoded(&additional)), Ok(additional));
            let draft = DraftAdditionalAddressFamily(family);
            assert_eq!(decoded(&encoded(&draft)), Ok(draft));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        let value = [1, 0, 0, 0];
        let read = one_short::<RequestedAddressFamily>(&value);
        assert_eq!(read, Err(ValueError::Length));
    }

    #[test]
    fn another_family_is_refused_as_such() {
        for number in [0, 3, 255] {
            let value = [number, 0, 0, 0];
            let read = decoded::<RequestedAddressFamily>(&value);
            assert_eq!(read, Err(ValueError::Family));
        }
    }

    #[test]
    fn reserved_bytes_are_ignored() {
        let read = decoded(&[2, 9, 9, 9]);
        assert_eq!(read, Ok(RequestedAddressFamily(AddressFamily::V6)));
    }
}
