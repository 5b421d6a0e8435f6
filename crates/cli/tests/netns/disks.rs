//! Directories and disks that do not take the file, and files that change.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use postern_lab::netns::{Case, Topology};
use postern_lab::sim::{Link, Nat, Pipe};

use crate::programs::{Program, SOON};
use crate::scene::{Scene, names};

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_bad_output_directory_is_refused_before_anything_is_sent,
    a_read_only_directory_is_refused_before_anything_is_sent,
    a_file_that_does_not_fit_is_refused_before_it_is_sent,
    a_disk_that_fills_up_stops_both_sides_and_keeps_nothing,
    a_file_that_changes_while_it_is_sent_arrives_nowhere,
    a_file_that_changes_before_the_other_side_comes_is_not_sent,
    a_directory_that_is_removed_stops_both_sides,
);

/// More than a sender reads ahead of what has arrived.
const FAR_AHEAD: usize = 16_000_000;

/// Something mounted in the namespace of this process.
struct Mounted(PathBuf);

impl Mounted {
    /// A file system of its own with 5 MB.
    fn small_disk(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let kind = Some("tmpfs");
        mount(kind, at, kind, MsFlags::empty(), Some("size=5m")).unwrap();
        Self(at.to_owned())
    }

    /// A directory that even root cannot write.
    fn read_only(at: &Path) -> Self {
        let disk = Self::small_disk(at);
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, flags, None::<&str>).unwrap();
        disk
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Cables of 8 MB a second, so that there is time to do something in the middle.
fn slow() -> Scene {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::symmetric(Pipe {
        rate: Some(8_000_000),
        queue: std::time::Duration::from_millis(100),
        ..Pipe::default()
    });
    Scene::of(&topology)
}

fn a_bad_output_directory_is_refused_before_anything_is_sent() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    for directory in [scene.path("missing"), file] {
        let mut command = scene.receiving_into(&directory);
        command.args(["--yes", "7-zoo-zoo"]);
        let mut receiver = scene.start("bob", command);
        let sentence = receiver.fails_within(SOON, 1, "output");
        let shown = directory.to_str().unwrap();
        assert!(sentence.contains(shown), "{sentence}");
    }
    assert_eq!(scene.bytes_through_server(), 0);
}

fn a_read_only_directory_is_refused_before_anything_is_sent() {
    let scene = Scene::plain();
    let disk = Mounted::read_only(&scene.path("disk"));
    let mut command = scene.receiving_into(&disk.0);
    command.args(["--yes", "7-zoo-zoo"]);
    let mut receiver = scene.start("bob", command);
    let sentence = receiver.fails_within(SOON, 1, "output");
    assert!(sentence.to_lowercase().contains("read-only"), "{sentence}");
    assert_eq!(scene.bytes_through_server(), 0);
}

fn a_file_that_does_not_fit_is_refused_before_it_is_sent() {
    let scene = Scene::plain();
    let disk = Mounted::small_disk(&scene.path("disk"));
    let file = scene.file("film", 20_000_000);
    let (mut sender, mut receiver) = sending_to(&scene, &file, &disk);
    let here = receiver.fails_within(SOON, 1, "disk_full");
    sender.fails_within(SOON, 3, "disk_full");
    assert!(here.contains("20000000") || here.contains("20.0"), "{here}");
    assert_eq!(names(&disk.0), Vec::<String>::new());
}

fn a_disk_that_fills_up_stops_both_sides_and_keeps_nothing() {
    let scene = slow();
    let disk = Mounted::small_disk(&scene.path("disk"));
    let file = scene.file("film", 4_500_000);
    let (mut sender, mut receiver) = sending_to(&scene, &file, &disk);
    receiver.event("progress");
    let filler = disk.0.join("filler");
    assert!(fs::write(&filler, vec![1; 6_000_000]).is_err());
    receiver.fails(1, "disk_full");
    sender.fails(1, "disk_full");
    assert_eq!(names(&disk.0), ["filler"]);
}

fn a_file_that_changes_while_it_is_sent_arrives_nowhere() {
    let scene = slow();
    for change in [append, truncate] {
        let file = scene.file("film", FAR_AHEAD);
        let mut sender = scene.send(&[&file]);
        let mut receiver = scene.receive(&sender.code());
        receiver.event("progress");
        change(&file);
        let here = sender.fails(1, "changed");
        let there = receiver.fails(1, "changed");
        assert!(here.contains("film") && there.contains("film"));
        scene.assert_nothing_arrived();
    }
}

fn a_file_that_changes_before_the_other_side_comes_is_not_sent() {
    let scene = Scene::plain();
    for change in [append, truncate, remove] {
        let file = scene.file("film", 100_000);
        let mut sender = scene.send(&[&file]);
        let code = sender.code();
        change(&file);
        let mut receiver = scene.receive(&code);
        let (code, sentence) = sender.failure_within(SOON);
        assert_eq!(code, Some(1), "{sentence}");
        let (code, sentence) = receiver.failure_within(SOON);
        assert_eq!(code, Some(1), "{sentence}");
        scene.assert_nothing_arrived();
    }
}

fn a_directory_that_is_removed_stops_both_sides() {
    let scene = Scene::plain();
    let file = scene.file("film", 100_000);
    let directory = scene.path("short-lived");
    fs::create_dir(&directory).unwrap();
    let mut sender = scene.send(&[&file]);
    let mut command = scene.receiving_into(&directory);
    command.arg(sender.code());
    let mut receiver = scene.start("bob", command);
    receiver.event("path");
    fs::remove_dir(&directory).unwrap();
    receiver.types("y\n");
    let (code, _) = receiver.failure_within(SOON);
    assert_eq!(code, Some(1));
    let (code, _) = sender.failure_within(SOON);
    assert!(matches!(code, Some(1 | 3)), "{code:?}");
}

fn sending_to(scene: &Scene, file: &Path, disk: &Mounted) -> (Program, Program) {
    let mut sender = scene.send(&[file]);
    let mut command = scene.receiving_into(&disk.0);
    command.arg("--yes").arg(sender.code());
    (sender, scene.start("bob", command))
}

fn append(file: &Path) {
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(b"and more").unwrap();
}

fn truncate(file: &Path) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(1000).unwrap();
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}
