//! Files that change, peers that vanish, disks that fill up.

use super::*;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sends a prepared file after `change`, or changes it while it is being sent.
async fn changed(change: impl Fn(&Path), during: bool) -> (Outcomes, Dirs) {
    let dirs = Dirs::new();
    let path = dirs.write("a", &noise(16 << 20));
    let source = Source::prepare([&path]).unwrap();
    if !during {
        change(&path);
    }
    let (mut left, mut right) = connection();
    let mut first = during;
    let outcomes = tokio::join!(
        send(source, &mut left.out, left.stream, |_| {
            if std::mem::take(&mut first) {
                change(&path);
            }
        }),
        receive(
            dirs.output(),
            ReceivePolicy::default(),
            async |_| true,
            &mut right.out,
            right.stream,
            |_| {}
        ),
    );
    (outcomes, dirs)
}

fn append(path: &Path) {
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(b"more").unwrap();
}

fn truncate(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(5 << 20).unwrap();
}

fn rewrite(path: &Path) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all(b"other bytes").unwrap();
}

fn replace(path: &Path) {
    let other = path.with_extension("new");
    std::fs::write(&other, noise(16 << 20)).unwrap();
    std::fs::rename(other, path).unwrap();
}

fn become_a_pipe(path: &Path) {
    std::fs::remove_file(path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_not_sent() {
    let changes: &[fn(&Path)] = &[append, truncate, rewrite, replace, become_a_pipe];
    for (index, change) in changes.iter().enumerate() {
        for during in [false, true] {
            let ((sent, received), dirs) = changed(change, during).await;
            assert_eq!(sent.unwrap_err().kind(), "changed", "{index} {during}");
            let received = received.unwrap_err();
            assert_eq!(received.kind(), "changed", "{index} {during}: {received}");
            assert!(dirs.names().is_empty(), "{index} {during}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_named_on_both_sides() {
    let ((sent, received), _) = changed(|path| std::fs::remove_file(path).unwrap(), false).await;
    let sentence = sent.unwrap_err().to_string();
    assert!(sentence.starts_with("cannot read a:"), "{sentence}");
    let received = received.unwrap_err();
    assert_eq!(received.kind(), "io");
    assert!(received.to_string().contains(&sentence));
}

/// Starts a large transfer and waits until its unfinished file is there.
async fn under_way(dirs: &Dirs) {
    while dirs.names().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_receiver_that_is_dropped_has_cleaned_up() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(64 << 20))]).unwrap();
    let (mut left, mut right) = connection();
    let policy = ReceivePolicy::default();
    tokio::select! {
        _ = send(source, &mut left.out, left.stream, |_| {}) => panic!("sent"),
        _ = receive(dirs.output(), policy, async |_| true, &mut right.out, right.stream, |_| {}) => panic!("received"),
        () = under_way(&dirs) => {}
    }
    assert_eq!(dirs.names(), [""; 0]);
}

#[tokio::test]
async fn a_sender_that_vanishes_leaves_nothing_behind() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(64 << 20))]).unwrap();
    let (mut left, mut right) = connection();
    let sender = async {
        tokio::select! {
            _ = send(source, &mut left.out, left.stream, |_| {}) => panic!("sent"),
            () = under_way(&dirs) => {}
        }
        drop(left.out);
    };
    let policy = ReceivePolicy::default();
    let receiver = receive(
        dirs.output(),
        policy,
        async |_| true,
        &mut right.out,
        right.stream,
        |_| {},
    );
    let (result, ()) = tokio::join!(receiver, sender);
    assert_eq!(result.unwrap_err().kind(), "disconnected");
    assert_eq!(dirs.names(), [""; 0]);
}

#[tokio::test]
async fn a_receiver_that_vanishes_is_noticed() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(64 << 20))]).unwrap();
    let (mut left, mut right) = connection();
    let receiver = async {
        let policy = ReceivePolicy::default();
        tokio::select! {
            _ = receive(dirs.output(), policy, async |_| true, &mut right.out, right.stream, |_| {}) => panic!("received"),
            () = under_way(&dirs) => {}
        }
        drop(right.out);
    };
    let (result, ()) = tokio::join!(send(source, &mut left.out, left.stream, |_| {}), receiver);
    assert_eq!(result.unwrap_err().kind(), "disconnected");
}

#[tokio::test]
async fn an_output_directory_that_is_deleted_meanwhile_is_an_error() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", b"x")]).unwrap();
    let output = dirs.output();
    std::fs::remove_dir(dirs.to.path()).unwrap();
    let (sent, received) = transfer(source, output, ReceivePolicy::default()).await;
    let received = received.unwrap_err();
    assert!(matches!(received.kind(), "io" | "disk_full"), "{received}");
    assert_eq!(sent.unwrap_err().kind(), received.kind());
}

/// Environment variable with a directory on a file system of 1 MiB.
const SMALL_DISK: &str = "POSTERN_TEST_SMALL_DISK";

/// Repeats this test, by name, in a mount namespace of its own with a disk of 1 MiB.
#[test]
fn a_full_disk_is_named_on_both_sides() {
    let test = std::thread::current().name().unwrap().to_owned();
    if let Ok(disk) = std::env::var(SMALL_DISK) {
        fill_disk(Path::new(&disk));
        return;
    }
    let mount = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$1\" || exit 77; shift; exec \"$@\"";
    let status = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(mount.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test])
        .env(SMALL_DISK, mount.path())
        .process_group(0)
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(1 | 77)) if !namespaces_are_allowed() => {
            println!("skipped: this system allows no user namespaces");
        }
        other => panic!("{other:?}"),
    }
}

fn namespaces_are_allowed() -> bool {
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .status();
    probe.is_ok_and(|status| status.success())
}

#[tokio::main(flavor = "current_thread")]
async fn fill_disk(disk: &Path) {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(3 << 20))]).unwrap();
    let output = OutputDir::open(disk).unwrap();
    let policy = ReceivePolicy::default;
    let (sent, received) = transfer(source, output.clone(), policy()).await;
    assert!(matches!(received, Err(ReceiveError::NoSpace { .. })));
    assert_eq!(sent.unwrap_err().kind(), "disk_full");

    // Space that is there at the offer and gone during the transfer.
    let source = Source::prepare([dirs.write("b", &noise(900 << 10))]).unwrap();
    let (mut left, mut right) = connection();
    let steal = async |_: &Offer| {
        std::fs::write(disk.join("other"), noise(500 << 10)).unwrap();
        true
    };
    let (sent, received) = tokio::join!(
        send(source, &mut left.out, left.stream, |_| {}),
        receive(
            output,
            policy(),
            steal,
            &mut right.out,
            right.stream,
            |_| {}
        ),
    );
    assert!(matches!(received, Err(ReceiveError::DiskFull(_))));
    assert_eq!(sent.unwrap_err().kind(), "disk_full");
    assert_eq!(names_in(disk), ["other"]);
}
