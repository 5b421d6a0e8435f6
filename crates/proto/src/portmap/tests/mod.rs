#![allow(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "virtual time starts somewhere; a test looks at one kind of event"
)]

mod hostile;
mod places;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::pcp;

use super::*;

/// The client's socket and its router.
const LOCAL: &str = "192.168.1.10:4321";
const ROUTER: &str = "192.168.1.1:5351";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn config(protocols: Protocols) -> Config {
    Config {
        local: at(LOCAL),
        prefix: 24,
        scope: 1,
        gateway: Some(at(ROUTER).ip()),
        protocols,
        location: None,
        verify: false,
        search: true,
        only_gateway: false,
        known: None,
    }
}

fn client(now: Instant, protocols: Protocols) -> Client {
    Client::new(now, [7; 32], config(protocols))
}

fn wish() -> Wish {
    Wish {
        transport: postern_wire::transport::Transport::Udp,
        internal_port: 4000,
        external_port: 4001,
        exact: false,
        lifetime: 3600,
        must_end: false,
        description: "test".into(),
        internal_host: None,
        nonce: None,
    }
}

/// A clock that goes by seconds from here.
fn clock() -> (Instant, impl Fn(u64) -> Instant) {
    let start = Instant::now();
    (start, move |seconds| start + Duration::from_secs(seconds))
}

/// Each line: seconds of ours, the server's epoch, whether it still has what it had.
fn check(accept: &mut dyn FnMut(Instant, u32) -> bool, lines: &[(u64, u32, bool)]) {
    let (_, after) = clock();
    for (seconds, epoch, valid) in lines {
        assert_eq!(accept(after(*seconds), *epoch), *valid, "{seconds} {epoch}");
    }
}

#[test]
fn a_pcp_clock_may_stand_still_for_a_second_and_no_longer() {
    let mut epoch = PcpEpoch::default();
    let lines = [(0, 100, true), (0, 99, true), (0, 97, false), (0, 97, true)];
    check(&mut |now, value| epoch.accept(now, value), &lines);
}

#[test]
fn a_pcp_clock_may_be_off_by_a_sixteenth_and_two_seconds() {
    // 160 s of ours: at least 148 of the server's; and 160 of them, at least 148 of ours.
    for (server, valid) in [(148, true), (147, false), (172, true), (175, false)] {
        let mut epoch = PcpEpoch::default();
        let lines = [(0, 1000, true), (160, 1000 + server, valid)];
        check(&mut |now, value| epoch.accept(now, value), &lines);
    }
}

#[test]
fn a_natpmp_clock_may_be_an_eighth_and_two_seconds_late() {
    for (server, valid) in [(138, true), (137, false), (5000, true)] {
        let mut epoch = NatPmpEpoch::default();
        let lines = [(0, 1000, true), (160, 1000 + server, valid)];
        check(&mut |now, value| epoch.accept(now, value), &lines);
    }
}

/// The payloads that a client wants sent to the router's port 5351 by now.
fn to_router(client: &mut Client) -> Vec<Vec<u8>> {
    let all = std::iter::from_fn(|| client.poll_transmit());
    all.filter(|transmit| transmit.remote == at(ROUTER))
        .map(|transmit| transmit.payload)
        .collect()
}

#[test]
fn nat_pmp_is_asked_again_after_a_quarter_of_a_second_and_then_after_twice_as_long() {
    let start = Instant::now();
    let mut client = client(start, Protocols::only(Protocol::NatPmp));
    assert_eq!(to_router(&mut client), [[0, 0]]);
    for millis in [250, 750, 1750] {
        let due = start + Duration::from_millis(millis);
        client.handle_timeout(due - Duration::from_millis(1));
        assert_eq!(to_router(&mut client).len(), 0, "{millis}");
        client.handle_timeout(due);
        assert_eq!(to_router(&mut client).len(), 1, "{millis}");
    }
}

#[test]
fn pcp_is_asked_again_after_three_seconds_within_a_tenth() {
    let start = Instant::now();
    let mut client = client(start, Protocols::only(Protocol::Pcp));
    assert_eq!(to_router(&mut client).len(), 1);
    client.handle_timeout(start + Duration::from_millis(2699));
    assert_eq!(to_router(&mut client).len(), 0);
    client.handle_timeout(start + Duration::from_millis(3301));
    assert_eq!(to_router(&mut client).len(), 1);
}

#[test]
fn who_is_off_the_link_is_not_asked_even_if_the_caller_names_it() {
    let start = Instant::now();
    let mut config = config(Protocols::only(Protocol::Upnp));
    config.location = Some("http://45.45.1.1:5000/root.xml".parse().unwrap());
    config.search = false;
    let mut client = Client::new(start, [7; 32], config);
    assert_eq!(client.poll_event(), None);
    client.map(start, wish());
    assert!(matches!(
        client.poll_event(),
        Some(Event::Failed(_, Failure::NoGateway))
    ));
}

#[test]
fn a_renewal_comes_between_a_half_and_five_eighths_of_the_lifetime() {
    let (start, after) = clock();
    let mut client = client(start, Protocols::only(Protocol::NatPmp));
    client.map(start, wish());
    grant_by_nat_pmp(&mut client, start);
    assert!(std::iter::from_fn(|| client.poll_event()).any(|e| matches!(e, Event::Made(..))));
    to_router(&mut client);
    client.handle_timeout(after(1799));
    assert_eq!(to_router(&mut client).len(), 0);
    client.handle_timeout(after(2251));
    assert_eq!(to_router(&mut client).len(), 1);
}

/// A server that is looked for in vain for ten seconds is not looked for again: somebody waits
/// for the mapping.
#[test]
fn a_server_that_says_nothing_is_asked_again_for_five_seconds_only() {
    for (takes, expected) in [(1, 3), (4, 2), (10, 1)] {
        let (start, after) = clock();
        let mut config = config(Protocols::only(Protocol::NatPmp));
        config.verify = true;
        let mut client = Client::new(start, [7; 32], config);
        client.map(start, wish());
        grant_by_nat_pmp(&mut client, start);
        let (mut probes, mut made) = (0, None);
        for second in 0..60 {
            client.handle_timeout(after(second));
            while let Some(event) = client.poll_event() {
                if let Event::Probe(probe) = event {
                    probes += 1;
                    let silent = Probed {
                        listener: Listener::Ours { arrived: false },
                        answer: None,
                    };
                    client.handle_probed(after(second + takes), probe.id, silent);
                } else if let Event::Made(_, mapping) = event {
                    made = Some(mapping.verified);
                }
            }
        }
        assert_eq!((probes, made), (expected, Some(None)), "{takes} s");
    }
}

fn grant_by_nat_pmp(client: &mut Client, now: Instant) {
    use postern_wire::natpmp::{Answer, Map, Response};
    let answer = |answer| Response::granted(9, answer).to_bytes();
    let address = answer(Answer::ExternalAddress([45, 45, 1, 1].into()));
    let granted = answer(Answer::Map(Map {
        transport: wish().transport,
        internal_port: 4000,
        external_port: 4001,
        lifetime: 3600,
    }));
    for payload in [&address, &granted] {
        let datagram = crate::Datagram {
            local: at(LOCAL),
            remote: at(ROUTER),
            payload,
        };
        client.handle_input(now, datagram);
    }
}

/// A mapping that stands, by PCP, and its nonce.
fn held_by_pcp(start: Instant) -> (Client, MappingId, pcp::Map) {
    let mut client = client(start, Protocols::only(Protocol::Pcp));
    let id = client.map(start, wish());
    answer_pcp(&mut client, start, pcp::ResultCode::SUCCESS, 0, None);
    let sent = to_router(&mut client);
    let request = pcp::Request::parse(sent.last().unwrap()).unwrap();
    let pcp::Operation::Map(mut map) = request.operation else {
        panic!("{request:?}");
    };
    map.external_address = [45, 45, 1, 1].into();
    answer_pcp(
        &mut client,
        start,
        pcp::ResultCode::SUCCESS,
        3600,
        Some(map),
    );
    assert!(std::iter::from_fn(|| client.poll_event()).any(|e| matches!(e, Event::Made(..))));
    (client, id, map)
}

/// The router answers MAP, or ANNOUNCE if there is none.
fn answer_pcp(
    client: &mut Client,
    now: Instant,
    result: pcp::ResultCode,
    lifetime: u32,
    map: Option<pcp::Map>,
) {
    let operation = map.map_or(pcp::Operation::Announce, pcp::Operation::Map);
    let response = pcp::Response {
        opcode: operation.opcode(),
        result,
        lifetime,
        epoch: 9,
        operation: Some(operation),
        options: pcp::Options::default(),
    };
    let datagram = crate::Datagram {
        local: at(LOCAL),
        remote: at(ROUTER),
        payload: &response.to_bytes(),
    };
    client.handle_input(now, datagram);
}

#[test]
fn what_a_pcp_server_does_not_have_is_removed_though_it_calls_that_a_lack_of_resources() {
    let start = Instant::now();
    let (mut client, id, map) = held_by_pcp(start);
    client.unmap(start, id);
    answer_pcp(
        &mut client,
        start,
        pcp::ResultCode::NO_RESOURCES,
        30,
        Some(map),
    );
    assert_eq!(client.poll_event(), Some(Event::Removed(id, Ok(()))));
}

#[test]
fn what_is_left_to_its_lease_is_not_removed_when_the_client_closes() {
    let start = Instant::now();
    let (mut client, id, _) = held_by_pcp(start);
    to_router(&mut client);
    client.release(id);
    assert!(client.is_idle());
    client.close(start);
    client.handle_timeout(start + Duration::from_secs(3600));
    assert_eq!(to_router(&mut client), Vec::<Vec<u8>>::new());
    assert_eq!(client.poll_event(), None);
}
