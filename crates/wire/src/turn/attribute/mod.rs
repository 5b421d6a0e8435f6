//! Attributes: one file per family.

mod address;
mod data;
mod error;
mod family;
mod icmp;
mod number;
mod transport;

use crate::stun::AttributeType;

pub use address::{XorPeerAddress, XorRelayedAddress};
pub use data::{Data, MobilityTicket};
pub use error::{AddressErrorCode, DraftAddressErrorCode};
pub use family::{
    AdditionalAddressFamily, AddressFamily, DraftAdditionalAddressFamily, RequestedAddressFamily,
};
pub use icmp::Icmp;
pub use number::{ChannelNumber, ConnectionId, Lifetime};
pub use transport::{DontFragment, EvenPort, RequestedTransport, ReservationToken};

/// The attribute types of TURN.
impl AttributeType {
    /// CHANNEL-NUMBER (RFC 8656).
    pub const CHANNEL_NUMBER: Self = Self(0x000c);
    /// LIFETIME (RFC 8656).
    pub const LIFETIME: Self = Self(0x000d);
    /// XOR-PEER-ADDRESS (RFC 8656).
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// DATA (RFC 8656).
    pub const DATA: Self = Self(0x0013);
    /// XOR-RELAYED-ADDRESS (RFC 8656).
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// REQUESTED-ADDRESS-FAMILY (RFC 8656).
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// EVEN-PORT (RFC 8656).
    pub const EVEN_PORT: Self = Self(0x0018);
    /// REQUESTED-TRANSPORT (RFC 8656).
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// DONT-FRAGMENT (RFC 8656).
    pub const DONT_FRAGMENT: Self = Self(0x001a);
    /// RESERVATION-TOKEN (RFC 8656).
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    /// CONNECTION-ID (RFC 6062).
    pub const CONNECTION_ID: Self = Self(0x002a);
    /// ADDITIONAL-ADDRESS-FAMILY (RFC 8656).
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    /// ADDRESS-ERROR-CODE (RFC 8656).
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    /// ICMP (RFC 8656).
    pub const ICMP: Self = Self(0x8004);
    /// MOBILITY-TICKET (RFC 8016).
    pub const MOBILITY_TICKET: Self = Self(0x8030);
    /// ADDITIONAL-ADDRESS-FAMILY as drafts of RFC 8656 had it, and coturn before 4.8.
    pub const DRAFT_ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8032);
    /// ADDRESS-ERROR-CODE as drafts of RFC 8656 had it, and coturn before 4.8.
    pub const DRAFT_ADDRESS_ERROR_CODE: Self = Self(0x8033);
}
