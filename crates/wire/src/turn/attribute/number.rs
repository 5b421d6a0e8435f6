//! CHANNEL-NUMBER, LIFETIME and CONNECTION-ID.

use std::fmt;
use std::time::Duration;

use crate::stun::attribute::exactly;
use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

/// A channel number, 0x4000 to 0x7fff, and CHANNEL-NUMBER (RFC 8656 section 18.1).
///
/// RFC 8656 leaves those above 0x4fff to other protocols on the same port. RFC 5766 did
/// not, and clients that draw from its range are common: a server takes them, a client
/// stays below [`ChannelNumber::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest channel number.
    pub const MIN: Self = Self(0x4000);
    /// The highest channel number of RFC 8656 (section 12).
    pub const MAX: Self = Self(0x4fff);
    /// The highest channel number of RFC 5766 (section 11).
    pub const LEGACY_MAX: Self = Self(0x7fff);

    /// The channel with this number.
    ///
    /// # Errors
    ///
    /// [`ValueError::Range`] outside 0x4000 to 0x7fff.
    pub const fn new(number: u16) -> Result<Self, ValueError> {
        if number < Self::MIN.0 || number > Self::LEGACY_MAX.0 {
            return Err(ValueError::Range);
        }
        Ok(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelNumber({:#06x})", self.0)
    }
}

impl Attribute<'_> for ChannelNumber {
    const TYPE: AttributeType = AttributeType::CHANNEL_NUMBER;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let [n0, n1, _, _] = exactly(value)?;
        Self::new(u16::from_be_bytes([n0, n1]))
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.0.to_be_bytes());
        value.extend_from_slice(&[0; 2]);
    }
}

/// LIFETIME (RFC 8656 section 18.2): how many seconds an allocation lives without a
/// refresh; 0 in a Refresh request ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime(pub u32);

impl Lifetime {
    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// CONNECTION-ID (RFC 6062 section 6.2.1): a connection with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

macro_rules! number_attribute {
    ($name:ident, $kind:ident) => {
        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
                exactly(value).map(|bytes| Self(u32::from_be_bytes(bytes)))
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                value.extend_from_slice(&self.0.to_be_bytes());
            }
        }
    };
}

number_attribute!(Lifetime, LIFETIME);
number_attribute!(ConnectionId, CONNECTION_ID);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn all_survive_the_round_trip() {
        for number in 0x4000..=0x7fff {
            let channel = ChannelNumber::new(number).unwrap();
            assert_eq!(decoded(&encoded(&channel)), Ok(channel));
        }
        for number in [0, 600, u32::MAX] {
            assert_eq!(decoded(&encoded(&Lifetime(number))), Ok(Lifetime(number)));
            let id = ConnectionId(number);
            assert_eq!(decoded(&encoded(&id)), Ok(id));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        let value = [0x40, 0, 0, 0];
        assert_eq!(one_short::<ChannelNumber>(&value), Err(ValueError::Length));
        assert_eq!(one_short::<Lifetime>(&value), Err(ValueError::Length));
        assert_eq!(one_short::<ConnectionId>(&value), Err(ValueError::Length));
    }

    #[test]
    fn a_channel_outside_its_range_is_refused() {
        for number in [0, 0x3fff, 0x8000, 0xffff] {
            let [n0, n1] = u16::to_be_bytes(number);
            let read = decoded::<ChannelNumber>(&[n0, n1, 0, 0]);
            assert_eq!(read, Err(ValueError::Range));
        }
    }

    #[test]
    fn what_is_behind_a_channel_number_is_ignored() {
        let channel = ChannelNumber::new(0x4001).unwrap();
        assert_eq!(decoded(&[0x40, 1, 9, 9]), Ok(channel));
    }

    #[test]
    fn a_lifetime_is_in_seconds() {
        assert_eq!(Lifetime(600).duration(), Duration::from_secs(600));
    }
}
