//! Two ICE agents look for each other.

use super::party::{Party, PartyEvent, PartySignal, StunServer};
use super::peer::{Equipment, Over, Peer, WayToRelay};
use super::proxy::Proxy;
use super::relay::Relay;
use super::{BuiltHome, Outlet, RELAY_CLIENT_PORT, RELAY_PORT, Signalling, TwoHomes};
use crate::sim::random::Stream;
use crate::sim::runner::{MachineId, Occurrence, Runner};
use crate::sim::topology::{HostId, RouterId};
use crate::sim::world::World;
use postern_proto::ice::{Agent, Credentials, Event, Path, Report, Role};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Hops between two homes: fewer than most of the internet's, more than a low time to live.
const CORE_HOPS: u8 = 6;

/// A [`TwoHomes`] at work.
#[derive(Debug)]
pub struct Meeting {
    runner: Runner<Party>,
    signalling: Signalling,
    sides: [Side; 2],
    /// When the first side had the other's credentials.
    authenticated: Option<Instant>,
}

/// One side's part of a meeting.
#[derive(Debug)]
struct Side {
    machine: MachineId,
    host: HostId,
    routers: Vec<RouterId>,
    credentials: Credentials,
    /// Messages held back until both sides have gathered.
    outbox: Vec<PartySignal>,
    gathered: bool,
    valid: Option<Instant>,
    ended: Option<End>,
    data: Option<(SocketAddr, SocketAddr)>,
}

#[derive(Debug, Clone)]
enum End {
    Selected(Path),
    Failed(Report),
}

/// How a meeting went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Left and right.
    pub sides: [SideOutcome; 2],
}

/// How it went for one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideOutcome {
    /// From authentication, when the first side had the other's credentials, to this side's
    /// first valid pair.
    pub valid_after: Option<Duration>,
    /// The selected path.
    pub selected: Option<Path>,
    /// What the agent reported when it gave up.
    pub failed: Option<Report>,
}

impl Outcome {
    /// Both sides have selected a path.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.sides.iter().all(|side| side.selected.is_some())
    }

    /// Both sides have given up.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.sides.iter().all(|side| side.failed.is_some())
    }

    /// From authentication to the moment when both sides have a valid pair.
    #[must_use]
    pub fn both_valid_after(&self) -> Option<Duration> {
        let [left, right] = &self.sides;
        Some(left.valid_after?.max(right.valid_after?))
    }
}

impl TwoHomes {
    /// What the peer of a home works with.
    fn equip(
        &self,
        home: &BuiltHome,
        outlet: Outlet,
        stun: &[SocketAddr],
        relay: SocketAddr,
    ) -> Equipment {
        let v4 = home.endpoints.iter().find(|endpoint| endpoint.is_ipv4());
        let over = match (outlet, home.proxy) {
            _ if home.routers.is_empty() => Over::Udp,
            (Outlet::All, _) => Over::Udp,
            (Outlet::Proxy, Some((_, proxy))) => Over::Proxy(proxy),
            (Outlet::NoUdp | Outlet::Https | Outlet::Proxy, _) => Over::Tcp,
        };
        let way = |v4: &SocketAddr| WayToRelay {
            local: SocketAddr::new(v4.ip(), RELAY_CLIENT_PORT),
            server: relay,
            over,
        };
        Equipment {
            endpoints: home.endpoints.clone(),
            stun: stun.to_vec(),
            tcp: v4.copied().zip(Some(stun[0])).filter(|_| self.tcp),
            relay: v4.map(way).filter(|_| self.relay),
        }
    }
}

impl Meeting {
    /// Builds the world; the agents begin to gather at `start`.
    #[must_use]
    pub fn new(homes: &TwoHomes, start: Instant, seed: [u8; 32]) -> Self {
        let mut world = World::new(start, seed);
        world.set_core_hops(CORE_HOPS);
        let (server, stun) = homes.build_server(&mut world);
        let network = homes.build_carrier(&mut world);
        let built = [0, 1].map(|side| homes.build_home(&mut world, network, side));
        let mut runner = Runner::new(world);
        let relay = SocketAddr::new(stun[0].ip(), RELAY_PORT);
        if homes.relay {
            runner.add(server, Party::Relay(Box::new(Relay::new(start, relay))));
        }
        runner.add(server, Party::Server(Box::new(StunServer::new(stun[0]))));
        let mut random = Stream::new(seed, u64::MAX);
        let [left, right] = built;
        let [outlet_left, outlet_right] = homes.homes.each_ref().map(|home| home.outlet);
        let sides = [
            (Role::Controlling, left, outlet_left),
            (Role::Controlled, right, outlet_right),
        ];
        let sides = sides.map(|(role, home, outlet)| {
            let agent = Agent::new(start, random.bytes(), role, homes.config);
            let ports = Stream::new(random.bytes(), 0);
            let equipment = homes.equip(&home, outlet, &stun, relay);
            Side::new(&mut runner, agent, home, &equipment, ports)
        });
        let mut meeting = Self {
            runner,
            signalling: homes.signalling,
            sides,
            authenticated: None,
        };
        meeting.exchange_credentials();
        meeting
    }

    /// Runs until both sides have selected a path or given up, at most for `limit`.
    pub fn run(&mut self, limit: Duration) -> Outcome {
        let deadline = self.runner.now() + limit;
        while !self.sides.iter().all(|side| side.ended.is_some()) {
            let Some(occurrence) = self.runner.next_event(deadline) else {
                break;
            };
            self.on_occurrence(occurrence);
        }
        self.outcome()
    }

    /// Runs for the whole duration, whatever happens.
    pub fn run_on(&mut self, duration: Duration) -> Outcome {
        let deadline = self.runner.now() + duration;
        while let Some(occurrence) = self.runner.next_event(deadline) {
            self.on_occurrence(occurrence);
        }
        self.outcome()
    }

    /// Whether a datagram that each side sends on its selected path arrives at the other.
    pub fn carries_data(&mut self) -> bool {
        self.exchange_data();
        self.sides.iter().all(|side| side.data.is_some())
    }

    /// Whether those datagrams arrive on the path that the other side has selected, so that
    /// both use the same one.
    pub fn agrees_on_the_path(&mut self) -> bool {
        let outcome = self.exchange_data();
        let selected = outcome.sides.map(|side| side.selected);
        self.sides.iter().zip(selected).all(|(side, path)| {
            side.data.is_some() && side.data == path.map(|path| (path.local, path.remote))
        })
    }

    /// Lets both sides send a datagram and gives it a second to arrive.
    fn exchange_data(&mut self) -> Outcome {
        let now = self.runner.now();
        for side in 0..2 {
            self.sides[side].data = None;
            self.tell(now, side, PartySignal::SendData);
        }
        self.run_on(Duration::from_secs(1))
    }

    /// How it stands.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let [left, right] = &self.sides;
        let since = self.authenticated;
        Outcome {
            sides: [left.outcome(since), right.outcome(since)],
        }
    }

    /// The world, to change it or to read trace and counters.
    pub const fn world(&mut self) -> &mut World {
        self.runner.world()
    }

    /// The datagrams that the side has sent that sent more.
    pub fn datagrams(&mut self) -> u64 {
        let hosts = self.sides.each_ref().map(|side| side.host);
        let sent = hosts.map(|host| self.runner.world().host_counters(host).sent);
        sent.into_iter().max().unwrap_or(0)
    }

    /// The routers of a side (0 left, 1 right), outermost first.
    #[must_use]
    pub fn routers(&self, side: usize) -> &[RouterId] {
        &self.sides[side].routers
    }

    /// The agent of a side (0 left, 1 right).
    ///
    /// # Panics
    /// When there is no such side.
    #[must_use]
    pub fn agent(&self, side: usize) -> &Agent {
        match self.runner.machine(self.sides[side].machine) {
            Party::Peer(peer) => peer.agent(),
            Party::Server(_) | Party::Relay(_) | Party::Proxy(_) => {
                unreachable!("a side's machine is a peer")
            }
        }
    }

    fn on_occurrence(&mut self, occurrence: Occurrence<PartyEvent>) {
        let is_of = |side: &Side| side.machine == occurrence.machine;
        let Some(side) = self.sides.iter().position(is_of) else {
            return;
        };
        match occurrence.event {
            PartyEvent::Ice(event) => self.on_ice(occurrence.at, side, event),
            PartyEvent::Data { local, remote } => self.sides[side].data = Some((local, remote)),
        }
    }

    fn on_ice(&mut self, at: Instant, index: usize, event: Event) {
        let side = &mut self.sides[index];
        match event {
            Event::LocalCandidate(candidate) => {
                self.signal(at, index, PartySignal::Candidate(candidate));
            }
            Event::EndOfLocalCandidates => {
                side.gathered = true;
                self.signal(at, index, PartySignal::EndOfCandidates);
                self.hand_over_together(at);
            }
            Event::TellPeer(message) => {
                self.signal(at, index, PartySignal::Punch(message));
                self.hand_over_together(at);
            }
            Event::Valid { .. } => {
                side.valid.get_or_insert(at);
            }
            Event::Selected(path) => side.ended = Some(End::Selected(path)),
            Event::Failed(report) => side.ended = Some(End::Failed(report)),
            Event::Lost(path) => side.on_lost(path),
            Event::PeerSeen(_)
            | Event::ResolveName(_)
            | Event::Heard { .. }
            | Event::OpenSockets { .. }
            | Event::SendLimited { .. }
            | Event::CloseSockets(_)
            | Event::AttemptEnded => {}
        }
    }

    fn exchange_credentials(&mut self) {
        let now = self.runner.now();
        for side in 0..2 {
            let credentials = self.sides[side].credentials.clone();
            self.signal(now, side, PartySignal::Credentials(credentials));
        }
    }

    /// Sends a message from a side to the other, or keeps it for later.
    fn signal(&mut self, at: Instant, from: usize, signal: PartySignal) {
        match self.signalling {
            Signalling::Trickled(delay) => {
                self.authenticated.get_or_insert(at + delay);
                self.tell(at + delay, 1 - from, signal);
            }
            Signalling::Together { .. } if self.authenticated.is_none() => {
                self.sides[from].outbox.push(signal);
            }
            Signalling::Together { .. } => self.tell(at, 1 - from, signal),
        }
    }

    fn hand_over_together(&mut self, at: Instant) {
        let Signalling::Together { stagger } = self.signalling else {
            return;
        };
        let ready = |side: usize| self.sides[side].gathered && self.agent(side).is_classified();
        if self.authenticated.is_some() || !ready(0) || !ready(1) {
            return;
        }
        self.authenticated = Some(at);
        for (from, delay) in [(0, stagger), (1, Duration::ZERO)] {
            for signal in std::mem::take(&mut self.sides[from].outbox) {
                self.tell(at + delay, 1 - from, signal);
            }
        }
    }

    fn tell(&mut self, at: Instant, side: usize, signal: PartySignal) {
        self.runner.signal(at, self.sides[side].machine, signal);
    }
}

impl Side {
    fn new(
        runner: &mut Runner<Party>,
        agent: Agent,
        home: BuiltHome,
        equipment: &Equipment,
        ports: Stream,
    ) -> Self {
        let credentials = agent.local_credentials().clone();
        if let Some((host, local)) = home.proxy {
            runner.add(host, Party::Proxy(Box::new(Proxy::new(local))));
        }
        let peer = Peer::new(runner.now(), agent, equipment, ports);
        Self {
            machine: runner.add(home.host, Party::Peer(Box::new(peer))),
            host: home.host,
            routers: home.routers,
            credentials,
            outbox: Vec::new(),
            gathered: false,
            valid: None,
            ended: None,
            data: None,
        }
    }

    fn on_lost(&mut self, lost: Path) {
        if matches!(self.ended, Some(End::Selected(path)) if path == lost) {
            self.ended = None;
        }
    }

    fn outcome(&self, authenticated: Option<Instant>) -> SideOutcome {
        let since = |at: Instant| at.saturating_duration_since(authenticated.unwrap_or(at));
        let (selected, failed) = match self.ended.clone() {
            Some(End::Selected(path)) => (Some(path), None),
            Some(End::Failed(report)) => (None, Some(report)),
            None => (None, None),
        };
        SideOutcome {
            valid_after: self.valid.map(since),
            selected,
            failed,
        }
    }
}
