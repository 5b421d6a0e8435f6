//! Files between homes whose routers plain checks do not pass. The server does not relay.

use postern_lab::netns::{Case, Topology};
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports};

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
    let file = scene.file("letter", 500_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    for program in [&mut sender, &mut receiver] {
        let path = program.event("path");
        assert_eq!(path["kind"], "direct");
        assert_eq!(path["technique"], technique, "{path}");
        assert!(path["probes"].as_u64().unwrap() <= 4500, "{path}");
        assert!(path["sockets"].as_u64().unwrap() <= 256, "{path}");
    }
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
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
