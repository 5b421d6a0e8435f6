//! The relay where networks let little through: over TCP, over TLS, through a proxy; and when
//! it takes over from a direct path.

use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns::{Case, Server, Topology};
use postern_lab::sim::{Link, Nat, Pipe};
use serde_json::Value;

use crate::paths::strict;
use crate::programs::{Program, SOON};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    where_one_side_gets_no_udp_out_it_reaches_the_relay_over_tcp,
    where_neither_side_gets_udp_out_they_meet_at_the_relay_over_tcp,
    where_only_the_servers_port_is_open_the_relay_is_reached_over_tls_on_it,
    where_the_server_has_two_addresses_the_relay_is_reached_over_tls_no_later,
    without_udp_not_one_datagram_leaves,
    the_transport_to_the_relay_can_be_chosen_on_each_side,
    a_proxy_is_the_only_way_out,
    the_ways_to_the_relay_that_were_tried_are_named,
    choices_that_leave_no_way_are_refused,
    when_the_direct_path_is_cut_the_relay_takes_over_without_losing_a_byte,
    when_it_is_cut_at_the_receiver_a_relay_over_tls_takes_over,
    when_it_is_cut_at_the_sender_a_relay_over_tcp_takes_over,
);

/// The address of the server and the port of its WebSocket.
const SERVER: &str = "45.45.1.2";

/// Nothing but this passes a router, of what it forwards.
fn only(rule: &str) -> String {
    filtering(&format!("{rule} accept; drop"))
}

/// Rules for what a router forwards.
fn filtering(rules: &str) -> String {
    let hook = "type filter hook forward priority -10";
    format!("table inet block {{\nchain forward {{\n{hook}; {rules};\n}}\n}}\n")
}

fn without_udp() -> String {
    filtering("meta l4proto udp drop")
}

fn with_relay(topology: &Topology) -> Scene {
    let mut scene = Scene::without_server(topology);
    scene.serve_with(&[], &["--relay"]);
    scene
}

fn two_strict() -> Scene {
    with_relay(&Topology::two_homes(strict(), strict()))
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

/// A file crosses from Alice to Bob, each with these arguments; their first paths.
fn cross(scene: &Scene, alice: &[&str], bob: &[&str]) -> [Value; 2] {
    let file = scene.file("photo.jpg", 3_000_000);
    let mut sender = sending(scene, &file, alice);
    let mut receiver = receiving(scene, &sender.code(), bob);
    let paths = [sender.event("path"), receiver.event("path")];
    assert_eq!(receiver.succeeds()["path"], "relayed");
    assert_eq!(sender.succeeds()["path"], "relayed");
    scene.assert_arrived(&[file]);
    paths
}

fn where_one_side_gets_no_udp_out_it_reaches_the_relay_over_tcp() {
    let scene = two_strict();
    scene.world.nft("red", &without_udp()).unwrap();
    let [alice, _] = cross(&scene, &[], &[]);
    assert_eq!(
        (&alice["relay"], &alice["protocol"]),
        (&"tcp".into(), &"tcp".into())
    );
    let elapsed = alice["elapsed_ms"].as_u64().unwrap();
    assert!(elapsed < 3000, "{elapsed} ms for a way around blocked UDP");
}

fn where_neither_side_gets_udp_out_they_meet_at_the_relay_over_tcp() {
    let scene = two_strict();
    for router in ["red", "blue"] {
        scene.world.nft(router, &without_udp()).unwrap();
    }
    for path in cross(&scene, &[], &[]) {
        assert_eq!(
            (&path["relay"], &path["protocol"]),
            (&"tcp".into(), &"tcp".into())
        );
    }
}

fn where_only_the_servers_port_is_open_the_relay_is_reached_over_tls_on_it() {
    let scene = two_strict();
    for router in ["red", "blue"] {
        let rules = only("tcp dport 8443 accept; tcp sport 8443");
        scene.world.nft(router, &rules).unwrap();
    }
    for path in cross(&scene, &[], &[]) {
        assert_eq!(path["relay"], "tls");
    }
}

fn where_the_server_has_two_addresses_the_relay_is_reached_over_tls_no_later() {
    let mut topology = Topology::two_homes(strict(), strict());
    topology.servers[0].addresses = 2;
    let mut scene = Scene::without_server(&topology);
    let second = scene.world.addresses("server").unwrap()[1];
    scene.serve_with(&[second], &["--relay"]);
    for router in ["red", "blue"] {
        let rules = only("tcp dport 8443 accept; tcp sport 8443");
        scene.world.nft(router, &rules).unwrap();
    }
    for path in cross(&scene, &[], &[]) {
        assert_eq!(path["relay"], "tls");
        let elapsed = path["elapsed_ms"].as_u64().unwrap();
        assert!(elapsed < 3000, "{elapsed} ms");
    }
}

fn without_udp_not_one_datagram_leaves() {
    let scene = two_strict();
    let counting = "table inet count {\ncounter datagrams { }\nchain output {\n\
        type filter hook output priority -10; meta l4proto udp counter name datagrams;\n}\n}\n";
    scene.world.nft("alice", counting).unwrap();
    let [alice, _] = cross(&scene, &["--no-udp"], &[]);
    assert_eq!(alice["relay"], "tcp");
    let counters = scene.world.counters("alice").unwrap();
    assert_eq!(counters["datagrams"].packets, 0);
}

fn the_transport_to_the_relay_can_be_chosen_on_each_side() {
    let scene = two_strict();
    let tls = ["--relay-only", "--relay-transport", "tls"];
    let udp = ["--relay-only", "--no-tcp"];
    let [alice, bob] = cross(&scene, &tls, &udp);
    assert_eq!(
        (&alice["relay"], &bob["relay"]),
        (&"tls".into(), &"udp".into())
    );
}

/// Passes connections on, as an HTTP proxy does.
fn proxy(listener: &TcpListener) {
    for client in listener.incoming() {
        let client = client.unwrap();
        thread::spawn(move || pass_on(client));
    }
}

fn pass_on(client: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    let target = head.split_whitespace().nth(1)?;
    let server = TcpStream::connect(target).ok()?;
    (&client)
        .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        .ok()?;
    let (mut to_server, mut from_server) = (server.try_clone().ok()?, server);
    thread::spawn(move || copy(&mut reader.by_ref(), &mut to_server));
    copy(&mut from_server, &mut &client).ok().map(drop)
}

fn a_proxy_is_the_only_way_out() {
    let mut topology = Topology::two_homes(strict(), strict());
    topology.servers.push(Server::new("proxy"));
    let scene = with_relay(&topology);
    let address = scene.world.ipv4("proxy").unwrap();
    let bind = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 3128)).unwrap();
    let listener = scene.world.run("proxy", bind).unwrap();
    scene
        .world
        .spawn("proxy", move || proxy(&listener))
        .unwrap();
    let rules = only(&format!("ip daddr {address} accept; ip saddr {address}"));
    scene.world.nft("red", &rules).unwrap();
    let url = format!("http://{address}:3128");
    let [alice, _] = cross(&scene, &["--proxy", &url], &["--relay-only"]);
    assert_ne!(alice["relay"], "udp");
}

fn the_ways_to_the_relay_that_were_tried_are_named() {
    let scene = two_strict();
    let rules = only("tcp dport 8443 accept; tcp sport 8443");
    scene.world.nft("red", &rules).unwrap();
    let file = scene.file("letter", 5000);
    let mut sender = sending(&scene, &file, &["--relay-only", "--relay-transport", "udp"]);
    let mut receiver = receiving(&scene, &sender.code(), &["--relay-only"]);
    let sentence = sender.fails(1, "no_path");
    assert!(sentence.ends_with("UDP got no answer"), "{sentence}");
    receiver.fails(1, "no_path");
    scene.assert_nothing_arrived();
}

fn choices_that_leave_no_way_are_refused() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    for arguments in [
        &["--no-udp", "--no-tcp"][..],
        &["--no-udp", "--relay-transport", "udp"],
        &["--no-tcp", "--relay-transport", "tls"],
    ] {
        let mut command: Command = scene.sending(&[&file]);
        command.args(arguments);
        let mut program = scene.start_for_people("alice", command);
        assert_eq!(program.exit_code(), Some(2), "{arguments:?}");
    }
}

/// So slow that a file is under way for some seconds.
fn slow() -> Link {
    Link::symmetric(Pipe {
        rate: Some(2_500_000),
        queue: Duration::from_millis(50),
        latency: Duration::from_millis(5),
        ..Pipe::default()
    })
}

/// A file goes from Alice to Bob, and in the middle of it this router lets nothing pass any
/// more but what goes to the server or comes from it. The path that each of them ends on.
fn cut(router: &str, arguments: &[&str]) -> [Value; 2] {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = slow();
    let scene = with_relay(&topology);
    let file = scene.file("film", 12_000_000);
    let mut sender = sending(&scene, &file, arguments);
    let mut receiver = receiving(&scene, &sender.code(), arguments);
    await_direct(&mut receiver);
    while receiver.event("progress")["bytes"].as_u64().unwrap() < 1_000_000 {}
    let rules = only(&format!("ip daddr {SERVER} accept; ip saddr {SERVER}"));
    scene.world.nft(router, &rules).unwrap();
    let cut = Instant::now();
    // The same path is told again when more is known about how it came about.
    while receiver.event("path")["kind"] != "relayed" {}
    assert!(cut.elapsed() < SOON, "{:?}", cut.elapsed());
    assert_eq!(receiver.succeeds()["path"], "relayed");
    assert_eq!(sender.succeeds()["path"], "relayed");
    scene.assert_arrived(&[file]);
    [sender, receiver].map(|program| {
        let events = program.heard().iter().map(|line| line.event());
        let mut paths = events.filter(|event| event["event"] == "path");
        paths.next_back().unwrap()
    })
}

fn await_direct(program: &mut Program) {
    while program.event("path")["kind"] != "direct" {}
}

fn when_the_direct_path_is_cut_the_relay_takes_over_without_losing_a_byte() {
    for path in cut("red", &[]) {
        assert_eq!(path["kind"], "relayed");
    }
}

/// One relay carries it, either's.
fn over(transport: &str, paths: &[Value; 2]) {
    let over = |path: &Value| path["relay"] == transport;
    assert!(paths.iter().any(over), "{paths:?}");
}

fn when_it_is_cut_at_the_receiver_a_relay_over_tls_takes_over() {
    over("tls", &cut("blue", &["--relay-transport", "tls"]));
}

fn when_it_is_cut_at_the_sender_a_relay_over_tcp_takes_over() {
    over("tcp", &cut("red", &["--relay-transport", "tcp"]));
}
