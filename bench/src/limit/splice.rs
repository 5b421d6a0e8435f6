use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::from_bytes;
use super::udp::{timeout, wait};
use crate::sys::ipv4;

/// How much a pipe holds, and one call moves.
const PIPE: usize = 1 << 20;

/// Joins one connection at a time with one to the peer that its first six bytes name.
pub(super) fn serve(idle: Duration, ready: impl FnOnce(SocketAddrV4) -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    ready(ipv4(listener.local_addr()?)?)?;
    while wait(&listener, idle)? {
        let (client, _) = listener.accept()?;
        // The end of a connection, however it ends, is no reason to end.
        let _ = join(client, idle);
    }
    Ok(())
}

fn join(mut client: TcpStream, idle: Duration) -> Result<()> {
    client.set_read_timeout(Some(idle))?;
    let mut first = [0; 6];
    client.read_exact(&mut first)?;
    let peer = TcpStream::connect(from_bytes(&first).context("no address")?)?;
    let pipe = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&pipe.1, PIPE)?;
    loop {
        let mut ends = [&client, &peer].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        if poll(&mut ends, timeout(idle))? == 0 {
            return Ok(());
        }
        let [from_client, from_peer] = ends.map(|end| end.any().unwrap_or(false));
        if from_client && !pass(&client, &peer, &pipe)? {
            return Ok(());
        }
        if from_peer && !pass(&peer, &client, &pipe)? {
            return Ok(());
        }
    }
}

/// Moves what is there; false at the end.
fn pass(from: &TcpStream, to: &TcpStream, pipe: &(OwnedFd, OwnedFd)) -> io::Result<bool> {
    let (exit, entrance) = pipe;
    let taken = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let mut left = match splice(from, None, entrance, None, PIPE, taken) {
        Ok(0) => return Ok(false),
        Ok(count) => count,
        Err(Errno::AGAIN) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    while left > 0 {
        let given = SpliceFlags::MOVE | SpliceFlags::MORE;
        left -= splice(exit, None, to, None, left, given)?;
    }
    Ok(true)
}
