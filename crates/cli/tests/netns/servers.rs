//! Servers: ready, unreachable, false, and how one is chosen.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use postern_lab::netns::{Case, Ipv6, Topology};
use postern_lab::sim::Nat;
use serde_json::Value;

use crate::programs::{Program, SOON};
use crate::scene::Scene;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_server_says_where_it_is,
    a_server_listens_on_both_families,
    a_server_needs_a_certificate_and_its_key,
    a_server_says_that_its_port_is_taken,
    a_server_that_cannot_be_reached_is_named,
    a_server_with_another_certificate_is_not_trusted,
    what_is_no_postern_server_is_found_out,
    the_server_comes_from_the_environment_or_the_configuration,
    without_a_server_the_program_says_how_to_name_one,
);

/// Longest time to find out about a server that behaves in any way.
const BOUND: Duration = Duration::from_secs(25);

fn a_server_says_where_it_is() {
    let scene = Scene::without_server(&Topology::two_homes(Nat::default(), Nat::default()));
    let mut command = scene.postern("server", "server");
    command.args(["--listen", "45.45.1.2", "--port", "0", "--stun-port", "0"]);
    let mut server = scene.start("server", command);
    let ready = server.event("ready");
    let (url, pin) = ready["url"].as_str().unwrap().split_once('#').unwrap();
    let address = address_in(url);
    assert_eq!(address.ip().to_string(), "45.45.1.2");
    assert_ne!(address.port(), 0);
    let digits = pin.strip_prefix("sha256=").unwrap();
    assert!(digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()));
    assert_ne!(stun_addresses(&ready)[0].port(), 0);
}

fn a_server_listens_on_both_families() {
    let mut topology = Topology::two_homes(Nat::default(), Nat::default());
    for home in &mut topology.homes {
        home.ipv6 = Ipv6::Firewalled;
    }
    let mut scene = Scene::without_server(&topology);
    let addresses = scene.world.addresses("server").unwrap().to_vec();
    let ipv6 = addresses.into_iter().find(IpAddr::is_ipv6).unwrap();
    scene.serve(&[ipv6]);
    let server = scene.server.as_ref().unwrap();
    let ready = server.heard()[0].event();
    let stun: Vec<IpAddr> = stun_addresses(&ready).iter().map(SocketAddr::ip).collect();
    assert_eq!(stun, [scene.world.ipv4("server").unwrap().into(), ipv6]);
    let elsewhere = format!("wss://[{ipv6}]:8443/");
    scene.url = scene.url.replace("wss://45.45.1.2:8443/", &elsewhere);
    assert!(scene.url.contains(&elsewhere));
    scene.assert_still_works();
}

fn a_server_needs_a_certificate_and_its_key() {
    let scene = Scene::plain();
    let file = scene.file("not-a-certificate", 100);
    let path = file.to_str().unwrap();
    let mut alone = serving(&scene, &["--cert", path]);
    alone.arg("--json");
    let mut alone = scene.start_for_people("server", alone);
    assert_eq!(alone.exit_code(), Some(2));
    let mut wrong = scene.start("server", serving(&scene, &["--cert", path, "--key", path]));
    let sentence = wrong.fails_within(SOON, 1, "certificate");
    assert!(sentence.contains("not-a-certificate"), "{sentence}");
}

fn a_server_says_that_its_port_is_taken() {
    let scene = Scene::plain();
    let mut second = scene.start("server", serving(&scene, &[]));
    let sentence = second.fails_within(SOON, 1, "listen");
    assert!(sentence.contains("45.45.1.2:8443"), "{sentence}");
    let mut foreign = scene.postern("server", "server");
    foreign.args(["--listen", "45.45.77.7"]);
    let mut foreign = scene.start("server", foreign);
    foreign.fails_within(SOON, 1, "listen");
}

fn a_server_that_cannot_be_reached_is_named() {
    let scene = Scene::plain();
    // Nothing listens; there is no such network; a router drops what it did not ask for.
    for server in ["45.45.1.2:1", "45.45.99.9:8443", "45.45.3.2:8443"] {
        for mut program in both(&scene, &format!("wss://{server}/")) {
            let sentence = program.fails_within(BOUND, 1, "server_unreachable");
            assert!(sentence.contains(server), "{sentence}");
        }
    }
}

fn a_server_with_another_certificate_is_not_trusted() {
    let scene = Scene::plain();
    let (url, _) = scene.url.split_once('#').unwrap();
    let wrong = format!("{url}#sha256={}", "0".repeat(64));
    for mut program in both(&scene, &wrong) {
        let sentence = program.fails_within(SOON, 1, "server_certificate");
        assert!(sentence.contains("another certificate"), "{sentence}");
    }
    for mut program in both(&scene, url) {
        let sentence = program.fails_within(SOON, 1, "server_certificate");
        assert!(sentence.contains("sha256="), "{sentence}");
    }
}

fn what_is_no_postern_server_is_found_out() {
    let scene = Scene::plain();
    let silence: &[u8] = b"";
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let noise = &crate::scene::contents(4000);
    let impostors = [
        (2001, silence, "server_unreachable"),
        (2002, http, "server"),
        (2003, noise, "server"),
    ];
    for (port, answer, kind) in impostors {
        impostor(&scene, port, answer.to_vec());
        for mut program in both(&scene, &format!("wss://45.45.1.2:{port}/")) {
            let sentence = program.fails_within(BOUND, 1, kind);
            assert!(!sentence.contains("certificate"), "{sentence}");
            assert!(sentence.contains("45.45.1.2"), "{sentence}");
        }
    }
}

fn the_server_comes_from_the_environment_or_the_configuration() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let directory = scene.config().join("postern");
    fs::create_dir(&directory).unwrap();
    let line = format!("server = \"{}\"\n", scene.url);
    fs::write(directory.join("config.toml"), line).unwrap();
    let mut sending = scene.postern("alice", "send");
    sending.arg(&file);
    let mut sender = scene.start("alice", sending);
    let code = sender.code();
    fs::write(
        directory.join("config.toml"),
        "server = \"wss://nowhere/\"\n",
    )
    .unwrap();
    let mut receiving = scene.postern("bob", "receive");
    receiving.env("POSTERN_SERVER", &scene.url);
    receiving
        .args(["--yes", "--output"])
        .arg(scene.inbox())
        .arg(code);
    scene.start("bob", receiving).succeeds();
    sender.succeeds();
    scene.assert_arrived(&[file]);
}

fn without_a_server_the_program_says_how_to_name_one() {
    let scene = Scene::plain();
    let file = scene.file("letter", 5000);
    let bad = [
        "http://example.org",
        "wss://",
        "wss://a/#sha256=1",
        "",
        "wss://a/path",
    ];
    for mut program in both_without_server(&scene, &file) {
        let sentence = program.fails_within(SOON, 2, "usage");
        let ways = ["--server", "POSTERN_SERVER", "config.toml"];
        assert!(ways.iter().all(|way| sentence.contains(way)), "{sentence}");
    }
    for url in bad {
        for mut program in both(&scene, url) {
            program.fails_within(SOON, 2, "usage");
        }
    }
    let directory = scene.config().join("postern");
    fs::create_dir(&directory).unwrap();
    for text in ["server = 7", "serwer = \"wss://a/\"", "\x00"] {
        fs::write(directory.join("config.toml"), text).unwrap();
        for mut program in both_without_server(&scene, &file) {
            let sentence = program.fails_within(SOON, 2, "usage");
            assert!(sentence.contains("config.toml"), "{sentence}");
        }
    }
}

/// Both sides with this server: they must both find out what is wrong with it.
fn both(scene: &Scene, url: &str) -> [Program; 2] {
    let file = scene.file("letter", 5000);
    let mut sending = scene.postern("alice", "send");
    sending.args(["--server", url]).arg(file);
    let mut receiving = scene.postern("alice", "receive");
    receiving.args(["--server", url, "--yes", "7-zoo-zoo", "--output"]);
    receiving.arg(scene.inbox());
    [scene.start("alice", sending), scene.start("bob", receiving)]
}

fn both_without_server(scene: &Scene, file: &std::path::Path) -> [Program; 2] {
    let mut sending = scene.postern("alice", "send");
    sending.arg(file);
    let mut receiving = scene.postern("bob", "receive");
    receiving.arg("7-zoo-zoo");
    [scene.start("alice", sending), scene.start("bob", receiving)]
}

fn serving(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = scene.postern("server", "server");
    command.args(["--listen", "45.45.1.2"]).args(arguments);
    command
}

/// Listens on the server's host, answers the first bytes with `answer`, and says no more.
fn impostor(scene: &Scene, port: u16, answer: Vec<u8>) {
    let bind = || TcpListener::bind(("45.45.1.2", port));
    let listener = scene.world.run("server", bind).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().take(2).map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(&answer);
            kept.push(stream);
        }
        // Whoever waits for more waits for its own timer.
        std::thread::sleep(2 * BOUND);
    });
}

fn address_in(url: &str) -> SocketAddr {
    let address = url
        .strip_prefix("wss://")
        .and_then(|rest| rest.strip_suffix('/'));
    address.unwrap().parse().unwrap()
}

fn stun_addresses(ready: &Value) -> Vec<SocketAddr> {
    let uris = ready["stun"].as_array().unwrap().iter();
    let address = |uri: &Value| uri.as_str()?.strip_prefix("stun:")?.parse().ok();
    uris.map(|uri| address(uri).unwrap()).collect()
}
