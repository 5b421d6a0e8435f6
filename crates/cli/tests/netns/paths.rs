//! Which paths are found, and what is said when there is none.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use postern_lab::netns::{Case, Ipv6, Topology};
use postern_lab::sim::{Filtering, Link, Mapping, Nat, Pipe};
use serde_json::Value;

use crate::programs::Program;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_file_crosses_two_masquerades_directly,
    two_hosts_of_one_home_meet_inside_it,
    two_homes_meet_over_ipv6_where_ipv4_cannot,
    a_strict_router_meets_an_easy_one,
    two_strict_routers_are_told_apart_in_a_sentence,
    the_server_is_not_needed_once_the_path_stands,
    a_slow_and_lossy_path_delivers_the_file_whole,
);

/// What is allowed for introductions, whatever is sent.
const INTRODUCTION: u64 = 100_000;

/// A router that nobody gets through without a relay.
pub(crate) fn strict() -> Nat {
    let strictest = Mapping::AddressAndPortDependent;
    Nat::new(strictest, Filtering::AddressAndPortDependent)
}

fn a_file_crosses_two_masquerades_directly() {
    let scene = Scene::plain();
    let file = scene.file("photo.jpg", 20_000_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    for program in [&mut sender, &mut receiver] {
        let path = program.event("path");
        let kind = (&path["kind"], &path["protocol"]);
        assert_eq!(kind, (&"direct".into(), &"udp".into()));
        assert!(path["elapsed_ms"].is_u64(), "{path}");
    }
    for program in [&mut receiver, &mut sender] {
        let done = program.succeeds();
        let amount = (&done["bytes"], &done["files"]);
        assert_eq!(amount, (&20_000_000.into(), &1.into()));
        assert_eq!(done["path"], "direct");
        assert!(done["seconds"].as_f64().unwrap() > 0.0, "{done}");
    }
    scene.assert_arrived(&[file]);
    let passed = scene.bytes_through_server();
    assert!(
        passed < INTRODUCTION,
        "{passed} bytes went through the server"
    );
}

fn two_hosts_of_one_home_meet_inside_it() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].hosts.push("carol".to_owned());
    let scene = Scene::of(&topology);
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut command = scene.postern("carol", "receive");
    command.args(["--server", &scene.url, "--yes", "--output"]);
    command.arg(scene.inbox()).arg(sender.code());
    let mut receiver = scene.start("carol", command);
    let remote = address(&receiver.event("path"), "remote");
    assert_eq!(remote.ip(), scene.world.ipv4("alice").unwrap());
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn two_homes_meet_over_ipv6_where_ipv4_cannot() {
    let mut topology = Topology::two_homes(strict(), strict());
    for home in &mut topology.homes {
        home.ipv6 = Ipv6::Firewalled;
    }
    let mut scene = Scene::without_server(&topology);
    let addresses = scene.world.addresses("server").unwrap().to_vec();
    let ipv6: Vec<IpAddr> = addresses.into_iter().filter(IpAddr::is_ipv6).collect();
    scene.serve(&ipv6);
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    for program in [&mut sender, &mut receiver] {
        let path = program.event("path");
        assert!(address(&path, "local").is_ipv6(), "{path}");
        assert!(address(&path, "remote").is_ipv6(), "{path}");
    }
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn a_strict_router_meets_an_easy_one() {
    let easy = Nat::new(Mapping::EndpointIndependent, Filtering::AddressDependent);
    for (red, blue) in [(strict(), easy), (easy, strict())] {
        let scene = Scene::between(red, blue);
        let file = scene.file("letter", 5000);
        let mut sender = scene.send(&[&file]);
        let mut receiver = scene.receive(&sender.code());
        receiver.succeeds();
        sender.succeeds();
        scene.assert_arrived(&[file]);
    }
}

fn two_strict_routers_are_told_apart_in_a_sentence() {
    let mut topology = Topology::two_homes(strict(), strict());
    topology.servers[0].addresses = 2;
    let mut scene = Scene::without_server(&topology);
    let addresses = scene.world.addresses("server").unwrap().to_vec();
    scene.serve(&addresses[1..2]);
    let file = scene.file("letter", 5000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    // The promise is 15 s, kept to the millisecond in virtual time by the connector's tests.
    let limit = Duration::from_secs(25);
    for program in [&mut sender, &mut receiver] {
        let sentence = program.fails_within(limit, 1, "no_path");
        assert!(
            sentence.contains("this side's network uses another port"),
            "{sentence}"
        );
        assert!(
            sentence.contains("the other side's uses another port"),
            "{sentence}"
        );
    }
    scene.assert_nothing_arrived();
}

fn the_server_is_not_needed_once_the_path_stands() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut scene = Scene::plain();
        let file = scene.sparse_file("film", 200_000_000);
        let mut sender = scene.send(&[&file]);
        let mut receiver = scene.receive(&sender.code());
        sender.event("path");
        receiver.event("path");
        stop(scene.server.take().unwrap(), signal);
        receiver.succeeds();
        sender.succeeds();
        scene.assert_arrived(&[file]);
    }
}

fn a_slow_and_lossy_path_delivers_the_file_whole() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::symmetric(Pipe {
        latency: Duration::from_millis(30),
        jitter: Duration::from_millis(3),
        loss: 0.02,
        reordering: true,
        ..Pipe::default()
    });
    let scene = Scene::of(&topology);
    let file = scene.file("photo.jpg", 400_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn stop(mut server: Program, signal: Signal) {
    if signal == Signal::SIGKILL {
        return server.kill();
    }
    server.signal(signal);
    server.drains();
}

fn address(path: &Value, field: &str) -> SocketAddr {
    path[field].as_str().unwrap().parse().unwrap()
}
