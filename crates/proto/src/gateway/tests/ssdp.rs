//! SSDP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use postern_wire::upnp::ssdp::{Message, NotifyKind, Search};

use super::super::Place;
use super::support::Bed;
use crate::Datagram;

fn place() -> Place {
    Place {
        http: Bed::HTTP.parse().unwrap(),
        group: "239.255.255.250:1900".parse().unwrap(),
    }
}

fn search(target: &str, mx: Option<u8>) -> Vec<u8> {
    let search = Search {
        target: target.to_owned(),
        mx,
        host: "239.255.255.250:1900".to_owned(),
        user_agent: String::new(),
    };
    search.to_bytes()
}

/// Sends a search and gives what is answered at once.
fn send(bed: &mut Bed, from: &str, multicast: bool, payload: &[u8]) -> Vec<Message> {
    let own: SocketAddr = "192.168.1.1:1900".parse().unwrap();
    let datagram = Datagram {
        local: if multicast { place().group } else { own },
        remote: from.parse().unwrap(),
        payload,
    };
    let now = bed.now;
    bed.gateway.handle_search(now, place(), datagram);
    sent(bed)
}

fn sent(bed: &mut Bed) -> Vec<Message> {
    let polled = std::iter::from_fn(|| bed.gateway.poll_transmit());
    polled
        .map(|transmit| Message::parse(&transmit.payload).unwrap())
        .collect()
}

fn targets(messages: &[Message]) -> Vec<&str> {
    let responses = messages.iter().map(|message| match message {
        Message::Response(about) => &about.target[..],
        other => panic!("{other:?}"),
    });
    responses.collect()
}

/// What is answered within the seconds of MX.
fn later(bed: &mut Bed, seconds: u64) -> Vec<Message> {
    let mut all = Vec::new();
    for _ in 0..seconds * 10 {
        bed.pass(Duration::from_millis(100));
        all.extend(sent(bed));
    }
    all
}

const HOST: &str = "192.168.1.10:40000";

#[test]
fn a_search_for_everything_is_answered_completely_each_target_once_spread_over_mx() {
    let mut bed = Bed::new();
    let first = send(&mut bed, HOST, true, &search("ssdp:all", Some(3)));
    bed.pass(Duration::from_millis(1500));
    let half = sent(&mut bed);
    let rest = later(&mut bed, 2);
    assert!(!half.is_empty() && !rest.is_empty());
    let all: Vec<_> = [first, half, rest].concat();
    let unique: BTreeSet<_> = targets(&all).into_iter().collect();
    assert_eq!(all.len(), 11);
    assert_eq!(unique.len(), 11);
    let Message::Response(about) = &all[0] else {
        panic!()
    };
    assert_eq!(about.location, "http://192.168.1.1:5000/rootDesc.xml");
    assert!(about.max_age.unwrap() >= 1800);
}

#[test]
fn what_is_asked_for_by_name_is_answered_in_that_version() {
    let mut bed = Bed::new();
    for (target, count) in [
        ("upnp:rootdevice", 1),
        ("urn:schemas-upnp-org:device:InternetGatewayDevice:1", 1),
        ("urn:schemas-upnp-org:device:InternetGatewayDevice:2", 1),
        ("urn:schemas-upnp-org:service:WANIPConnection:1", 1),
        ("urn:schemas-upnp-org:service:WANIPConnection:2", 1),
        ("urn:schemas-upnp-org:service:WANIPConnection:3", 0),
        ("urn:schemas-upnp-org:service:WANPPPConnection:1", 0),
        ("urn:schemas-wifialliance-org:device:WFADevice:1", 0),
    ] {
        let answers = send(&mut bed, HOST, false, &search(target, None));
        assert_eq!(answers.len(), count, "{target}");
        assert!(targets(&answers).iter().all(|answered| *answered == target));
    }
}

#[test]
fn a_search_by_multicast_without_mx_is_not_answered() {
    let mut bed = Bed::new();
    let payload = search("upnp:rootdevice", None);
    assert!(send(&mut bed, HOST, true, &payload).is_empty());
    assert!(later(&mut bed, 6).is_empty());
    assert_eq!(send(&mut bed, HOST, false, &payload).len(), 1);
}

#[test]
fn nobody_outside_is_found_by() {
    let mut bed = Bed::new();
    let payload = search("ssdp:all", Some(1));
    for from in ["45.45.45.1:40000", "192.168.1.10:0"] {
        assert!(send(&mut bed, from, false, &payload).is_empty());
        assert!(later(&mut bed, 2).is_empty());
    }
}

#[test]
fn a_flood_gets_at_most_three_times_its_bytes_back() {
    let mut bed = Bed::new();
    let payload = search("ssdp:all", Some(2));
    let mut back = 0;
    for _ in 0..1000 {
        let answers = send(&mut bed, HOST, true, &payload);
        back += answers
            .iter()
            .map(|a| a.to_bytes(place().group).len())
            .sum::<usize>();
        bed.pass(Duration::from_millis(10));
        let answers = sent(&mut bed);
        back += answers
            .iter()
            .map(|a| a.to_bytes(place().group).len())
            .sum::<usize>();
    }
    let answers = later(&mut bed, 5);
    back += answers
        .iter()
        .map(|a| a.to_bytes(place().group).len())
        .sum::<usize>();
    assert!(
        back <= 3 * 1000 * payload.len(),
        "{back} for {}",
        1000 * payload.len()
    );
    assert!(back > 0);
}

#[test]
fn the_device_announces_itself_and_takes_leave() {
    let mut bed = Bed::new();
    let now = bed.now;
    bed.gateway.announce_device(now, vec![place()]);
    let kinds = |messages: &[Message], wanted: NotifyKind| {
        let is = |m: &&Message| matches!(m, Message::Notify(notify) if notify.kind == wanted);
        messages.iter().filter(is).count()
    };
    assert_eq!(kinds(&sent(&mut bed), NotifyKind::Alive), 11);
    assert_eq!(kinds(&later(&mut bed, 2), NotifyKind::Alive), 22);
    let mut heard = 0;
    for _ in 0..900 {
        bed.pass(Duration::from_secs(1));
        heard += kinds(&sent(&mut bed), NotifyKind::Alive);
    }
    assert_eq!(heard, 11, "again before half of its age");
    bed.gateway.say_goodbye();
    assert_eq!(kinds(&sent(&mut bed), NotifyKind::ByeBye), 33);
}
