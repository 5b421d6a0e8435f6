//! Tests of the whole module.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn name_fault(bytes: &[u8]) -> Option<NameFault> {
    Name::parse(bytes).err().map(|error| error.fault)
}

fn offer_of(sizes: &[u64], bytes: Option<u64>) -> Offer {
    let listed = sizes
        .iter()
        .enumerate()
        .map(|(index, size)| Listed {
            name: name(&format!("f{index}")),
            size: *size,
        })
        .collect();
    Offer {
        files: sizes.len() as u64,
        bytes,
        listed,
    }
}

fn parse(frame: &Frame) -> Result<Decoded, ParseError> {
    decode(&frame.to_vec())
}

#[test]
fn names_that_mean_the_same_everywhere_are_accepted() {
    for text in [
        "a",
        "photo.jpg",
        "Grüße aus Köln.txt",
        "..a",
        "a..b",
        ".bashrc",
        "-rf",
        "console.log",
        "com.txt",
        "com10",
        "family 👨‍👩‍👧.jpg",
        "\u{5e9}\u{5dc}\u{200f}.txt",
    ] {
        assert_eq!(name_fault(text.as_bytes()), None, "{text:?}");
    }
    assert_eq!(name_fault(&[b'x'; MAX_NAME]), None);
    assert_eq!(name_fault(b"caf\xe9"), None, "Latin-1 travels as bytes");
    assert_eq!(
        name_fault(b"\xed\xa0\x80"),
        None,
        "so does a lone surrogate"
    );
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    let nested = "a/".repeat(10_000);
    let table: &[(&[u8], NameFault)] = &[
        (b"", NameFault::Empty),
        (b".", NameFault::Directory),
        (b"..", NameFault::Directory),
        (b"../x", NameFault::Separator),
        (b"a/../../x", NameFault::Separator),
        (b"/etc/x", NameFault::Separator),
        (b"./", NameFault::Separator),
        (b"C:\\x", NameFault::Colon),
        (b"\\\\srv\\x", NameFault::Separator),
        (b"a\\..\\..\\x", NameFault::Separator),
        (b"\xff/x", NameFault::Separator),
        (&[b'x'; MAX_NAME + 1], NameFault::TooLong),
        (&[b'x'; 4097], NameFault::TooLong),
        (nested.as_bytes(), NameFault::TooLong),
    ];
    for (bytes, fault) in table {
        assert_eq!(name_fault(bytes), Some(*fault), "{}", escape(bytes));
    }
}

#[test]
fn names_that_deceive_people_or_other_systems_are_refused() {
    let table: &[(&[u8], NameFault)] = &[
        (b"a\0b", NameFault::Control),
        (b"a\nb", NameFault::Control),
        (b"a\rb", NameFault::Control),
        (b"\x1b[2Jx", NameFault::Control),
        (b"\x1b]52;c;AAAA\x07", NameFault::Control),
        (b"\x1b]8;;http://x\x1b\\x", NameFault::Control),
        (b"a\x7f", NameFault::Control),
        (b"\xffa\nb", NameFault::Control),
        ("a\u{9b}2J".as_bytes(), NameFault::Control),
        ("a\u{2028}b".as_bytes(), NameFault::Control),
        ("x\u{202e}gpj.exe".as_bytes(), NameFault::Bidi),
        ("x\u{2066}y".as_bytes(), NameFault::Bidi),
        (b"x.", NameFault::Ending),
        (b"x ", NameFault::Ending),
        (b"...", NameFault::Ending),
        (b"x:ads", NameFault::Colon),
        (b"CON", NameFault::Reserved),
        (b"con.tar.gz", NameFault::Reserved),
        (b"aux .txt", NameFault::Reserved),
        (b"Lpt1.txt", NameFault::Reserved),
        ("COM¹".as_bytes(), NameFault::Reserved),
        (b"Desktop.ini", NameFault::Reserved),
        (b"AUTORUN.INF", NameFault::Reserved),
        (b".x.0123.postern-part", NameFault::Part),
    ];
    for (bytes, fault) in table {
        assert_eq!(name_fault(bytes), Some(*fault), "{}", escape(bytes));
    }
}

#[test]
fn an_error_shows_the_name_escaped_and_not_in_full() {
    let error = Name::parse(b"../\x1b[2J").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the file name "../\u{1b}[2J" contains a path separator"#
    );
    assert!(Name::parse(&[b'/'; 5000]).unwrap_err().shown.len() < 100);
}

#[test]
fn escaped_text_is_one_harmless_line() {
    let table: &[(&[u8], &str)] = &[
        (b"plain name.txt", "plain name.txt"),
        ("Größe 大 ☃".as_bytes(), "Größe 大 ☃"),
        (b"\x1b]52;c;QQ==\x07", r"\u{1b}]52;c;QQ==\u{7}"),
        (b"a\r\nb\0", r"a\u{d}\u{a}b\u{0}"),
        ("\u{9b}2J".as_bytes(), r"\u{9b}2J"),
        (
            "a\u{202e}b\u{200b}c\u{feff}".as_bytes(),
            r"a\u{202e}b\u{200b}c\u{feff}",
        ),
        ("\u{e0041}".as_bytes(), r"\u{e0041}"),
        (b"\xff\xed\xa0\x80", r"\xff\xed\xa0\x80"),
        (br"\u{1b}", r"\u{5c}u{1b}"),
    ];
    for (bytes, text) in table {
        assert_eq!(escape(bytes), *text);
    }
}

#[test]
fn an_offer_must_add_up() {
    let valid = offer_of(&[1, 2], Some(3));
    assert!(parse(&Frame::Offer(valid.clone())).is_ok());
    assert!(parse(&Frame::Offer(offer_of(&[1, 2], None))).is_ok());
    for wrong in [
        offer_of(&[], Some(0)),
        offer_of(&[1, 2], Some(4)),
        offer_of(&[u64::MAX, 1], Some(0)),
        offer_of(&[u64::MAX, 1], None),
        Offer {
            files: 3,
            ..valid.clone()
        },
        Offer {
            files: 1,
            ..valid.clone()
        },
        Offer {
            files: 1_000_000_000,
            ..valid.clone()
        },
        Offer {
            files: u64::MAX,
            ..valid
        },
    ] {
        assert_eq!(parse(&Frame::Offer(wrong)), Err(ParseError::Field(1)));
    }
}

#[test]
fn a_long_offer_lists_the_first_files_only() {
    let mut offer = offer_of(&[5; MAX_LISTED], Some(10_000));
    offer.files = 2000;
    assert!(parse(&Frame::Offer(offer.clone())).is_ok());
    offer.bytes = Some(4999);
    assert_eq!(parse(&Frame::Offer(offer)), Err(ParseError::Field(1)));
}

#[test]
fn an_offer_of_another_version_is_recognised() {
    let mut bytes = Frame::Offer(offer_of(&[1], Some(1))).to_vec();
    bytes[6] = 9;
    assert_eq!(decode(&bytes), Err(ParseError::Version(9)));
}

#[test]
fn an_offer_with_a_dangerous_name_names_it() {
    let mut bytes = Frame::Offer(offer_of(&[1], Some(1))).to_vec();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(b"..");
    let Err(ParseError::Name(error)) = decode(&bytes) else {
        panic!("accepted");
    };
    assert_eq!(error.fault, NameFault::Directory);
}

#[test]
fn lengths_outside_their_bounds_are_refused_before_the_body_comes() {
    for (kind, lengths) in [
        (1u8, vec![MAX_BODY + 1, u32::MAX]),
        (2, vec![8193, u32::MAX]),
        (3, vec![0, MAX_DATA + 1, u32::MAX]),
        (4, vec![0, 31, 33, u32::MAX]),
        (5, vec![0, 15, 17]),
        (6, vec![0, 2, 516, u32::MAX]),
        (16, vec![0, 1, 3]),
        (17, vec![2, 516]),
        (18, vec![15, 17]),
        (0x80, vec![MAX_BODY + 1]),
        (0xff, vec![u32::MAX]),
    ] {
        for length in lengths {
            let mut bytes = vec![kind];
            bytes.extend(length.to_be_bytes());
            assert_eq!(decode(&bytes), Err(ParseError::Length { kind, length }));
        }
    }
}

#[test]
fn an_unknown_frame_is_skipped_when_it_is_optional_only() {
    assert_eq!(decode(&[0x90, 0, 0, 0, 7]), Ok(Decoded::Skip { length: 7 }));
    assert_eq!(
        decode(&[0x40, 0, 0, 0, 7]),
        Err(ParseError::UnknownType(0x40))
    );
    assert_eq!(decode(&[0, 0, 0, 0, 0]), Err(ParseError::UnknownType(0)));
}

#[test]
fn a_data_frame_is_recognised_by_its_header() {
    assert_eq!(decode(&data_header(9)), Ok(Decoded::Data { length: 9 }));
}

#[test]
fn a_body_with_a_byte_too_many_is_refused() {
    let frame = Frame::Failed(Failure::new(FailureKind::Io, "x"));
    let mut bytes = frame.to_vec();
    bytes.push(0);
    bytes[4] += 1;
    assert_eq!(decode(&bytes), Err(ParseError::Body(6)));
}

#[test]
fn times_that_no_file_has_are_ignored() {
    let time = |seconds| Timestamp::new(seconds, 0).unwrap().to_system_time();
    assert!(time(0).is_some() && time(1_700_000_000).is_some());
    for hostile in [i64::MIN, -1, -11_644_473_600, 253_402_300_800, i64::MAX] {
        assert_eq!(time(hostile), None);
    }
    assert_eq!(Timestamp::new(0, 1_000_000_000), None);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let failure = Failure::new(FailureKind::Io, "ä".repeat(400));
    assert_eq!(failure.message.len(), MAX_MESSAGE);
    let odd = Failure::new(FailureKind::Io, format!("x{}", "ä".repeat(400)));
    assert_eq!(odd.message.len(), MAX_MESSAGE - 1);
}

#[test]
fn an_unknown_kind_of_failure_is_still_a_failure() {
    let mut bytes = Frame::Refuse(Failure::new(FailureKind::Io, "why")).to_vec();
    bytes[5] = 200;
    let Ok(Decoded::Frame(Frame::Refuse(failure), _)) = decode(&bytes) else {
        panic!("not understood");
    };
    assert_eq!(
        (failure.kind, failure.kind.as_str()),
        (FailureKind::Unknown, "peer")
    );
}

#[test]
fn the_corpus_does_not_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/transfer");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        crate::fuzz::transfer(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 20);
}

fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        "[a-zA-Z0-9äß☃._-]{1,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..=MAX_NAME),
    ]
    .prop_filter_map("no name", |bytes| Name::parse(&bytes).ok())
}

fn any_offer() -> impl Strategy<Value = Frame> {
    let files = prop::collection::vec((any_name(), 0..u64::MAX / 64), 1..20);
    (files, any::<bool>()).prop_map(|(files, known)| {
        let listed: Vec<_> = files
            .into_iter()
            .map(|(name, size)| Listed { name, size })
            .collect();
        Frame::Offer(Offer {
            files: listed.len() as u64,
            bytes: known.then(|| listed.iter().map(|file| file.size).sum()),
            listed,
        })
    })
}

fn any_file() -> impl Strategy<Value = Frame> {
    let time = prop::option::of((any::<i64>(), 0..1_000_000_000u32));
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>());
    (numbers, time, any_name()).prop_map(|((index, size, mode), time, name)| {
        Frame::File(File {
            index,
            name,
            size,
            mode,
            modified: time.and_then(|(seconds, nanos)| Timestamp::new(seconds, nanos)),
        })
    })
}

fn any_failure() -> impl Strategy<Value = Failure> {
    let kind = any::<u8>().prop_map(|number| match number % 4 {
        0 => FailureKind::Refused,
        1 => FailureKind::Corrupt,
        2 => FailureKind::Version,
        _ => FailureKind::Unknown,
    });
    (kind, ".{0,300}").prop_map(|(kind, message)| Failure::new(kind, message))
}

fn any_totals() -> impl Strategy<Value = Totals> {
    (any::<u64>(), any::<u64>()).prop_map(|(files, bytes)| Totals { files, bytes })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_offer(),
        any_file(),
        any::<[u8; 32]>().prop_map(|hash| Frame::End { hash }),
        any_totals().prop_map(Frame::Finish),
        any_totals().prop_map(Frame::Done),
        any::<u16>().prop_map(|version| Frame::Accept { version }),
        any_failure().prop_map(Frame::Refuse),
        any_failure().prop_map(Frame::Failed),
    ]
}

proptest! {
    #[test]
    fn every_frame_survives_a_round_trip(frame in any_frame(), tail in any::<[u8; 3]>()) {
        let mut bytes = frame.to_vec();
        let length = bytes.len();
        bytes.extend(tail);
        prop_assert_eq!(decode(&bytes), Ok(Decoded::Frame(frame, length)));
    }

    #[test]
    fn a_frame_that_is_cut_anywhere_is_incomplete(frame in any_frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.to_vec();
        let cut = cut.index(bytes.len());
        let expected = (cut >= HEADER_LEN).then_some(bytes.len());
        prop_assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Incomplete(expected)));
    }

    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzz::transfer(&bytes);
    }

    #[test]
    fn damaged_frames_do_not_panic(frame in any_frame(), place in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = frame.to_vec();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        crate::fuzz::transfer(&bytes);
    }
}
