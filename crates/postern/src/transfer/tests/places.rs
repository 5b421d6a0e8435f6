//! Links, devices and races in the output directory.

use super::raw::*;
use super::*;
use std::os::unix::fs::symlink;
use tokio::io::AsyncWriteExt;

/// Puts something at the second path; the first is a file that must stay as it is.
type Make = fn(&Path, &Path);

#[tokio::test]
async fn what_is_not_a_regular_file_is_never_replaced_or_followed() {
    let make: &[(&str, Make)] = &[
        ("a link to a file", |victim, at| {
            symlink(victim, at).unwrap()
        }),
        ("a dangling link", |_, at| {
            symlink("/nowhere/x", at).unwrap()
        }),
        ("a device", |_, at| symlink("/dev/null", at).unwrap()),
        ("a directory", |_, at| std::fs::create_dir(at).unwrap()),
        ("a pipe", |_, at| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, at, mode).unwrap();
        }),
    ];
    for (what, make) in make {
        for policy in [ReceivePolicy::default(), OVERWRITE] {
            let target = Target::new();
            let victim = target.outer.path().join("victim");
            std::fs::write(&victim, b"precious").unwrap();
            make(&victim, &target.path().join("a"));
            let (result, _) = target.attack(policy, &honest(b"evil")).await;
            assert_eq!(result.unwrap_err().kind(), "exists", "{what}");
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{what}");
            assert_eq!(names_in(&target.path()), ["a"], "{what}");
        }
    }
}

#[tokio::test]
async fn replacing_a_hard_link_leaves_its_other_name_alone() {
    let target = Target::new();
    let victim = target.outer.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    std::fs::hard_link(&victim, target.path().join("a")).unwrap();
    target.attack(OVERWRITE, &honest(b"new")).await.0.unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(std::fs::read(target.path().join("a")).unwrap(), b"new");
}

#[tokio::test]
async fn a_directory_that_is_swapped_for_a_link_redirects_nothing() {
    let target = Target::new();
    let moved = target.outer.path().join("moved");
    let elsewhere = tempfile::tempdir().unwrap();
    let output = target.output();
    std::fs::rename(target.path(), &moved).unwrap();
    symlink(elsewhere.path(), target.path()).unwrap();
    let (mut left, mut right) = connection();
    left.out.0.write_all(&honest(b"x")).await.unwrap();
    left.out.0.shutdown().await.unwrap();
    let policy = ReceivePolicy::default();
    receive(
        output,
        policy,
        async |_| true,
        &mut right.out,
        right.stream,
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!(names_in(&moved), ["a"]);
    assert_eq!(names_in(elsewhere.path()), [""; 0]);
}

#[tokio::test]
async fn a_file_that_appears_during_the_transfer_is_kept() {
    let target = Target::new();
    let (mut left, mut right) = connection();
    let place = target.path().join("a");
    let speak = async {
        let start = [offer(&[(b"a", 1)]), file(0, b"a", 1), data(b"x")].concat();
        left.out.0.write_all(&start).await.unwrap();
        while names_in(&target.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        std::fs::write(&place, b"mine").unwrap();
        let rest = [end(b"x"), finish(1, 1)].concat();
        left.out.0.write_all(&rest).await.unwrap();
        left.out.0.shutdown().await.unwrap();
    };
    let policy = ReceivePolicy::default();
    let run = receive(
        target.output(),
        policy,
        async |_| true,
        &mut right.out,
        right.stream,
        |_| {},
    );
    let (result, ()) = tokio::join!(run, speak);
    assert_eq!(result.unwrap_err().kind(), "exists");
    assert_eq!(std::fs::read(&place).unwrap(), b"mine");
    assert_eq!(names_in(&target.path()), ["a"]);
}
