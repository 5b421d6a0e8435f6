//! How soon two peers behind endpoint-independent NATs have a path, whoever begins first.
#![expect(clippy::print_stdout, reason = "a test prints what it has measured")]

use postern_lab::sim::matrix::{Cell, homes};
use postern_lab::sim::scenario::{Signalling, TwoHomes};
use postern_lab::sim::{Nat, Unsolicited};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// Up to a second later than the other side.
const STAGGERS: [u32; 8] = [0, 10, 29, 31, 60, 100, 400, 1000];

/// The times until both sides have a valid pair, counted from the later start; peers are 30 ms
/// one way apart.
fn slowest(left: Unsolicited, right: Unsolicited) -> Vec<Duration> {
    let nat = |unsolicited| Nat {
        unsolicited,
        ..Nat::default()
    };
    let slowest = |stagger: u32| {
        let homes = TwoHomes {
            signalling: Signalling::Together {
                stagger: MS * stagger,
            },
            ..homes(nat(left), nat(right))
        };
        let cell = Cell::measure(&homes, 0..20);
        assert_eq!(cell.direct(), 20, "{stagger} ms later");
        cell.time(100).unwrap_or_default()
    };
    let times: Vec<_> = STAGGERS.map(slowest).into();
    println!("{left:?}, {right:?}: {times:?} at {STAGGERS:?} ms");
    times
}

#[test]
fn two_round_trips_are_enough_whichever_side_begins_up_to_a_second_earlier() {
    let times = slowest(Unsolicited::Drop, Unsolicited::Drop);
    assert!(times.iter().all(|time| *time <= MS * 120));
}

/// The early check makes such a router remember a flow of its own, and the mapping that the
/// peer knows is then never used towards the peer again.
#[test]
fn a_router_that_takes_an_early_check_for_its_own_costs_less_than_300_ms() {
    let (accepts, drops) = (Unsolicited::Accept, Unsolicited::Drop);
    for (left, right) in [(accepts, accepts), (accepts, drops), (drops, accepts)] {
        let times = slowest(left, right);
        assert!(times.iter().all(|time| *time <= MS * 300));
    }
}
