use std::io::{self, IoSlice};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::sys::{BATCH, Inbox, Outgoing, send};

/// Packets on the way at once: fewer than fit into a socket's buffer.
pub const WINDOW: u64 = 64;

/// What has not come after this time is lost, unless the load is more patient.
const LOST: Duration = Duration::from_millis(100);

/// Packets that go in at one socket and come out at another.
#[derive(Debug)]
pub struct Flow {
    from: UdpSocket,
    to: Option<SocketAddrV4>,
    out: UdpSocket,
    packet: Vec<u8>,
}

impl Flow {
    /// From the socket `from` to `to`, or to where it is connected; out at `out`.
    pub fn new(
        from: UdpSocket,
        to: Option<SocketAddrV4>,
        out: UdpSocket,
        packet: Vec<u8>,
    ) -> Result<Self> {
        let flow = Self {
            from,
            to,
            out,
            packet,
        };
        setsockopt(&flow.out, sockopt::UdpGroSegment, &true)?;
        Ok(flow)
    }

    /// Sends one packet and waits until it is out, with `content` in it.
    pub fn check(&self, content: &[u8]) -> Result<()> {
        self.send(1, 1)?;
        let mut buffer = vec![0; 4096];
        let length = self.out.recv(&mut buffer).context("nothing came out")?;
        let found = buffer[..length].windows(content.len());
        ensure!(
            found.into_iter().any(|part| part == content),
            "something else came out"
        );
        Ok(())
    }

    /// Where packets come out.
    pub const fn out(&self) -> &UdpSocket {
        &self.out
    }

    /// Sends one packet.
    pub fn send_one(&self) -> io::Result<()> {
        self.send(1, 1)
    }

    /// Sends `count` messages of `train` packets each with one system call.
    fn send(&self, train: usize, count: usize) -> io::Result<()> {
        // A train is the same packet again and again, without a copy of it.
        let parts = [IoSlice::new(&self.packet); BATCH];
        let segment = u16::try_from(self.packet.len()).unwrap_or(u16::MAX);
        let message = Outgoing {
            parts: &parts[..train.min(BATCH)],
            segment: if train > 1 { segment } else { 0 },
            to: self.to,
        };
        let messages = [message; BATCH];
        send(self.from.as_fd(), &messages[..count.min(BATCH)]).map(drop)
    }

    /// Counts what has come out.
    pub(super) fn take(&self, inbox: &mut Inbox) -> u64 {
        let Ok(count) = inbox.receive(self.out.as_fd(), libc::MSG_TRUNC) else {
            return 0;
        };
        let packets = |message| inbox.length(message).div_ceil(inbox.segment(message)) as u64;
        (0..count).map(packets).sum()
    }
}

/// How packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Packets that leave as one train, at most [`WINDOW`]; 1: single packets.
    pub train: usize,
    /// How many of these leave with one system call.
    pub burst: usize,
}

impl Pattern {
    /// A train at a time.
    #[must_use]
    pub const fn trains(train: usize) -> Self {
        Self { train, burst: 1 }
    }

    /// Single packets, as many with one system call.
    #[must_use]
    pub const fn single(burst: usize) -> Self {
        Self { train: 1, burst }
    }

    const fn packets(self) -> u64 {
        self.train as u64 * self.burst as u64
    }
}

/// When a load ends: whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// After this time.
    pub time: Duration,
    /// After so many packets have been sent.
    pub packets: u64,
}

impl Bound {
    /// As many packets as there is time for.
    #[must_use]
    pub const fn time(time: Duration) -> Self {
        let packets = u64::MAX;
        Self { time, packets }
    }
}

/// How many packets went in and came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went in.
    pub sent: u64,
    /// Came out.
    pub arrived: u64,
}

/// Several flows, in turn.
#[derive(Debug)]
pub struct Load<'a> {
    flows: &'a [Flow],
    pattern: Pattern,
    inbox: Inbox,
    /// Packets of each flow that are on the way.
    pending: Vec<u64>,
    next: usize,
    last_arrival: Instant,
    patience: Duration,
    counts: Counts,
}

impl<'a> Load<'a> {
    /// A load that has not begun.
    #[must_use]
    pub fn new(flows: &'a [Flow], pattern: Pattern) -> Self {
        Self {
            flows,
            pattern,
            inbox: Inbox::new(BATCH, 8),
            pending: vec![0; flows.len()],
            next: 0,
            last_arrival: Instant::now(),
            patience: LOST,
            counts: Counts::default(),
        }
    }

    /// Waits longer before it takes packets for lost.
    #[must_use]
    pub const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends as fast as packets come out, then waits for the last.
    pub fn run(&mut self, bound: Bound) -> Result<Counts> {
        self.counts = Counts::default();
        let end = Instant::now() + bound.time;
        self.last_arrival = Instant::now();
        while Instant::now() < end && self.counts.sent < bound.packets {
            if self.on_the_way() + self.pattern.packets() <= WINDOW {
                self.send()?;
            } else {
                self.receive();
            }
        }
        while self.on_the_way() > 0 {
            self.receive();
        }
        Ok(self.counts)
    }

    fn on_the_way(&self) -> u64 {
        self.pending.iter().sum()
    }

    fn send(&mut self) -> io::Result<()> {
        let flow = self.next;
        self.next = (flow + 1) % self.flows.len();
        self.flows[flow].send(self.pattern.train, self.pattern.burst)?;
        self.pending[flow] += self.pattern.packets();
        self.counts.sent += self.pattern.packets();
        Ok(())
    }

    fn receive(&mut self) {
        let mut arrived = 0;
        for (flow, pending) in self.flows.iter().zip(&mut self.pending) {
            if *pending > 0 {
                let count = flow.take(&mut self.inbox);
                *pending = pending.saturating_sub(count);
                arrived += count;
            }
        }
        self.counts.arrived += arrived;
        if arrived > 0 {
            self.last_arrival = Instant::now();
        } else if self.last_arrival.elapsed() > self.patience {
            self.pending.fill(0);
        } else {
            thread::yield_now();
        }
    }
}
