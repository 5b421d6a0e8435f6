//! RFC 6886.

use std::time::Duration;

use postern_wire::natpmp::{Answer, Map, Request, Response, ResultCode};
use postern_wire::transport::Transport;

use super::super::{Action, Config, Quotas, Rule};
use super::support::{Bed, EXTERNAL};

fn map(internal_port: u16, external_port: u16, lifetime: u32) -> Map {
    Map {
        transport: Transport::Udp,
        internal_port,
        external_port,
        lifetime,
    }
}

fn ask(bed: &mut Bed, from: &str, map: Map) -> Result<Map, ResultCode> {
    let answers = bed.send(from, &Request::Map(map).to_bytes());
    let [answer] = &answers[..] else {
        panic!("{answers:?}")
    };
    match Response::parse(answer).unwrap().outcome {
        Ok(Answer::Map(map)) => Ok(map),
        Ok(other) => panic!("{other:?}"),
        Err(code) => Err(code),
    }
}

#[test]
fn the_external_address_is_told() {
    let mut bed = Bed::new();
    bed.pass(Duration::from_secs(9));
    let answers = bed.send("192.168.1.10", &Request::ExternalAddress.to_bytes());
    let answer = Response::granted(9, Answer::ExternalAddress(EXTERNAL));
    assert_eq!(answers, [answer.to_bytes()]);
}

#[test]
fn a_mapping_gets_the_port_that_it_wants_and_keeps_it() {
    let mut bed = Bed::new();
    let granted = ask(&mut bed, "192.168.1.10", map(4000, 4001, 3600)).unwrap();
    assert_eq!(granted, map(4000, 4001, 3600));
    let renewed = ask(&mut bed, "192.168.1.10", map(4000, 5000, 7200)).unwrap();
    assert_eq!(renewed, map(4000, 4001, 7200));
    assert_eq!(bed.kernel.len(), 1);
    bed.check();
}

#[test]
fn a_port_of_another_host_is_not_given_away_over_either_transport() {
    let mut bed = Bed::new();
    ask(&mut bed, "192.168.1.10", map(4000, 4000, 3600)).unwrap();
    let other = ask(&mut bed, "192.168.1.11", map(4000, 4000, 3600)).unwrap();
    assert!(other.external_port >= 1024 && other.external_port != 4000);
    let tcp = Map {
        transport: Transport::Tcp,
        ..map(4000, 4000, 3600)
    };
    let other = ask(&mut bed, "192.168.1.11", tcp).unwrap();
    assert_ne!(
        other.external_port, 4000,
        "kept for the host that has it over UDP"
    );
    let same = ask(&mut bed, "192.168.1.10", tcp).unwrap();
    assert_eq!(same.external_port, 4000);
    bed.check();
}

#[test]
fn a_mapping_ends_with_its_lifetime() {
    let mut bed = Bed::new();
    ask(&mut bed, "192.168.1.10", map(4000, 4000, 60)).unwrap();
    bed.pass(Duration::from_secs(59));
    assert_eq!(bed.open().len(), 1);
    bed.pass(Duration::from_secs(1));
    assert_eq!(bed.open(), []);
    assert_eq!(bed.gateway.leases().count(), 0);
    assert!(
        bed.ended_flows.is_empty(),
        "flows go on when a lease runs out"
    );
}

#[test]
fn a_deletion_is_confirmed_also_of_what_is_not_there() {
    let mut bed = Bed::new();
    ask(&mut bed, "192.168.1.10", map(4000, 4000, 60)).unwrap();
    for _ in 0..2 {
        let deleted = ask(&mut bed, "192.168.1.10", map(4000, 0, 0)).unwrap();
        assert_eq!(deleted, map(4000, 0, 0));
        assert_eq!(bed.open(), []);
    }
    assert_eq!(bed.ended_flows.len(), 1);
}

#[test]
fn all_mappings_of_a_host_and_transport_are_deleted_at_once() {
    let mut bed = Bed::new();
    for port in [4000, 4001, 4002] {
        ask(&mut bed, "192.168.1.10", map(port, port, 60)).unwrap();
    }
    ask(&mut bed, "192.168.1.11", map(5000, 5000, 60)).unwrap();
    ask(&mut bed, "192.168.1.10", map(0, 0, 0)).unwrap();
    assert_eq!(bed.open().len(), 1);
    bed.check();
}

#[test]
fn what_may_not_be_is_refused_with_its_code() {
    let mut bed = Bed::new();
    let refused = ask(&mut bed, "192.168.1.10", map(22, 22, 60));
    assert_eq!(refused, Err(ResultCode::NOT_AUTHORIZED));
    let refused = ask(&mut bed, "192.168.1.10", map(0, 4000, 60));
    assert_eq!(refused, Err(ResultCode::NOT_AUTHORIZED));
    let answers = bed.send("192.168.1.10", &[0, 9, 0, 0]);
    let code = Response::parse(&answers[0]).unwrap().outcome.unwrap_err();
    assert_eq!(code, ResultCode::UNSUPPORTED_OPCODE);
    bed.refuses = true;
    let refused = ask(&mut bed, "192.168.1.10", map(4000, 4000, 60));
    assert_eq!(refused, Err(ResultCode::OUT_OF_RESOURCES));
    assert_eq!(bed.gateway.leases().count(), 0);
    bed.gateway.set_external(bed.now, None);
    let refused = ask(&mut bed, "192.168.1.10", map(4000, 4000, 60));
    assert_eq!(refused, Err(ResultCode::NETWORK_FAILURE));
}

#[test]
fn a_port_below_1024_leads_to_another_one_outside_if_a_rule_allows_the_inside_one() {
    let mut bed = Bed::with(Config {
        inside: vec!["192.168.1.0/24".parse().unwrap()],
        external: Some(EXTERNAL),
        rules: vec![Rule {
            external_ports: 1024..=u16::MAX,
            ..Rule::all(Action::Allow)
        }],
        ..Config::default()
    });
    let granted = ask(&mut bed, "192.168.1.10", map(22, 22, 60)).unwrap();
    assert!(granted.external_port >= 1024);
}

#[test]
fn answers_cease_where_nothing_may_be_answered() {
    let mut bed = Bed::new();
    let request = Request::ExternalAddress.to_bytes();
    assert_eq!(bed.send("45.45.45.1", &request), Vec::<Vec<u8>>::new());
    let response = Response::granted(0, Answer::ExternalAddress(EXTERNAL)).to_bytes();
    for silent in [&response[..], &[0], &[], &[0, 1, 0, 0]] {
        assert_eq!(bed.send("192.168.1.10", silent), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_host_has_a_quota_that_others_do_not_feel() {
    let mut bed = Bed::with(Config {
        inside: vec!["192.168.1.0/24".parse().unwrap()],
        external: Some(EXTERNAL),
        quotas: Quotas {
            host: 3,
            ..Quotas::default()
        },
        ..Config::default()
    });
    let mut granted = |from, port| ask(&mut bed, from, map(port, port, 60)).is_ok();
    let first: Vec<_> = (4000..4005)
        .map(|port| granted("192.168.1.10", port))
        .collect();
    assert_eq!(first, [true, true, true, false, false]);
    assert!(granted("192.168.1.11", 4000));
    assert!(granted("192.168.1.10", 4002), "a renewal is no new lease");
}

#[test]
fn a_new_external_address_begins_the_epoch_and_is_announced() {
    let mut bed = Bed::new();
    let local = "192.168.1.1:5351".parse().unwrap();
    let all = "224.0.0.1:5350".parse().unwrap();
    bed.gateway.set_announced(vec![(local, all)]);
    ask(&mut bed, "192.168.1.10", map(4000, 4000, 6000)).unwrap();
    bed.pass(Duration::from_secs(100));
    let external = [45, 45, 45, 9].into();
    bed.gateway.set_external(bed.now, Some(external));
    bed.drain();
    bed.check();
    assert_eq!(
        bed.kernel.values().next().unwrap().0.external,
        Some(external)
    );
    let mut sent = 0;
    for _ in 0..200 {
        bed.pass(Duration::from_secs(1));
        while let Some(transmit) = bed.gateway.poll_transmit() {
            assert_eq!((transmit.local, transmit.remote), (local, all));
            if let Ok(response) = Response::parse(&transmit.payload) {
                assert_eq!(response.outcome, Ok(Answer::ExternalAddress(external)));
                assert!(response.epoch < 200);
                sent += 1;
            }
        }
    }
    assert_eq!(sent, 10);
}
