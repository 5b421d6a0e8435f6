//! TURN (RFC 8656), its TCP relays (RFC 6062) and its mobility (RFC 8016): what they add to
//! STUN.
//!
//! - The attributes, for [`Message::get`](crate::stun::Message::get) and
//!   [`Builder::attribute`](crate::stun::Builder::attribute); their types are constants of
//!   [`AttributeType`](crate::stun::AttributeType), the error codes those of
//!   [`ErrorCode`](crate::stun::ErrorCode).
//! - [`ChannelData`], the short framing of data, and [`StreamFrame`], which cuts a TCP or
//!   TLS stream into STUN messages and ChannelData.
//! - [`DataHeader`], what precedes the data in a Send or Data indication, for senders that
//!   do not want to copy the data behind it.
//!
//! ```
//! use postern_wire::turn::{ChannelData, ChannelNumber};
//!
//! let channel = ChannelNumber::new(0x4001)?;
//! let bytes = ChannelData { channel, data: b"hello" }.to_datagram();
//! assert_eq!(bytes, [&[0x40, 0x01, 0, 5], &b"hello"[..]].concat());
//! assert_eq!(ChannelData::parse(&bytes)?.data, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Out of scope: third-party authorisation (RFC 7635).

mod attribute;
mod channel_data;
mod indication;
mod stream;

#[cfg(test)]
mod tests;

pub use attribute::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, ChannelNumber, ConnectionId, Data,
    DontFragment, DraftAdditionalAddressFamily, DraftAddressErrorCode, EvenPort, Icmp, Lifetime,
    MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress,
    XorRelayedAddress,
};
pub use channel_data::{CHANNEL_HEADER_LEN, ChannelData, ChannelDataError, channel_header};
pub use indication::DataHeader;
pub use stream::{StreamError, StreamFrame, split_stream};
