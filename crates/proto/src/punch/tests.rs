//! Classification and plans.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test may overflow, and its clock has to begin somewhere"
)]

use super::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// A main socket seen by these servers, and `fresh` sockets seen by the first of them; the
/// NAT gives a new mapping the port that `give` says, from the internal one.
fn classify(
    servers: &[SocketAddr],
    fresh: u16,
    share: fn(SocketAddr, SocketAddr) -> bool,
    mut give: impl FnMut(u16) -> u16,
) -> NatReport {
    let mut classifier = Classifier::default();
    let start = Instant::now();
    let mut sent = start;
    let mut known: Vec<(SocketAddr, SocketAddr)> = Vec::new();
    let main = at([10, 0, 0, 1], 5000);
    for &server in servers {
        let same = known.iter().find(|(other, _)| share(*other, server));
        let mapped = same.map_or_else(|| at([203, 0, 113, 1], give(5000)), |(_, m)| *m);
        known.push((server, mapped));
        sent += Duration::from_millis(20);
        classifier.add(Sample {
            local: main,
            server,
            mapped,
            sent,
        });
    }
    for number in 0..fresh {
        let local = at([10, 0, 0, 1], 40_000 + number * 7);
        sent += Duration::from_millis(2);
        classifier.add(Sample {
            local,
            server: servers[0],
            mapped: at([203, 0, 113, 1], give(local.port())),
            sent,
        });
    }
    classifier.report().unwrap()
}

const A: [u8; 4] = [45, 45, 0, 1];
const B: [u8; 4] = [45, 45, 0, 2];

fn same_endpoint(a: SocketAddr, b: SocketAddr) -> bool {
    a == b
}

fn same_address(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip()
}

fn any(_: SocketAddr, _: SocketAddr) -> bool {
    true
}

/// A NAT that draws from `count` ports after `first`.
fn random(number: u64, first: u16, count: u32) -> impl FnMut(u16) -> u16 {
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    move |_| first + u16::try_from(rng.next_u32() % count).unwrap()
}

#[test]
fn the_mapping_is_told_from_three_servers_and_from_fewer_only_what_they_show() {
    let all = [at(A, 3478), at(A, 3479), at(B, 3478)];
    let mapping = |servers: &[SocketAddr], share| {
        classify(servers, 20, share, random(1, 1024, 64_512)).mapping
    };
    assert_eq!(mapping(&all, any), Mapping::EndpointIndependent);
    assert_eq!(mapping(&all, same_address), Mapping::AddressDependent);
    assert_eq!(
        mapping(&all, same_endpoint),
        Mapping::AddressAndPortDependent
    );
    let two_addresses = [at(A, 3478), at(B, 3478)];
    assert_eq!(mapping(&two_addresses, any), Mapping::EndpointIndependent);
    assert_eq!(
        mapping(&two_addresses, same_address),
        Mapping::EndpointDependent
    );
    let two_ports = [at(A, 3478), at(A, 3479)];
    assert_eq!(mapping(&two_ports, any), Mapping::PortIndependent);
    assert_eq!(mapping(&two_ports, same_address), Mapping::PortIndependent);
    assert_eq!(
        mapping(&two_ports, same_endpoint),
        Mapping::AddressAndPortDependent
    );
    assert_eq!(mapping(&all[..1], any), Mapping::Unknown);
}

#[test]
fn a_preserving_nat_is_recognised_although_one_port_is_taken() {
    let mut calls = 0;
    let report = classify(&[at(A, 1)], 12, any, |port| {
        calls += 1;
        if calls == 5 { 33_333 } else { port }
    });
    assert_eq!(report.allocation, Allocation::Preserving);
}

#[test]
fn a_sequence_is_recognised_with_its_step_and_the_flows_of_others() {
    for (step, foreign) in [(1, 0), (2, 0), (1, 20), (4, 100)] {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut port = 20_000_u16;
        let report = classify(&[at(A, 1)], 24, any, |_| {
            // 2 ms apart, so so many in a thousand come after another flow.
            let others = u16::from(rng.next_u32() % 500 < foreign);
            port += step * (1 + others);
            port
        });
        let Allocation::Sequential {
            step: found,
            last,
            foreign_flows,
        } = report.allocation
        else {
            panic!("{report:?}");
        };
        assert_eq!(found, i16::try_from(step).unwrap());
        assert_eq!(last, port);
        assert!(
            u32::from(foreign_flows) <= 3 * foreign,
            "{foreign_flows} for {foreign}"
        );
    }
}

#[test]
fn a_sequence_that_counts_down_and_begins_anew_is_one_too() {
    let mut port = 2_010_u16;
    let report = classify(&[at(A, 1)], 24, any, |_| {
        port = if port <= 2_000 { 3_000 } else { port - 1 };
        port
    });
    assert!(matches!(
        report.allocation,
        Allocation::Sequential { step: -1, .. }
    ));
}

#[test]
fn the_range_of_random_ports_is_right_within_a_factor_of_two_in_95_of_100_cases() {
    let blocks = [
        (1024, 64_512),
        (32_768, 32_768),
        (50_001, 15_535),
        (40_000, 1_024),
        (2_048, 512),
        (30_000, 800),
        (10_240, 2_048),
        (1024, 4_096),
    ];
    for (first, count) in blocks {
        let right = |number: &u64| {
            let servers = [at(A, 3478), at(A, 3479), at(B, 3478)];
            let report = classify(&servers, 24, any, random(*number, first, count));
            let Allocation::Random(found) = report.allocation else {
                return false;
            };
            let last = first + u16::try_from(count - 1).unwrap();
            let low = found.first.max(first);
            let high = found.last.min(last);
            let covered = f64::from(high.saturating_sub(low)) / f64::from(count);
            found.count() < 2 * count && 2 * found.count() > count && covered > 0.75
        };
        let right = (0..200).filter(right).count();
        assert!(right >= 190, "{first}+{count}: {right} of 200");
    }
}

#[test]
fn an_aligned_block_is_recognised_as_it_is() {
    let report = classify(&[at(A, 1)], 24, any, random(5, 2_048, 1_024));
    let block = PortRange {
        first: 2_048,
        last: 3_071,
    };
    assert_eq!(report.allocation, Allocation::Random(block));
}

/// Ports beyond a range are probed in vain: 224 of 1,024 here.
#[test]
fn ports_from_a_range_of_800_are_not_taken_for_a_block_of_1024() {
    let count = |number| match classify(&[at(A, 1)], 30, any, random(number, 40_000, 800)) {
        NatReport {
            allocation: Allocation::Random(found),
            ..
        } => found.count(),
        other => panic!("{other:?}"),
    };
    let largest = (0..200).map(count).max().unwrap();
    assert!(largest < 880, "{largest}");
}

#[test]
fn parity_is_noticed_and_not_imagined() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let kept = classify(&[at(A, 1)], 24, any, |port| {
        let port_like_it = u16::try_from(rng.next_u32() % 60_000).unwrap() & !1;
        (port_like_it | (port & 1)) + 2_000
    });
    assert!(kept.parity);
    assert!(!classify(&[at(A, 1)], 24, any, random(4, 1024, 64_512)).parity);
}

fn nat(mapping: Mapping, allocation: Allocation) -> NatReport {
    NatReport {
        mapped: at([203, 0, 113, 1], 5000),
        mapping,
        filtering: Filtering::Unknown,
        allocation,
        parity: false,
    }
}

const EASY: (Mapping, Allocation) = (Mapping::EndpointIndependent, Allocation::Preserving);
const HARD: (Mapping, Allocation) = (
    Mapping::AddressAndPortDependent,
    Allocation::Random(PortRange::ALL),
);

fn plans(a: (Mapping, Allocation), b: (Mapping, Allocation)) -> Option<(Plan, Plan)> {
    let (a, b) = (nat(a.0, a.1), nat(b.0, b.1));
    Plan::new(&a, &b).zip(Plan::new(&b, &a))
}

#[test]
fn both_peers_make_parts_of_the_same_plan() {
    let (one, other) = plans(EASY, EASY).unwrap();
    assert!(matches!(one.part, Part::Renew { .. }));
    assert_eq!(one, other);
    let (easy, hard) = plans(EASY, HARD).unwrap();
    let all = PortRange::ALL;
    assert_eq!(
        easy.part,
        Part::Probe {
            ports: all,
            probes: MAX_PROBES
        }
    );
    assert_eq!(hard.part, Part::Open { sockets: 256 });
    assert!(easy.probability > 0.99 && easy.probability < 1.0);
    let counting = Allocation::Sequential {
        step: 1,
        last: 2000,
        foreign_flows: 3,
    };
    let (easy, counting) = plans(EASY, (Mapping::EndpointDependent, counting)).unwrap();
    assert_eq!(easy.part, Part::Follow);
    assert!(matches!(counting.part, Part::Predict { .. }));
}

#[test]
fn the_larger_budget_is_for_two_narrow_ranges_only() {
    let block = |count: u16| {
        let ports = PortRange {
            first: 2048,
            last: 2047 + count,
        };
        (Mapping::AddressAndPortDependent, Allocation::Random(ports))
    };
    let probes = |a, b| match plans(a, b).unwrap().0 {
        Plan {
            part: Part::Spray { probes, .. },
            probability,
            ..
        } => (probes, probability),
        other => panic!("{other:?}"),
    };
    let (sent, chance) = probes(block(2048), block(2048));
    assert_eq!(sent, MAX_NARROW_PROBES);
    assert!(chance > 0.99);
    let (sent, chance) = probes(HARD, block(2048));
    assert_eq!(sent, MAX_PROBES);
    assert!(chance < 0.05);
}

#[test]
fn where_one_server_address_leaves_it_open_either_side_may_be_dependent() {
    let open = (Mapping::PortIndependent, Allocation::Random(PortRange::ALL));
    let (one, other) = plans(open, open).unwrap();
    assert!(matches!(one.part, Part::OpenAndProbe { .. }));
    assert_eq!(one.part, other.part);
    assert!(one.grace >= Duration::from_secs(1), "plain checks go first");
    let few = PortRange {
        first: 2048,
        last: 3071,
    };
    let few = (Mapping::PortIndependent, Allocation::Random(few));
    let (one, other) = plans(few, few).unwrap();
    let both = matches!(
        one.part,
        Part::Spray {
            probes: MAX_PROBES,
            ..
        }
    );
    assert!(both, "both are taken to be: {one:?}");
    assert_eq!(one.part, other.part);
    let kept = (Mapping::Unknown, Allocation::Preserving);
    assert_eq!(plans(kept, EASY), plans(EASY, EASY));
}

#[test]
fn where_ports_are_few_the_side_that_may_be_dependent_is_guessed_at_as_well() {
    let few = PortRange {
        first: 40_000,
        last: 40_799,
    };
    let drawn = |mapping| (mapping, Allocation::Random(few));
    let certain = drawn(Mapping::AddressAndPortDependent);
    for unknown in [
        Mapping::Unknown,
        Mapping::PortIndependent,
        Mapping::EndpointIndependent,
    ] {
        let (one, other) = plans(certain, drawn(unknown)).unwrap();
        let lead = |plan: &Plan| {
            let Part::Spray { lead, probes, .. } = plan.part else {
                panic!("{plan:?}");
            };
            (lead, probes)
        };
        assert_eq!(lead(&one), (Lead::Open, MAX_PROBES));
        assert_eq!(lead(&other), (Lead::Probe(300), MAX_PROBES));
        assert!((one.probability - other.probability).abs() < 1e-9);
        assert_eq!(one.duration(), other.duration());
    }
    // Where they are many nothing would come of it.
    let many = (Mapping::Unknown, Allocation::Random(PortRange::ALL));
    let (one, other) = plans(certain, many).unwrap();
    assert!(matches!(one.part, Part::Open { .. }));
    assert!(matches!(other.part, Part::Probe { .. }));
}

#[test]
fn ports_that_mean_something_are_never_probed() {
    for port in [0, 53, 162, 1023, 1900, 3478, 4500, 5060, 5351] {
        assert!(is_forbidden(port), "{port}");
    }
    assert!(!is_forbidden(40_000));
}

#[test]
fn a_host_has_one_attempt_at_a_time_and_a_peer_one_a_minute() {
    let mut budget = HostBudget::default();
    let now = Instant::now();
    assert!(budget.begin(now, &"alice"));
    assert!(
        budget.begin(now, &"alice"),
        "its second request for sockets"
    );
    assert!(!budget.begin(now, &"bob"));
    budget.end(&"bob");
    assert!(!budget.begin(now, &"bob"));
    budget.end(&"alice");
    assert!(budget.begin(now, &"bob"));
    budget.end(&"bob");
    assert!(!budget.begin(now + Duration::from_secs(59), &"alice"));
    assert!(budget.begin(now + Duration::from_secs(61), &"alice"));
}
