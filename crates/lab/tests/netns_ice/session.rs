//! Two agents, their sockets, and a STUN server.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use postern_lab::netns::World;
use postern_lab::sim::seed;
use postern_proto::ice::{Agent, Config, Event, Path, Report, Role};
use postern_proto::stun::BindingServer;
use postern_proto::{Datagram, Transmit};

/// A session that has run out of patience ends within this time.
const GRACE: Duration = Duration::from_secs(60);

/// Answers Binding requests until it is dropped.
pub(crate) struct StunServer {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StunServer {
    /// Starts on the host's address number `index`.
    pub(crate) fn start(world: &World, host: &str, index: usize) -> Self {
        let address = SocketAddr::new(world.addresses(host).unwrap()[index], 3478);
        let socket = world.udp(host, address).unwrap();
        let pause = Duration::from_millis(20);
        socket.set_read_timeout(Some(pause)).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || serve(&socket, address, &stop));
        Self {
            address,
            stopping,
            thread: Some(thread),
        }
    }
}

impl Drop for StunServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(socket: &UdpSocket, local: SocketAddr, stop: &AtomicBool) {
    let mut server = BindingServer::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, remote)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let payload = &buffer[..length];
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        server.handle_input(Instant::now(), datagram);
        while let Some(transmit) = server.poll_transmit() {
            let _ = socket.send_to(&transmit.payload, transmit.remote);
        }
    }
}

/// How a session ended for one side.
pub(crate) type Outcome = Result<Path, Report>;

struct Side {
    agent: Agent,
    socket: UdpSocket,
    local: SocketAddr,
    outcome: Option<Outcome>,
}

impl Side {
    /// A side on the host's first address in the family of the STUN server.
    fn new(world: &World, host: &str, role: Role, plan: Plan) -> Self {
        let same_family = |a: &&IpAddr| a.is_ipv4() == plan.stun.is_ipv4();
        let addresses = world.addresses(host).unwrap();
        let address = *addresses.iter().find(same_family).unwrap();
        let socket = world.udp(host, SocketAddr::new(address, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            agent: Agent::new(Instant::now(), seed(role as u64), role, plan.config()),
            local: socket.local_addr().unwrap(),
            socket,
            outcome: None,
        }
    }

    fn begin(&mut self, stun: SocketAddr, peer: &Self) {
        let now = Instant::now();
        let credentials = peer.agent.local_credentials().clone();
        self.agent.set_remote_credentials(now, credentials);
        self.agent.add_host(now, self.local);
        self.agent.add_stun_server(now, stun);
        self.agent.end_of_hosts(now);
    }

    /// Receives, keeps the agent's time and sends.
    fn work(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((length, remote)) = self.socket.recv_from(&mut buffer) {
            let datagram = Datagram {
                local: self.local,
                remote,
                payload: &buffer[..length],
            };
            self.agent.handle_input(Instant::now(), datagram);
        }
        let now = Instant::now();
        if self.agent.poll_timeout().is_some_and(|due| due <= now) {
            self.agent.handle_timeout(now);
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            self.send(&transmit);
        }
    }

    /// Packets get lost; the agent knows what to do then.
    fn send(
        &self,
        Transmit {
            remote, payload, ..
        }: &Transmit,
    ) {
        let _: io::Result<usize> = self.socket.send_to(payload, *remote);
    }

    /// Signals candidates to the peer and remembers the end.
    fn signal(&mut self, peer: &mut Self) {
        let now = Instant::now();
        while let Some(event) = self.agent.poll_event() {
            match event {
                Event::ResolveName(_) => {}
                Event::LocalCandidate(candidate) => {
                    peer.agent.add_remote_candidate(now, candidate);
                }
                Event::EndOfLocalCandidates => peer.agent.end_of_remote_candidates(now),
                Event::Selected(path) => self.outcome = Some(Ok(path)),
                Event::Failed(report) => self.outcome = Some(Err(report)),
                Event::PeerSeen(_) | Event::Valid { .. } | Event::Lost(_) => {}
                Event::OpenSockets { .. }
                | Event::SendLimited { .. }
                | Event::CloseSockets(_)
                | Event::AttemptEnded
                | Event::TellPeer(_) => {}
            }
        }
    }
}

/// What a session is given.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) stun: SocketAddr,
    /// How long to try where there is no path.
    pub(crate) patience: Duration,
}

impl Plan {
    fn config(self) -> Config {
        Config {
            patience: self.patience,
            ..Config::default()
        }
    }
}

/// Lets the agents of two hosts find a path.
pub(crate) fn connect(world: &World, hosts: [&str; 2], plan: Plan) -> [Outcome; 2] {
    let mut one = Side::new(world, hosts[0], Role::Controlling, plan);
    let mut other = Side::new(world, hosts[1], Role::Controlled, plan);
    one.begin(plan.stun, &other);
    other.begin(plan.stun, &one);
    let deadline = Instant::now() + plan.patience + GRACE;
    loop {
        one.work();
        other.work();
        one.signal(&mut other);
        other.signal(&mut one);
        if let (Some(first), Some(second)) = (&one.outcome, &other.outcome) {
            return [first.clone(), second.clone()];
        }
        assert!(Instant::now() < deadline, "{hosts:?} do not end");
        wait(&one, &other);
    }
}

fn wait(one: &Side, other: &Side) {
    let due = [one, other]
        .iter()
        .filter_map(|s| s.agent.poll_timeout())
        .min();
    let time = due.map_or(GRACE, |due| due.saturating_duration_since(Instant::now()));
    let millis = u16::try_from(time.as_millis().min(1000)).unwrap_or(0);
    let mut fds = [one, other].map(|side| PollFd::new(side.socket.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut fds, PollTimeout::from(millis));
}
