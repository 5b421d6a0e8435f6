//! The simulated routers behave as they say.

mod sim_support;

use postern_lab::sim::{
    Allocation, Filtering, Firewall, Gate, Hairpin, HostId, Link, Mapping, Nat, Ports, Router,
    Timeouts, Unsolicited, World, seed, synthesised,
};
use sim_support::{Lab, WAN, at, exchange, home, ip, masquerade};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MAPPINGS: [Mapping; 3] = [
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];
const FILTERINGS: [Filtering; 3] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
];
const NARROW: Ports = Ports {
    first: 30_000,
    last: 30_009,
};

/// The mapping behaviour as RFC 5780, section 4.3 finds it out.
fn classify_mapping(lab: &mut Lab) -> Mapping {
    let first = lab.mapped(5000, "45.45.0.1:3478");
    let second = lab.mapped(5000, "45.45.0.2:3478");
    let third = lab.mapped(5000, "45.45.0.2:3479");
    if first == second {
        Mapping::EndpointIndependent
    } else if second == third {
        Mapping::AddressDependent
    } else {
        Mapping::AddressAndPortDependent
    }
}

/// The filtering behaviour as RFC 5780, section 4.4 finds it out.
fn classify_filtering(lab: &mut Lab) -> Filtering {
    let mapped = lab.mapped(6000, "45.45.0.1:3478");
    if lab.reaches("45.45.0.2:3479", mapped) {
        Filtering::EndpointIndependent
    } else if lab.reaches("45.45.0.1:3479", mapped) {
        Filtering::AddressDependent
    } else {
        assert!(lab.reaches("45.45.0.1:3478", mapped));
        Filtering::AddressAndPortDependent
    }
}

#[test]
fn every_combination_is_what_a_discovery_finds() {
    let allocations = [
        Allocation::Preserving,
        Allocation::Random(Ports::ALL),
        Allocation::Sequential {
            ports: Ports::ALL,
            step: 2,
        },
        Allocation::Block {
            ports: Ports::ALL,
            size: 512,
        },
    ];
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for allocation in allocations {
                let nat = Nat {
                    allocation,
                    ..Nat::new(mapping, filtering)
                };
                let mut lab = home(nat);
                assert_eq!(classify_mapping(&mut lab), mapping, "{nat:?}");
                assert_eq!(classify_filtering(&mut lab), filtering, "{nat:?}");
            }
        }
    }
}

#[test]
fn a_preserving_nat_keeps_the_port_unless_it_is_taken() {
    let mut lab = home(Nat::default());
    assert_eq!(lab.mapped(5000, "45.45.0.1:1").port(), 5000);
    let second = lab.send(lab.bob, "192.168.1.11:5000", at("45.45.0.1:1"));
    assert_ne!(second[0].remote.port(), 5000);
    assert_eq!(second[0].remote.ip(), ip(WAN));
}

fn apdm(allocation: Allocation) -> Nat {
    Nat {
        allocation,
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

fn ports_given(lab: &mut Lab, count: u16) -> Vec<u16> {
    (1..=count)
        .map(|port| lab.mapped(5000, &format!("45.45.0.1:{port}")).port())
        .collect()
}

#[test]
fn a_sequential_nat_counts_by_its_step_and_wraps() {
    let mut lab = home(apdm(Allocation::Sequential {
        ports: NARROW,
        step: 4,
    }));
    let given = ports_given(&mut lab, 5);
    assert_eq!(given, [30_000, 30_004, 30_008, 30_002, 30_006]);
}

#[test]
fn a_sequential_nat_steps_over_ports_in_use() {
    let mut lab = home(apdm(Allocation::Sequential {
        ports: NARROW,
        step: 5,
    }));
    assert_eq!(ports_given(&mut lab, 2), [30_000, 30_005]);
    let third = lab.send(lab.alice, "192.168.1.10:5000", at("45.45.0.2:1"));
    assert!(third.is_empty(), "step 5 reaches only two of ten ports");
}

#[test]
fn a_block_belongs_to_one_internal_address() {
    let mut lab = home(apdm(Allocation::Block {
        ports: NARROW,
        size: 5,
    }));
    let mut given = ports_given(&mut lab, 5);
    given.sort_unstable();
    assert_eq!(given, [30_000, 30_001, 30_002, 30_003, 30_004]);
    let bob = lab.send(lab.bob, "192.168.1.11:5000", at("45.45.0.1:1"));
    assert!(bob[0].remote.port() >= 30_005);
}

#[test]
fn parity_is_preserved_where_asked() {
    let mut lab = home(Nat {
        parity: true,
        ..apdm(Allocation::Random(Ports::ALL))
    });
    assert!(ports_given(&mut lab, 50).iter().all(|port| port % 2 == 0));
}

#[test]
fn a_full_port_range_drops_new_flows_only() {
    let mut lab = home(apdm(Allocation::Random(NARROW)));
    let mut given = ports_given(&mut lab, 10);
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 10, "every port of the range is used");
    let refused = lab.send(lab.alice, "192.168.1.10:5000", at("45.45.0.1:99"));
    assert!(refused.is_empty());
    lab.mapped(5000, "45.45.0.1:1");
}

#[test]
fn the_table_is_bounded_against_strangers() {
    let mut lab = home(Nat {
        capacity: 3,
        ..Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent)
    });
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    assert!(lab.reaches("45.45.0.2:1", mapped));
    assert!(lab.reaches("45.45.0.2:2", mapped));
    assert!(!lab.reaches("45.45.0.2:3", mapped), "the fourth session");
    assert_eq!(lab.world.sessions(lab.router), 3);
}

#[test]
fn an_answer_to_a_stranger_leaves_from_the_port_that_was_hit() {
    let mut lab = home(Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::EndpointIndependent,
    ));
    let mapped = lab.mapped(5000, "45.45.0.1:3478");
    assert!(lab.reaches("45.45.0.2:7", mapped));
    assert_eq!(lab.mapped(5000, "45.45.0.2:7"), mapped);
    assert_ne!(lab.mapped(5000, "45.45.0.2:8"), mapped);
}

#[test]
fn a_nat_that_does_not_track_answers_a_stranger_from_the_port_of_a_new_flow() {
    let nat = Nat {
        tracks_inbound: false,
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::EndpointIndependent,
        )
    };
    let mut lab = home(nat);
    let hit = lab.mapped(5000, "45.45.0.1:3478");
    assert!(lab.reaches("45.45.0.2:9000", hit));
    assert_ne!(lab.mapped(5000, "45.45.0.2:9000"), hit);
    // Where the new flow would have had the port, nothing changes.
    let mut lab = home(Nat {
        mapping: Mapping::EndpointIndependent,
        ..nat
    });
    let hit = lab.mapped(5000, "45.45.0.1:3478");
    assert!(lab.reaches("45.45.0.2:9000", hit));
    assert_eq!(lab.mapped(5000, "45.45.0.2:9000"), hit);
}

#[test]
fn two_flows_to_one_remote_are_told_apart_by_another_source_port() {
    let mut lab = home(Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::EndpointIndependent,
    ));
    let first = lab.mapped(5000, "45.45.0.1:3478");
    let second = lab.mapped(5000, "45.45.0.2:7");
    let crossed = lab.send(lab.server, "45.45.0.2:7", first);
    assert_ne!(crossed[0].remote, at("45.45.0.2:7"));
    let answer = lab.send(lab.alice, "192.168.1.10:5000", crossed[0].remote);
    assert_eq!(answer[0].remote, first);
    assert_eq!(answer[0].local, at("45.45.0.2:7"));
    assert_eq!(lab.mapped(5000, "45.45.0.2:7"), second);
}

#[test]
fn without_hairpin_a_packet_to_the_own_external_address_is_lost() {
    let mut lab = home(Nat::default());
    let bob = lab.send(lab.bob, "192.168.1.11:6000", at("45.45.0.1:1"))[0].remote;
    assert!(lab.send(lab.alice, "192.168.1.10:5000", bob).is_empty());
}

#[test]
fn hairpin_shows_the_source_that_it_is_told_to() {
    let seen = |hairpin| {
        let mut lab = home(Nat {
            hairpin,
            ..Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent)
        });
        let bob = lab.send(lab.bob, "192.168.1.11:6000", at("45.45.0.1:1"))[0].remote;
        let arrived = lab.send(lab.alice, "192.168.1.10:5000", bob);
        assert_eq!(arrived[0].host, lab.bob);
        arrived[0].remote
    };
    assert_eq!(seen(Hairpin::InternalSource), at("192.168.1.10:5000"));
    assert_eq!(seen(Hairpin::ExternalSource), at("45.45.1.1:5000"));
}

#[test]
fn hairpin_with_external_source_obeys_the_filter() {
    let mut lab = home(Nat {
        hairpin: Hairpin::ExternalSource,
        ..Nat::default()
    });
    let alice = lab.mapped(5000, "45.45.0.1:1");
    let bob = lab.send(lab.bob, "192.168.1.11:6000", at("45.45.0.1:1"))[0].remote;
    assert!(lab.send(lab.alice, "192.168.1.10:5000", bob).is_empty());
    let back = lab.send(lab.bob, "192.168.1.11:6000", alice);
    assert_eq!((back[0].host, back[0].remote), (lab.alice, bob));
}

#[test]
fn an_unanswered_session_ends_after_30_s_and_an_answered_one_after_120_s() {
    let mut lab = home(Nat::default());
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    lab.sleep(29);
    assert!(lab.reaches("45.45.0.1:1", mapped));
    lab.sleep(119);
    assert!(lab.reaches("45.45.0.1:1", mapped));
    lab.sleep(120);
    assert!(!lab.reaches("45.45.0.1:1", mapped));
    assert_eq!(lab.world.mappings(lab.router), []);
}

#[test]
fn a_nat_may_let_only_the_inside_keep_a_mapping_alive() {
    let mut lab = home(Nat {
        timeouts: Timeouts {
            inbound_refresh: false,
            ..Timeouts::default()
        },
        ..Nat::default()
    });
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    lab.sleep(20);
    assert!(lab.reaches("45.45.0.1:1", mapped));
    lab.sleep(10);
    assert!(!lab.reaches("45.45.0.1:1", mapped));
}

#[test]
fn a_limited_lifetime_ends_a_mapping_in_full_use() {
    let mut lab = home(Nat {
        timeouts: Timeouts {
            lifetime: Some(Duration::from_secs(60)),
            ..Timeouts::default()
        },
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    });
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    for _ in 0..5 {
        lab.sleep(10);
        assert_eq!(lab.mapped(5000, "45.45.0.1:1"), mapped);
    }
    lab.sleep(10);
    assert_ne!(lab.mapped(5000, "45.45.0.1:1"), mapped);
}

#[test]
fn a_reboot_forgets_the_mappings() {
    let mut lab = home(Nat::default());
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    lab.world.reboot(lab.router);
    assert!(!lab.reaches("45.45.0.1:1", mapped));
}

#[test]
fn a_router_that_accepts_strangers_loses_the_port_towards_them() {
    let mapped_after_a_stranger = |unsolicited| {
        let mut lab = home(Nat {
            unsolicited,
            ..Nat::default()
        });
        let mapped = lab.mapped(5000, "45.45.0.1:1");
        assert!(!lab.reaches("45.45.0.2:7", mapped), "the stranger is early");
        lab.mapped(5000, "45.45.0.2:7") == mapped
    };
    assert!(mapped_after_a_stranger(Unsolicited::Drop));
    assert!(!mapped_after_a_stranger(Unsolicited::Accept));
}

#[test]
fn a_lost_port_comes_back_when_the_stranger_is_silent_for_30_s() {
    let mut lab = home(Nat {
        unsolicited: Unsolicited::Accept,
        ..Nat::default()
    });
    let mapped = lab.mapped(5000, "45.45.0.1:1");
    assert!(!lab.reaches("45.45.0.2:7", mapped));
    lab.sleep(20);
    assert_eq!(lab.mapped(5000, "45.45.0.1:1"), mapped);
    lab.sleep(10);
    assert_eq!(lab.mapped(5000, "45.45.0.2:7"), mapped);
}

/// A host with IPv6 alone behind a NAT64 (RFC 6146).
fn behind_nat64(nat: Nat) -> (Lab, HostId, SocketAddr) {
    let mut lab = home(Nat::default());
    let core = lab.world.core();
    let router = Router {
        outside: vec![ip("45.45.3.1")],
        v4: Gate::Nat64(nat),
        ..Router::default()
    };
    let router = lab.world.add_router("nat64", core, &router);
    let host = lab.world.add_host("six");
    let inside = lab.world.inside(router);
    let address = ip("2a05:4545:3::10");
    lab.world.attach(host, inside, &[address], Link::default());
    (lab, host, SocketAddr::new(address, 5000))
}

#[test]
fn a_nat64_translates_what_goes_to_its_prefix_and_filters_what_comes() {
    let (mut lab, host, own) = behind_nat64(Nat::default());
    let server = synthesised(at("45.45.0.1:3478"));
    assert_eq!(server, at("[64:ff9b::2d2d:1]:3478"));
    let arrived = exchange(&mut lab.world, host, own, server);
    let seen = at("45.45.3.1:5000");
    assert_eq!((arrived[0].host, arrived[0].remote), (lab.server, seen));
    let answer = lab.send(lab.server, "45.45.0.1:3478", seen);
    assert_eq!((answer[0].host, answer[0].local), (host, own));
    assert_eq!(answer[0].remote, server);
    assert!(!lab.reaches("45.45.0.2:3478", seen), "a stranger");
}

#[test]
fn behind_a_nat64_there_is_nothing_but_its_prefix() {
    let (mut lab, host, own) = behind_nat64(Nat::default());
    let elsewhere = at("[2a05:4545::1]:3478");
    assert_eq!(exchange(&mut lab.world, host, own, elsewhere), []);
    let own_address = synthesised(at("45.45.3.1:5000"));
    assert_eq!(
        exchange(&mut lab.world, host, own, own_address),
        [],
        "no hairpin"
    );
}

#[test]
fn peers_behind_a_nat64_and_a_nat_punch_through_both() {
    let (mut lab, host, own) = behind_nat64(Nat::default());
    let seen = lab.mapped(6000, "45.45.0.1:3478");
    assert_eq!(exchange(&mut lab.world, host, own, synthesised(seen)), []);
    let to = at("45.45.3.1:5000");
    let arrived = lab.send(lab.alice, "192.168.1.10:6000", to);
    assert_eq!(
        (arrived[0].host, arrived[0].remote),
        (host, synthesised(seen))
    );
    let back = exchange(&mut lab.world, host, own, synthesised(seen));
    assert_eq!((back[0].host, back[0].remote), (lab.alice, to));
}

#[test]
fn nested_nats_translate_twice_and_filter_twice() {
    let mut lab = home(Nat::new(
        Mapping::EndpointIndependent,
        Filtering::EndpointIndependent,
    ));
    let inner = masquerade("192.168.1.2", apdm(Allocation::Random(NARROW)));
    let inner = lab.world.add_router("inner", lab.lan, &inner);
    let carol = lab.world.add_host("carol");
    let network = lab.world.inside(inner);
    lab.world
        .attach(carol, network, &[ip("192.168.1.10")], Link::default());

    let arrived = lab.send(carol, "192.168.1.10:5000", at("45.45.0.1:1"));
    let mapped = arrived[0].remote;
    assert_eq!(mapped.ip(), ip(WAN));
    assert!(mapped.port() >= 30_000, "the port that the inner NAT gave");
    assert!(lab.reaches("45.45.0.1:1", mapped));
    assert!(!lab.reaches("45.45.0.2:1", mapped), "the inner NAT filters");
}

#[test]
fn an_ipv6_firewall_keeps_addresses_and_lets_answers_in() {
    let mut world = World::new(Instant::now(), seed(1));
    let core = world.core();
    let server = world.add_host("server");
    world.attach(server, core, &[ip("2001:db8::1")], Link::default());
    let firewall = Router {
        v6: Gate::Firewall(Firewall::default()),
        ..Router::default()
    };
    let outer = world.add_router("outer", core, &firewall);
    let lan = world.inside(outer);
    let inner = world.add_router("inner", lan, &firewall);
    let home = world.inside(inner);
    let alice = world.add_host("alice");
    world.attach(alice, home, &[ip("2001:db8:a::10")], Link::default());

    let (from, to) = (at("[2001:db8:a::10]:5000"), at("[2001:db8::1]:1"));
    assert!(exchange(&mut world, server, to, from).is_empty());
    assert_eq!(exchange(&mut world, alice, from, to)[0].remote, from);
    assert_eq!(exchange(&mut world, server, to, from)[0].host, alice);
    let other = at("[2001:db8::1]:2");
    assert!(exchange(&mut world, server, other, from).is_empty());
}
