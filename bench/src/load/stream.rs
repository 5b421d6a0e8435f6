use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::socket::{MsgFlags, recv};

use crate::client::Allocation;
use crate::limit;
use crate::subject::Server;
use crate::sys::ipv4;

/// What one write offers.
const CHUNK: usize = 256 * 1024;

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client sends to its peer.
    ToPeer,
    /// The peer sends to the client.
    ToClient,
}

/// A TCP connection that goes through a relay (RFC 6062).
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    peer: TcpStream,
    allocation: Option<Allocation<TcpStream>>,
}

impl Connection {
    /// Makes one through the server, or through the bare splice loop.
    pub fn open(server: &Server) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (client, allocation) = if server.limit().is_some() {
            let mut client = TcpStream::connect(server.tcp())?;
            client.write_all(&limit::to_bytes(ipv4(address)?))?;
            (client, None)
        } else {
            let mut allocation = Allocation::tcp(server.tcp())?;
            allocation.permit(address)?;
            let id = allocation.connect(address)?;
            (allocation.data_connection(id)?, Some(allocation))
        };
        let (peer, _) = listener.accept()?;
        for end in [&client, &peer] {
            end.set_nonblocking(true)?;
        }
        Ok(Self {
            client,
            peer,
            allocation,
        })
    }

    /// Sends for some time or so many bytes, and says how many bytes have arrived.
    pub fn run(&self, direction: Direction, time: Duration, bytes: u64) -> Result<u64> {
        let (from, to) = match direction {
            Direction::ToPeer => (&self.client, &self.peer),
            Direction::ToClient => (&self.peer, &self.client),
        };
        let chunk = vec![0x5a; CHUNK];
        let mut room = vec![0; 4 * CHUNK];
        let (end, mut sent, mut arrived) = (Instant::now() + time, 0, 0);
        while Instant::now() < end && arrived < bytes {
            let offer = CHUNK.min(usize::try_from(bytes - sent).unwrap_or(CHUNK));
            let written = tried((&mut &*from).write(&chunk[..offer]))?;
            // The kernel counts what it drops instead of copying it here.
            let read = recv(to.as_raw_fd(), &mut room, MsgFlags::MSG_TRUNC);
            let read = tried(read.map_err(io::Error::from))?;
            (sent, arrived) = (sent + written, arrived + read);
            if written + read == 0 {
                thread::yield_now();
            }
        }
        Ok(arrived)
    }

    /// Sends what can be recognised, and looks whether it arrives so.
    pub fn check(&self, direction: Direction) -> Result<()> {
        let (mut from, mut to) = match direction {
            Direction::ToPeer => (&self.client, &self.peer),
            Direction::ToClient => (&self.peer, &self.client),
        };
        let content: Vec<u8> = (0..200).collect();
        from.write_all(&content)?;
        let mut arrived = vec![0; content.len()];
        to.set_nonblocking(false)?;
        to.set_read_timeout(Some(Duration::from_secs(5)))?;
        io::Read::read_exact(&mut to, &mut arrived)?;
        to.set_nonblocking(true)?;
        ensure!(arrived == content, "other bytes arrived");
        Ok(())
    }

    /// Closes it and deletes the allocation.
    pub fn end(self) -> Result<()> {
        drop((self.client, self.peer));
        self.allocation.map_or(Ok(()), Allocation::delete)
    }
}

/// What a call that does not wait has done.
fn tried(result: io::Result<usize>) -> io::Result<u64> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result.map(|count| count as u64),
    }
}
