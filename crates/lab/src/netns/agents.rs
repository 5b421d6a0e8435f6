//! Two agents on real sockets, each with the sockets that it asks for.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use postern_proto::ice::{Agent, Candidate, Config, Credentials, Event, Path, Report, Role};
use postern_proto::punch;
use postern_proto::stun::BindingServer;
use postern_proto::{Datagram, Transmit};

use super::build::BuildError;
use super::world::World;
use crate::sim::matrix::Run;
use crate::sim::seed;

/// A meeting that has run out of patience ends within this time.
const GRACE: Duration = Duration::from_secs(60);
/// How long a STUN server sleeps before it looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(20);
/// Datagrams read from a socket before the others have their turn.
const BATCH: usize = 32;
/// The time to live that the system gives.
const USUAL_TTL: u32 = 64;

/// Answers Binding requests until it is dropped.
#[derive(Debug)]
pub struct Reflector {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// Starts on these endpoints of a host.
    ///
    /// # Errors
    ///
    /// As [`World::udp`].
    pub fn start(world: &World, host: &str, endpoints: &[SocketAddr]) -> Result<Self, BuildError> {
        let mut sockets = BTreeMap::new();
        for endpoint in endpoints {
            let socket = world.udp(host, *endpoint)?;
            socket.set_nonblocking(true)?;
            sockets.insert(*endpoint, socket);
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || serve(&sockets, &stop));
        Ok(Self {
            stopping,
            thread: Some(thread),
        })
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(sockets: &BTreeMap<SocketAddr, UdpSocket>, stop: &AtomicBool) {
    let mut server = BindingServer::new();
    while !stop.load(Ordering::Relaxed) {
        let ready = wait(sockets.values(), GLANCE);
        let ready = sockets.iter().zip(ready).filter(|(_, ready)| *ready);
        for ((local, socket), _) in ready {
            receive(*local, socket, |datagram| {
                server.handle_input(Instant::now(), datagram);
            });
        }
        while let Some(transmit) = server.poll_transmit() {
            if let Some(socket) = sockets.get(&transmit.local) {
                let _ = socket.send_to(&transmit.payload, transmit.remote);
            }
        }
    }
}

/// What two agents are given.
#[derive(Debug, Clone)]
pub struct Plan {
    /// STUN servers of both.
    pub stun: Vec<SocketAddr>,
    /// Settings of both.
    pub config: Config,
    /// How much later than the first one the second one hears of the other. Both have gathered
    /// and know their NATs by then.
    pub stagger: Duration,
    /// Decides what the agents leave to chance.
    pub seed: u64,
}

/// How a meeting ended.
#[derive(Debug)]
pub struct Met {
    /// What each side has selected, or what it said when it gave up.
    pub sides: [Result<Path, Report>; 2],
    /// In numbers.
    pub run: Run,
}

/// Lets the agents of two hosts, the first of which controls, look for a path.
///
/// # Errors
///
/// As [`World::udp`], or an agent neither finds a path nor gives up.
pub fn meet(world: &World, hosts: [&str; 2], plan: &Plan) -> Result<Met, BuildError> {
    let roles = [Role::Controlling, Role::Controlled];
    let side = |index: usize| Side::new(world, hosts[index], roles[index], index as u64, plan);
    let mut meeting = Meeting {
        sides: [side(0)?, side(1)?],
        stagger: plan.stagger,
        introduced: None,
    };
    let deadline = Instant::now() + plan.config.patience + GRACE;
    loop {
        meeting.work()?;
        if let [Some(_), Some(_)] = meeting.sides.each_ref().map(|side| side.end.as_ref()) {
            return meeting.outcome();
        }
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        meeting.wait();
    }
}

/// What one side tells the other.
#[derive(Debug)]
enum Signal {
    Credentials(Credentials),
    Candidate(Candidate),
    EndOfCandidates,
    Punch(punch::Message),
}

struct Side<'a> {
    world: &'a World,
    host: &'a str,
    agent: Agent,
    sockets: BTreeMap<SocketAddr, UdpSocket>,
    outbox: Vec<Signal>,
    gathered: bool,
    valid: Option<Instant>,
    end: Option<Result<Path, Report>>,
    datagrams: u64,
}

struct Meeting<'a> {
    sides: [Side<'a>; 2],
    stagger: Duration,
    /// When the first side heard of the other.
    introduced: Option<Instant>,
}

impl Meeting<'_> {
    fn work(&mut self) -> Result<(), BuildError> {
        for side in &mut self.sides {
            side.keep_time();
            side.pump()?;
        }
        let now = Instant::now();
        if self.introduced.is_none() && self.sides.iter().all(Side::is_ready) {
            self.introduced = Some(now);
        }
        let Some(introduced) = self.introduced else {
            return Ok(());
        };
        for (from, since) in [(1, introduced), (0, introduced + self.stagger)] {
            if since <= now {
                let signals = std::mem::take(&mut self.sides[from].outbox);
                let told = &mut self.sides[1 - from];
                signals
                    .into_iter()
                    .for_each(|signal| told.hear(now, signal));
                told.pump()?;
            }
        }
        Ok(())
    }

    /// Sleeps until something arrives or is due, and takes what has arrived.
    fn wait(&mut self) {
        let now = Instant::now();
        let due = self
            .sides
            .iter()
            .filter_map(|side| side.agent.poll_timeout());
        let introduction = self.introduced.map(|at| at + self.stagger);
        let due = due.chain(introduction.filter(|at| *at > now)).min();
        let time = due.map_or(GLANCE, |due| due.saturating_duration_since(now));
        let all = self.sides.iter().flat_map(|side| side.sockets.values());
        let mut ready = wait(all, time).into_iter();
        for side in &mut self.sides {
            let (sockets, agent) = (&side.sockets, &mut side.agent);
            for ((local, socket), _) in sockets.iter().zip(&mut ready).filter(|(_, ready)| *ready) {
                receive(*local, socket, |datagram| {
                    agent.handle_input(Instant::now(), datagram);
                });
            }
        }
    }

    fn outcome(self) -> Result<Met, BuildError> {
        let later = self.introduced.map(|at| at + self.stagger);
        let time = |side: &Side<'_>| Some(side.valid?.saturating_duration_since(later?));
        let technique = |side: &Side<'_>| match &side.end {
            Some(Ok(path)) => Some(side.agent.technique(path)),
            Some(Err(_)) | None => None,
        };
        let [left, right] = &self.sides;
        let found = technique(left).zip(technique(right));
        let direct = found.and_then(|(one, other)| {
            let time = time(left)?.max(time(right)?);
            Some((time, one.max(other)))
        });
        let tried = [left, right].map(|side| side.agent.punch_report().tried);
        let datagrams = left.datagrams.max(right.datagrams);
        let run = Run::new(direct, &tried, datagrams);
        let ended = |end: Option<_>| end.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut));
        let [left, right] = self.sides.map(|side| side.end);
        Ok(Met {
            sides: [ended(left)?, ended(right)?],
            run,
        })
    }
}

impl<'a> Side<'a> {
    fn new(
        world: &'a World,
        host: &'a str,
        role: Role,
        index: u64,
        plan: &Plan,
    ) -> Result<Self, BuildError> {
        let now = Instant::now();
        let own = seed(plan.seed.wrapping_mul(2).wrapping_add(index));
        let agent = Agent::new(now, own, role, plan.config);
        let credentials = agent.local_credentials().clone();
        let mut side = Self {
            world,
            host,
            agent,
            sockets: BTreeMap::new(),
            outbox: vec![Signal::Credentials(credentials)],
            gathered: false,
            valid: None,
            end: None,
            datagrams: 0,
        };
        for address in world.addresses(host)? {
            for local in side.open(SocketAddr::new(*address, 0), 1)? {
                side.agent.add_host(now, local);
            }
        }
        for server in &plan.stun {
            side.agent.add_stun_server(now, *server);
        }
        side.agent.end_of_hosts(now);
        Ok(side)
    }

    /// Opens so many sockets on an address.
    fn open(&mut self, local: SocketAddr, count: usize) -> Result<Vec<SocketAddr>, BuildError> {
        let bind = |_| {
            let socket = UdpSocket::bind(local)?;
            socket.set_nonblocking(true)?;
            Ok((socket.local_addr()?, socket))
        };
        let open = || (0..count).map(bind).collect::<io::Result<Vec<_>>>();
        let opened = self.world.run(self.host, open)??;
        let addresses = opened.iter().map(|(local, _)| *local).collect();
        self.sockets.extend(opened);
        Ok(addresses)
    }

    fn is_ready(&self) -> bool {
        self.gathered && self.agent.is_classified()
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.agent.poll_timeout().is_some_and(|due| due <= now) {
            self.agent.handle_timeout(now);
        }
    }

    fn hear(&mut self, now: Instant, signal: Signal) {
        match signal {
            Signal::Credentials(peer) => self.agent.set_remote_credentials(now, peer),
            Signal::Candidate(candidate) => self.agent.add_remote_candidate(now, candidate),
            Signal::EndOfCandidates => self.agent.end_of_remote_candidates(now),
            Signal::Punch(message) => self.agent.handle_punch(now, message),
        }
    }

    /// Does what the agent wants done.
    fn pump(&mut self) -> Result<(), BuildError> {
        loop {
            let mut idle = true;
            while let Some(event) = self.agent.poll_event() {
                idle = false;
                self.on_event(event)?;
            }
            while let Some(transmit) = self.agent.poll_transmit() {
                idle = false;
                self.send(&transmit, None);
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), BuildError> {
        match event {
            Event::LocalCandidate(candidate) => self.outbox.push(Signal::Candidate(candidate)),
            Event::EndOfLocalCandidates => {
                self.gathered = true;
                self.outbox.push(Signal::EndOfCandidates);
            }
            Event::TellPeer(message) => self.outbox.push(Signal::Punch(message)),
            Event::OpenSockets { base, count, .. } => {
                let opened = self.open(SocketAddr::new(base.ip(), 0), count)?;
                self.agent.sockets_opened(Instant::now(), Some(opened));
            }
            Event::CloseSockets(closed) => self.sockets.retain(|local, _| !closed.contains(local)),
            Event::SendLimited { transmit, ttl } => self.send(&transmit, Some(ttl)),
            Event::Valid { .. } => _ = self.valid.get_or_insert_with(Instant::now),
            Event::Selected(path) => self.end = Some(Ok(path)),
            Event::Failed(report) => self.end = Some(Err(report)),
            Event::PeerSeen(_)
            | Event::ResolveName(_)
            | Event::Heard { .. }
            | Event::Lost(_)
            | Event::AttemptEnded => {}
        }
        Ok(())
    }

    /// Packets get lost; the agent knows what to do then.
    fn send(&mut self, transmit: &Transmit, ttl: Option<u8>) {
        self.datagrams += 1;
        let Some(socket) = self.sockets.get(&transmit.local) else {
            return;
        };
        if let Some(ttl) = ttl {
            let _ = socket.set_ttl(ttl.into());
        }
        let _ = socket.send_to(&transmit.payload, transmit.remote);
        if ttl.is_some() {
            let _ = socket.set_ttl(USUAL_TTL);
        }
    }
}

/// Which of the sockets have something to read, after so long at most.
fn wait<'s>(sockets: impl Iterator<Item = &'s UdpSocket>, time: Duration) -> Vec<bool> {
    let mut fds: Vec<_> = sockets
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    // Rounded up: a timer that is not yet due would make the loop spin.
    let millis = time.as_micros().div_ceil(1000).min(1000);
    let _ = poll(
        &mut fds,
        PollTimeout::from(u16::try_from(millis).unwrap_or(1000)),
    );
    fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
}

fn receive(local: SocketAddr, socket: &UdpSocket, mut take: impl FnMut(Datagram<'_>)) {
    let mut buffer = [0; 2048];
    for _ in 0..BATCH {
        let Ok((length, remote)) = socket.recv_from(&mut buffer) else {
            return;
        };
        let payload = &buffer[..length];
        take(Datagram {
            local,
            remote,
            payload,
        });
    }
}
