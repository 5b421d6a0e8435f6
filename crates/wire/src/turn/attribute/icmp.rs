//! ICMP: an ICMP error that a relayed datagram met.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Reserved                     |  ICMP Type  |  ICMP Code      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Error Data                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::stun::attribute::exactly;
use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

/// ICMP (RFC 8656 section 18.13), in a Data indication: a datagram to the peer met this
/// error. Type and code are those of ICMP or ICMPv6, by the family of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    kind: u8,
    code: u8,
    data: u32,
}

impl Icmp {
    /// An error of this type (at most 127: all ICMP and ICMPv6 errors are), with this code,
    /// and with the next hop's MTU in bytes if it is about that, else 0.
    ///
    /// # Errors
    ///
    /// [`ValueError::Range`] for a type above 127.
    pub const fn new(kind: u8, code: u8, data: u32) -> Result<Self, ValueError> {
        if kind > 0x7f {
            return Err(ValueError::Range);
        }
        Ok(Self { kind, code, data })
    }

    /// The ICMP type.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.kind
    }

    /// The ICMP code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.code
    }

    /// The MTU in bytes of the next hop for "packet too big" and "fragmentation needed",
    /// else 0.
    #[must_use]
    pub const fn data(self) -> u32 {
        self.data
    }
}

impl Attribute<'_> for Icmp {
    const TYPE: AttributeType = AttributeType::ICMP;

    /// The type has seven bits and the code nine, of which ICMP uses eight.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let [_, _, kind, code, d0, d1, d2, d3] = exactly(value)?;
        if kind & 1 != 0 {
            return Err(ValueError::Range);
        }
        Self::new(kind >> 1, code, u32::from_be_bytes([d0, d1, d2, d3]))
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&[0, 0, self.kind << 1, self.code]);
        value.extend_from_slice(&self.data.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn it_survives_the_round_trip() {
        for (kind, code, data) in [(3, 4, 1400), (2, 0, 1280), (127, 255, u32::MAX)] {
            let icmp = Icmp::new(kind, code, data).unwrap();
            assert_eq!(decoded(&encoded(&icmp)), Ok(icmp));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        assert_eq!(one_short::<Icmp>(&[0; 8]), Err(ValueError::Length));
    }

    #[test]
    fn a_type_above_127_or_a_code_above_255_is_refused() {
        assert_eq!(Icmp::new(128, 0, 0), Err(ValueError::Range));
        let read = decoded::<Icmp>(&[0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(read, Err(ValueError::Range));
    }

    #[test]
    fn the_figure_of_rfc_8656_gives_the_type_seven_bits() {
        let icmp = Icmp::new(3, 4, 1500).unwrap();
        assert_eq!(encoded(&icmp), [0, 0, 6, 4, 0, 0, 5, 0xdc]);
    }
}
