//! Programs that are killed or interrupted, at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use postern_lab::netns::Case;

use crate::programs::{Program, SOON};
use crate::scene::{Scene, names};

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    whoever_is_killed_leaves_nothing_and_the_other_side_ends,
    an_interrupted_sender_tells_the_receiver_at_once,
    an_interrupted_receiver_tells_the_sender_at_once,
    a_sender_that_waits_can_be_interrupted,
    a_receiver_that_asks_can_be_interrupted,
    a_sender_killed_while_it_waits_takes_its_mailbox_along,
    a_server_that_goes_before_the_other_side_came_ends_the_sender,
);

/// A killed program says nothing: the other side gives up after 15 s of silence.
const SILENCE: Duration = Duration::from_secs(30);

/// Bytes that no transfer here gets to the end of.
const LONG: u64 = 4 << 30;

/// When in the life of a pair something happens.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the receiver was started: around the rendezvous and the checks.
    After(Duration),
    /// Both have a path.
    Path,
    /// Data flows.
    Progress,
    /// A good part has arrived.
    Middle,
}

const MOMENTS: [Moment; 8] = [
    Moment::After(Duration::ZERO),
    Moment::After(Duration::from_millis(10)),
    Moment::After(Duration::from_millis(25)),
    Moment::After(Duration::from_millis(45)),
    Moment::After(Duration::from_millis(70)),
    Moment::Path,
    Moment::Progress,
    Moment::Middle,
];

/// A transfer that takes long, with an inbox of its own.
struct Pair {
    sender: Program,
    receiver: Program,
    inbox: PathBuf,
    moment: Moment,
}

impl Pair {
    /// Starts a transfer and lets it come to the given moment.
    fn at(scene: &Scene, film: &Path, moment: Moment) -> Self {
        // A receiver that is killed before it came leaves a sender that waits for it.
        let mut command = scene.sending(&[film]);
        command.args(["--wait", "15"]);
        let mut sender = scene.start("alice", command);
        let code = sender.code();
        let inbox = scene.path(&format!("inbox of {code}"));
        fs::create_dir(&inbox).unwrap();
        let mut command = scene.receiving_into(&inbox);
        command.args(["--yes", &code]);
        let receiver = scene.start("bob", command);
        let mut pair = Self {
            sender,
            receiver,
            inbox,
            moment,
        };
        pair.reach();
        pair
    }

    fn reach(&mut self) {
        match self.moment {
            Moment::After(delay) => thread::sleep(delay),
            Moment::Path => {
                self.sender.event("path");
                self.receiver.event("path");
            }
            Moment::Progress => drop(self.receiver.event("progress")),
            Moment::Middle => while self.received() < 30_000_000 {},
        }
    }

    fn received(&mut self) -> u64 {
        self.receiver.event("progress")["bytes"].as_u64().unwrap()
    }

    fn assert_nothing_is_left(&self) {
        let left = names(&self.inbox);
        assert_eq!(left, Vec::<String>::new(), "{:?}", self.moment);
    }
}

/// The side that is left has failed with a reason that has to do with the other one.
fn assert_left_alone(program: &mut Program, limit: Duration, moment: Moment) {
    let (code, sentence) = program.failure_within(limit);
    assert!(
        matches!(code, Some(1 | 3)),
        "{moment:?}: {code:?} {sentence}"
    );
    let said = program.heard().last().unwrap().event();
    let kind = said["kind"].as_str().unwrap();
    let expected = [
        "not_connected",
        "disconnected",
        "cancelled",
        "no_path",
        "handshake",
    ];
    assert!(expected.contains(&kind), "{moment:?}: {kind}: {sentence}");
}

fn whoever_is_killed_leaves_nothing_and_the_other_side_ends() {
    let scene = Scene::plain();
    let film = scene.sparse_file("film", LONG);
    let (mut receivers, mut senders) = (Vec::new(), Vec::new());
    // All are killed first: the silence they leave is long.
    for moment in MOMENTS {
        let pair = Pair::at(&scene, &film, moment);
        pair.sender.kill();
        receivers.push((pair.receiver, pair.inbox, moment));
        let pair = Pair::at(&scene, &film, moment);
        pair.receiver.kill();
        assert!(!pair.inbox.join("film").exists(), "{moment:?}");
        senders.push((pair.sender, moment));
    }
    for (mut receiver, inbox, moment) in receivers {
        assert_left_alone(&mut receiver, SILENCE, moment);
        assert_eq!(names(&inbox), Vec::<String>::new(), "{moment:?}");
    }
    for (mut sender, moment) in senders {
        assert_left_alone(&mut sender, SILENCE, moment);
    }
    scene.assert_still_works();
}

fn an_interrupted_sender_tells_the_receiver_at_once() {
    let scene = Scene::plain();
    let film = scene.sparse_file("film", LONG);
    for (index, moment) in MOMENTS.into_iter().enumerate() {
        let mut pair = Pair::at(&scene, &film, moment);
        interrupt(&mut pair.sender, index);
        assert_left_alone(&mut pair.receiver, SOON, moment);
        pair.assert_nothing_is_left();
    }
    scene.assert_still_works();
}

fn an_interrupted_receiver_tells_the_sender_at_once() {
    let scene = Scene::plain();
    let film = scene.sparse_file("film", LONG);
    for (index, moment) in MOMENTS.into_iter().enumerate() {
        let mut pair = Pair::at(&scene, &film, moment);
        interrupt(&mut pair.receiver, index);
        pair.assert_nothing_is_left();
        if !matches!(moment, Moment::After(_)) {
            assert_left_alone(&mut pair.sender, SOON, moment);
        }
    }
    scene.assert_still_works();
}

fn a_sender_that_waits_can_be_interrupted() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    interrupt(&mut sender, 0);
    scene.receive(&code).fails_within(SOON, 3, "not_connected");
}

fn a_receiver_that_asks_can_be_interrupted() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.start("bob", scene.receiving(&[&sender.code()]));
    receiver.event("path");
    interrupt(&mut receiver, 0);
    assert_left_alone(&mut sender, SOON, Moment::Path);
    scene.assert_nothing_arrived();
}

fn a_sender_killed_while_it_waits_takes_its_mailbox_along() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    sender.kill();
    scene.receive(&code).fails_within(SOON, 3, "not_connected");
    scene.assert_still_works();
}

fn a_server_that_goes_before_the_other_side_came_ends_the_sender() {
    let mut scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let code = sender.code();
    scene.server.take().unwrap().kill();
    sender.fails_within(SOON, 1, "server_unreachable");
    let mut receiver = scene.receive(&code);
    receiver.fails_within(SOON, 1, "server_unreachable");
}

/// Interrupts from the keyboard and from the system, in turn; the program obeys at once.
fn interrupt(program: &mut Program, index: usize) {
    let signals = [Signal::SIGINT, Signal::SIGTERM];
    program.signal(signals[index % 2]);
    let (code, sentence) = program.end_within(SOON);
    if code.is_none() && program.heard().is_empty() {
        // It was only being started and had not asked for signals yet.
        return;
    }
    assert_eq!(code, Some(4), "{sentence}");
    let said = program.heard().last().unwrap().event();
    assert_eq!(said["kind"], "cancelled");
}
