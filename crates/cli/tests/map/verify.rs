//! Mappings are looked at from outside, by `postern server`, and healed.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::{Case, Program, miniupnpd};
use serde_json::Value;

use crate::home::Home;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    a_mapping_that_works_is_verified_by_every_protocol,
    a_pinhole_that_works_is_verified,
    another_programs_port_is_verified_over_tcp_and_not_over_udp,
    a_mapping_that_the_router_drops_is_made_again_and_then_told_as_dead,
    a_mapping_that_deletion_revives_is_healed_at_its_renewal,
    an_address_that_is_not_the_routers_is_a_second_nat,
    a_server_that_does_not_probe_verifies_nothing,
];

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Drops what comes to the mapped port before the router translates it, and says nothing.
const KILLER: &str = r#"
table ip killer {
  chain prer { type filter hook prerouting priority -150; policy accept;
    iifname "wan" meta l4proto { tcp, udp } th dport 4001 drop
  }
}
"#;

fn add<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["add", "4000", "--external", "4001", "--verify", url];
    [&words[..], more].concat()
}

fn a_mapping_that_works_is_verified_by_every_protocol() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&[]);
    for protocol in ["pcp", "natpmp", "upnp"] {
        let told = home.told(&add(&url, &["--protocol", "both", "--protocols", protocol]));
        for mapping in &told {
            assert_eq!(mapping["verified"], true, "{mapping}");
            assert_eq!(mapping["double_nat"], false, "{mapping}");
        }
        assert_eq!(home.told(&["delete", "4001"]).len(), 2);
    }
}

fn a_pinhole_that_works_is_verified() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&[]);
    // It has to be looked at over its own family.
    let all = home.world.addresses("server").unwrap();
    let v6 = all.iter().find(|address| address.is_ipv6()).unwrap();
    let url = url.replace("45.45.1.2", &format!("[{v6}]"));
    for protocol in ["tcp", "udp"] {
        let words = ["pinhole", "add", "4000", "--protocol", protocol];
        let told = home.told(&[&words[..], &["--verify", &url]].concat());
        assert_eq!(told[0]["verified"], true, "{told:?}");
    }
}

fn another_programs_port_is_verified_over_tcp_and_not_over_udp() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&[]);
    let any: SocketAddr = ([0, 0, 0, 0], 4000).into();
    let listen = move || TcpListener::bind(any);
    let listener = home.world.run("alice", listen).unwrap().unwrap();
    let told = home.told(&add(&url, &[]));
    assert_eq!(told[0]["verified"], true, "{told:?}");
    drop(listener);
    let _socket = home.world.udp("alice", any).unwrap();
    let told = home.told(&add(&url, &["--protocol", "udp"]));
    assert_eq!(told[0]["verified"], Value::Null, "{told:?}");
}

fn a_mapping_that_the_router_drops_is_made_again_and_then_told_as_dead() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&[]);
    home.world.nft("red", KILLER).unwrap();
    let told = home.told(&add(&url, &[]));
    assert_eq!(told[0]["verified"], false, "{told:?}");
    assert_eq!(told[0]["external_port"], 4001, "{told:?}");
    home.told(&["delete", "4001"]);
}

/// The number by which the kernel knows the rule of the mapped port.
fn rule(home: &Home) -> Option<String> {
    let mut command = home.world.command("red", "nft").unwrap();
    let chain = ["chain", "inet", miniupnpd::TABLE, "prerouting_miniupnpd"];
    let output = command.args(["-a", "list"]).args(chain).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("4001"))?;
    Some(line.rsplit_once("handle ")?.1.trim().to_owned())
}

/// Waits until the mapping is another rule than this one, and takes what kills it away.
fn revive_when_made_again(home: &Home, dead: &str) {
    let end = Instant::now() + LIMIT;
    while rule(home).is_none_or(|rule| rule == dead) {
        assert!(Instant::now() < end, "it is not made again");
        thread::sleep(Duration::from_millis(20));
    }
    home.world.nft("red", "delete table ip killer").unwrap();
}

fn a_mapping_that_deletion_revives_is_healed_at_its_renewal() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&[]);
    let short = ["--keep", "--lifetime", "20", "--protocols", "upnp"];
    let mut program = Program::start(home.command(&add(&url, &short))).unwrap();
    let first = program.line(LIMIT).unwrap();
    assert!(first.contains(r#""verified":true"#), "{first}");
    let dead = rule(&home).unwrap();
    home.world.nft("red", KILLER).unwrap();
    revive_when_made_again(&home, &dead);
    let healed = program.event("healed", LIMIT).unwrap();
    assert_eq!(healed["verified"], true, "{healed}");
    assert_eq!(healed["external_port"], 4001, "{healed}");
    let id = Pid::from_raw(program.id().try_into().unwrap());
    kill(id, Signal::SIGINT).unwrap();
    assert!(program.end(LIMIT).unwrap().unwrap().success());
    assert_eq!(rule(&home), None);
}

fn an_address_that_is_not_the_routers_is_a_second_nat() {
    let home = Home::with_router_that_says([45, 45, 99, 9].into());
    let (_server, url) = home.serve(&[]);
    let told = home.told(&add(&url, &[]));
    assert_eq!(told[0]["external_address"], "45.45.99.9");
    assert_eq!(told[0]["double_nat"], true, "{told:?}");
}

fn a_server_that_does_not_probe_verifies_nothing() {
    let home = Home::with_router();
    let (_server, url) = home.serve(&["--no-probe"]);
    let told = home.told(&add(&url, &[]));
    assert_eq!(told[0]["verified"], Value::Null, "{told:?}");
}
