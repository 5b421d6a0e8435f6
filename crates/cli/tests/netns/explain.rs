//! Why a path is what it is: what programs and people are told, behind real NATs.

use std::path::PathBuf;
use std::time::Duration;

use postern_lab::netns::{Case, Server, Topology};
use postern_lab::sim::{Allocation, Filtering, Link, Mapping, Nat, Pipe, Ports};
use serde_json::Value;

use crate::programs::Program;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_relay_between_two_random_routers_is_explained_to_programs,
    a_relay_between_two_random_routers_is_explained_to_people,
    a_network_without_udp_is_named,
    who_allows_direct_paths_only_hears_why_there_is_none,
    who_wants_the_relay_only_is_reminded_of_it,
    direct_paths_are_explained_on_request,
    what_is_switched_off_is_not_tried_and_is_named,
    a_technique_that_does_not_exist_is_refused_with_the_list,
    a_second_vantage_point_tells_what_one_cannot,
    a_stun_server_without_an_address_is_refused,
);

/// The ports of these routers.
const RANDOM: Allocation = Allocation::Random(Ports::ALL);

fn strict(allocation: Allocation) -> Nat {
    Nat {
        allocation,
        ..Nat::new(
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

fn counting() -> Nat {
    let (first, last) = (30_000, 31_999);
    let ports = Ports { first, last };
    strict(Allocation::Sequential { ports, step: 1 })
}

/// A server at two addresses.
fn scene(mut topology: Topology, arguments: &[&str]) -> Scene {
    topology.servers[0].addresses = 2;
    let mut scene = Scene::without_server(&topology);
    let addresses = scene.world.addresses("server").unwrap().to_vec();
    scene.serve_with(&addresses[1..2], arguments);
    scene
}

fn between(red: Nat, blue: Nat, arguments: &[&str]) -> Scene {
    scene(Topology::two_homes(red, blue), arguments)
}

/// Two homes with random routers, and lines so slow that attempts are over before the file
/// has arrived.
fn two_random() -> (Scene, PathBuf) {
    let mut topology = Topology::two_homes(strict(RANDOM), strict(RANDOM));
    topology.homes[0].link = Link::symmetric(Pipe {
        rate: Some(1_000_000),
        queue: Duration::from_millis(50),
        ..Pipe::default()
    });
    let scene = scene(topology, &["--relay"]);
    let file = scene.file("film", 12_000_000);
    (scene, file)
}

fn sending(scene: &Scene, file: &PathBuf, arguments: &[&str]) -> Program {
    let mut command = scene.sending(&[file]);
    command.args(arguments);
    scene.start("alice", command)
}

fn receiving(scene: &Scene, code: &str, arguments: &[&str]) -> Program {
    let arguments = [arguments, &["--yes", code]].concat();
    scene.start("bob", scene.receiving(&arguments))
}

/// What was tried of this technique.
fn tried(explanation: &Value, technique: &str) -> Value {
    let mut all = explanation["tried"].as_array().unwrap().iter();
    let found = all.find(|tried| tried["technique"] == technique);
    found
        .unwrap_or_else(|| panic!("{technique} was not tried: {explanation}"))
        .clone()
}

fn a_relay_between_two_random_routers_is_explained_to_programs() {
    let (scene, file) = two_random();
    let mut sender = sending(&scene, &file, &[]);
    let mut receiver = receiving(&scene, &sender.code(), &[]);
    for program in [&mut sender, &mut receiver] {
        let explanation = program.event("explain");
        assert_eq!(explanation["cause"], "unlikely", "{explanation}");
        for nat in ["local_nat", "remote_nat"] {
            let nat = &explanation[nat];
            assert_eq!(nat["mapping"], "endpoint_dependent", "{explanation}");
            assert_eq!(nat["allocation"], "random");
            let range = [&nat["port_range"][0], &nat["port_range"][1]];
            let [first, last] = range.map(|port| port.as_u64().unwrap());
            assert!(first < 10_000 && last > 55_000, "{explanation}");
        }
        let birthday = tried(&explanation, "birthday");
        assert_eq!(birthday["result"], "failed");
        assert!(birthday["probes"].as_u64().unwrap() <= 1500, "{birthday}");
        assert!(birthday["probability"].as_f64().unwrap() < 0.01);
        assert_eq!(tried(&explanation, "relay")["result"], "succeeded");
    }
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn a_relay_between_two_random_routers_is_explained_to_people() {
    let (scene, file) = two_random();
    let mut command = scene.sending(&[&file]);
    command.arg("--explain");
    let mut sender = scene.start_for_people("alice", command);
    let line = sender.line_with("postern receive");
    let code = line.split_whitespace().last().unwrap();
    let receiving = scene.receiving(&["--yes", code]);
    let mut receiver = scene.start_for_people("bob", receiving);
    let sentence = receiver.line_with("The connection is relayed, because both sides' routers");
    assert!(sentence.ends_with("(--explain says more.)"), "{sentence}");
    receiver.ends_well();
    sender.ends_well();
    let said = sender.said();
    for part in [
        "The connection is relayed, because both sides' routers use another port",
        "this side's network:   NAT, another port for each destination, at random from",
        "the other side's:      NAT, another port for each destination, at random from",
        "trying many ports until two meet: did not succeed, 1",
        "the server's relay: works",
        "what helps: IPv6",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let (_, explanation) = said.split_once("The connection is relayed").unwrap();
    assert!(
        !explanation.contains("45.45."),
        "an address is shown: {said}"
    );
}

fn a_network_without_udp_is_named() {
    let scene = between(strict(RANDOM), strict(RANDOM), &["--relay"]);
    let hook = "type filter hook forward priority -10";
    let rules =
        format!("table inet block {{\nchain forward {{\n{hook}; meta l4proto udp drop;\n}}\n}}\n");
    scene.world.nft("red", &rules).unwrap();
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--disable", "birthday"]);
    let mut receiver = scene.receive(&sender.code());
    let explanation = sender.event("explain");
    assert_eq!(explanation["cause"], "udp_blocked", "{explanation}");
    assert_eq!(explanation["local_nat"]["udp"], false);
    let reason = explanation["reason"].as_str().unwrap();
    assert!(reason.contains("this side's network lets no UDP out"));
    receiver.succeeds();
    sender.succeeds();
}

fn who_allows_direct_paths_only_hears_why_there_is_none() {
    let scene = between(strict(RANDOM), strict(RANDOM), &["--relay"]);
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--direct-only"]);
    let code = sender.code();
    let people = scene.receiving(&["--direct-only", "--yes", &code]);
    let mut receiver = scene.start_for_people("bob", people);
    let explanation = sender.event("explain");
    assert_eq!(explanation["cause"], "unlikely", "{explanation}");
    assert_eq!(tried(&explanation, "relay")["result"], "disabled");
    assert_eq!(tried(&explanation, "birthday")["result"], "failed");
    let sentence = sender.fails(1, "no_path");
    assert_eq!(explanation["reason"], *sentence);
    let (code, _) = receiver.failure_within(crate::programs::LIMIT);
    assert_eq!(code, Some(1));
    let said = receiver.said();
    for part in ["Why there is no path", "the server's relay: switched off"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

fn who_wants_the_relay_only_is_reminded_of_it() {
    let scene = between(Nat::default(), Nat::default(), &["--relay"]);
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--relay-only"]);
    let mut receiver = scene.receive(&sender.code());
    let (ours, theirs) = (sender.event("explain"), receiver.event("explain"));
    for explanation in [&ours, &theirs] {
        assert_eq!(explanation["cause"], "unwanted", "{explanation}");
    }
    assert!(ours["reason"].as_str().unwrap().contains("--relay-only"));
    let theirs = theirs["reason"].as_str().unwrap();
    assert!(theirs.contains("the other side offers relayed addresses only, or"));
    receiver.succeeds();
    sender.succeeds();
}

fn direct_paths_are_explained_on_request() {
    let worlds = [(counting(), "predicted"), (strict(RANDOM), "birthday")];
    for (red, technique) in worlds {
        let scene = between(red, Nat::default(), &[]);
        let file = scene.file("letter", 5000);
        let mut sender = sending(&scene, &file, &["--explain"]);
        let mut receiver = receiving(&scene, &sender.code(), &["--explain"]);
        for program in [&mut sender, &mut receiver] {
            assert_eq!(program.event("path")["technique"], technique);
            let explanation = program.event("explain");
            assert!(explanation["cause"].is_null(), "{explanation}");
            let tried = tried(&explanation, technique);
            assert_eq!(tried["result"], "succeeded", "{explanation}");
            assert!(tried["probes"].as_u64().unwrap() > 0, "{explanation}");
            assert!(tried["probability"].as_f64().unwrap() > 0.9);
            program.succeeds();
        }
    }
}

fn what_is_switched_off_is_not_tried_and_is_named() {
    let scene = between(counting(), Nat::default(), &[]);
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--disable", "predict,birthday"]);
    let mut receiver = scene.receive(&sender.code());
    let explanation = sender.event("explain");
    assert_eq!(explanation["cause"], "disabled", "{explanation}");
    let predicted = tried(&explanation, "predicted");
    assert_eq!(predicted["result"], "disabled", "{explanation}");
    assert_eq!(predicted["probes"], 0);
    assert!(predicted["probability"].as_f64().unwrap() > 0.9);
    sender.fails(1, "no_path");
    receiver.fails(1, "no_path");
}

fn a_technique_that_does_not_exist_is_refused_with_the_list() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--disable", "birthday,luck"]);
    let (code, _) = sender.end_within(crate::programs::LIMIT);
    assert_eq!(code, Some(2));
    let said = sender.said();
    for part in ["luck", "predicted, birthday"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

fn a_second_vantage_point_tells_what_one_cannot() {
    let mut topology = Topology::two_homes(strict(RANDOM), Nat::default());
    topology.servers.push(Server::new("vantage"));
    let scene = Scene::of(&topology);
    let address = scene.world.ipv4("vantage").unwrap().to_string();
    let mut command = scene.postern("vantage", "server");
    command.args(["--listen", &address]);
    let mut vantage = scene.start("vantage", command);
    vantage.event("ready");
    let stun = format!("{address}:3478");
    let worlds = [
        (&["--explain"][..], "unknown"),
        (&["--explain", "--stun", &stun], "endpoint_dependent"),
    ];
    for (number, (arguments, mapping)) in worlds.into_iter().enumerate() {
        let file = scene.file(format!("letter{number}"), 5000);
        let mut sender = sending(&scene, &file, arguments);
        let mut receiver = scene.receive(&sender.code());
        let explanation = sender.event("explain");
        assert_eq!(
            explanation["local_nat"]["mapping"], mapping,
            "{explanation}"
        );
        assert_eq!(tried(&explanation, "birthday")["result"], "succeeded");
        receiver.succeeds();
        sender.succeeds();
    }
}

fn a_stun_server_without_an_address_is_refused() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--stun", "nowhere.invalid"]);
    let sentence = sender.fails(1, "stun");
    assert!(sentence.contains("nowhere.invalid"), "{sentence}");
}
