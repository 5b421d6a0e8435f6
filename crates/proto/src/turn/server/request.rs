//! Requests as typed values. A handler takes an [`Authenticated`] one, which proves that
//! the sender is who it says and that the request can be understood.

use std::time::Duration;

use postern_wire::stun::{Attribute, AttributeType, ErrorCode, Message, ParseError, ValueError};
use postern_wire::turn::{
    AdditionalAddressFamily, AddressFamily, ChannelNumber, ConnectionId, DontFragment,
    DraftAdditionalAddressFamily, EvenPort, Lifetime, MobilityTicket, RequestedAddressFamily,
    RequestedTransport, ReservationToken, XorPeerAddress,
};

use super::ports::Parity;
use super::reject::Reject;
use super::types::{PeerAddr, RelayTransport, Transport};
use crate::stun::Session;

/// The comprehension-required attributes that are understood in requests.
const KNOWN: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::CONNECTION_ID,
];

/// A request whose sender is proven.
#[derive(Debug)]
pub(super) struct Authenticated<R> {
    pub(super) session: Session,
    pub(super) request: R,
}

impl<'a> Authenticated<Message<'a>> {
    /// Reads the request, unless it has attributes that must be understood and are not.
    pub(super) fn read<R>(
        self,
        parse: impl FnOnce(&Message<'a>) -> Result<R, Reject>,
    ) -> Result<Authenticated<R>, Reject> {
        check_known(&self.request)?;
        Ok(Authenticated {
            request: parse(&self.request)?,
            session: self.session,
        })
    }
}

pub(super) fn check_known(message: &Message<'_>) -> Result<(), Reject> {
    let unknown = message.unknown_comprehension_required(KNOWN);
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(Reject::unknown(unknown))
    }
}

/// Allocate (RFC 8656 section 7, RFC 6062 section 5.1, RFC 8016 section 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allocate {
    pub(super) transport: RelayTransport,
    pub(super) family: AddressFamily,
    /// An IPv6 relay besides that of `family`, which is IPv4.
    pub(super) additional: Option<Additional>,
    pub(super) port: PortWish,
    pub(super) lifetime: Option<Duration>,
    pub(super) mobility: bool,
}

/// How a second relay was asked for, which is how its absence is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Additional {
    Rfc8656,
    /// With the attribute types of its drafts.
    Draft,
}

/// Which port a relay is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortWish {
    Draw(Parity),
    Reserved(ReservationToken),
}

impl Allocate {
    pub(super) fn parse(message: &Message<'_>, from: Transport) -> Result<Self, Reject> {
        let transport = requested_transport(message)?;
        let family = requested_family(message)?;
        let additional = additional_family(message)?;
        message.get::<DontFragment>()?;
        let request = Self {
            transport,
            family: family.unwrap_or(AddressFamily::V4),
            additional,
            port: port_wish(message)?,
            lifetime: lifetime(message)?,
            mobility: wants_mobility(message)?,
        };
        let chooses_family = family.is_some() || additional.is_some();
        request.check(chooses_family, family.is_some())?;
        if transport == RelayTransport::Tcp {
            check_tcp(message, from)?;
        }
        Ok(request)
    }

    /// What cannot be asked for at once (RFC 8656 section 7.2).
    fn check(&self, chooses_family: bool, names_family: bool) -> Result<(), Reject> {
        let reserved = matches!(self.port, PortWish::Reserved(_));
        let pair = self.port == PortWish::Draw(Parity::EvenAndNext);
        let contradicts = (reserved && chooses_family)
            || (names_family && self.additional.is_some())
            || (pair && self.additional.is_some());
        if contradicts {
            Err(Reject::BAD_REQUEST)
        } else {
            Ok(())
        }
    }
}

/// RFC 6062 section 5.1: TCP relays need a stream to the client, and know nothing of port
/// pairs and fragments.
fn check_tcp(message: &Message<'_>, from: Transport) -> Result<(), Reject> {
    let udp_only = [
        AttributeType::EVEN_PORT,
        AttributeType::RESERVATION_TOKEN,
        AttributeType::DONT_FRAGMENT,
    ];
    if from.is_stream() && !udp_only.iter().any(|kind| message.contains(*kind)) {
        Ok(())
    } else {
        Err(Reject::BAD_REQUEST)
    }
}

fn requested_transport(message: &Message<'_>) -> Result<RelayTransport, Reject> {
    let requested = required::<RequestedTransport>(message)?;
    RelayTransport::requested(requested)
        .ok_or_else(|| Reject::new(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL))
}

/// A family that is not IPv4 or IPv6 is understood, and not supported.
fn requested_family(message: &Message<'_>) -> Result<Option<AddressFamily>, Reject> {
    match message.get::<RequestedAddressFamily>() {
        Ok(family) => Ok(family.map(|RequestedAddressFamily(family)| family)),
        Err(error) if is_family(error) => Err(Reject::FAMILY_NOT_SUPPORTED),
        Err(error) => Err(error.into()),
    }
}

fn is_family(error: ParseError) -> bool {
    matches!(
        error,
        ParseError::Attribute {
            error: ValueError::Family,
            ..
        }
    )
}

/// Only IPv6 can be additional.
fn additional_family(message: &Message<'_>) -> Result<Option<Additional>, Reject> {
    let rfc = message.get::<AdditionalAddressFamily>()?;
    let draft = message.get::<DraftAdditionalAddressFamily>()?;
    match (rfc, draft) {
        (None, None) => Ok(None),
        (Some(AdditionalAddressFamily(AddressFamily::V6)), _) => Ok(Some(Additional::Rfc8656)),
        (None, Some(DraftAdditionalAddressFamily(AddressFamily::V6))) => {
            Ok(Some(Additional::Draft))
        }
        (Some(_), _) | (None, Some(_)) => Err(Reject::BAD_REQUEST),
    }
}

fn port_wish(message: &Message<'_>) -> Result<PortWish, Reject> {
    let even = message.get::<EvenPort>()?;
    let token = message.get::<ReservationToken>()?;
    match (even, token) {
        (None, None) => Ok(PortWish::Draw(Parity::Any)),
        (Some(even), None) if even.reserve_next => Ok(PortWish::Draw(Parity::EvenAndNext)),
        (Some(_), None) => Ok(PortWish::Draw(Parity::Even)),
        (None, Some(token)) => Ok(PortWish::Reserved(token)),
        (Some(_), Some(_)) => Err(Reject::BAD_REQUEST),
    }
}

fn lifetime(message: &Message<'_>) -> Result<Option<Duration>, Reject> {
    let lifetime = message.get::<Lifetime>()?;
    Ok(lifetime.map(Lifetime::duration))
}

/// The ticket in an Allocate request is empty (RFC 8016 section 3.1.1).
fn wants_mobility(message: &Message<'_>) -> Result<bool, Reject> {
    match message.get::<MobilityTicket<'_>>()? {
        None => Ok(false),
        Some(MobilityTicket([])) => Ok(true),
        Some(_) => Err(Reject::BAD_REQUEST),
    }
}

/// Refresh (RFC 8656 section 8, RFC 8016 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refresh<'a> {
    pub(super) lifetime: Option<Duration>,
    pub(super) family: Option<AddressFamily>,
    pub(super) ticket: Option<&'a [u8]>,
}

impl<'a> Refresh<'a> {
    pub(super) fn parse(message: &Message<'a>) -> Result<Self, Reject> {
        let ticket = message.get::<MobilityTicket<'a>>()?;
        Ok(Self {
            lifetime: lifetime(message)?,
            family: requested_family(message)?,
            ticket: ticket.map(|MobilityTicket(ticket)| ticket),
        })
    }

    pub(super) fn ends(&self) -> bool {
        self.lifetime.is_some_and(|lifetime| lifetime.is_zero())
    }
}

/// CreatePermission (RFC 8656 section 10): at least one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CreatePermission {
    pub(super) peers: Vec<PeerAddr>,
}

impl CreatePermission {
    pub(super) fn parse(message: &Message<'_>) -> Result<Self, Reject> {
        let peers: Result<Vec<_>, _> = message
            .attributes()
            .filter(|(kind, _)| *kind == AttributeType::XOR_PEER_ADDRESS)
            .map(|(_, value)| XorPeerAddress::decode(value, message.transaction_id()))
            .map(|peer| peer.map(|XorPeerAddress(peer)| PeerAddr(peer)))
            .collect();
        match peers {
            Ok(peers) if !peers.is_empty() => Ok(Self { peers }),
            _ => Err(Reject::BAD_REQUEST),
        }
    }
}

/// ChannelBind (RFC 8656 section 12.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChannelBind {
    pub(super) channel: ChannelNumber,
    pub(super) peer: PeerAddr,
}

impl ChannelBind {
    pub(super) fn parse(message: &Message<'_>) -> Result<Self, Reject> {
        Ok(Self {
            channel: required(message)?,
            peer: peer(message)?,
        })
    }
}

/// Connect (RFC 6062 section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) peer: PeerAddr,
}

impl Connect {
    pub(super) fn parse(message: &Message<'_>) -> Result<Self, Reject> {
        Ok(Self {
            peer: peer(message)?,
        })
    }
}

/// ConnectionBind (RFC 6062 section 5.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnectionBind {
    pub(super) id: ConnectionId,
}

impl ConnectionBind {
    pub(super) fn parse(message: &Message<'_>) -> Result<Self, Reject> {
        Ok(Self {
            id: required(message)?,
        })
    }
}

fn peer(message: &Message<'_>) -> Result<PeerAddr, Reject> {
    required(message).map(|XorPeerAddress(peer)| PeerAddr(peer))
}

fn required<'a, A: Attribute<'a>>(message: &Message<'a>) -> Result<A, Reject> {
    message.get::<A>()?.ok_or(Reject::BAD_REQUEST)
}
