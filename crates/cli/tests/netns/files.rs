//! What arrives, under which name, and what is already there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use postern_lab::netns::Case;

use crate::programs::{Program, SOON};
use crate::scene::{Scene, contents, names};

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    files_of_every_size_arrive_identical,
    several_files_arrive_in_one_transfer,
    names_with_spaces_and_other_scripts_arrive_as_they_are,
    a_name_that_could_deceive_is_refused_before_there_is_a_code,
    an_existing_file_is_not_replaced,
    an_existing_file_is_replaced_with_overwrite,
    what_is_no_regular_file_is_never_replaced,
    what_cannot_be_read_is_refused_before_there_is_a_code,
    whoever_says_no_gets_nothing,
    whoever_says_yes_gets_the_file,
    a_question_ends_when_the_other_side_has_gone,
    a_hidden_file_is_taken_only_when_that_is_allowed,
    people_are_told_in_sentences,
    people_are_told_of_failures_on_standard_error,
    several_pairs_use_one_server_at_a_time,
);

fn files_of_every_size_arrive_identical() {
    let scene = Scene::plain();
    let files: Vec<PathBuf> = [("empty", 0), ("tiny", 1), ("large", 64 << 20)]
        .map(|(name, size)| scene.file(name, size))
        .into();
    for file in &files {
        let size = fs::metadata(file).unwrap().len();
        let mut sender = scene.send(&[file]);
        let mut receiver = scene.receive(&sender.code());
        assert_eq!(receiver.succeeds()["bytes"], size);
        assert_eq!(sender.succeeds()["bytes"], size);
    }
    scene.assert_arrived(&files);
}

fn several_files_arrive_in_one_transfer() {
    let scene = Scene::plain();
    let sizes = [("first", 3_000_000), ("second", 0), ("third", 70_001)];
    let files = sizes.map(|(name, size)| scene.file(name, size));
    let mut sender = scene.send(&files);
    let mut receiver = scene.receive(&sender.code());
    for done in [receiver.succeeds(), sender.succeeds()] {
        assert_eq!(
            (&done["files"], &done["bytes"]),
            (&3.into(), &3_070_001.into())
        );
    }
    scene.assert_arrived(&files);
}

fn names_with_spaces_and_other_scripts_arrive_as_they_are() {
    let scene = Scene::plain();
    let long = "n".repeat(255);
    let names = [
        "holiday photo (1).jpg",
        "Grüße.txt",
        "写真.png",
        "-rf",
        "'quoted\"",
        &long,
    ];
    let files: Vec<PathBuf> = names.iter().map(|name| scene.file(name, 1000)).collect();
    let mut sender = scene.send(&files);
    let mut receiver = scene.receive(&sender.code());
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&files);
}

fn a_name_that_could_deceive_is_refused_before_there_is_a_code() {
    let scene = Scene::plain();
    for name in ["two\nlines", "bell\x07", "red\x1b[31m", "gpj.\u{202e}exe"] {
        let file = scene.file(OsStr::from_bytes(name.as_bytes()), 10);
        let mut sender = scene.send(&[&file]);
        let sentence = sender.fails_within(SOON, 1, "bad_name");
        assert!(sentence.contains("rename"), "{sentence}");
    }
    assert_eq!(scene.bytes_through_server(), 0);
}

fn an_existing_file_is_not_replaced() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    fs::write(scene.inbox().join("letter"), "old").unwrap();
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    let here = receiver.fails_within(SOON, 1, "exists");
    let there = sender.fails_within(SOON, 3, "exists");
    assert!(here.contains("--overwrite"), "{here}");
    assert!(here.contains("letter") && there.contains("letter"));
    assert_eq!(names(&scene.inbox()), ["letter"]);
    assert_eq!(fs::read(scene.inbox().join("letter")).unwrap(), b"old");
}

fn an_existing_file_is_replaced_with_overwrite() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    fs::write(scene.inbox().join("letter"), vec![7; 9000]).unwrap();
    let mut sender = scene.send(&[&file]);
    let arguments = ["--yes", "--overwrite", &sender.code()];
    let mut receiver = scene.start("bob", scene.receiving(&arguments));
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn what_is_no_regular_file_is_never_replaced() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let (target, link) = (scene.path("precious"), scene.inbox().join("letter"));
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut sender = scene.send(&[&file]);
    let arguments = ["--yes", "--overwrite", &sender.code()];
    let mut receiver = scene.start("bob", scene.receiving(&arguments));
    receiver.fails_within(SOON, 1, "exists");
    sender.fails_within(SOON, 3, "exists");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(names(&scene.inbox()), ["letter"]);
}

fn what_cannot_be_read_is_refused_before_there_is_a_code() {
    let scene = Scene::plain();
    let missing = scene.sent("missing");
    for path in [
        missing.as_path(),
        scene.inbox().as_path(),
        "/dev/null".as_ref(),
    ] {
        let mut sender = scene.send(&[path]);
        let (code, sentence) = sender.failure_within(SOON);
        assert_eq!(code, Some(1), "{sentence}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(sentence.contains(name), "{sentence}");
    }
    assert_eq!(scene.bytes_through_server(), 0);
}

fn whoever_says_no_gets_nothing() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    for answer in ["n\n", "no\n", "what?\n", ""] {
        let mut sender = scene.send(&[&file]);
        let mut receiver = scene.start("bob", scene.receiving(&[&sender.code()]));
        receiver.types(answer);
        receiver.fails_within(SOON, 3, "refused");
        sender.fails_within(SOON, 3, "refused");
        scene.assert_nothing_arrived();
    }
}

fn whoever_says_yes_gets_the_file() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.start("bob", scene.receiving(&[&sender.code()]));
    receiver.types("y\n");
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn a_question_ends_when_the_other_side_has_gone() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.start("bob", scene.receiving(&[&sender.code()]));
    receiver.event("path");
    sender.event("path");
    sender.signal(Signal::SIGINT);
    receiver.fails_within(SOON, 1, "disconnected");
    assert_eq!(sender.exit_code(), Some(4));
}

fn a_hidden_file_is_taken_only_when_that_is_allowed() {
    let scene = Scene::plain();
    let file = scene.file(".profile", 100);
    let mut sender = scene.send(&[&file]);
    let sentence = scene
        .receive(&sender.code())
        .fails_within(SOON, 1, "bad_name");
    assert!(sentence.contains("--hidden"), "{sentence}");
    sender.fails_within(SOON, 3, "bad_name");
    scene.assert_nothing_arrived();
    let mut sender = scene.send(&[&file]);
    let willing = scene.receiving(&["--yes", "--hidden", &sender.code()]);
    scene.start("bob", willing).succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn people_are_told_in_sentences() {
    let scene = Scene::plain();
    let file = scene.sent("a letter");
    fs::write(&file, contents(5000)).unwrap();
    let mut sender = scene.start_for_people("alice", scene.sending(&[&file]));
    let command = sender.line_with("postern receive");
    assert!(command.contains("--server 'wss://"), "{command}");
    let code = command.split_whitespace().last().unwrap().to_owned();
    let receiving = scene.receiving(&["--yes", &code]);
    let mut receiver = scene.start_for_people("bob", receiving);
    receiver.ends_well();
    sender.ends_well();
    let (sender, receiver) = (sender.said(), receiver.said());
    assert!(sender.contains("Sending a letter (5.00 kB)"), "{sender}");
    assert!(sender.contains("Connected: direct, UDP, "), "{sender}");
    assert!(sender.contains("Sent 1 file, 5.00 kB in "), "{sender}");
    assert!(receiver.contains("Connected: direct, UDP, "), "{receiver}");
    assert!(
        receiver.contains("Received 1 file, 5.00 kB in "),
        "{receiver}"
    );
    scene.assert_arrived(&[file]);
}

fn people_are_told_of_failures_on_standard_error() {
    let scene = Scene::plain();
    let command = scene.receiving(&["--yes", "77-zoo-zoo"]);
    let mut receiver = scene.start_for_people("bob", command);
    let (code, sentence) = receiver.failure_within(SOON);
    assert_eq!(code, Some(3), "{sentence}");
    assert_eq!(receiver.said(), "");
}

fn several_pairs_use_one_server_at_a_time() {
    let scene = Scene::plain();
    let files: Vec<PathBuf> = (0..6)
        .map(|index| scene.file(format!("letter {index}"), 1_000_000 + index))
        .collect();
    let mut senders: Vec<Program> = files.iter().map(|file| scene.send(&[file])).collect();
    let codes = senders.iter_mut().map(Program::code);
    let mut receivers: Vec<Program> = codes.map(|code| scene.receive(&code)).collect();
    receivers
        .iter_mut()
        .for_each(|receiver| drop(receiver.succeeds()));
    senders
        .iter_mut()
        .for_each(|sender| drop(sender.succeeds()));
    scene.assert_arrived(&files);
}
