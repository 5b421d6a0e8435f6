//! The start that both sides make together, and primers.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic on overflow and looks at one kind of event"
)]

use std::time::Duration;

use super::super::*;
use super::net::{Nat, Pair, at};
use super::{ms, secs};
use crate::punch::{Message, Technique};

const REFLEXIVE: &str = "45.45.2.2:50000";

fn homes(config: Config) -> Pair {
    Pair::behind_with(
        config,
        Nat::at("45.45.1.1:40000"),
        Nat::at("45.45.2.2:50000"),
    )
}

fn punching() -> Config {
    Config {
        punch: true,
        ..Config::default()
    }
}

/// The primers of `a`, with the time since `start`.
fn primers(pair: &Pair, start: Duration) -> Vec<(Duration, u8)> {
    let limited = pair
        .a
        .events
        .iter()
        .filter_map(|(time, event)| match event {
            Event::SendLimited { transmit, ttl } if transmit.remote == at(REFLEXIVE) => {
                Some((*time - start, *ttl))
            }
            _ => None,
        });
    limited.collect()
}

#[test]
fn the_earlier_side_opens_its_mapping_and_holds_its_checks_until_the_peer_has_begun() {
    let mut pair = homes(punching());
    let start = pair.elapsed();
    pair.link_a();
    pair.run(ms(400));
    assert_eq!(
        primers(&pair, start),
        [(ms(0), 2), (ms(20), 3), (ms(40), 4)]
    );
    assert_eq!(pair.a.sent_to(REFLEXIVE), []);
    let began = Event::TellPeer(Message::Began);
    assert_eq!(pair.a.first(|event| *event == began), Some(start));
    pair.a.agent.handle_punch(pair.now, Message::Began);
    pair.drain();
    assert_eq!(pair.a.sent_to(REFLEXIVE), [start + ms(400)]);
}

#[test]
fn the_later_side_sends_its_check_at_once() {
    let mut pair = homes(punching());
    pair.a.agent.handle_punch(pair.now, Message::Began);
    let start = pair.elapsed();
    pair.link_a();
    pair.run(ms(40));
    assert!(!pair.a.sent_to(REFLEXIVE).is_empty());
    assert_eq!(primers(&pair, start), []);
}

#[test]
fn a_peer_that_says_nothing_is_waited_for_a_second_and_a_tenth() {
    let mut pair = homes(punching());
    let start = pair.elapsed();
    pair.link_a();
    pair.run(secs(2));
    assert_eq!(pair.a.sent_to(REFLEXIVE)[0], start + ms(1100));
}

#[test]
fn a_check_of_the_peer_says_that_it_has_begun() {
    let mut pair = homes(punching());
    pair.link_a();
    pair.run(ms(200));
    let start = pair.elapsed();
    pair.b.agent.handle_punch(pair.now, Message::Began);
    pair.link_b();
    // Primers leave by another way than this test's wire: the mapping of `a` is opened by hand.
    pair.open_a(REFLEXIVE);
    pair.run(ms(100));
    let first = pair.a.sent_to(REFLEXIVE)[0];
    assert!(first <= start + ms(60), "{first:?}");
}

#[test]
fn neither_a_standard_peer_nor_one_without_primers_is_waited_for() {
    let disabled = [Technique::Primer].into_iter().collect();
    let without = Config {
        disabled,
        ..punching()
    };
    for config in [Config::default(), without] {
        let mut pair = homes(config);
        let start = pair.elapsed();
        pair.link_a();
        pair.run(ms(40));
        assert!(!pair.a.sent_to(REFLEXIVE).is_empty());
        assert_eq!(primers(&pair, start), []);
        let began = Event::TellPeer(Message::Began);
        assert_eq!(pair.a.first(|event| *event == began), None);
    }
}
