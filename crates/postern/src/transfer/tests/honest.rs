//! Two sides that mean well.

use super::*;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

async fn arrives(files: &[(&str, Vec<u8>)]) {
    let dirs = Dirs::new();
    let paths: Vec<_> = files.iter().map(|(name, b)| dirs.write(name, b)).collect();
    let source = Source::prepare(paths).unwrap();
    let (sent, received) = transfer(source, dirs.output(), ReceivePolicy::default()).await;
    let expected = Summary {
        files: files.len() as u64,
        bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
    };
    assert_eq!((sent.unwrap(), received.unwrap()), (expected, expected));
    for (name, bytes) in files {
        assert!(dirs.received(name) == *bytes, "{name} differs");
    }
    assert_eq!(dirs.names().len(), files.len());
}

#[tokio::test]
async fn an_empty_file_arrives() {
    arrives(&[("empty", vec![])]).await;
}

#[tokio::test]
async fn one_byte_arrives() {
    arrives(&[("one", vec![7])]).await;
}

#[tokio::test]
async fn three_files_arrive() {
    let files = [("a", noise(100_000)), ("b", vec![]), ("c d.txt", noise(5))];
    arrives(&files).await;
}

#[tokio::test]
async fn sizes_around_a_chunk_arrive() {
    let files: Vec<_> = (0..12)
        .map(|step| {
            let size = CHUNK - 400 + step * 64;
            (format!("f{step}"), noise(size))
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    arrives(&files).await;
}

#[tokio::test]
async fn sixty_four_mebibytes_arrive() {
    arrives(&[("big", noise(64 << 20))]).await;
}

#[tokio::test]
async fn five_thousand_small_files_arrive() {
    let names: Vec<_> = (0..5000).map(|index| format!("file-{index}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), name.clone().into_bytes()))
        .collect();
    arrives(&files).await;
}

#[tokio::test]
async fn preparing_a_huge_file_reads_nothing() {
    let dirs = Dirs::new();
    let path = dirs.write("huge", b"");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let before = std::time::Instant::now();
    let source = Source::prepare([path]).unwrap();
    assert_eq!(source.bytes(), 1 << 40);
    // Nothing reads a terabyte in so short a time, however busy the machine is.
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_name_that_is_not_utf8_arrives_as_it_is() {
    let dirs = Dirs::new();
    let name = std::ffi::OsString::from_vec(b"caf\xe9".to_vec());
    let path = dirs.from.path().join(&name);
    std::fs::write(&path, b"x").unwrap();
    let source = Source::prepare([path]).unwrap();
    let (_, received) = transfer(source, dirs.output(), ReceivePolicy::default()).await;
    received.unwrap();
    assert!(dirs.to.path().join(&name).exists());
}

#[tokio::test]
async fn date_and_permissions_arrive_without_the_dangerous_bits() {
    let dirs = Dirs::new();
    let path = dirs.write("script", b"#!");
    let date = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o6755))
        .unwrap();
    file.set_modified(date).unwrap();
    let source = Source::prepare([path]).unwrap();
    let (_, received) = transfer(source, dirs.output(), ReceivePolicy::default()).await;
    received.unwrap();
    let metadata = std::fs::metadata(dirs.to.path().join("script")).unwrap();
    assert_eq!(metadata.modified().unwrap(), date);
    assert_eq!(metadata.mode() & 0o7133, 0, "{:o}", metadata.mode());
}

#[tokio::test]
async fn a_private_file_stays_private() {
    let dirs = Dirs::new();
    let path = dirs.write("key", b"secret");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let source = Source::prepare([path]).unwrap();
    let (_, received) = transfer(source, dirs.output(), ReceivePolicy::default()).await;
    received.unwrap();
    let metadata = std::fs::metadata(dirs.to.path().join("key")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_receiver_may_decline() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", b"x")]).unwrap();
    let policy = ReceivePolicy::default();
    let (sent, received) = transfer_if(source, dirs.output(), policy, false).await;
    assert_eq!(sent.unwrap_err().kind(), "refused");
    assert_eq!(received.unwrap_err().kind(), "refused");
    assert!(dirs.names().is_empty());
}

#[tokio::test]
async fn the_offer_is_shown_before_the_question() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", b"xyz")]).unwrap();
    let (mut left, mut right) = connection();
    let ask = async |offer: &Offer| {
        assert_eq!((offer.files, offer.bytes), (1, Some(3)));
        assert_eq!(offer.listed[0].name.to_string(), "a");
        true
    };
    let policy = ReceivePolicy::default();
    let (_, received) = tokio::join!(
        send(source, &mut left.out, left.stream, |_| {}),
        receive(
            dirs.output(),
            policy,
            ask,
            &mut right.out,
            right.stream,
            |_| {}
        ),
    );
    received.unwrap();
}

#[tokio::test]
async fn progress_grows_to_the_total_on_both_sides() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(3_000_000))]).unwrap();
    let (mut left, mut right) = connection();
    let (mut sender, mut receiver) = (vec![], vec![]);
    let policy = ReceivePolicy::default();
    let (_, received) = tokio::join!(
        send(source, &mut left.out, left.stream, |p| sender.push(p)),
        receive(
            dirs.output(),
            policy,
            async |_| true,
            &mut right.out,
            right.stream,
            |p| {
                receiver.push(p);
            }
        ),
    );
    received.unwrap();
    for steps in [sender, receiver] {
        assert!(steps.len() > 3 && steps.is_sorted_by_key(|step| step.bytes));
        let end = steps.last().unwrap();
        assert_eq!((end.bytes, end.total), (3_000_000, Some(3_000_000)));
    }
}

#[tokio::test]
async fn an_existing_file_is_kept_unless_overwriting_is_allowed() {
    let dirs = Dirs::new();
    std::fs::write(dirs.to.path().join("a"), b"old").unwrap();
    let source = Source::prepare([dirs.write("a", b"new")]).unwrap();
    let policy = ReceivePolicy::default();
    let (sent, received) = transfer(source.clone(), dirs.output(), policy).await;
    let sent = sent.unwrap_err();
    assert!(matches!(sent, SendError::Refused(_)), "before any byte");
    assert_eq!(sent.kind(), "exists");
    assert_eq!(received.unwrap_err().kind(), "exists");
    assert_eq!(dirs.received("a"), b"old");

    let policy = ReceivePolicy {
        overwrite: true,
        ..ReceivePolicy::default()
    };
    transfer(source, dirs.output(), policy).await.1.unwrap();
    assert_eq!(dirs.received("a"), b"new");
    assert_eq!(dirs.names(), ["a"]);
}

#[tokio::test]
async fn a_hidden_file_needs_permission() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write(".bashrc", b"x")]).unwrap();
    let policy = ReceivePolicy::default();
    let (sent, received) = transfer(source.clone(), dirs.output(), policy).await;
    assert_eq!(sent.unwrap_err().kind(), "bad_name");
    assert_eq!(received.unwrap_err().kind(), "bad_name");
    let policy = ReceivePolicy {
        hidden: true,
        ..ReceivePolicy::default()
    };
    transfer(source, dirs.output(), policy).await.1.unwrap();
    assert_eq!(dirs.names(), [".bashrc"]);
}

#[tokio::test]
async fn syncing_to_disk_changes_nothing_else() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", b"x")]).unwrap();
    let policy = ReceivePolicy {
        sync: true,
        ..ReceivePolicy::default()
    };
    transfer(source, dirs.output(), policy).await.1.unwrap();
    assert_eq!(dirs.received("a"), b"x");
}

#[test]
fn paths_that_cannot_be_sent_are_named() {
    let dirs = Dirs::new();
    let file = dirs.write("a", b"");
    let twin = dirs.write("A", b"");
    let missing = dirs.from.path().join("missing");
    let table: Vec<(Vec<PathBuf>, &str)> = vec![
        (vec![], "nothing to send"),
        (vec![missing], "No such file"),
        (vec![dirs.from.path().to_owned()], "is a directory"),
        (vec!["/dev/null".into()], "not a regular file"),
        (vec![file.clone(), file.clone()], "twice"),
        (vec![file, twin], "twice"),
        (vec![dirs.write("a:b", b"")], "colon"),
        (vec![dirs.write("x\u{1b}[2J", b"")], r"x\u{1b}[2J"),
    ];
    for (paths, part) in table {
        let sentence = Source::prepare(&paths).unwrap_err().to_string();
        assert!(sentence.contains(part), "{paths:?}: {sentence}");
    }
}

#[test]
fn an_output_directory_that_cannot_be_used_is_named() {
    let dirs = Dirs::new();
    let missing = OutputDir::open(dirs.to.path().join("x")).unwrap_err();
    assert!(missing.to_string().contains("does not exist"));
    let file = OutputDir::open(dirs.write("f", b"")).unwrap_err();
    assert!(file.to_string().contains("is not a directory"));
    let read_only = OutputDir::open("/proc/self").unwrap_err();
    assert!(
        read_only.to_string().contains("cannot write"),
        "{read_only}"
    );
}
