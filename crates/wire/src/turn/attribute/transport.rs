//! What an Allocate request wants: REQUESTED-TRANSPORT, EVEN-PORT, RESERVATION-TOKEN and
//! DONT-FRAGMENT.

use crate::stun::attribute::exactly;
use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

const RESERVE_NEXT: u8 = 0x80;

/// REQUESTED-TRANSPORT (RFC 8656 section 18.8): the IP protocol number between the server
/// and the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedTransport(pub u8);

impl RequestedTransport {
    /// TCP (RFC 6062).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 8656).
    pub const UDP: Self = Self(17);
}

/// EVEN-PORT (RFC 8656 section 18.7): the relayed port must be even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvenPort {
    /// Whether the next higher port is to be kept for a RESERVATION-TOKEN.
    pub reserve_next: bool,
}

/// RESERVATION-TOKEN (RFC 8656 section 18.10): a port that was kept by EVEN-PORT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReservationToken(pub [u8; 8]);

/// DONT-FRAGMENT (RFC 8656 section 18.9): set the DF bit towards the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DontFragment;

impl Attribute<'_> for RequestedTransport {
    const TYPE: AttributeType = AttributeType::REQUESTED_TRANSPORT;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let [protocol, ..] = exactly::<4>(value)?;
        Ok(Self(protocol))
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&[self.0, 0, 0, 0]);
    }
}

impl Attribute<'_> for EvenPort {
    const TYPE: AttributeType = AttributeType::EVEN_PORT;

    /// Some senders count the padding in the length: both are accepted.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        match value {
            [flags] | [flags, _, _, _] => Ok(Self {
                reserve_next: flags & RESERVE_NEXT != 0,
            }),
            _ => Err(ValueError::Length),
        }
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.push(if self.reserve_next { RESERVE_NEXT } else { 0 });
    }
}

impl Attribute<'_> for ReservationToken {
    const TYPE: AttributeType = AttributeType::RESERVATION_TOKEN;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        exactly(value).map(Self)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.0);
    }
}

impl Attribute<'_> for DontFragment {
    const TYPE: AttributeType = AttributeType::DONT_FRAGMENT;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        exactly::<0>(value).map(|_| Self)
    }

    fn encode(&self, _: TransactionId, _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn all_survive_the_round_trip() {
        for transport in [RequestedTransport::UDP, RequestedTransport::TCP] {
            assert_eq!(decoded(&encoded(&transport)), Ok(transport));
        }
        for reserve_next in [false, true] {
            let even = EvenPort { reserve_next };
            assert_eq!(decoded(&encoded(&even)), Ok(even));
        }
        let token = ReservationToken(*b"8 bytes!");
        assert_eq!(decoded(&encoded(&token)), Ok(token));
        assert_eq!(decoded(&encoded(&DontFragment)), Ok(DontFragment));
    }

    #[test]
    fn one_byte_short_is_refused() {
        let read = one_short::<RequestedTransport>(&[17, 0, 0, 0]);
        assert_eq!(read, Err(ValueError::Length));
        assert_eq!(one_short::<EvenPort>(&[0]), Err(ValueError::Length));
        assert_eq!(
            one_short::<ReservationToken>(&[0; 8]),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn a_value_of_another_attribute_is_refused() {
        assert_eq!(decoded::<DontFragment>(&[0]), Err(ValueError::Length));
        assert_eq!(decoded::<EvenPort>(&[0; 8]), Err(ValueError::Length));
        assert_eq!(
            decoded::<ReservationToken>(&[0; 4]),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn the_first_bit_reserves_and_the_others_are_ignored() {
        assert_eq!(encoded(&EvenPort { reserve_next: true }), [0x80]);
        let read = decoded(&[0x7f, 0, 0, 0]);
        assert_eq!(
            read,
            Ok(EvenPort {
                reserve_next: false
            })
        );
    }
}
