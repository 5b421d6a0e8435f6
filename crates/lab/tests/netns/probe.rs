//! Datagrams by which a test learns what a translator does.
//!
//! A machine may be busy: what must arrive is sent again until it does, and what must not
//! arrive is missed only when something sent later by the same way is there. Every
//! datagram says which one it is, so that a late or doubled one is not taken for the next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postern_lab::netns::World;
use postern_lab::sim::{Filtering, Mapping};

pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How long to wait for what must come, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A datagram that has not arrived after this long is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often the same question is asked, each time by a fresh socket: the kernel gives
/// one external port to several sockets as long as they send to different endpoints, so
/// what one socket sees may be chance.
pub(crate) const ROUNDS: usize = 3;

/// A datagram that arrived.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) words: String,
    pub(crate) from: SocketAddr,
}

/// What `listener` hears up to a datagram that `speaker` sends to `target`, which is the
/// last; it is sent again until it arrives.
pub(crate) fn heard_until(
    speaker: &UdpSocket,
    target: SocketAddr,
    listener: &UdpSocket,
) -> Vec<Heard> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let words = format!("probe {}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    while Instant::now() < deadline {
        speaker.send_to(words.as_bytes(), target).unwrap();
        if listen(listener, &words, &mut heard) {
            return heard;
        }
    }
    panic!("{speaker:?} cannot reach {target}: {heard:?}");
}

/// Collects what arrives until `words` do, but not for long.
fn listen(listener: &UdpSocket, words: &str, heard: &mut Vec<Heard>) -> bool {
    listener.set_read_timeout(Some(AGAIN)).unwrap();
    let mut buffer = [0; 64];
    while let Ok((length, from)) = listener.recv_from(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        heard.push(Heard { words: text, from });
        if heard.last().is_some_and(|last| last.words == words) {
            return true;
        }
    }
    false
}

/// Whom `listener` sees when `speaker` sends to `target`.
pub(crate) fn source(speaker: &UdpSocket, target: SocketAddr, listener: &UdpSocket) -> SocketAddr {
    heard_until(speaker, target, listener).pop().unwrap().from
}

/// The address under which `outside` sees a datagram from `inside`.
pub(crate) fn seen_by(outside: &UdpSocket, inside: &UdpSocket) -> SocketAddr {
    source(inside, address(outside), outside)
}

pub(crate) fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// A socket of `host` at its address number `index`.
pub(crate) fn socket(world: &World, host: &str, index: usize, port: u16) -> UdpSocket {
    let address = world.addresses(host).unwrap()[index];
    world.udp(host, SocketAddr::new(address, port)).unwrap()
}

/// Sockets of a server that tell what a translator does.
pub(crate) struct Reflectors {
    known: UdpSocket,
    same_address: UdpSocket,
    other_address: UdpSocket,
}

impl Reflectors {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            known: socket(world, "server", 0, 3478),
            same_address: socket(world, "server", 0, 3479),
            other_address: socket(world, "server", 1, 3478),
        }
    }

    /// A mapping is reused by rule if it is reused in every round.
    pub(crate) fn mapping(&self, world: &World, host: &str) -> Mapping {
        let reused = fresh(world, host).map(|inside| self.reused(&inside));
        let [same_address, other_address] =
            [0, 1].map(|reflector| reused.iter().all(|round| round[reflector]));
        match (same_address, other_address) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, false) => Mapping::AddressAndPortDependent,
            (false, true) => panic!("{reused:?}"),
        }
    }

    /// Whether the other port and the other address see the same source.
    fn reused(&self, inside: &UdpSocket) -> [bool; 2] {
        let known = seen_by(&self.known, inside);
        [&self.same_address, &self.other_address].map(|other| seen_by(other, inside) == known)
    }

    /// A filter lets in by rule what it lets in in any round.
    pub(crate) fn filtering(&self, world: &World, host: &str) -> Filtering {
        let rounds = fresh(world, host).map(|inside| self.let_in(&inside));
        let entered: BTreeSet<SocketAddr> = rounds.into_iter().flatten().collect();
        let [same, other] = [&self.same_address, &self.other_address]
            .map(|reflector| entered.contains(&address(reflector)));
        match (same, other) {
            (true, true) => Filtering::EndpointIndependent,
            (true, false) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
            (false, true) => panic!("{entered:?}"),
        }
    }

    /// Whose datagrams reach `inside` after it has sent to the known reflector only.
    fn let_in(&self, inside: &UdpSocket) -> Vec<SocketAddr> {
        let outside = seen_by(&self.known, inside);
        for reflector in [&self.other_address, &self.same_address] {
            reflector.send_to(b"in?", outside).unwrap();
        }
        let heard = heard_until(&self.known, outside, inside);
        heard.into_iter().map(|heard| heard.from).collect()
    }

    pub(crate) fn fresh_port(&self, world: &World, host: &str) -> u16 {
        seen_by(&self.known, &world.udp(host, ANY).unwrap()).port()
    }
}

/// A socket for each round, all open at once and therefore different.
fn fresh(world: &World, host: &str) -> [UdpSocket; ROUNDS] {
    [(); ROUNDS].map(|()| world.udp(host, ANY).unwrap())
}
