//! Networks that change during a transfer: hosts roam, UDP ceases to pass. Each case says how long
//! nothing arrived.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::{Link, Nat, Pipe};

use crate::programs::Program;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_sender_roams_during_a_transfer,
    a_receiver_roams_during_a_transfer,
    both_sides_roam_at_once,
    one_side_loses_udp_half_way_and_goes_on_over_tcp,
);

/// Bytes of a file that takes some seconds.
const FILM: usize = 20_000_000;

/// The connection would be over after this much silence.
const SILENCE: Duration = Duration::from_secs(15);

/// So slow that a file is under way for some seconds.
pub(crate) fn slow() -> Link {
    Link::symmetric(Pipe {
        rate: Some(2_500_000),
        queue: Duration::from_millis(50),
        latency: Duration::from_millis(5),
        ..Pipe::default()
    })
}

/// Alice and Bob at home, and two more homes to roam to. Alice's and those are slow.
pub(crate) fn scene(relay: bool) -> Scene {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    for (name, lan) in [("green", 3), ("grey", 4)] {
        topology
            .homes
            .push(Home::new(name, &[], lan, Nat::default()));
    }
    for home in [0, 2, 3] {
        topology.homes[home].link = slow();
    }
    let mut scene = Scene::without_server(&topology);
    let arguments: &[&str] = if relay { &["--relay"] } else { &[] };
    scene.serve_with(&[], arguments);
    scene
}

/// Sends a film; when some of it has arrived, something happens. All of it arrives, and the same;
/// the two programs, which have ended.
pub(crate) fn film(scene: &Scene, what: &str, happens: impl FnOnce()) -> [Program; 2] {
    film_with(scene, what, |_| happens())
}

/// The same with something that happens to the two programs, the sender first.
#[expect(clippy::print_stderr, reason = "a test prints what it has measured")]
pub(crate) fn film_with(
    scene: &Scene,
    what: &str,
    happens: impl FnOnce([&Program; 2]),
) -> [Program; 2] {
    let file = scene.file("film", FILM);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    while receiver.event("progress")["bytes"].as_u64().unwrap() < 2_000_000 {}
    happens([&sender, &receiver]);
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
    let gap = gap(&receiver);
    eprintln!("{what}: nothing arrived for {:.2} s", gap.as_secs_f64());
    assert!(gap < SILENCE, "{gap:?}");
    [sender, receiver]
}

/// The longest time between two signs of progress, which are told four times a second.
pub(crate) fn gap(receiver: &Program) -> Duration {
    let mut latest: Option<(Instant, u64)> = None;
    let mut longest = Duration::ZERO;
    for line in receiver.heard() {
        let Some(bytes) = line.event()["bytes"].as_u64() else {
            continue;
        };
        if latest.is_none_or(|(_, before)| bytes > before) {
            let since = latest.map_or(Duration::ZERO, |(at, _)| line.at - at);
            longest = longest.max(since);
            latest = Some((line.at, bytes));
        }
    }
    longest
}

/// The paths that a program has told, by their local addresses.
fn locals(program: &Program) -> Vec<String> {
    let events = program.heard().iter().map(|line| line.event());
    let paths = events.filter(|event| event["event"] == "path");
    paths
        .map(|path| path["local"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn roam(scene: &Scene, host: &str, router: &str, lan: u8) {
    let address = Ipv4Addr::new(192, 168, lan, 50);
    scene.world.roam(host, router, address).unwrap();
}

/// The last path that a program has told begins at this address.
pub(crate) fn assert_ends_at(program: &Program, address: &str) {
    let locals = locals(program);
    let last = locals.last().unwrap();
    assert!(last.starts_with(address), "{locals:?}");
}

fn a_sender_roams_during_a_transfer() {
    for relay in [false, true] {
        let scene = scene(relay);
        let what = format!("the sender roams, relay {relay}");
        let [sender, _] = film(&scene, &what, || roam(&scene, "alice", "green", 3));
        // Through the other side's relay it ends at an address of that.
        if !relay {
            assert_ends_at(&sender, "192.168.3.50:");
        }
    }
}

fn a_receiver_roams_during_a_transfer() {
    let scene = scene(false);
    let happens = || roam(&scene, "bob", "green", 3);
    let [_, receiver] = film(&scene, "the receiver roams", happens);
    assert_ends_at(&receiver, "192.168.3.50:");
}

fn both_sides_roam_at_once() {
    let scene = scene(false);
    let [sender, receiver] = film(&scene, "both sides roam", || {
        roam(&scene, "alice", "green", 3);
        roam(&scene, "bob", "grey", 4);
    });
    assert_ends_at(&sender, "192.168.3.50:");
    assert_ends_at(&receiver, "192.168.4.50:");
}

pub(crate) const WITHOUT_UDP: &str = "table inet block {
chain forward { type filter hook forward priority -10; meta l4proto udp drop; }
}
";

fn one_side_loses_udp_half_way_and_goes_on_over_tcp() {
    let scene = scene(true);
    let happens = || scene.world.nft("red", WITHOUT_UDP).unwrap();
    let [sender, _] = film(&scene, "the sender loses UDP", happens);
    let mut heard = sender.heard().iter().map(|line| line.event());
    let last = heard.rfind(|event| event["event"] == "path").unwrap();
    // Directly, or through the relay.
    assert_eq!(last["protocol"], "tcp", "{last}");
}
