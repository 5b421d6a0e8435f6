//! Multicast DNS.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::mdns::{HostName, PORT};

use crate::Datagram;
use crate::mdns::{Event, Link, MAX_ASKED, Node};

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 11));

/// Pieces of the input are datagrams, and time. Each begins with what it is and with its length
/// in 16 bytes' multiples.
#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
pub fn machine_mdns(data: &[u8]) {
    let mut now = Instant::now();
    let mut node = Node::new(vec![Link {
        local: SocketAddr::new(OWN, PORT),
        interface: 1,
        networks: vec![(OWN, 24)],
    }]);
    node.publish(now, HostName::random([1; 16]), OWN, 1);
    let mut asked = BTreeSet::new();
    let mut rest = data;
    while let Some(([what, length], tail)) = rest.split_first_chunk() {
        let length = usize::from(*length).saturating_mul(16).min(tail.len());
        let (payload, tail) = tail.split_at(length);
        rest = tail;
        let port = if what & 1 == 0 { PORT } else { 40_000 };
        let datagram = Datagram {
            local: SocketAddr::new(OWN, PORT),
            remote: SocketAddr::new(PEER, port),
            payload,
        };
        match what >> 6 {
            0 => drop(node.handle_input(now, datagram)),
            1 => {
                let name = HostName::random([*what; 16]);
                asked.insert(name);
                node.ask(now, name);
            }
            2 => now = now.checked_add(Duration::from_millis(100)).unwrap_or(now),
            _ => node.withdraw(),
        }
        node.handle_timeout(now);
        while node.poll_transmit().is_some() {}
        while let Some(event) = node.poll_event() {
            let Event::Resolved { name, .. } = event;
            asked.remove(&name);
        }
    }
    assert!(asked.len() <= MAX_ASKED);
}
