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

fn decode_address(value: &[u8]) -> Result<SocketAddr, ValueError> {
    let ([_, family, p0, p1], ip) = value.split_first_chunk().ok_or(ValueError::Length)?;
    let ip = match *family {
        FAMILY_IPV4 => IpAddr::from(exactly::<4>(ip)?),
        FAMILY_IPV6 => IpAddr::from(exactly::<16>(ip)?),
        _ => return Err(ValueError::Family),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes([*p0, *p1])))
}

fn encode_address(address: SocketAddr, value: &mut Vec<u8>) {
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
fn xor_address(address: SocketAddr, TransactionId(id): TransactionId) -> SocketAddr {
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
