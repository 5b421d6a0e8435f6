//! The TCP of one host.

use super::{ConnectError, Segment, TcpCall, TcpEvent, packet};
use crate::sim::packet::Packet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Until the first repetition of a SYN or SYN-ACK; it doubles (Linux: 1 s).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// Until the first repetition of data; it doubles.
const DATA_TIMEOUT: Duration = Duration::from_millis(300);
/// Repetitions before a connection is given up (Linux: `tcp_syn_retries`).
const RETRIES: u32 = 6;

/// The two ends of a connection, the host's first.
type Ends = (SocketAddr, SocketAddr);

/// Connections and listening ports.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    listening: BTreeSet<SocketAddr>,
    connections: BTreeMap<Ends, Connection>,
    packets: VecDeque<Packet>,
    events: VecDeque<(Ends, TcpEvent)>,
    ttl: Option<u8>,
}

#[derive(Debug)]
struct Connection {
    state: State,
    /// Begun by the other side.
    passive: bool,
    repeated: u32,
    due: Option<Instant>,
    next_out: u64,
    unacknowledged: VecDeque<(u64, Option<Vec<u8>>)>,
    next_in: u64,
    early: BTreeMap<u64, Option<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
    /// Our FIN is under way.
    Closing,
}

impl Stack {
    pub(crate) fn call(&mut self, now: Instant, call: TcpCall) {
        match call {
            TcpCall::Listen(local) => _ = self.listening.insert(local),
            TcpCall::Unlisten(local) => _ = self.listening.remove(&local),
            TcpCall::Connect(local, remote) => self.connect(now, (local, remote)),
            TcpCall::Send(local, remote, message) => {
                self.queue(now, (local, remote), Some(message))
            }
            TcpCall::Close(local, remote) => self.close(now, (local, remote)),
        }
    }

    pub(crate) const fn limit(&mut self, ttl: u8) {
        self.ttl = Some(ttl);
    }

    pub(crate) fn poll_packet(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        let ttl = self.ttl.unwrap_or(packet.ttl);
        Some(Packet { ttl, ..packet })
    }

    pub(crate) fn poll_event(&mut self) -> Option<(Ends, TcpEvent)> {
        self.events.pop_front()
    }

    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.connections.values().filter_map(|c| c.due).min()
    }

    /// Connections and attempts, half-open ones included.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn connect(&mut self, now: Instant, ends: Ends) {
        if self.connections.contains_key(&ends) {
            let in_use = TcpEvent::Failed(ConnectError::InUse);
            self.events.push_back((ends, in_use));
            return;
        }
        let connection = Connection::new(State::SynSent, false, now);
        self.connections.insert(ends, connection);
        self.send(ends, Segment::Syn);
    }

    fn queue(&mut self, now: Instant, ends: Ends, message: Option<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        if connection.state != State::Established {
            return;
        }
        if message.is_none() {
            connection.state = State::Closing;
        }
        let number = connection.next_out;
        connection.next_out += 1;
        let waiting = &mut connection.unacknowledged;
        waiting.push_back((number, message.clone()));
        if waiting.len() == 1 {
            connection.repeated = 0;
            connection.due = Some(now + DATA_TIMEOUT);
        }
        self.send(ends, Segment::Data(number, message));
    }

    fn close(&mut self, now: Instant, ends: Ends) {
        match self.connections.get(&ends).map(|c| c.state) {
            Some(State::SynSent) => _ = self.connections.remove(&ends),
            Some(State::SynReceived) => {
                self.connections.remove(&ends);
                self.send(ends, Segment::Reset);
            }
            Some(State::Established) => self.queue(now, ends, None),
            Some(State::Closing) | None => {}
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due = |(_, c): &(&Ends, &Connection)| c.due.is_some_and(|due| due <= now);
        let due: Vec<_> = self
            .connections
            .iter()
            .filter(due)
            .map(|(e, _)| *e)
            .collect();
        for ends in due {
            self.repeat(now, ends);
        }
    }

    fn repeat(&mut self, now: Instant, ends: Ends) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        connection.repeated += 1;
        if connection.repeated > RETRIES {
            return self.end(ends, ConnectError::TimedOut);
        }
        let (first, segment) = match connection.state {
            State::SynSent => (SYN_TIMEOUT, Some(Segment::Syn)),
            State::SynReceived => (SYN_TIMEOUT, Some(Segment::SynAck)),
            State::Established | State::Closing => {
                let oldest = connection.unacknowledged.front().cloned();
                let data = oldest.map(|(number, message)| Segment::Data(number, message));
                (DATA_TIMEOUT, data)
            }
        };
        let wait = first * 2_u32.pow(connection.repeated);
        connection.due = segment.is_some().then(|| now + wait);
        if let Some(segment) = segment {
            self.send(ends, segment);
        }
    }

    /// A packet for this host.
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        segment: Segment,
    ) {
        let ends = (local, remote);
        match self.connections.get(&ends).map(|c| c.state) {
            None => self.on_stranger(now, ends, &segment),
            Some(State::SynSent) => self.while_opening(now, ends, &segment),
            Some(State::SynReceived) => self.while_answering(now, ends, segment),
            Some(State::Established | State::Closing) => self.while_open(now, ends, segment),
        }
    }

    fn on_stranger(&mut self, now: Instant, ends: Ends, segment: &Segment) {
        if *segment == Segment::Syn && self.listening.contains(&ends.0) {
            let connection = Connection::new(State::SynReceived, true, now);
            self.connections.insert(ends, connection);
            self.send(ends, Segment::SynAck);
        } else if !segment.is_error() {
            self.send(ends, Segment::Reset);
        }
    }

    fn while_opening(&mut self, now: Instant, ends: Ends, segment: &Segment) {
        match segment {
            Segment::Syn => {
                let answering = Connection::new(State::SynReceived, false, now);
                self.connections.insert(ends, answering);
                self.send(ends, Segment::SynAck);
            }
            Segment::SynAck => {
                self.establish(ends);
                self.send(ends, Segment::Ack(0));
            }
            Segment::Reset | Segment::PortUnreachable => self.end(ends, ConnectError::Refused),
            Segment::TimeExceeded => self.end(ends, ConnectError::Unreachable),
            Segment::Ack(_) | Segment::Data(..) => self.send(ends, Segment::Reset),
        }
    }

    fn while_answering(&mut self, now: Instant, ends: Ends, segment: Segment) {
        match segment {
            Segment::Syn => self.send(ends, Segment::SynAck),
            Segment::Reset | Segment::PortUnreachable => self.end(ends, ConnectError::Refused),
            Segment::TimeExceeded => self.end(ends, ConnectError::Unreachable),
            Segment::SynAck | Segment::Ack(_) | Segment::Data(..) => {
                self.establish(ends);
                self.while_open(now, ends, segment);
            }
        }
    }

    fn while_open(&mut self, now: Instant, ends: Ends, segment: Segment) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        match segment {
            Segment::Syn | Segment::SynAck => {
                let next = connection.next_in;
                self.send(ends, Segment::Ack(next));
            }
            Segment::Ack(next) => self.on_ack(now, ends, next),
            Segment::Data(number, message) => self.on_data(ends, number, message),
            Segment::Reset => self.end(ends, ConnectError::Refused),
            Segment::PortUnreachable | Segment::TimeExceeded => {}
        }
    }

    fn on_ack(&mut self, now: Instant, ends: Ends, next: u64) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        let waiting = connection.unacknowledged.len();
        connection
            .unacknowledged
            .retain(|(number, _)| *number >= next);
        if connection.unacknowledged.len() < waiting {
            connection.repeated = 0;
            connection.due = Some(now + DATA_TIMEOUT);
        }
        if connection.unacknowledged.is_empty() {
            connection.due = None;
            if connection.state == State::Closing {
                self.connections.remove(&ends);
            }
        }
    }

    fn on_data(&mut self, ends: Ends, number: u64, message: Option<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        if number >= connection.next_in {
            connection.early.insert(number, message);
        }
        let mut ended = false;
        while let Some(message) = connection.early.remove(&connection.next_in) {
            connection.next_in += 1;
            ended |= message.is_none();
            let event = message.map_or(TcpEvent::Closed, TcpEvent::Message);
            self.events.push_back((ends, event));
        }
        let next = connection.next_in;
        self.send(ends, Segment::Ack(next));
        if ended {
            self.connections.remove(&ends);
        }
    }

    fn establish(&mut self, ends: Ends) {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return;
        };
        connection.state = State::Established;
        connection.due = None;
        let event = if connection.passive {
            TcpEvent::Accepted
        } else {
            TcpEvent::Connected
        };
        self.events.push_back((ends, event));
    }

    /// Ends a connection and tells those who know of it.
    fn end(&mut self, ends: Ends, error: ConnectError) {
        let Some(connection) = self.connections.remove(&ends) else {
            return;
        };
        match connection.state {
            State::SynReceived if connection.passive => {}
            State::SynSent | State::SynReceived => {
                self.events.push_back((ends, TcpEvent::Failed(error)));
            }
            State::Established => self.events.push_back((ends, TcpEvent::Closed)),
            State::Closing => {}
        }
    }

    fn send(&mut self, (local, remote): Ends, segment: Segment) {
        self.packets.push_back(packet(local, remote, segment));
    }
}

impl Connection {
    fn new(state: State, passive: bool, now: Instant) -> Self {
        Self {
            state,
            passive,
            repeated: 0,
            due: Some(now + SYN_TIMEOUT),
            next_out: 0,
            unacknowledged: VecDeque::new(),
            next_in: 0,
            early: BTreeMap::new(),
        }
    }
}
