//! NATs that end a mapping after a while, whatever passes, in the simulated internet.

use postern_lab::sim::matrix::homes;
use postern_lab::sim::scenario::{Meeting, TwoHomes};
use postern_lab::sim::{Allocation, Nat, Ports, Timeouts, seed};
use postern_proto::ice::Config;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// An ordinary NAT whose mappings live so long and get another port each time.
fn short_lived(life: u64) -> Nat {
    Nat {
        allocation: Allocation::Random(Ports::ALL),
        timeouts: Timeouts {
            lifetime: Some(SECOND * life as u32),
            ..Timeouts::default()
        },
        ..Nat::default()
    }
}

/// As a connection has it: with data in flight silence counts soon.
fn config(busy: bool) -> Config {
    let (interval, expiry) = match busy {
        true => (200, 1600),
        false => (1000, 6000),
    };
    Config {
        punch: true,
        consent_interval: Duration::from_millis(interval),
        consent_expiry: Duration::from_millis(expiry),
        busy_consent_interval: Duration::from_millis(interval),
        busy_consent_expiry: Duration::from_millis(expiry),
        ..Config::default()
    }
}

/// The seconds, of 400, in which a datagram did not come through, one way or the other.
fn silence(nats: [Nat; 2], busy: bool, number: u64) -> Vec<u64> {
    let [left, right] = nats;
    let homes = TwoHomes {
        config: config(busy),
        ..homes(left, right)
    };
    let mut meeting = Meeting::new(&homes, Instant::now(), seed(number));
    let outcome = meeting.run(SECOND * 30);
    assert!(outcome.is_connected(), "{outcome:?}");
    (0..400).filter(|_| !meeting.carries_data()).collect()
}

/// The longest run of numbers that follow each other.
fn longest_run(numbers: &[u64]) -> usize {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    runs.map(<[u64]>::len).max().unwrap_or(0)
}

#[test]
fn a_mapping_that_ends_is_replaced_and_the_next_ones_before_they_end() {
    for life in [50, 60, 75] {
        let (limited, plain) = (short_lived(life), Nat::default());
        for nats in [[limited, plain], [plain, limited]] {
            let silent = silence(nats, true, life);
            assert!(!silent.is_empty(), "the first end is a surprise: {life} s");
            assert!(longest_run(&silent) <= 3, "{life} s: {silent:?}");
            let late = silent.iter().find(|second| **second > life + 3);
            assert_eq!(late, None, "{life} s: {silent:?}");
        }
    }
}

#[test]
fn where_both_sides_have_such_nats_what_ends_costs_three_seconds_at_most() {
    for life in [50, 60, 75] {
        let silent = silence([short_lived(life); 2], true, life);
        assert!(longest_run(&silent) <= 3, "{life} s: {silent:?}");
        assert!(silent.len() <= 15, "{life} s: {silent:?}");
    }
}

#[test]
fn idle_connections_survive_it_too() {
    let nats = [short_lived(60), short_lived(50)];
    let silent = silence(nats, false, 1);
    assert!(longest_run(&silent) <= 8, "{silent:?}");
    assert!(silent.len() <= 40, "{silent:?}");
}
