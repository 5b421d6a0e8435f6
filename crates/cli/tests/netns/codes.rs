//! Codes: wrong, malformed, used, unknown, typed when asked.

use std::time::{Duration, Instant};

use postern_lab::netns::Case;

use crate::programs::SOON;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_wrong_code_fails_both_sides_and_burns_the_mailbox,
    a_code_is_asked_for_when_it_is_missing,
    a_code_is_read_however_it_is_typed,
    a_malformed_code_is_a_wrong_usage_and_sends_nothing,
    nobody_waits_under_a_code_that_was_never_made,
    a_code_works_once,
    a_third_person_is_turned_away,
    a_sender_waits_as_long_as_it_was_told,
);

/// The same mailbox with another word at the end.
fn with_a_wrong_word(code: &str) -> String {
    let (rest, last) = code.rsplit_once('-').unwrap();
    let other = if last == "zoo" { "abandon" } else { "zoo" };
    format!("{rest}-{other}")
}

fn a_wrong_code_fails_both_sides_and_burns_the_mailbox() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    let mut guesser = scene.receive(&with_a_wrong_word(&code));
    let here = guesser.fails_within(SOON, 3, "wrong_code");
    let there = sender.fails_within(SOON, 3, "wrong_code");
    assert!(here.contains("code is wrong") && there.contains("code is wrong"));
    let mut late = scene.receive(&code);
    late.fails_within(SOON, 3, "not_connected");
    scene.assert_nothing_arrived();
    scene.assert_still_works();
}

fn a_code_is_asked_for_when_it_is_missing() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.start("bob", scene.receiving(&["--yes"]));
    receiver.types(&format!("{}\n", sender.code()));
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn a_code_is_read_however_it_is_typed() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let typed = sender.code().to_uppercase().replace('-', " ");
    let mut receiver = scene.receive(&format!("  {typed} "));
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn a_malformed_code_is_a_wrong_usage_and_sends_nothing() {
    let scene = Scene::plain();
    let endless = format!("7-{}", "zoo-".repeat(1000));
    let codes = [
        "",
        " ",
        "crossover",
        "zoo-zoo",
        "0-zoo-zoo",
        "9999999-zoo-zoo",
        "7",
        "7-zoo",
        "7-zoo-zoo-zoo",
        "7-zoo-zzzzz",
        "7-zoo-\x1b[31m",
        &endless,
    ];
    for code in codes {
        let mut receiver = scene.receive(code);
        receiver.fails_within(SOON, 2, "bad_code");
    }
    let mut silent = scene.start("bob", scene.receiving(&["--yes"]));
    silent.types("");
    silent.fails_within(SOON, 2, "bad_code");
    assert_eq!(scene.bytes_through_server(), 0);
}

fn nobody_waits_under_a_code_that_was_never_made() {
    let scene = Scene::plain();
    let mut receiver = scene.receive("77-zoo-zoo");
    let sentence = receiver.fails_within(SOON, 3, "not_connected");
    assert!(sentence.contains("nobody waits"), "{sentence}");
}

fn a_code_works_once() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    let mut receiver = scene.receive(&code);
    receiver.succeeds();
    sender.succeeds();
    let mut again = scene.receive(&code);
    again.fails_within(SOON, 3, "not_connected");
}

fn a_third_person_is_turned_away() {
    let scene = Scene::plain();
    let file = scene.sparse_file("film", 1 << 30);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    let mut receiver = scene.receive(&code);
    receiver.event("path");
    let mut third = scene.receive(&code);
    third.fails_within(SOON, 3, "not_connected");
    receiver.event("progress");
    assert!(receiver.is_running() && sender.is_running());
}

fn a_sender_waits_as_long_as_it_was_told() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut command = scene.sending(&[&file]);
    command.args(["--wait", "2"]);
    let mut sender = scene.start("alice", command);
    let code = sender.code();
    let began = Instant::now();
    let sentence = sender.fails(3, "not_connected");
    let waited = began.elapsed();
    let expected = Duration::from_millis(1900)..SOON;
    assert!(expected.contains(&waited), "{waited:?}");
    assert!(sentence.contains("--wait"), "{sentence}");
    scene.receive(&code).fails_within(SOON, 3, "not_connected");
}
