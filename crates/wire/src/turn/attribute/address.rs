//! XOR-PEER-ADDRESS and XOR-RELAYED-ADDRESS, encoded like XOR-MAPPED-ADDRESS.

use std::net::SocketAddr;

use crate::stun::attribute::address::{decode_address, encode_address, xor_address};
use crate::stun::{Attribute, AttributeType, TransactionId, ValueError};

/// XOR-PEER-ADDRESS (RFC 8656 section 18.3): a peer, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct XorPeerAddress(pub SocketAddr);

/// XOR-RELAYED-ADDRESS (RFC 8656 section 18.5): the relayed transport address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct XorRelayedAddress(pub SocketAddr);

macro_rules! xor_address_attribute {
    ($name:ident, $kind:ident) => {
        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &[u8], id: TransactionId) -> Result<Self, ValueError> {
                decode_address(value).map(|address| Self(xor_address(address, id)))
            }

            fn encode(&self, id: TransactionId, value: &mut Vec<u8>) {
                encode_address(xor_address(self.0, id), value);
            }
        }
    };
}

xor_address_attribute!(XorPeerAddress, XOR_PEER_ADDRESS);
xor_address_attribute!(XorRelayedAddress, XOR_RELAYED_ADDRESS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::attribute::testing::{decoded, encoded, one_short};

    #[test]
    fn both_survive_the_round_trip() {
        for text in ["192.0.2.1:32853", "[2001:db8::1]:1"] {
            let address = text.parse().unwrap();
            let (peer, relayed) = (XorPeerAddress(address), XorRelayedAddress(address));
            assert_eq!(decoded(&encoded(&peer)), Ok(peer));
            assert_eq!(decoded(&encoded(&relayed)), Ok(relayed));
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        let value = encoded(&XorPeerAddress("192.0.2.1:1".parse().unwrap()));
        assert_eq!(one_short::<XorPeerAddress>(&value), Err(ValueError::Length));
    }

    #[test]
    fn another_family_is_refused() {
        let value = [0, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(decoded::<XorPeerAddress>(&value), Err(ValueError::Family));
    }

    #[test]
    fn the_value_is_that_of_the_xor_mapped_address_of_rfc_5769() {
        let value = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let address = "192.0.2.1:32853".parse().unwrap();
        assert_eq!(decoded(&value), Ok(XorPeerAddress(address)));
    }
}
