use std::array;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use super::{from_bytes, to_bytes};
use crate::sys::{BATCH, Inbox, Outgoing, ipv4, send};

/// Before the data in a channel.
const HEADER: usize = 4;

/// The first channel, in which everything goes.
const CHANNEL: [u8; 2] = [0x40, 0];

/// The most datagrams in a train.
const TRAIN: usize = 64;

/// So many packets are often all that is there.
const FEW: usize = 8;

/// Which event belongs to the socket that new clients come to.
const NEW: u64 = u64::MAX;

/// A relay with a pair of connected sockets for each client: the kernel knows where a
/// packet belongs, and nothing is looked up here.
pub(super) struct Relay {
    listener: UdpSocket,
    trains: bool,
    /// Those of client and peer, in turn.
    sockets: Vec<UdpSocket>,
    events: Epoll,
}

impl Relay {
    pub(super) fn bind(trains: bool) -> Result<Self> {
        let listener = shared(0)?;
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        events.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, NEW))?;
        Ok(Self {
            listener,
            trains,
            sockets: Vec::new(),
            events,
        })
    }

    pub(super) fn serve(
        mut self,
        idle: Duration,
        ready: impl FnOnce(SocketAddrV4) -> Result<()>,
    ) -> Result<()> {
        ready(ipv4(self.listener.local_addr()?)?)?;
        let (count, size) = if self.trains {
            (16, 1 << 16)
        } else {
            (BATCH, 2048)
        };
        let mut inbox = Inbox::new(count, size);
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let count = self.events.wait(&mut events, timeout(idle))?;
            if count == 0 {
                return Ok(());
            }
            for event in &events[..count] {
                match usize::try_from(event.data()) {
                    Ok(index) if event.data() != NEW => self.pass(index, &mut inbox),
                    Ok(_) | Err(_) => self.on_new()?,
                }
            }
        }
    }

    /// A client comes.
    fn on_new(&mut self) -> Result<()> {
        let mut first = [0; 7];
        let (length, client) = self.listener.recv_from(&mut first)?;
        let Some(peer) = from_bytes(&first[..length]) else {
            return Ok(());
        };
        let to_peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        to_peer.connect(peer)?;
        let to_client = shared(self.listener.local_addr()?.port())?;
        to_client.connect(client)?;
        to_client.send(&to_bytes(ipv4(to_peer.local_addr()?)?))?;
        for socket in [to_client, to_peer] {
            setsockopt(&socket, sockopt::UdpGroSegment, &self.trains)?;
            let index = self.sockets.len() as u64;
            self.events
                .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
            self.sockets.push(socket);
        }
        Ok(())
    }

    /// Packets have come at the socket `index`; they leave at the other of the pair.
    fn pass(&self, index: usize, inbox: &mut Inbox) {
        let (from, to) = (&self.sockets[index], self.sockets[index ^ 1].as_fd());
        // An error is that of a peer which is gone.
        let Ok(count) = inbox.receive(from.as_fd(), 0) else {
            return;
        };
        let to_peer = index.is_multiple_of(2);
        match (self.trains, to_peer) {
            (true, true) => (0..count).for_each(|message| train_to_peer(inbox, message, to)),
            (true, false) => (0..count).for_each(|message| train_to_client(inbox, message, to)),
            (false, _) if count <= FEW => packets::<FEW>(inbox, count, to_peer, to),
            (false, _) => packets::<BATCH>(inbox, count, to_peer, to),
        }
    }
}

fn header(length: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [CHANNEL[0], CHANNEL[1], high, low]
}

/// Sends up to `N` messages on, with a header put before each or taken off.
fn packets<const N: usize>(inbox: &Inbox, count: usize, to_peer: bool, to: BorrowedFd<'_>) {
    let data = |index| {
        if index < count {
            inbox.bytes(index)
        } else {
            &[]
        }
    };
    let headers: [_; N] = array::from_fn(|index| header(data(index).len()));
    let parts: [_; N] = array::from_fn(|index| match to_peer {
        true => [data(index).get(HEADER..).unwrap_or_default(), &[]].map(IoSlice::new),
        false => [&headers[index], data(index)].map(IoSlice::new),
    });
    let messages: [_; N] = array::from_fn(|index| Outgoing {
        parts: &parts[index][..if to_peer { 1 } else { 2 }],
        segment: 0,
        to: None,
    });
    let _ = send(to, &messages[..count]);
}

/// Sends a train on, without the headers in front of its datagrams.
fn train_to_peer(inbox: &Inbox, message: usize, to: BorrowedFd<'_>) {
    let segment = inbox.segment(message);
    let mut parts = [IoSlice::new(&[]); TRAIN];
    let datagrams = inbox.bytes(message).chunks(segment);
    let count = datagrams.len().min(TRAIN);
    for (part, datagram) in parts.iter_mut().zip(datagrams) {
        *part = IoSlice::new(datagram.get(HEADER..).unwrap_or_default());
    }
    send_train(to, &parts[..count], segment.saturating_sub(HEADER));
}

/// Sends a train on, with a header in front of each datagram.
fn train_to_client(inbox: &Inbox, message: usize, to: BorrowedFd<'_>) {
    let segment = inbox.segment(message);
    let bytes = inbox.bytes(message);
    let count = bytes.len().div_ceil(segment).min(TRAIN);
    let last = bytes.len() - segment * count.saturating_sub(1);
    let headers = [header(segment), header(last)];
    let mut parts = [IoSlice::new(&[]); 2 * TRAIN];
    for ((index, pair), datagram) in parts.chunks_mut(2).enumerate().zip(bytes.chunks(segment)) {
        pair[0] = IoSlice::new(&headers[usize::from(index + 1 == count)]);
        pair[1] = IoSlice::new(datagram);
    }
    send_train(to, &parts[..2 * count], segment + HEADER);
}

fn send_train(to: BorrowedFd<'_>, parts: &[IoSlice<'_>], segment: usize) {
    let train = Outgoing {
        parts,
        segment: u16::try_from(segment).unwrap_or(u16::MAX),
        to: None,
    };
    let _ = send(to, &[train]);
}

/// A socket that shares its port with those of the other clients.
fn shared(port: u16) -> Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let new = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&new, sockopt::ReuseAddr, &true)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&new),
        &SockaddrIn::new(127, 0, 0, 1, port),
    )?;
    Ok(new.into())
}

pub(super) fn timeout(idle: Duration) -> PollTimeout {
    PollTimeout::try_from(idle).unwrap_or(PollTimeout::MAX)
}

/// Waits for something to read; false if nothing came.
pub(super) fn wait(socket: &impl AsFd, idle: Duration) -> io::Result<bool> {
    let mut ends = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ends, timeout(idle))? > 0)
}
