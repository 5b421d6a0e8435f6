//! A cable with delay and loss, made without the kernel's netem.
//!
//! The two ends are virtual cables into a namespace in the middle, where a thread carries
//! frames from one packet socket to the other. The interfaces at the ends cut what the
//! kernel had joined into packets again, so that loss strikes packets and not bursts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::time::TimeSpec;

use super::build::{BuildError, veth};
use super::namespace::Namespace;
use super::sys;
use crate::sim::{Conduit, Link, Pipe, Stream};

/// Longer than any frame: the kernel joins packets up to 64 KiB.
const FRAME_MAX: usize = 80 * 1024;

/// Frames in flight in one direction: 100 ms of full packets at 8 Gbit/s.
const QUEUE_MAX: usize = 65_536;

/// Frames read from one side before the other side gets its turn.
const BATCH: usize = 64;

/// Room for what arrives while the thread is not scheduled.
const RECEIVE_BUFFER: usize = 32 << 20;

/// What a packet socket puts before a frame: `struct virtio_net_hdr`.
const HEADER: usize = 10;

/// Two addresses and a type.
const ETHERNET: usize = 14;

/// A running cable; dropping it stops its thread.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Closing it wakes the thread for the last time.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Lays a cable between an interface to be made in each of two namespaces; `luck` is
    /// the seed of the world and the number of the cable.
    pub(super) fn lay(
        node: (&Namespace, &str),
        net: (&Namespace, &str),
        link: Link,
        (seed, number): ([u8; 32], u64),
    ) -> Result<Self, BuildError> {
        let middle = Namespace::new()?;
        middle.set("ipv6/conf/default/disable_ipv6", "1")?;
        let near = plug(&middle, "a", node)?;
        let far = plug(&middle, "b", net)?;
        let luck = |direction| Stream::new(seed, 2 * number + direction);
        let directions = [
            Direction::new(near.try_clone()?, far.try_clone()?, link.up, luck(0)),
            Direction::new(far, near, link.down, luck(1)),
        ];
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || carry(directions, &stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the interface `end` in its namespace, with its other end in the middle.
fn plug(middle: &Namespace, name: &str, end: (&Namespace, &str)) -> Result<File, BuildError> {
    let (namespace, interface) = end;
    middle.ip(&veth(name, interface, namespace))?;
    middle.ip(&format!("link set dev {name} up\n"))?;
    namespace.ip(&format!("link set dev {interface} gso_max_segs 1\n"))?;
    Ok(middle.run(|| open(name))??)
}

fn open(interface: &str) -> io::Result<File> {
    let socket = sys::packet_socket(if_nametoindex(interface)?)?;
    // Root may have it all, others as much as net.core.rmem_max allows.
    if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

struct Direction {
    from: File,
    to: File,
    conduit: Conduit,
    /// Frames by the time they land and, for equal times, by number.
    flying: BTreeMap<(Instant, u64), Vec<u8>>,
    next_number: u64,
}

impl Direction {
    fn new(from: File, to: File, pipe: Pipe, luck: Stream) -> Self {
        Self {
            from,
            to,
            conduit: Conduit::new(pipe, luck, Instant::now()),
            flying: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// Sends on what has flown long enough.
    fn land(&mut self, now: Instant) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let frame = entry.remove();
            self.deliver(&frame);
        }
    }

    /// Takes up what has arrived, and says whether there may be more.
    fn take_off(&mut self, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH {
            let Ok(length @ 1..) = self.from.read(buffer) else {
                return false;
            };
            let frame = &buffer[..length];
            if is_housekeeping(frame) {
                self.deliver(frame);
            } else {
                self.fly(frame);
            }
        }
        true
    }

    fn fly(&mut self, frame: &[u8]) {
        let bytes = frame.len().saturating_sub(HEADER + ETHERNET) as u64;
        for arrival in self.conduit.transit(Instant::now(), bytes) {
            if self.flying.len() < QUEUE_MAX {
                let key = (arrival, self.next_number);
                self.flying.insert(key, frame.to_vec());
                self.next_number += 1;
            }
        }
    }

    /// What the far interface cannot take now is lost, as on any cable.
    fn deliver(&mut self, frame: &[u8]) {
        let _ = self.to.write(frame);
    }

    fn next_landing(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(due, _)| *due)
    }
}

/// What two neighbours tell each other to find their hardware addresses is no part of the
/// path that the cable stands for: it is neither delayed nor lost.
fn is_housekeeping(frame: &[u8]) -> bool {
    const NETWORK: usize = HEADER + ETHERNET;
    let to_group = frame.get(HEADER).is_some_and(|first| first & 1 == 1);
    match frame.get(HEADER + 12..NETWORK) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => to_group || is_neighbour_discovery(&frame[NETWORK..]),
        Some(_) | None => to_group,
    }
}

fn is_neighbour_discovery(packet: &[u8]) -> bool {
    const ICMPV6: u8 = 58;
    packet.get(6) == Some(&ICMPV6) && matches!(packet.get(40), Some(135 | 136))
}

fn carry(mut directions: [Direction; 2], stopped: &PipeReader) {
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let mut busy = false;
        for direction in &mut directions {
            direction.land(Instant::now());
            busy |= direction.take_off(&mut buffer);
        }
        if !busy && wait(&directions, stopped).is_break() {
            return;
        }
    }
}

/// Sleeps until a frame arrives or lands; breaks when the cable is taken down.
fn wait(directions: &[Direction; 2], stopped: &PipeReader) -> ControlFlow<()> {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let [up, down] = directions.each_ref().map(|d| readable(d.from.as_fd()));
    let mut fds = [up, down, readable(stopped.as_fd())];
    let next = directions.iter().filter_map(Direction::next_landing).min();
    let timeout = next.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
    // An interrupted wait is followed by another.
    let _ = ppoll(&mut fds, timeout, None);
    match fds[2].any() {
        Some(true) => ControlFlow::Break(()),
        Some(false) | None => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER + 12];
        frame.extend(ethertype);
        frame.extend(rest);
        frame
    }

    #[test]
    fn finding_a_neighbour_is_housekeeping() {
        let mut solicitation = [0; 48];
        solicitation[6] = 58;
        solicitation[40] = 135;
        assert!(is_housekeeping(&frame([0x08, 0x06], &[])));
        assert!(is_housekeeping(&frame([0x86, 0xdd], &solicitation)));
        let mut to_group = frame([0x86, 0xdd], &[0; 40]);
        to_group[HEADER] = 0x33;
        assert!(is_housekeeping(&to_group));
    }

    #[test]
    fn packets_of_any_length_are_not_housekeeping() {
        let full = frame([0x08, 0x00], &[58; 60]);
        for length in 0..full.len() {
            assert!(!is_housekeeping(&full[..length]));
        }
        assert!(!is_housekeeping(&frame([0x86, 0xdd], &[58; 60])));
    }
}
