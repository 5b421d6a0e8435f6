//! The latest datagram of each path, for when the path is lost.
//!
//! Whatever was under way there is taken for lost as soon as the peer acknowledges something that was sent
//! later (RFC 9002 section 6.1.1). On a path that is dead nothing can be sent later, since what is
//! under way fills the congestion window. But the latest of it can be carried another way.

use std::net::SocketAddr;

use bytes::Bytes;
use noq_udp::Transmit;

use super::paths::{Destination, PathTable};

/// Paths of a connection that are remembered: one in use, one that takes its place, and two more.
const MAX_PATHS: usize = 4;

/// By the address by which QUIC knows the path, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct Latest(Vec<(SocketAddr, Vec<u8>)>);

impl Latest {
    /// This train leaves.
    pub(super) fn note(&mut self, transmit: &Transmit<'_>) {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let Some(last) = transmit.contents.chunks(size.max(1)).last() else {
            return;
        };
        let address = transmit.destination;
        let place = self.0.iter().position(|(known, _)| *known == address);
        let mut buffer = match place {
            Some(place) => self.0.remove(place).1,
            None if self.0.len() >= MAX_PATHS => self.0.remove(0).1,
            None => Vec::new(),
        };
        buffer.clear();
        buffer.extend_from_slice(last);
        self.0.push((address, buffer));
    }

    /// There is a later one.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.0.retain(|(known, _)| *known != address);
    }

    /// Hands those over whose path is lost, and forgets what is over. `address` is used at present.
    pub(super) fn give_lost(&mut self, paths: &PathTable, address: SocketAddr) {
        self.0.retain(|(known, datagram)| {
            if *known == address {
                return true;
            }
            match paths.destination(*known) {
                Some(Destination::Pair(_)) => true,
                Some(Destination::Limbo(late)) => {
                    // What does not fit is lost, as on any network.
                    let _ = late.try_send((*known, Bytes::copy_from_slice(datagram)));
                    false
                }
                None => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::sync::mpsc;

    use super::*;
    use crate::net::{AddressPair, SessionId};

    fn pair(port: u16) -> AddressPair {
        let local = (Ipv4Addr::new(192, 168, 1, 2), 1000).into();
        let remote = (Ipv4Addr::new(45, 45, 0, 1), port).into();
        AddressPair { local, remote }
    }

    fn train(destination: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: Some(2),
            src_ip: None,
        }
    }

    #[test]
    fn the_latest_datagram_of_a_lost_path_is_handed_over_once() {
        let (paths, session) = (PathTable::default(), SessionId(1));
        let (sender, mut late) = mpsc::channel(4);
        paths.on_late(session, sender);
        let [old, new] = [1, 2].map(|port| paths.admit(pair(port), session).unwrap());
        let mut latest = Latest::default();
        latest.note(&train(old, b"abcd"));
        latest.note(&train(old, b"efg"));
        latest.note(&train(new, b"xy"));
        latest.give_lost(&paths, new);
        assert!(late.try_recv().is_err(), "it is not lost yet");
        paths.revoke(pair(1), session);
        latest.give_lost(&paths, new);
        assert_eq!(late.try_recv(), Ok((old, Bytes::from_static(b"g"))));
        latest.give_lost(&paths, new);
        assert!(late.try_recv().is_err());
    }
}
