use std::time::Duration;

use postern_wire::stun::{ChangeRequest, Software, TransactionId, Username};

use super::*;

const LOCAL: &str = "192.0.2.1:3478";
const ID: TransactionId = TransactionId([7; 12]);

#[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
pub(in crate::stun) fn start() -> Instant {
    Instant::now()
}

fn request() -> Builder {
    Builder::new(Class::Request, Method::BINDING, ID)
}

fn datagram<'a>(remote: &str, payload: &'a [u8]) -> Datagram<'a> {
    Datagram {
        local: LOCAL.parse().unwrap(),
        remote: remote.parse().unwrap(),
        payload,
    }
}

/// What a new server answers.
fn answer(remote: &str, payload: &[u8]) -> (Verdict, Option<Transmit>) {
    let mut server = BindingServer::new();
    let verdict = server.handle_input(start(), datagram(remote, payload));
    (verdict, server.poll_transmit())
}

fn mapped(response: &[u8]) -> SocketAddr {
    let message = Message::parse(response).unwrap();
    assert_eq!(message.class(), Class::Success);
    assert_eq!(message.transaction_id(), ID);
    assert_eq!(message.attributes().count(), 1);
    message.get::<XorMappedAddress>().unwrap().unwrap().0
}

#[test]
fn an_ipv4_client_learns_its_address_in_32_bytes() {
    let (verdict, transmit) = answer("203.0.113.9:4711", &request().build());
    let transmit = transmit.unwrap();
    assert_eq!(verdict, Verdict::Consumed);
    assert_eq!(transmit.local, LOCAL.parse().unwrap());
    assert_eq!(transmit.remote, "203.0.113.9:4711".parse().unwrap());
    assert_eq!(transmit.payload.len(), 32);
    assert_eq!(mapped(&transmit.payload), transmit.remote);
}

#[test]
fn an_ipv6_client_learns_its_address_in_44_bytes() {
    let (_, transmit) = answer("[2001:db8::9]:4711", &request().build());
    let transmit = transmit.unwrap();
    assert_eq!(transmit.payload.len(), 44);
    assert_eq!(mapped(&transmit.payload), transmit.remote);
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_learns_an_ipv4_address() {
    let (_, transmit) = answer("[::ffff:203.0.113.9]:4711", &request().build());
    let transmit = transmit.unwrap();
    assert_eq!(
        transmit.remote,
        "[::ffff:203.0.113.9]:4711".parse().unwrap()
    );
    assert_eq!(
        mapped(&transmit.payload),
        "203.0.113.9:4711".parse().unwrap()
    );
}

#[test]
fn the_response_has_a_fingerprint_if_the_request_had_one() {
    let (_, transmit) = answer("203.0.113.9:4711", &request().fingerprint().build());
    let payload = transmit.unwrap().payload;
    let message = Message::parse(&payload).unwrap();
    assert_eq!(message.verify_fingerprint(), Ok(()));
    assert_eq!(payload.len(), 40);
}

#[test]
fn credentials_and_optional_attributes_are_ignored() {
    let bytes = request()
        .attribute(&Username::new("somebody").unwrap())
        .attribute(&Software::new("something").unwrap())
        .message_integrity(b"key")
        .build();
    let (_, transmit) = answer("203.0.113.9:4711", &bytes);
    mapped(&transmit.unwrap().payload);
}

#[test]
fn an_unknown_attribute_that_must_be_understood_is_refused_by_name() {
    let bytes = request()
        .attribute(&ChangeRequest {
            ip: true,
            port: true,
        })
        .raw_attribute(AttributeType(0x7fff), b"?")
        .build();
    let (_, transmit) = answer("203.0.113.9:4711", &bytes);
    let payload = transmit.unwrap().payload;
    let message = Message::parse(&payload).unwrap();
    assert_eq!(message.class(), Class::Error);
    assert_eq!(message.get(), Ok(Some(ErrorCode::UNKNOWN_ATTRIBUTE)));
    let unknown = message.get::<UnknownAttributes>().unwrap().unwrap();
    let named = [AttributeType::CHANGE_REQUEST, AttributeType(0x7fff)];
    assert_eq!(unknown.as_slice(), named);
}

#[test]
fn an_indication_is_taken_and_not_answered() {
    let bytes = Builder::new(Class::Indication, Method::BINDING, ID).build();
    assert_eq!(
        answer("203.0.113.9:4711", &bytes),
        (Verdict::Consumed, None)
    );
}

#[test]
fn responses_and_other_methods_belong_to_others() {
    for (class, method) in [
        (Class::Success, Method::BINDING),
        (Class::Error, Method::BINDING),
        (Class::Request, Method::ALLOCATE),
    ] {
        let bytes = Builder::new(class, method, ID).build();
        assert_eq!(answer("203.0.113.9:4711", &bytes), (Verdict::NotMine, None));
    }
}

#[test]
fn a_wrong_fingerprint_is_not_stun() {
    let mut bytes = request().fingerprint().build();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(answer("203.0.113.9:4711", &bytes), (Verdict::NotMine, None));
}

#[test]
fn nobody_is_answered_at_port_zero_or_in_a_group() {
    for remote in [
        "203.0.113.9:0",
        "224.0.0.1:4711",
        "[ff02::1]:4711",
        "0.0.0.0:1",
    ] {
        assert_eq!(
            answer(remote, &request().build()),
            (Verdict::Consumed, None)
        );
    }
}

#[test]
fn a_flood_with_a_forged_source_is_answered_until_the_allowance_is_used_up() {
    let (mut server, now, bytes) = (BindingServer::new(), start(), request().build());
    let mut flood = |now: Instant| {
        (0..5_000)
            .filter(|_| {
                server.handle_input(now, datagram("203.0.113.9:4711", &bytes));
                server.poll_transmit().is_some()
            })
            .count()
    };
    let (received, sent) = (5_000 * 20, flood(now) * 32);
    assert!(sent <= received + 16 * 1024);
    assert!(flood(now + Duration::from_secs(10)) > 0);
}

#[test]
fn responses_that_nobody_fetches_do_not_pile_up() {
    let (mut server, bytes) = (BindingServer::new(), request().build());
    for _ in 0..1_000 {
        server.handle_input(start(), datagram("203.0.113.9:4711", &bytes));
    }
    assert_eq!(server.transmits.len(), MAX_QUEUED);
}

const PRIMARY: &str = "192.0.2.1:3478";
const SECONDARY: &str = "192.0.2.2:3479";

fn discoverer() -> BindingServer {
    let alternate = |primary: &str, secondary: &str| Alternate {
        primary: primary.parse().unwrap(),
        secondary: secondary.parse().unwrap(),
    };
    BindingServer::new().with_alternates(vec![
        alternate(PRIMARY, SECONDARY),
        alternate("192.0.2.9:3478", SECONDARY),
        alternate("[2001:db8::1]:3478", "[2001:db8::2]:3479"),
    ])
}

/// What a server with two addresses answers to a request that arrives at `local`.
fn discovered(local: &str, bytes: &[u8]) -> Transmit {
    let mut server = discoverer();
    let mut datagram = datagram("203.0.113.9:4711", bytes);
    datagram.local = local.parse().unwrap();
    server.handle_input(start(), datagram);
    server.poll_transmit().unwrap()
}

fn error_of(transmit: &Transmit) -> u16 {
    let message = Message::parse(&transmit.payload).unwrap();
    let error = message.get::<ErrorCode<'_>>().unwrap();
    error.map_or(0, |error| error.code())
}

#[test]
fn change_request_chooses_which_of_four_sockets_answers() {
    let cases = [
        (false, false, "192.0.2.1:3478"),
        (false, true, "192.0.2.1:3479"),
        (true, false, "192.0.2.2:3478"),
        (true, true, "192.0.2.2:3479"),
    ];
    for (ip, port, from) in cases {
        let bytes = request().attribute(&ChangeRequest { ip, port }).build();
        let transmit = discovered(PRIMARY, &bytes);
        assert_eq!(transmit.local, from.parse().unwrap());
        let message = Message::parse(&transmit.payload).unwrap();
        assert_eq!(message.get(), Ok(Some(ResponseOrigin(transmit.local))));
        let other = OtherAddress(SECONDARY.parse().unwrap());
        assert_eq!(message.get(), Ok(Some(other)));
    }
}

#[test]
fn every_socket_names_the_one_that_differs_in_both() {
    let cases = [
        ("192.0.2.1:3478", "192.0.2.2:3479"),
        ("192.0.2.1:3479", "192.0.2.2:3478"),
        ("192.0.2.2:3478", "192.0.2.1:3479"),
        ("192.0.2.2:3479", "192.0.2.1:3478"),
        ("192.0.2.9:3478", "192.0.2.2:3479"),
        ("192.0.2.9:3479", "192.0.2.2:3478"),
        ("[2001:db8::2]:3479", "[2001:db8::1]:3478"),
    ];
    for (local, other) in cases {
        let transmit = discovered(local, &request().build());
        let message = Message::parse(&transmit.payload).unwrap();
        let other = OtherAddress(other.parse().unwrap());
        assert_eq!(message.get(), Ok(Some(other)));
        assert_eq!(transmit.local, local.parse().unwrap());
    }
}

#[test]
fn discovery_adds_24_bytes_to_an_answer_and_48_over_ipv6() {
    assert_eq!(discovered(PRIMARY, &request().build()).payload.len(), 56);
    let (mut server, bytes) = (discoverer(), request().build());
    let mut v6 = datagram("[2001:db8::9]:4711", &bytes);
    v6.local = "[2001:db8::1]:3478".parse().unwrap();
    server.handle_input(start(), v6);
    assert_eq!(server.poll_transmit().unwrap().payload.len(), 92);
    let elsewhere = discovered("192.0.2.77:1", &request().build());
    assert_eq!(elsewhere.payload.len(), 32);
}

#[test]
fn response_port_sends_the_answer_to_another_port_of_the_client() {
    let bytes = request().attribute(&ResponsePort(9)).build();
    let transmit = discovered(PRIMARY, &bytes);
    assert_eq!(transmit.remote, "203.0.113.9:9".parse().unwrap());
    let message = Message::parse(&transmit.payload).unwrap();
    let mapped = XorMappedAddress("203.0.113.9:4711".parse().unwrap());
    assert_eq!(message.get(), Ok(Some(mapped)));
}

#[test]
fn answers_to_other_ports_are_rationed() {
    let (mut server, now) = (discoverer(), start());
    let bytes = request().attribute(&ResponsePort(9)).build();
    let mut ask = |now| {
        server.handle_input(now, datagram("203.0.113.9:4711", &bytes));
        server.poll_transmit().is_some()
    };
    assert!(ask(now));
    assert!(!ask(now));
    assert!(!ask(now + RESPONSE_PORT_INTERVAL / 2));
    assert!(ask(now + RESPONSE_PORT_INTERVAL));
}

#[test]
fn padding_is_answered_with_as_much() {
    let bytes = request().attribute(&Padding::new(1500).unwrap()).build();
    let transmit = discovered(PRIMARY, &bytes);
    let message = Message::parse(&transmit.payload).unwrap();
    assert_eq!(message.get(), Ok(Some(Padding::new(1500).unwrap())));
}

#[test]
fn padding_and_response_port_together_and_port_zero_are_bad_requests() {
    let padding = Padding::new(100).unwrap();
    let both = request().attribute(&ResponsePort(9)).attribute(&padding);
    assert_eq!(error_of(&discovered(PRIMARY, &both.build())), 400);
    let zero = request().attribute(&ResponsePort(0)).build();
    assert_eq!(error_of(&discovered(PRIMARY, &zero)), 400);
}

/// As coturn does.
#[test]
fn a_stream_is_answered_where_it_is_or_not_at_all() {
    let server = discoverer();
    let ask = |bytes: &[u8]| {
        let mut datagram = datagram("203.0.113.9:4711", bytes);
        datagram.local = PRIMARY.parse().unwrap();
        server.answer_on_stream(&datagram).unwrap()
    };
    let plain = ask(&request().build());
    let message = Message::parse(&plain).unwrap();
    let (origin, other) = (PRIMARY.parse().unwrap(), SECONDARY.parse().unwrap());
    assert_eq!(message.get(), Ok(Some(ResponseOrigin(origin))));
    assert_eq!(message.get(), Ok(Some(OtherAddress(other))));
    let (ip, port) = (true, false);
    let wishes = [
        request().attribute(&ChangeRequest { ip, port }),
        request().attribute(&ResponsePort(9)),
        request().attribute(&Padding::new(100).unwrap()),
    ];
    for wish in wishes {
        let refused = ask(&wish.build());
        let message = Message::parse(&refused).unwrap();
        let error = message.get::<ErrorCode<'_>>().unwrap().unwrap();
        assert_eq!(error.code(), 400);
    }
}

/// RFC 3489, which has no magic cookie.
fn classic(change: &[u8]) -> Vec<u8> {
    let length = u8::try_from(change.len()).unwrap();
    [&[0, 1, 0, length], &[0xab; 16][..], change].concat()
}

#[test]
fn a_client_of_rfc_3489_is_told_three_addresses_from_the_socket_that_it_names() {
    for (flags, from) in [
        (0, "192.0.2.1:3478"),
        (2, "192.0.2.1:3479"),
        (6, "192.0.2.2:3479"),
    ] {
        let request = classic(&[0, 3, 0, 4, 0, 0, 0, flags]);
        let transmit = discovered("192.0.2.1:3478", &request);
        assert_eq!(transmit.local, from.parse().unwrap());
        let port = transmit.local.port().to_be_bytes();
        let host = if from.starts_with("192.0.2.2") { 2 } else { 1 };
        let source = [0, 4, 0, 8, 0, 1, port[0], port[1], 192, 0, 2, host];
        assert_eq!(transmit.payload.len(), 56);
        assert_eq!(transmit.payload[4..20], [0xab; 16]);
        assert_eq!(transmit.payload[32..44], source);
        assert_eq!(transmit.payload[48..], [0, 1, 0x0d, 0x97, 192, 0, 2, 2]);
    }
}

#[test]
fn without_a_second_address_a_client_of_rfc_3489_is_told_its_own() {
    let (verdict, transmit) = answer("203.0.113.9:40001", &classic(&[]));
    assert_eq!(verdict, Verdict::Consumed);
    assert_eq!(transmit.unwrap().payload.len(), 44);
    let other = classic(&[0, 3, 0, 4, 0, 0, 0, 6]);
    assert_eq!(
        answer("203.0.113.9:40001", &other),
        (Verdict::Consumed, None)
    );
}
