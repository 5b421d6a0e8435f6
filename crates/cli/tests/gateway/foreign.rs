//! Programs of others that map ports by themselves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use postern_lab::netns::{Case, Program};
use serde_json::{Value, json};

use crate::house::{ALICE, EVERYWHERE, House, LIMIT, NOWHERE, OUTSIDE, SERVER, Tcp, Udp, connect};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    async_upnp_client_finds_the_gateway_and_maps,
    transmission_opens_its_port,
];

/// Where scripts/setup puts packages of Python.
fn packages() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("target/python")
}

fn async_upnp_client_finds_the_gateway_and_maps() {
    let house = House::new();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/igd.py");
    let run = |more: &[&str]| -> Value {
        let mut command = house.world.command("alice", "python3").unwrap();
        command.env("PYTHONPATH", packages()).arg(program);
        command.args([ALICE.to_string(), SERVER.to_string()]);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let learnt = run(&[]);
    let expected = json!({
        "device": "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
        "external_address": OUTSIDE.to_string(),
        "status": "Connected",
        "mappings": 1,
        "description": "a program",
        "internal_port": 4000,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&learnt[name], value, "{learnt}");
    }
    assert_eq!(
        learnt["locations"][0],
        "http://192.168.1.1:5000/rootDesc.xml"
    );
    assert_eq!(house.reached_from(Tcp, 4001, 4000), [true, false, false]);
    let after = run(&["delete"]);
    assert_eq!(after["mappings"], 0);
    assert_eq!(house.reached_from(Tcp, 4001, 4000), NOWHERE);
    // What has crossed meanwhile.
    for counter in ["bytes_received", "packets_sent"] {
        let count = |learnt: &Value| learnt[counter].as_u64().unwrap();
        assert!(
            count(&after) > count(&learnt),
            "{counter}: {learnt} {after}"
        );
    }
}

fn transmission_opens_its_port() {
    let house = House::new();
    let torrent = house.path("nothing.torrent");
    let pieces = "pieces20:aaaaaaaaaaaaaaaaaaaa";
    let content = format!("d4:infod6:lengthi5e4:name7:nothing12:piece lengthi16384e6:{pieces}ee");
    std::fs::write(&torrent, content).unwrap();
    let mut command = house.world.command("alice", "transmission-cli").unwrap();
    command.env("HOME", house.path(""));
    command.arg("--config-dir").arg(house.path("transmission"));
    command.arg("--download-dir").arg(house.path(""));
    command.args(["--portmap", "--port", "4000"]).arg(&torrent);
    command.stdin(Stdio::null());
    let mut transmission = Program::start(command).unwrap();
    let listed = || house.ask_json(&["list"]);
    let begin = Instant::now();
    while listed().len() < 2 {
        assert!(begin.elapsed() < LIMIT, "{}", transmission.complaints());
    }
    for lease in listed() {
        assert_eq!(lease["internal_port"], 4000, "{lease}");
        assert_eq!(lease["internal_address"], ALICE.to_string());
    }
    // It is at the port itself: whoever connects gets as far as its handshake.
    let to = SocketAddr::from((OUTSIDE, 4000));
    let connect = || connect(SERVER.into(), to);
    assert!(house.world.run("server", connect).unwrap().is_ok());
    drop(transmission);
    assert_eq!(house.reached_from(Udp, 4000, 4000), EVERYWHERE);
}
