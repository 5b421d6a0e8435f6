//! Consent, its loss and what follows.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test may panic on overflow"
)]

use super::super::*;
use super::net::{Nat, Pair, at};
use super::{ms, secs};

fn connected() -> Pair {
    let mut pair = Pair::public();
    pair.link();
    pair.run_until_selected();
    pair
}

#[test]
fn consent_keeps_a_connection_for_an_hour_with_a_check_every_four_to_six_seconds() {
    let mut pair = connected();
    let before = pair.a.sent.len();
    pair.run(secs(3600));
    assert_eq!(pair.a.lost_at(), None);
    // One request and one answer to the other's request, every five seconds.
    let sent = pair.a.sent.len() - before;
    assert!((1300..1600).contains(&sent), "{sent}");
}

#[test]
fn thirty_seconds_of_silence_end_consent() {
    let mut pair = connected();
    pair.run(secs(60));
    let cut = pair.elapsed();
    pair.cut = Box::new(|_, _, _| true);
    pair.run(secs(31));
    for peer in [&pair.a, &pair.b] {
        let lost = peer.lost_at().unwrap();
        assert!(lost > cut + secs(23) && lost <= cut + secs(31), "{lost:?}");
        assert!(peer.agent.selected().is_none());
    }
}

#[test]
fn a_lost_path_is_tried_again_and_failure_follows_at_the_end_of_patience() {
    let mut pair = connected();
    pair.cut = Box::new(|_, _, _| true);
    pair.run(secs(100));
    let lost = pair.a.lost_at().unwrap();
    let failed = pair.a.failed_at().unwrap();
    // Checks go on to the end, and the last one has its chance.
    let end = lost + ms(39_500);
    assert!(failed >= end && failed <= end + secs(2), "{failed:?}");
    let sent = pair.a.sent.len();
    pair.run(secs(100));
    assert_eq!(pair.a.sent.len(), sent, "a failed agent is silent");
}

#[test]
fn two_homes_find_each_other_again_after_a_router_has_rebooted() {
    let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
    pair.link();
    pair.run_until_selected();
    pair.run(secs(10));
    pair.a.nat.reboot();
    pair.run(secs(60));
    let kinds: Vec<_> = pair.a.events.iter().map(|(_, event)| event).collect();
    let lost = kinds.iter().position(|e| matches!(e, Event::Lost(_)));
    let again = kinds.iter().rposition(|e| matches!(e, Event::Selected(_)));
    assert!(lost.is_some() && again > lost);
    assert!(pair.a.agent.selected().is_some() && pair.b.agent.selected().is_some());
}

#[test]
fn a_peer_that_gave_up_its_first_choice_is_followed() {
    let mut pair = Pair::new();
    pair.host_a("45.45.1.1:1000");
    pair.host_a("45.45.1.9:1000");
    pair.host_b("45.45.2.2:2000");
    let best = at("45.45.1.1:1000");
    // The nomination arrives, its answer does not.
    pair.cut = Box::new(move |at, _, to| at >= ms(85) && to == best);
    pair.link();
    pair.run(ms(200));
    assert_eq!(pair.b.agent.selected().map(|path| path.remote), Some(best));
    pair.run(secs(8));
    let other = Some(at("45.45.1.9:1000"));
    assert_eq!(pair.a.agent.selected().map(|path| path.local), other);
    assert_eq!(pair.b.agent.selected().map(|path| path.remote), other);
}

#[test]
fn an_outage_of_forty_seconds_ends_with_the_same_path_selected_by_both() {
    for begin in (10_000..16_000).step_by(97).map(ms) {
        let mut pair = Pair::behind(Nat::at("45.45.1.1:40000"), Nat::at("45.45.2.2:50000"));
        pair.cut = Box::new(move |at, _, _| at >= begin && at < begin + secs(40));
        pair.link();
        pair.run(secs(100));
        for peer in [&pair.a, &pair.b] {
            assert!(peer.lost_at().is_some() && peer.failed_at().is_none());
            assert!(peer.agent.selected().is_some(), "{begin:?}");
        }
    }
}
