//! The attributes of NAT behaviour discovery (RFC 5780 section 7) that are not addresses.

use super::{Attribute, AttributeType, exactly};
use crate::stun::{TransactionId, ValueError};

const CHANGE_IP: u32 = 0x04;
const CHANGE_PORT: u32 = 0x02;

/// CHANGE-REQUEST (RFC 5780 section 7.2): where the client wants the response from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRequest {
    /// From the server's other IP address.
    pub ip: bool,
    /// From the server's other port.
    pub port: bool,
}

impl Attribute<'_> for ChangeRequest {
    const TYPE: AttributeType = AttributeType::CHANGE_REQUEST;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        let flags = u32::from_be_bytes(exactly(value)?);
        Ok(Self {
            ip: flags & CHANGE_IP != 0,
            port: flags & CHANGE_PORT != 0,
        })
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        let ip = if self.ip { CHANGE_IP } else { 0 };
        let port = if self.port { CHANGE_PORT } else { 0 };
        value.extend_from_slice(&(ip | port).to_be_bytes());
    }
}

/// RESPONSE-PORT (RFC 5780 section 7.5): the port the client wants the response at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePort(pub u16);

impl Attribute<'_> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// Some senders count the two bytes of padding in the length: both are accepted.
    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        match value {
            [p0, p1] | [p0, p1, _, _] => Ok(Self(u16::from_be_bytes([*p0, *p1]))),
            _ => Err(ValueError::Length),
        }
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// PADDING (RFC 5780 section 7.6): makes a message big enough to be fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding(u16);

impl Padding {
    /// The most bytes of padding: a jumbo frame is fragmented with it.
    pub const MAX: u16 = 9216;

    /// Padding of this many bytes.
    ///
    /// # Errors
    ///
    /// [`ValueError::Range`] above [`Self::MAX`].
    pub const fn new(length: u16) -> Result<Self, ValueError> {
        if length > Self::MAX {
            return Err(ValueError::Range);
        }
        Ok(Self(length))
    }

    /// How many bytes.
    #[must_use]
    pub const fn length(self) -> u16 {
        self.0
    }
}

impl Attribute<'_> for Padding {
    const TYPE: AttributeType = AttributeType::PADDING;

    fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
        u16::try_from(value.len())
            .map_err(|_| ValueError::Range)
            .and_then(Self::new)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        value.resize(value.len().saturating_add(usize::from(self.0)), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    #[test]
    fn every_attribute_survives_the_round_trip() {
        for (ip, port) in [(false, false), (false, true), (true, false), (true, true)] {
            let change = ChangeRequest { ip, port };
            assert_eq!(decoded(&encoded(&change)), Ok(change));
        }
        let port = ResponsePort(0x1234);
        assert_eq!(decoded(&encoded(&port)), Ok(port));
        let padding = Padding::new(1500).unwrap();
        assert_eq!(encoded(&padding).len(), 1500);
        assert_eq!(decoded(&encoded(&padding)), Ok(padding));
    }

    #[test]
    fn one_byte_short_is_refused() {
        assert_eq!(one_short::<ChangeRequest>(&[0; 4]), Err(ValueError::Length));
        assert_eq!(one_short::<ResponsePort>(&[0; 4]), Err(ValueError::Length));
        assert_eq!(one_short::<ResponsePort>(&[0; 2]), Err(ValueError::Length));
    }

    #[test]
    fn more_padding_than_a_jumbo_frame_is_refused() {
        let value = vec![0; usize::from(Padding::MAX) + 1];
        assert_eq!(decoded::<Padding>(&value), Err(ValueError::Range));
        assert_eq!(decoded::<Padding>(&vec![0; 70_000]), Err(ValueError::Range));
        assert_eq!(Padding::new(Padding::MAX + 1), Err(ValueError::Range));
    }

    #[test]
    fn the_flags_of_rfc_5780_are_a_and_b() {
        let both = ChangeRequest {
            ip: true,
            port: true,
        };
        assert_eq!(encoded(&both), [0, 0, 0, 6]);
        let other_bits = [0xff, 0xff, 0xff, 0xf9];
        let neither = ChangeRequest {
            ip: false,
            port: false,
        };
        assert_eq!(decoded(&other_bits), Ok(neither));
    }

    #[test]
    fn a_response_port_may_count_its_padding() {
        assert_eq!(decoded(&[0x12, 0x34, 0, 0]), Ok(ResponsePort(0x1234)));
    }
}
