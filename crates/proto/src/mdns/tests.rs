//! Nodes on one cable, and a clock.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::mdns::{HostName, Kind, Message, PORT, Question, Record, TTL};

use super::{Event, Link, MAX_ASKED, MAX_PUBLISHED, Node};
use crate::{Datagram, Transmit, Verdict};

const A: &str = "192.168.1.2";
const B: &str = "192.168.1.3";
const GROUP: &str = "224.0.0.251:5353";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn name(number: u8) -> HostName {
    HostName::random([number; 16])
}

fn link(own: &str, prefix: u8, interface: u32) -> Link {
    Link {
        local: SocketAddr::new(ip(own), PORT),
        interface,
        networks: vec![(ip(own), prefix)],
    }
}

fn home(own: &str) -> Node {
    Node::new(vec![link(own, 24, 1)])
}

#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sent(node: &mut Node) -> Vec<Transmit> {
    std::iter::from_fn(|| node.poll_transmit()).collect()
}

fn events(node: &mut Node) -> Vec<Event> {
    std::iter::from_fn(|| node.poll_event()).collect()
}

fn resolved(name: HostName, address: Option<&str>) -> Event {
    let address = address.map(ip);
    Event::Resolved { name, address }
}

fn told(name: HostName, address: &str) -> Message {
    Message::response(Record {
        name,
        address: ip(address),
        ttl: TTL,
    })
}

/// A message arrives at the node whose address is `own`.
fn hear(node: &mut Node, now: Instant, own: &str, from: &str, message: &Message) -> Verdict {
    let datagram = Datagram {
        local: SocketAddr::new(ip(own), PORT),
        remote: at(from),
        payload: &message.to_bytes(),
    };
    node.handle_input(now, datagram)
}

/// What one has sent to everybody arrives at the other.
fn carry(from: &mut Node, to: &mut Node, now: Instant, own: &str) {
    for transmit in sent(from) {
        assert_eq!(transmit.remote, at(GROUP));
        let datagram = Datagram {
            local: SocketAddr::new(ip(own), PORT),
            remote: transmit.local,
            payload: &transmit.payload,
        };
        to.handle_input(now, datagram);
    }
}

#[test]
fn a_name_of_one_is_found_by_the_other() {
    let now = start();
    let (mut a, mut b) = (home(A), home(B));
    assert!(b.publish(now, name(1), ip(B), 1));
    assert_eq!(sent(&mut b).len(), 1, "it is announced");
    let later = now + ms(5_000);
    b.handle_timeout(now + ms(1_000));
    assert_eq!(sent(&mut b).len(), 1, "and once more");
    a.ask(later, name(1));
    a.ask(later, name(1));
    carry(&mut a, &mut b, later, B);
    carry(&mut b, &mut a, later, A);
    assert_eq!(events(&mut a), [resolved(name(1), Some(B))]);
    assert_eq!((a.poll_timeout(), b.poll_timeout()), (None, None));
}

#[test]
fn an_announcement_answers_a_question_that_was_not_heard() {
    let now = start();
    let (mut a, mut b) = (home(A), home(B));
    a.ask(now, name(1));
    sent(&mut a);
    b.publish(now + ms(10), name(1), ip(B), 1);
    carry(&mut b, &mut a, now, A);
    assert_eq!(events(&mut a), [resolved(name(1), Some(B))]);
}

#[test]
fn a_name_that_nobody_has_is_asked_for_three_times_on_every_link_and_given_up() {
    let began = start();
    let v6 = Link {
        networks: vec![(ip("fe80::2"), 64), (ip("fd00::2"), 64)],
        ..link("fe80::2", 64, 7)
    };
    let mut node = Node::new(vec![link(A, 24, 7), v6]);
    node.ask(began, name(1));
    let mut times = Vec::new();
    let mut now = began;
    loop {
        for transmit in sent(&mut node) {
            assert!(!Message::parse(&transmit.payload).unwrap().is_response);
            times.push((transmit.remote.to_string(), now - began));
        }
        let Some(next) = node.poll_timeout() else {
            break;
        };
        now = next;
        node.handle_timeout(now);
    }
    let both = |time| {
        let groups = [GROUP, "[ff02::fb%7]:5353"];
        groups.map(|group| (group.to_owned(), ms(time)))
    };
    assert_eq!(times, [both(0), both(1_000), both(3_000)].concat());
    assert_eq!(now - began, ms(5_000));
    assert_eq!(events(&mut node), [resolved(name(1), None)]);
}

#[test]
fn answers_count_from_hosts_of_the_link_and_from_their_port_alone() {
    let now = start();
    let mut node = home(A);
    node.ask(now, name(1));
    let answer = told(name(1), "192.168.1.9");
    for from in ["192.168.2.3:5353", "10.0.0.1:5353", "192.168.1.3:5354"] {
        let verdict = hear(&mut node, now, A, from, &answer);
        assert_eq!(verdict, Verdict::Consumed);
    }
    // Who has not been asked for, and who takes it back.
    hear(&mut node, now, A, "192.168.1.3:5353", &told(name(2), B));
    let mut farewell = told(name(1), B);
    farewell.records[0].ttl = 0;
    hear(&mut node, now, A, "192.168.1.3:5353", &farewell);
    assert_eq!(events(&mut node), []);
    let elsewhere = hear(&mut node, now, B, "192.168.1.3:5353", &answer);
    assert_eq!(elsewhere, Verdict::NotMine);
    hear(&mut node, now, A, "192.168.1.3:5353", &answer);
    let found = [resolved(name(1), Some("192.168.1.9"))];
    assert_eq!(events(&mut node), found);
}

#[test]
fn a_name_of_several_addresses_is_ignored() {
    let now = start();
    let mut node = home(A);
    node.ask(now, name(1));
    let mut answer = told(name(1), B);
    answer.records.extend(told(name(1), "fd00::3").records);
    hear(&mut node, now, A, "192.168.1.3:5353", &answer);
    assert_eq!(events(&mut node), [resolved(name(1), None)]);
}

fn asks(kind: Kind) -> Message {
    let name = name(1);
    Message::query([Question { name, kind }])
}

#[test]
fn everybody_is_told_once_a_second_and_who_asks_meanwhile_alone() {
    let now = start();
    let mut node = home(A);
    node.publish(now, name(1), ip(A), 1);
    assert_eq!(sent(&mut node)[0].remote, at(GROUP));
    let peer = "192.168.1.3:5353";
    let mut answered = |time, question: &Message| -> Vec<SocketAddr> {
        let now = now + ms(time);
        node.handle_timeout(now);
        sent(&mut node);
        hear(&mut node, now, A, peer, question);
        let answers = sent(&mut node);
        answers.iter().map(|answer| answer.remote).collect()
    };
    assert_eq!(answered(999, &asks(Kind::V4)), [at(peer)]);
    assert_eq!(answered(1_000, &asks(Kind::V4)), [at(peer)]);
    assert_eq!(answered(2_000, &asks(Kind::Any)), [at(GROUP)]);
    assert_eq!(answered(2_100, &asks(Kind::V4)), [at(peer)]);
    assert_eq!(answered(9_000, &asks(Kind::V6)), []);
    let mut knows = asks(Kind::V4);
    knows.records = told(name(1), A).records;
    assert_eq!(answered(9_000, &knows), []);
    knows.records[0].ttl = TTL / 2 - 1;
    assert_eq!(answered(9_000, &knows), [at(GROUP)]);
}

#[test]
fn a_program_that_knows_unicast_alone_gets_its_number_and_its_question_back() {
    let now = start();
    let mut node = home(A);
    node.publish(now, name(1), ip(A), 1);
    sent(&mut node);
    let mut question = asks(Kind::V4);
    question.id = 4711;
    hear(&mut node, now, A, "192.168.1.3:40000", &question);
    let answer = sent(&mut node).remove(0);
    assert_eq!(answer.remote, at("192.168.1.3:40000"));
    let message = Message::parse(&answer.payload).unwrap();
    assert_eq!(
        (message.id, message.questions),
        (4711, question.questions.clone())
    );
    assert_eq!(message.records[0].ttl, 10);
    hear(&mut node, now, A, "10.0.0.1:40000", &question);
    assert_eq!(sent(&mut node), []);
}

#[test]
fn an_address_is_told_on_its_own_links_alone_and_taken_back_there() {
    let now = start();
    let other = link("10.0.0.2", 24, 2);
    let mut node = Node::new(vec![link(A, 24, 1), link("fe80::2", 64, 1), other]);
    node.publish(now, name(1), ip(A), 1);
    let locals = |sent: Vec<Transmit>| -> Vec<IpAddr> {
        let links = sent.iter().map(|transmit| transmit.local.ip());
        links.collect()
    };
    assert_eq!(locals(sent(&mut node)), [ip(A), ip("fe80::2")]);
    hear(&mut node, now, "10.0.0.2", "10.0.0.3:5353", &asks(Kind::V4));
    assert_eq!(sent(&mut node), []);
    node.withdraw();
    let farewells = sent(&mut node);
    for farewell in &farewells {
        let message = Message::parse(&farewell.payload).unwrap();
        assert_eq!(message.records[0].ttl, 0);
    }
    assert_eq!(locals(farewells), [ip(A), ip("fe80::2")]);
    hear(&mut node, now, A, "192.168.1.3:5353", &asks(Kind::V4));
    assert_eq!((sent(&mut node), node.poll_timeout()), (vec![], None));
}

#[test]
fn names_are_bounded() {
    let now = start();
    let mut node = home(A);
    for number in 0..=u8::MAX {
        node.ask(now, name(number));
        let published = node.publish(now, name(number), ip(A), 1);
        assert_eq!(published, usize::from(number) < MAX_PUBLISHED);
    }
    assert_eq!(events(&mut node).len(), 256 - MAX_ASKED);
    assert_eq!(sent(&mut node).len(), MAX_ASKED + MAX_PUBLISHED);
}
