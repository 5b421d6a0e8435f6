//! Gathers datagrams into trains.

use super::socket::{Destination, MAX_SEGMENTS, MAX_TRAIN};
use super::sockets::{Sockets, Via};

/// Datagrams that go the same way, until one comes that does not.
#[derive(Debug)]
pub(super) struct Batch {
    way: Option<(Via, Destination)>,
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
    /// A shorter datagram ends a train.
    ended: bool,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            way: None,
            bytes: Vec::with_capacity(MAX_TRAIN),
            segment: 0,
            count: 0,
            ended: false,
        }
    }

    /// Adds one datagram, which is these parts one behind the other.
    pub(super) fn push<const N: usize>(
        &mut self,
        sockets: &Sockets,
        via: Via,
        to: Destination,
        parts: [&[u8]; N],
    ) {
        let length = parts.iter().map(|part| part.len()).sum();
        if !self.takes(&(via, to), length) {
            self.flush(sockets);
            self.way = Some((via, to));
            self.segment = length;
        }
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.count = self.count.saturating_add(1);
        self.ended = length < self.segment;
    }

    /// Sends what is there.
    pub(super) fn flush(&mut self, sockets: &Sockets) {
        let way = self.way.take();
        if let Some((via, to)) = way
            && let Some(socket) = sockets.get(via)
        {
            socket.send(&to, &self.bytes, self.segment);
        }
        self.bytes.clear();
        self.count = 0;
        self.ended = false;
    }

    fn takes(&self, way: &(Via, Destination), length: usize) -> bool {
        self.way.as_ref() == Some(way)
            && !self.ended
            && (1..=self.segment).contains(&length)
            && self.count < MAX_SEGMENTS
            && self.bytes.len().saturating_add(length) <= MAX_TRAIN
    }
}
