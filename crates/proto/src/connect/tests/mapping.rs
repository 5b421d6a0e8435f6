//! A port of a gateway, and what the peer is told of it.

use postern_wire::transport::Transport;

use super::*;

const EXTERNAL: ([u8; 4], u16) = ([45, 45, 2, 2], 9000);

/// What a side has told, hello and host candidates left out.
fn told(pair: &mut Pair, side: usize) -> Vec<PeerMessage> {
    pair.drain();
    let mut told = Vec::new();
    for event in &pair.events[side] {
        if let Event::Tell(message) = event
            && !matches!(message, PeerMessage::Hello(_))
        {
            told.push(message.clone());
        }
    }
    told
}

fn greet(pair: &mut Pair, side: usize) {
    let welcome = RendezvousEvent::Welcome { stun: vec![] };
    pair.sides[side].handle_signal(pair.now, welcome);
}

#[test]
fn the_word_that_there_are_no_more_candidates_waits_for_a_port_of_a_gateway() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.sides[JOINER].expect_mapping(now, Transport::Udp);
    greet(&mut pair, JOINER);
    assert_eq!(told(&mut pair, JOINER), []);
    let host: SocketAddr = ([192, 168, 1, 2], 5000).into();
    let mapping = Some((host, EXTERNAL.into()));
    pair.sides[JOINER].handle_mapping(now, Transport::Udp, mapping);
    let told = told(&mut pair, JOINER);
    let [
        PeerMessage::Candidate { candidate, mapped },
        PeerMessage::EndOfCandidates,
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert!(mapped, "{candidate}");
    assert!(
        candidate.contains(" 45.45.2.2 9000 typ srflx "),
        "{candidate}"
    );
}

#[test]
fn it_waits_neither_for_a_gateway_that_opens_none_nor_for_ever() {
    let mut pair = Pair::new();
    let now = pair.now;
    for side in [CREATOR, JOINER] {
        pair.sides[side].expect_mapping(now, Transport::Udp);
        greet(&mut pair, side);
    }
    pair.sides[CREATOR].handle_mapping(now, Transport::Udp, None);
    assert_eq!(told(&mut pair, CREATOR), [PeerMessage::EndOfCandidates]);
    let just_before = now + limits::MAPPING - Duration::from_millis(1);
    pair.sides[JOINER].handle_timeout(just_before);
    assert_eq!(told(&mut pair, JOINER), []);
    assert_eq!(
        pair.sides[JOINER].poll_timeout(),
        Some(now + limits::MAPPING)
    );
    pair.sides[JOINER].handle_timeout(now + limits::MAPPING);
    assert_eq!(told(&mut pair, JOINER), [PeerMessage::EndOfCandidates]);
}

#[test]
fn it_waits_for_both_transports_if_both_are_asked_for() {
    let mut pair = Pair::new();
    let now = pair.now;
    greet_expecting_both(&mut pair);
    pair.sides[JOINER].handle_mapping(now, Transport::Udp, None);
    assert_eq!(told(&mut pair, JOINER), []);
    pair.sides[JOINER].handle_mapping(now, Transport::Tcp, None);
    assert_eq!(told(&mut pair, JOINER), [PeerMessage::EndOfCandidates]);
}

fn greet_expecting_both(pair: &mut Pair) {
    for transport in Transport::ALL {
        pair.sides[JOINER].expect_mapping(pair.now, transport);
    }
    greet(pair, JOINER);
}

#[test]
fn a_port_that_comes_late_or_moves_is_told_nonetheless() {
    let mut pair = Pair::new();
    let now = pair.now;
    greet(&mut pair, JOINER);
    let host: SocketAddr = ([192, 168, 1, 2], 5000).into();
    for port in [9000, 9001] {
        let mapping = Some((host, ([45, 45, 2, 2], port).into()));
        pair.sides[JOINER].handle_mapping(now, Transport::Udp, mapping);
    }
    let told = told(&mut pair, JOINER);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], PeerMessage::EndOfCandidates);
}

#[test]
fn a_connection_does_not_wait_for_it_and_the_mailbox_does() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.sides[CREATOR].expect_mapping(now, Transport::Udp);
    pair.authenticate();
    while pair.sides[CREATOR].agent.selected().is_none() {
        assert!(pair.step());
    }
    assert!(pair.elapsed() < Duration::from_secs(1));
    for side in &mut pair.sides {
        side.handle_connected(pair.now);
    }
    pair.drain();
    assert!(!pair.events[JOINER].contains(&Event::LeaveMailbox));
    pair.sides[CREATOR].handle_mapping(pair.now, Transport::Udp, None);
    while !pair.events[JOINER].contains(&Event::LeaveMailbox) {
        assert!(pair.step());
    }
    assert!(pair.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_port_that_has_moved_or_is_gone_is_not_told_when_the_two_meet_again() {
    let mut pair = Pair::new();
    let now = pair.now;
    let host: SocketAddr = ([192, 168, 1, 2], 5000).into();
    let at = |port| SocketAddr::from(([45, 45, 2, 2], port));
    let side = &mut pair.sides[JOINER];
    let known = |side: &Connector, port| side.own.iter().any(|own| own.address == at(port));
    for (mapping, expected) in [
        (Some(9000), [true, false]),
        (Some(9000), [true, false]),
        (Some(9001), [false, true]),
        (None, [false, false]),
        (Some(9000), [true, false]),
    ] {
        let mapping = mapping.map(|port| (host, at(port)));
        side.handle_mapping(now, Transport::Udp, mapping);
        assert_eq!([known(side, 9000), known(side, 9001)], expected);
    }
}
