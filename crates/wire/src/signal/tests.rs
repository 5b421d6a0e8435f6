use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        ufrag: "abcd".into(),
        pwd: "abcdefghijklmnopqrstuv".into(),
        fingerprint: Fingerprint([0x0f; 32]),
        purpose: PURPOSE_TRANSFER.into(),
        candidates: vec!["1 1 UDP 1 192.0.2.1 9 typ host".into()],
        end_of_candidates: true,
    }
}

fn server(json: &str) -> Result<ServerMessage, ParseError> {
    ServerMessage::parse(json.as_bytes())
}

fn peer(hello: Hello) -> Result<PeerMessage, ParseError> {
    PeerMessage::parse(PeerMessage::Hello(hello).to_json().as_bytes())
}

#[test]
fn a_relay_is_read_with_its_bounds() {
    let relays = |count: usize, password: &str| {
        let relay = RelayServer {
            uri: "turn:45.45.0.1:3478".into(),
            also: Vec::new(),
            username: "1900000000:7".into(),
            password: password.into(),
            challenge: None,
        };
        let relays = vec![relay; count];
        server(&ServerMessage::Relays { relays }.to_json())
    };
    assert!(relays(MAX_RELAYS, "secret").is_ok());
    assert_eq!(
        relays(MAX_RELAYS + 1, "secret"),
        Err(ParseError::BadField("relays"))
    );
    assert_eq!(relays(1, ""), Err(ParseError::BadField("relays")));
    assert_eq!(relays(1, "\u{1b}[2J"), Err(ParseError::BadField("relays")));
    assert!(!format!("{:?}", relays(1, "secret")).contains("secret"));
}

#[test]
fn further_ways_to_a_relay_are_read_with_their_bounds_and_may_be_left_out() {
    let relays = |fields: &str| server(&format!(r#"{{"type":"relays","relays":[{{{fields}}}]}}"#));
    let old = r#""uri":"turn:45.45.0.1:3478","username":"u","password":"p""#;
    let Ok(ServerMessage::Relays { relays: read }) = relays(old) else {
        panic!("a server without further ways is understood");
    };
    assert!(read[0].also.is_empty());
    assert_eq!(read[0].challenge, None);
    let challenge = |text: &str| relays(&format!(r#"{old},"challenge":"{text}""#));
    assert!(challenge(&"A".repeat(MAX_RELAY_CHALLENGE)).is_ok());
    for bad in ["A".repeat(MAX_RELAY_CHALLENGE + 1), "\\u001b".to_owned()] {
        let refused = Err(ParseError::BadField("relays"));
        assert_eq!(challenge(&bad), refused, "{bad}");
    }
    let also = |count| {
        let uris = vec![r#""turns:45.45.0.1:8443?transport=tcp""#; count].join(",");
        relays(&format!(r#"{old},"also":[{uris}]"#))
    };
    assert!(also(MAX_RELAY_WAYS).is_ok());
    let refused = Err(ParseError::BadField("relays"));
    assert_eq!(also(MAX_RELAY_WAYS + 1), refused);
    assert_eq!(relays(&format!(r#"{old},"also":["\u001b"]"#)), refused);
}

#[test]
fn a_turn_uri_with_an_address_is_read() {
    let address = turn_address("turn:[2001:db8::1]:3479").unwrap();
    assert_eq!(address, "[2001:db8::1]:3479".parse().unwrap());
    assert_eq!(turn_address("turn:192.0.2.1").unwrap().port(), 3478);
    assert_eq!(turn_address("stun:192.0.2.1"), None);
    assert_eq!(turn_address("turn:example.org"), None);
}

#[test]
fn the_frames_are_the_documented_json() {
    let frames = [
        (ClientMessage::Allocate.to_json(), r#"{"type":"allocate"}"#),
        (
            ClientMessage::Join { mailbox: 7 }.to_json(),
            r#"{"type":"join","mailbox":7}"#,
        ),
        (
            ClientMessage::Meet {
                token: vec![0; MEETING_TOKEN_LEN],
                creator: true,
            }
            .to_json(),
            r#"{"type":"meet","token":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","creator":true}"#,
        ),
        (
            ClientMessage::Put { body: vec![1, 2] }.to_json(),
            r#"{"type":"put","body":"AQI="}"#,
        ),
        (
            ServerMessage::Closed {
                reason: CloseReason::PeerLeft,
            }
            .to_json(),
            r#"{"type":"closed","reason":"peer_left"}"#,
        ),
        (
            PeerMessage::EndOfCandidates.to_json(),
            r#"{"type":"end_of_candidates"}"#,
        ),
    ];
    for (written, documented) in frames {
        assert_eq!(written, documented);
    }
}

#[test]
fn a_token_has_its_length_and_no_other() {
    let meet = |length| ClientMessage::Meet {
        token: vec![7; length],
        creator: false,
    };
    let read = |length| ClientMessage::parse(meet(length).to_json().as_bytes());
    assert_eq!(read(MEETING_TOKEN_LEN), Ok(meet(MEETING_TOKEN_LEN)));
    for wrong in [0, MEETING_TOKEN_LEN - 1, MEETING_TOKEN_LEN + 1] {
        assert_eq!(read(wrong), Err(ParseError::BadField("token")));
    }
}

#[test]
fn a_hello_is_flat_and_its_fingerprint_is_hexadecimal() {
    let json = PeerMessage::Hello(hello()).to_json();
    assert!(json.starts_with(r#"{"type":"hello","ufrag":"abcd","pwd":"#));
    assert!(json.contains(&"0f".repeat(32)));
}

#[test]
fn fields_that_a_later_version_adds_are_ignored() {
    let ping = br#"{"type":"ping","at":[1,{"x":null}]}"#;
    assert_eq!(ClientMessage::parse(ping), Ok(ClientMessage::Ping));
    let welcome = r#"{"type":"welcome","version":1,"turn":["turn:192.0.2.1"]}"#;
    let stun = Vec::new();
    assert_eq!(
        server(welcome),
        Ok(ServerMessage::Welcome { version: 1, stun })
    );
}

#[test]
fn reasons_and_kinds_that_a_later_version_adds_are_unknown() {
    let reason = CloseReason::Unknown;
    assert_eq!(
        server(r#"{"type":"closed","reason":"moved"}"#),
        Ok(ServerMessage::Closed { reason })
    );
    assert!(matches!(
        server(r#"{"type":"error","kind":"tired"}"#),
        Ok(ServerMessage::Error {
            kind: ErrorKind::Unknown,
            ..
        })
    ));
}

#[test]
fn another_type_is_told_from_what_is_no_message() {
    let unknown = br#"{"type":"dance","mailbox":7}"#;
    assert_eq!(ClientMessage::parse(unknown), Err(ParseError::UnknownType));
    for malformed in [
        "",
        "{}",
        "null",
        "[]",
        "\u{0}",
        r#"{"type":7}"#,
        r#"{"type":"join"}"#,
        r#"{"type":"join","mailbox":-1}"#,
        r#"{"type":"join","mailbox":4294967296}"#,
        r#"{"type":"join","mailbox":7} {}"#,
        r#"{"type":"put","body":"A"}"#,
        r#"{"type":"put","body":"A-__"}"#,
        r#"{"type":"join","type":"ping","mailbox":7}"#,
    ] {
        assert_eq!(
            ClientMessage::parse(malformed.as_bytes()),
            Err(ParseError::Malformed),
            "{malformed}"
        );
    }
}

#[test]
fn numbers_that_no_mailbox_has_are_refused() {
    for number in [0, MAX_MAILBOX + 1] {
        let join = ClientMessage::Join { mailbox: number }.to_json();
        assert_eq!(
            ClientMessage::parse(join.as_bytes()),
            Err(ParseError::BadField("mailbox"))
        );
    }
}

#[test]
fn a_body_may_be_as_large_as_its_bound_and_fits_its_frame() {
    let put = |len| ClientMessage::Put { body: vec![0; len] }.to_json();
    assert!(ClientMessage::parse(put(MAX_BODY).as_bytes()).is_ok());
    assert_eq!(
        ClientMessage::parse(put(MAX_BODY + 1).as_bytes()),
        Err(ParseError::BadField("body"))
    );
}

#[test]
fn a_frame_above_its_bound_is_not_even_read() {
    let len = MAX_FRAME + 1;
    assert_eq!(
        ClientMessage::parse(&vec![b' '; len]),
        Err(ParseError::TooLarge {
            len,
            limit: MAX_FRAME
        })
    );
}

#[test]
fn the_largest_hello_fits_a_peer_message() {
    let largest = Hello {
        ufrag: "u".repeat(MAX_CREDENTIAL),
        pwd: "p".repeat(MAX_CREDENTIAL),
        purpose: "p".repeat(MAX_PURPOSE),
        candidates: vec!["\"".repeat(MAX_CANDIDATE); MAX_CANDIDATES],
        ..hello()
    };
    assert!(peer(largest).is_ok());
}

#[test]
fn a_hello_out_of_bounds_is_refused_and_the_field_named() {
    let bad = |field| Err(ParseError::BadField(field));
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        peer(hello)
    };
    assert_eq!(with(|h| h.ufrag = "abc".into()), bad("ufrag"));
    assert_eq!(with(|h| h.ufrag = "a".repeat(257)), bad("ufrag"));
    assert_eq!(with(|h| h.ufrag = "a b c".into()), bad("ufrag"));
    assert_eq!(with(|h| h.pwd = "a".repeat(21)), bad("pwd"));
    assert_eq!(with(|h| h.purpose = String::new()), bad("purpose"));
    assert_eq!(with(|h| h.purpose = "A b".into()), bad("purpose"));
    let many = |h: &mut Hello| h.candidates = vec!["x".into(); MAX_CANDIDATES + 1];
    assert_eq!(with(many), bad("candidates"));
    let long = |h: &mut Hello| h.candidates = vec!["x".repeat(MAX_CANDIDATE + 1)];
    assert_eq!(with(long), bad("candidates"));
    let escape = |h: &mut Hello| h.candidates = vec!["\u{1b}[2J".into()];
    assert_eq!(with(escape), bad("candidates"));
    assert_eq!(
        with(|h| h.candidates = vec![String::new()]),
        bad("candidates")
    );
}

#[test]
fn a_fingerprint_has_32_bytes() {
    let json = PeerMessage::Hello(hello()).to_json();
    let short = json.replace(&"0f".repeat(32), &"0f".repeat(31));
    let parsed = PeerMessage::parse(short.as_bytes());
    assert_eq!(parsed, Err(ParseError::Malformed));
}

#[test]
fn a_server_cannot_put_escapes_on_the_terminal() {
    let escape = r#"{"type":"error","kind":"full","message":"\u001b]52;c;AA\u0007"}"#;
    assert_eq!(server(escape), Err(ParseError::BadField("message")));
    let hidden = r#"{"type":"welcome","version":1,"stun":["stun:\u202e192.0.2.1"]}"#;
    assert_eq!(server(hidden), Err(ParseError::BadField("stun")));
}

#[test]
fn padding_after_a_peer_message_is_ignored() {
    let padded = format!("{:256}", PeerMessage::EndOfCandidates.to_json());
    assert_eq!(
        PeerMessage::parse(padded.as_bytes()),
        Ok(PeerMessage::EndOfCandidates)
    );
}

#[test]
fn debug_output_has_no_password_and_no_words() {
    assert!(!format!("{:?}", hello()).contains("abcdefghij"));
    let code: Code = "7-abandon-zoo".parse().unwrap();
    assert!(!format!("{code:?}").contains("zoo"));
}

#[test]
fn stun_addresses_are_read_from_uris_of_both_families() {
    let read = |uri| stun_address(uri).map(|a| a.to_string());
    assert_eq!(read("stun:192.0.2.1:9").as_deref(), Some("192.0.2.1:9"));
    assert_eq!(read("stun:192.0.2.1").as_deref(), Some("192.0.2.1:3478"));
    let v6 = Some("[2001:db8::1]:3478");
    assert_eq!(read("stun:[2001:db8::1]:3478").as_deref(), v6);
    assert_eq!(read("stun:[2001:db8::1]").as_deref(), v6);
    for other in [
        "",
        "stun:",
        "turn:192.0.2.1",
        "stun:example.org:3478",
        "stun:1:2",
    ] {
        assert_eq!(read(other), None, "{other}");
    }
}

#[test]
fn an_envelope_has_a_kind_and_the_right_length() {
    let exchange = [1_u8; 34];
    assert!(matches!(
        Envelope::parse(&exchange),
        Ok(Envelope::KeyExchange(_))
    ));
    assert_eq!(Envelope::parse(&exchange[..33]), Err(ParseError::Malformed));
    assert_eq!(Envelope::parse(&[]), Err(ParseError::Malformed));
    assert_eq!(Envelope::parse(&[9, 9]), Err(ParseError::UnknownType));
}

mod code {
    use super::*;

    #[test]
    fn the_list_is_sorted_distinct_lower_case_and_large_enough() {
        let words = word_list();
        assert_eq!(words.len(), 2048);
        assert!(words.is_sorted_by(|a, b| a < b));
        let plain =
            |w: &&str| (3..=9).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
        assert!(words.iter().all(plain));
        let mut starts: Vec<_> = words
            .iter()
            .map(|word| word.get(..4).unwrap_or(word))
            .collect();
        starts.dedup();
        assert_eq!(starts.len(), words.len());
        assert!("7-crossover-clockwork".parse::<Code>().is_ok());
    }

    #[test]
    fn what_people_type_is_read() {
        for typed in [
            "7-abandon-zoo",
            "7 abandon zoo",
            "  7-Abandon ZOO\n",
            "7abandonzoo",
            "7abandon-zoo",
            "7 - abandon - zoo",
            "007_abandon.zoo.",
            "7\u{2013}abandon\u{2014}zoo",
        ] {
            let code: Code = typed.parse().unwrap();
            assert_eq!(code.to_string(), "7-abandon-zoo", "{typed}");
        }
    }

    #[test]
    fn what_is_no_code_is_explained() {
        let error = |text: &str| text.parse::<Code>().unwrap_err().to_string();
        assert_eq!(error(" "), "the code is empty");
        assert_eq!(error("-"), "the code is empty");
        assert_eq!(
            error("abandon-zoo"),
            "the code must begin with a number, like 7-crossover-clockwork"
        );
        assert_eq!(
            error("0-abandon-zoo"),
            "the number of a code is between 1 and 999999"
        );
        assert_eq!(error("7"), "the code has 0 of 2 words");
        assert_eq!(error("7-abandon"), "the code has 1 of 2 words");
        assert_eq!(
            error("7-abandon-zoo-zoo"),
            "the code has 3 words, which is more than 2"
        );
        assert_eq!(
            error("7-abandon-zebar"),
            "`zebar` is not a word of any code; check its spelling"
        );
        assert_eq!(error(&"7".repeat(200)), "this is too long for a code");
        assert_eq!(
            error("99999999999-abandon-zoo"),
            "the number of a code is between 1 and 999999"
        );
    }

    #[test]
    fn escapes_in_a_mistyped_word_do_not_reach_the_terminal() {
        let error = "7-abandon-\u{1b}[2J".parse::<Code>().unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn words_typed_together_that_can_be_read_in_two_ways_need_a_hyphen() {
        let text = "canalarm".to_owned();
        let joined = format!("7{text}").parse::<Code>();
        assert_eq!(joined, Err(CodeError::Ambiguous { text }));
        for code in ["7-can-alarm", "7-canal-arm"] {
            assert_eq!(code.parse::<Code>().unwrap().to_string(), code);
        }
    }

    #[test]
    fn completion_gives_the_words_that_begin_so() {
        let found: Vec<_> = words_with_prefix("ZO").collect();
        assert_eq!(found, ["zone", "zoo"]);
        assert_eq!(words_with_prefix("").count(), 2048);
        assert_eq!(words_with_prefix("zz").count(), 0);
    }
}

fn text(limit: usize) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&format!("[ -~]{{1,{limit}}}")).unwrap()
}

fn any_client() -> impl Strategy<Value = ClientMessage> {
    prop_oneof![
        Just(ClientMessage::Allocate),
        (1..=MAX_MAILBOX).prop_map(|mailbox| ClientMessage::Join { mailbox }),
        vec(any::<u8>(), 0..2000).prop_map(|body| ClientMessage::Put { body }),
        Just(ClientMessage::Close),
        Just(ClientMessage::Ping),
    ]
}

fn relay() -> impl Strategy<Value = RelayServer> {
    let some_text = || "[ -~]{1,256}";
    let also = vec(text(MAX_STUN_URI), 0..=MAX_RELAY_WAYS);
    let challenge = prop::option::of("[ -~]{0,512}");
    let relay = (
        text(MAX_STUN_URI),
        also,
        some_text(),
        some_text(),
        challenge,
    );
    relay.prop_map(|(uri, also, username, password, challenge)| RelayServer {
        uri,
        also,
        username,
        password,
        challenge,
    })
}

fn any_server() -> impl Strategy<Value = ServerMessage> {
    let reason = prop::sample::select(vec![
        CloseReason::Done,
        CloseReason::PeerLeft,
        CloseReason::Expired,
        CloseReason::Limit,
        CloseReason::Idle,
        CloseReason::Shutdown,
        CloseReason::Unknown,
    ]);
    let kind = prop::sample::select(vec![
        ErrorKind::NoSuchMailbox,
        ErrorKind::Crowded,
        ErrorKind::RateLimited,
        ErrorKind::TooLarge,
        ErrorKind::BadMessage,
        ErrorKind::Full,
        ErrorKind::Unknown,
    ]);
    prop_oneof![
        (any::<u32>(), vec(text(MAX_STUN_URI), 0..=MAX_STUN_SERVERS))
            .prop_map(|(version, stun)| ServerMessage::Welcome { version, stun }),
        (1..=MAX_MAILBOX).prop_map(|mailbox| ServerMessage::Mailbox { mailbox }),
        Just(ServerMessage::Joined),
        vec(relay(), 0..=MAX_RELAYS).prop_map(|relays| ServerMessage::Relays { relays }),
        vec(any::<u8>(), 0..2000).prop_map(|body| ServerMessage::Message { body }),
        reason.prop_map(|reason| ServerMessage::Closed { reason }),
        (kind, text(MAX_TEXT)).prop_map(|(kind, message)| ServerMessage::Error { kind, message }),
        Just(ServerMessage::Pong),
    ]
}

fn any_hello() -> impl Strategy<Value = Hello> {
    (
        "[a-zA-Z0-9+/]{4,256}",
        "[a-zA-Z0-9+/]{22,256}",
        any::<[u8; 32]>().prop_map(Fingerprint),
        "[a-z0-9-]{1,32}",
        vec(text(MAX_CANDIDATE), 0..=MAX_CANDIDATES),
        any::<bool>(),
    )
        .prop_map(
            |(ufrag, pwd, fingerprint, purpose, candidates, end)| Hello {
                ufrag,
                pwd,
                fingerprint,
                purpose,
                candidates,
                end_of_candidates: end,
            },
        )
}

fn any_report() -> impl Strategy<Value = Report> {
    any::<(bool, u32, u32, bool, bool)>().prop_map(
        |(reflexive, sent, received, differs, blocked)| Report {
            reflexive,
            checks_sent: sent,
            checks_received: received,
            mapped_differs: differs,
            udp_blocked: blocked,
        },
    )
}

fn any_nat() -> impl Strategy<Value = Nat> {
    let mapping = prop::sample::select(vec![
        NatMapping::EndpointIndependent,
        NatMapping::PortIndependent,
        NatMapping::AddressDependent,
        NatMapping::AddressAndPortDependent,
        NatMapping::EndpointDependent,
        NatMapping::Unknown,
    ]);
    let filtering = prop::sample::select(vec![
        NatFiltering::EndpointIndependent,
        NatFiltering::AddressDependent,
        NatFiltering::AddressAndPortDependent,
        NatFiltering::Unknown,
    ]);
    let allocation = prop_oneof![
        Just(NatAllocation::Unknown),
        Just(NatAllocation::Preserving),
        (1..=i16::MAX, any::<u16>(), any::<u16>()).prop_map(|(step, last, foreign_flows)| {
            NatAllocation::Sequential {
                step,
                last,
                foreign_flows,
            }
        }),
        (0..1000_u16, 1000..=u16::MAX)
            .prop_map(|(first, last)| NatAllocation::Random { first, last }),
    ];
    let address = any::<([u8; 4], u16)>();
    (address, mapping, filtering, allocation, any::<bool>()).prop_map(
        |(address, mapping, filtering, allocation, parity)| Nat {
            mapped: address.into(),
            mapping,
            filtering,
            allocation,
            parity,
        },
    )
}

#[test]
fn a_nat_or_a_prediction_out_of_bounds_is_refused() {
    let nat = |allocation: &str| {
        let json = format!(
            r#"{{"type":"nat","mapped":"192.0.2.1:5","mapping":"new_word","filtering":"unknown","allocation":{allocation}}}"#
        );
        PeerMessage::parse(json.as_bytes())
    };
    let known = nat(r#"{"kind":"preserving"}"#).unwrap();
    assert!(matches!(known, PeerMessage::Nat(nat) if nat.mapping == NatMapping::Unknown));
    let bad = Err(ParseError::BadField("allocation"));
    assert_eq!(nat(r#"{"kind":"random","first":9,"last":8}"#), bad);
    assert_eq!(nat(r#"{"kind":"sequential","step":0,"last":8}"#), bad);
    let many = r#"{"type":"prediction","first":9,"step":1,"count":65}"#;
    let bad = Err(ParseError::BadField("count"));
    assert_eq!(PeerMessage::parse(many.as_bytes()), bad);
}

fn any_peer() -> impl Strategy<Value = PeerMessage> {
    let reason = prop::sample::select(vec![
        ByeReason::Done,
        ByeReason::Refused,
        ByeReason::Cancelled,
        ByeReason::NoPath,
        ByeReason::Failed,
        ByeReason::Unknown,
    ]);
    prop_oneof![
        any_hello().prop_map(PeerMessage::Hello),
        (text(MAX_CANDIDATE), any::<bool>())
            .prop_map(|(candidate, mapped)| PeerMessage::Candidate { candidate, mapped }),
        Just(PeerMessage::EndOfCandidates),
        Just(PeerMessage::Began),
        any_report().prop_map(PeerMessage::Report),
        any_nat().prop_map(PeerMessage::Nat),
        (any::<(u16, i16)>(), 1..=MAX_PREDICTED_PORTS).prop_map(|((first, step), count)| {
            PeerMessage::Prediction(Prediction { first, step, count })
        }),
        reason.prop_map(|reason| PeerMessage::Bye { reason }),
    ]
}

proptest! {
    #[test]
    fn every_client_message_is_read_as_it_was_written(message in any_client()) {
        prop_assert_eq!(ClientMessage::parse(message.to_json().as_bytes()), Ok(message));
    }

    #[test]
    fn every_server_message_is_read_as_it_was_written(message in any_server()) {
        prop_assert_eq!(ServerMessage::parse(message.to_json().as_bytes()), Ok(message));
    }

    #[test]
    fn every_peer_message_is_read_as_it_was_written(message in any_peer()) {
        prop_assert_eq!(PeerMessage::parse(message.to_json().as_bytes()), Ok(message));
    }

    #[test]
    fn every_code_is_read_as_it_was_written(mailbox in 1..=MAX_MAILBOX, a in 0..2048_usize, b in 0..2048_usize) {
        let code = Code::new(mailbox, [word_list()[a], word_list()[b]]).unwrap();
        prop_assert_eq!(code.to_string().parse(), Ok(code));
        prop_assert_eq!(code.to_string().to_uppercase().replace('-', " ").parse(), Ok(code));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>()) {
        crate::fuzz::signal(text.as_bytes());
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..300)) {
        crate::fuzz::signal(&bytes);
    }

    #[test]
    fn no_change_of_a_message_makes_a_parser_panic(
        message in any_peer(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = message.to_json().into_bytes();
        *at.get_mut(&mut bytes) = byte;
        crate::fuzz::signal(&bytes);
    }
}
