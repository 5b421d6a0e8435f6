//! Where UDP is blocked, or all but TCP to port 443, in the simulated internet.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use postern_lab::sim::matrix::{End, homes, run, strictest};
use postern_lab::sim::scenario::{Meeting, Outlet, TwoHomes, describe};
use postern_lab::sim::{Nat, Timeouts, seed};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Ordinary NATs that let out no more than this; both peers have a relay and look for TCP.
fn letting_out(outlets: [Outlet; 2]) -> TwoHomes {
    let mut homes = TwoHomes {
        relay: true,
        tcp: true,
        ..homes(Nat::default(), Nat::default())
    };
    for (home, outlet) in homes.homes.iter_mut().zip(outlets) {
        home.outlet = outlet;
    }
    homes
}

fn assert_ends(homes: &TwoHomes, expected: End) {
    for number in 0..10 {
        let mut meeting = Meeting::new(homes, Instant::now(), seed(number));
        meeting.world().trace(describe);
        let outcome = meeting.run(SECOND * 60);
        let mut story = meeting.world().trace_lines().join("\n");
        write!(story, "\n{outcome:?}").unwrap();
        assert!(outcome.is_connected(), "seed {number}\n{story}");
        assert!(meeting.carries_data(), "seed {number}\n{story}");
        assert_eq!(run(homes, number).end(), expected, "seed {number}\n{story}");
    }
}

#[test]
fn without_udp_two_peers_connect_by_simultaneous_open() {
    assert_ends(&letting_out([Outlet::NoUdp, Outlet::All]), End::Tcp);
    assert_ends(&letting_out([Outlet::NoUdp, Outlet::NoUdp]), End::Tcp);
}

#[test]
fn with_port_443_alone_they_meet_at_the_relay_over_tcp() {
    assert_ends(&letting_out([Outlet::Https, Outlet::All]), End::Relayed);
    assert_ends(&letting_out([Outlet::Https, Outlet::Https]), End::Relayed);
}

#[test]
fn with_nothing_but_a_proxy_they_meet_at_the_relay_through_it() {
    assert_ends(&letting_out([Outlet::All, Outlet::Proxy]), End::Relayed);
    assert_ends(&letting_out([Outlet::Proxy, Outlet::Proxy]), End::Relayed);
}

#[test]
fn without_udp_and_without_a_relay_or_tcp_there_is_no_path() {
    let homes = TwoHomes {
        relay: false,
        tcp: false,
        ..letting_out([Outlet::NoUdp, Outlet::All])
    };
    assert_eq!(run(&homes, 1).end(), End::Apart);
}

#[test]
fn the_relay_is_there_at_once_and_makes_room_for_a_path_that_was_punched() {
    let homes = TwoHomes {
        relay: true,
        ..homes(Nat::default(), strictest())
    };
    let mut meeting = Meeting::new(&homes, Instant::now(), seed(1));
    let outcome = meeting.run(SECOND * 60);
    let first = outcome.both_valid_after().unwrap();
    assert!(first <= Duration::from_millis(200), "{first:?}");
    let selected = outcome.sides.map(|side| side.selected.unwrap());
    for (side, path) in selected.iter().enumerate() {
        let technique = meeting.agent(side).technique(path);
        assert_eq!(technique.as_str(), "birthday", "{path:?}");
    }
    assert!(meeting.agrees_on_the_path());
}

/// Carriers end mappings after 50 to 75 s even in full use; the peers find each other again.
#[test]
fn a_path_through_mappings_that_live_for_a_minute_is_found_again_each_time() {
    let brief = Nat {
        timeouts: Timeouts {
            lifetime: Some(SECOND * 60),
            ..Timeouts::default()
        },
        ..Nat::default()
    };
    let homes = homes(brief, Nat::default());
    let mut meeting = Meeting::new(&homes, Instant::now(), seed(1));
    assert!(meeting.run(SECOND * 20).is_connected());
    for minute in 0..10 {
        meeting.run_on(SECOND * 60);
        assert!(meeting.carries_data(), "minute {minute}");
    }
}
