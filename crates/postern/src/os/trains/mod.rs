//! UDP sockets that take and give trains: datagrams of one size from one sender, or for
//! one destination, in one system call.
//!
//! What is received lies in an [`Inbox`] until the next receive, and is sent on from
//! there: a train is sent as slices, so that a header in front of each datagram can be
//! left out or put in without moving the data.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;

#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as system;

pub(crate) use system::{Inbox, Outbox, TrainSocket};

/// The most bytes of one send: what fits into one IPv4 datagram.
pub(crate) const MAX_TRAIN: usize = 65_507;

/// The most datagrams of one send: the limit of every kernel that cuts trains.
pub(crate) const MAX_SEGMENTS: usize = 64;

/// Trains received at once.
pub(crate) const BATCH: usize = 32;

/// Bytes for one received train: the most that the kernel joins.
const TRAIN: usize = 64 * 1024;

/// What a train's place in memory is moved by, so that the first bytes of all trains, which
/// are what single datagrams have, do not compete for the same lines of the cache.
const STAGGER: usize = 21 * 64;

/// Whom a socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Clients, at an address that is told to them.
    Listener,
    /// Peers: what becomes of datagrams to them is asked for.
    Relay,
}

/// A received train.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Train<'a> {
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// The address it was sent to, where the socket has several.
    pub(crate) at: Option<IpAddr>,
    /// Bytes of each datagram but the last, which may have fewer; at least 1.
    pub(crate) stride: usize,
    /// The datagrams, one behind the other; empty for one without data.
    pub(crate) bytes: &'a [u8],
}

/// A place in an [`Inbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// Where `part` lies within `memory`; `None` if it lies elsewhere.
    fn of(part: &[u8], memory: &[u8]) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(memory.as_ptr().addr())?;
        let end = start.checked_add(part.len())?;
        (end <= memory.len()).then_some(Self {
            start: u32::try_from(start).ok()?,
            length: u32::try_from(part.len()).ok()?,
        })
    }

    fn within(self, memory: &[u8]) -> &[u8] {
        let start = self.start as usize;
        let end = start.saturating_add(self.length as usize);
        memory.get(start..end).unwrap_or_default()
    }
}

/// A train to send.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// Where it goes.
    pub(crate) to: SocketAddr,
    /// The address to send from, where the socket has several.
    pub(crate) from: Option<IpAddr>,
    /// Bytes of each datagram but the last, which may have fewer.
    pub(crate) segment: usize,
    /// Bytes of all.
    pub(crate) bytes: usize,
    /// Its slices among those given: no slice belongs to two datagrams.
    pub(crate) slices: Range<usize>,
}

impl Outgoing {
    const fn is_single(&self) -> bool {
        self.bytes <= self.segment
    }
}

/// An ICMP error about a datagram that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IcmpError {
    /// Where the datagram went.
    pub(crate) to: SocketAddr,
    /// The type, of ICMP or ICMPv6.
    pub(crate) kind: u8,
    /// The code.
    pub(crate) code: u8,
    /// The next hop's MTU if it is about that, else 0.
    pub(crate) mtu: u32,
    /// Who says so, if the system tells.
    pub(crate) by: Option<IpAddr>,
}

/// Has the system keep the ICMP errors about what this socket sends, for [`next_error`].
///
/// # Errors
///
/// What the system said; also when it cannot.
pub(crate) fn keep_errors(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    system::keep_errors(socket)
}

/// The next ICMP error about a datagram that this socket sent.
pub(crate) fn next_error(socket: &tokio::net::UdpSocket) -> Option<IcmpError> {
    system::next_error(socket)
}

#[cfg(test)]
mod tests;
