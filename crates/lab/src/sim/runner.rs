//! Runs sans-IO machines on the hosts of a world.

use super::packet::Packet;
use super::tcp::{TcpCall, TcpDelivery, TcpEvent};
use super::topology::HostId;
use super::world::World;
use postern_proto::{Datagram, Transmit, Verdict};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// Wake-ups at one instant after which a machine is taken to be stuck.
const MAX_WAKEUPS_AT_ONCE: u32 = 10_000;

/// The five verbs, and a sixth for what reaches a machine by another way than
/// datagrams: a message over signalling, a command of its user.
pub trait Machine {
    /// What it reports.
    type Event;
    /// What it is told out of band.
    type Signal;

    /// A datagram arrived.
    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) -> Verdict;
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// A message came by another way.
    fn handle_signal(&mut self, now: Instant, signal: Self::Signal);
    /// A datagram to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// A datagram to send with a time to live of its own.
    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        None
    }
    /// Something happened to a connection of the host; the host's end comes first.
    fn handle_tcp(
        &mut self,
        _now: Instant,
        _local: SocketAddr,
        _remote: SocketAddr,
        _event: &TcpEvent,
    ) -> Verdict {
        Verdict::NotMine
    }
    /// Something to do for the host's TCP.
    fn poll_tcp(&mut self) -> Option<TcpCall> {
        None
    }
    /// Something happened.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// When to call `handle_timeout`.
    fn poll_timeout(&mut self) -> Option<Instant>;
}

/// A machine in a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(usize);

/// An event and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence<E> {
    /// When it happened.
    pub at: Instant,
    /// Which machine reported it.
    pub machine: MachineId,
    /// What it reported.
    pub event: E,
}

/// A world and the machines that live in it.
///
/// At each step it moves time to the next thing that happens (a packet arrives, a signal
/// arrives, a timeout is due), calls the machines concerned, and drains them. When
/// several happen at once: packets, then signals, then timeouts.
#[derive(Debug)]
pub struct Runner<M: Machine> {
    world: World,
    machines: Vec<(HostId, M)>,
    signals: BTreeMap<(Instant, u64), (MachineId, M::Signal)>,
    sequence: u64,
    occurrences: VecDeque<Occurrence<M::Event>>,
    wakeups_at_once: u32,
}

impl<M: Machine> Runner<M> {
    /// A runner without machines.
    #[must_use]
    pub const fn new(world: World) -> Self {
        Self {
            world,
            machines: Vec::new(),
            signals: BTreeMap::new(),
            sequence: 0,
            occurrences: VecDeque::new(),
            wakeups_at_once: 0,
        }
    }

    /// Puts a machine on a host and drains it. Machines on one host are offered each
    /// datagram in the order in which they were added, until one of them wants it.
    pub fn add(&mut self, host: HostId, machine: M) -> MachineId {
        self.machines.push((host, machine));
        let id = MachineId(self.machines.len() - 1);
        self.drain(id);
        id
    }

    /// The world, to change it or to read its counters.
    pub const fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.world.now()
    }

    /// A machine, to look at.
    #[must_use]
    pub fn machine(&self, id: MachineId) -> &M {
        &self.machines[id.0].1
    }

    /// Tells a machine something at `at` (now, when that has passed).
    pub fn signal(&mut self, at: Instant, machine: MachineId, signal: M::Signal) {
        self.sequence += 1;
        let at = at.max(self.now());
        self.signals.insert((at, self.sequence), (machine, signal));
    }

    /// Runs to the next event of any machine, or to the deadline: then `None`.
    pub fn next_event(&mut self, deadline: Instant) -> Option<Occurrence<M::Event>> {
        loop {
            if let Some(occurrence) = self.occurrences.pop_front() {
                return Some(occurrence);
            }
            if !self.step(deadline) {
                return None;
            }
        }
    }

    /// Runs until an event satisfies the predicate, and returns it, or to the deadline:
    /// then `None`. Other events are dropped.
    pub fn run_until(
        &mut self,
        deadline: Instant,
        mut predicate: impl FnMut(&Occurrence<M::Event>) -> bool,
    ) -> Option<Occurrence<M::Event>> {
        loop {
            let occurrence = self.next_event(deadline)?;
            if predicate(&occurrence) {
                return Some(occurrence);
            }
        }
    }

    /// One step; false when nothing more happens before the deadline.
    fn step(&mut self, deadline: Instant) -> bool {
        let next = self.next_wakeup().filter(|&at| at <= deadline);
        let at = next.unwrap_or(deadline).max(self.now());
        self.guard_progress(at);
        for delivery in self.world.advance(at) {
            self.on_delivery(delivery.at, delivery.host, delivery.datagram());
        }
        self.on_connections();
        self.on_signals(at);
        self.on_timeouts(at);
        self.on_connections();
        next.is_some()
    }

    fn next_wakeup(&mut self) -> Option<Instant> {
        let packet = self.world.next_event_time();
        let signal = self.signals.first_key_value().map(|(&(at, _), _)| at);
        let timeouts = self.machines.iter_mut();
        let timeout = timeouts.filter_map(|(_, m)| m.poll_timeout()).min();
        [packet, signal, timeout].into_iter().flatten().min()
    }

    fn guard_progress(&mut self, at: Instant) {
        if at > self.now() {
            self.wakeups_at_once = 0;
        }
        self.wakeups_at_once += 1;
        assert!(
            self.wakeups_at_once < MAX_WAKEUPS_AT_ONCE,
            "a machine asks to be woken again and again without letting time pass"
        );
    }

    fn on_delivery(&mut self, now: Instant, host: HostId, datagram: Datagram<'_>) {
        for index in 0..self.machines.len() {
            let (at_host, machine) = &mut self.machines[index];
            if *at_host != host {
                continue;
            }
            let verdict = machine.handle_input(now, datagram);
            self.drain(MachineId(index));
            if verdict != Verdict::NotMine {
                return;
            }
        }
    }

    /// Hands on what happened to connections: at a host, to its machines in order until one of
    /// them wants it.
    fn on_connections(&mut self) {
        while let Some(TcpDelivery {
            at,
            host,
            local,
            remote,
            event,
        }) = self.world.poll_tcp()
        {
            for index in 0..self.machines.len() {
                let (at_host, machine) = &mut self.machines[index];
                if *at_host != host {
                    continue;
                }
                let verdict = machine.handle_tcp(at, local, remote, &event);
                self.drain(MachineId(index));
                if verdict != Verdict::NotMine {
                    break;
                }
            }
        }
    }

    fn on_signals(&mut self, now: Instant) {
        while let Some(entry) = self.signals.first_entry()
            && entry.key().0 <= now
        {
            let (id, signal) = entry.remove();
            self.machines[id.0].1.handle_signal(now, signal);
            self.drain(id);
        }
    }

    fn on_timeouts(&mut self, now: Instant) {
        for index in 0..self.machines.len() {
            let machine = &mut self.machines[index].1;
            if machine.poll_timeout().is_some_and(|at| at <= now) {
                machine.handle_timeout(now);
                self.drain(MachineId(index));
            }
        }
    }

    fn drain(&mut self, id: MachineId) {
        let now = self.world.now();
        let (host, machine) = &mut self.machines[id.0];
        while let Some((out, ttl)) = machine.poll_limited() {
            let packet = Packet::udp(out.local, out.remote, out.payload);
            self.world.send_packet(now, *host, Packet { ttl, ..packet });
        }
        while let Some(out) = machine.poll_transmit() {
            self.world
                .send(now, *host, out.local, out.remote, &out.payload);
        }
        while let Some(call) = machine.poll_tcp() {
            self.world.call_tcp(now, *host, call);
        }
        while let Some(event) = machine.poll_event() {
            self.occurrences.push_back(Occurrence {
                at: now,
                machine: id,
                event,
            });
        }
    }
}
