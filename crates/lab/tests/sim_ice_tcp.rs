//! ICE over TCP (RFC 6544) in the simulated internet: simultaneous open through two NATs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, prints its figures, and looks at one kind of event"
)]

mod sim_support;

use postern_lab::sim::{
    ConnectError, HostId, Link, Nat, Pipe, TcpCall, TcpDelivery, TcpEvent as Seen, Unsolicited,
    World, seed,
};
use postern_proto::Datagram;
use postern_proto::ice::tcp::{TcpAction, TcpEnds, TcpEvent};
use postern_proto::ice::{Agent, Candidate, Config, Event, Path, Role};
use postern_wire::framing;
use postern_wire::stun::{Builder, Class, Message, Method, XorMappedAddress};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sim_support::{at, ip, masquerade};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SERVER: &str = "45.45.0.1:3478";
const RUNS: u64 = 200;

/// Two peers behind NATs that preserve ports, and a STUN server on TCP.
struct Meeting {
    world: World,
    server: HostId,
    sides: [Side; 2],
}

struct Side {
    host: HostId,
    agent: Agent,
    framed: BTreeMap<TcpEnds, bool>,
    bases: BTreeMap<TcpEnds, std::net::SocketAddr>,
    /// When it hears of the other side.
    meets: Instant,
    told: Vec<Candidate>,
    connects: u32,
    /// The port that was taken last.
    newest: u16,
    connected: Option<Instant>,
    valid: Option<(Instant, Path)>,
    selected: bool,
}

impl Meeting {
    fn new(
        number: u64,
        unsolicited: Unsolicited,
        delays: [Pipe; 2],
        staggers: [Duration; 2],
    ) -> Self {
        let start = Instant::now();
        let mut world = World::new(start, seed(number));
        let core = world.core();
        let server = world.add_host("server");
        world.attach(server, core, &[at(SERVER).ip()], Link::default());
        world.call_tcp(start, server, TcpCall::Listen(at(SERVER)));
        let sides = [0, 1].map(|side| {
            let nat = Nat {
                unsolicited,
                ..Nat::default()
            };
            let mut router = masquerade(["45.45.1.1", "45.45.2.1"][side], nat);
            // What side 1 gets comes late, and what it sends is on time.
            router.link = Link {
                up: Pipe::default(),
                down: delays[side],
            };
            let router = world.add_router("home", core, &router);
            let inside = world.inside(router);
            let host = world.add_host("peer");
            let address = ["192.168.1.10", "192.168.2.10"][side];
            world.attach(host, inside, &[ip(address)], Link::default());
            let local = std::net::SocketAddr::new(ip(address), 5000);
            world.call_tcp(start, host, TcpCall::Listen(local));
            let role = [Role::Controlling, Role::Controlled][side];
            let own = seed(number * 2 + side as u64);
            let mut agent = Agent::new(start, own, role, Config::default());
            agent.add_tcp_host(start, local);
            agent.add_tcp_stun_server(start, at(SERVER));
            agent.end_of_hosts(start);
            Side {
                host,
                agent,
                framed: BTreeMap::new(),
                bases: BTreeMap::new(),
                meets: start + Duration::from_secs(2) + staggers[side],
                told: Vec::new(),
                connects: 0,
                newest: 5000,
                connected: None,
                valid: None,
                selected: false,
            }
        });
        Self {
            world,
            server,
            sides,
        }
    }

    fn run(&mut self, deadline: Instant) {
        self.drain();
        while let Some(next) = self.next().filter(|next| *next <= deadline) {
            self.world.advance(next.max(self.world.now()));
            while let Some(delivery) = self.world.poll_tcp() {
                self.on_tcp(delivery);
            }
            self.meet();
            let now = self.world.now();
            for side in &mut self.sides {
                if side.agent.poll_timeout().is_some_and(|due| due <= now) {
                    side.agent.handle_timeout(now);
                }
            }
            self.drain();
        }
        self.world.advance(deadline);
    }

    fn next(&self) -> Option<Instant> {
        let timeouts = self
            .sides
            .iter()
            .filter_map(|side| side.agent.poll_timeout());
        let now = self.world.now();
        let meetings = self
            .sides
            .iter()
            .map(|side| side.meets)
            .filter(|at| *at > now);
        timeouts
            .chain(meetings)
            .chain(self.world.next_event_time())
            .min()
    }

    /// Each side hears of the other in its time, and of its later candidates at once.
    fn meet(&mut self) {
        let now = self.world.now();
        let credentials = self
            .sides
            .each_ref()
            .map(|s| s.agent.local_credentials().clone());
        let met = self.sides.each_ref().map(|side| side.meets <= now);
        for (side, credentials) in [(0, credentials[1].clone()), (1, credentials[0].clone())] {
            if met[side] {
                let told = std::mem::take(&mut self.sides[1 - side].told);
                self.sides[side]
                    .agent
                    .set_remote_credentials(now, credentials);
                for candidate in told {
                    // What the peer reads is what was written.
                    let candidate = candidate.to_string().parse().unwrap();
                    self.sides[side].agent.add_remote_candidate(now, candidate);
                }
            }
        }
    }

    fn drain(&mut self) {
        let now = self.world.now();
        for side in &mut self.sides {
            while let Some(action) = side.agent.poll_tcp() {
                let (ends, call) = match action {
                    TcpAction::Connect { ends, framed } => {
                        side.framed.insert(ends, framed);
                        side.connects += u32::from(framed);
                        (ends, TcpCall::Connect(ends.local, ends.remote))
                    }
                    TcpAction::Close(ends) => (ends, TcpCall::Close(ends.local, ends.remote)),
                    TcpAction::Renew(host) => {
                        side.newest += 1;
                        let another = std::net::SocketAddr::new(host.ip(), side.newest);
                        side.agent.add_tcp_host(now, another);
                        self.world
                            .call_tcp(now, side.host, TcpCall::Listen(another));
                        continue;
                    }
                };
                let known = 5000..=side.newest;
                assert!(known.contains(&ends.local.port()), "a port that is told");
                self.world.call_tcp(now, side.host, call);
            }
            while let Some(out) = side.agent.poll_transmit() {
                let ends = side.agent.tcp_ends(out.local).unwrap();
                let mut bytes = Vec::new();
                if side.framed.get(&ends).copied().unwrap_or(true) {
                    bytes.extend(framing::header(&out.payload).unwrap());
                }
                bytes.extend(&out.payload);
                let call = TcpCall::Send(ends.local, ends.remote, bytes);
                self.world.call_tcp(now, side.host, call);
            }
            while let Some(event) = side.agent.poll_event() {
                match event {
                    Event::LocalCandidate(candidate) => side.told.push(candidate),
                    Event::Valid { path, .. } => _ = side.valid.get_or_insert((now, path)),
                    Event::Selected(_) => side.selected = true,
                    _ => {}
                }
            }
        }
    }

    fn on_tcp(&mut self, delivery: TcpDelivery) {
        let TcpDelivery {
            at: now,
            host,
            local,
            remote,
            event,
        } = delivery;
        if host == self.server {
            if let Seen::Message(request) = event {
                let id = Message::parse(&request).unwrap().transaction_id();
                let answer = Builder::new(Class::Success, Method::BINDING, id)
                    .attribute(&XorMappedAddress(remote))
                    .build();
                self.world
                    .call_tcp(now, host, TcpCall::Send(local, remote, answer));
            }
            return;
        }
        let side = self
            .sides
            .iter_mut()
            .find(|side| side.host == host)
            .unwrap();
        let ends = TcpEnds { local, remote };
        let event = match event {
            Seen::Message(bytes) => return side.on_message(now, ends, &bytes),
            Seen::Connected => TcpEvent::Connected,
            Seen::Accepted => TcpEvent::Accepted,
            Seen::Failed(ConnectError::Refused) => TcpEvent::Refused,
            Seen::Failed(_) => TcpEvent::Failed,
            Seen::Closed => TcpEvent::Closed,
        };
        if event == TcpEvent::Connected && side.framed[&ends] {
            side.connected.get_or_insert(now);
        }
        if let Some(base) = side.agent.handle_tcp(now, ends, event) {
            side.bases.insert(ends, base);
        } else if matches!(event, TcpEvent::Connected | TcpEvent::Accepted) {
            self.world
                .call_tcp(now, host, TcpCall::Close(local, remote));
        }
    }
}

impl Side {
    /// Connections to the other side that it takes for open.
    fn open(&self) -> usize {
        let open = self.bases.iter();
        let open = open.filter(|(_, base)| self.agent.tcp_ends(**base).is_some());
        let to_peer = open.filter(|(ends, _)| self.framed.get(*ends).copied().unwrap_or(true));
        to_peer.count()
    }

    fn on_message(&mut self, now: Instant, ends: TcpEnds, bytes: &[u8]) {
        let framed = self.framed.get(&ends).copied().unwrap_or(true);
        let payload = if framed {
            framing::split(bytes).unwrap().0
        } else {
            bytes
        };
        let datagram = Datagram {
            local: self.bases[&ends],
            remote: ends.remote,
            payload,
        };
        self.agent.handle_input(now, datagram);
    }
}

fn late(milliseconds: u64) -> Pipe {
    Pipe {
        latency: Duration::from_millis(milliseconds),
        ..Pipe::default()
    }
}

/// How one run went: after the later side had heard of the other.
struct Outcome {
    connected: Option<Duration>,
    valid: Option<Duration>,
    connects: u32,
}

/// Runs a meeting at a random stagger of up to a second, with these one-way delays.
fn outcome(number: u64, unsolicited: Unsolicited, delays: [u64; 2]) -> Outcome {
    let mut random = ChaCha20Rng::seed_from_u64(number);
    let stagger = Duration::from_micros(random.next_u64() % 1_000_000);
    let staggers = if random.next_u32() % 2 == 0 {
        [stagger, Duration::ZERO]
    } else {
        [Duration::ZERO, stagger]
    };
    let mut meeting = Meeting::new(number, unsolicited, delays.map(late), staggers);
    let later = meeting
        .sides
        .each_ref()
        .map(|side| side.meets)
        .into_iter()
        .max()
        .unwrap();
    meeting.run(later + Duration::from_secs(5));
    let both = |times: [Option<Instant>; 2]| {
        let [one, two] = times.map(|at| Some(at?.saturating_duration_since(later)));
        Some(one?.max(two?))
    };
    let sides = &meeting.sides;
    let [one, two] = sides.each_ref().map(Side::open);
    assert_eq!(one, two, "no connection is left half-open, seed {number}");
    Outcome {
        connected: both(sides.each_ref().map(|side| side.connected)),
        valid: both(sides.each_ref().map(|side| Some(side.valid?.0))),
        connects: sides.iter().map(|side| side.connects).max().unwrap(),
    }
}

/// Of so many runs, in how many the time is within the limit; printed for the record.
fn rate(
    name: &str,
    outcomes: &[Outcome],
    time: impl Fn(&Outcome) -> Option<Duration>,
    limit: Duration,
) -> f64 {
    let within = outcomes
        .iter()
        .filter(|o| time(o).is_some_and(|t| t <= limit))
        .count();
    let mut times: Vec<_> = outcomes.iter().filter_map(time).collect();
    times.sort();
    let connects = outcomes.iter().map(|o| o.connects).max();
    println!(
        "{name}: {within} of {} within {limit:?}, median {:?}, slowest {:?}, connects at most {connects:?}",
        outcomes.len(),
        times.get(times.len() / 2),
        times.last()
    );
    within as f64 / outcomes.len() as f64
}

fn outcomes(unsolicited: Unsolicited, delays: [u64; 2]) -> Vec<Outcome> {
    (0..RUNS)
        .map(|number| outcome(number, unsolicited, delays))
        .collect()
}

/// The later SYN finds the way open; the earlier side hears of it half a round trip later.
#[test]
fn two_silent_nats_are_passed_in_one_round_trip() {
    let runs = outcomes(Unsolicited::Drop, [30, 30]);
    let rtt = Duration::from_millis(60);
    let open = rate("drop, open", &runs, |o| o.connected, rtt * 3 / 2);
    let valid = rate("drop, valid", &runs, |o| o.valid, rtt * 5 / 2);
    assert!(open >= 0.99 && valid >= 0.99);
}

#[test]
fn two_nats_that_refuse_are_passed_within_a_second_with_unequal_delays() {
    for delays in [[0, 30], [5, 60], [30, 30]] {
        let runs = outcomes(Unsolicited::Reset, delays);
        let name = format!("reset, {delays:?} ms");
        let valid = rate(&name, &runs, |o| o.valid, Duration::from_secs(1));
        assert!(valid >= 0.95, "{delays:?}: {valid}");
    }
}

#[test]
fn nats_that_answer_with_icmp_are_passed_too() {
    let runs = outcomes(Unsolicited::PortUnreachable, [10, 30]);
    assert!(rate("icmp", &runs, |o| o.valid, Duration::from_secs(1)) >= 0.95);
}

#[test]
fn the_pair_is_selected_and_is_a_reflexive_one() {
    let stagger = [Duration::ZERO; 2];
    let mut meeting = Meeting::new(1, Unsolicited::Drop, [late(30), late(30)], stagger);
    meeting.run(meeting.world.now() + Duration::from_secs(8));
    for side in &meeting.sides {
        let (_, path) = side.valid.unwrap();
        let ends = side.agent.tcp_ends(path.local).unwrap();
        assert_eq!((ends.local.port(), ends.remote), (5000, path.remote));
        assert_eq!(
            path.local_kind,
            postern_proto::ice::CandidateKind::ServerReflexive
        );
        assert!(side.selected);
    }
}
