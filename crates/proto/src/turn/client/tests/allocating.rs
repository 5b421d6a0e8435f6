//! Allocate, credentials, redirections and refusals.

use postern_wire::stun::AttributeType;
use postern_wire::turn::{AddressFamily, Lifetime, RequestedTransport};

use super::*;

fn ends_with(auth: Auth, prepare: impl FnOnce(&mut World)) -> Option<Failure> {
    let mut world = World::new(auth, config());
    prepare(&mut world);
    world.run(secs(60));
    world.failure()
}

#[test]
fn it_allocates_with_every_kind_of_credentials() {
    for auth in [Auth::Open, Auth::Md5, Auth::Sha256, Auth::Anonymous] {
        let mut world = World::new(auth, config());
        world.run(secs(1));
        let allocation = world.client.allocation().unwrap();
        assert_eq!(allocation.relayed, at("198.51.100.9:50000"), "{auth:?}");
        assert_eq!(allocation.mapped, Some(at(LOCAL)));
        assert_eq!(allocation.lifetime, secs(600));
        let expected = if auth == Auth::Open { 1 } else { 2 };
        assert_eq!(world.server.asked.len(), expected, "{auth:?}");
    }
}

#[test]
fn the_first_request_says_nothing_about_the_user() {
    let world = World::allocated();
    let first = parse(&world.server.asked[0]);
    assert!(!first.contains(AttributeType::USERNAME));
    assert_eq!(first.get(), Ok(Some(RequestedTransport::UDP)));
}

#[test]
fn wrong_credentials_are_tried_once() {
    let mut config = config();
    config.credentials = Some(Credentials::new(USER, "wrong").unwrap());
    let mut world = World::new(Auth::Sha256, config);
    world.run(secs(60));
    assert_eq!(world.failure(), Some(Failure::Unauthenticated));
    assert_eq!(world.server.asked.len(), 2);
    assert_eq!(world.client.poll_timeout(), None);
}

#[test]
fn without_credentials_a_challenge_is_the_end() {
    let mut config = config();
    config.credentials = None;
    let mut world = World::new(Auth::Md5, config);
    world.run(secs(1));
    assert_eq!(world.failure(), Some(Failure::NoCredentials));
}

#[test]
fn a_weakened_challenge_is_not_answered() {
    assert_eq!(ends_with(Auth::BidDown, |_| {}), Some(Failure::BidDown));
    assert_eq!(ends_with(Auth::Exotic, |_| {}), Some(Failure::NoAlgorithm));
}

#[test]
fn a_server_cannot_fall_back_to_md5_later() {
    let mut world = World::allocated();
    world.server.auth = Auth::Md5;
    world.run(secs(601));
    assert_eq!(world.failure(), Some(Failure::BidDown));
}

#[test]
fn a_stale_nonce_is_replaced_and_not_for_ever() {
    let mut world = World::allocated();
    world.server.nonce += 1;
    world.run(secs(590));
    assert_eq!(world.failure(), None);
    assert_eq!(world.done(Method::REFRESH).len(), 1);
    let stale = |world: &mut World| world.server.always_stale = true;
    assert_eq!(ends_with(Auth::Md5, stale), Some(Failure::StaleNonce));
}

#[test]
fn a_lost_request_is_sent_again_over_datagrams_and_not_over_streams() {
    for (transport, times) in [(Transport::Datagram, 7), (Transport::Stream, 1)] {
        let mut world = World::new(
            Auth::Md5,
            Config {
                transport,
                ..config()
            },
        );
        world.server.deaf.insert(Method::ALLOCATE.number());
        world.run(secs(60));
        assert_eq!(world.sent.len(), times);
        assert!(world.events.iter().any(|(at, event)| {
            *at == ms(39_500) && *event == Event::Failed(Failure::TimedOut)
        }));
    }
}

#[test]
fn every_refusal_has_a_name() {
    for (code, failure) in [
        (400, Failure::BadRequest),
        (403, Failure::Forbidden),
        (420, Failure::UnknownAttribute),
        (437, Failure::AllocationMismatch),
        (440, Failure::FamilyNotSupported),
        (441, Failure::WrongCredentials),
        (442, Failure::TransportNotSupported),
        (443, Failure::PeerFamily),
        (486, Failure::QuotaReached),
        (500, Failure::ServerError),
        (508, Failure::NoCapacity),
        (599, Failure::Code(599)),
    ] {
        let refuse = |w: &mut World| w.server.errors.push_back((Method::ALLOCATE, code));
        assert_eq!(ends_with(Auth::Sha256, refuse), Some(failure), "{code}");
    }
}

#[test]
fn what_excludes_each_other_is_not_asked_for_together() {
    let mut config = config();
    config.additional_ipv6 = true;
    config.family = Some(AddressFamily::V4);
    config.even_port = Some(true);
    config.lifetime = Some(secs(1200));
    let mut world = World::new(Auth::Open, config.clone());
    world.run(secs(1));
    let asked = parse(&world.server.asked[0]);
    assert!(asked.contains(AttributeType::ADDITIONAL_ADDRESS_FAMILY));
    assert!(!asked.contains(AttributeType::REQUESTED_ADDRESS_FAMILY));
    assert!(!asked.contains(AttributeType::EVEN_PORT));
    assert_eq!(asked.get(), Ok(Some(Lifetime(1200))));
    let allocation = world.client.allocation().unwrap();
    assert_eq!(allocation.additional, Some(at("[2001:db8::9]:50000")));
    config.reservation = Some(*b"reserved");
    let mut world = World::new(Auth::Open, config);
    world.run(secs(1));
    let asked = parse(&world.server.asked[0]);
    assert!(asked.contains(AttributeType::RESERVATION_TOKEN));
    assert!(!asked.contains(AttributeType::ADDITIONAL_ADDRESS_FAMILY));
}

#[test]
fn an_even_port_brings_a_reservation() {
    let mut config = config();
    config.even_port = Some(true);
    let mut world = World::new(Auth::Open, config);
    world.run(secs(1));
    let allocation = world.client.allocation().unwrap();
    assert_eq!(allocation.reservation, Some(*b"reserved"));
}

#[test]
fn a_server_that_cannot_set_df_is_asked_again_without() {
    let mut config = config();
    config.dont_fragment = true;
    let mut world = World::new(Auth::Sha256, config);
    world.server.no_dont_fragment = true;
    world.run(secs(1));
    assert!(world.client.allocation().is_some());
    assert_eq!(world.server.asked.len(), 3);
}

#[test]
fn a_redirection_leads_to_another_server_of_the_same_family_once() {
    let other = at("192.0.2.2:3478");
    let mut world = World::new(Auth::Open, config());
    world.server.redirect = Some(other);
    world.run(secs(1));
    let redirected = Event::Redirected {
        server: other,
        domain: None,
    };
    assert!(world.has(&redirected));
    world.server.redirect = None;
    world.client.reconnected(world.now, at("10.0.0.2:5001"));
    world.run(secs(1));
    assert!(world.client.allocation().is_some());
    assert_eq!(world.client.server(), other);
    assert_eq!(world.client.local(), at("10.0.0.2:5001"));
}

#[test]
fn redirections_in_circles_and_to_another_family_are_refused() {
    for bad in [SERVER, "[2001:db8::1]:3478", "192.0.2.2:0", "0.0.0.0:1"] {
        let mut world = World::new(Auth::Md5, config());
        world.server.redirect = Some(at(bad));
        world.run(secs(1));
        assert_eq!(world.failure(), Some(Failure::BadRedirect), "{bad}");
    }
    let mut world = World::new(Auth::Open, config());
    for n in 0..=MAX_REDIRECTS {
        world.server.redirect = Some(at(&format!("192.0.2.{}:3478", 10 + n)));
        world.run(secs(1));
        world.client.reconnected(world.now, at(LOCAL));
    }
    assert_eq!(world.failure(), Some(Failure::BadRedirect));
}

#[test]
fn closing_gives_the_allocation_back() {
    let mut world = World::allocated();
    world.client.close(world.now);
    world.run(secs(1));
    assert!(world.has(&Event::Closed));
    assert_eq!(world.server.client, None);
    assert_eq!(world.client.poll_timeout(), None);
}

#[test]
fn closing_before_the_answer_gives_back_what_the_answer_brings() {
    let mut world = World::new(Auth::Open, config());
    world.client.close(world.now);
    world.run(secs(1));
    assert_eq!(world.done(Method::REFRESH).len(), 1);
    assert_eq!(world.server.client, None);
    assert_eq!(world.events.len(), 1);
    assert!(world.has(&Event::Closed));
}

#[test]
fn closing_ends_also_when_the_server_is_gone() {
    let mut world = World::allocated();
    world.server.deaf.insert(Method::REFRESH.number());
    world.client.close(world.now);
    world.run(secs(10));
    assert!(world.has(&Event::Closed));
}
