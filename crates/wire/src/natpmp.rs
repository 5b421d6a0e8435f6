//! NAT Port Mapping Protocol (RFC 6886): requests to a gateway, and its answers.
//!
//! ```
//! use postern_wire::natpmp::{Map, Request, Response};
//! use postern_wire::transport::Transport;
//!
//! let request = Request::Map(Map {
//!     transport: Transport::Udp,
//!     internal_port: 4000,
//!     external_port: 4001,
//!     lifetime: 3600,
//! });
//! assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
//! # let _ = Response::parse(&[]);
//! ```
//!
//! The version field tells NAT-PMP (0) from PCP (2), which shares the ports: a message of
//! another version is [`ParseError::Version`], and what to make of that is the caller's matter.

use std::net::Ipv4Addr;

use crate::transport::Transport;

/// The port at which a gateway listens, for PCP too.
pub const GATEWAY_PORT: u16 = 5351;
/// The port at which clients listen for announcements, sent to 224.0.0.1 or ff02::1.
pub const CLIENT_PORT: u16 = 5350;
/// The version field of NAT-PMP.
pub const VERSION: u8 = 0;
/// The bit of the opcode that tells an answer from a request.
const RESPONSE: u8 = 0x80;
/// The opcode that asks for the external address.
const OPCODE_EXTERNAL_ADDRESS: u8 = 0;

/// A mapping that is asked for, or deleted (RFC 6886 sections 3.3 and 3.4).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Vers = 0      | OP = x        | Reserved                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Internal Port                 | Suggested External Port       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Requested Port Mapping Lifetime in Seconds                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Whose port.
    pub transport: Transport,
    /// The client's port. Zero, with a lifetime of zero, means all ports of the client.
    pub internal_port: u16,
    /// The port that the client would like outside; zero if any will do, and to delete.
    pub external_port: u16,
    /// For how long, in seconds; zero deletes.
    pub lifetime: u32,
}

/// What a client asks of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// What is the external address? (RFC 6886 section 3.2)
    ExternalAddress,
    /// Make, renew or delete a mapping.
    Map(Map),
}

impl Request {
    /// The opcode: 0, 1 or 2.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self {
            Self::ExternalAddress => OPCODE_EXTERNAL_ADDRESS,
            Self::Map(map) => map_opcode(map.transport),
        }
    }

    /// Reads a request. Bytes behind it are ignored, as RFC 6886 does not forbid them.
    ///
    /// # Errors
    ///
    /// Says why it is not one; [`ParseError::Opcode`] and [`ParseError::Version`] are answered
    /// with [`refusal`], everything else is dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let ([version, opcode], rest) = bytes.split_first_chunk().ok_or(ParseError::Truncated)?;
        if *version != VERSION {
            return Err(ParseError::Version(*version));
        }
        if opcode & RESPONSE != 0 {
            return Err(ParseError::Direction);
        }
        if *opcode == OPCODE_EXTERNAL_ADDRESS {
            return Ok(Self::ExternalAddress);
        }
        let transport = map_transport(*opcode).ok_or(ParseError::Opcode(*opcode))?;
        let (fields, _) = rest
            .split_first_chunk::<10>()
            .ok_or(ParseError::Truncated)?;
        let [_, _, i0, i1, e0, e1, l0, l1, l2, l3] = *fields;
        Ok(Self::Map(Map {
            transport,
            internal_port: u16::from_be_bytes([i0, i1]),
            external_port: u16::from_be_bytes([e0, e1]),
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
        }))
    }

    /// The request as a datagram: 2 or 12 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.opcode()];
        if let Self::Map(map) = self {
            bytes.extend([0, 0]);
            bytes.extend(map.internal_port.to_be_bytes());
            bytes.extend(map.external_port.to_be_bytes());
            bytes.extend(map.lifetime.to_be_bytes());
        }
        bytes
    }
}

/// Why a gateway refuses (RFC 6886 section 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultCode(pub u16);

impl ResultCode {
    /// It does not refuse.
    pub const SUCCESS: Self = Self(0);
    /// The gateway does not speak this version.
    pub const UNSUPPORTED_VERSION: Self = Self(1);
    /// The gateway could, and is told not to.
    pub const NOT_AUTHORIZED: Self = Self(2);
    /// The gateway has no external address itself.
    pub const NETWORK_FAILURE: Self = Self(3);
    /// The gateway has no room for another mapping.
    pub const OUT_OF_RESOURCES: Self = Self(4);
    /// The gateway does not know the opcode.
    pub const UNSUPPORTED_OPCODE: Self = Self(5);
}

/// What a gateway grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its external address. All zeros if it has none.
    ExternalAddress(Ipv4Addr),
    /// The mapping as it is: with the port that it has outside and the lifetime that it was
    /// given, both zero when it was deleted.
    Map(Map),
}

/// An answer, or an announcement of the external address, which looks the same (RFC 6886
/// section 3.2.1).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Vers = 0      | OP = 128 + x  | Result Code                   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Seconds Since Start of Epoch                                  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | External IPv4 Address, or Internal Port and External Port     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Port Mapping Lifetime in Seconds, if it is a mapping          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Which request is answered, without the bit of answers.
    pub opcode: u8,
    /// Seconds since the gateway forgot its mappings.
    pub epoch: u32,
    /// What is granted, or why not.
    pub outcome: Result<Answer, ResultCode>,
}

impl Response {
    /// An answer that grants.
    #[must_use]
    pub const fn granted(epoch: u32, answer: Answer) -> Self {
        let opcode = match answer {
            Answer::ExternalAddress(_) => OPCODE_EXTERNAL_ADDRESS,
            Answer::Map(map) => map_opcode(map.transport),
        };
        Self {
            opcode,
            epoch,
            outcome: Ok(answer),
        }
    }

    /// Reads an answer. One that refuses may end after the epoch: gateways differ in that.
    ///
    /// # Errors
    ///
    /// Says why it is not one; such a datagram is dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (version, _) = bytes.split_first().ok_or(ParseError::Truncated)?;
        if *version != VERSION {
            return Err(ParseError::Version(*version));
        }
        let (header, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or(ParseError::Truncated)?;
        let [_, opcode, r0, r1, e0, e1, e2, e3] = *header;
        if opcode & RESPONSE == 0 {
            return Err(ParseError::Direction);
        }
        let opcode = opcode & !RESPONSE;
        let result = ResultCode(u16::from_be_bytes([r0, r1]));
        let outcome = if result == ResultCode::SUCCESS {
            Ok(Answer::parse(opcode, rest)?)
        } else {
            Err(result)
        };
        Ok(Self {
            opcode,
            epoch: u32::from_be_bytes([e0, e1, e2, e3]),
            outcome,
        })
    }

    /// The answer as a datagram: 12 or 16 bytes, 8 for an opcode that is not known.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let result = self.outcome.err().unwrap_or(ResultCode::SUCCESS);
        let mut bytes = vec![VERSION, RESPONSE | self.opcode];
        bytes.extend(result.0.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        match self.outcome {
            Ok(Answer::ExternalAddress(address)) => bytes.extend(address.octets()),
            Ok(Answer::Map(map)) => {
                bytes.extend(map.internal_port.to_be_bytes());
                bytes.extend(map.external_port.to_be_bytes());
                bytes.extend(map.lifetime.to_be_bytes());
            }
            Err(_) => match self.opcode {
                OPCODE_EXTERNAL_ADDRESS => bytes.extend([0; 4]),
                opcode if map_transport(opcode).is_some() => bytes.extend([0; 8]),
                _ => {}
            },
        }
        bytes
    }
}

impl Answer {
    fn parse(opcode: u8, fields: &[u8]) -> Result<Self, ParseError> {
        if opcode == OPCODE_EXTERNAL_ADDRESS {
            let (octets, _) = fields
                .split_first_chunk::<4>()
                .ok_or(ParseError::Truncated)?;
            return Ok(Self::ExternalAddress(Ipv4Addr::from(*octets)));
        }
        let transport = map_transport(opcode).ok_or(ParseError::Opcode(opcode))?;
        let (fields, _) = fields
            .split_first_chunk::<8>()
            .ok_or(ParseError::Truncated)?;
        let [i0, i1, e0, e1, l0, l1, l2, l3] = *fields;
        Ok(Self::Map(Map {
            transport,
            internal_port: u16::from_be_bytes([i0, i1]),
            external_port: u16::from_be_bytes([e0, e1]),
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
        }))
    }
}

/// The answer that refuses `request`: as RFC 6886 section 3.5 wants it, the request itself
/// with the bit of answers, a result code, the epoch, and zeros where something would be
/// granted. `None` if there is nothing that may be answered.
///
/// ```
/// use postern_wire::natpmp::{ResultCode, refusal};
///
/// let answer = refusal(&[0, 9, 1, 2], ResultCode::UNSUPPORTED_OPCODE, 7);
/// assert_eq!(answer, Some(vec![0, 0x89, 0, 5, 0, 0, 0, 7]));
/// assert_eq!(refusal(&[0, 0x80], ResultCode::UNSUPPORTED_OPCODE, 7), None);
/// ```
#[must_use]
pub fn refusal(request: &[u8], result: ResultCode, epoch: u32) -> Option<Vec<u8>> {
    let ([_, opcode], rest) = request.split_first_chunk()?;
    if opcode & RESPONSE != 0 {
        return None;
    }
    let mut response = Response {
        opcode: *opcode,
        epoch,
        outcome: Err(result),
    }
    .to_bytes();
    // A refused mapping is named by its internal port.
    let port = rest.get(2..4);
    if let (Some(port), Some(field), true) = (
        port,
        response.get_mut(8..10),
        map_transport(*opcode).is_some(),
    ) {
        field.copy_from_slice(port);
    }
    Some(response)
}

const fn map_opcode(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
    }
}

const fn map_transport(opcode: u8) -> Option<Transport> {
    match opcode {
        1 => Some(Transport::Udp),
        2 => Some(Transport::Tcp),
        _ => None,
    }
}

/// Why a datagram is not the message that was looked for: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the message has.
    #[error("the NAT-PMP message is cut short")]
    Truncated,
    /// Another version than 0; 2 is PCP.
    #[error("version {0} is not NAT-PMP")]
    Version(u8),
    /// An answer where a request was looked for, or the other way round.
    #[error("a NAT-PMP message of the other direction")]
    Direction,
    /// An opcode that RFC 6886 does not have.
    #[error("unknown NAT-PMP opcode {0}")]
    Opcode(u8),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAP: Map = Map {
        transport: Transport::Tcp,
        internal_port: 22,
        external_port: 12345,
        lifetime: 7200,
    };

    fn requests() -> [Request; 3] {
        let udp = Map {
            transport: Transport::Udp,
            ..MAP
        };
        [
            Request::ExternalAddress,
            Request::Map(MAP),
            Request::Map(udp),
        ]
    }

    fn responses() -> [Response; 3] {
        [
            Response::granted(9, Answer::ExternalAddress([198, 51, 100, 1].into())),
            Response::granted(9, Answer::Map(MAP)),
            Response {
                opcode: 2,
                epoch: 9,
                outcome: Err(ResultCode::NOT_AUTHORIZED),
            },
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        for request in requests() {
            assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
        }
        for response in responses() {
            assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
        }
    }

    #[test]
    fn one_byte_short_is_no_message() {
        for request in requests() {
            let bytes = request.to_bytes();
            let short = &bytes[..bytes.len() - 1];
            assert_eq!(Request::parse(short), Err(ParseError::Truncated));
        }
        for response in &responses()[..2] {
            let bytes = response.to_bytes();
            let short = &bytes[..bytes.len() - 1];
            assert_eq!(Response::parse(short), Err(ParseError::Truncated));
        }
        assert_eq!(
            Response::parse(&[0, 129, 0, 1, 0, 0, 0]),
            Err(ParseError::Truncated)
        );
    }

    #[test]
    fn another_version_direction_or_opcode_is_named() {
        let request = Request::ExternalAddress.to_bytes();
        assert_eq!(Response::parse(&[2]), Err(ParseError::Version(2)));
        assert_eq!(Request::parse(&[2, 1]), Err(ParseError::Version(2)));
        assert_eq!(Response::parse(&request), Err(ParseError::Truncated));
        assert_eq!(Response::parse(&[0; 12]), Err(ParseError::Direction));
        let response = responses()[0].to_bytes();
        assert_eq!(Request::parse(&response), Err(ParseError::Direction));
        assert_eq!(Request::parse(&[0, 3]), Err(ParseError::Opcode(3)));
        let unknown = [0, 128 + 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(Response::parse(&unknown), Err(ParseError::Opcode(3)));
    }

    /// The formats of RFC 6886 sections 3.2 and 3.3, field by field.
    #[test]
    fn the_formats_of_the_rfc_are_written_byte_by_byte() {
        assert_eq!(Request::ExternalAddress.to_bytes(), [0, 0]);
        assert_eq!(
            Request::Map(MAP).to_bytes(),
            [0, 2, 0, 0, 0, 22, 0x30, 0x39, 0, 0, 0x1c, 0x20]
        );
        let [address, map, refused] = responses();
        assert_eq!(
            address.to_bytes(),
            [0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 1]
        );
        assert_eq!(
            map.to_bytes(),
            [
                0, 130, 0, 0, 0, 0, 0, 9, 0, 22, 0x30, 0x39, 0, 0, 0x1c, 0x20
            ]
        );
        assert_eq!(
            refused.to_bytes(),
            [0, 130, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_refusal_may_end_after_the_epoch() {
        let response = Response::parse(&[0, 128, 0, 1, 0, 0, 1, 0]).unwrap();
        assert_eq!(response.outcome, Err(ResultCode::UNSUPPORTED_VERSION));
        assert_eq!(response.epoch, 256);
    }

    #[test]
    fn a_refused_mapping_is_named_by_its_internal_port() {
        let request = Request::Map(MAP).to_bytes();
        let answer = refusal(&request, ResultCode::OUT_OF_RESOURCES, 1).unwrap();
        assert_eq!(answer, [0, 130, 0, 4, 0, 0, 0, 1, 0, 22, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
            }
            if let Ok(response) = Response::parse(&bytes) {
                prop_assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
            }
            _ = refusal(&bytes, ResultCode::UNSUPPORTED_OPCODE, 0);
        }
    }
}
