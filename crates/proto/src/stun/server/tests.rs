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
