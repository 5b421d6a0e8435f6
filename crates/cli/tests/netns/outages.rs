//! Routers and relays that fail during a transfer. Each case says how long nothing arrived.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::{Link, Nat};

use crate::programs::Program;
use crate::roaming::{assert_ends_at, film, gap, scene, slow};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_router_that_reboots_during_a_transfer,
    a_router_that_comes_back_with_another_address,
    a_path_that_swallows_large_packets,
    a_relay_that_dies_when_a_direct_path_has_become_possible,
    a_better_interface_that_appears_during_a_transfer,
    an_interface_that_flaps_during_a_transfer,
);

/// How long a router is off: real ones need longer, but outages beyond 15 s end the connection.
const OFF: Duration = Duration::from_secs(2);

/// Data flows again so soon after the network is back; progress is told four times a second.
const SOON_AGAIN: Duration = Duration::from_millis(3250);

/// The router of a home loses power, and is back, with this address outside.
fn reboot(scene: &Scene, router: &str, outside: Ipv4Addr) {
    scene.world.power_off(router).unwrap();
    thread::sleep(OFF);
    scene.world.power_on(router, outside).unwrap();
}

/// How long after a moment more has arrived than before.
pub(crate) fn resumed_after(receiver: &Program, moment: Instant) -> Duration {
    let told = receiver.heard().iter().filter_map(|line| {
        let bytes = line.event()["bytes"].as_u64()?;
        Some((line.at, bytes))
    });
    let (before, after): (Vec<_>, Vec<_>) = told.partition(|(at, _)| *at <= moment);
    let arrived = before.last().map_or(0, |(_, bytes)| *bytes);
    let more = after.iter().find(|(_, bytes)| *bytes > arrived);
    more.unwrap().0 - moment
}

/// Films during which the router of a home reboots.
#[expect(clippy::print_stderr, reason = "a test prints what it has measured")]
fn films_with_reboots(what: &str, outside: impl Fn(Ipv4Addr) -> Ipv4Addr) {
    for relay in [false, true] {
        for router in ["red", "blue"] {
            let scene = scene(relay);
            let outside = outside(scene.world.ipv4(router).unwrap());
            let back = Cell::new(None);
            let what = format!("{what}, {router}, relay {relay}");
            let [_, receiver] = film(&scene, &what, || {
                reboot(&scene, router, outside);
                back.set(Some(Instant::now()));
            });
            let resumed = resumed_after(&receiver, back.get().unwrap());
            eprintln!("{what}: again {:.2} s after", resumed.as_secs_f64());
            assert!(resumed < SOON_AGAIN, "{what}: {resumed:?}");
        }
    }
}

fn a_router_that_reboots_during_a_transfer() {
    films_with_reboots("a reboot", |outside| outside);
}

fn a_router_that_comes_back_with_another_address() {
    films_with_reboots("a reboot with another address", |outside| {
        let [a, b, c, _] = outside.octets();
        Ipv4Addr::new(a, b, c, 77)
    });
}

/// Nothing is said about packets that are too long.
const SILENT: &str = "table inet silent {
chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }
}
";

/// Both ends of the cable between a home and the internet take shorter packets than before.
fn swallow(scene: &Scene) {
    for (node, interface) in [("red", "wan"), ("internet", "port2")] {
        scene.world.nft(node, SILENT).unwrap();
        let narrow = format!("link set dev {interface} mtu 1280\n");
        scene.world.ip(node, &narrow).unwrap();
    }
}

fn a_path_that_swallows_large_packets() {
    for from_the_start in [true, false] {
        let scene = scene(false);
        if from_the_start {
            swallow(&scene);
        }
        let what = format!("large packets get lost, from the start {from_the_start}");
        film(&scene, &what, || {
            if !from_the_start {
                swallow(&scene);
            }
        });
    }
}

const APART: &str = "table inet apart {
chain forward { type filter hook forward priority 0;
ip saddr 45.45.2.0/24 ip daddr 45.45.3.0/24 drop
ip saddr 45.45.3.0/24 ip daddr 45.45.2.0/24 drop
}
}
";

fn a_relay_that_dies_when_a_direct_path_has_become_possible() {
    let scene = scene(true);
    scene.world.nft("internet", APART).unwrap();
    let [sender, receiver] = film(&scene, "the relay dies", || {
        scene
            .world
            .nft("internet", "delete table inet apart\n")
            .unwrap();
        scene.server.as_ref().unwrap().signal(Signal::SIGKILL);
    });
    for program in [sender, receiver] {
        let paths = program.heard().iter().map(|line| line.event());
        let kinds = paths.filter(|event| event["event"] == "path");
        let kinds: Vec<_> = kinds.map(|path| path["kind"].clone()).collect();
        assert_eq!(
            (&kinds[0], kinds.last().unwrap()),
            (&"relayed".into(), &"direct".into())
        );
    }
}

/// The cable of a home that is far away.
fn far() -> Link {
    let mut link = slow();
    for pipe in [&mut link.up, &mut link.down] {
        pipe.latency = Duration::from_millis(40);
    }
    link
}

fn a_better_interface_that_appears_during_a_transfer() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology
        .homes
        .push(Home::new("green", &[], 3, Nat::default()));
    topology.homes[0].link = far();
    topology.homes[2].link = slow();
    let scene = Scene::of(&topology);
    let [sender, receiver] = film(&scene, "a better interface appears", || {
        let address = Ipv4Addr::new(192, 168, 3, 50);
        scene
            .world
            .plug_in("alice", "eth1", "green", address)
            .unwrap();
    });
    assert_ends_at(&sender, "192.168.3.50:");
    assert!(
        gap(&receiver) < Duration::from_secs(2),
        "{:?}",
        gap(&receiver)
    );
}

fn an_interface_that_flaps_during_a_transfer() {
    let scene = scene(false);
    film(&scene, "an interface flaps", || {
        let up = "link set dev eth0 up\nroute add default via 192.168.1.1\n";
        for change in ["link set dev eth0 down\n", up].repeat(10) {
            scene.world.ip("alice", change).unwrap();
            thread::sleep(Duration::from_millis(500));
        }
    });
}
