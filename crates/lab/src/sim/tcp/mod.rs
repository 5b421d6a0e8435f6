//! TCP as far as hole punching needs it: how connections begin, fail and end, and messages
//! that arrive whole, once and in order.
//!
//! There are no windows, no congestion control and no sequence numbers in bytes: a
//! segment holds one message and its number. Opening follows RFC 9293 section 3.5,
//! simultaneous open included, and what Linux adds: a SYN goes out again after 1, 2, 4 …
//! s, and an ICMP error ends an attempt.

mod stack;

pub(crate) use stack::Stack;

use super::{HostId, packet::Packet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

/// What a TCP packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// The first of a connection.
    Syn,
    /// The answer to it.
    SynAck,
    /// All messages below this number have arrived.
    Ack(u64),
    /// A message and its number; none is the end (FIN).
    Data(u64, Option<Vec<u8>>),
    /// There is no such connection.
    Reset,
    /// An ICMP error about a SYN that went the other way: port unreachable.
    PortUnreachable,
    /// The same: its time to live ran out.
    TimeExceeded,
}

impl Segment {
    /// Bytes of payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Data(_, Some(message)) => message,
            Self::Syn
            | Self::SynAck
            | Self::Ack(_)
            | Self::Data(_, None)
            | Self::Reset
            | Self::PortUnreachable
            | Self::TimeExceeded => &[],
        }
    }

    /// Whether it is an error, which nobody answers.
    pub(crate) const fn is_error(&self) -> bool {
        matches!(
            self,
            Self::Reset | Self::PortUnreachable | Self::TimeExceeded
        )
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syn => f.write_str("SYN"),
            Self::SynAck => f.write_str("SYN-ACK"),
            Self::Ack(next) => write!(f, "ACK {next}"),
            Self::Data(number, Some(message)) => {
                write!(f, "data {number}: {} bytes", message.len())
            }
            Self::Data(number, None) => write!(f, "FIN {number}"),
            Self::Reset => f.write_str("RST"),
            Self::PortUnreachable => f.write_str("ICMP port unreachable"),
            Self::TimeExceeded => f.write_str("ICMP time exceeded"),
        }
    }
}

/// Why a connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectError {
    /// ECONNREFUSED: a RST, or ICMP port unreachable.
    Refused,
    /// EHOSTUNREACH: another ICMP error.
    Unreachable,
    /// ETIMEDOUT: no answer.
    TimedOut,
    /// EADDRNOTAVAIL: the host has such a connection already.
    InUse,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpEvent {
    /// It was asked for and is there: by the peer's SYN-ACK, or by simultaneous open.
    Connected,
    /// A listening port has taken it.
    Accepted,
    /// It was asked for and did not come about.
    Failed(ConnectError),
    /// A message arrived.
    Message(Vec<u8>),
    /// It has ended.
    Closed,
}

/// An event of a connection at a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpDelivery {
    /// When it happened.
    pub at: Instant,
    /// Where it happened.
    pub host: HostId,
    /// The host's end of the connection.
    pub local: SocketAddr,
    /// The other end as the host sees it.
    pub remote: SocketAddr,
    /// What happened.
    pub event: TcpEvent,
}

/// What a host wants of its TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpCall {
    /// Accept connections at this address; connections may be opened from it too, as
    /// with SO_REUSEADDR and SO_REUSEPORT.
    Listen(SocketAddr),
    /// Accept none any more.
    Unlisten(SocketAddr),
    /// Open a connection from the first address to the second.
    Connect(SocketAddr, SocketAddr),
    /// Send a message on a connection; lost when there is none.
    Send(SocketAddr, SocketAddr, Vec<u8>),
    /// End a connection after what was sent, or an attempt at once.
    Close(SocketAddr, SocketAddr),
}

pub(crate) fn packet(local: SocketAddr, remote: SocketAddr, segment: Segment) -> Packet {
    Packet::tcp(local, remote, segment)
}
