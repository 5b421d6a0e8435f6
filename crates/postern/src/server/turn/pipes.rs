//! The pipes of all connections: made when needed, kept for the next, and not too many.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::os::Pipe;

/// Most pipes, of two files each. Only a direction that has bytes on their way has one.
const MAX_PIPES: usize = 256;

/// Bytes that a pipe holds: what Linux allows everybody.
pub(super) const PIPE: usize = 1 << 20;

/// Bytes that are copied at once where there is no pipe.
const BUFFER: usize = 64 * 1024;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    lent: 0,
});

struct Pool {
    free: Vec<Pipe>,
    lent: usize,
}

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What carries the bytes of one direction from socket to socket.
#[derive(Debug)]
pub(super) enum Carrier {
    Pipe(Lease),
    Copy(Vec<u8>),
}

/// A pipe that is given back, if it is empty.
#[derive(Debug)]
pub(super) struct Lease {
    pipe: Option<Pipe>,
    held: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.lent = pool.lent.saturating_sub(1);
        if self.held == 0 {
            pool.free.extend(self.pipe.take());
        }
    }
}

impl Carrier {
    /// A pipe, or a buffer if there are no more pipes.
    pub(super) fn take() -> Self {
        Self::pipe().map_or_else(|| Self::Copy(vec![0; BUFFER]), Self::Pipe)
    }

    fn pipe() -> Option<Lease> {
        let mut pool = pool();
        if pool.lent >= MAX_PIPES {
            return None;
        }
        let pipe = match pool.free.pop() {
            Some(pipe) => pipe,
            None => Pipe::new(PIPE).ok()?,
        };
        pool.lent += 1;
        Some(Lease {
            pipe: Some(pipe),
            held: 0,
        })
    }

    /// Takes up to `most` bytes from a socket; 0 is the end of the stream, and there is
    /// nothing at present if it would block.
    pub(super) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        match self {
            Self::Copy(buffer) => {
                let most = most.min(buffer.len());
                from.try_read(buffer.get_mut(..most).unwrap_or_default())
            }
            Self::Pipe(lease) => {
                let Some(pipe) = &lease.pipe else {
                    return Ok(0);
                };
                lease.held = from.try_io(Interest::READABLE, || pipe.fill(from, most))?;
                Ok(lease.held)
            }
        }
    }

    /// Gives the `length` bytes that `fill` has taken to the other socket.
    pub(super) async fn deliver(&mut self, to: &TcpStream, length: usize) -> io::Result<()> {
        match self {
            Self::Copy(buffer) => write(to, buffer.get(..length).unwrap_or_default()).await,
            Self::Pipe(lease) => {
                while let (Some(pipe), 1..) = (&lease.pipe, lease.held) {
                    let held = lease.held;
                    match to.try_io(Interest::WRITABLE, || pipe.drain(to, held)) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(length) => lease.held = held.saturating_sub(length),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            to.writable().await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }
}

/// Writes all of it.
pub(super) async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_pipes_run_out_bytes_are_copied_and_pipes_come_back() {
        let taken: Vec<_> = (0..=MAX_PIPES).map(|_| Carrier::take()).collect();
        assert!(matches!(taken.last(), Some(Carrier::Copy(_))));
        drop(taken);
        assert!(pool().free.len() <= MAX_PIPES);
        #[cfg(target_os = "linux")]
        assert!(matches!(Carrier::take(), Carrier::Pipe(_)));
    }
}
