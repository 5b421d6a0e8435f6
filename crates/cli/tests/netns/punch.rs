//! Files between homes whose routers plain checks do not pass. The server does not relay.

use postern_lab::netns::{Case, Topology};
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports};

use crate::programs::Program;
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_router_with_random_ports_meets_an_easy_one,
    a_router_with_random_ports_meets_an_easy_one_although_the_server_has_one_address,
    a_router_that_counts_its_ports_meets_an_easy_one,
    two_strict_routers_with_few_ports_meet,
);

fn strict(allocation: Allocation) -> Nat {
    let mapping = Mapping::AddressAndPortDependent;
    Nat {
        allocation,
        ..Nat::new(mapping, Filtering::AddressAndPortDependent)
    }
}

fn assert_a_file_crosses(red: Nat, blue: Nat, addresses: u8, technique: &str) {
    let mut topology = Topology::two_homes(red, blue);
    topology.servers[0].addresses = addresses;
    let mut scene = Scene::without_server(&topology);
    let all = scene.world.addresses("server").unwrap().to_vec();
    scene.serve(&all[1..usize::from(addresses)]);
    let crossed = crosses(&scene, technique);
    // A birthday of 1,500 guesses among 64,512 ports leaves 2 to 3 of 1,000 meetings apart: one of
    // 100,000 twice in a row.
    assert!(crossed || crosses(&scene, technique), "unlucky twice");
}

/// Whether it did: where it did not, both sides say that a fair chance did not come true.
fn crosses(scene: &Scene, technique: &str) -> bool {
    let file = scene.file("letter", 500_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    let paths = [&mut sender, &mut receiver].map(|program| program.event_before_end("path"));
    let [Some(one), Some(other)] = paths else {
        assert_was_unlucky([&sender, &receiver], technique);
        return false;
    };
    for path in [one, other] {
        assert_eq!(path["kind"], "direct");
        assert_eq!(path["technique"], technique, "{path}");
        assert!(path["probes"].as_u64().unwrap() <= 4500, "{path}");
        assert!(path["sockets"].as_u64().unwrap() <= 256, "{path}");
    }
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
    true
}

fn assert_was_unlucky(programs: [&Program; 2], technique: &str) {
    for program in programs {
        let mut heard = program.heard().iter().map(|line| line.event());
        if let Some(explanation) = heard.rfind(|event| event["event"] == "explain") {
            assert_eq!(explanation["cause"], "unlucky", "{explanation}");
            let mut tried = explanation["tried"].as_array().unwrap().iter();
            let attempt = tried.find(|tried| tried["technique"] == technique).unwrap();
            let chance = attempt["probability"].as_f64().unwrap();
            assert!((0.9..1.0).contains(&chance), "{explanation}");
        }
    }
}

fn a_router_with_random_ports_meets_an_easy_one() {
    let random = strict(Allocation::Random(Ports::ALL));
    assert_a_file_crosses(random, Nat::default(), 2, "birthday");
    assert_a_file_crosses(Nat::default(), random, 2, "birthday");
}

fn a_router_with_random_ports_meets_an_easy_one_although_the_server_has_one_address() {
    let random = strict(Allocation::Random(Ports::ALL));
    assert_a_file_crosses(random, Nat::default(), 1, "birthday");
}

fn a_router_that_counts_its_ports_meets_an_easy_one() {
    let ports = Ports {
        first: 30_000,
        last: 31_999,
    };
    let sequential = strict(Allocation::Sequential { ports, step: 1 });
    assert_a_file_crosses(sequential, Nat::default(), 2, "predicted");
    assert_a_file_crosses(Nat::default(), sequential, 2, "predicted");
}

fn two_strict_routers_with_few_ports_meet() {
    let block = strict(Allocation::Random(Ports {
        first: 40_000,
        last: 40_799,
    }));
    assert_a_file_crosses(block, block, 2, "birthday");
}
