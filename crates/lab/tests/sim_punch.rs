//! Pairs of NATs that plain ICE cannot connect, in the simulated internet.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it has measured"
)]

use postern_lab::sim::matrix::{
    Cell, End, Situation, block, homes, kinds, run, sequential, situations, strictest,
};
use postern_lab::sim::scenario::{Meeting, TwoHomes};
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports, seed};
use postern_proto::punch::{MAX_NARROW_PROBES, MAX_PROBES, MAX_SOCKETS, Technique};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn measure(name: &str, homes: &TwoHomes, seeds: u64) -> Cell {
    let cell = Cell::measure(homes, 0..seeds);
    let (median, p99) = (cell.time(50), cell.time(99));
    println!(
        "{name}: {} of {} direct, {median:?} median, {p99:?} 99 %, at most {} probes, {} sockets, {} datagrams",
        cell.direct(),
        cell.runs(),
        cell.most_probes(),
        cell.most_sockets(),
        cell.most_datagrams()
    );
    assert!(cell.most_probes() <= MAX_NARROW_PROBES);
    assert!(cell.most_sockets() <= u32::try_from(MAX_SOCKETS).unwrap());
    cell
}

#[test]
fn an_easy_nat_and_a_random_one_connect_within_3_s_and_1500_probes() {
    for (left, right) in [(Nat::default(), strictest()), (strictest(), Nat::default())] {
        let cell = measure("independent x random", &homes(left, right), 100);
        assert!(cell.direct_within(SECOND * 3) >= 98, "{cell:?}");
        assert_eq!(cell.technique(), Some(Technique::Birthday));
        assert!(cell.most_probes() <= MAX_PROBES);
    }
}

#[test]
fn an_easy_nat_and_a_sequential_one_connect_within_a_second() {
    for foreign_flows in [0, 20] {
        let homes = homes(Nat::default(), sequential(foreign_flows));
        let cell = measure("independent x sequential", &homes, 100);
        assert_eq!(cell.direct_within(SECOND), 100);
        assert_eq!(cell.technique(), Some(Technique::Predicted));
    }
}

#[test]
fn two_strict_nats_with_blocks_of_800_ports_connect_within_5_s_and_1500_probes() {
    let homes = homes(block(800), block(800));
    let good = |number: &u64| {
        let run = run(&homes, *number);
        let in_time = run.direct.is_some_and(|(time, _)| time <= SECOND * 5);
        in_time && run.probes <= MAX_PROBES
    };
    // All that 1,500 flows of either side can meet is 97.0 % of meetings.
    let good = (0..200).filter(good).count();
    println!("block x block, 800: {good} of 200");
    assert!(good >= 190);
}

#[test]
fn two_strict_nats_with_blocks_of_2048_ports_connect_within_10_s() {
    let cell = measure("block x block, 2048", &homes(block(2048), block(2048)), 30);
    assert!(cell.direct_within(SECOND * 10) >= 28);
}

#[test]
fn all_but_four_of_the_81_pairs_connect_directly_with_full_range_random_ports() {
    let mut relayed = Vec::new();
    for left in kinds() {
        for right in kinds() {
            let homes = homes(left.nat, right.nat);
            let direct = (0..3).filter(|n| run(&homes, *n).direct.is_some());
            match direct.count() {
                3 => {}
                0 => relayed.push((left.name, right.name)),
                _ => panic!("{} x {} connects now and then", left.name, right.name),
            }
        }
    }
    let strict = ["ADM/APDF", "APDM/APDF"];
    let expected: Vec<_> = strict.map(|l| strict.map(|r| (l, r))).concat();
    assert_eq!(relayed, expected);
}

#[test]
fn the_57_plain_pairs_are_plain_and_take_less_than_half_a_second() {
    let all = situations().into_iter().take(81);
    let plain = all.filter(|s| s.homes.plain_ice_connects() == Some(true));
    let plain: Vec<_> = plain.collect();
    assert_eq!(plain.len(), 57);
    for Situation { left, right, homes } in plain {
        for number in 0..5 {
            let run = run(&homes, number);
            assert_eq!(run.end(), End::Plain, "{left} x {right}: {run:?}");
            let (time, _) = run.direct.unwrap();
            assert!(time < SECOND / 2, "{left} x {right}: {run:?}");
        }
    }
}

/// The pairs of the table behind NATs that do not track connections: they answer a stranger from the
/// port of a new flow, and no pair is direct then that needs an answer from the port that was hit.
fn untracked() -> Vec<Situation> {
    let all = situations().into_iter().take(81);
    all.map(Situation::untracked).collect()
}

fn untracked_homes(left: &str, right: &str) -> TwoHomes {
    let all = untracked().into_iter();
    let mut named = all.filter(|s| (s.left.as_str(), s.right.as_str()) == (left, right));
    named.next().unwrap().homes
}

#[test]
fn behind_nats_that_do_not_track_connections_73_pairs_connect_directly() {
    let mut relayed = Vec::new();
    for Situation { left, right, homes } in untracked() {
        match (0..3).filter(|n| run(&homes, *n).direct.is_some()).count() {
            3 => {}
            0 => relayed.push((left, right)),
            _ => panic!("{left} x {right} connects now and then"),
        }
    }
    let strict = ["ADM/APDF", "APDM/APDF"];
    let answering = ["APDM/EIF", "APDM/ADF"];
    let both = strict.map(|l| strict.map(|r| (l, r))).concat();
    let one = answering.map(|wide| [(wide, "APDM/APDF"), ("APDM/APDF", wide)]);
    let mut expected: Vec<_> = both.into_iter().chain(one.concat()).collect();
    expected.sort_unstable();
    relayed.sort_unstable();
    let relayed: Vec<_> = relayed
        .iter()
        .map(|(l, r)| (l.as_str(), r.as_str()))
        .collect();
    assert_eq!(relayed, expected);
}

/// Both give each port of the other's a mapping of its own.
const EACH_WAY: [(&str, &str); 4] = [
    ("APDM/EIF", "APDM/EIF"),
    ("APDM/EIF", "APDM/ADF"),
    ("APDM/ADF", "APDM/EIF"),
    ("APDM/ADF", "APDM/ADF"),
];

/// One gives all ports of the other's one mapping, and filters strictly.
const TWO_ROUNDS: [(&str, &str); 4] = [
    ("APDM/EIF", "ADM/APDF"),
    ("APDM/ADF", "ADM/APDF"),
    ("ADM/APDF", "APDM/EIF"),
    ("ADM/APDF", "APDM/ADF"),
];

#[test]
fn eight_pairs_behind_nats_that_do_not_track_take_a_port_each_way_or_two_rounds_of_guesses() {
    for (pairs, end) in [(EACH_WAY, End::Asymmetric), (TWO_ROUNDS, End::Birthday)] {
        for (left, right) in pairs {
            let name = format!("{left} x {right}");
            let cell = measure(&name, &untracked_homes(left, right), 60);
            assert!(cell.direct() >= 58, "{cell:?}");
            assert_eq!(cell.end(), end, "{name}");
            assert!(cell.most_probes() <= MAX_PROBES, "{name}");
        }
    }
}

/// Nothing refreshes the mapping that is hit but what its owner repeats for that, and idle mappings
/// live 30 s.
#[test]
fn a_path_with_a_port_each_way_carries_data_in_both_directions_for_minutes() {
    for (left, right) in EACH_WAY {
        for number in 0..4 {
            let name = format!("{left} x {right}, {number}");
            let homes = untracked_homes(left, right);
            let mut meeting = Meeting::new(&homes, Instant::now(), seed(number));
            assert!(meeting.run(SECOND * 20).is_connected(), "{name}");
            let first = meeting.outcome().sides.map(|side| side.selected);
            assert!(meeting.agrees_on_the_path(), "{name}");
            for (side, path) in first.iter().enumerate() {
                let technique = meeting.agent(side).technique(&path.unwrap());
                assert_eq!(technique, Technique::Asymmetric, "{name}");
            }
            meeting.run_on(SECOND * 200);
            assert!(meeting.agrees_on_the_path(), "{name}");
            let last = meeting.outcome().sides.map(|side| side.selected);
            assert_eq!(last, first, "{name}");
        }
    }
}

#[test]
fn a_port_each_way_can_be_switched_off() {
    let mut homes = untracked_homes("APDM/ADF", "APDM/ADF");
    homes.config.disabled = [Technique::Asymmetric].into_iter().collect();
    let cell = measure("switched off", &homes, 3);
    assert_eq!(cell.direct(), 0);
}

#[test]
fn both_sides_send_data_on_a_path_that_was_punched() {
    let strict_for_addresses = Nat::new(Mapping::AddressDependent, Filtering::AddressDependent);
    for right in [strictest(), sequential(5), strict_for_addresses] {
        let homes = homes(Nat::default(), right);
        for number in 0..5 {
            let mut meeting = Meeting::new(&homes, Instant::now(), seed(number));
            assert!(meeting.run(SECOND * 20).is_connected());
            assert!(meeting.agrees_on_the_path(), "{right:?} {number}");
        }
    }
}

#[test]
fn with_one_server_address_the_ladder_goes_on_after_plain_checks_have_failed() {
    let blind = |left, right| TwoHomes {
        vantages: 0,
        ..homes(left, right)
    };
    let cell = measure(
        "one address, random",
        &blind(Nat::default(), strictest()),
        40,
    );
    assert!(cell.direct() >= 39);
    let random = Nat {
        allocation: Allocation::Random(Ports::ALL),
        ..Nat::default()
    };
    let cell = measure("one address, both random", &blind(random, strictest()), 40);
    assert!(cell.direct() >= 35);
    let cell = measure(
        "one address, sequential",
        &blind(Nat::default(), sequential(10)),
        40,
    );
    assert_eq!(cell.direct(), 40);
}

#[test]
fn without_punching_none_of_it_happens() {
    let mut homes = homes(Nat::default(), strictest());
    homes.config.punch = false;
    let cell = measure("plain", &homes, 3);
    assert_eq!((cell.direct(), cell.most_sockets()), (0, 0));
}
