//! Hosts that have left a network which remembers them: their router keeps ports open for them, or
//! somebody else has their address.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::Nat;

use crate::mapped::{Upnpd, random};
use crate::roaming::{assert_ends_at, film, roam, slow};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_port_of_the_next_router_is_opened_after_roaming,
    an_address_that_is_stolen_gets_nothing_after_three_seconds,
);

/// Two homes and one to roam to, Carol's, none of which punching connects with another.
fn strangers() -> Scene {
    let mut topology = Topology::two_homes(random(), random());
    topology
        .homes
        .push(Home::new("green", &["carol"], 3, random()));
    topology.servers[0].addresses = 2;
    for home in [0, 2] {
        topology.homes[home].link = slow();
    }
    let mut scene = Scene::without_server(&topology);
    let second = scene.world.addresses("server").unwrap()[1];
    scene.serve(&[second]);
    scene
}

fn a_port_of_the_next_router_is_opened_after_roaming() {
    let scene = strangers();
    let _red = Upnpd::start(&scene, "red", 1);
    let _green = Upnpd::start(&scene, "green", 3);
    let [sender, receiver] = film(&scene, "from a port of one router to another's", || {
        assert_eq!(Upnpd::mappings(&scene, "green"), 0);
        roam(&scene, "alice", "green", 3);
    });
    assert_ends_at(&sender, "192.168.3.50:");
    for program in [&sender, &receiver] {
        let mut heard = program.heard().iter().map(|line| line.event());
        let last = heard.rfind(|event| event["event"] == "path").unwrap();
        assert_eq!(
            (&last["kind"], &last["technique"]),
            (&"direct".into(), &"mapped".into())
        );
    }
    assert_eq!(Upnpd::mappings(&scene, "green"), 0, "it was given back");
}

/// Counts what arrives over UDP.
const COUNTING: &str = "table inet stolen {
counter datagrams { }
chain in { type filter hook input priority 0; meta l4proto udp counter name datagrams; }
}
";

fn an_address_that_is_stolen_gets_nothing_after_three_seconds() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].hosts.push("mallory".to_owned());
    topology
        .homes
        .push(Home::new("green", &[], 3, Nat::default()));
    for home in [0, 2] {
        topology.homes[home].link = slow();
    }
    let scene = Scene::of(&topology);
    let datagrams = || scene.world.counters("mallory").unwrap()["datagrams"].packets;
    scene.world.nft("mallory", COUNTING).unwrap();
    let stolen = Cell::new(0);
    let [sender, _] = film(&scene, "the address is another's", || {
        roam(&scene, "alice", "green", 3);
        let address = "addr add 192.168.1.10/24 dev eth0\n";
        scene.world.ip("mallory", address).unwrap();
        scene.world.ip("red", "neigh flush dev lan\n").unwrap();
        thread::sleep(Duration::from_secs(3));
        stolen.set(datagrams());
    });
    assert_ne!(stolen.get(), 0, "something went to the old address");
    assert_eq!(datagrams(), stolen.get(), "and then nothing did");
    assert_ends_at(&sender, "192.168.3.50:");
}
