//! The client of RFC 5780 says what the simulated routers do.

mod sim_support;

use postern_lab::sim::{Link, Nat, Pipe, Timeouts};
use postern_proto::punch;
use postern_proto::stun::behaviour::LifetimeEvent;
use postern_proto::stun::{Alternate, BindingServer};
use sim_support::at;
use sim_support::behaviour::{House, report};
use std::time::Duration;

#[test]
fn a_second_address_that_nobody_answers_at_proves_nothing() {
    let mut house = House::behind(1, Nat::default());
    let alternate = Alternate {
        primary: at("45.45.0.1:3478"),
        // Nobody has this address.
        secondary: at("45.45.0.9:3479"),
    };
    house.server = BindingServer::new().with_alternates(vec![alternate]);
    let (findings, _) = house.discover(8);
    assert_eq!(report(&findings).filtering, punch::Filtering::Unknown);
    assert_eq!(findings.two_addresses, None);
}

#[test]
fn loss_costs_time_and_no_truth() {
    for number in 0..20 {
        let mut house = House::behind(number, Nat::default());
        let interface = house.world.interface_of(house.host);
        let lossy = Link::symmetric(Pipe {
            latency: Duration::from_millis(30),
            loss: 0.05,
            ..Pipe::default()
        });
        house.world.set_link(interface, lossy);
        let (findings, took) = house.discover(28);
        let found = report(&findings);
        assert_eq!(found.mapping, punch::Mapping::EndpointIndependent);
        assert_eq!(found.filtering, punch::Filtering::AddressAndPortDependent);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn the_lifetime_of_an_idle_mapping_is_bounded_within_seconds() {
    for seconds in [30, 60, 120, 200] {
        let lifetime = Duration::from_secs(seconds);
        let nat = Nat {
            timeouts: Timeouts {
                replied: lifetime,
                unreplied: lifetime,
                ..Timeouts::default()
            },
            ..Nat::default()
        };
        let (end, took) = House::behind(1, nat).lifetime();
        let LifetimeEvent::Done { at_least, at_most } = end else {
            panic!("{end:?}");
        };
        let at_most = at_most.unwrap();
        assert!(at_least <= lifetime && lifetime <= at_most, "{end:?}");
        assert!(at_most - at_least <= lifetime / 6, "{end:?}");
        // The first round, and what is between two of its waits.
        assert!(took < lifetime * 3 + Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn a_mapping_that_outlives_the_measurement_and_a_server_that_cannot_measure_are_said() {
    let nat = Nat {
        timeouts: Timeouts {
            replied: Duration::from_secs(3600),
            ..Timeouts::default()
        },
        ..Nat::default()
    };
    let (end, _) = House::behind(1, nat).lifetime();
    let at_least = Duration::from_secs(305);
    let expected = LifetimeEvent::Done {
        at_least,
        at_most: None,
    };
    assert_eq!(end, expected);
    let mut house = House::behind(1, Nat::default());
    house.server = BindingServer::new();
    assert_eq!(house.lifetime().0, LifetimeEvent::Failed);
}
