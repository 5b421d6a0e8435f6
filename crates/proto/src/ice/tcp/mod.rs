//! Candidates over TCP (RFC 6544), and simultaneous open through NATs.
//!
//! 1. Bind and listen, with SO_REUSEADDR and SO_REUSEPORT, and call [`Agent::add_tcp_host`](super::Agent::add_tcp_host); name
//!    STUN servers that answer on TCP with [`Agent::add_tcp_stun_server`](super::Agent::add_tcp_stun_server).
//! 2. Do what [`Agent::poll_tcp`](super::Agent::poll_tcp) says: open connections *from that port*, since its mapping is what
//!    the peer has been told, and close them.
//! 3. Tell [`Agent::handle_tcp`](super::Agent::handle_tcp) what came of it, and which connections the port has accepted.
//! 4. A connection that is wanted gets a *base*, an address that stands for it. What has it as
//!    `local` goes over the connection, each message behind its length (RFC 4571,
//!    [`postern_wire::framing`]); what arrives is handed over with it as `local`.
//!
//! Everything else is as with a relayed candidate: paths have the base as `local`, and
//! [`Agent::tcp_ends`](super::Agent::tcp_ends) tells what is behind it. Without a TCP host the agent does nothing of this.
//!
//! Connections are opened from [`Config::tcp_delay`](super::Config::tcp_delay) after the checks
//! over UDP began, and a pair over UDP takes the place of one over TCP when it becomes valid. A
//! NAT that answers a SYN with a RST, because the inside has not sent its own, makes both sides try
//! again after a random time: in step they could miss each other for ever.
//!
//! One that answers with ICMP leaves the connection in the table of the NAT on this side. A SYN of the
//! peer that comes in between two tries is let in, and Linux's NAT then takes no SYN of ours that differs
//! from the one before: it leaves with an inside address. So a side that was refused and gets nowhere
//! takes another port ([`TcpAction::Renew`]), of which no table knows anything.

mod opening;
mod state;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub(super) use opening::once;
pub(super) use state::Tcp;

/// The ports of an agent for TCP; a machine with more interfaces keeps the first ones.
pub const MAX_TCP_HOSTS: usize = 8;
/// Connections at one time, begun and accepted, those to STUN servers included.
pub const MAX_TCP_CONNECTIONS: usize = 32;
/// Candidates over TCP that the peer may signal: three kinds on each of its addresses.
pub const MAX_REMOTE_TCP_CANDIDATES: usize = 64;

/// Addresses to which connections are tried, each from one of our ports: a peer names them, and
/// they may be anybody's.
pub const MAX_TCP_WAYS: usize = 64;
/// Ports that take the place of others in one session.
pub(super) const MAX_TCP_RENEWALS: u32 = 3;
/// STUN servers that are asked from one port, so that these connections leave room for others.
pub const MAX_TCP_STUN_SERVERS: usize = 2;

/// Whether an address stands for a connection: it is a base, of whatever agent, and nothing can be
/// sent there by itself.
#[must_use]
pub fn is_base(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V6(ip) => ip.segments().starts_with(&state::BASES),
        IpAddr::V4(_) => false,
    }
}

/// Which way connections to a candidate are opened (RFC 6544 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcpType {
    /// Opens connections and accepts none; its port is 9 for want of one.
    Active,
    /// Accepts connections.
    Passive,
    /// Opens one while the other side does so, too.
    SimultaneousOpen,
}

impl TcpType {
    /// The name in SDP: `active`, `passive` or `so`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::SimultaneousOpen => "so",
        }
    }

    /// What `as_str` calls so.
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Active, Self::Passive, Self::SimultaneousOpen];
        all.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether a connection can be opened to such a candidate of the peer, from an active one
    /// or a simultaneous-open one of ours (section 6.2).
    pub(super) fn can_be_dialled(self) -> bool {
        self != Self::Active
    }
}

/// What the agent wants done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpAction {
    /// Open one, without blocking.
    Connect {
        /// From a port of ours to the peer or a STUN server.
        ends: TcpEnds,
        /// Whether messages have their length before them; a STUN server's tell their own.
        framed: bool,
    },
    /// Close it, or give the attempt up.
    Close(TcpEnds),
    /// Listen on another port of this port's address, too, and call
    /// [`Agent::add_tcp_host`](super::Agent::add_tcp_host): this one may be spoilt.
    Renew(SocketAddr),
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpEnds {
    /// Ours: a host candidate.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEvent {
    /// One that we opened is there.
    Connected,
    /// A port of ours has accepted it.
    Accepted,
    /// One that we tried to open was refused: by a RST or an ICMP message (ECONNREFUSED,
    /// EHOSTUNREACH).
    Refused,
    /// One that we tried to open did not come about for another reason.
    Failed,
    /// It has ended.
    Closed,
}
