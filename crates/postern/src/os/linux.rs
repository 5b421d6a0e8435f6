use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use mio::net::UdpSocket;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::LocalTime;

pub(super) fn set_may_fragment(socket: &UdpSocket, may: bool) -> io::Result<()> {
    set_fragments(socket, socket.local_addr()?.is_ipv4(), may)
}

pub(super) fn keep_whole(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    set_fragments(socket, socket.local_addr()?.is_ipv4(), false)
}

fn set_fragments(socket: impl AsFd, is_ipv4: bool, may: bool) -> io::Result<()> {
    if is_ipv4 {
        let mode = if may {
            Ipv4PathMtuDiscovery::DONT
        } else {
            Ipv4PathMtuDiscovery::PROBE
        };
        return Ok(set_ip_mtu_discover(socket, mode)?);
    }
    let mode = if may {
        Ipv6PathMtuDiscovery::DONT
    } else {
        Ipv6PathMtuDiscovery::PROBE
    };
    Ok(set_ipv6_mtu_discover(socket, mode)?)
}

/// `include/uapi/linux/tcp.h`
const TCP_NOTSENT_LOWAT: libc::c_int = 25;

#[expect(unsafe_code, reason = "no crate that is used here wraps this option")]
pub(super) fn set_unsent_limit(stream: &tokio::net::TcpStream, bytes: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the pointer is to a u32 that lives until the call returns, and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

#[expect(unsafe_code, reason = "no safe wrapper knows the time zone")]
pub(super) fn local_time(seconds: i64) -> Option<LocalTime> {
    let seconds = libc::time_t::try_from(seconds).ok()?;
    let mut parts = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid, and the second is filled unless null is returned.
    let filled = unsafe { libc::localtime_r(&raw const seconds, parts.as_mut_ptr()) };
    if filled.is_null() {
        return None;
    }
    // SAFETY: it is filled.
    let parts = unsafe { parts.assume_init() };
    Some(LocalTime {
        year: parts.tm_year + 1900,
        month: usize::try_from(parts.tm_mon).ok()?,
        day: parts.tm_mday,
        weekday: usize::try_from(parts.tm_wday).ok()?,
        hour: parts.tm_hour,
        minute: parts.tm_min,
        second: parts.tm_sec,
    })
}
