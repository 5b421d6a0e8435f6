//! `postern map` and `postern gateway`: both ends are ours.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::{Case, Program};
use serde_json::Value;

use crate::home::Home;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    our_gateway_maps_lists_and_deletes_by_every_protocol,
    our_gateway_renews_what_another_process_made,
    what_is_asked_for_again_is_renewed_and_both_transports_are_deleted_at_once,
    who_names_a_gateway_or_an_interface_means_it,
    our_gateway_opens_pinholes_by_pcp_and_by_upnp,
    what_our_gateway_has_forgotten_is_made_again_within_six_seconds,
];

/// Longer than anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// How soon a mapping stands again after its gateway has said that it is new.
const AGAIN: Duration = Duration::from_secs(6);

fn our_gateway_maps_lists_and_deletes_by_every_protocol() {
    let home = Home::with_our_gateway();
    let outside = SocketAddr::new(home.wan(), 4001);
    for protocol in ["pcp", "natpmp", "upnp"] {
        for transport in ["tcp", "udp"] {
            let arrives = || match transport {
                "tcp" => home.tcp_arrives(outside, 4000),
                _ => home.udp_arrives(outside, 4000),
            };
            let add = format!(
                "add 4000 --external 4001 --protocol {transport} --protocols {protocol} --lifetime 600"
            );
            let told = home.told(&words(&add));
            assert_eq!(told.len(), 1);
            assert_eq!(told[0]["protocol"], protocol);
            assert_eq!(told[0]["external_address"], home.wan().to_string());
            assert_eq!(told[0]["external_port"], 4001);
            assert_eq!(told[0]["double_nat"], false);
            assert!(arrives(), "{protocol} {transport}");
            let listed = home.told(&["list"]);
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert_eq!(listed[0]["external_port"], 4001);
            assert_eq!(listed[0]["transport"], transport);
            let delete = format!("delete 4001 --protocol {transport}");
            home.told(&words(&delete));
            assert!(!arrives(), "{protocol} {transport} after");
            assert_eq!(home.fails(&words(&delete)), "not_mapped");
        }
    }
}

/// `watch` takes over what `add` has left, and its first act is to renew it.
fn our_gateway_renews_what_another_process_made() {
    for protocol in ["pcp", "natpmp", "upnp"] {
        let home = Home::with_our_gateway();
        let add = format!("add 4000 --external 4001 --protocols {protocol} --lifetime 300");
        home.told(&words(&add));
        let before = lease_of(&home);
        std::thread::sleep(Duration::from_secs(2));
        assert!(lease_of(&home) < before, "it runs down");
        let watch = format!("watch --protocols {protocol}");
        let mut program = Program::start(home.command(&words(&watch))).unwrap();
        let line = program.line(LIMIT).unwrap();
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["external_port"], 4001, "{protocol}: {line}");
        assert!(lease_of(&home) >= before - 1, "{protocol}");
    }
}

/// PCP renews only for who knows the nonce, which another process does.
fn what_is_asked_for_again_is_renewed_and_both_transports_are_deleted_at_once() {
    for (kind, port) in [("", 4001), ("pinhole ", 4000)] {
        let home = Home::with_our_gateway();
        let external = format!("--external {port}");
        let add = format!("{kind}add 4000 {external} --protocols pcp --protocol both");
        for _ in 0..2 {
            let told = home.told(&words(&add));
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told.iter().all(|one| one["external_port"] == port));
            assert_eq!(home.leases().len(), 2);
        }
        let delete = format!("{kind}delete {port}");
        assert_eq!(home.told(&words(&delete)).len(), 2);
        assert_eq!(home.leases().len(), 0);
        assert_eq!(home.fails(&words(&delete)), "not_mapped");
    }
}

fn who_names_a_gateway_or_an_interface_means_it() {
    let home = Home::with_our_gateway();
    for (named, kind) in [
        ("--gateway 192.168.1.99", "no_gateway"),
        ("--gateway 45.45.1.1", "no_interface"),
        ("--interface eth0 --gateway 45.45.1.1", "no_interface"),
        ("--interface eth9", "no_interface"),
    ] {
        let add = format!("add 4000 {named}");
        assert_eq!(home.fails(&words(&add)), kind, "{named}");
    }
    assert_eq!(home.leases().len(), 0);
    let told = home.told(&words("add 4000 --interface eth0 --gateway 192.168.1.1"));
    assert_eq!(told[0]["gateway"], "192.168.1.1");
}

fn our_gateway_opens_pinholes_by_pcp_and_by_upnp() {
    let home = Home::with_our_gateway();
    for protocol in ["pcp", "upnp"] {
        let add = format!("pinhole add 4000 --protocols {protocol}");
        let told = home.told(&words(&add));
        let address = told[0]["external_address"].as_str().unwrap();
        let address: IpAddr = address.parse().unwrap();
        let outside = SocketAddr::new(address, 4000);
        assert!(home.tcp_arrives(outside, 4000), "{protocol}");
        home.told(&["pinhole", "delete", "4000", "--protocol", "tcp"]);
        assert!(!home.tcp_arrives(outside, 4000), "{protocol} after");
    }
}

/// A gateway that has lost its leases says that it is new: by ANNOUNCE and its epoch to PCP
/// and NAT-PMP, by NOTIFY to UPnP.
fn what_our_gateway_has_forgotten_is_made_again_within_six_seconds() {
    for protocol in ["pcp", "natpmp", "upnp"] {
        let mut home = Home::with_our_gateway();
        // Its clock must have run for longer than the rounding of epochs forgives.
        std::thread::sleep(Duration::from_secs(4));
        let add = format!("add 4000 --external 4001 --keep --protocols {protocol}");
        let mut program = Program::start(home.command(&words(&add))).unwrap();
        assert!(program.line(LIMIT).is_some(), "{}", program.complaints());
        home.restart_our_gateway_empty();
        let begin = Instant::now();
        while home.leases().is_empty() {
            assert!(begin.elapsed() < LIMIT, "{protocol}: it is not made again");
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = begin.elapsed();
        assert!(took < AGAIN, "{protocol}: {took:?}");
        let outside = SocketAddr::new(home.wan(), 4001);
        assert!(home.tcp_arrives(outside, 4000), "{protocol}");
        let id = program.id().try_into().unwrap();
        kill(Pid::from_raw(id), Signal::SIGINT).unwrap();
        assert!(program.end(LIMIT).unwrap().unwrap().success());
        assert!(home.leases().is_empty(), "{protocol}");
    }
}

/// What is left of the only lease, as the gateway's operator sees it.
fn lease_of(home: &Home) -> u64 {
    let leases = home.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    leases[0]["lifetime"].as_u64().unwrap()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
