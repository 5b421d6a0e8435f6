//! Where no direct path exists: the server's relay.

use postern_lab::netns::{Case, Topology};
use postern_lab::sim::Nat;

use crate::paths::strict;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    two_strict_routers_are_connected_through_the_relay,
    an_easy_pair_does_not_use_the_relay,
    whoever_wants_the_relay_only_uses_it,
    whoever_wants_direct_paths_only_is_not_relayed,
    relay_only_and_direct_only_exclude_each_other,
);

/// More than an introduction takes, and less than the files of these cases.
const LITTLE: u64 = 500_000;

fn with_relay(red: Nat, blue: Nat) -> Scene {
    let mut scene = Scene::without_server(&Topology::two_homes(red, blue));
    scene.serve_with(&[], &["--relay"]);
    scene
}

fn two_strict_routers_are_connected_through_the_relay() {
    let scene = with_relay(strict(), strict());
    let file = scene.file("photo.jpg", 20_000_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    for program in [&mut sender, &mut receiver] {
        let path = program.event("path");
        let kind = (&path["kind"], &path["protocol"]);
        assert_eq!(kind, (&"relayed".into(), &"udp".into()));
    }
    assert_eq!(receiver.succeeds()["path"], "relayed");
    assert_eq!(sender.succeeds()["path"], "relayed");
    scene.assert_arrived(&[file]);
    let passed = scene.bytes_through_server();
    assert!(passed > 40_000_000, "{passed} bytes are not twice the file");
}

fn an_easy_pair_does_not_use_the_relay() {
    let scene = with_relay(Nat::default(), Nat::default());
    let file = scene.file("photo.jpg", 20_000_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    assert_eq!(receiver.succeeds()["path"], "direct");
    assert_eq!(sender.succeeds()["path"], "direct");
    scene.assert_arrived(&[file]);
    let passed = scene.bytes_through_server();
    assert!(passed < LITTLE, "{passed} bytes passed the server");
}

fn whoever_wants_the_relay_only_uses_it() {
    let scene = with_relay(Nat::default(), Nat::default());
    let file = scene.file("letter", 100_000);
    let mut command = scene.sending(&[&file]);
    command.arg("--relay-only");
    let mut sender = scene.start("alice", command);
    let mut receiver = scene.receive(&sender.code());
    assert_eq!(receiver.event("path")["kind"], "relayed");
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn whoever_wants_direct_paths_only_is_not_relayed() {
    let scene = with_relay(strict(), strict());
    let file = scene.file("letter", 5000);
    let mut command = scene.sending(&[&file]);
    command.arg("--direct-only");
    let mut sender = scene.start("alice", command);
    let mut receiver = scene.receive(&sender.code());
    sender.fails(1, "no_path");
    receiver.fails(1, "no_path");
    scene.assert_nothing_arrived();
}

fn relay_only_and_direct_only_exclude_each_other() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut command = scene.sending(&[&file]);
    command.args(["--relay-only", "--direct-only"]);
    let mut program = scene.start_for_people("alice", command);
    assert_eq!(program.exit_code(), Some(2));
}
