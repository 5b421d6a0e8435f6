//! RFC 6887.

use std::net::IpAddr;
use std::time::Duration;

use postern_wire::pcp::{
    Filter, Map, Nonce, Operation, Options, Peer, Request, Response, ResultCode,
};

use super::super::{Config, Kind};
use super::support::{Bed, EXTERNAL};

const HOST: &str = "192.168.1.10";
const OTHER: &str = "192.168.1.11";

fn map(internal_port: u16, external_port: u16) -> Map {
    Map {
        nonce: Nonce([1; 12]),
        protocol: 6,
        internal_port,
        external_port,
        external_address: [0, 0, 0, 0].into(),
    }
}

fn request(from: &str, operation: Operation, lifetime: u32) -> Request {
    Request {
        lifetime,
        client: from.parse().unwrap(),
        operation,
        options: Options::default(),
    }
}

fn answer(bed: &mut Bed, from: &str, request: &Request) -> Response {
    let answers = bed.send(from, &request.to_bytes());
    let [answer] = &answers[..] else {
        panic!("{answers:?}")
    };
    Response::parse(answer).unwrap()
}

fn ask(bed: &mut Bed, from: &str, map: Map, lifetime: u32) -> Result<(Map, u32), ResultCode> {
    granted(answer(
        bed,
        from,
        &request(from, Operation::Map(map), lifetime),
    ))
}

fn granted(response: Response) -> Result<(Map, u32), ResultCode> {
    if response.result != ResultCode::SUCCESS {
        return Err(response.result);
    }
    match response.operation {
        Some(Operation::Map(map)) => Ok((map, response.lifetime)),
        other => panic!("{other:?}"),
    }
}

fn prefer_failure(from: &str, map: Map) -> Request {
    let mut request = request(from, Operation::Map(map), 600);
    request.options.prefer_failure = true;
    request
}

#[test]
fn a_mapping_is_granted_with_its_address_port_and_lifetime() {
    let mut bed = Bed::new();
    let (granted, lifetime) = ask(&mut bed, HOST, map(4000, 4001), 600).unwrap();
    assert_eq!(lifetime, 600);
    let expected = Map {
        external_address: EXTERNAL.into(),
        ..map(4000, 4001)
    };
    assert_eq!(granted, expected);
    bed.check();
}

#[test]
fn lifetimes_are_two_minutes_at_least_and_a_day_at_most() {
    let mut bed = Bed::new();
    assert_eq!(ask(&mut bed, HOST, map(4000, 4000), 10).unwrap().1, 120);
    assert_eq!(
        ask(&mut bed, HOST, map(4000, 4000), u32::MAX).unwrap().1,
        86_400
    );
}

#[test]
fn only_who_knows_the_nonce_renews_and_deletes() {
    let mut bed = Bed::new();
    ask(&mut bed, HOST, map(4000, 4000), 600).unwrap();
    let thief = Map {
        nonce: Nonce([2; 12]),
        ..map(4000, 4000)
    };
    for lifetime in [600, 0] {
        let refused = ask(&mut bed, HOST, thief, lifetime);
        assert_eq!(refused, Err(ResultCode::NOT_AUTHORIZED));
    }
    assert_eq!(ask(&mut bed, HOST, map(4000, 0), 0).unwrap().1, 0);
    assert_eq!(bed.open(), []);
    assert_eq!(bed.ended_flows.len(), 1);
    let again = ask(&mut bed, HOST, map(4000, 0), 0).unwrap();
    assert_eq!(again.1, 0, "what is not there is deleted");
}

#[test]
fn prefer_failure_takes_no_other_port() {
    let mut bed = Bed::new();
    ask(&mut bed, HOST, map(4000, 4000), 600).unwrap();
    let refused = answer(&mut bed, OTHER, &prefer_failure(OTHER, map(5000, 4000)));
    assert_eq!(refused.result, ResultCode::CANNOT_PROVIDE_EXTERNAL);
    assert_eq!(refused.lifetime, 30);
    let other_port = answer(&mut bed, HOST, &prefer_failure(HOST, map(4000, 4005)));
    assert_eq!(other_port.result, ResultCode::CANNOT_PROVIDE_EXTERNAL);
    let other_address = Map {
        external_address: [45, 45, 45, 3].into(),
        ..map(4000, 4000)
    };
    let other_address = answer(&mut bed, HOST, &prefer_failure(HOST, other_address));
    assert_eq!(other_address.result, ResultCode::CANNOT_PROVIDE_EXTERNAL);
    let same = answer(&mut bed, HOST, &prefer_failure(HOST, map(4000, 4000)));
    assert!(granted(same).is_ok());
    let without = ask(&mut bed, OTHER, map(5000, 4000), 600).unwrap();
    assert_ne!(without.0.external_port, 4000);
    bed.check();
}

fn filter(address: &str, prefix_length: u8) -> Filter {
    Filter {
        prefix_length,
        remote_port: 0,
        remote_address: address.parse().unwrap(),
    }
}

#[test]
fn filters_are_added_until_one_of_no_bits_removes_them() {
    let mut bed = Bed::new();
    let with = |filters: &[Filter]| {
        let mut request = request(HOST, Operation::Map(map(4000, 4000)), 600);
        request.options.filters = filters.to_vec();
        request
    };
    let count = |bed: &Bed| bed.kernel.values().next().unwrap().0.lease.filters.len();
    let first = with(&[filter("198.51.100.0", 120)]);
    assert!(granted(answer(&mut bed, HOST, &first)).is_ok());
    assert_eq!(count(&bed), 1);
    assert!(granted(answer(&mut bed, HOST, &with(&[]))).is_ok());
    assert_eq!(count(&bed), 1, "a renewal without filters leaves them");
    let second = with(&[filter("198.51.100.9", 128), filter("203.0.113.1", 128)]);
    assert!(granted(answer(&mut bed, HOST, &second)).is_ok());
    assert_eq!(count(&bed), 3);
    assert!(granted(answer(&mut bed, HOST, &with(&[filter("0.0.0.0", 0)]))).is_ok());
    assert_eq!(count(&bed), 0);
    let many: Vec<_> = (1..=9)
        .map(|n| filter(&format!("203.0.113.{n}"), 128))
        .collect();
    let refused = answer(&mut bed, HOST, &with(&many));
    assert_eq!(refused.result, ResultCode::EXCESSIVE_REMOTE_PEERS);
    let wrong = answer(&mut bed, HOST, &with(&[filter("2001:db8::1", 128)]));
    assert_eq!(wrong.result, ResultCode::MALFORMED_OPTION);
    bed.check();
}

#[test]
fn a_request_must_name_the_address_that_it_comes_from() {
    let mut bed = Bed::new();
    let request = request(OTHER, Operation::Map(map(4000, 4000)), 600);
    let refused = answer(&mut bed, HOST, &request);
    assert_eq!(refused.result, ResultCode::ADDRESS_MISMATCH);
    assert_eq!(refused.lifetime, 1800);
}

#[test]
fn third_parties_are_mapped_for_only_if_the_operator_allows_it() {
    let third = |bed: &mut Bed, host: &str| {
        let mut request = request(HOST, Operation::Map(map(4000, 4000)), 600);
        request.options.third_party = Some(host.parse().unwrap());
        answer(bed, HOST, &request).result
    };
    let mut bed = Bed::new();
    assert_eq!(third(&mut bed, OTHER), ResultCode::UNSUPP_OPTION);
    let mut bed = Bed::with(Config {
        inside: vec!["192.168.1.0/24".parse().unwrap()],
        external: Some(EXTERNAL),
        third_party: true,
        ..Config::default()
    });
    assert_eq!(third(&mut bed, OTHER), ResultCode::SUCCESS);
    assert_eq!(bed.open()[0].1, "192.168.1.11:4000".parse().unwrap());
    assert_eq!(third(&mut bed, HOST), ResultCode::MALFORMED_REQUEST);
}

#[test]
fn whole_protocols_and_hosts_are_not_opened() {
    let mut bed = Bed::new();
    let of = |protocol, internal_port| Map {
        protocol,
        ..map(internal_port, 0)
    };
    for (asked, code) in [
        (of(0, 4000), ResultCode::MALFORMED_REQUEST),
        (of(0, 0), ResultCode::UNSUPP_PROTOCOL),
        (of(132, 4000), ResultCode::UNSUPP_PROTOCOL),
        (of(6, 0), ResultCode::NOT_AUTHORIZED),
        (of(6, 80), ResultCode::NOT_AUTHORIZED),
    ] {
        assert_eq!(ask(&mut bed, HOST, asked, 600), Err(code), "{asked:?}");
    }
    assert_eq!(bed.open(), []);
}

#[test]
fn all_mappings_with_a_nonce_are_deleted_at_once() {
    let mut bed = Bed::new();
    for port in 4000..4004 {
        ask(&mut bed, HOST, map(port, port), 600).unwrap();
    }
    let others = Map {
        nonce: Nonce([2; 12]),
        ..map(5000, 5000)
    };
    ask(&mut bed, HOST, others, 600).unwrap();
    let all = Map {
        protocol: 0,
        ..map(0, 0)
    };
    ask(&mut bed, HOST, all, 0).unwrap();
    assert_eq!(bed.open().len(), 1);
    bed.check();
}

#[test]
fn versions_opcodes_and_lengths_that_are_not_known_are_answered_as_the_rfc_says() {
    let mut bed = Bed::new();
    let sound = request(HOST, Operation::Map(map(4000, 4000)), 600).to_bytes();
    let code = |bed: &mut Bed, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        let answers = bed.send(HOST, &bytes);
        answers
            .first()
            .map(|bytes| (bytes[0], bytes[1], ResultCode(bytes[3])))
    };
    let unsupported = Some((2, 0x81, ResultCode::UNSUPP_VERSION));
    assert_eq!(code(&mut bed, &|bytes| bytes[0] = 3), unsupported);
    assert_eq!(code(&mut bed, &|bytes| bytes[0] = 1), unsupported);
    let opcode = Some((2, 0xb2, ResultCode::UNSUPP_OPCODE));
    assert_eq!(code(&mut bed, &|bytes| bytes[1] = 50), opcode);
    let malformed = Some((2, 0x81, ResultCode::MALFORMED_REQUEST));
    assert_eq!(code(&mut bed, &|bytes| bytes.truncate(58)), malformed);
    assert_eq!(code(&mut bed, &|bytes| bytes.truncate(3)), malformed);
    assert_eq!(code(&mut bed, &|bytes| bytes[1] |= 0x80), None, "an answer");
    let mandatory = Some((2, 0x81, ResultCode::UNSUPP_OPTION));
    assert_eq!(
        code(&mut bed, &|bytes| bytes.extend([77, 0, 0, 0])),
        mandatory
    );
    let optional = code(&mut bed, &|bytes| bytes.extend([200, 0, 0, 0]));
    assert_eq!(optional, Some((2, 0x81, ResultCode::SUCCESS)));
}

#[test]
fn an_announcement_that_is_asked_for_tells_the_epoch() {
    let mut bed = Bed::new();
    bed.pass(Duration::from_secs(77));
    let response = answer(&mut bed, HOST, &request(HOST, Operation::Announce, 0));
    assert_eq!((response.result, response.epoch), (ResultCode::SUCCESS, 77));
}

fn peer(remote: &str, internal_port: u16, external_port: u16) -> Peer {
    let remote: std::net::SocketAddr = remote.parse().unwrap();
    Peer {
        map: map(internal_port, external_port),
        remote_port: remote.port(),
        remote_address: remote.ip(),
    }
}

#[test]
fn a_peer_mapping_has_the_port_of_the_mapping_that_is_there() {
    let mut bed = Bed::new();
    ask(&mut bed, HOST, map(4000, 4001), 600).unwrap();
    let asked = peer("198.51.100.1:443", 4000, 7000);
    let response = answer(&mut bed, HOST, &request(HOST, Operation::Peer(asked), 600));
    let Some(Operation::Peer(granted)) = response.operation else {
        panic!("{response:?}")
    };
    assert_eq!(granted.map.external_port, 4001);
    assert_eq!(granted.map.external_address, IpAddr::from(EXTERNAL));
    assert_eq!(bed.kernel.len(), 2);
    let kinds = bed.kernel.values().filter(|(opening, _)| opening.both_ways);
    assert!(
        kinds
            .into_iter()
            .all(|(o, _)| matches!(o.lease.kind, Kind::Mapping { .. }))
    );
    bed.check();
}

#[test]
fn incomplete_peers_are_malformed() {
    let mut bed = Bed::new();
    for asked in [
        peer("198.51.100.1:0", 4000, 0),
        peer("198.51.100.1:443", 0, 0),
        peer("0.0.0.0:443", 4000, 0),
        peer("[2001:db8::1]:443", 4000, 0),
    ] {
        let response = answer(&mut bed, HOST, &request(HOST, Operation::Peer(asked), 600));
        assert_eq!(response.result, ResultCode::MALFORMED_REQUEST, "{asked:?}");
    }
}

#[test]
fn behind_another_router_nobody_is_told_where_a_flow_will_come_from() {
    let mut bed = Bed::new();
    bed.gateway.set_behind(true);
    let asked = peer("198.51.100.1:443", 4000, 7000);
    let response = answer(&mut bed, HOST, &request(HOST, Operation::Peer(asked), 600));
    assert_eq!(response.result, ResultCode::UNSUPP_OPCODE);
    assert!(bed.kernel.is_empty());
    bed.gateway.set_behind(false);
    let response = answer(&mut bed, HOST, &request(HOST, Operation::Peer(asked), 600));
    assert_eq!(response.result, ResultCode::SUCCESS);
}

#[test]
fn over_ipv6_a_mapping_is_a_pinhole_at_the_hosts_own_address() {
    let mut bed = Bed::new();
    let asked = Map {
        external_address: std::net::Ipv6Addr::UNSPECIFIED.into(),
        ..map(4000, 0)
    };
    let (granted, _) = ask(&mut bed, "fd00::10", asked, 600).unwrap();
    assert_eq!(granted.external_port, 4000);
    assert_eq!(
        granted.external_address,
        "fd00::10".parse::<IpAddr>().unwrap()
    );
    assert_eq!(
        bed.kernel.values().next().unwrap().0.lease.kind,
        Kind::Pinhole
    );
    bed.check();
}

#[test]
fn what_leaves_by_the_inside_port_follows_the_oldest_mapping() {
    let mut bed = Bed::new();
    ask(&mut bed, HOST, map(4000, 4001), 600).unwrap();
    let nat_pmp = postern_wire::natpmp::Request::Map(postern_wire::natpmp::Map {
        transport: postern_wire::transport::Transport::Tcp,
        internal_port: 4000,
        external_port: 4002,
        lifetime: 6000,
    });
    bed.send(HOST, &nat_pmp.to_bytes());
    let ways = |bed: &Bed| -> Vec<bool> {
        bed.kernel
            .values()
            .map(|(opening, _)| opening.both_ways)
            .collect()
    };
    assert_eq!(ways(&bed), [true, false]);
    ask(&mut bed, HOST, map(4000, 0), 0).unwrap();
    assert_eq!(ways(&bed), [true]);
    bed.check();
}
