//! The socket to the kernel's netfilter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force,
    set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, sendto,
    socket_with,
};

use super::bytes::Arrived;
use super::nftables::{
    Batch, Change, Element, StoredElement, dump_elements, get_element, read_elements,
};

/// The largest answer: the kernel cuts dumps into pieces of at most 32 kB.
const BUFFER: usize = 64 * 1024;

/// Room for a batch, and for what others change at once.
const KERNEL_BUFFER: usize = 4 << 20;

/// The kernel answers at once; who waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// The multicast group of nftables (`NFNLGRP_NFTABLES`), as a bit.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);

/// Types of messages that every family has.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Why the kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket failed.
    #[error("the kernel's netfilter could not be reached")]
    Io(#[from] io::Error),
    /// The kernel refused; nothing was changed.
    #[error("the kernel's netfilter refused message {message} of a change: {source}")]
    Refused {
        /// Which message of the batch, from 1.
        message: u32,
        /// Why.
        source: io::Error,
    },
}

impl NetlinkError {
    /// What the kernel said.
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io(error) | Self::Refused { source: error, .. } => error.kind(),
        }
    }
}

/// A socket to the kernel's netfilter.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// A socket for requests.
    pub(crate) fn open() -> io::Result<Self> {
        let netlink = Self::bound_to(0)?;
        set_socket_timeout(&netlink.socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(netlink)
    }

    /// A socket that is told what is changed in nftables, and does not wait for it.
    pub(crate) fn watch() -> io::Result<Self> {
        let netlink = Self::bound_to(NFTABLES_GROUP)?;
        rustix::io::ioctl_fionbio(&netlink.socket, true)?;
        Ok(netlink)
    }

    fn bound_to(groups: u32) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(NETFILTER),
        )?;
        // Best effort: without the right to do so the default has to do.
        let _ = set_socket_send_buffer_size_force(&socket, KERNEL_BUFFER);
        let _ = set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER);
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        let port = SocketAddrNetlink::try_from(getsockname(&socket)?)?.pid();
        Ok(Self {
            socket,
            port,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// The name of this socket in what others are told of its changes.
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    /// Makes all changes of the batch, or none.
    ///
    /// # Errors
    ///
    /// What the kernel said to the first message that it refused.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, last) = batch.finish();
        self.send(&bytes)?;
        let mut refused = Ok(());
        loop {
            let mut answer = self.receive()?;
            while let Some(arrived) = Arrived::cut(&mut answer) {
                if let Some(error) = refusal(&arrived)
                    && refused.is_ok()
                {
                    refused = Err(NetlinkError::Refused {
                        message: arrived.sequence,
                        source: error,
                    });
                }
                // A batch that makes no sense as a whole is refused at its first message.
                if arrived.sequence == last || arrived.sequence == 0 {
                    return refused;
                }
            }
        }
    }

    /// All elements of a set.
    ///
    /// # Errors
    ///
    /// What the kernel said; `NotFound` when there is no such set.
    pub(crate) fn elements(
        &mut self,
        table: &str,
        set: &str,
    ) -> Result<Vec<StoredElement>, NetlinkError> {
        let mut elements = Vec::new();
        let sequence = self.next();
        self.ask(&dump_elements(table, set, sequence), |arrived| {
            elements.extend(read_elements(arrived));
        })?;
        Ok(elements)
    }

    /// The element of a set that has this one's key.
    ///
    /// # Errors
    ///
    /// What the kernel said; `NotFound` when there is none.
    pub(crate) fn element(
        &mut self,
        table: &str,
        set: &str,
        element: &Element,
    ) -> Result<StoredElement, NetlinkError> {
        let mut found = Vec::new();
        let request = get_element(table, set, element, self.next());
        self.ask(&request, |arrived| found.extend(read_elements(arrived)))?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        found.into_iter().next().ok_or_else(|| missing().into())
    }

    /// The next changes that others than the socket `own` made; `None` when there is nothing
    /// to be told.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when there were more than fit: some were missed.
    pub(crate) fn changes(&mut self, own: u32) -> io::Result<Option<Vec<Change>>> {
        let mut answer = match self.receive() {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut changes = Vec::new();
        while let Some(arrived) = Arrived::cut(&mut answer) {
            if arrived.port != own {
                changes.extend(Change::read(&arrived));
            }
        }
        Ok(Some(changes))
    }

    /// Sends a request and hands what comes back to `take`, until its end.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        mut take: impl FnMut(&Arrived<'_>),
    ) -> Result<(), NetlinkError> {
        self.send(request)?;
        loop {
            let mut answer = self.receive()?;
            while let Some(arrived) = Arrived::cut(&mut answer) {
                match arrived.kind {
                    DONE => return Ok(()),
                    ERROR => {
                        return refusal(&arrived).map_or(Ok(()), |source| {
                            Err(NetlinkError::Refused { message: 1, source })
                        });
                    }
                    _ => take(&arrived),
                }
            }
        }
    }

    pub(super) fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.drop_stale()?;
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// What is left of an earlier exchange that ended early must not answer the next one.
    fn drop_stale(&mut self) -> io::Result<()> {
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let (_, length) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an error message says; `None` if it is an acknowledgement, or another message.
fn refusal(arrived: &Arrived<'_>) -> Option<io::Error> {
    let (code, _) = arrived.payload.split_first_chunk::<4>()?;
    let code = i32::from_ne_bytes(*code);
    let is_error = arrived.kind == ERROR && code != 0;
    is_error.then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}
