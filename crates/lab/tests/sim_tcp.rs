//! TCP in the simulated internet: simultaneous open through NATs as real ones were seen to
//! have it, by what they do with a SYN that nobody asked for.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and looks at one kind of event"
)]

mod sim_support;

use postern_lab::sim::{
    ConnectError, Filtering, HostId, Link, Mapping, Nat, TcpCall, TcpDelivery, TcpEvent,
    Unsolicited, World, seed,
};
use sim_support::{at, ip, masquerade};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One-way delay of each home's link, so that a round trip takes 60 ms.
const LINK: Duration = Duration::from_millis(15);
const RTT: Duration = Duration::from_millis(60);
const INNER: [&str; 2] = ["192.168.1.10:5000", "192.168.1.10:6000"];
const OUTER: [&str; 2] = ["45.45.1.1:5000", "45.45.2.1:6000"];

struct Homes {
    world: World,
    hosts: [HostId; 2],
}

/// Two hosts, each behind a NAT that preserves ports.
fn homes(unsolicited: Unsolicited, latencies: [Duration; 2]) -> Homes {
    let mut world = World::new(Instant::now(), seed(1));
    let core = world.core();
    let hosts = [("45.45.1.1", latencies[0]), ("45.45.2.1", latencies[1])].map(|(wan, latency)| {
        let nat = Nat {
            unsolicited,
            ..Nat::default()
        };
        let mut router = masquerade(wan, nat);
        router.link = Link::with_latency(latency);
        let router = world.add_router(wan, core, &router);
        let host = world.add_host(wan);
        let inside = world.inside(router);
        world.attach(host, inside, &[ip("192.168.1.10")], Link::default());
        host
    });
    Homes { world, hosts }
}

impl Homes {
    fn run_to(&mut self, to: Instant) -> Vec<TcpDelivery> {
        while let Some(next) = self.world.next_event_time().filter(|next| *next <= to) {
            self.world.advance(next);
        }
        self.world.advance(to);
        std::iter::from_fn(|| self.world.poll_tcp()).collect()
    }

    fn connect(&mut self, side: usize) {
        let (local, remote) = (at(INNER[side]), at(OUTER[1 - side]));
        let now = self.world.now();
        let call = TcpCall::Connect(local, remote);
        self.world.call_tcp(now, self.hosts[side], call);
    }

    fn call(&mut self, side: usize, call: TcpCall) {
        let now = self.world.now();
        self.world.call_tcp(now, self.hosts[side], call);
    }

    /// Both connect, the second side `stagger` later; what each side saw first, and when after
    /// the second side's SYN.
    fn open(&mut self, stagger: Duration) -> [(TcpEvent, Duration); 2] {
        self.connect(0);
        let second = self.world.now() + stagger;
        let mut seen = self.run_to(second);
        self.connect(1);
        seen.extend(self.run_to(second + Duration::from_secs(10)));
        self.hosts.map(|host| {
            let first = seen.iter().find(|delivery| delivery.host == host).unwrap();
            (
                first.event.clone(),
                first.at.saturating_duration_since(second),
            )
        })
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn opened(unsolicited: Unsolicited, stagger: Duration) -> [(TcpEvent, Duration); 2] {
    homes(unsolicited, [LINK; 2]).open(stagger)
}

const REFUSED: TcpEvent = TcpEvent::Failed(ConnectError::Refused);

#[test]
fn silent_nats_let_both_sides_connect_at_any_stagger_in_one_round_trip() {
    for stagger in [0, 20, 500, 2500] {
        let [first, second] = opened(Unsolicited::Drop, ms(stagger));
        assert_eq!(first.0, TcpEvent::Connected, "{stagger} ms");
        assert_eq!(second, (TcpEvent::Connected, RTT), "{stagger} ms");
        // Where its SYN was dropped, the first side waits for the last part of the handshake.
        assert!(first.1 <= RTT * 3 / 2, "{stagger} ms: {:?}", first.1);
    }
}

#[test]
fn nats_that_refuse_let_both_sides_connect_while_their_syns_cross() {
    for unsolicited in [
        Unsolicited::Reset,
        Unsolicited::PortUnreachable,
        Unsolicited::Accept,
    ] {
        for (event, after) in opened(unsolicited, ms(20)) {
            assert_eq!(event, TcpEvent::Connected, "{unsolicited:?}");
            assert!(after <= RTT, "{unsolicited:?}: {after:?}");
        }
        let [(first, _), _] = opened(unsolicited, ms(100));
        assert_eq!(first, REFUSED, "{unsolicited:?}");
    }
}

#[test]
fn a_retry_after_a_refusal_connects_when_delays_are_equal() {
    let mut homes = homes(Unsolicited::Reset, [LINK; 2]);
    homes.connect(0);
    let refused = homes.run_to(homes.world.now() + ms(100));
    assert_eq!(refused[0].event, REFUSED);
    homes.connect(0);
    homes.run_to(homes.world.now() + ms(20));
    homes.connect(1);
    let seen = homes.run_to(homes.world.now() + RTT);
    let connected = seen.iter().filter(|d| d.event == TcpEvent::Connected);
    assert_eq!(connected.count(), 2);
}

/// Both sides try again a fixed time after each refusal: they never meet, because each SYN
/// finds the other side's attempt over.
#[test]
fn retries_in_lockstep_never_connect_when_syns_take_no_time() {
    let mut homes = homes(Unsolicited::Accept, [Duration::ZERO; 2]);
    for attempt in 0..116 {
        let side = attempt % 2;
        homes.connect(side);
        let seen = homes.run_to(homes.world.now() + ms(25));
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].event, REFUSED);
    }
}

#[test]
fn a_syn_of_few_hops_ends_its_own_attempt() {
    let Homes { mut world, hosts } = homes(Unsolicited::Drop, [LINK; 2]);
    let now = world.now();
    let connect = TcpCall::Connect(at(INNER[0]), at(OUTER[1]));
    world.limit_tcp(hosts[0], 2);
    world.call_tcp(now, hosts[0], connect);
    while let Some(next) = world.next_event_time() {
        world.advance(next);
    }
    let seen = world.poll_tcp().unwrap().event;
    assert_eq!(seen, TcpEvent::Failed(ConnectError::Unreachable));
}

#[test]
fn an_unanswered_attempt_ends_after_two_minutes_and_leaves_nothing() {
    let mut homes = homes(Unsolicited::Drop, [LINK; 2]);
    let start = homes.world.now();
    homes.connect(0);
    let seen = homes.run_to(start + Duration::from_secs(200));
    assert_eq!(seen[0].event, TcpEvent::Failed(ConnectError::TimedOut));
    assert_eq!(seen[0].at - start, Duration::from_secs(127));
    assert_eq!(homes.world.tcp_connections(homes.hosts[0]), 0);
}

#[test]
fn messages_arrive_once_and_in_order_over_a_link_that_loses_and_duplicates() {
    let mut homes = homes(Unsolicited::Drop, [LINK; 2]);
    homes.open(ms(0));
    let host = homes.hosts[0];
    let pipe = postern_lab::sim::Pipe {
        latency: ms(10),
        jitter: ms(20),
        loss: 0.2,
        duplication: 0.2,
        reordering: true,
        ..Default::default()
    };
    // The interface of the first host is the only one it has.
    let interface = homes.world.interface_of(host);
    homes.world.set_link(interface, Link::symmetric(pipe));
    for number in 0..100_u8 {
        homes.call(0, TcpCall::Send(at(INNER[0]), at(OUTER[1]), vec![number]));
    }
    homes.call(0, TcpCall::Close(at(INNER[0]), at(OUTER[1])));
    let seen = homes.run_to(homes.world.now() + Duration::from_secs(300));
    let messages: Vec<_> = seen
        .iter()
        .filter_map(|delivery| match &delivery.event {
            TcpEvent::Message(message) => Some(message[0]),
            _ => None,
        })
        .collect();
    assert_eq!(messages, (0..100).collect::<Vec<_>>());
    assert_eq!(seen.last().unwrap().event, TcpEvent::Closed);
    assert_eq!(homes.hosts.map(|h| homes.world.tcp_connections(h)), [0, 0]);
}

#[test]
fn a_listening_port_accepts_and_a_closed_one_refuses() {
    let mut world = World::new(Instant::now(), seed(1));
    let core = world.core();
    let [client, server] = [("client", "45.45.0.1"), ("server", "45.45.0.2")].map(|(name, a)| {
        let host = world.add_host(name);
        world.attach(host, core, &[ip(a)], Link::with_latency(LINK));
        host
    });
    let (here, there): (SocketAddr, SocketAddr) = (at("45.45.0.1:1000"), at("45.45.0.2:80"));
    let connect = || TcpCall::Connect(here, there);
    let run = |world: &mut World| {
        while let Some(next) = world.next_event_time() {
            world.advance(next);
        }
        let events = std::iter::from_fn(|| world.poll_tcp()).map(|d| (d.host, d.event));
        events.collect::<Vec<_>>()
    };
    world.call_tcp(world.now(), client, connect());
    assert_eq!(run(&mut world), [(client, REFUSED)]);
    world.call_tcp(world.now(), server, TcpCall::Listen(there));
    world.call_tcp(world.now(), client, connect());
    let both = [(client, TcpEvent::Connected), (server, TcpEvent::Accepted)];
    assert_eq!(run(&mut world), both);
}

/// A NAT keeps UDP and TCP apart, and a RST ends what it knew of a flow.
#[test]
fn a_reset_ends_the_session_of_the_nat_that_it_crosses() {
    let nat = Nat {
        unsolicited: Unsolicited::Reset,
        ..Nat::new(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
        )
    };
    let mut lab = sim_support::home(nat);
    let call = TcpCall::Connect(at("192.168.1.10:5000"), at("45.45.0.1:80"));
    lab.world.call_tcp(lab.world.now(), lab.alice, call);
    assert!(lab.world.advance(lab.world.now()).is_empty());
    assert_eq!(lab.world.poll_tcp().unwrap().event, REFUSED);
    assert_eq!(lab.world.sessions(lab.router), 0);
}
