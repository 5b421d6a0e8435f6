use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn map() -> Map {
    Map {
        nonce: Nonce([7; 12]),
        protocol: 6,
        internal_port: 22,
        external_port: 12345,
        external_address: ip("198.51.100.1"),
    }
}

fn peer() -> Peer {
    Peer {
        map: map(),
        remote_port: 443,
        remote_address: ip("2001:db8::9"),
    }
}

fn options() -> Options {
    let filter = |prefix_length, address| Filter {
        prefix_length,
        remote_port: 80,
        remote_address: ip(address),
    };
    Options {
        third_party: Some(ip("192.168.1.11")),
        prefer_failure: true,
        filters: vec![filter(120, "203.0.113.0"), filter(64, "2001:db8::")],
        port_set: Some(PortSet {
            size: 4,
            first_internal_port: 22,
            parity: true,
        }),
        prefix64: Some(Prefix64::Is {
            length: 96,
            prefix: "64:ff9b::".parse().unwrap(),
        }),
    }
}

fn request(operation: Operation, options: Options) -> Request {
    Request {
        lifetime: 7200,
        client: ip("192.168.1.10"),
        operation,
        options,
    }
}

fn requests() -> Vec<Request> {
    let third_party = Options {
        third_party: Some(ip("fd00::1")),
        ..Options::default()
    };
    vec![
        request(Operation::Announce, Options::default()),
        request(Operation::Map(map()), Options::default()),
        request(Operation::Map(map()), options()),
        request(Operation::Peer(peer()), Options::default()),
        request(Operation::Peer(peer()), third_party),
    ]
}

#[test]
fn requests_are_written_and_read_back() {
    for request in requests() {
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }
}

#[test]
fn answers_are_written_and_read_back() {
    for Request {
        operation, options, ..
    } in requests()
    {
        let response = Response::granted(120, 99, operation, options);
        assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
    }
}

#[test]
fn one_byte_or_one_word_short_is_malformed() {
    for request in requests() {
        let bytes = request.to_bytes();
        for missing in [1, 4] {
            let short = &bytes[..bytes.len() - missing];
            assert!(
                matches!(
                    Request::parse(short),
                    Err(RequestError::Refused(
                        ResultCode::MALFORMED_REQUEST | ResultCode::MALFORMED_OPTION
                    ))
                ),
                "{request:?} without {missing}"
            );
        }
        let response = Response::granted(1, 1, request.operation, request.options).to_bytes();
        let short = &response[..response.len() - 1];
        assert_eq!(Response::parse(short), Err(ResponseError::Length));
        assert!(Response::parse(&response[..response.len() - 4]).is_err());
    }
    assert_eq!(Request::parse(&[2]), Err(RequestError::NotRequest));
    assert_eq!(Response::parse(&[]), Err(ResponseError::Length));
}

#[test]
fn another_version_direction_or_opcode_is_named() {
    let mut bytes = requests()[1].to_bytes();
    assert_eq!(Response::parse(&bytes), Err(ResponseError::NotResponse));
    bytes[1] = 50;
    assert_eq!(
        Request::parse(&bytes),
        Err(RequestError::Refused(ResultCode::UNSUPP_OPCODE))
    );
    bytes[0] = 3;
    assert_eq!(Request::parse(&bytes), Err(RequestError::Version(3)));
    assert_eq!(Response::parse(&bytes), Err(ResponseError::Version(3)));
    bytes[1] |= RESPONSE;
    assert_eq!(Request::parse(&bytes), Err(RequestError::NotRequest));
    bytes[0] = 2;
    assert_eq!(Response::parse(&bytes), Err(ResponseError::Malformed));
    bytes.resize(1104, 0);
    bytes[1] = 1;
    assert_eq!(
        Request::parse(&bytes),
        Err(RequestError::Refused(ResultCode::MALFORMED_REQUEST))
    );
}

/// The formats of RFC 6887 sections 7.1, 11.1 and 13.2, field by field.
#[test]
fn the_format_of_the_rfc_is_written_byte_by_byte() {
    let prefer = Options {
        prefer_failure: true,
        ..Options::default()
    };
    let mut expected = vec![2, 1, 0, 0, 0, 0, 0x1c, 0x20];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 10]);
    expected.extend([7; 12]);
    expected.extend([6, 0, 0, 0, 0, 22, 0x30, 0x39]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 1]);
    expected.extend([2, 0, 0, 0]);
    assert_eq!(request(Operation::Map(map()), prefer).to_bytes(), expected);
    let announce = Response::granted(0, 5, Operation::Announce, Options::default());
    let mut expected = vec![2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    expected.resize(24, 0);
    assert_eq!(announce.to_bytes(), expected);
}

/// A MAP request with these bytes as its options.
fn with_options(options: &[u8]) -> Result<Request, RequestError> {
    let mut bytes = request(Operation::Map(map()), Options::default()).to_bytes();
    bytes.extend(options);
    Request::parse(&bytes)
}

#[test]
fn an_option_that_must_be_known_and_is_not_is_unsupported() {
    let refused = |code| Err(RequestError::Refused(code));
    assert_eq!(
        with_options(&[9, 0, 0, 0]),
        refused(ResultCode::UNSUPP_OPTION)
    );
    assert!(with_options(&[200, 0, 0, 3, 1, 2, 3, 0]).is_ok());
    let mut peer = request(Operation::Peer(peer()), Options::default()).to_bytes();
    peer.extend([2, 0, 0, 0]);
    assert_eq!(Request::parse(&peer), refused(ResultCode::UNSUPP_OPTION));
}

#[test]
fn an_option_with_a_wrong_length_or_there_twice_is_malformed() {
    let long_prefer = [2, 0, 0, 1, 0, 0, 0, 0];
    let prefer_twice = [2, 0, 0, 0, 2, 0, 0, 0];
    let outside = [1, 0, 0, 16, 0, 0, 0, 0];
    let no_ports = [130, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
    let odd_prefix = [129, 0, 0, 2, 0, 9, 0, 0];
    for options in [
        &long_prefer[..],
        &prefer_twice,
        &outside,
        &no_ports,
        &odd_prefix,
    ] {
        assert_eq!(
            with_options(options),
            Err(RequestError::Refused(ResultCode::MALFORMED_OPTION)),
            "{options:?}"
        );
    }
    let mut filter = vec![3, 0, 0, 20, 0, 129, 0, 0];
    filter.resize(24, 0);
    assert!(with_options(&filter).is_err(), "129 bits of 128");
    filter[5] = 8;
    filter[18..20].copy_from_slice(&[0xff, 0xff]);
    assert!(with_options(&filter).is_err(), "8 bits of an IPv4 address");
}

#[test]
fn a_question_for_the_nat64_prefix_is_empty() {
    let options = with_options(&[129, 0, 0, 0]).unwrap().options;
    assert_eq!(options.prefix64, Some(Prefix64::Asked));
}

#[test]
fn a_refusal_is_a_copy_with_the_result_in_it() {
    let bytes = requests()[1].to_bytes();
    let answer = refusal(&bytes, ResultCode::NOT_AUTHORIZED, 1800, 77).unwrap();
    assert_eq!(answer.len(), bytes.len());
    assert_eq!(answer[24..], bytes[24..]);
    let response = Response::parse(&answer).unwrap();
    assert_eq!(response.result, ResultCode::NOT_AUTHORIZED);
    assert_eq!((response.lifetime, response.epoch), (1800, 77));
    assert_eq!(response.operation, Some(Operation::Map(map())));
}

#[test]
fn a_refusal_of_what_cannot_be_read_is_a_message_nonetheless() {
    let short = refusal(&[3, 1, 0], ResultCode::UNSUPP_VERSION, 1, 1).unwrap();
    assert_eq!(short.len(), 24);
    assert_eq!(Response::parse(&short).unwrap().operation, None);
    let long = refusal(&[2; 2000], ResultCode::MALFORMED_REQUEST, 1, 1).unwrap();
    assert_eq!(long.len(), MAX_LEN);
    assert_eq!(
        refusal(&[2, 0x81], ResultCode::MALFORMED_REQUEST, 1, 1),
        None
    );
}

#[test]
fn the_all_zero_addresses_of_both_families_are_told_apart() {
    for any in ["0.0.0.0", "::"] {
        let map = Map {
            external_address: ip(any),
            ..map()
        };
        let request = request(Operation::Map(map), Options::default());
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let with_head = [&[2, bytes.first().copied().unwrap_or(0) & 0x83], &bytes[..]].concat();
        for bytes in [bytes, with_head] {
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
            }
            if let Ok(response) = Response::parse(&bytes) {
                prop_assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
            }
            if let Some(answer) = refusal(&bytes, ResultCode::NO_RESOURCES, 30, 1) {
                prop_assert!(Response::parse(&answer).is_ok());
            }
        }
    }
}
