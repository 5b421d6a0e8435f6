//! The Binding transaction that nearly all clients of a STUN server have: a request
//! without attributes, and a response that needs no memory but its own.

use std::net::{IpAddr, SocketAddr};

use super::attribute::AttributeType;
use super::attribute::address::xor_address;
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, message_type};

/// The most bytes of a [`BindingResponse`]: the header, and XOR-MAPPED-ADDRESS with an IPv6
/// address.
const MAX_LEN: usize = HEADER_LEN + 24;

/// The transaction of a Binding request that has no attributes; `None` if it is anything
/// else.
#[must_use]
pub fn bare_binding_request(datagram: &[u8]) -> Option<TransactionId> {
    let (start, id) = datagram.split_first_chunk::<8>()?;
    let id: [u8; 12] = id.try_into().ok()?;
    let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
    (*start == [0x00, 0x01, 0x00, 0x00, c0, c1, c2, c3]).then_some(TransactionId(id))
}

/// A success response to a Binding request, with XOR-MAPPED-ADDRESS and nothing else (RFC
/// 8489 section 12.2).
#[derive(Debug, Clone, Copy)]
pub struct BindingResponse {
    bytes: [u8; MAX_LEN],
    length: usize,
}

impl BindingResponse {
    /// The response that tells this address.
    #[must_use]
    pub fn new(id: TransactionId, mapped: SocketAddr) -> Self {
        let mut response = Self {
            bytes: [0; MAX_LEN],
            length: 0,
        };
        let mapped = xor_address(mapped, id);
        let (family, value_len) = match mapped {
            SocketAddr::V4(_) => (0x0001, 8_u16),
            SocketAddr::V6(_) => (0x0002, 20),
        };
        response.u16(message_type(Class::Success, Method::BINDING));
        response.u16(value_len.saturating_add(4));
        response.put(&MAGIC_COOKIE.to_be_bytes());
        response.put(&id.0);
        response.u16(AttributeType::XOR_MAPPED_ADDRESS.0);
        response.u16(value_len);
        response.u16(family);
        response.u16(mapped.port());
        match mapped.ip() {
            IpAddr::V4(ip) => response.put(&ip.octets()),
            IpAddr::V6(ip) => response.put(&ip.octets()),
        }
        response
    }

    /// The message: 32 bytes for IPv4, 44 for IPv6.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends what fits; [`MAX_LEN`] is made for all of it.
    fn put(&mut self, part: &[u8]) {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(part) {
            *to = *from;
        }
        self.length = self.length.saturating_add(part.len()).min(MAX_LEN);
    }

    fn u16(&mut self, number: u16) {
        self.put(&number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, XorMappedAddress};
    use super::*;

    const ID: TransactionId = TransactionId(*b"twelve bytes");

    #[test]
    fn the_response_is_what_the_builder_builds() {
        for (mapped, length) in [("192.0.2.1:32853", 32), ("[2001:db8::7]:1", 44)] {
            let mapped: SocketAddr = mapped.parse().unwrap();
            let built = Builder::new(Class::Success, Method::BINDING, ID)
                .attribute(&XorMappedAddress(mapped))
                .build();
            assert_eq!(BindingResponse::new(ID, mapped).as_bytes(), built);
            assert_eq!(built.len(), length);
        }
    }

    #[test]
    fn only_a_binding_request_without_attributes_is_bare() {
        let request = Builder::new(Class::Request, Method::BINDING, ID).build();
        assert_eq!(bare_binding_request(&request), Some(ID));
        for index in 0..8 {
            let mut other = request.clone();
            other[index] ^= 1;
            assert_eq!(bare_binding_request(&other), None, "{index}");
        }
        assert_eq!(bare_binding_request(&request[..19]), None);
        assert_eq!(bare_binding_request(&[&request[..], &[0]].concat()), None);
    }
}
