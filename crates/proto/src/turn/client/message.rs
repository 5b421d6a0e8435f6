//! What the requests say, and what may be in the responses.

use std::net::SocketAddr;
use std::time::Duration;

use postern_wire::stun::{
    Attribute, AttributeType, Builder, Class, Message, Method, TransactionId, XorMappedAddress,
};
use postern_wire::turn::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, DontFragment, EvenPort, Lifetime,
    MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress,
    XorRelayedAddress,
};

use super::config::{Config, Relay};
use super::event::{Allocation, Failure};

/// The comprehension-required attributes of responses; others make a success unusable (RFC
/// 8489 section 6.3.3).
pub(super) const KNOWN: [AttributeType; 10] = [
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::MAPPED_ADDRESS,
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::LIFETIME,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::CONNECTION_ID,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::USERNAME,
    AttributeType::XOR_PEER_ADDRESS,
];

/// RFC 8656 section 7.1, with what excludes each other left out.
pub(super) fn allocate(config: &Config, id: TransactionId) -> Builder {
    let udp = config.relay == Relay::Udp;
    let transport = if udp {
        RequestedTransport::UDP
    } else {
        RequestedTransport::TCP
    };
    let token = config.reservation.filter(|_| udp).map(ReservationToken);
    let both = config.additional_ipv6 && token.is_none();
    let family = config.family.filter(|_| !both && token.is_none());
    let even = config
        .even_port
        .filter(|_| udp && !both && token.is_none())
        .map(|reserve_next| EvenPort { reserve_next });
    let additional = both.then_some(AdditionalAddressFamily(AddressFamily::V6));
    let unfragmented = (config.dont_fragment && udp).then_some(DontFragment);
    Builder::new(Class::Request, Method::ALLOCATE, id)
        .attribute(&transport)
        .maybe_attribute(config.lifetime.map(lifetime).as_ref())
        .maybe_attribute(family.map(RequestedAddressFamily).as_ref())
        .maybe_attribute(additional.as_ref())
        .maybe_attribute(even.as_ref())
        .maybe_attribute(token.as_ref())
        .maybe_attribute(unfragmented.as_ref())
        .maybe_attribute(config.mobility.then_some(MobilityTicket(&[])).as_ref())
}

pub(super) fn refresh(config: &Config, id: TransactionId) -> Builder {
    Builder::new(Class::Request, Method::REFRESH, id)
        .maybe_attribute(config.lifetime.map(lifetime).as_ref())
}

pub(super) fn delete(id: TransactionId) -> Builder {
    Builder::new(Class::Request, Method::REFRESH, id).attribute(&Lifetime(0))
}

fn lifetime(lifetime: Duration) -> Lifetime {
    Lifetime(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1))
}

/// A request about one peer.
pub(super) fn about(method: Method, id: TransactionId, peer: SocketAddr) -> Builder {
    Builder::new(Class::Request, method, id).attribute(&XorPeerAddress(peer))
}

/// RFC 8656 section 7.3: what an Allocate success says.
pub(super) fn read_allocation(message: &Message<'_>) -> Option<Allocation> {
    let lifetime = message.get::<Lifetime>().ok()??;
    let mut relayed = message
        .attributes()
        .filter(|(kind, _)| *kind == AttributeType::XOR_RELAYED_ADDRESS)
        .map(|(_, value)| XorRelayedAddress::decode(value, message.transaction_id()));
    let XorRelayedAddress(first) = relayed.next()?.ok()?;
    let second = relayed.next().transpose().ok()?.map(|second| second.0);
    let is_sound = |address: SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
    let missing = message.get::<AddressErrorCode<'_>>().ok().flatten();
    let mapped = message.get::<XorMappedAddress>().ok().flatten();
    let token = message.get::<ReservationToken>().ok().flatten();
    let allocation = Allocation {
        relayed: first,
        additional: second.filter(|second| is_sound(*second) && differs(*second, first)),
        missing: missing.map(|m| (m.family, Failure::from_code(m.error.code()))),
        mapped: mapped.map(|XorMappedAddress(mapped)| mapped),
        lifetime: lifetime.duration(),
        reservation: token.map(|token| token.0),
    };
    (is_sound(first) && lifetime.0 != 0).then_some(allocation)
}

fn differs(one: SocketAddr, other: SocketAddr) -> bool {
    one.is_ipv4() != other.is_ipv4()
}
