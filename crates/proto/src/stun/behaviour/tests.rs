//! What strangers can do to a discovery. What it finds is tested against the simulated
//! routers in `postern-lab`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{
    Builder, Class, Message, Method, OtherAddress, TransactionId, XorMappedAddress,
};

use super::{Discovery, Event, Lifetime, LifetimeEvent};
use crate::punch::Filtering;
use crate::{Datagram, Transmit, Verdict};

const SERVER: &str = "45.0.0.1:3478";

#[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
fn clock() -> Instant {
    Instant::now()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn locals() -> Vec<SocketAddr> {
    (5000..5004)
        .map(|port| at(&format!("10.0.0.2:{port}")))
        .collect()
}

fn discovery(now: Instant) -> Discovery {
    Discovery::new(now, [1; 32], locals(), &[at(SERVER)])
}

fn answer(request: &Transmit, other: Option<&str>) -> Vec<u8> {
    let message = Message::parse(&request.payload).unwrap();
    Builder::new(Class::Success, Method::BINDING, message.transaction_id())
        .attribute(&XorMappedAddress(at("45.0.1.1:6000")))
        .maybe_attribute(other.map(|other| OtherAddress(at(other))).as_ref())
        .build()
}

fn input(
    machine: &mut Discovery,
    now: Instant,
    local: &str,
    remote: &str,
    payload: &[u8],
) -> Verdict {
    let datagram = Datagram {
        local: at(local),
        remote: at(remote),
        payload,
    };
    machine.handle_input(now, datagram)
}

fn finish(machine: &mut Discovery) -> super::Findings {
    for _ in 0..10_000 {
        while machine.poll_transmit().is_some() {}
        while let Some(event) = machine.poll_event() {
            if let Event::Done(findings) = event {
                return *findings;
            }
        }
        let at = machine.poll_timeout().unwrap();
        machine.handle_timeout(at);
    }
    panic!("no end");
}

#[test]
fn an_answer_from_elsewhere_or_at_another_socket_is_not_ours() {
    let now = clock();
    let mut machine = discovery(now);
    let request = machine.poll_transmit().unwrap();
    let payload = answer(&request, None);
    for (local, remote) in [
        ("10.0.0.2:5000", "45.0.0.9:3478"),
        ("10.0.0.2:5000", "45.0.0.1:3479"),
        ("10.0.0.2:5001", SERVER),
    ] {
        let verdict = input(&mut machine, now, local, remote, &payload);
        assert_eq!(verdict, Verdict::NotMine, "{local} {remote}");
    }
    assert_eq!(machine.poll_event(), None);
    let verdict = input(&mut machine, now, "10.0.0.2:5000", SERVER, &payload);
    assert_eq!(verdict, Verdict::Consumed);
}

#[test]
fn garbage_and_strangers_transactions_are_not_ours() {
    let now = clock();
    let mut machine = discovery(now);
    let id = TransactionId([9; 12]);
    let foreign = Builder::new(Class::Success, Method::BINDING, id).build();
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    for payload in [&foreign[..], &request, b"", b"\0\x01garbage", &[0xff; 2000]] {
        let verdict = input(&mut machine, now, "10.0.0.2:5000", SERVER, payload);
        assert_eq!(verdict, Verdict::NotMine);
    }
}

#[test]
fn a_server_cannot_send_the_client_to_addresses_that_are_none() {
    for other in [
        "0.0.0.0:3479",
        "224.0.0.1:3479",
        "45.0.0.2:0",
        "45.0.0.1:3479",
        "45.0.0.2:3478",
        "192.168.1.1:3479",
        "[2a00::1]:3479",
    ] {
        let begun = clock();
        let mut machine = discovery(begun);
        let request = machine.poll_transmit().unwrap();
        input(
            &mut machine,
            begun,
            "10.0.0.2:5000",
            SERVER,
            &answer(&request, Some(other)),
        );
        let mut now = begun;
        while let Some(due) = machine.poll_timeout() {
            now = due;
            machine.handle_timeout(now);
            while let Some(transmit) = machine.poll_transmit() {
                assert_eq!(transmit.remote, at(SERVER), "{other}");
            }
        }
        assert_eq!(machine.findings().filtering(), Filtering::Unknown);
        assert!(now.saturating_duration_since(begun) < Duration::from_secs(5));
    }
}

#[test]
fn a_server_that_answers_from_where_it_was_asked_whatever_it_is_asked_tells_no_filtering() {
    let mut now = clock();
    let mut machine = discovery(now);
    for _ in 0..2_000 {
        while let Some(request) = machine.poll_transmit() {
            let payload = answer(&request, Some("45.0.0.2:3479"));
            let datagram = Datagram {
                local: request.local,
                remote: request.remote,
                payload: &payload,
            };
            machine.handle_input(now, datagram);
        }
        let Some(at) = machine.poll_timeout() else {
            break;
        };
        now = now.max(at);
        machine.handle_timeout(now);
    }
    assert_eq!(machine.findings().filtering(), Filtering::Unknown);
}

#[test]
fn without_sockets_or_servers_it_ends_at_once() {
    let now = clock();
    let mut nothing = Discovery::new(now, [1; 32], Vec::new(), &[at(SERVER)]);
    assert!(!finish(&mut nothing).reachable);
    let mut nobody = Discovery::new(now, [1; 32], locals(), &[]);
    assert!(!finish(&mut nobody).reachable);
    let mut lifetime = Lifetime::new(now, [1; 32], Vec::new(), at(SERVER));
    assert_eq!(lifetime.poll_event(), Some(LifetimeEvent::Failed));
    assert_eq!(lifetime.poll_timeout(), None);
}

#[test]
fn a_silent_server_is_asked_three_times() {
    let now = clock();
    let mut machine = discovery(now);
    let mut sent = 0_u32;
    while let Some(at) = machine.poll_timeout() {
        while machine.poll_transmit().is_some() {
            sent = sent.saturating_add(1);
        }
        machine.handle_timeout(at);
    }
    assert_eq!(sent, 3);
}
