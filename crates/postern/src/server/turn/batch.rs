//! Gathers datagrams into trains, without moving what was received.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::sockets::{Sockets, Via};
use crate::os::trains::{Inbox, MAX_SEGMENTS, MAX_TRAIN, Outbox, Outgoing, Span};

/// How many trains back one is looked for that a datagram can join: clients whose
/// datagrams arrive in turn get trains, too.
const OPEN_TRAINS: usize = 8;

/// Where a train goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) to: SocketAddr,
    /// The address to send from, where the socket has several.
    pub(super) from: Option<IpAddr>,
    /// Whether the DF bit is to be set.
    pub(super) dont_fragment: bool,
}

/// What is to be sent. As much as one batch of received trains, or one command, makes.
#[derive(Debug)]
pub(super) struct Batch {
    trains: Vec<Train>,
    parts: Vec<Part>,
    /// What was not received: headers and answers.
    written: Vec<u8>,
    outgoing: Vec<Outgoing>,
    /// Empty; kept for its memory.
    slices: Vec<IoSlice<'static>>,
    outbox: Outbox,
}

/// Datagrams that go the same way.
#[derive(Debug)]
struct Train {
    way: (Via, Destination),
    segment: usize,
    bytes: usize,
    count: usize,
    /// A shorter datagram ends a train.
    ended: bool,
    first: usize,
    last: usize,
}

/// A piece of a datagram, and where the next one of its train is.
#[derive(Debug)]
struct Part {
    place: Place,
    next: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Received(Span),
    /// Of so many bytes, from here.
    Written(usize, usize),
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            trains: Vec::new(),
            parts: Vec::new(),
            written: Vec::new(),
            outgoing: Vec::new(),
            slices: Vec::new(),
            outbox: Outbox::new(),
        }
    }

    /// Adds one datagram, which is these parts one behind the other. Those that lie in
    /// the inbox are sent from there.
    pub(super) fn push<const N: usize>(
        &mut self,
        inbox: &Inbox,
        via: Via,
        to: Destination,
        parts: [&[u8]; N],
    ) {
        let way = (via, to);
        let length = parts.iter().map(|part| part.len()).sum();
        let index = self.train(way, length);
        for part in parts {
            if !part.is_empty() {
                self.append(index, inbox, part);
            }
        }
        if let Some(train) = self.trains.get_mut(index) {
            train.bytes += length;
            train.count += 1;
            train.ended = length < train.segment;
        }
    }

    /// Sends what is there.
    pub(super) fn flush(&mut self, sockets: &Sockets, inbox: &Inbox) {
        if self.trains.is_empty() {
            return;
        }
        let mut slices = recycled(std::mem::take(&mut self.slices));
        for train in &self.trains {
            let outgoing = lay_out(train, &self.parts, &self.written, inbox, &mut slices);
            self.outgoing.push(outgoing);
        }
        let mut rest = &self.outgoing[..];
        for run in self.trains.chunk_by(Train::goes_with) {
            let (now, later) = rest.split_at(run.len());
            if let Some(first) = run.first() {
                send(sockets, first.way, &mut self.outbox, now, &slices);
            }
            rest = later;
        }
        self.slices = recycled(slices);
        self.trains.clear();
        self.parts.clear();
        self.written.clear();
        self.outgoing.clear();
    }

    /// The train that a datagram joins: the last one that goes its way, or a new one.
    fn train(&mut self, way: (Via, Destination), length: usize) -> usize {
        let recent = self.trains.iter().enumerate().rev().take(OPEN_TRAINS);
        let mut same_way = recent.filter(|(_, train)| train.way == way);
        if let Some((index, train)) = same_way.next()
            && train.takes(length)
        {
            return index;
        }
        self.trains.push(Train {
            way,
            segment: length,
            bytes: 0,
            count: 0,
            ended: false,
            first: usize::MAX,
            last: usize::MAX,
        });
        self.trains.len() - 1
    }

    fn append(&mut self, index: usize, inbox: &Inbox, part: &[u8]) {
        let place = inbox.span(part).map_or_else(
            || {
                let start = self.written.len();
                self.written.extend_from_slice(part);
                Place::Written(start, part.len())
            },
            Place::Received,
        );
        let here = self.parts.len();
        self.parts.push(Part { place, next: None });
        let Some(train) = self.trains.get_mut(index) else {
            return;
        };
        match self.parts.get_mut(train.last) {
            Some(last) => last.next = Some(here),
            None => train.first = here,
        }
        train.last = here;
    }
}

/// Puts the slices of a train side by side.
fn lay_out<'a>(
    train: &Train,
    parts: &'a [Part],
    written: &'a [u8],
    inbox: &'a Inbox,
    slices: &mut Vec<IoSlice<'a>>,
) -> Outgoing {
    let start = slices.len();
    let mut next = Some(train.first);
    while let Some(part) = next.and_then(|index| parts.get(index)) {
        let bytes = match part.place {
            Place::Received(span) => inbox.bytes(span),
            Place::Written(start, length) => written.get(start..start + length).unwrap_or_default(),
        };
        slices.push(IoSlice::new(bytes));
        next = part.next;
    }
    let (_, Destination { to, from, .. }) = train.way;
    Outgoing {
        to,
        from,
        segment: train.segment,
        bytes: train.bytes,
        slices: start..slices.len(),
    }
}

/// Sends trains that leave in one system call.
fn send(
    sockets: &Sockets,
    (via, to): (Via, Destination),
    outbox: &mut Outbox,
    outgoing: &[Outgoing],
    slices: &[IoSlice<'_>],
) {
    let Some(socket) = sockets.get(via) else {
        return;
    };
    if to.dont_fragment {
        socket.set_may_fragment(false);
    }
    socket.send(outbox, outgoing, slices);
    if to.dont_fragment {
        socket.set_may_fragment(true);
    }
}

impl Train {
    fn takes(&self, length: usize) -> bool {
        !self.ended
            && (1..=self.segment).contains(&length)
            && self.count < MAX_SEGMENTS
            && self.bytes + length <= MAX_TRAIN
    }

    /// Whether two trains leave in one system call.
    fn goes_with(&self, other: &Self) -> bool {
        let ((via, to), (other_via, other_to)) = (self.way, other.way);
        via == other_via && to.dont_fragment == other_to.dont_fragment
    }
}

/// The same memory for other slices.
fn recycled<'a>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(port: u16) -> (Via, Destination) {
        let to = Destination {
            to: SocketAddr::from(([192, 0, 2, 1], port)),
            from: None,
            dont_fragment: false,
        };
        (Via::Listener(0), to)
    }

    /// The segment and the number of datagrams of each train.
    fn trains(datagrams: &[(u16, usize)]) -> Vec<(usize, usize)> {
        let (mut batch, inbox) = (Batch::new(), Inbox::new());
        for (port, length) in datagrams {
            let (via, to) = way(*port);
            batch.push(&inbox, via, to, [&vec![0; *length][..]]);
        }
        let trains = batch.trains.iter();
        trains.map(|train| (train.segment, train.count)).collect()
    }

    #[test]
    fn datagrams_for_two_clients_in_turn_make_two_trains() {
        let datagrams = [(1, 10), (2, 20), (1, 10), (2, 20), (1, 10)];
        assert_eq!(trains(&datagrams), [(10, 3), (20, 2)]);
    }

    #[test]
    fn a_shorter_datagram_ends_a_train_and_a_longer_one_starts_the_next() {
        let datagrams = [(1, 10), (1, 10), (1, 5), (1, 10), (1, 11)];
        assert_eq!(trains(&datagrams), [(10, 3), (10, 1), (11, 1)]);
    }

    #[test]
    fn a_train_is_no_longer_than_a_kernel_takes() {
        assert_eq!(trains(&[(1, 10); 65]), [(10, 64), (10, 1)]);
        assert_eq!(trains(&[(1, 30_000); 3]), [(30_000, 2), (30_000, 1)]);
    }

    #[test]
    fn datagrams_without_data_make_no_train() {
        assert_eq!(trains(&[(1, 0), (1, 0)]), [(0, 1), (0, 1)]);
    }
}
