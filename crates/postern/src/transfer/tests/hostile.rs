//! A peer that speaks raw frames, and a side that must survive it.

use super::raw::*;
use super::*;
use postern_wire::transfer::{self as wire, Frame, HEADER_LEN, Timestamp, data_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn bad_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:\\x",
        "\\\\srv\\x",
        "a\\..\\..\\x",
        "./",
        "",
        ".",
        "..",
        "a\0b",
        "a\nb",
        "a\rb",
        "\x1b[2J",
        "\x1b]52;c;QQ==\x07",
        "\x1b]8;;http://x\x07",
        "a\u{9b}b",
        "x\u{202e}gpj.exe",
        "x.",
        "x ",
        "x:ads",
        "CON",
        "nul.txt",
        "COM¹",
        "desktop.ini",
        "autorun.inf",
        ".DS_Store",
        ".bashrc",
        ".ssh",
        ".sendme-x",
        ".x.01.postern-part",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.push(vec![b'x'; 256]);
    names.push(vec![b'x'; 4097]);
    names.push("d/".repeat(10_000).into_bytes());
    names.push(b"\xff\x1b[2J".to_vec());
    names
}

#[tokio::test]
async fn no_bad_name_in_an_offer_is_accepted() {
    let target = Target::new();
    for name in bad_names() {
        let kind = target.refuses(&offer(&[(&name, 1)])).await;
        assert_eq!(kind, "bad_name", "{}", escape(&name));
    }
}

#[tokio::test]
async fn no_bad_name_behind_a_good_offer_is_accepted() {
    let target = Target::new();
    for name in bad_names() {
        let bytes = [offer(&[(b"good", 0)]), file(0, &name, 0), end(b"")].concat();
        let kind = target.refuses(&bytes).await;
        assert!(
            matches!(kind, "bad_name" | "protocol"),
            "{}: {kind}",
            escape(&name)
        );
    }
}

#[tokio::test]
async fn twins_are_refused() {
    let twins: &[[&str; 2]] = &[
        ["a", "a"],
        ["readme", "README"],
        ["caf\u{e9}", "cafe\u{301}"],
        ["STRASSE\u{c4}", "strassea\u{308}"],
    ];
    let target = Target::new();
    for [one, two] in twins {
        let bytes = offer(&[(one.as_bytes(), 0), (two.as_bytes(), 0)]);
        assert_eq!(target.refuses(&bytes).await, "bad_name", "{one} {two}");
    }
}

#[tokio::test]
async fn a_twin_behind_the_listed_files_is_refused_even_when_overwriting() {
    let names: Vec<_> = (0..1000).map(|index| format!("f{index}")).collect();
    let listed: Vec<_> = names.iter().map(|name| (name.as_bytes(), 0)).collect();
    let mut bytes = offer_of(1001, Some(0), &listed);
    for (index, (name, _)) in listed.iter().enumerate() {
        bytes.extend([file(index as u64, name, 0), end(b"")].concat());
    }
    bytes.extend([file(1000, b"F7", 0), end(b""), finish(1001, 0)].concat());
    let target = Target::new();
    let (result, _) = target.attack(OVERWRITE, &bytes).await;
    assert!(matches!(result, Err(ReceiveError::Twin(_))), "{result:?}");
    assert_eq!(
        names_in(&target.path()).len(),
        1000,
        "the others are complete"
    );
}

#[tokio::test]
async fn impossible_sizes_and_counts_are_refused() {
    let target = Target::new();
    let table: &[(Vec<u8>, &str)] = &[
        (offer(&[(b"a", u64::MAX)]), "disk_full"),
        (offer(&[(b"a", 8 << 60)]), "disk_full"),
        (offer(&[(b"a", u64::MAX), (b"b", 2)]), "protocol"),
        (offer_of(0, Some(0), &[]), "protocol"),
        (offer_of(1_000_000_000, Some(0), &[(b"a", 0)]), "protocol"),
        (offer_of(u64::MAX, None, &[(b"a", 0)]), "protocol"),
        (offer_of(1, Some(5), &[(b"a", 4)]), "protocol"),
    ];
    for (index, (bytes, kind)) in table.iter().enumerate() {
        assert_eq!(target.refuses(bytes).await, *kind, "{index}");
    }
}

#[tokio::test]
async fn impossible_lengths_are_refused_at_once() {
    let target = Target::new();
    let start = [offer(&[(b"a", 9)]), file(0, b"a", 9)].concat();
    for kind in [1u8, 2, 3, 4, 5, 6, 0x80, 0xff] {
        let header = [&[kind][..], &u32::MAX.to_be_bytes()].concat();
        assert_eq!(target.refuses(&header).await, "protocol", "{kind} first");
        let bytes = [start.clone(), header].concat();
        assert_eq!(target.refuses(&bytes).await, "protocol", "{kind} later");
    }
    let empty = [start, vec![3, 0, 0, 0, 0]].concat();
    assert_eq!(target.refuses(&empty).await, "protocol", "empty data");
}

#[tokio::test]
async fn frames_in_the_wrong_place_are_refused() {
    let target = Target::new();
    let start = [offer(&[(b"a", 2)]), file(0, b"a", 2)].concat();
    let accepted = offer(&[(b"a", 2)]);
    let table: &[(&str, Vec<u8>)] = &[
        ("data instead of an offer", data(b"xx")),
        ("a file instead of an offer", file(0, b"a", 2)),
        ("a receipt instead of an offer", frame(18, &[0; 16])),
        ("an unknown type", frame(99, b"")),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", frame(1, &[0, 9])),
        (
            "two offers",
            [offer(&[(b"a", 2)]), offer(&[(b"a", 2)])].concat(),
        ),
        (
            "data without a file",
            [accepted.clone(), data(b"xx")].concat(),
        ),
        (
            "an end without a file",
            [accepted.clone(), end(b"")].concat(),
        ),
        (
            "a finish without the file",
            [accepted.clone(), finish(0, 0)].concat(),
        ),
        (
            "a finish that lies",
            [accepted.clone(), finish(1, 2)].concat(),
        ),
        (
            "a finish inside a file",
            [start.clone(), finish(1, 2)].concat(),
        ),
        (
            "a file inside a file",
            [start.clone(), file(1, b"b", 0)].concat(),
        ),
        (
            "a receipt inside a file",
            [start.clone(), frame(18, &[0; 16])].concat(),
        ),
        (
            "an acceptance inside a file",
            [start.clone(), frame(16, &[0, 1])].concat(),
        ),
        (
            "another name",
            [accepted.clone(), file(0, b"b", 2)].concat(),
        ),
        (
            "another size",
            [accepted.clone(), file(0, b"a", 1)].concat(),
        ),
        ("another number", [accepted, file(1, b"a", 2)].concat()),
        ("more bytes", [start.clone(), data(b"xxx")].concat()),
        (
            "more bytes later",
            [start.clone(), data(b"xx"), data(b"x")].concat(),
        ),
        ("fewer bytes", [start, data(b"x"), end(b"x")].concat()),
    ];
    for (what, bytes) in table {
        let kind = target.refuses(bytes).await;
        let expected = if *what == "another version" {
            "version"
        } else {
            "protocol"
        };
        assert_eq!(kind, expected, "{what}");
    }
}

#[tokio::test]
async fn a_file_with_the_wrong_hash_never_appears() {
    let bytes = [
        offer(&[(b"a", 2)]),
        file(0, b"a", 2),
        data(b"xx"),
        end(b"xy"),
        finish(1, 2),
    ];
    assert_eq!(Target::new().refuses(&bytes.concat()).await, "corrupt");
}

#[tokio::test]
async fn totals_must_match_and_nothing_may_follow() {
    let body = [
        offer_of(1, None, &[(b"a", 1)]),
        file(0, b"a", 1),
        data(b"x"),
        end(b"x"),
    ]
    .concat();
    let lies: &[Vec<u8>] = &[
        finish(2, 1),
        finish(1, 2),
        finish(u64::MAX, u64::MAX),
        [finish(1, 1), finish(1, 1)].concat(),
        [finish(1, 1), file(1, b"b", 0)].concat(),
        [file(1, b"b", 0), end(b"")].concat(),
    ];
    for lie in lies {
        let target = Target::new();
        let bytes = [body.clone(), lie.clone()].concat();
        let (result, _) = target.attack(ReceivePolicy::default(), &bytes).await;
        assert_eq!(result.unwrap_err().kind(), "protocol");
        assert_eq!(names_in(&target.path()), ["a"], "it was complete before");
    }
}

#[tokio::test]
async fn more_bytes_than_the_total_are_refused() {
    let names: Vec<_> = (0..1000).map(|index| format!("f{index}")).collect();
    let listed: Vec<_> = names.iter().map(|name| (name.as_bytes(), 0)).collect();
    let mut bytes = offer_of(1001, Some(5), &listed);
    for (index, (name, _)) in listed.iter().enumerate() {
        bytes.extend([file(index as u64, name, 0), end(b"")].concat());
    }
    bytes.extend([file(1000, b"x", 6), data(b"123456"), end(b"123456")].concat());
    let (result, _) = Target::new().attack(OVERWRITE, &bytes).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        ReceiveError::from(Violation::NotAsOffered).to_string()
    );
}

#[tokio::test]
async fn optional_frames_are_skipped_everywhere() {
    let extra = [
        frame(0x80, b""),
        frame(0x99, &noise(500_000)),
        frame(0xff, b"?"),
    ]
    .concat();
    let bytes = [
        extra.clone(),
        offer(&[(b"a", 4)]),
        extra.clone(),
        file(0, b"a", 4),
        extra.clone(),
        data(b"te"),
        extra.clone(),
        data(b"xt"),
        extra.clone(),
        end(b"text"),
        extra.clone(),
        finish(1, 4),
    ];
    let target = Target::new();
    let (result, _) = target
        .attack(ReceivePolicy::default(), &bytes.concat())
        .await;
    assert_eq!(result.unwrap(), Summary { files: 1, bytes: 4 });
    assert_eq!(std::fs::read(target.path().join("a")).unwrap(), b"text");
}

#[tokio::test]
async fn hostile_dates_and_permissions_do_no_harm() {
    for (seconds, mode) in [
        (i64::MIN, 0),
        (-11_644_473_600, 0o7777),
        (i64::MAX, u32::MAX),
    ] {
        let name = Name::parse(b"a").unwrap();
        let modified = Timestamp::new(seconds, 0);
        let header = wire::File {
            index: 0,
            name,
            size: 1,
            mode,
            modified,
        };
        let bytes = [
            offer(&[(b"a", 1)]),
            Frame::File(header).to_vec(),
            data(b"x"),
            end(b"x"),
            finish(1, 1),
        ];
        let target = Target::new();
        target
            .attack(ReceivePolicy::default(), &bytes.concat())
            .await
            .0
            .unwrap();
        let metadata = std::fs::metadata(target.path().join("a")).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata);
        assert_eq!((mode & 0o7111, mode & 0o600), (0, 0o600), "{mode:o}");
        assert!(metadata.modified().unwrap().elapsed().unwrap().as_secs() < 60);
    }
}

#[tokio::test]
async fn a_failure_message_from_the_peer_cannot_steer_the_terminal() {
    let body = [&[8u8][..], &text(b"\x1b]52;c;QQ==\x07 stop")].concat();
    let bytes = [offer(&[(b"a", 1)]), frame(6, &body)].concat();
    let target = Target::new();
    let (result, _) = target.attack(ReceivePolicy::default(), &bytes).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), "cancelled");
    assert!(!error.to_string().contains(char::is_control));
    target.assert_untouched();
}

#[tokio::test]
async fn a_sender_survives_any_receiver() {
    let done =
        |files: u64, bytes: u64| frame(18, &[files.to_be_bytes(), bytes.to_be_bytes()].concat());
    let accept = frame(16, &[0, 1]);
    let failed = frame(6, &[&[4u8][..], &text(b"no \x1b[2J space")].concat());
    let table: &[(&str, Vec<u8>, &str)] = &[
        ("silence", vec![], "disconnected"),
        ("half a frame", accept[..4].to_vec(), "disconnected"),
        (
            "garbage",
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            "protocol",
        ),
        (
            "an impossible length",
            [&[17u8][..], &u32::MAX.to_be_bytes()].concat(),
            "protocol",
        ),
        ("data", data_header(5).to_vec(), "protocol"),
        (
            "a receipt without acceptance",
            done(1, 1_000_000),
            "protocol",
        ),
        (
            "two acceptances",
            [accept.clone(), accept.clone()].concat(),
            "protocol",
        ),
        (
            "a receipt for something else",
            [accept.clone(), done(1, 7)].concat(),
            "protocol",
        ),
        (
            "a failure",
            [accept.clone(), failed.clone()].concat(),
            "disk_full",
        ),
        ("a failure instead of acceptance", failed, "disk_full"),
        ("another version", frame(16, &[0, 9]), "version"),
        ("only acceptance", accept, "disconnected"),
    ];
    let dirs = Dirs::new();
    let path = dirs.write("a", &noise(1_000_000));
    for (what, replies, kind) in table {
        let (mut left, mut right) = connection();
        let source = Source::prepare([&path]).unwrap();
        let speak = async {
            right.out.0.write_all(replies).await.unwrap();
            right.out.0.shutdown().await.unwrap();
            let _ = right.stream.read_to_end(&mut vec![]).await;
        };
        let (result, ()) = tokio::join!(send(source, &mut left.out, left.stream, |_| {}), speak);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), *kind, "{what}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{what}");
    }
}

#[tokio::test]
async fn a_damaged_stream_never_leaves_a_wrong_file() {
    let bytes = honest(b"the contents");
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x55;
        let target = Target::new();
        // Permissions and date are not hashed: damage there is no error.
        let _ = target.attack(OVERWRITE, &damaged).await;
        for name in names_in(&target.path()) {
            let found = std::fs::read(target.path().join(&name)).unwrap();
            assert_eq!(
                (name.as_str(), &found[..]),
                ("a", &b"the contents"[..]),
                "{place}"
            );
        }
        assert_eq!(names_in(target.outer.path()), ["inner"]);
    }
}

#[tokio::test]
async fn a_stream_that_ends_anywhere_leaves_no_unfinished_file() {
    let one = [file(0, b"a", 3), data(b"one"), end(b"one")].concat();
    let two = [file(1, b"b", 3), data(b"tw"), data(b"o"), end(b"two")].concat();
    let start = offer(&[(b"a", 3), (b"b", 3)]);
    let bytes = [start.clone(), one.clone(), two.clone(), finish(2, 6)].concat();
    let first = start.len() + one.len();
    for cut in 0..bytes.len() {
        let target = Target::new();
        let (result, _) = target.attack(ReceivePolicy::default(), &bytes[..cut]).await;
        assert_eq!(result.unwrap_err().kind(), "disconnected", "{cut}");
        let complete = usize::from(cut >= first) + usize::from(cut >= first + two.len());
        assert_eq!(names_in(&target.path()), ["a", "b"][..complete], "{cut}");
    }
    assert!(bytes.len() > 2 * HEADER_LEN);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_falls_silent_is_given_up() {
    let start = offer(&[(b"a", 2)]);
    let inside = [start.clone(), file(0, b"a", 2), data(b"x")].concat();
    for bytes in [vec![], start[..7].to_vec(), start, inside] {
        let target = Target::new();
        let (mut left, mut right) = connection();
        left.out.0.write_all(&bytes).await.unwrap();
        let policy = ReceivePolicy::default();
        let result = receive(
            target.output(),
            policy,
            async |_| true,
            &mut right.out,
            right.stream,
            |_| {},
        );
        let error = result.await.unwrap_err();
        assert_eq!(error.kind(), "disconnected");
        target.assert_untouched();
    }
}

#[test]
fn the_size_of_the_pieces_makes_no_difference() {
    let extra = frame(0x90, &noise(100));
    let bytes = [
        file(0, b"a", 5),
        extra.clone(),
        data(b"hel"),
        data(b"lo"),
        extra,
        end(b"hello"),
        finish(1, 5),
    ];
    let wire::Decoded::Frame(Frame::Offer(offer), _) = wire::decode(&offer(&[(b"a", 5)])).unwrap()
    else {
        panic!("not an offer");
    };
    for size in 1..200 {
        let target = Target::new();
        let policy = ReceivePolicy::default();
        let written = std::sync::Arc::default();
        let mut unpacker = unpack::Unpacker::new(target.output(), policy, offer.clone(), written);
        for piece in bytes.concat().chunks(size) {
            unpacker.push(piece).unwrap();
        }
        assert_eq!(
            unpacker.summary(),
            Some(Summary { files: 1, bytes: 5 }),
            "{size}"
        );
        assert_eq!(std::fs::read(target.path().join("a")).unwrap(), b"hello");
    }
}
