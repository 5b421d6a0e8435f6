//! What users and programs see.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::Case;
use serde_json::Value;

use crate::home::Home;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    by_every_protocol_a_port_leads_to_this_machine_until_it_is_deleted,
    a_pinhole_lets_the_internet_in_by_pcp_and_by_upnp,
    what_is_kept_is_removed_when_interrupted,
    both_transports_are_two_objects,
    who_answers_is_told_with_times_and_models,
    without_a_router_that_maps_the_answer_is_clear_and_comes_soon,
];

fn by_every_protocol_a_port_leads_to_this_machine_until_it_is_deleted() {
    let home = Home::with_router();
    let outside = SocketAddr::new(home.wan(), 4001);
    for protocol in ["pcp", "natpmp", "upnp"] {
        for transport in ["tcp", "udp"] {
            let arrives = || match transport {
                "tcp" => home.tcp_arrives(outside, 4000),
                _ => home.udp_arrives(outside, 4000),
            };
            assert!(!arrives(), "{protocol} {transport} before");
            let add = [
                "add",
                "4000",
                "--external",
                "4001",
                "--protocol",
                transport,
                "--protocols",
                protocol,
            ];
            let told = home.told(&add);
            assert_eq!(told.len(), 1);
            let expected = serde_json::json!({
                "protocol": protocol, "transport": transport, "external_address": home.wan().to_string(),
                "external_port": 4001, "internal_address": "192.168.1.10", "internal_port": 4000,
                "lifetime": 7200, "gateway": "192.168.1.1", "double_nat": false, "verified": null,
            });
            assert_eq!(told[0], expected);
            assert!(arrives(), "{protocol} {transport}");
            let listed = home.told(&["list"]);
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert_eq!(listed[0]["external_port"], 4001);
            assert_eq!(listed[0]["transport"], transport);
            home.told(&["delete", "4001", "--protocol", transport]);
            assert!(!arrives(), "{protocol} {transport} after");
            assert_eq!(
                home.fails(&["delete", "4001", "--protocol", transport]),
                "not_mapped"
            );
        }
    }
    assert_eq!(home.told(&["list"]), Vec::<Value>::new());
}

fn a_pinhole_lets_the_internet_in_by_pcp_and_by_upnp() {
    let home = Home::with_router();
    for protocol in ["pcp", "upnp"] {
        let add = ["pinhole", "add", "4000", "--protocols", protocol];
        let told = home.told(&add);
        let address: IpAddr = told[0]["external_address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(address.is_ipv6());
        let outside = SocketAddr::new(address, 4000);
        assert!(home.tcp_arrives(outside, 4000), "{protocol}");
        home.told(&["pinhole", "delete", "4000", "--protocol", "tcp"]);
        assert!(!home.tcp_arrives(outside, 4000), "{protocol} after");
    }
}

fn what_is_kept_is_removed_when_interrupted() {
    let home = Home::with_router();
    let outside = SocketAddr::new(home.wan(), 4001);
    let mut command = home.command(&["add", "4000", "--external", "4001", "--keep"]);
    let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(program.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("4001"), "{line}");
    assert!(home.tcp_arrives(outside, 4000));
    kill(
        Pid::from_raw(program.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert!(program.wait().unwrap().success());
    assert!(!home.tcp_arrives(outside, 4000));
}

fn both_transports_are_two_objects() {
    let home = Home::with_router();
    let told = home.told(&["add", "4000", "--external", "4001", "--protocol", "both"]);
    let transports: Vec<_> = told
        .iter()
        .map(|object| object["transport"].as_str().unwrap())
        .collect();
    assert_eq!(transports, ["tcp", "udp"]);
    assert_eq!(home.told(&["delete", "4001"]).len(), 2);
}

fn who_answers_is_told_with_times_and_models() {
    let home = Home::with_router();
    let told = home.told(&["status"]);
    let protocols: Vec<_> = told
        .iter()
        .map(|object| object["protocol"].as_str().unwrap())
        .collect();
    assert_eq!(protocols, ["pcp", "natpmp", "upnp"]);
    assert!(
        told[2]["model"].as_str().unwrap().contains("router"),
        "{told:?}"
    );
    assert!(told.iter().all(|object| object["elapsed_ms"].is_u64()));
    let external = home.told(&["external"]);
    assert_eq!(external[0]["external_address"], home.wan().to_string());
}

fn without_a_router_that_maps_the_answer_is_clear_and_comes_soon() {
    let home = Home::without_router();
    for arguments in [&["add", "4000"][..], &["external"], &["status"], &["list"]] {
        let start = Instant::now();
        assert_eq!(home.fails(arguments), "no_gateway", "{arguments:?}");
        // The goal is 3 s; a machine that is busy with other things may start a program late.
        assert!(start.elapsed() < Duration::from_secs(6), "{arguments:?}");
    }
}
