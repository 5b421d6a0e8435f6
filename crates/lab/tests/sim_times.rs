//! How soon two peers behind endpoint-independent NATs have a path, whoever begins first.
#![expect(clippy::print_stdout, reason = "a test prints what it has measured")]

use postern_lab::sim::matrix::{Cell, homes, run};
use postern_lab::sim::scenario::{Signalling, TwoHomes};
use postern_lab::sim::{Filtering, Mapping, Nat, Unsolicited};
use postern_proto::ice::Config;
use postern_proto::punch::{Technique, Techniques};
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

/// The median and the 99th percentile of meetings at staggers spread evenly over a second.
fn percentiles(left: Nat, right: Nat, disabled: Techniques) -> [Duration; 2] {
    const SEEDS: u64 = 200;
    let mut cell = Cell::default();
    for number in 0..SEEDS {
        let plain = homes(left, right);
        let stagger = Duration::from_micros(number * 1_000_000 / SEEDS);
        let homes = TwoHomes {
            signalling: Signalling::Together { stagger },
            config: Config {
                disabled,
                ..plain.config
            },
            ..plain
        };
        cell.add(&run(&homes, number));
    }
    // Two routers that take early checks for their own defeat those who begin apart.
    let complete = disabled.contains(Technique::Primer) || cell.direct() == cell.runs();
    assert!(complete, "{} of {}", cell.direct(), cell.runs());
    [50, 99].map(|share| cell.time(share).unwrap_or_default())
}

/// 1.5 round trips are the least where the earlier side has to wait for the later one's first check and to
/// answer with one of its own.
#[test]
fn half_of_all_meetings_take_at_most_1_5_round_trips_and_99_in_100_at_most_3_and_50_ms() {
    let filterings = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let nats = filterings.map(|filtering| Nat::new(Mapping::EndpointIndependent, filtering));
    let accepting = Nat {
        unsolicited: Unsolicited::Accept,
        ..Nat::default()
    };
    let nats = [nats.as_slice(), &[accepting]].concat();
    let without: Techniques = [Technique::Primer].into_iter().collect();
    for left in &nats {
        for right in &nats {
            let names = [left, right].map(|nat| (nat.filtering, nat.unsolicited));
            let with = percentiles(*left, *right, Techniques::NONE);
            let without = percentiles(*left, *right, without);
            println!("{names:?}: {with:?}, without primers and a common start {without:?}");
            let [median, slow] = with;
            assert!(median <= MS * 90 && slow <= MS * 230, "{names:?}: {with:?}");
        }
    }
}
