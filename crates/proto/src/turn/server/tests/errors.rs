//! Every error code of RFC 8489, 8656, 6062, 6156 and 8016, and the tests that show when a
//! client gets it. `every_test_of_the_list_exists` keeps the list true; the tests below
//! ask for each code with each request.
//!
//! | code | where | when | shown by |
//! |---|---|---|---|
//! | 300 | RFC 8489 14.8 | the server drains | `allocating::a_draining_server_sends_clients_elsewhere` |
//! | 400 | RFC 8489 6.3.1 | what cannot be read | `errors::a_malformed_attribute_is_a_bad_request_to_every_request` |
//! | 400 | RFC 8489 9.2.4 | a seal without a name, realm or nonce | `challenge::a_seal_without_name_realm_or_nonce_is_a_bad_request` |
//! | 400 | RFC 8489 9.2.4 | a list of algorithms that was shortened | `challenge::a_shortened_list_of_algorithms_is_a_bid_down_and_refused` |
//! | 400 | RFC 8656 7.2 | no transport | `allocating::a_transport_must_be_asked_for_and_be_known` |
//! | 400 | RFC 8656 7.2 | wishes that exclude each other | `allocating::wishes_that_contradict_each_other_are_a_bad_request` |
//! | 400 | RFC 8656 10.2 | no peer | `permissions::a_request_without_a_peer_is_bad` |
//! | 400 | RFC 8656 12.2 | no such channel number | `permissions::a_channel_must_have_a_number_in_range_and_a_peer` |
//! | 400 | RFC 8656 12.2 | channel or peer bound otherwise | `permissions::a_channel_and_a_peer_belong_to_each_other_alone` |
//! | 400 | RFC 6062 5.1 | a TCP relay over UDP, with a wish for ports or DF | `allocating::a_tcp_relay_needs_a_stream_and_has_no_port_wishes` |
//! | 400 | RFC 6062 5.2 | Connect without a peer, or for a UDP relay | `connections::connect_needs_a_tcp_allocation_and_a_peer` |
//! | 400 | RFC 6062 5.4 | an id that is unknown, used or not told yet | `connections::a_used_an_unknown_and_an_unripe_connection_id_are_bad_requests` |
//! | 400 | RFC 6062 5.4 | ConnectionBind on no stream, or on the allocation's | `connections::a_connection_is_bound_by_its_owner_on_a_stream_of_its_own` |
//! | 400 | RFC 6062 5 | a channel of a TCP relay | `permissions::there_are_no_channels_on_tcp_relays` |
//! | 400 | RFC 8016 3.2 | a ticket that is none | `mobility::a_ticket_that_is_none_is_a_bad_request` |
//! | 400 | RFC 8016 3.2 | a used ticket | `mobility::a_ticket_is_good_once` |
//! | 401 | RFC 8489 9.2.4 | no seal | `errors::who_does_not_seal_is_challenged_by_every_request` |
//! | 401 | RFC 8489 9.2.4 | a wrong password or name | `challenge::a_wrong_password_and_an_unknown_user_get_401` |
//! | 403 | RFC 8656 10.2, 12.2, RFC 6062 5.2 | the policy denies the peer | `deny::every_row_is_refused_by_every_request_and_in_every_packet` |
//! | 403 | RFC 8656 10.2, 12.2 | the server itself listens there | `deny::no_rule_allows_what_the_server_itself_listens_at` |
//! | 405 | RFC 8016 3.1.2 | no mobility, Allocate | `allocating::mobility_can_be_switched_off` |
//! | 405 | RFC 8016 3.2.2 | no mobility, Refresh | `mobility::without_mobility_a_ticket_is_forbidden` |
//! | 420 | RFC 8489 6.3.1 | an attribute that must be understood | `errors::an_unknown_attribute_is_named_by_every_request` |
//! | 437 | RFC 8656 7.2 | the 5-tuple has an allocation | `allocating::another_request_on_the_five_tuple_is_a_mismatch` |
//! | 437 | RFC 8656 8.2, 10.2, 12.2, RFC 6062 5.2 | it has none | `errors::without_an_allocation_there_is_a_mismatch` |
//! | 437 | RFC 8016 3.2 | it has moved on | `mobility::what_is_on_the_way_from_the_old_address_counts_until_the_new_one_speaks` |
//! | 438 | RFC 8489 9.2.4 | a nonce that is old or another client's | `challenge::a_nonce_is_stale_after_its_lifetime_and_elsewhere` |
//! | 438 | RFC 8489 9.2.4 | a nonce that was never given | `errors::a_nonce_that_was_never_given_is_stale_to_every_request` |
//! | 440 | RFC 8656 7.2, RFC 6156 4.2 | no relay of that family | `allocating::each_family_can_be_asked_for_if_the_server_has_it` |
//! | 440 | RFC 8656 7.2 | not both families: ADDRESS-ERROR-CODE | `allocating::with_one_family_of_two_the_answer_says_why` |
//! | 441 | RFC 8656 5, RFC 6062 5.2 | another user's allocation | `errors::another_users_allocation_needs_other_credentials` |
//! | 441 | RFC 6062 5.4 | another user's connection | `connections::a_connection_is_bound_by_its_owner_on_a_stream_of_its_own` |
//! | 441 | RFC 8016 3.2 | another user's ticket | `mobility::a_ticket_is_its_owners` |
//! | 442 | RFC 8656 7.2 | neither UDP nor TCP | `allocating::a_transport_must_be_asked_for_and_be_known` |
//! | 442 | RFC 6062 5.1 | TCP relays are switched off | `allocating::tcp_relays_can_be_switched_off` |
//! | 443 | RFC 8656 10.2, 12.2, RFC 6156 6.2 | a peer of another family | `permissions::a_peer_of_the_other_family_is_a_mismatch` |
//! | 443 | RFC 6156 5.2, RFC 8656 8.2 | no such family to refresh | `refreshing::a_family_that_is_not_there_is_a_mismatch` |
//! | 446 | RFC 6062 5.2 | connected, or being connected | `connections::one_connection_with_a_peer_is_enough` |
//! | 447 | RFC 6062 5.2 | the peer refuses | `connections::every_failure_to_connect_is_447` |
//! | 447 | RFC 6062 5.2 | 30 seconds without an answer | `connections::a_peer_that_does_not_answer_is_given_up_after_30_seconds` |
//! | 486 | RFC 8656 7.2 | the quota of a user | `quotas::a_user_has_a_quota_of_allocations` |
//! | 486 | RFC 8016 3.2 | the quota of the address that it moves to | `mobility::moving_counts_against_the_quota_of_the_new_address` |
//! | 508 | RFC 8656 7.2 | no port is left | `allocating::without_a_port_there_is_no_capacity` |
//! | 508 | RFC 8656 7.2 | a token that is used, old or another's | `allocating::a_token_is_good_for_30_seconds_and_its_owner` |
//! | 508 | RFC 8656 10.2, 12.2 | no more permissions or channels | `quotas::permissions_and_channels_have_quotas_that_expiry_gives_back` |
//! | 508 | RFC 6062 5.2 | no more connections | `errors::connect_beyond_a_quota_is_without_capacity` |
//!
//! 487 (RFC 8445, role conflict) is ICE's, and shown by that agent's tests. 500 is never
//! sent: no request can fail for a reason that is not one of the above.

use std::collections::BTreeSet;

use postern_wire::stun::{
    AttributeType, Builder, Class, Method, Nonce, Realm, UnknownAttributes, Username,
};
use postern_wire::turn::{ConnectionId, RequestedTransport, XorPeerAddress};

use super::world::*;
use crate::stun::Key;

const REQUESTS: [Method; 6] = [
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::CONNECT,
    Method::CONNECTION_BIND,
];

/// What a request must have.
fn complete(method: Method, request: Builder) -> Builder {
    let to = XorPeerAddress(addr(PEER));
    match method {
        Method::ALLOCATE => request.attribute(&RequestedTransport::TCP),
        Method::CREATE_PERMISSION | Method::CONNECT => request.attribute(&to),
        Method::CHANNEL_BIND => request.attribute(&channel(0x4000)).attribute(&to),
        Method::CONNECTION_BIND => request.attribute(&ConnectionId(1)),
        _ => request,
    }
}

fn ask(world: &mut World, from: &Client, method: Method) -> Option<u16> {
    let reply = world.ask(from, method, |request| complete(method, request));
    reply.map(|reply| reply.code())
}

#[test]
fn without_an_allocation_there_is_a_mismatch() {
    for method in REQUESTS {
        let code = match method {
            Method::ALLOCATE => 0,
            Method::CONNECTION_BIND => 400,
            _ => 437,
        };
        let got = ask(&mut World::new(), &alice_tcp(), method);
        assert_eq!(got, Some(code), "{method:?}");
    }
}

#[test]
fn another_users_allocation_needs_other_credentials() {
    let mut thief = bob();
    thief.at = alice_tcp().at;
    for method in REQUESTS {
        let mut world = World::new();
        world.allocate_tcp(&alice_tcp());
        let code = match method {
            Method::ALLOCATE => 437,
            Method::CONNECTION_BIND => 400,
            _ => 441,
        };
        assert_eq!(ask(&mut world, &thief, method), Some(code), "{method:?}");
        assert_eq!(world.server.allocations(), 1);
    }
}

#[test]
fn who_does_not_seal_is_challenged_by_every_request() {
    let mut world = World::new();
    world.allocate_tcp(&alice_tcp());
    for method in REQUESTS {
        let id = world.fresh_id();
        let bytes = complete(method, Builder::new(Class::Request, method, id)).build();
        let reply = world.raw(&alice_tcp().at, &bytes).unwrap();
        assert_eq!(reply.code(), 401, "{method:?}");
        let message = reply.message();
        assert_eq!((message.class(), message.method()), (Class::Error, method));
        assert!(message.contains(AttributeType::REALM));
        assert!(message.contains(AttributeType::NONCE));
    }
}

#[test]
fn a_nonce_that_was_never_given_is_stale_to_every_request() {
    let mut world = World::new();
    world.allocate_tcp(&alice_tcp());
    let key = Key::md5("alice", REALM, "wonderland");
    for method in REQUESTS {
        let id = world.fresh_id();
        let bytes = complete(method, Builder::new(Class::Request, method, id))
            .attribute(&Username::new("alice").unwrap())
            .attribute(&Realm::new(REALM).unwrap())
            .attribute(&Nonce::new("obMatJos2AAADforged").unwrap())
            .message_integrity(key.as_bytes())
            .build();
        let reply = world.raw(&alice_tcp().at, &bytes).unwrap();
        assert_eq!(reply.code(), 438, "{method:?}");
        assert!(reply.message().contains(AttributeType::NONCE));
    }
}

#[test]
fn an_unknown_attribute_is_named_by_every_request() {
    let unknown = AttributeType(0x7abc);
    for method in REQUESTS {
        let mut world = World::new();
        let reply = world.ask(&alice_tcp(), method, |request| {
            complete(method, request).raw_attribute(unknown, b"?")
        });
        let reply = reply.unwrap();
        assert_eq!(reply.code(), 420, "{method:?}");
        let named = reply.message().get::<UnknownAttributes>().unwrap().unwrap();
        assert_eq!(named.as_slice(), [unknown], "{method:?}");
        assert_eq!(world.server.allocations(), 0);
    }
}

/// One byte is too short for each of these.
#[test]
fn a_malformed_attribute_is_a_bad_request_to_every_request() {
    let malformed = [
        (Method::ALLOCATE, AttributeType::REQUESTED_TRANSPORT),
        (Method::REFRESH, AttributeType::LIFETIME),
        (Method::CREATE_PERMISSION, AttributeType::XOR_PEER_ADDRESS),
        (Method::CHANNEL_BIND, AttributeType::CHANNEL_NUMBER),
        (Method::CONNECT, AttributeType::XOR_PEER_ADDRESS),
        (Method::CONNECTION_BIND, AttributeType::CONNECTION_ID),
    ];
    for (method, kind) in malformed {
        let mut world = World::new();
        if method != Method::ALLOCATE {
            world.allocate_tcp(&alice_tcp());
        }
        let before = world.server.allocations();
        let reply = world.ask(&alice_tcp(), method, |request| {
            request.raw_attribute(kind, b"?")
        });
        assert_eq!(reply.unwrap().code(), 400, "{method:?}");
        assert_eq!(world.server.allocations(), before);
    }
}

#[test]
fn connect_beyond_a_quota_is_without_capacity() {
    for who in ["user", "address", "total"] {
        let mut config = config();
        let limits = match who {
            "user" => &mut config.quotas.user,
            "address" => &mut config.quotas.address,
            _ => &mut config.quotas.total,
        };
        limits.connections = 1;
        let mut world = World::with(config);
        world.allocate_tcp(&alice_tcp());
        assert_eq!(ask(&mut world, &alice_tcp(), Method::CONNECT), None);
        let reply = world.ask(&alice_tcp(), Method::CONNECT, |request| {
            request.attribute(&XorPeerAddress(addr(OTHER_PEER)))
        });
        assert_eq!(reply.unwrap().code(), 508, "{who}");
    }
}

const FILES: &[(&str, &str)] = &[
    ("allocating", include_str!("allocating.rs")),
    ("challenge", include_str!("challenge.rs")),
    ("connections", include_str!("connections.rs")),
    ("deny", include_str!("deny.rs")),
    ("errors", include_str!("errors.rs")),
    ("mobility", include_str!("mobility.rs")),
    ("permissions", include_str!("permissions.rs")),
    ("quotas", include_str!("quotas.rs")),
    ("refreshing", include_str!("refreshing.rs")),
];

/// The codes of the list, each with the test beside it.
fn listed() -> Vec<(u16, &'static str)> {
    let rows = include_str!("errors.rs").lines();
    rows.filter_map(|row| row.strip_prefix("//! | "))
        .filter_map(|row| {
            let code = row.split(' ').next()?.parse().ok()?;
            Some((code, row.split('`').nth(1)?))
        })
        .collect()
}

#[test]
fn every_test_of_the_list_exists() {
    for (code, test) in listed() {
        let (file, name) = test.split_once("::").unwrap();
        let text = FILES.iter().find(|(known, _)| *known == file);
        let (_, text) = text.unwrap_or_else(|| panic!("{test}: no such file"));
        let function = format!("#[test]\nfn {name}() {{\n");
        let (_, body) = text
            .split_once(&function)
            .unwrap_or_else(|| panic!("{test}: no such test"));
        let body = body.split("\n}\n").next().unwrap();
        let expects = body.contains(&code.to_string());
        assert!(expects, "{test} does not expect {code}");
    }
}

#[test]
fn every_code_that_the_machine_gives_is_in_the_list() {
    let expected = [
        300, 400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 508,
    ];
    let codes: BTreeSet<u16> = listed().into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, BTreeSet::from(expected));
}
