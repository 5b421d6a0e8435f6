//! Binding requests of classic STUN (RFC 3489), which has no magic cookie, and the responses to
//! them: as much as discovers NAT behaviour, with attributes that RFC 5389 took away.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      STUN Message Type        |         Message Length        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     Transaction ID (128 bits)                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::{IpAddr, SocketAddr};

use super::attribute::address::encode_address;
use super::attribute::{Attribute, ChangeRequest};
use super::header::{HEADER_LEN, MAGIC_COOKIE, TransactionId};

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;

/// Section 11.2.1 of RFC 3489.
const MAPPED_ADDRESS: u16 = 0x0001;
/// Section 11.2.5.
const SOURCE_ADDRESS: u16 = 0x0004;
/// Section 11.2.3.
const CHANGED_ADDRESS: u16 = 0x0005;

/// The length of a response that has all three.
const MAX_RESPONSE: usize = HEADER_LEN + 36;

/// A Binding request (RFC 3489 section 11.1). Its addresses are IPv4 ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassicRequest {
    /// The transaction.
    pub id: [u8; 16],
    /// From where the answer is to come.
    pub change: ChangeRequest,
}

impl ClassicRequest {
    /// Reads one; `None` of everything else: messages with the magic cookie, those with
    /// attributes that ask for more than this understands (RESPONSE-ADDRESS, above all, which has
    /// a server send to whoever is named there), and those with a credential.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, attributes) = datagram.split_first_chunk::<HEADER_LEN>()?;
        let [t0, t1, l0, l1, id @ ..] = *header;
        let sound = u16::from_be_bytes([t0, t1]) == BINDING_REQUEST
            && usize::from(u16::from_be_bytes([l0, l1])) == attributes.len()
            && !id.starts_with(&MAGIC_COOKIE.to_be_bytes());
        let none = ChangeRequest {
            ip: false,
            port: false,
        };
        let change = match attributes {
            _ if !sound => return None,
            [] => none,
            [0x00, 0x03, 0x00, 0x04, value @ ..] => {
                ChangeRequest::decode(value, TransactionId([0; 12])).ok()?
            }
            _ => return None,
        };
        Some(Self { id, change })
    }

    /// The response (RFC 3489 section 8.1): `source` is where it is sent from, `changed` what
    /// differs from where the request came to in both address and port, if there is such a
    /// socket. `None` unless all of them are IPv4 addresses.
    #[must_use]
    pub fn response(
        &self,
        mapped: SocketAddr,
        source: SocketAddr,
        changed: Option<SocketAddr>,
    ) -> Option<Vec<u8>> {
        let told = [
            Some((MAPPED_ADDRESS, mapped)),
            Some((SOURCE_ADDRESS, source)),
            changed.map(|changed| (CHANGED_ADDRESS, changed)),
        ];
        let mut attributes = Vec::with_capacity(MAX_RESPONSE);
        for (kind, address) in told.into_iter().flatten() {
            let IpAddr::V4(ip) = address.ip().to_canonical() else {
                return None;
            };
            attributes.extend(kind.to_be_bytes());
            attributes.extend([0x00, 0x08]);
            encode_address(SocketAddr::new(ip.into(), address.port()), &mut attributes);
        }
        let length = u16::try_from(attributes.len()).ok()?;
        let mut response = Vec::with_capacity(MAX_RESPONSE);
        response.extend(BINDING_RESPONSE.to_be_bytes());
        response.extend(length.to_be_bytes());
        response.extend(self.id);
        response.append(&mut attributes);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"sixteen bytes id";

    fn request(attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        [&[0x00, 0x01], &length[..], &ID, attributes].concat()
    }

    #[test]
    fn a_request_may_ask_for_another_source() {
        for (flags, ip, port) in [(0, false, false), (2, false, true), (6, true, true)] {
            let bytes = request(&[0, 3, 0, 4, 0, 0, 0, flags]);
            let change = ChangeRequest { ip, port };
            let expected = ClassicRequest { id: ID, change };
            assert_eq!(ClassicRequest::parse(&bytes), Some(expected));
            assert_eq!(ClassicRequest::parse(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(ClassicRequest::parse(&request(&[])).unwrap().id, ID);
    }

    #[test]
    fn nothing_else_is_one() {
        let response_address = [0, 2, 0, 8, 0, 1, 0x10, 0, 45, 0, 0, 1];
        assert_eq!(ClassicRequest::parse(&request(&response_address)), None);
        let mut modern = request(&[]);
        modern[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        assert_eq!(ClassicRequest::parse(&modern), None);
        let mut answer = request(&[]);
        answer[0] = 0x01;
        assert_eq!(ClassicRequest::parse(&answer), None);
        assert_eq!(ClassicRequest::parse(&[]), None);
    }

    #[test]
    fn the_response_has_the_three_addresses() {
        let request = ClassicRequest::parse(&request(&[])).unwrap();
        let at = |text: &str| text.parse().unwrap();
        let changed = Some(at("45.0.0.2:3479"));
        let response = request.response(at("203.0.113.9:256"), at("45.0.0.1:3478"), changed);
        let expected = [
            &[0x01, 0x01, 0x00, 36][..],
            &ID,
            &[0, 1, 0, 8, 0, 1, 1, 0, 203, 0, 113, 9],
            &[0, 4, 0, 8, 0, 1, 0x0d, 0x96, 45, 0, 0, 1],
            &[0, 5, 0, 8, 0, 1, 0x0d, 0x97, 45, 0, 0, 2],
        ];
        assert_eq!(response, Some(expected.concat()));
        let six = request.response(at("[2a45::1]:256"), at("[2a45::2]:3478"), None);
        assert_eq!(six, None);
    }
}
