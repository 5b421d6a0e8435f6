use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::stun::{
    AttributeType, BindingResponse, Builder, ChangeRequest, Class, ClassicRequest, ErrorCode,
    Message, Method, OtherAddress, Padding, ResponseOrigin, ResponsePort, UnknownAttributes,
    XorMappedAddress, bare_binding_request, is_stun,
};

use super::budget::SharedBudget;
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

/// Those that are understood when there are [`Alternate`]s.
const KNOWN_WITH_ALTERNATE: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::CHANGE_REQUEST,
    AttributeType::RESPONSE_PORT,
    AttributeType::PADDING,
];

/// How often, for all clients together, a response may go to another port than the
/// request came from: RESPONSE-PORT lets a client aim at its neighbours behind a NAT.
const RESPONSE_PORT_INTERVAL: Duration = Duration::from_millis(20);

/// The second address of a server that helps to discover NAT behaviour (RFC 5780).
///
/// The server listens at two IP addresses and two ports, which makes four sockets. It has
/// one of these for each of its IP addresses but the second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alternate {
    /// One address.
    pub primary: SocketAddr,
    /// The other one: neither its IP address nor its port is that of the first.
    pub secondary: SocketAddr,
}

impl Alternate {
    /// The socket that differs from `local` in IP address, in port or in both; `None` if
    /// `local` is none of the four.
    fn other(&self, local: SocketAddr, change: ChangeRequest) -> Option<SocketAddr> {
        let (a, b) = (self.primary, self.secondary);
        let other_ip = either(local.ip(), a.ip(), b.ip())?;
        let other_port = either(local.port(), a.port(), b.port())?;
        let ip = if change.ip { other_ip } else { local.ip() };
        let port = if change.port {
            other_port
        } else {
            local.port()
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// The one of `a` and `b` that `this` is not.
fn either<T: PartialEq>(this: T, a: T, b: T) -> Option<T> {
    if this == a {
        Some(b)
    } else {
        (this == b).then_some(a)
    }
}

/// A STUN server (RFC 8489 section 12, "Basic Server Behavior"): it answers Binding
/// requests with the address they came from.
///
/// It is a poor amplifier. A response has XOR-MAPPED-ADDRESS and nothing else (32 bytes
/// for IPv4, 44 for IPv6), plus FINGERPRINT if the request had one, and RESPONSE-ORIGIN
/// and OTHER-ADDRESS if there is an [`Alternate`] for the socket; and no network, a /24 or a /56, is
/// sent more in ten seconds than came from it and a fixed allowance.
///
/// It has no timer and no events.
#[derive(Debug, Default)]
pub struct BindingServer {
    budget: SharedBudget,
    alternates: Vec<Alternate>,
    next_redirect: Option<Instant>,
    transmits: VecDeque<Transmit>,
}

impl BindingServer {
    /// A server that has answered nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Discovers NAT behaviour for clients (RFC 5780) with these second addresses. The
    /// first that has a socket says what is other than it.
    #[must_use]
    pub fn with_alternates(mut self, alternates: Vec<Alternate>) -> Self {
        self.alternates = alternates;
        self
    }

    /// How many bytes a network may be sent in ten seconds beyond what came from it
    /// (16,384 unless told); `None` is no limit, for load tests.
    #[must_use]
    pub fn with_allowance(mut self, bytes: Option<u64>) -> Self {
        self.budget = SharedBudget::new(bytes);
        self
    }

    /// Another server, without alternates, that counts together with this one what
    /// networks were sent.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            budget: self.budget.clone(),
            ..Self::default()
        }
    }

    /// Takes what arrived.
    ///
    /// [`Verdict::Consumed`] for Binding requests and indications, answered or not, those of
    /// RFC 3489 among them.
    /// [`Verdict::NotMine`] for everything else, so that responses reach a client and
    /// other methods a TURN server on the same socket.
    pub fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict {
        if let Some(request) = ClassicRequest::parse(datagram.payload) {
            let response = self.respond_classic(now, &datagram, &request);
            self.transmits.extend(response);
            return Verdict::Consumed;
        }
        let Some(message) = binding(&datagram) else {
            return Verdict::NotMine;
        };
        if let Some(transmit) = self.respond(now, &datagram, &message) {
            self.transmits.push_back(transmit);
        }
        Verdict::Consumed
    }

    /// The response to a Binding request without attributes, to be sent at once; `None`
    /// for everything else, and where more than the mapped address is to be told.
    ///
    /// What [`BindingServer::handle_input`] would answer, but without a queue and without
    /// memory from the heap. The inner value is `None` if there is to be no answer.
    pub(crate) fn answer_bare(
        &self,
        now: Instant,
        datagram: &Datagram<'_>,
    ) -> Option<Option<BindingResponse>> {
        if !self.alternates.is_empty() {
            return None;
        }
        let id = bare_binding_request(datagram.payload)?;
        let (remote, received) = (datagram.remote, datagram.payload.len());
        let mapped = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let response = BindingResponse::new(id, mapped);
        let may = can_be_answered(remote)
            && self
                .budget
                .allow(now, remote.ip(), received, response.as_bytes().len());
        Some(may.then_some(response))
    }

    /// The response to a Binding request on a stream, whose far end is proven.
    pub(crate) fn answer_on_stream(&self, datagram: &Datagram<'_>) -> Option<Vec<u8>> {
        let message = binding(datagram)?;
        let is_request = message.class() == Class::Request;
        is_request.then(|| self.answer(datagram, &message, Path::Stream).payload)
    }

    /// The next response to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether `reply` bytes may go to `source`, from which a datagram of `received`
    /// bytes came and which has not proven that it is there.
    pub(crate) fn allow(
        &self,
        now: Instant,
        source: IpAddr,
        received: usize,
        reply: usize,
    ) -> bool {
        self.budget.allow(now, source, received, reply)
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
        let Answer {
            local,
            remote,
            payload,
        } = self.answer(datagram, message, Path::Datagram);
        if remote.port() != datagram.remote.port() && !self.may_redirect(now) {
            return None;
        }
        let (source, received) = (datagram.remote.ip(), datagram.payload.len());
        self.budget
            .allow(now, source, received, payload.len())
            .then_some(Transmit {
                local,
                remote,
                payload,
            })
    }

    /// RFC 3489 section 8.1.
    fn respond_classic(
        &self,
        now: Instant,
        datagram: &Datagram<'_>,
        request: &ClassicRequest,
    ) -> Option<Transmit> {
        let remote = datagram.remote;
        if !can_be_answered(remote) || self.transmits.len() >= MAX_QUEUED {
            return None;
        }
        let changes = request.change.ip || request.change.port;
        let (local, changed) = match self.sockets(datagram.local, request.change) {
            Some((local, changed)) => (local, Some(changed)),
            None if changes => return None,
            None => (datagram.local, None),
        };
        let payload = request.response(remote, local, changed)?;
        self.budget
            .allow(now, remote.ip(), datagram.payload.len(), payload.len())
            .then_some(Transmit {
                local,
                remote,
                payload,
            })
    }

    fn may_redirect(&mut self, now: Instant) -> bool {
        let allowed = self.next_redirect.is_none_or(|next| now >= next);
        if allowed {
            self.next_redirect = now.checked_add(RESPONSE_PORT_INTERVAL);
        }
        allowed
    }

    fn answer(&self, datagram: &Datagram<'_>, message: &Message<'_>, path: Path) -> Answer {
        let here = (datagram.local, datagram.remote);
        let (builder, (local, remote)) = match self.response(datagram, message, path) {
            Ok(response) => response,
            Err(refusal) => (refusal, here),
        };
        let payload = if has_fingerprint(message) {
            builder.fingerprint().build()
        } else {
            builder.build()
        };
        Answer {
            local,
            remote,
            payload,
        }
    }

    /// The response and from where to where it goes, or a refusal.
    fn response(
        &self,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        path: Path,
    ) -> Result<(Builder, (SocketAddr, SocketAddr)), Builder> {
        let here = (datagram.local, datagram.remote);
        if self.alternates.is_empty() {
            refuse_unknown(message, KNOWN)?;
            return Ok((success(message, datagram.remote), here));
        }
        refuse_unknown(message, KNOWN_WITH_ALTERNATE)?;
        let wish = Wish::parse(message).ok_or_else(|| bad_request(message))?;
        if path == Path::Stream && !wish.is_plain() {
            return Err(bad_request(message));
        }
        let Some((local, other)) = self.sockets(datagram.local, wish.change) else {
            return Ok((success(message, datagram.remote), here));
        };
        let remote = SocketAddr::new(
            datagram.remote.ip(),
            wish.port.unwrap_or_else(|| datagram.remote.port()),
        );
        let builder = success(message, datagram.remote)
            .attribute(&ResponseOrigin(local))
            .attribute(&OtherAddress(other))
            .maybe_attribute(wish.padding.as_ref());
        Ok((builder, (local, remote)))
    }

    /// From where the answer goes, and the socket that differs in both from where the
    /// request came to.
    fn sockets(&self, at: SocketAddr, change: ChangeRequest) -> Option<(SocketAddr, SocketAddr)> {
        const BOTH: ChangeRequest = ChangeRequest {
            ip: true,
            port: true,
        };
        let found = self.alternates.iter().map(|alternate| {
            let local = alternate.other(at, change)?;
            Some((local, alternate.other(at, BOTH)?))
        });
        found.flatten().next()
    }
}

/// How a request came. A stream is answered where it is, and its path needs no padding:
/// there, as with coturn, who wants something else has made a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Datagram,
    Stream,
}

struct Answer {
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
}

/// What a client that discovers NAT behaviour asks for.
struct Wish {
    change: ChangeRequest,
    port: Option<u16>,
    padding: Option<Padding>,
}

impl Wish {
    fn is_plain(&self) -> bool {
        let changes = self.change.ip || self.change.port;
        !changes && self.port.is_none() && self.padding.is_none()
    }

    /// `None` if the request is malformed or wants RESPONSE-PORT and PADDING at once (RFC
    /// 5780 section 7.6). The response gets no more padding than the request has.
    fn parse(message: &Message<'_>) -> Option<Self> {
        let change = message.get::<ChangeRequest>().ok()?;
        let port = message.get::<ResponsePort>().ok()?;
        let padding = message.get::<Padding>().ok()?;
        let port_is_sound = port.is_none_or(|ResponsePort(port)| port != 0);
        let both = port.is_some() && padding.is_some();
        (port_is_sound && !both).then_some(Self {
            change: change.unwrap_or(ChangeRequest {
                ip: false,
                port: false,
            }),
            port: port.map(|ResponsePort(port)| port),
            padding,
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

fn refuse_unknown(request: &Message<'_>, known: &[AttributeType]) -> Result<(), Builder> {
    let unknown = request.unknown_comprehension_required(known);
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(refusal(request, &unknown))
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

fn bad_request(request: &Message<'_>) -> Builder {
    Builder::new(Class::Error, Method::BINDING, request.transaction_id())
        .attribute(&ErrorCode::BAD_REQUEST)
}

#[cfg(test)]
pub(super) mod tests;
