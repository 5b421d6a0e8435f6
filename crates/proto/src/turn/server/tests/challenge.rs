//! Who is believed, and what strangers get.

use postern_wire::stun::{
    Algorithm, AttributeType, Builder, Class, Message, Method, Nonce, PasswordAlgorithm, Realm,
    TransactionId, Username,
};
use postern_wire::turn::RequestedTransport;

use super::super::*;
use super::world::*;
use crate::stun::Key;

fn bare() -> Vec<u8> {
    Builder::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12])).build()
}

/// A signed Allocate request of alice with this nonce, changed by `fill` before the seal.
fn signed(nonce: &str, fill: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
    let key = Key::md5("alice", REALM, "wonderland");
    let request = Builder::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]))
        .attribute(&RequestedTransport::UDP)
        .attribute(&Nonce::new(nonce).unwrap());
    fill(request).message_integrity(key.as_bytes()).build()
}

fn named(request: Builder) -> Builder {
    request
        .attribute(&Username::new("alice").unwrap())
        .attribute(&Realm::new(REALM).unwrap())
}

#[test]
fn a_stranger_gets_a_challenge_of_92_bytes_and_leaves_nothing_behind() {
    let mut world = World::new();
    let reply = world.raw(&alice().at, &bare()).unwrap();
    assert_eq!(reply.code(), 401);
    assert_eq!(REALM.len(), 11);
    assert_eq!(reply.0.len(), 92);
    assert_eq!(world.server.allocations(), 0);
    assert_eq!(world.server.poll_timeout(), None);
    assert!(world.events.is_empty());
}

#[test]
fn a_nonce_shows_the_security_features_of_rfc_8489() {
    let mut world = World::new();
    assert!(world.nonce(&alice().at).starts_with("obMatJos2AAAD"));
    let mut secret = config();
    secret.credentials = credentials().with_secret(b"secret");
    let mut world = World::with(secret);
    assert!(world.nonce(&alice().at).starts_with("obMatJos2AAAB"));
}

#[test]
fn a_known_user_is_believed_with_sha1_and_with_sha256() {
    let mut world = World::new();
    assert_eq!(world.try_allocate(&alice()).code(), 0);
    let reply = world.ask_sha256(&bob(), Method::ALLOCATE, |request| {
        request.attribute(&RequestedTransport::UDP)
    });
    assert_eq!(reply.code(), 0);
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_401() {
    let mut world = World::new();
    let mut liar = alice();
    liar.password = "guess".into();
    assert_eq!(world.try_allocate(&liar).code(), 401);
    liar.user = "nobody".into();
    assert_eq!(world.try_allocate(&liar).code(), 401);
}

#[test]
fn a_nonce_is_stale_after_its_lifetime_and_elsewhere() {
    let mut world = World::new();
    let nonce = world.nonce(&alice().at);
    world.pass(601);
    let reply = world.raw(&alice().at, &signed(&nonce, named)).unwrap();
    assert_eq!(reply.code(), 438);
    assert!(reply.message().contains(AttributeType::NONCE));
    assert_eq!(reply.0.len(), 92);

    let nonce = world.nonce(&alice().at);
    let elsewhere = client(Transport::Udp, "203.0.113.5:40009", "alice").at;
    let reply = world.raw(&elsewhere, &signed(&nonce, named)).unwrap();
    assert_eq!(reply.code(), 438);
    let reply = world.raw(&alice().at, &signed(&nonce, named)).unwrap();
    assert_eq!(reply.code(), 0);
}

#[test]
fn a_nonce_of_a_stream_is_good_for_other_streams_of_the_address() {
    let mut world = World::new();
    let nonce = world.nonce(&alice_tcp().at);
    let other = client(Transport::Tcp, "203.0.113.5:40009", "alice").at;
    let reply = world.raw(&other, &signed(&nonce, named)).unwrap();
    assert_eq!(reply.code(), 0);
}

#[test]
fn a_forged_nonce_is_stale() {
    let mut world = World::new();
    for nonce in ["x", "obMatJos2AAAD", "obMatJos2AAADAAAAAAAAAAAAAAAAAAA"] {
        let reply = world.raw(&alice().at, &signed(nonce, named)).unwrap();
        assert_eq!(reply.code(), 438);
    }
}

#[test]
fn a_seal_without_name_realm_or_nonce_is_a_bad_request() {
    let mut world = World::new();
    let nonce = world.nonce(&alice().at);
    let name = |request: Builder| request.attribute(&Username::new("alice").unwrap());
    let realm = |request: Builder| request.attribute(&Realm::new(REALM).unwrap());
    for bytes in [signed(&nonce, name), signed(&nonce, realm)] {
        let reply = world.raw(&alice().at, &bytes).unwrap();
        assert_eq!(reply.code(), 400);
        assert!(!reply.message().contains(AttributeType::NONCE));
    }
}

#[test]
fn a_shortened_list_of_algorithms_is_a_bid_down_and_refused() {
    let mut world = World::new();
    let nonce = world.nonce(&alice().at);
    let md5 = PasswordAlgorithm::new(Algorithm::MD5, &[]).unwrap();
    let kind = AttributeType::PASSWORD_ALGORITHMS;
    let lists: [&[u8]; 3] = [&[0, 1, 0, 0], &[0, 1, 0, 0, 0, 2, 0, 0], &[]];
    for list in lists {
        let bytes = signed(&nonce, |request| {
            named(request).raw_attribute(kind, list).attribute(&md5)
        });
        assert_eq!(world.raw(&alice().at, &bytes).unwrap().code(), 400);
    }
    let one = signed(&nonce, |request| named(request).attribute(&md5));
    assert_eq!(world.raw(&alice().at, &one).unwrap().code(), 400);
}

#[test]
fn a_client_that_knows_the_algorithms_may_not_seal_with_sha1() {
    let mut world = World::new();
    let nonce = world.nonce(&alice().at);
    let md5 = PasswordAlgorithm::new(Algorithm::MD5, &[]).unwrap();
    let bytes = signed(&nonce, |request| {
        named(request)
            .raw_attribute(
                AttributeType::PASSWORD_ALGORITHMS,
                &[0, 2, 0, 0, 0, 1, 0, 0],
            )
            .attribute(&md5)
    });
    assert_eq!(world.raw(&alice().at, &bytes).unwrap().code(), 401);
}

#[test]
fn time_limited_credentials_are_good_until_their_end() {
    let mut config = config();
    config.credentials = credentials().with_secret(b"new").with_secret(b"old");
    let (unix, day) = (config.unix, std::time::Duration::from_secs(86_400));
    let old = Credentials::new(REALM).unwrap().with_secret(b"old");
    let issued = [
        config.credentials.issue(unix, day, Some("carol")).unwrap(),
        old.issue(unix, day, None).unwrap(),
    ];
    let mut world = World::with(config);
    for (issued, port) in issued.iter().zip(40_000_u16..) {
        let mut carol = client(Transport::Udp, &format!("203.0.113.5:{port}"), "carol");
        carol.user = issued.username.clone();
        carol.password = issued.password.clone();
        assert_eq!(world.try_allocate(&carol).code(), 0);
    }
    world.pass(86_400);
    let mut late = alice();
    late.user = issued[0].username.clone();
    late.password = issued[0].password.clone();
    assert_eq!(world.try_allocate(&late).code(), 401);
}

#[test]
fn an_issued_password_is_the_hmac_of_the_name() {
    let mut config = config();
    config.unix = std::time::Duration::from_secs(1_000);
    let credentials = Credentials::new(REALM).unwrap().with_secret(b"north");
    let issued = credentials
        .issue(config.unix, std::time::Duration::from_secs(1), Some("joe"))
        .unwrap();
    assert_eq!(issued.username, "1001:joe");
    assert_eq!(issued.password, "OLGovu4bjxPpMcxbxLd1T/Sau0s=");
}

#[test]
fn an_allocation_outlives_the_credentials_it_was_made_with() {
    let mut config = config();
    config.credentials = credentials().with_secret(b"secret");
    let minute = std::time::Duration::from_secs(60);
    let issued = config.credentials.issue(config.unix, minute, None).unwrap();
    let mut world = World::with(config);
    let mut carol = alice();
    carol.user = issued.username;
    carol.password = issued.password;
    world.allocate(&carol);
    world.pass(300);
    assert_eq!(world.refresh(&carol, 600).code(), 0);
    world.server.set_credentials(credentials());
    world.pass(300);
    assert_eq!(world.refresh(&carol, 600).code(), 0);
    world.pass(601);
    assert_eq!(world.try_allocate(&carol).code(), 401);
}

#[test]
fn unknown_attributes_are_named_with_420_after_authentication() {
    let mut world = World::new();
    let reply = world
        .ask(&alice(), Method::ALLOCATE, |request| {
            request
                .attribute(&RequestedTransport::UDP)
                .raw_attribute(AttributeType(0x7abc), b"?")
        })
        .unwrap();
    assert_eq!(reply.code(), 420);
    let unknown = reply
        .message()
        .get::<postern_wire::stun::UnknownAttributes>();
    assert_eq!(
        unknown.unwrap().unwrap().as_slice(),
        [AttributeType(0x7abc)]
    );
}

#[test]
fn nobody_at_port_zero_is_answered() {
    let mut world = World::new();
    let nobody = client(Transport::Udp, "203.0.113.5:0", "alice").at;
    assert!(world.raw(&nobody, &bare()).is_none());
}

#[test]
fn a_flood_from_a_forged_network_gets_no_more_than_it_sent_and_the_allowance() {
    let mut world = World::new();
    let mut sent = 0;
    for port in 1..2000_u16 {
        let forged = client(Transport::Udp, &format!("203.0.113.9:{port}"), "x").at;
        sent += world.raw(&forged, &bare()).map_or(0, |reply| reply.0.len());
    }
    assert!(sent <= 1999 * 20 + 16 * 1024);
    let stream = client(Transport::Tcp, "203.0.113.9:1", "x").at;
    assert!(world.raw(&stream, &bare()).is_some());
}

#[test]
fn without_an_allowance_load_tests_are_answered() {
    let mut config = config();
    config.unproven_allowance = None;
    let mut world = World::with(config);
    for port in 1..2000_u16 {
        let source = client(Transport::Udp, &format!("203.0.113.9:{port}"), "x").at;
        assert!(world.raw(&source, &bare()).is_some());
    }
}

#[test]
fn binding_is_answered_in_32_and_44_bytes_on_every_transport() {
    let mut world = World::new();
    let bytes = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
    let ends = [("203.0.113.5:1", 32), ("[2001:db8::5]:1", 44)];
    let transports = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ];
    for ((address, length), transport) in ends.iter().flat_map(|end| transports.map(|t| (end, t))) {
        let reply = world
            .raw(&client(transport, address, "x").at, &bytes)
            .unwrap();
        assert_eq!(reply.0.len(), *length);
        assert_eq!(reply.message().class(), Class::Success);
    }
}

#[test]
fn a_bare_binding_request_is_answered_alike_on_the_quick_way() {
    let (mut world, mut quick) = (World::new(), World::new());
    let bytes = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
    for address in ["203.0.113.5:1", "[2001:db8::5]:1"] {
        let at = client(Transport::Udp, address, "x").at;
        // Until the network has no more to be sent.
        for _ in 0..2000 {
            let usual = world.raw(&at, &bytes).map(|reply| reply.0);
            let answer = quick.server.bare_binding(quick.now, &at, &bytes).unwrap();
            assert_eq!(answer.map(|answer| answer.as_bytes().to_vec()), usual);
        }
    }
    let on_stream = client(Transport::Tcp, "203.0.114.5:1", "x").at;
    let answer = quick.server.bare_binding(quick.now, &on_stream, &bytes);
    assert!(answer.is_none());
}

#[test]
fn responses_and_other_protocols_belong_to_others() {
    let mut world = World::new();
    let response = Builder::new(Class::Success, Method::ALLOCATE, TransactionId([1; 12])).build();
    for bytes in [
        &response[..],
        b"\x16\xfe\xfd",
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ] {
        let channel_like = bytes.first() == Some(&b'G');
        let handled = world.server.handle_input(world.now, &alice().at, bytes);
        let expected = if channel_like {
            Handled::Consumed
        } else {
            Handled::NotMine
        };
        assert_eq!(handled, expected);
    }
}

#[test]
fn unknown_methods_are_dropped() {
    let mut world = World::new();
    let method = Method::new(0x0ff).unwrap();
    let bytes = Builder::new(Class::Request, method, TransactionId([1; 12])).build();
    assert!(world.raw(&alice().at, &bytes).is_none());
    assert!(Message::parse(&bytes).is_ok());
}

/// Alice with time-limited credentials that were issued now.
fn renewed(world: &World, at: FiveTuple) -> Client {
    let secret = Credentials::new(REALM).unwrap().with_secret(b"secret");
    let unix = config().unix + world.elapsed();
    let day = std::time::Duration::from_secs(86_400);
    let issued = secret.issue(unix, day, Some("alice")).unwrap();
    Client {
        at,
        user: issued.username,
        password: issued.password,
    }
}

#[test]
fn new_time_limited_credentials_are_those_of_the_same_user() {
    let mut config = config();
    config.credentials = credentials().with_secret(b"secret");
    config.quotas.user.allocations = 1;
    let mut world = World::with(config);
    let first = renewed(&world, alice().at);
    world.allocate(&first);
    world.pass(300);
    let second = renewed(&world, alice().at);
    assert_ne!(first.user, second.user);
    assert_eq!(world.refresh(&second, 600).code(), 0);
    assert_eq!(world.try_allocate(&renewed(&world, bob().at)).code(), 486);
    let mut namesake = alice();
    namesake.at = first.at;
    assert_eq!(world.refresh(&namesake, 600).code(), 441);
}
