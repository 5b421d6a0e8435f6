//! Port Control Protocol (RFC 6887): ANNOUNCE, MAP and PEER, with their options.
//!
//! | file | what |
//! |---|---|
//! | `request.rs` | what a client asks, and which error a server owes to bytes that it cannot serve |
//! | `response.rs` | what a server answers or announces |
//! | `operation.rs` | the data of MAP and PEER |
//! | `option.rs` | THIRD_PARTY, PREFER_FAILURE, FILTER, PORT_SET (RFC 7220), PREFIX64 (RFC 7225) |
//! | `code.rs` | result codes |
//!
//! ```
//! use postern_wire::pcp::{Map, Nonce, Operation, Options, Request};
//!
//! let request = Request {
//!     lifetime: 7200,
//!     client: [192, 168, 1, 10].into(),
//!     operation: Operation::Map(Map {
//!         nonce: Nonce([7; 12]),
//!         protocol: 6,
//!         internal_port: 22,
//!         external_port: 12345,
//!         external_address: [0, 0, 0, 0].into(),
//!     }),
//!     options: Options::default(),
//! };
//! assert_eq!(request.to_bytes().len(), 60);
//! assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
//! ```
//!
//! Out of scope: authentication (RFC 7652), and other options than the five.

mod code;
mod operation;
mod option;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use code::ResultCode;
pub use operation::{Map, Nonce, Operation, Peer};
pub use option::{Filter, Options, PortSet, Prefix64};
pub use request::{Request, RequestError, refusal};
pub use response::{Response, ResponseError};

pub use crate::natpmp::{CLIENT_PORT, GATEWAY_PORT};

use std::net::{IpAddr, Ipv6Addr};

/// The version field of PCP.
pub const VERSION: u8 = 2;
/// The most bytes of a message (RFC 6887 section 7).
pub const MAX_LEN: usize = 1100;
/// Bytes of a request's or an answer's header.
const HEADER_LEN: usize = 24;
/// The bit of the opcode that tells an answer from a request.
const RESPONSE: u8 = 0x80;

const OPCODE_ANNOUNCE: u8 = 0;
const OPCODE_MAP: u8 = 1;
const OPCODE_PEER: u8 = 2;

/// Every address has 128 bits; IPv4 addresses are mapped (RFC 6887 section 5).
fn read_address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

fn write_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
