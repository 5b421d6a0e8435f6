//! Links, time and what can be seen of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod sim_support;

use postern_lab::sim::{DropReason, HostId, Link, Nat, Packet, Pipe, World, seed};
use sim_support::{at, exchange, home, ip, masquerade};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// Two hosts on the core; all of the link's qualities are on the sender's way up.
fn two_hosts(pipe: Pipe, number: u64) -> (World, HostId) {
    let mut world = World::new(Instant::now(), seed(number));
    let core = world.core();
    let alice = world.add_host("alice");
    let bob = world.add_host("bob");
    let link = Link {
        up: pipe,
        down: Pipe::default(),
    };
    world.attach(alice, core, &[ip("45.45.0.1")], link);
    world.attach(bob, core, &[ip("45.45.0.2")], Link::default());
    (world, alice)
}

/// Sends numbered datagrams, one each `gap`; returns number and delay of each arrival.
fn stream(world: &mut World, host: HostId, count: u32, gap: Duration) -> Vec<(u32, Duration)> {
    let start = world.now();
    for number in 0..count {
        let payload = number.to_be_bytes();
        let now = start + gap * number;
        world.send(now, host, at("45.45.0.1:1"), at("45.45.0.2:1"), &payload);
    }
    let arrived = world.advance(start + Duration::from_secs(3600));
    arrived
        .iter()
        .map(|delivery| {
            let number = u32::from_be_bytes(delivery.payload[..].try_into().unwrap());
            (number, delivery.at - (start + gap * number))
        })
        .collect()
}

#[test]
fn a_world_can_be_moved_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<World>();
}

#[test]
fn latency_is_exact_and_adds_up() {
    let mut world = World::new(Instant::now(), seed(1));
    let core = world.core();
    let (alice, bob) = (world.add_host("alice"), world.add_host("bob"));
    world.attach(alice, core, &[ip("45.45.0.1")], Link::with_latency(MS * 10));
    world.attach(bob, core, &[ip("45.45.0.2")], Link::with_latency(MS * 5));
    let start = world.now();
    world.send(start, alice, at("45.45.0.1:1"), at("45.45.0.2:2"), b"hello");
    assert_eq!(world.next_event_time(), Some(start + MS * 10));
    assert!(world.advance(start + MS * 14).is_empty());
    let arrived = world.advance(start + MS * 60);
    assert_eq!(arrived[0].at, start + MS * 15);
    assert_eq!(arrived[0].host, bob);
    assert_eq!(arrived[0].payload, b"hello");
    assert_eq!(world.now(), start + MS * 60);
}

#[test]
fn loss_is_as_frequent_as_asked() {
    let pipe = Pipe {
        loss: 0.1,
        ..Pipe::default()
    };
    let (mut world, alice) = two_hosts(pipe, 3);
    let arrived = stream(&mut world, alice, 20_000, MS).len();
    assert!((17_800..=18_200).contains(&arrived), "{arrived} of 20,000");
    let counters = world.host_counters(alice);
    assert_eq!(counters.sent, 20_000);
    assert_eq!(counters.dropped_total(), 20_000 - arrived as u64);
}

#[test]
fn jitter_spreads_delays_and_keeps_the_order() {
    let pipe = Pipe {
        latency: MS * 20,
        jitter: MS * 10,
        ..Pipe::default()
    };
    let (mut world, alice) = two_hosts(pipe, 4);
    let arrived = stream(&mut world, alice, 2_000, MS * 20);
    assert!(arrived.is_sorted_by_key(|&(number, _)| number));
    let delays = || arrived.iter().map(|&(_, delay)| delay);
    assert!(delays().min().unwrap() >= MS * 20);
    assert!(delays().min().unwrap() < MS * 21);
    assert!(delays().max().unwrap() < MS * 30);
    let mean = delays().sum::<Duration>() / 2_000;
    assert!((24..=25).contains(&mean.as_millis()), "{mean:?}");
}

#[test]
fn jitter_changes_the_order_only_where_reordering_is_set() {
    let in_order = |reordering| {
        let pipe = Pipe {
            jitter: MS * 10,
            reordering,
            ..Pipe::default()
        };
        let (mut world, alice) = two_hosts(pipe, 5);
        stream(&mut world, alice, 100, MS).is_sorted_by_key(|&(number, _)| number)
    };
    assert!(in_order(false));
    assert!(!in_order(true));
}

#[test]
fn duplication_delivers_twice() {
    let pipe = Pipe {
        duplication: 1.0,
        ..Pipe::default()
    };
    let (mut world, alice) = two_hosts(pipe, 6);
    assert_eq!(stream(&mut world, alice, 10, MS).len(), 20);
}

#[test]
fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
    let pipe = Pipe {
        rate: Some(32_000),
        queue: MS * 5,
        ..Pipe::default()
    };
    let (mut world, alice) = two_hosts(pipe, 7);
    let arrived = stream(&mut world, alice, 10, Duration::ZERO);
    let delays: Vec<_> = arrived.iter().map(|(_, delay)| delay.as_millis()).collect();
    assert_eq!(delays, [1, 2, 3, 4, 5, 6], "4 + 28 bytes a millisecond");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let trace = |number| {
        let pipe = Pipe {
            jitter: MS * 10,
            loss: 0.2,
            ..Pipe::default()
        };
        let (mut world, alice) = two_hosts(pipe, number);
        world.trace(|payload| format!("{payload:?}"));
        stream(&mut world, alice, 100, MS);
        world.trace_lines().to_vec()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn the_luck_of_one_link_does_not_depend_on_the_traffic_of_another() {
    let arrivals = |chatter: bool| {
        let pipe = Pipe {
            loss: 0.5,
            ..Pipe::default()
        };
        let (mut world, alice) = two_hosts(pipe, 8);
        let core = world.core();
        let carol = world.add_host("carol");
        let lossy = Link::symmetric(pipe);
        world.attach(carol, core, &[ip("45.45.0.3")], lossy);
        if chatter {
            let now = world.now();
            world.send(now, carol, at("45.45.0.3:1"), at("45.45.0.9:1"), b"lost");
        }
        stream(&mut world, alice, 100, MS)
    };
    assert_eq!(arrivals(true), arrivals(false));
}

#[test]
fn a_low_time_to_live_passes_the_own_router_and_dies_in_the_core() {
    let mut lab = home(Nat::default());
    let packet = Packet {
        ttl: 2,
        ..Packet::udp(at("192.168.1.10:5000"), at("45.45.0.1:1"), vec![0])
    };
    let now = lab.world.now();
    lab.world.send_packet(now, lab.alice, packet);
    assert!(lab.world.advance(now + MS).is_empty());
    let opened = [(at("192.168.1.10:5000"), at("45.45.1.1:5000"))];
    assert_eq!(lab.world.mappings(lab.router), opened);
}

#[test]
fn a_private_address_of_another_home_is_unreachable() {
    let mut lab = home(Nat::default());
    let arrived = lab.send(lab.alice, "192.168.1.10:5000", at("10.0.0.7:1"));
    assert!(arrived.is_empty());
}

#[test]
fn neighbours_talk_without_their_router() {
    let mut lab = home(Nat::default());
    let arrived = lab.send(lab.alice, "192.168.1.10:5000", at("192.168.1.11:1"));
    assert_eq!(arrived[0].host, lab.bob);
    assert_eq!(lab.world.router_counters(lab.router).forwarded, 0);
}

#[test]
fn a_host_roams_to_another_home() {
    let mut lab = home(Nat::default());
    let core = lab.world.core();
    let cafe = masquerade("45.45.2.1", Nat::default());
    let cafe = lab.world.add_router("cafe", core, &cafe);
    let wifi = lab.world.inside(cafe);
    let carol = lab.world.add_host("carol");
    let address = [ip("192.168.1.20")];
    let before = lab.world.attach(carol, lab.lan, &address, Link::default());
    let seen = |world: &mut World| {
        exchange(world, carol, at("192.168.1.20:1"), at("45.45.0.1:1"))[0]
            .remote
            .ip()
    };
    assert_eq!(seen(&mut lab.world), ip("45.45.1.1"));
    lab.world.roam(before, wifi, &address, Link::default());
    assert_eq!(seen(&mut lab.world), ip("45.45.2.1"));
    assert_eq!(lab.world.addresses(carol), address);
}

#[test]
fn an_address_that_a_host_has_left_can_be_another_ones() {
    let mut lab = home(Nat::default());
    let address = [ip("192.168.1.20")];
    let carol = lab.world.add_host("carol");
    let before = lab.world.attach(carol, lab.lan, &address, Link::default());
    let lan = lab.lan;
    lab.world
        .roam(before, lan, &[ip("192.168.1.21")], Link::default());
    let mallory = lab.world.add_host("mallory");
    lab.world.attach(mallory, lan, &address, Link::default());
    let start = lab.world.now();
    let (from, to) = (at("192.168.1.10:1"), at("192.168.1.20:1"));
    lab.world.send(start, lab.alice, from, to, b"for carol");
    let arrived = lab.world.advance(start + MS * 10);
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].host, mallory);
}

#[test]
fn a_router_comes_back_with_another_address_and_no_mappings() {
    let mut lab = home(Nat::default());
    let mapped = lab.mapped(5000, "45.45.0.1:3478");
    let router = lab.router;
    lab.world.renumber(router, &[ip("45.45.1.77")]);
    assert!(!lab.reaches("45.45.0.1:3478", mapped));
    let again = lab.mapped(5000, "45.45.0.1:3478");
    assert_eq!(again.ip(), ip("45.45.1.77"));
    assert!(lab.reaches("45.45.0.1:3478", again));
}

#[test]
fn a_source_that_the_host_does_not_have_is_dropped_and_counted() {
    let mut lab = home(Nat::default());
    lab.send(lab.alice, "192.168.1.99:5000", at("45.45.0.1:1"));
    let dropped = lab.world.host_counters(lab.alice).dropped;
    assert_eq!(dropped.get(&DropReason::NoSuchSource), Some(&1));
}

#[test]
fn a_trace_reads_like_a_sequence_diagram() {
    let mut lab = home(Nat::default());
    let link = Link::with_latency(MS * 15);
    let outer = lab.world.outer(lab.router);
    lab.world.set_link(outer, link);
    lab.world
        .trace(|payload| format!("{} bytes", payload.len()));
    let mapped = lab.mapped(5000, "45.45.0.1:3478");
    lab.reaches("45.45.0.1:3478", mapped);
    lab.reaches("45.45.0.2:3478", mapped);
    insta::assert_snapshot!(lab.world.trace_lines().join("\n"));
}
