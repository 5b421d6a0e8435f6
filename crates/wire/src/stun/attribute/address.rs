//! MAPPED-ADDRESS, XOR-MAPPED-ADDRESS and the attributes that are encoded like them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |0 0 0 0 0 0 0 0|    Family     |           Port                |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 Address (32 bits or 128 bits)                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Attribute, AttributeType, exactly};
use crate::stun::{MAGIC_COOKIE, TransactionId, ValueError};

const FAMILY_IPV4: u8 = 0x01;
const FAMILY_IPV6: u8 = 0x02;

/// MAPPED-ADDRESS (RFC 8489 section 14.1): the address a request came from, in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedAddress(pub SocketAddr);

/// XOR-MAPPED-ADDRESS (RFC 8489 section 14.2): the address a request came from, hidden
/// from NATs that rewrite addresses in payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XorMappedAddress(pub SocketAddr);

/// ALTERNATE-SERVER (RFC 8489 section 14.15): another server to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlternateServer(pub SocketAddr);

/// RESPONSE-ORIGIN (RFC 5780 section 7.3): where the response was sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseOrigin(pub SocketAddr);

/// OTHER-ADDRESS (RFC 5780 section 7.4): where the server would send from with both
/// flags of CHANGE-REQUEST set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherAddress(pub SocketAddr);

macro_rules! plain_address {
    ($name:ident, $kind:ident) => {
        impl Attribute<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn decode(value: &[u8], _: TransactionId) -> Result<Self, ValueError> {
                decode_address(value).map(Self)
            }

            fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
                encode_address(self.0, value);
            }
        }
    };
}

plain_address!(MappedAddress, MAPPED_ADDRESS);
plain_address!(AlternateServer, ALTERNATE_SERVER);
plain_address!(ResponseOrigin, RESPONSE_ORIGIN);
plain_address!(OtherAddress, OTHER_ADDRESS);

impl Attribute<'_> for XorMappedAddress {
    const TYPE: AttributeType = AttributeType::XOR_MAPPED_ADDRESS;

    fn decode(value: &[u8], id: TransactionId) -> Result<Self, ValueError> {
        decode_address(value).map(|address| Self(xor_address(address, id)))
    }

    fn encode(&self, id: TransactionId, value: &mut Vec<u8>) {
        encode_address(xor_address(self.0, id), value);
    }
}

pub(crate) fn decode_address(value: &[u8]) -> Result<SocketAddr, ValueError> {
    let ([_, family, p0, p1], ip) = value.split_first_chunk().ok_or(ValueError::Length)?;
    let ip = match *family {
        FAMILY_IPV4 => IpAddr::from(exactly::<4>(ip)?),
        FAMILY_IPV6 => IpAddr::from(exactly::<16>(ip)?),
        _ => return Err(ValueError::Family),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes([*p0, *p1])))
}

pub(crate) fn encode_address(address: SocketAddr, value: &mut Vec<u8>) {
    let [p0, p1] = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => {
            value.extend_from_slice(&[0, FAMILY_IPV4, p0, p1]);
            value.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            value.extend_from_slice(&[0, FAMILY_IPV6, p0, p1]);
            value.extend_from_slice(&ip.octets());
        }
    }
}

/// Combines the port with the top of the magic cookie, an IPv4 address with the cookie, and
/// an IPv6 address with the cookie and the transaction id. It is its own inverse.
pub(crate) fn xor_address(address: SocketAddr, TransactionId(id): TransactionId) -> SocketAddr {
    let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
    let port = address.port() ^ u16::from_be_bytes([c0, c1]);
    let ip = match address.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE).into(),
        IpAddr::V6(ip) => {
            let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11] = id;
            let mask = u128::from_be_bytes([
                c0, c1, c2, c3, i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11,
            ]);
            Ipv6Addr::from_bits(ip.to_bits() ^ mask).into()
        }
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ID, decoded, encoded, one_short};
    use super::*;

    const V4: &str = "192.0.2.1:32853";
    const V6: &str = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn round_trip<A>(attribute: A, length: usize)
    where
        A: for<'a> Attribute<'a> + PartialEq + std::fmt::Debug,
    {
        let value = encoded(&attribute);
        assert_eq!(value.len(), length);
        assert_eq!(decoded::<A>(&value), Ok(attribute));
    }

    #[test]
    fn every_address_attribute_survives_the_round_trip() {
        for (text, length) in [(V4, 8), (V6, 20), ("0.0.0.0:0", 8), ("[::]:65535", 20)] {
            round_trip(MappedAddress(address(text)), length);
            round_trip(XorMappedAddress(address(text)), length);
            round_trip(AlternateServer(address(text)), length);
            round_trip(ResponseOrigin(address(text)), length);
            round_trip(OtherAddress(address(text)), length);
        }
    }

    #[test]
    fn one_byte_short_is_refused() {
        for text in [V4, V6] {
            let value = encoded(&XorMappedAddress(address(text)));
            assert_eq!(
                one_short::<XorMappedAddress>(&value),
                Err(ValueError::Length)
            );
        }
        assert_eq!(
            decoded::<MappedAddress>(&[0, 1, 0]),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn an_unknown_family_and_an_address_of_the_other_family_are_refused() {
        let mut value = encoded(&MappedAddress(address(V4)));
        value[1] = 3;
        assert_eq!(decoded::<MappedAddress>(&value), Err(ValueError::Family));
        value[1] = FAMILY_IPV6;
        assert_eq!(decoded::<MappedAddress>(&value), Err(ValueError::Length));
    }

    #[test]
    fn the_vectors_of_rfc_5769_decode() {
        let v4 = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(decoded(&v4), Ok(XorMappedAddress(address(V4))));
        let v6 = [
            0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(decoded(&v6), Ok(XorMappedAddress(address(V6))));
    }

    #[test]
    fn hiding_an_address_twice_shows_it() {
        for text in [V4, V6] {
            let hidden = xor_address(address(text), ID);
            assert_ne!(hidden, address(text));
            assert_eq!(xor_address(hidden, ID), address(text));
        }
    }

    #[test]
    fn the_reserved_byte_is_ignored() {
        let mut value = encoded(&MappedAddress(address(V4)));
        value[0] = 0xff;
        assert_eq!(decoded(&value), Ok(MappedAddress(address(V4))));
    }
}
