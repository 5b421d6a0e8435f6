//! One row for each router that the kernel can be.

use std::sync::Mutex;
use std::thread;

use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::{Allocation, Filtering, Hairpin, Mapping, Nat, Ports, Unsolicited};
use serde_json::{Value, json};

use crate::house::House;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    every_mapping_filtering_and_allocation_of_a_real_nat_is_found_over_udp_and_tcp,
    every_pair_of_real_nats_in_a_row_looks_like_the_stricter_one,
];

/// Worlds side by side: what a check does is waiting, mostly.
const AT_ONCE: usize = 5;

/// A range is estimated within a factor of two in 95 of 100 runs: not in one of three is wrong.
const TRIES: usize = 3;

const fn range(first: u16, size: u16) -> Ports {
    Ports {
        first,
        last: first + (size - 1),
    }
}

const fn in_order(step: u16) -> Allocation {
    // The kernel is slow with more.
    let ports = range(30_000, 2048);
    Allocation::Sequential { ports, step }
}

const BLOCK: Allocation = Allocation::Block {
    ports: range(20_480, 4096),
    size: 1024,
};

const ALLOCATIONS: [Allocation; 7] = [
    Allocation::Preserving,
    Allocation::Random(Ports::ALL),
    Allocation::Random(range(40_960, 1024)),
    Allocation::Random(range(50_001, 2048)),
    BLOCK,
    in_order(1),
    in_order(2),
];

fn rows() -> Vec<Nat> {
    let mut rows = Vec::new();
    for mapping in Mapping::ALL {
        for filtering in Filtering::ALL {
            rows.push(Nat::new(mapping, filtering));
        }
        // How ports are given does not depend on the filter, and each row takes four seconds.
        let strict = Nat::new(mapping, Filtering::AddressAndPortDependent);
        let others = ALLOCATIONS.into_iter().filter(|a| *a != strict.allocation);
        rows.extend(others.map(|allocation| Nat {
            allocation,
            ..strict
        }));
        rows.push(Nat {
            hairpin: Hairpin::ExternalSource,
            ..Nat::new(mapping, Filtering::EndpointIndependent)
        });
    }
    rows.extend(
        [Unsolicited::Reset, Unsolicited::PortUnreachable].map(|unsolicited| Nat {
            unsolicited,
            ..Nat::default()
        }),
    );
    rows
}

/// Checks all of them, some at a time, and says what is wrong with each.
pub(crate) fn all<T: Send>(rows: Vec<T>, check: impl Fn(T) -> Result<(), String> + Sync) {
    let rows = Mutex::new(rows.into_iter());
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = rows.lock().unwrap().next();
                    let Some(row) = next else {
                        return;
                    };
                    if let Err(why) = check(row) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

const fn allocation(allocation: Allocation) -> &'static str {
    match allocation {
        Allocation::Preserving => "preserving",
        Allocation::Random(_) | Allocation::Block { .. } => "random",
        Allocation::Sequential { .. } => "sequential",
    }
}

/// Everything that must be told of a router, but for the range of its ports.
fn expected(nat: &Nat) -> Vec<(&'static str, Value)> {
    let (mapping, filtering) = (nat.mapping.as_str(), nat.filtering.as_str());
    let ports = allocation(nat.allocation);
    let independent = nat.mapping == Mapping::EndpointIndependent;
    let open = nat.filtering == Filtering::EndpointIndependent;
    let step = match nat.allocation {
        Allocation::Sequential { step, .. } => json!(step),
        Allocation::Preserving | Allocation::Random(_) | Allocation::Block { .. } => Value::Null,
    };
    let hairpin = match nat.hairpin {
        Hairpin::Off => (independent || open).then_some(false),
        Hairpin::InternalSource | Hairpin::ExternalSource => Some(true),
    };
    let unsolicited = match (nat.filtering, nat.unsolicited) {
        (Filtering::EndpointIndependent | Filtering::AddressDependent, _) => "accept",
        (_, Unsolicited::Drop | Unsolicited::Accept) => "drop",
        (_, Unsolicited::Reset) => "reset",
        (_, Unsolicited::PortUnreachable) => "reset",
    };
    // The port towards one more port of the server must be known beforehand.
    let known = nat.mapping != Mapping::AddressAndPortDependent;
    let mut expected = vec![
        ("/udp/mapping", json!(mapping)),
        ("/udp/filtering", json!(filtering)),
        ("/udp/allocation", json!(ports)),
        ("/udp/step", step.clone()),
        ("/udp/hairpin", json!(hairpin)),
        ("/udp/distance", json!((independent && !open).then_some(1))),
        ("/tcp/mapping", json!(mapping)),
        ("/tcp/filtering", json!(filtering)),
        ("/tcp/allocation", json!(ports)),
        ("/tcp/step", step),
        ("/tcp/unsolicited", json!(unsolicited)),
        ("/tcp/simultaneous_open", json!(known.then_some(true))),
        ("/path_mtu", json!(1500)),
    ];
    // Where nothing filters only the routers could tell, and they need not say anything.
    if !open {
        expected.extend([("/layers", json!(1)), ("/double_nat", json!(false))]);
    }
    expected
}

fn differences(told: &Value, expected: &[(&'static str, Value)]) -> Vec<String> {
    let differs = |(place, expected): &&(&'static str, Value)| {
        told.pointer(place).unwrap_or(&Value::Null) != expected
    };
    let wrong = expected.iter().filter(differs);
    wrong
        .map(|(place, expected)| format!("{place} is {:?}, not {expected}", told.pointer(place)))
        .collect()
}

fn is_close(told: &Value, allocation: Allocation) -> bool {
    let real = match allocation {
        Allocation::Random(ports) => u64::from(ports.last - ports.first) + 1,
        Allocation::Block { size, .. } => u64::from(size),
        Allocation::Preserving | Allocation::Sequential { .. } => return true,
    };
    let end = |n: usize| told["udp"]["port_range"][n].as_u64().unwrap_or(0);
    let found = end(1) - end(0) + 1;
    found <= real * 2 && real <= found * 2
}

fn row(nat: Nat) -> Result<(), String> {
    // Calls that are answered with a reset must meet on their way, which must not be too short.
    let strict = nat.filtering == Filtering::AddressAndPortDependent;
    let house = match nat.unsolicited {
        Unsolicited::Drop if strict => House::new(home(nat)),
        Unsolicited::Drop
        | Unsolicited::Reset
        | Unsolicited::PortUnreachable
        | Unsolicited::Accept => House::at_a_distance(home(nat)),
    };
    let mut told = house.check();
    let wrong = differences(&told, &expected(&nat));
    if !wrong.is_empty() {
        return Err(format!("{nat:?}\n{}\n{told}", wrong.join("\n")));
    }
    for _ in 1..TRIES {
        if is_close(&told, nat.allocation) {
            return Ok(());
        }
        told = house.check();
    }
    is_close(&told, nat.allocation)
        .then_some(())
        .ok_or_else(|| format!("{nat:?}\n{}", told["udp"]))
}

fn home(nat: Nat) -> Topology {
    Topology {
        homes: vec![Home::new("red", &["alice"], 1, nat)],
        ..Topology::default()
    }
}

fn every_mapping_filtering_and_allocation_of_a_real_nat_is_found_over_udp_and_tcp() {
    all(rows(), row);
}

/// The three that differ most.
fn kinds() -> [Nat; 3] {
    [
        Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent),
        Nat::new(Mapping::EndpointIndependent, Filtering::AddressDependent),
        Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ),
    ]
}

fn every_pair_of_real_nats_in_a_row_looks_like_the_stricter_one() {
    let pairs = kinds().map(|outer| kinds().map(|inner| (outer, inner)));
    all(pairs.concat(), |(outer, inner)| pair(outer, inner));
}

fn pair(outer: Nat, inner: Nat) -> Result<(), String> {
    let house = House::new(Topology {
        homes: vec![
            Home::new("carrier", &[], 3, outer),
            Home {
                behind: Some("carrier".to_owned()),
                ..Home::new("red", &["alice"], 1, inner)
            },
        ],
        ..Topology::default()
    });
    let told = house.check();
    let mapping = outer.mapping.max(inner.mapping);
    let filtering = outer.filtering.max(inner.filtering);
    let distance = match (mapping, outer.filtering, inner.filtering) {
        (Mapping::AddressDependent | Mapping::AddressAndPortDependent, _, _)
        | (_, Filtering::EndpointIndependent, Filtering::EndpointIndependent) => None,
        (_, Filtering::EndpointIndependent, _) => Some(1),
        _ => Some(2),
    };
    let expected = [
        ("/udp/mapping", json!(mapping.as_str())),
        ("/udp/filtering", json!(filtering.as_str())),
        ("/udp/distance", json!(distance)),
        ("/tcp/mapping", json!(mapping.as_str())),
        ("/tcp/filtering", json!(filtering.as_str())),
        ("/layers", json!(2)),
        ("/double_nat", json!(true)),
    ];
    match differences(&told, &expected) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(format!(
            "{outer:?}\n{inner:?}\n{}\n{told}",
            wrong.join("\n")
        )),
    }
}
