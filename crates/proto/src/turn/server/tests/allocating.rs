//! Allocate: what is given, and every reason to refuse.

use std::net::SocketAddr;

use postern_wire::stun::{
    AlternateServer, Attribute, Builder, Method, TransactionId, XorMappedAddress,
};
use postern_wire::turn::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, DontFragment,
    DraftAdditionalAddressFamily, DraftAddressErrorCode, EvenPort, Lifetime, MobilityTicket,
    RequestedAddressFamily, RequestedTransport, ReservationToken,
};

use super::super::*;
use super::world::*;

const UDP: RequestedTransport = RequestedTransport::UDP;
const TCP: RequestedTransport = RequestedTransport::TCP;
const V4: AddressFamily = AddressFamily::V4;
const V6: AddressFamily = AddressFamily::V6;
const PAIR: EvenPort = EvenPort { reserve_next: true };

fn ask(world: &mut World, from: &Client, fill: impl FnOnce(Builder) -> Builder) -> Reply {
    world.ask(from, Method::ALLOCATE, fill).unwrap()
}

fn code(from: &Client, fill: impl FnOnce(Builder) -> Builder) -> u16 {
    ask(&mut World::new(), from, fill).code()
}

#[test]
fn an_allocation_has_an_address_of_the_pool_and_ten_minutes() {
    let mut world = World::new();
    let reply = world.allocate(&alice());
    assert_eq!(reply.relayed().ip().to_string(), RELAY_V4);
    assert!(reply.relayed().port() >= 49_152);
    assert_eq!(reply.lifetime(), 600);
    let mapped = reply.message().get::<XorMappedAddress>().unwrap().unwrap();
    assert_eq!(mapped.0, alice().at.client.0);
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn a_lifetime_is_between_the_default_and_the_maximum() {
    for (wish, granted) in [(1, 600), (600, 600), (1800, 1800), (u32::MAX, 3600)] {
        let reply = ask(&mut World::new(), &alice(), |request| {
            request.attribute(&UDP).attribute(&Lifetime(wish))
        });
        assert_eq!(reply.lifetime(), granted);
    }
}

#[test]
fn the_advertised_address_is_told_and_the_other_one_bound() {
    let mut config = config();
    config.relay_v4 = Some(RelayAddress {
        bind: "10.1.2.3".parse().unwrap(),
        advertised: RELAY_V4.parse().unwrap(),
    });
    let mut world = World::with(config);
    let reply = world.allocate(&alice());
    assert_eq!(reply.relayed().ip().to_string(), RELAY_V4);
    let Event::OpenRelay { address, .. } = world.events[0] else {
        panic!("{:?}", world.events);
    };
    assert_eq!(
        address,
        SocketAddr::new("10.1.2.3".parse().unwrap(), reply.relayed().port())
    );
}

#[test]
fn a_retransmitted_request_is_answered_alike() {
    let (mut world, id) = (World::new(), TransactionId([9; 12]));
    let mut ask = || {
        let fill = |request: Builder| request.attribute(&UDP).attribute(&Lifetime(900));
        world.ask_as(&alice(), Method::ALLOCATE, id, fill).unwrap()
    };
    let (first, second) = (ask(), ask());
    let shown = |reply: &Reply| (reply.relayed(), reply.lifetime(), reply.0.len());
    assert_eq!(shown(&first), shown(&second));
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn another_request_on_the_five_tuple_is_a_mismatch() {
    let mut world = World::new();
    world.allocate(&alice());
    assert_eq!(world.try_allocate(&alice()).code(), 437);
}

#[test]
fn requests_while_the_relay_opens_wait_for_it() {
    let (mut world, id) = (World::new(), TransactionId([9; 12]));
    let key = crate::stun::Key::md5("alice", REALM, "wonderland");
    let nonce = world.nonce(&alice().at);
    let bytes = Builder::new(postern_wire::stun::Class::Request, Method::ALLOCATE, id)
        .attribute(&UDP)
        .attribute(&postern_wire::stun::Username::new("alice").unwrap())
        .attribute(&postern_wire::stun::Realm::new(REALM).unwrap())
        .attribute(&postern_wire::stun::Nonce::new(&nonce).unwrap())
        .message_integrity(key.as_bytes())
        .build();
    world.transmits.clear();
    for _ in 0..3 {
        world.server.handle_input(world.now, &alice().at, &bytes);
        assert_eq!(world.server.poll_transmit(), None);
    }
    world.drain();
    assert_eq!(world.relays().len(), 1);
    assert_eq!(world.transmits.len(), 1);
}

#[test]
fn a_transport_must_be_asked_for_and_be_known() {
    assert_eq!(code(&alice(), |request| request), 400);
    let other = RequestedTransport(132);
    assert_eq!(code(&alice(), |request| request.attribute(&other)), 442);
}

#[test]
fn tcp_relays_can_be_switched_off() {
    let mut config = config();
    config.tcp_relays = false;
    let mut world = World::with(config);
    let reply = ask(&mut world, &alice_tcp(), |request| request.attribute(&TCP));
    assert_eq!(reply.code(), 442);
}

#[test]
fn a_tcp_relay_needs_a_stream_and_has_no_port_wishes() {
    assert_eq!(code(&alice(), |request| request.attribute(&TCP)), 400);
    let from = alice_tcp();
    assert_eq!(code(&from, |request| request.attribute(&TCP)), 0);
    assert_eq!(
        code(&from, |request| request.attribute(&TCP).attribute(&PAIR)),
        400
    );
    assert_eq!(
        code(&from, |request| request
            .attribute(&TCP)
            .attribute(&DontFragment)),
        400
    );
    let token = ReservationToken([1; 8]);
    assert_eq!(
        code(&from, |request| request.attribute(&TCP).attribute(&token)),
        400
    );
}

#[test]
fn wishes_that_contradict_each_other_are_a_bad_request() {
    let token = ReservationToken([1; 8]);
    let family = RequestedAddressFamily(V6);
    let both = AdditionalAddressFamily(V6);
    let udp = |request: Builder| request.attribute(&UDP);
    assert_eq!(
        code(&alice(), |r| udp(r).attribute(&token).attribute(&PAIR)),
        400
    );
    assert_eq!(
        code(&alice(), |r| udp(r).attribute(&token).attribute(&family)),
        400
    );
    assert_eq!(
        code(&alice(), |r| udp(r).attribute(&token).attribute(&both)),
        400
    );
    assert_eq!(
        code(&alice(), |r| udp(r).attribute(&family).attribute(&both)),
        400
    );
    assert_eq!(
        code(&alice(), |r| udp(r).attribute(&PAIR).attribute(&both)),
        400
    );
    let v4 = AdditionalAddressFamily(V4);
    assert_eq!(code(&alice(), |r| udp(r).attribute(&v4)), 400);
}

#[test]
fn each_family_can_be_asked_for_if_the_server_has_it() {
    for (family, relay) in [(V4, RELAY_V4), (V6, RELAY_V6)] {
        let family = RequestedAddressFamily(family);
        let reply = ask(&mut World::new(), &alice(), |request| {
            request.attribute(&UDP).attribute(&family)
        });
        assert_eq!(reply.relayed().ip().to_string(), relay);
    }
    let mut config = config();
    config.relay_v6 = None;
    let reply = ask(&mut World::with(config), &alice(), |request| {
        request
            .attribute(&UDP)
            .attribute(&RequestedAddressFamily(V6))
    });
    assert_eq!(reply.code(), 440);
    let kind = postern_wire::stun::AttributeType::REQUESTED_ADDRESS_FAMILY;
    let unknown = |request: Builder| request.attribute(&UDP).raw_attribute(kind, &[3, 0, 0, 0]);
    assert_eq!(code(&alice(), unknown), 440);
}

#[test]
fn both_families_can_be_had_at_once() {
    let mut world = World::new();
    let reply = ask(&mut world, &alice(), |request| {
        request
            .attribute(&UDP)
            .attribute(&AdditionalAddressFamily(V6))
    });
    let ips: Vec<_> = reply
        .all_relayed()
        .iter()
        .map(|a| a.ip().to_string())
        .collect();
    assert_eq!(ips, [RELAY_V4, RELAY_V6]);
}

#[test]
fn with_one_family_of_two_the_answer_says_why() {
    let mut config = config();
    config.relay_v6 = None;
    let reply = ask(&mut World::with(config), &alice(), |request| {
        request
            .attribute(&UDP)
            .attribute(&AdditionalAddressFamily(V6))
    });
    assert_eq!(reply.code(), 0);
    let message = reply.message();
    let missing = message.get::<AddressErrorCode<'_>>().unwrap().unwrap();
    assert_eq!((missing.family, missing.error.code()), (V6, 440));
}

/// coturn 4.6.1, as Debian ships it.
#[test]
fn who_asks_with_the_types_of_the_drafts_is_answered_with_them() {
    let draft = |request: Builder| {
        request
            .attribute(&UDP)
            .attribute(&DraftAdditionalAddressFamily(V6))
    };
    let reply = ask(&mut World::new(), &alice(), draft);
    assert_eq!(reply.all_relayed().len(), 2);
    let mut config = config();
    config.relay_v6 = None;
    let reply = ask(&mut World::with(config), &alice(), draft);
    let message = reply.message();
    let told = message.get::<DraftAddressErrorCode<'_>>().unwrap().unwrap();
    assert_eq!((told.0.family, told.0.error.code()), (V6, 440));
    assert!(!message.contains(AddressErrorCode::TYPE));
    let v4 = |request: Builder| {
        request
            .attribute(&UDP)
            .attribute(&DraftAdditionalAddressFamily(AddressFamily::V4))
    };
    assert_eq!(ask(&mut World::new(), &alice(), v4).code(), 400);
}

#[test]
fn a_family_that_cannot_be_opened_is_reported_too() {
    let mut world = World::new();
    world.open_results = vec![Ok(()), Err(OpenError::Unavailable)];
    let reply = ask(&mut world, &alice(), |request| {
        request
            .attribute(&UDP)
            .attribute(&AdditionalAddressFamily(V6))
    });
    let message = reply.message();
    let missing = message.get::<AddressErrorCode<'_>>().unwrap().unwrap();
    assert_eq!((missing.family, missing.error.code()), (V6, 508));
    assert_eq!(reply.all_relayed().len(), 1);
}

#[test]
fn another_port_is_tried_when_one_is_in_use() {
    let mut world = World::new();
    world.open_results = vec![Err(OpenError::AddressInUse); 8];
    let reply = world.allocate(&alice());
    assert_eq!(world.relays().len(), 9);
    assert_eq!(reply.all_relayed().len(), 1);
}

#[test]
fn without_a_port_there_is_no_capacity() {
    let mut world = World::new();
    world.open_results = vec![Err(OpenError::AddressInUse); 9];
    assert_eq!(world.try_allocate(&alice()).code(), 508);
    assert_eq!(world.server.allocations(), 0);
    world.open_results = vec![Err(OpenError::Unavailable)];
    assert_eq!(world.try_allocate(&bob()).code(), 508);
    let mut config = config();
    config.ports = 50_000..=50_000;
    let mut world = World::with(config);
    world.allocate(&alice());
    assert_eq!(world.try_allocate(&bob()).code(), 508);
}

#[test]
fn an_even_port_is_even() {
    for _ in 0..20 {
        let mut world = World::new();
        let reply = ask(&mut world, &alice(), |request| {
            request.attribute(&UDP).attribute(&EvenPort {
                reserve_next: false,
            })
        });
        assert!(reply.relayed().port().is_multiple_of(2));
        let token = reply.message().get::<ReservationToken>();
        assert_eq!(token, Ok(None));
    }
}

fn pair(world: &mut World) -> (SocketAddr, ReservationToken) {
    let reply = ask(world, &alice(), |request| {
        request.attribute(&UDP).attribute(&PAIR)
    });
    let token = reply.message().get::<ReservationToken>().unwrap().unwrap();
    (reply.relayed(), token)
}

fn redeem(world: &mut World, from: &Client, token: ReservationToken) -> Reply {
    ask(world, from, |request| {
        request.attribute(&UDP).attribute(&token)
    })
}

#[test]
fn a_token_gives_the_next_port_once() {
    let mut world = World::new();
    let (first, token) = pair(&mut world);
    let second = client(Transport::Udp, "203.0.113.5:40002", "alice");
    let reply = redeem(&mut world, &second, token);
    assert_eq!(
        reply.relayed(),
        SocketAddr::new(first.ip(), first.port() + 1)
    );
    let third = client(Transport::Udp, "203.0.113.5:40003", "alice");
    assert_eq!(redeem(&mut world, &third, token).code(), 508);
}

#[test]
fn a_token_is_good_for_30_seconds_and_its_owner() {
    let mut world = World::new();
    let (_, token) = pair(&mut world);
    assert_eq!(redeem(&mut world, &bob(), token).code(), 508);
    world.pass(30);
    let second = client(Transport::Udp, "203.0.113.5:40002", "alice");
    assert_eq!(redeem(&mut world, &second, token).code(), 508);
}

#[test]
fn a_reserved_port_is_nobody_elses() {
    let mut config = config();
    config.ports = 50_000..=50_001;
    let mut world = World::with(config);
    pair(&mut world);
    assert_eq!(world.try_allocate(&bob()).code(), 508);
    world.pass(30);
    assert_eq!(world.try_allocate(&bob()).code(), 0);
}

#[test]
fn mobility_can_be_switched_off() {
    let mut config = config();
    config.mobility = false;
    let reply = ask(&mut World::with(config), &alice(), |request| {
        request.attribute(&UDP).attribute(&MobilityTicket(&[]))
    });
    assert_eq!(reply.code(), 405);
}

#[test]
fn a_new_allocation_brings_no_ticket() {
    let fill = |request: Builder| request.attribute(&UDP).attribute(&MobilityTicket(b"old"));
    assert_eq!(code(&alice(), fill), 400);
}

#[test]
fn a_draining_server_sends_clients_elsewhere() {
    let mut world = World::new();
    world.allocate(&bob());
    world.server.drain(Alternates {
        v4: Some(addr("192.0.2.9:3478")),
        v6: None,
    });
    let reply = world.try_allocate(&alice());
    assert_eq!(reply.code(), 300);
    let other = reply.message().get::<AlternateServer>().unwrap().unwrap();
    assert_eq!(other.0, addr("192.0.2.9:3478"));
    let v6 = client(Transport::Udp, "[2001:db8:9::1]:4000", "alice");
    assert_eq!(world.try_allocate(&v6).code(), 508);
    assert_eq!(world.refresh(&bob(), 600).code(), 0);
}

#[test]
fn no_two_allocations_have_the_same_address() {
    let mut config = config();
    config.ports = 50_000..=50_099;
    let mut world = World::with(config);
    let mut seen = std::collections::BTreeSet::new();
    for port in 1..=100 {
        let from = client(Transport::Udp, &format!("203.0.113.5:{port}"), "alice");
        assert!(seen.insert(world.allocate(&from).relayed()));
    }
}

#[test]
fn a_kept_port_goes_with_the_allocation_that_asked_for_it() {
    let mut config = config();
    config.ports = 50_000..=50_001;
    let mut world = World::with(config);
    for _ in 0..3 {
        pair(&mut world);
        world.refresh(&alice(), 0);
    }
    world.pass(40);
    assert_eq!(world.server.poll_timeout(), None);
}
