//! What the operating systems do differently.

mod splice;

use std::io;

pub(crate) use splice::Pipe;

pub(crate) mod trains;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) mod netlink;
#[cfg(target_os = "linux")]
use linux as system;

#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as system;

/// Whether what a UDP socket sends may be cut into fragments on its way (the DF bit is
/// off), or is lost where it does not fit.
///
/// # Errors
///
/// What the system said; also when it knows no such option.
pub(crate) fn set_may_fragment(socket: &mio::net::UdpSocket, may: bool) -> io::Result<()> {
    system::set_may_fragment(socket, may)
}

/// What this socket sends is not cut into fragments, however little the system believes to fit:
/// to find out how much does.
///
/// # Errors
///
/// What the system said; also when it knows no such option.
pub(crate) fn keep_whole(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    system::keep_whole(socket)
}

/// A point in time, in the time zone of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Of our era.
    pub year: i32,
    /// 0 for January.
    pub month: usize,
    /// Of the month, from 1.
    pub day: i32,
    /// 0 for Sunday.
    pub weekday: usize,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 60.
    pub second: i32,
}

/// What the clocks of this machine's place showed so many seconds after the beginning of 1970
/// (UTC); `None` if the system does not tell.
#[must_use]
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    system::local_time(seconds)
}

/// Lets the system take so many bytes of a TCP connection that it cannot send yet, and no more
/// until it can.
///
/// # Errors
///
/// What the system said; also when it knows no such option.
pub(crate) fn set_unsent_limit(stream: &tokio::net::TcpStream, bytes: u32) -> io::Result<()> {
    system::set_unsent_limit(stream, bytes)
}

/// Lets this process have as many files and sockets open as it may at most: a relay has
/// one socket for each allocation.
pub(crate) fn raise_file_limit() {
    system::raise_file_limit();
}
