//! Settings, wishes, and what is told to the driver.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_wire::natpmp;
use postern_wire::pcp::{self, Nonce};
use postern_wire::transport::Transport;
use postern_wire::upnp::igd::Entry;
use postern_wire::upnp::soap::{ErrorCode, Reply};
use postern_wire::upnp::url::HttpUrl;

use super::verify::Probe;

/// A way to ask a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// UPnP Internet Gateway Device 1 or 2.
    Upnp,
}

impl Protocol {
    /// The best first.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// The name in options and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "natpmp",
            Self::Upnp => "upnp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which protocols are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// PCP.
    pub pcp: bool,
    /// NAT-PMP; never with IPv6.
    pub natpmp: bool,
    /// UPnP.
    pub upnp: bool,
}

impl Protocols {
    /// All three.
    pub const ALL: Self = Self {
        pcp: true,
        natpmp: true,
        upnp: true,
    };

    /// This one alone.
    #[must_use]
    pub const fn only(protocol: Protocol) -> Self {
        Self {
            pcp: matches!(protocol, Protocol::Pcp),
            natpmp: matches!(protocol, Protocol::NatPmp),
            upnp: matches!(protocol, Protocol::Upnp),
        }
    }

    /// Whether it is tried.
    #[must_use]
    pub const fn contains(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Pcp => self.pcp,
            Protocol::NatPmp => self.natpmp,
            Protocol::Upnp => self.upnp,
        }
    }
}

/// Where a client is, and whom it asks.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address of the interface, and the port of the socket that the driver has bound to
    /// it. Everything is sent from here, and HTTP from this address.
    pub local: SocketAddr,
    /// How many bits of the address are the network's: who shares them is on the link.
    pub prefix: u8,
    /// The number of the interface, for link-local addresses of IPv6.
    pub scope: u32,
    /// The default router. PCP and NAT-PMP are spoken with it alone, and it is searched for
    /// UPnP by unicast, too. Always taken to be on the link.
    pub gateway: Option<IpAddr>,
    /// Which protocols are tried.
    pub protocols: Protocols,
    /// Where the description of a UPnP gateway is, if that is known: it is read at once.
    pub location: Option<HttpUrl>,
    /// Whether mappings are looked at from outside when they are made and renewed.
    pub verify: bool,
    /// Whether to search for others than the gateway and the one at `location`.
    pub search: bool,
    /// Whether nobody but `gateway` is believed, because somebody has chosen it.
    pub only_gateway: bool,
    /// What worked here before.
    pub known: Option<Known>,
}

/// What worked on this link before. It is tried while everybody is asked, and taken as soon as
/// it answers: nobody who may be better is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// By which protocol.
    pub protocol: Protocol,
    /// Where a UPnP gateway described itself.
    pub location: Option<HttpUrl>,
}

/// A service of a UPnP gateway, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAt {
    /// Its type, as the description writes it.
    pub service_type: String,
    /// Where it is called.
    pub control: HttpUrl,
}

/// What shall be reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port of ours, not zero.
    pub internal_port: u16,
    /// The port outside; zero if any will do.
    pub external_port: u16,
    /// Whether another external port than this is no use.
    pub exact: bool,
    /// For how long at a time, in seconds, not zero. It is renewed as long as it is wanted.
    pub lifetime: u32,
    /// Whether it is no use where the gateway makes only such as do not end: nobody would remove it
    /// if this program died.
    pub must_end: bool,
    /// What the gateway's list shall say. Thirty-two ASCII characters of it are used.
    pub description: String,
    /// The host that is meant, if it is not this one.
    pub internal_host: Option<IpAddr>,
    /// The nonce of an earlier mapping of the same port, by PCP.
    pub nonce: Option<Nonce>,
}

/// Names a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub(super) u32);

/// Names an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub(super) u32);

/// A mapping that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// By which it was made.
    pub protocol: Protocol,
    /// The gateway's address.
    pub gateway: IpAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// The address outside, if the gateway has told one.
    pub external_address: Option<IpAddr>,
    /// The port outside.
    pub external_port: u16,
    /// The host inside.
    pub internal_address: IpAddr,
    /// Its port.
    pub internal_port: u16,
    /// Seconds from when it was made or renewed to its end; zero if it does not end.
    pub lifetime: u32,
    /// Whether the gateway's address is not one of the public internet: another NAT is behind
    /// it, and nobody outside reaches the mapping.
    pub double_nat: bool,
    /// Whether the internet reaches it; `None` if that was not looked at, or cannot be told.
    pub verified: Option<bool>,
    /// What it takes to change it.
    pub ticket: Ticket,
}

/// What it takes to renew or delete a mapping, in this process or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ticket {
    /// The nonce that it was made with.
    Pcp(Nonce),
    /// Nothing.
    NatPmp,
    /// Where the gateway describes itself.
    Upnp(HttpUrl),
    /// The same, and the number of a pinhole.
    Pinhole(HttpUrl, u16),
}

/// One HTTP request on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub id: ExchangeId,
    /// The address to connect from: gateways compare it.
    pub from: IpAddr,
    /// Where to connect to.
    pub to: SocketAddr,
    /// What to send, in one piece.
    pub request: Vec<u8>,
    /// After how long it is given up, and an answer is no use.
    pub timeout: Duration,
}

/// What happened, and what the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send this and give the answer to [`Client::handle_response`](super::Client::handle_response).
    Exchange(Exchange),
    /// Probe this port and say what came of it to
    /// [`Client::handle_probed`](super::Client::handle_probed).
    Probe(Probe),
    /// The exchange is given up: close its connection.
    Abandoned(ExchangeId),
    /// This is about to be made, and will not end by itself: write down how to remove it before
    /// the next [`Event::Exchange`] is carried out.
    Endless(MappingId, Mapping),
    /// A wish came true, for the first time or after [`Event::Lost`].
    Made(MappingId, Mapping),
    /// It is as it was, for another while.
    Renewed(MappingId, Mapping),
    /// Its address or port outside, or its gateway, is another one.
    Moved(MappingId, Mapping),
    /// It was dead, was removed, and stands again.
    Healed(MappingId, Mapping),
    /// It does not stand any longer. It is tried again.
    Lost(MappingId, Failure),
    /// It could not be made. It is tried again after a minute.
    Failed(MappingId, Failure),
    /// It is gone, or the gateway did not answer and it ends by its lease.
    Removed(MappingId, Result<(), Failure>),
    /// All have answered, or have had the time to.
    Surveyed(Survey),
    /// The UPnP gateways, the best first, as soon as one of them may be used.
    Chosen(Vec<Found>),
    /// The mappings in the best UPnP gateway's table.
    Listed(Result<Vec<Entry>, Failure>),
    /// What came of a call of an action.
    Called(Result<Reply, Failure>),
}

/// Who answered, and what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Everybody, the best first.
    pub found: Vec<Found>,
}

/// A gateway, by one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// By which it answered.
    pub protocol: Protocol,
    /// Its address.
    pub gateway: IpAddr,
    /// How long after the first question it was ready.
    pub after: Duration,
    /// Its address outside, if it has told one; PCP tells it with a mapping only.
    pub external_address: Option<IpAddr>,
    /// Whether it says that it is connected to the internet; UPnP only.
    pub connected: Option<bool>,
    /// Manufacturer, model and its number: text of a stranger; UPnP only.
    pub model: String,
    /// The type of the service that is used; UPnP only.
    pub service: String,
    /// Where its description is; UPnP only.
    pub location: Option<HttpUrl>,
    /// Where its service is called; UPnP only.
    pub control: Option<HttpUrl>,
    /// Everything that it describes, in its order; UPnP only.
    pub services: Vec<ServiceAt>,
    /// What it answered searches for, at most eight; UPnP only.
    pub targets: Vec<String>,
    /// Where people shall look at it, as it says; UPnP only.
    pub presentation: String,
}

/// Why a wish did not come true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody answered.
    #[error("no gateway answered by UPnP, NAT-PMP or PCP")]
    NoGateway,
    /// A gateway answered before, and does not any longer.
    #[error("the gateway has stopped answering")]
    Silent,
    /// What it answered cannot be understood.
    #[error("the gateway's answer cannot be understood")]
    Garbled,
    /// The external port is taken, and so were those tried in its place.
    #[error("the external port is taken")]
    PortTaken,
    /// The gateway refuses.
    #[error("the gateway refuses: {0}")]
    Refused(Refusal),
    /// It can only map ports to the same port, or only all ports, which we do not ask for.
    #[error("the gateway cannot map this external port")]
    PortUnsupported,
    /// The gateway sees another address than ours: there is a NAT between.
    #[error("there is another NAT between this machine and the gateway")]
    NatBetween,
    /// It came back with another host in it.
    #[error("the gateway maps the port to another host")]
    OtherHost,
    /// No gateway that answered by this protocol can do it.
    #[error("no gateway can do this")]
    Unsupported,
    /// There are as many as there may be.
    #[error("too many mappings are wanted at once")]
    TooMany,
}

/// The words of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Of a PCP server.
    Pcp(pcp::ResultCode),
    /// Of a NAT-PMP gateway.
    NatPmp(natpmp::ResultCode),
    /// Of a UPnP gateway.
    Upnp(ErrorCode),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use natpmp::ResultCode as R;
        match self {
            Self::Pcp(code) => write!(f, "PCP {code}"),
            Self::Upnp(code) => write!(f, "UPnP error {code}"),
            Self::NatPmp(R::NOT_AUTHORIZED) => f.write_str("NAT-PMP: not authorized"),
            Self::NatPmp(R::NETWORK_FAILURE) => f.write_str("NAT-PMP: it has no address itself"),
            Self::NatPmp(R::OUT_OF_RESOURCES) => f.write_str("NAT-PMP: out of resources"),
            Self::NatPmp(code) => write!(f, "NAT-PMP result {}", code.0),
        }
    }
}
