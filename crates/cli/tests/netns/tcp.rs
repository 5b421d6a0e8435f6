//! Direct paths over TCP, where UDP gets nowhere: through real NATs, past them, and inside one home;
//! what becomes of them when another path works; and strangers at the port.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns::{Case, Ipv6, Server, Topology};
use postern_lab::sim::{Link, Nat, Pipe, Unsolicited};
use serde_json::Value;

use crate::paths::strict;
use crate::programs::{Program, SOON};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    two_routers_that_drop_are_passed_over_tcp,
    two_routers_that_refuse_are_passed_with_unequal_delays,
    two_routers_that_answer_with_icmp_are_passed_from_another_port_if_need_be,
    a_public_host_is_connected_to_from_behind_a_router,
    a_public_host_that_sends_is_connected_to_as_well,
    two_homes_meet_over_tcp_and_ipv6,
    two_hosts_of_one_home_meet_over_tcp_inside_it,
    without_udp_not_one_datagram_leaves_for_a_direct_path,
    without_tcp_there_is_no_path_where_udp_is_blocked,
    a_direct_connection_replaces_the_relay_when_it_works,
    udp_replaces_a_direct_connection_when_it_works,
    a_connection_that_is_cut_makes_way_for_the_relay,
    strangers_at_the_port_for_tcp_disturb_nobody,
);

/// How many times over the first two cases are played, for a rate. One is enough for a test.
const RUNS: &str = "POSTERN_TCP_RUNS";

/// Rules with which a router forwards all but this.
fn blocking(what: &str) -> String {
    let hook = "type filter hook forward priority -10";
    format!("table inet block {{\nchain forward {{\n{hook}; {what} drop;\n}}\n}}\n")
}

pub(crate) fn without_udp(scene: &Scene) {
    for router in ["red", "blue"] {
        scene
            .world
            .nft(router, &blocking("meta l4proto udp"))
            .unwrap();
    }
}

fn unblock(scene: &Scene, router: &str) {
    scene
        .world
        .nft(router, "delete table inet block\n")
        .unwrap();
}

fn nat(unsolicited: Unsolicited) -> Nat {
    Nat {
        unsolicited,
        ..Nat::default()
    }
}

fn late(milliseconds: u64) -> Pipe {
    Pipe {
        latency: Duration::from_millis(milliseconds),
        ..Pipe::default()
    }
}

/// Two homes whose routers treat strangers so; one way between them takes so long, in
/// milliseconds, from red to blue and back.
fn apart(unsolicited: Unsolicited, [there, back]: [u64; 2]) -> Scene {
    let mut topology = Topology::two_homes(nat(unsolicited), nat(unsolicited));
    topology.homes[0].link = Link {
        up: late(there),
        down: late(back),
    };
    let scene = Scene::of(&topology);
    without_udp(&scene);
    scene
}

fn assert_direct(path: &Value) {
    let found = (&path["kind"], &path["protocol"], &path["technique"]);
    let expected = (&"direct".into(), &"tcp".into(), &"tcp".into());
    assert_eq!(found, expected, "{path}");
}

fn address(path: &Value, field: &str) -> SocketAddr {
    path[field].as_str().unwrap().parse().unwrap()
}

/// A file crosses from Alice to whoever runs `receiver`; the first path of each.
fn cross(scene: &Scene, mut sender: Program, receiver: impl Fn(&str) -> Program) -> [Value; 2] {
    let mut receiver = receiver(&sender.code());
    let paths = [sender.event("path"), receiver.event("path")];
    assert_eq!(receiver.succeeds()["path"], "direct");
    assert_eq!(sender.succeeds()["path"], "direct");
    scene.assert_arrived(&[scene.sent("photo.jpg")]);
    fs::remove_file(scene.inbox().join("photo.jpg")).unwrap();
    paths.iter().for_each(assert_direct);
    paths
}

/// Alice sends with these arguments.
fn sending(scene: &Scene, arguments: &[&str]) -> Program {
    let file = scene.file("photo.jpg", 3_000_000);
    let mut command = scene.sending(&[file]);
    command.args(arguments);
    scene.start("alice", command)
}

/// Plays it as often as wanted, and tells the times.
#[expect(clippy::print_stdout, reason = "a test prints what it has measured")]
fn repeatedly(name: &str, scene: &Scene) {
    let runs = std::env::var(RUNS).ok();
    let runs: usize = runs.map_or(1, |runs| runs.parse().unwrap());
    let mut times = Vec::new();
    for _ in 0..runs {
        let paths = cross(scene, sending(scene, &[]), |code| scene.receive(code));
        times.extend(paths.map(|path| path["elapsed_ms"].as_u64().unwrap()));
    }
    times.sort_unstable();
    println!("{name}: {times:?} ms from authentication to a connection over the path");
}

fn two_routers_that_drop_are_passed_over_tcp() {
    let scene = apart(Unsolicited::Drop, [30, 30]);
    repeatedly("drop, 60 ms", &scene);
}

fn two_routers_that_refuse_are_passed_with_unequal_delays() {
    for delays in [[0, 30], [30, 0], [5, 60]] {
        let scene = apart(Unsolicited::Reset, delays);
        repeatedly(&format!("reset, {delays:?} ms"), &scene);
    }
}

/// Linux's own `reject`. A first port that was spoilt by it stays so.
fn two_routers_that_answer_with_icmp_are_passed_from_another_port_if_need_be() {
    for delays in [[10, 30], [30, 10], [5, 60]] {
        let scene = apart(Unsolicited::PortUnreachable, delays);
        repeatedly(&format!("icmp, {delays:?} ms"), &scene);
    }
}

/// Alice at home, and Carol on the public internet.
fn one_public() -> Scene {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.servers.push(Server::new("carol"));
    let scene = Scene::of(&topology);
    without_udp(&scene);
    scene
}

fn a_public_host_is_connected_to_from_behind_a_router() {
    let scene = one_public();
    let [alice, _] = cross(&scene, sending(&scene, &[]), |code| {
        let mut command = scene.postern("carol", "receive");
        command.args(["--server", &scene.url, "--yes", "--output"]);
        command.arg(scene.inbox()).arg(code);
        scene.start("carol", command)
    });
    let carol = scene.world.ipv4("carol").unwrap();
    assert_eq!(address(&alice, "remote").ip(), carol);
}

fn a_public_host_that_sends_is_connected_to_as_well() {
    let scene = one_public();
    let file = scene.file("photo.jpg", 3_000_000);
    let mut command = scene.postern("carol", "send");
    command.args(["--server", &scene.url]).arg(file);
    let carol = scene.start("carol", command);
    cross(&scene, carol, |code| scene.receive(code));
}

fn two_homes_meet_over_tcp_and_ipv6() {
    let mut topology = Topology::two_homes(strict(), strict());
    for home in &mut topology.homes {
        home.ipv6 = Ipv6::Firewalled;
    }
    let scene = Scene::of(&topology);
    without_udp(&scene);
    for path in cross(&scene, sending(&scene, &[]), |code| scene.receive(code)) {
        assert!(address(&path, "local").is_ipv6(), "{path}");
        assert!(address(&path, "remote").is_ipv6(), "{path}");
    }
}

fn two_hosts_of_one_home_meet_over_tcp_inside_it() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].hosts.push("carol".to_owned());
    let scene = Scene::of(&topology);
    let [_, carol] = cross(&scene, sending(&scene, &["--no-udp"]), |code| {
        let mut command = scene.postern("carol", "receive");
        command.args(["--server", &scene.url, "--yes", "--no-udp", "--output"]);
        command.arg(scene.inbox()).arg(code);
        scene.start("carol", command)
    });
    let alice = scene.world.ipv4("alice").unwrap();
    assert_eq!(address(&carol, "remote").ip(), alice);
}

fn without_udp_not_one_datagram_leaves_for_a_direct_path() {
    let scene = Scene::plain();
    let counting = "table inet count {\ncounter datagrams { }\nchain output {\n\
        type filter hook output priority -10; meta l4proto udp counter name datagrams;\n}\n}\n";
    scene.world.nft("alice", counting).unwrap();
    let sender = sending(&scene, &["--no-udp", "--direct-only"]);
    cross(&scene, sender, |code| scene.receive(code));
    let counters = scene.world.counters("alice").unwrap();
    assert_eq!(counters["datagrams"].packets, 0);
}

fn without_tcp_there_is_no_path_where_udp_is_blocked() {
    let scene = Scene::plain();
    without_udp(&scene);
    let mut sender = sending(&scene, &["--no-tcp"]);
    let mut receiver = scene.receive(&sender.code());
    sender.fails(1, "no_path");
    receiver.fails(1, "no_path");
    scene.assert_nothing_arrived();
}

/// Two homes of which one is so slow that a file is under way for some seconds, and a relay.
fn slow() -> Scene {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].link = Link::symmetric(Pipe {
        rate: Some(2_500_000),
        queue: Duration::from_millis(50),
        latency: Duration::from_millis(5),
        ..Pipe::default()
    });
    let mut scene = Scene::without_server(&topology);
    scene.serve_with(&[], &["--relay"]);
    scene
}

/// A file of so many bytes goes from Alice to Bob. When Bob is on a path like the first, `then` happens,
/// and both end on a path like the second.
fn change(
    scene: &Scene,
    size: usize,
    first: fn(&Value) -> bool,
    then: impl FnOnce(),
    second: fn(&Value) -> bool,
) {
    let file = scene.file("film", size);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    while !first(&receiver.event("path")) {}
    while receiver.event("progress")["bytes"].as_u64().unwrap() < 1_000_000 {}
    then();
    while !second(&receiver.event("path")) {}
    receiver.succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
    let mut heard = sender.heard().iter().map(|line| line.event());
    let last = heard.rfind(|event| event["event"] == "path");
    assert!(last.as_ref().is_some_and(second), "{last:?}");
}

fn is_relayed(path: &Value) -> bool {
    path["kind"] == "relayed"
}

fn is_tcp(path: &Value) -> bool {
    path["technique"] == "tcp"
}

fn is_udp(path: &Value) -> bool {
    path["kind"] == "direct" && path["protocol"] == "udp"
}

fn a_direct_connection_replaces_the_relay_when_it_works() {
    let scene = slow();
    without_udp(&scene);
    let server = scene.world.ipv4("server").unwrap();
    let others = format!("ip saddr != {server} ip daddr != {server}");
    let between = blocking(&others).replace("block", "cut");
    scene.world.nft("red", &between).unwrap();
    let connect = || scene.world.nft("red", "delete table inet cut\n").unwrap();
    change(&scene, 20_000_000, is_relayed, connect, is_tcp);
}

fn udp_replaces_a_direct_connection_when_it_works() {
    let scene = slow();
    without_udp(&scene);
    let open = || {
        ["red", "blue"]
            .iter()
            .for_each(|router| unblock(&scene, router))
    };
    change(&scene, 40_000_000, is_tcp, open, is_udp);
}

fn a_connection_that_is_cut_makes_way_for_the_relay() {
    let scene = slow();
    without_udp(&scene);
    let server = scene.world.ipv4("server").unwrap();
    let others = format!("ip saddr != {server} ip daddr != {server}");
    let between = blocking(&others).replace("block", "cut");
    let cut = || scene.world.nft("red", &between).unwrap();
    change(&scene, 8_000_000, is_tcp, cut, is_relayed);
}

/// The ports for TCP on which a host listens, and how many connections it has on each.
fn connections(scene: &Scene, host: &str) -> BTreeMap<u16, usize> {
    const ESTABLISHED: &str = "01";
    const LISTENING: &str = "0A";
    let read = || fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let table = scene.world.run(host, read).unwrap();
    let mut ports = BTreeMap::new();
    let mut count = |wanted: &str, add: usize| {
        for line in table.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let (local, state) = (fields.nth(1).unwrap(), fields.nth(1).unwrap());
            let port = local.split_once(':').unwrap().1;
            let port = u16::from_str_radix(port, 16).unwrap();
            if state == wanted && (add == 0 || ports.contains_key(&port)) {
                *ports.entry(port).or_insert(0) += add;
            }
        }
    };
    count(LISTENING, 0);
    count(ESTABLISHED, 1);
    ports
}

/// What strangers send: nothing, half a message, one that is too long, nonsense, many empty ones, and
/// checks that nobody asked for.
fn nonsense() -> Vec<Vec<u8>> {
    let mut check = vec![0, 20, 0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    check.extend([7; 12]);
    vec![
        Vec::new(),
        vec![0x07, 0xff, 1, 2, 3],
        vec![0xff; 70_000],
        b"GET / HTTP/1.1\r\nHost: alice\r\n\r\n".to_vec(),
        vec![0; 100_000],
        check.repeat(1000),
    ]
}

fn strangers_at_the_port_for_tcp_disturb_nobody() {
    // An agent holds 32; 8 wait for it, 1 has just been accepted, 17 are the system's.
    const MOST: usize = 32 + 8 + 1 + 17;
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    topology.homes[0].hosts.push("carol".to_owned());
    let scene = Scene::of(&topology);
    without_udp(&scene);
    let mut sender = sending(&scene, &[]);
    let code = sender.code();
    let ports = connections(&scene, "alice");
    let [(&port, _)] = ports.iter().collect::<Vec<_>>()[..] else {
        panic!("{ports:?}");
    };
    let target = SocketAddr::new(scene.world.ipv4("alice").unwrap().into(), port);
    let flood = scene.world.spawn("carol", move || flood(target)).unwrap();
    let most = watch(&scene, port);
    assert!(most <= MOST, "{most} connections");
    let mut receiver = scene.receive(&code);
    assert_direct(&receiver.event("path"));
    receiver.succeeds();
    sender.succeeds();
    flood.join().unwrap().unwrap();
    scene.assert_arrived(&[scene.sent("photo.jpg")]);
}

/// Connects again and again for a few seconds, and keeps what it can.
fn flood(target: SocketAddr) {
    let end = Instant::now() + SOON;
    let mut open = Vec::new();
    for bytes in nonsense().iter().cycle() {
        if Instant::now() > end {
            return;
        }
        let timeout = Duration::from_millis(200);
        if let Ok(mut stream) = TcpStream::connect_timeout(&target, timeout) {
            let _ = stream.set_write_timeout(Some(timeout));
            let _ = stream.write_all(bytes);
            open.push(stream);
        }
        open.drain(..open.len().saturating_sub(500));
        thread::sleep(Duration::from_millis(5));
    }
}

/// The most connections at the port in two seconds.
fn watch(scene: &Scene, port: u16) -> usize {
    let looks = (0..20).map(|_| {
        thread::sleep(Duration::from_millis(100));
        connections(scene, "alice")[&port]
    });
    looks.max().unwrap()
}
