use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::{
    AttributeType, Builder, Class, ErrorCode, Message, Method, UnknownAttributes, XorMappedAddress,
    is_stun,
};

use super::budget::Budget;
use crate::{Datagram, Transmit, Verdict};

/// The most responses that wait to be sent: a driver drains them after every input.
const MAX_QUEUED: usize = 64;

/// The comprehension-required attributes that are understood in a Binding request. The
/// credentials among them are ignored: this server asks nobody for any.
const KNOWN: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
];

/// A STUN server (RFC 8489 section 12, "Basic Server Behavior"): it answers Binding
/// requests with the address they came from.
///
/// It is a poor amplifier. A response has XOR-MAPPED-ADDRESS and nothing else (32 bytes
/// for IPv4, 44 for IPv6), plus FINGERPRINT if the request had one; and no network, a /24
/// or a /56, is sent more in ten seconds than came from it and a fixed allowance.
///
/// It has no timer and no events.
#[derive(Debug, Default)]
pub struct BindingServer {
    budget: Budget,
    transmits: VecDeque<Transmit>,
}

impl BindingServer {
    /// A server that has answered nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what arrived.
    ///
    /// [`Verdict::Consumed`] for Binding requests and indications, answered or not.
    /// [`Verdict::NotMine`] for everything else, so that responses reach a client and
    /// other methods a TURN server on the same socket.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        let Some(message) = binding(&datagram) else {
            return Verdict::NotMine;
        };
        if let Some(transmit) = self.respond(now, &datagram, &message) {
            self.transmits.push_back(transmit);
        }
        Verdict::Consumed
    }

    /// The next response to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn respond(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
    ) -> Option<Transmit> {
        if message.class() != Class::Request || !can_be_answered(datagram.remote) {
            return None;
        }
        if self.transmits.len() >= MAX_QUEUED {
            return None;
        }
        let payload = response(message, datagram.remote);
        let (source, received) = (datagram.remote.ip(), datagram.payload.len());
        self.budget
            .allow(now, source, received, payload.len())
            .then_some(Transmit {
                local: datagram.local,
                remote: datagram.remote,
                payload,
            })
    }
}

/// The Binding request or indication that a datagram is. With a wrong FINGERPRINT it is
/// none, but some other protocol's (RFC 8489 section 6.3).
fn binding<'a>(datagram: &Datagram<'a>) -> Option<Message<'a>> {
    if !is_stun(datagram.payload) {
        return None;
    }
    let message = Message::parse(datagram.payload).ok()?;
    let asks = matches!(message.class(), Class::Request | Class::Indication);
    let fingerprint_is_wrong = has_fingerprint(&message) && message.verify_fingerprint().is_err();
    (asks && message.method() == Method::BINDING && !fingerprint_is_wrong).then_some(message)
}

fn has_fingerprint(message: &Message<'_>) -> bool {
    message.contains(AttributeType::FINGERPRINT)
}

/// Nobody listens on port 0, and a group did not send the request.
fn can_be_answered(remote: SocketAddr) -> bool {
    remote.port() != 0 && !remote.ip().is_multicast() && !remote.ip().is_unspecified()
}

fn response(request: &Message<'_>, remote: SocketAddr) -> Vec<u8> {
    let unknown = request.unknown_comprehension_required(KNOWN);
    let response = if unknown.is_empty() {
        success(request, remote)
    } else {
        refusal(request, &unknown)
    };
    if has_fingerprint(request) {
        response.fingerprint().build()
    } else {
        response.build()
    }
}

/// The address is given in its own family also when a socket for both families shows an
/// IPv4 client as an IPv4-mapped IPv6 address.
fn success(request: &Message<'_>, remote: SocketAddr) -> Builder {
    let address = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    Builder::new(Class::Success, Method::BINDING, request.transaction_id())
        .attribute(&XorMappedAddress(address))
}

/// RFC 8489 section 6.3.1: 420 with the types that were not understood.
fn refusal(request: &Message<'_>, unknown: &UnknownAttributes) -> Builder {
    Builder::new(Class::Error, Method::BINDING, request.transaction_id())
        .attribute(&ErrorCode::UNKNOWN_ATTRIBUTE)
        .attribute(unknown)
}

#[cfg(test)]
pub(super) mod tests;
