//! Paths that fall silent while the addresses of both hosts stay what they are, so that nothing but the
//! silence tells of it. Each case says how soon data flows again.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postern_lab::netns::{Case, Topology};
use postern_lab::sim::{Allocation, Nat, Ports};

use crate::mapped::random;
use crate::outages::resumed_after;
use crate::roaming::{WITHOUT_UDP, film, film_with, scene, slow};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    udp_that_is_lost_on_one_side_is_replaced_beside_a_relay,
    udp_that_is_lost_on_one_side_is_replaced_by_tcp,
    udp_to_a_relay_that_is_lost_is_replaced_by_tcp,
    two_routers_that_forget_their_flows_during_a_transfer,
    two_routers_that_forget_their_flows_while_nothing_is_sent,
    a_sender_that_sleeps_for_ten_seconds_goes_on,
    a_receiver_that_sleeps_for_ten_seconds_goes_on,
);

/// A silent path is left in this time while data is in flight; progress is told four times a second.
const IN_FLIGHT: Duration = Duration::from_millis(3250);

/// The same while nothing is sent.
const IDLE: Duration = Duration::from_secs(15);

/// A second after the beginning a connection may move from one relayed path to another. What is lost in that
/// very moment may cost much longer: 19 to 24 s were seen.
const SETTLING: Duration = Duration::from_secs(1);

/// How long a machine sleeps.
const ASLEEP: Duration = Duration::from_secs(10);

/// Says how soon something came after a moment, and holds it against what is allowed.
#[expect(clippy::print_stderr, reason = "a test prints what it has measured")]
fn assert_soon(what: &str, took: Duration, limit: Duration) {
    eprintln!("{what}: again after {:.2} s", took.as_secs_f64());
    assert!(took < limit, "{what}: {took:?}");
}

/// A film during which something happens: how soon more arrives after that.
fn film_that_resumes(scene: &Scene, what: &str, limit: Duration, happens: impl FnOnce()) {
    let happened = Cell::new(None);
    let [_, receiver] = film(scene, what, || {
        happens();
        happened.set(Some(Instant::now()));
    });
    let took = resumed_after(&receiver, happened.get().unwrap());
    assert_soon(what, took, limit);
}

fn films_without_udp_on_one_side(relay: bool) {
    for router in ["red", "blue"] {
        let scene = scene(relay);
        let what = format!("{router} loses UDP, relay {relay}");
        film_that_resumes(&scene, &what, IN_FLIGHT, || {
            scene.world.nft(router, WITHOUT_UDP).unwrap();
        });
    }
}

fn udp_that_is_lost_on_one_side_is_replaced_beside_a_relay() {
    films_without_udp_on_one_side(true);
}

fn udp_that_is_lost_on_one_side_is_replaced_by_tcp() {
    films_without_udp_on_one_side(false);
}

fn udp_to_a_relay_that_is_lost_is_replaced_by_tcp() {
    for router in ["blue", "red"] {
        let mut topology = Topology::two_homes(random(), random());
        topology.homes[0].link = slow();
        let mut scene = Scene::without_server(&topology);
        scene.serve_with(&[], &["--relay"]);
        let what = format!("{router} loses UDP to the relay");
        film_that_resumes(&scene, &what, IN_FLIGHT, || {
            thread::sleep(SETTLING);
            scene.world.nft(router, WITHOUT_UDP).unwrap();
        });
    }
}

/// A router that keeps a mapping for all destinations and makes the next one at another port.
fn forgetful() -> Nat {
    Nat {
        allocation: Allocation::Random(Ports::ALL),
        ..Nat::default()
    }
}

fn homes(nat: Nat) -> Scene {
    let mut topology = Topology::two_homes(nat, nat);
    topology.homes[0].link = slow();
    Scene::of(&topology)
}

/// Both routers forget all UDP flows: what comes next leaves from other ports. Nothing passes meanwhile,
/// which would teach them the old ones.
fn forget(scene: &Scene) {
    for router in ["red", "blue"] {
        scene.world.nft(router, WITHOUT_UDP).unwrap();
    }
    for router in ["red", "blue"] {
        let mut command = scene.world.command(router, "conntrack").unwrap();
        let output = command.args(["-D", "-p", "udp"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let flush = "flush map ip nat kept_udp\n";
        scene.world.nft(router, flush).unwrap();
    }
    for router in ["red", "blue"] {
        let unblock = "delete table inet block\n";
        scene.world.nft(router, unblock).unwrap();
    }
}

fn two_routers_that_forget_their_flows_during_a_transfer() {
    let scene = homes(forgetful());
    film_that_resumes(&scene, "both routers forget", IN_FLIGHT, || forget(&scene));
}

fn two_routers_that_forget_their_flows_while_nothing_is_sent() {
    let scene = homes(forgetful());
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.start("bob", scene.receiving(&[&sender.code()]));
    sender.event("path");
    receiver.event("path");
    sender.listen(Duration::from_secs(5));
    forget(&scene);
    let forgotten = Instant::now();
    sender.event("path");
    assert_soon("idle, both routers forget", forgotten.elapsed(), IDLE);
    receiver.types("y\n");
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

/// Films during which one of the programs is stopped for a while, as on a machine that sleeps.
fn films_with_a_sleeper(what: &str, sleeper: usize) {
    for relay in [false, true] {
        let scene = scene(relay);
        let what = format!("{what} sleeps, relay {relay}");
        let awake = Cell::new(None);
        let [_, receiver] = film_with(&scene, &what, |programs| {
            programs[sleeper].signal(Signal::SIGSTOP);
            thread::sleep(ASLEEP);
            programs[sleeper].signal(Signal::SIGCONT);
            awake.set(Some(Instant::now()));
        });
        let took = resumed_after(&receiver, awake.get().unwrap());
        assert_soon(&what, took, IN_FLIGHT);
    }
}

fn a_sender_that_sleeps_for_ten_seconds_goes_on() {
    films_with_a_sleeper("the sender", 0);
}

fn a_receiver_that_sleeps_for_ten_seconds_goes_on() {
    films_with_a_sleeper("the receiver", 1);
}
