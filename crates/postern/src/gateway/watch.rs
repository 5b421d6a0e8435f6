//! Waiting for what the kernel tells of nftables.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The runtime's type for a socket of datagrams: it is only waited for, and that works alike
/// for every socket.
pub(super) fn waitable(socket: OwnedFd) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(socket.into())
}

/// Waits until the kernel tells of changes; they are read elsewhere, until there is none.
pub(super) async fn changed(watched: Option<&UnixDatagram>) {
    let Some(watched) = watched else {
        return std::future::pending().await;
    };
    let _ = watched.readable().await;
    let read = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
    let _ = watched.try_io(Interest::READABLE, read);
}
