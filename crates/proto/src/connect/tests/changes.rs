//! Addresses that come and go under a standing connection.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Two sides whose connection stands on a selected path, and who have left the mailbox.
fn standing() -> Pair {
    let mut pair = Pair::new();
    pair.authenticate();
    pair.run_until(CREATOR, is_connect);
    for side in &mut pair.sides {
        side.handle_connected(pair.now);
    }
    pair.run_for(SECOND * 8);
    for side in [CREATOR, JOINER] {
        assert_eq!(pair.count(side, is_leave), 1);
    }
    pair.events = [Vec::new(), Vec::new()];
    pair
}

fn is_leave(event: &Event) -> bool {
    *event == Event::LeaveMailbox
}

fn is_meeting(event: &Event) -> bool {
    *event == Event::MeetAgain
}

fn is_told(event: &Event) -> bool {
    matches!(event, Event::Tell(PeerMessage::Candidate { .. }))
}

fn is_told_directly(event: &Event) -> bool {
    matches!(event, Event::TellDirectly(PeerMessage::Candidate { .. }))
}

fn host(side: u8, number: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, number, side + 1], 5000))
}

#[test]
fn a_new_address_is_told_over_the_connection_while_it_has_a_path() {
    let mut pair = standing();
    let now = pair.now;
    pair.sides[CREATOR].handle_addresses(now, &[host(0, 1), host(0, 9)]);
    pair.run_for(SECOND * 20);
    assert_eq!(pair.count(CREATOR, is_told_directly), 1);
    assert_eq!(pair.count(CREATOR, is_meeting), 0);
    let lost = |event: &Event| matches!(event, Event::Revoke(_));
    assert_eq!(pair.count(CREATOR, lost), 0, "the path goes on");
}

#[test]
fn an_address_that_goes_takes_its_path_along_at_once() {
    let mut pair = standing();
    let now = pair.now;
    pair.sides[CREATOR].handle_addresses(now, &[host(0, 9)]);
    pair.drain();
    let lost = |event: &Event| matches!(event, Event::Revoke(path) if path.local == host(0, 1));
    assert_eq!(pair.count(CREATOR, lost), 1);
}

#[test]
fn who_has_no_path_left_asks_to_meet_again_and_tells_everything_there() {
    let mut pair = standing();
    pair.open = false;
    pair.introduced = false;
    for side in [CREATOR, JOINER] {
        pair.run_until(side, is_meeting);
        pair.run_for(SECOND);
        assert_eq!(pair.count(side, is_meeting), 1, "once");
    }
    pair.introduced = true;
    for side in &mut pair.sides {
        side.handle_signal(pair.now, RendezvousEvent::Authenticated);
    }
    pair.run_for(SECOND);
    for side in [CREATOR, JOINER] {
        assert_eq!(pair.count(side, is_told), 1);
        assert_eq!(pair.count(side, is_leave), 0);
    }
    pair.open = true;
    pair.run_for(SECOND * 5);
    for side in [CREATOR, JOINER] {
        assert_eq!(pair.count(side, is_leave), 1, "there is a path");
    }
}

#[test]
fn a_meeting_that_comes_to_nothing_is_tried_again_ever_more_rarely() {
    let mut pair = standing();
    pair.open = false;
    let mut times = Vec::new();
    for round in 1..=4 {
        while pair.count(CREATOR, is_meeting) < round {
            assert!(pair.step());
        }
        times.push(pair.now);
        let now = pair.now;
        pair.sides[CREATOR].handle_signalling_lost(now);
    }
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [SECOND / 2, SECOND, SECOND * 2]);
}

#[test]
fn a_meeting_is_left_that_is_not_needed_any_more() {
    let mut pair = standing();
    pair.open = false;
    pair.run_until(CREATOR, is_meeting);
    pair.open = true;
    pair.run_for(SECOND * 3);
    assert_eq!(pair.count(CREATOR, is_meeting), 1);
    assert_eq!(pair.count(CREATOR, is_leave), 1);
    assert_eq!(pair.count(CREATOR, is_told), 0, "nobody was there");
}

#[test]
fn a_network_that_comes_back_after_twelve_seconds_is_found_within_two() {
    let mut pair = standing();
    pair.open = false;
    pair.run_for(SECOND * 12);
    pair.open = true;
    pair.events = [Vec::new(), Vec::new()];
    pair.run_for(SECOND * 2);
    let opened = |event: &Event| matches!(event, Event::OpenPath(_));
    assert_eq!(pair.count(CREATOR, opened), 1);
}

#[test]
fn what_the_peer_tells_over_the_connection_is_a_candidate_as_any_other() {
    let mut pair = standing();
    let candidate = "candidate:1 1 udp 1 192.168.1.77 5000 typ host".to_owned();
    let now = pair.now;
    let before = pair.sides[CREATOR].agent.report().remote.host;
    pair.sides[CREATOR].handle_told(
        now,
        PeerMessage::Candidate {
            candidate,
            mapped: false,
        },
    );
    let after = pair.sides[CREATOR].agent.report().remote.host;
    assert_eq!((before, after), (1, 2));
}
