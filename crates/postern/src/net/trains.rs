//! Trains: datagrams of one path and one size that travel together, as GRO and GSO have
//! them. The last one may be shorter.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::paths::AddressPair;

/// The most bytes of a train: what one system call brings, or TLS two records of.
const MAX_TRAIN: usize = 32 * 1024;

/// Datagrams for QUIC, unwrapped.
#[derive(Debug, Clone)]
pub(crate) struct Train {
    pub(crate) path: AddressPair,
    /// The address by which QUIC knows the path, if the path does not tell: it is lost.
    pub(crate) address: Option<SocketAddr>,
    /// The size of each datagram but the last, in bytes; not 0.
    pub(crate) stride: usize,
    pub(crate) payload: Bytes,
}

impl Train {
    /// One datagram.
    pub(crate) fn of(path: AddressPair, datagram: Bytes) -> Self {
        Self {
            path,
            address: None,
            stride: datagram.len().max(1),
            payload: datagram,
        }
    }

    /// Takes off as many whole datagrams as `room` bytes hold; none if not even one fits.
    pub(super) fn split_to(&mut self, room: usize) -> Bytes {
        let whole = if room < self.payload.len() {
            room - room % self.stride
        } else {
            self.payload.len()
        };
        self.payload.split_to(whole)
    }
}

/// Puts datagrams together.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    path: Option<AddressPair>,
    stride: usize,
    ended: bool,
    bytes: BytesMut,
}

impl Assembly {
    /// Adds a datagram; yields the train before it if it does not go with it.
    pub(super) fn push(&mut self, path: AddressPair, datagram: &[u8]) -> Option<Train> {
        let fits = self.path == Some(path)
            && !self.ended
            && datagram.len() <= self.stride
            && self.bytes.len() + datagram.len() <= MAX_TRAIN;
        let before = if fits { None } else { self.take() };
        if self.path.is_none() {
            self.path = Some(path);
            self.stride = datagram.len();
        }
        self.ended = datagram.len() < self.stride;
        self.bytes.extend_from_slice(datagram);
        before
    }

    /// What has been put together.
    pub(super) fn take(&mut self) -> Option<Train> {
        let path = self.path.take()?;
        self.ended = false;
        Some(Train {
            path,
            address: None,
            stride: self.stride.max(1),
            payload: self.bytes.split().freeze(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> AddressPair {
        AddressPair {
            local: ([45, 45, 0, 1], 50_000).into(),
            remote: ([45, 45, 0, 2], port).into(),
        }
    }

    fn shape(train: Option<Train>) -> Option<(u16, usize, usize)> {
        train.map(|train| (train.path.remote.port(), train.stride, train.payload.len()))
    }

    #[test]
    fn datagrams_of_a_path_travel_together_until_one_is_shorter() {
        let mut assembly = Assembly::default();
        for length in [100, 100, 60] {
            assert!(assembly.push(path(1), &vec![7; length]).is_none());
        }
        assert_eq!(shape(assembly.push(path(1), &[7; 60])), Some((1, 100, 260)));
        assert_eq!(shape(assembly.push(path(1), &[7; 61])), Some((1, 60, 60)));
        assert_eq!(shape(assembly.push(path(2), &[7; 61])), Some((1, 61, 61)));
        assert_eq!(shape(assembly.take()), Some((2, 61, 61)));
        assert_eq!(shape(assembly.take()), None);
    }

    #[test]
    fn a_train_has_an_end() {
        let mut assembly = Assembly::default();
        let trains = (0..100).filter_map(|_| assembly.push(path(1), &[0; 1200]));
        assert!(
            trains
                .map(|train| train.payload.len())
                .all(|length| length <= MAX_TRAIN)
        );
    }

    #[test]
    fn a_train_is_taken_apart_between_its_datagrams() {
        let mut train = Train {
            address: None,
            path: path(1),
            stride: 100,
            payload: Bytes::from(vec![0; 260]),
        };
        assert_eq!(train.split_to(99).len(), 0);
        assert_eq!(train.split_to(199).len(), 100);
        assert_eq!(train.split_to(1500).len(), 160);
    }
}
