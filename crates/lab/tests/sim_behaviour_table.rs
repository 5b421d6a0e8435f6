//! The table: what simulated routers do, and that it is found out, all of it.

mod sim_support;

use postern_lab::sim::{
    Allocation, Egress, Filtering, Firewall, Gate, Hairpin, Mapping, Nat, Ports, Router,
};
use postern_proto::punch;
use postern_proto::stun::behaviour::Findings;
use postern_proto::stun::{Alternate, BindingServer};
use sim_support::behaviour::{FILTERINGS, House, MAPPINGS, filter, is_right, name, report};
use sim_support::{WAN, at, ip, masquerade};
use std::time::Duration;

const BLOCK: Ports = Ports {
    first: 20_480,
    last: 21_503,
};

/// More sockets would tell more; these make 31 samples where each endpoint has a mapping of its
/// own.
const SOCKETS: u16 = 28;

const fn in_order(step: u16) -> Allocation {
    Allocation::Sequential {
        ports: Ports::ALL,
        step,
    }
}

const fn blocks(size: u16) -> Allocation {
    Allocation::Block {
        ports: Ports::ALL,
        size,
    }
}

const ALLOCATIONS: [Allocation; 9] = [
    Allocation::Preserving,
    Allocation::Random(Ports::ALL),
    Allocation::Random(BLOCK),
    blocks(512),
    blocks(2048),
    in_order(1),
    in_order(2),
    in_order(3),
    in_order(8),
];

/// Every router of the table.
fn routers() -> impl Iterator<Item = Nat> {
    let kinds = MAPPINGS
        .into_iter()
        .flat_map(|mapping| FILTERINGS.map(|filtering| Nat::new(mapping, filtering)));
    kinds.flat_map(|nat| ALLOCATIONS.map(|allocation| Nat { allocation, ..nat }))
}

fn check(nat: Nat, findings: &Findings) {
    let found = report(findings);
    assert_eq!(found.mapping, name(nat.mapping), "{nat:?}");
    assert_eq!(found.filtering, filter(nat.filtering), "{nat:?}");
    assert!(
        is_right(found.allocation, nat.allocation),
        "{nat:?} {found:?}"
    );
    assert_eq!(findings.translated, Some(true), "{nat:?}");
    assert_eq!(findings.paired, Some(true), "{nat:?}");
}

#[test]
fn every_mapping_filtering_and_allocation_is_found() {
    for nat in routers() {
        let (findings, took) = House::behind(3, nat).discover(SOCKETS);
        check(nat, &findings);
        // Ports that are preserved are even where the inside ones are.
        if nat.allocation != Allocation::Preserving {
            assert!(!report(&findings).parity, "{nat:?}");
        }
        let seen = nat.mapping == Mapping::EndpointIndependent
            || nat.filtering == Filtering::EndpointIndependent;
        assert_eq!(findings.hairpin, seen.then_some(false), "{nat:?}");
        let tells = nat.mapping == Mapping::EndpointIndependent
            && nat.filtering != Filtering::EndpointIndependent;
        assert_eq!(findings.distance, tells.then_some(1), "{nat:?}");
        assert_eq!(findings.loss, Some(0.0), "{nat:?}");
        assert!(findings.samples <= 32, "{nat:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

#[test]
fn every_router_that_keeps_parity_is_found() {
    for nat in routers() {
        // It finds no odd port where it counts even ones only.
        if matches!(nat.allocation, Allocation::Sequential { step: 2 | 8, .. }) {
            continue;
        }
        let nat = Nat {
            parity: true,
            ..nat
        };
        let found = report(&House::behind(5, nat).discover(SOCKETS).0);
        // A port that was kept for the first destination is random, and even or odd as the
        // first was, for the next.
        assert!(found.parity, "{nat:?} {found:?}");
        assert_eq!(found.mapping, name(nat.mapping), "{nat:?}");
        assert_eq!(found.filtering, filter(nat.filtering), "{nat:?}");
        // Ports of the wrong kind are left out, which looks like somebody else's.
        if !matches!(nat.allocation, Allocation::Sequential { .. }) {
            assert!(
                is_right(found.allocation, nat.allocation),
                "{nat:?} {found:?}"
            );
        }
    }
}

#[test]
fn ports_in_order_are_seen_through_the_flows_of_others() {
    for mapping in MAPPINGS {
        for (step, flows) in [(1, 5), (1, 20), (1, 100), (2, 20), (4, 50)] {
            let nat = Nat {
                allocation: in_order(step),
                foreign_flows: flows,
                ..Nat::new(mapping, Filtering::AddressAndPortDependent)
            };
            for number in 0..10 {
                let found = report(&House::behind(number, nat).discover(SOCKETS).0);
                assert!(
                    is_right(found.allocation, nat.allocation),
                    "{nat:?} {found:?}"
                );
                let punch::Allocation::Sequential { foreign_flows, .. } = found.allocation else {
                    panic!("{found:?}");
                };
                // Twenty gaps of 10 ms are few: an estimate, and no more.
                if flows >= 50 {
                    let within = flows / 3..=flows * 3;
                    assert!(within.contains(&foreign_flows), "{nat:?} {foreign_flows}");
                }
            }
        }
    }
}

#[test]
fn ranges_are_estimated_within_a_factor_of_two_in_95_of_100_runs() {
    for (mapping, first, size) in [
        (Mapping::EndpointIndependent, 20_000, 512_u16),
        (Mapping::EndpointIndependent, 20_000, 1024),
        (Mapping::EndpointIndependent, 32_768, 32_767),
        (Mapping::AddressAndPortDependent, 20_480, 512),
        (Mapping::AddressAndPortDependent, 20_000, 512),
        (Mapping::AddressAndPortDependent, 20_000, 1024),
        (Mapping::AddressAndPortDependent, 20_000, 2048),
        (Mapping::AddressAndPortDependent, 30_000, 4096),
        (Mapping::AddressAndPortDependent, 20_000, 16_384),
        (Mapping::AddressAndPortDependent, 50_001, 15_535),
        (Mapping::AddressAndPortDependent, 1_024, 64_511),
    ] {
        let ports = Ports {
            first,
            last: first + (size - 1),
        };
        let nat = Nat {
            allocation: Allocation::Random(ports),
            ..Nat::new(mapping, Filtering::AddressAndPortDependent)
        };
        let right = |number: &u64| {
            let (findings, _) = House::behind(*number, nat).discover(SOCKETS);
            assert!(findings.samples <= 32);
            is_right(report(&findings).allocation, nat.allocation)
        };
        let right = (0..100).filter(right).count();
        assert!(right >= 95, "{mapping:?} {first} {size}: {right} of 100");
    }
}

#[test]
fn a_packet_to_an_own_mapped_address_comes_back_where_the_router_turns_it_round() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for hairpin in [Hairpin::ExternalSource, Hairpin::InternalSource] {
                let nat = Nat {
                    hairpin,
                    ..Nat::new(mapping, filtering)
                };
                let (findings, _) = House::behind(1, nat).discover(6);
                // No packet can know where another one will come from.
                let hidden = mapping != Mapping::EndpointIndependent
                    && filtering != Filtering::EndpointIndependent
                    && hairpin == Hairpin::ExternalSource;
                let expected = (!hidden).then_some(true);
                assert_eq!(findings.hairpin, expected, "{nat:?}");
            }
        }
    }
}

/// What two routers in a row look like: the stricter one of each.
#[test]
fn every_pair_of_nats_in_a_row_looks_like_the_stricter_one() {
    let kinds = || {
        MAPPINGS
            .into_iter()
            .flat_map(|mapping| FILTERINGS.map(|filtering| Nat::new(mapping, filtering)))
    };
    for outer in kinds() {
        for inner in kinds() {
            let found = nested(outer, inner);
            let report = report(&found);
            let mapping = outer.mapping.max(inner.mapping);
            let filtering = outer.filtering.max(inner.filtering);
            assert_eq!(report.mapping, name(mapping), "{outer:?} {inner:?}");
            assert_eq!(report.filtering, filter(filtering), "{outer:?} {inner:?}");
            assert_eq!(report.mapped.ip(), ip(WAN));
            let expected = match (mapping, outer.filtering, inner.filtering) {
                (Mapping::AddressDependent | Mapping::AddressAndPortDependent, _, _)
                | (_, Filtering::EndpointIndependent, Filtering::EndpointIndependent) => None,
                (_, Filtering::EndpointIndependent, _) => Some(1),
                _ => Some(2),
            };
            assert_eq!(found.distance, expected, "{outer:?} {inner:?}");
        }
    }
}

/// A home router behind a carrier's.
fn nested(outer: Nat, inner: Nat) -> Findings {
    let routers = [masquerade(WAN, outer), masquerade("100.64.0.7", inner)];
    let house = House::new(2, &routers, "192.168.1.10");
    house.discover(SOCKETS).0
}

#[test]
fn the_ports_of_two_nats_in_a_row_are_the_outer_ones_unless_it_preserves_them() {
    for outer in ALLOCATIONS {
        for inner in ALLOCATIONS {
            let of = |allocation| Nat {
                allocation,
                ..Nat::default()
            };
            let found = report(&nested(of(outer), of(inner)));
            let seen = match outer {
                Allocation::Preserving => inner,
                Allocation::Random(_)
                | Allocation::Sequential { .. }
                | Allocation::Block { .. } => outer,
            };
            assert!(
                is_right(found.allocation, seen),
                "{outer:?} {inner:?} {found:?}"
            );
        }
    }
}

/// A router that lets IPv4 and IPv6 out, and in only what this filter does.
fn firewall(filtering: Filtering) -> Router {
    let gate = Gate::Firewall(Firewall {
        filtering,
        ..Firewall::default()
    });
    Router {
        outside: vec![ip(WAN)],
        v4: gate,
        v6: gate,
        ..Router::default()
    }
}

fn assert_untouched(findings: &Findings, filtering: Filtering, distance: Option<u8>) {
    assert_eq!(findings.translated, Some(false), "{filtering:?}");
    assert_eq!(report(findings).filtering, filter(filtering));
    assert_eq!(findings.hairpin, None);
    assert_eq!(findings.distance, distance, "{filtering:?}");
}

#[test]
fn without_a_nat_the_address_is_the_own_and_every_firewall_is_still_seen() {
    let house = House::new(1, &[], "45.45.7.7");
    let (findings, _) = house.discover(12);
    assert_untouched(&findings, Filtering::EndpointIndependent, None);
    assert_eq!(findings.fragments, Some(true));
    for filtering in FILTERINGS {
        let (findings, _) = House::new(1, &[firewall(filtering)], "45.45.7.7").discover(12);
        let distance = (filtering != Filtering::EndpointIndependent).then_some(1);
        assert_untouched(&findings, filtering, distance);
    }
}

#[test]
fn every_firewall_of_ipv6_is_seen() {
    for filtering in FILTERINGS {
        let mut house = House::new(1, &[firewall(filtering)], "2a45:45:7::7");
        let alternate = Alternate {
            primary: at("[2a45:45::1]:3478"),
            secondary: at("[2a45:45::2]:3479"),
        };
        house.internet = vec![alternate.primary.ip(), alternate.secondary.ip()];
        house.asked = vec![alternate.primary];
        house.server = BindingServer::new()
            .with_allowance(None)
            .with_alternates(vec![alternate]);
        let (findings, _) = house.discover(12);
        let distance = (filtering != Filtering::EndpointIndependent).then_some(1);
        assert_untouched(&findings, filtering, distance);
    }
}

#[test]
fn where_udp_does_not_get_out_it_says_so_soon() {
    let closed = Router {
        outside: vec![ip(WAN)],
        ..Router::default()
    };
    let tcp_only = Router {
        egress: Egress::NoUdp,
        ..masquerade(WAN, Nat::default())
    };
    for router in [closed, tcp_only] {
        let (findings, took) = House::new(1, &[router], "192.168.1.10").discover(SOCKETS);
        assert_eq!(findings, Findings::default());
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// What servers that do not speak RFC 5780 tell.
fn plain(nat: Nat, asked: &[&str]) -> Findings {
    let mut house = House::behind(1, nat);
    house.server = BindingServer::new().with_allowance(None);
    house.asked = asked.iter().map(|server| at(server)).collect();
    house.discover(SOCKETS).0
}

#[test]
fn plain_servers_tell_the_mapping_as_far_as_they_see_it_and_leave_the_rest_unknown() {
    use punch::Mapping as Seen;
    const ONE: &[&str] = &["45.45.0.1:3478"];
    const PORTS: &[&str] = &["45.45.0.1:3478", "45.45.0.1:3479"];
    const ADDRESSES: &[&str] = &["45.45.0.1:3478", "45.45.0.2:3478"];
    const ALL: &[&str] = &[
        "45.45.0.1:3478",
        "45.45.0.2:3478",
        "45.45.0.1:3479",
        "45.45.0.2:3479",
    ];
    use Mapping::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (mapping, servers, seen) in [
        (EndpointIndependent, ONE, Seen::Unknown),
        (AddressDependent, ONE, Seen::Unknown),
        (AddressAndPortDependent, ONE, Seen::Unknown),
        (EndpointIndependent, PORTS, Seen::PortIndependent),
        (AddressDependent, PORTS, Seen::PortIndependent),
        (
            AddressAndPortDependent,
            PORTS,
            Seen::AddressAndPortDependent,
        ),
        (EndpointIndependent, ADDRESSES, Seen::EndpointIndependent),
        (AddressDependent, ADDRESSES, Seen::EndpointDependent),
        (AddressAndPortDependent, ADDRESSES, Seen::EndpointDependent),
        (EndpointIndependent, ALL, Seen::EndpointIndependent),
        (AddressDependent, ALL, Seen::AddressDependent),
        (AddressAndPortDependent, ALL, Seen::AddressAndPortDependent),
    ] {
        for filtering in FILTERINGS {
            for allocation in ALLOCATIONS {
                let nat = Nat {
                    allocation,
                    ..Nat::new(mapping, filtering)
                };
                let findings = plain(nat, servers);
                let found = report(&findings);
                assert_eq!(found.mapping, seen, "{nat:?} {servers:?}");
                assert_eq!(found.filtering, punch::Filtering::Unknown, "{nat:?}");
                assert!(is_right(found.allocation, allocation), "{nat:?} {found:?}");
                let unknown = (
                    findings.two_addresses,
                    findings.fragments,
                    findings.distance,
                );
                assert_eq!(unknown, (None, None, None));
            }
        }
    }
}
