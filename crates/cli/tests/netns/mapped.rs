//! Homes whose routers give every destination another random port, and open ports on request.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns::{Case, Program as Daemon, Topology};
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports};
use serde_json::Value;

use crate::programs::Program;
use crate::scene::Scene;
use crate::tcp::without_udp;

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    two_homes_whose_routers_open_no_ports_are_relayed,
    two_homes_with_miniupnpd_are_connected_directly,
    the_same_two_homes_are_relayed_if_their_routers_are_not_asked,
    one_home_with_our_gateway_is_enough,
    without_udp_one_home_with_our_gateway_is_enough_over_tcp,
);

/// How long a router's daemon may take to start.
const STARTING: Duration = Duration::from_secs(20);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(50);

/// A router that hole punching does not get through: not two of them.
pub(crate) fn random() -> Nat {
    let strictest = Mapping::AddressAndPortDependent;
    Nat {
        allocation: Allocation::Random(Ports::ALL),
        ..Nat::new(strictest, Filtering::AddressAndPortDependent)
    }
}

fn scene(server: &[&str]) -> Scene {
    let mut topology = Topology::two_homes(random(), random());
    topology.servers[0].addresses = 2;
    let mut scene = Scene::without_server(&topology);
    let second = scene.world.addresses("server").unwrap()[1];
    scene.serve_with(&[second], server);
    scene
}

/// Waits until a path is told to have come about in this way. Whoever is reached through its own
/// router's port knows that when its own check is answered, which may be a moment later.
fn comes_about(program: &mut Program, kind: &str, technique: &str) -> Value {
    loop {
        let path = program.event("path");
        if path["technique"] == technique {
            assert_eq!(path["kind"], kind);
            return path;
        }
    }
}

fn assert_a_file_crosses(scene: &Scene, more: &[&str], kind: &str, expected: &str) {
    let file = scene.file("letter", 20_000_000);
    let mut command = scene.sending(&[&file]);
    command.args(more);
    let mut sender = scene.start("alice", command);
    let code = sender.code();
    let arguments = [&["--yes", &code], more].concat();
    let mut receiver = scene.start("bob", scene.receiving(&arguments));
    for program in [&mut sender, &mut receiver] {
        comes_about(program, kind, expected);
    }
    assert_eq!(receiver.succeeds()["path"], kind);
    assert_eq!(sender.succeeds()["path"], kind);
    scene.assert_arrived(&[file]);
}

fn two_homes_whose_routers_open_no_ports_are_relayed() {
    let scene = scene(&["--relay"]);
    assert_a_file_crosses(&scene, &[], "relayed", "relay");
}

fn the_same_two_homes_are_relayed_if_their_routers_are_not_asked() {
    let scene = scene(&["--relay"]);
    let _red = Upnpd::start(&scene, "red", 1);
    let _blue = Upnpd::start(&scene, "blue", 2);
    // Over TCP their routers are easy ones.
    let unasked = ["--disable", "mapped,tcp"];
    assert_a_file_crosses(&scene, &unasked, "relayed", "relay");
}

fn two_homes_with_miniupnpd_are_connected_directly() {
    let scene = scene(&[]);
    let _red = Upnpd::start(&scene, "red", 1);
    let _blue = Upnpd::start(&scene, "blue", 2);
    assert_a_file_crosses(&scene, &[], "direct", "mapped");
    for router in ["red", "blue"] {
        assert_eq!(Upnpd::mappings(&scene, router), 0, "{router}");
    }
}

fn one_home_with_our_gateway_is_enough() {
    for router in ["red", "blue"] {
        let scene = scene(&[]);
        let _gateway = gateway(&scene, router);
        assert_a_file_crosses(&scene, &[], "direct", "mapped");
        assert_eq!(leases(&scene, router), "", "{router}");
    }
}

/// Their routers give every destination another port over TCP, too.
fn without_udp_one_home_with_our_gateway_is_enough_over_tcp() {
    for router in ["red", "blue"] {
        let scene = scene(&[]);
        without_udp(&scene);
        let _gateway = gateway(&scene, router);
        let file = scene.file("letter", 3_000_000);
        let mut sender = scene.send(&[&file]);
        let mut receiver = scene.receive(&sender.code());
        for program in [&mut sender, &mut receiver] {
            let path = comes_about(program, "direct", "mapped");
            assert_eq!(path["protocol"], "tcp", "{path}");
        }
        receiver.succeeds();
        sender.succeeds();
        scene.assert_arrived(&[file]);
        assert_eq!(leases(&scene, router), "", "{router}");

        let mut sender = scene.sending(&[scene.sent("letter")]);
        sender.args(["--disable", "mapped"]);
        let mut sender = scene.start("alice", sender);
        let mut receiver = scene.receiving(&["--yes", &sender.code()]);
        receiver.args(["--disable", "mapped"]);
        scene.start("bob", receiver).fails(1, "no_path");
        sender.fails(1, "no_path");
    }
}

fn gateway(scene: &Scene, router: &str) -> Daemon {
    let mut command = scene.postern(router, "gateway");
    command.args(["--wan", "wan", "--lan", "lan", "--json"]);
    command.arg("--state").arg(scene.path("state"));
    command.arg("--socket").arg(scene.path("gateway.sock"));
    let mut gateway = Daemon::start(command).unwrap();
    let ready = gateway.event("ready", STARTING);
    assert!(ready.is_some(), "{router}: {}", gateway.complaints());
    gateway
}

/// What our gateway has opened, one object a line.
fn leases(scene: &Scene, router: &str) -> String {
    let mut list = scene.postern(router, "gateway");
    list.args(["list", "--json", "--socket"]);
    list.arg(scene.path("gateway.sock"));
    let leases = list.output().unwrap();
    assert!(leases.status.success());
    String::from_utf8(leases.stdout).unwrap()
}

/// Miniupnpd on a router, which goes on giving every destination another port.
pub(crate) struct Upnpd(Child);

impl Drop for Upnpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Upnpd {
    pub(crate) fn start(scene: &Scene, router: &str, lan: u8) -> Self {
        let wan = scene.world.ipv4(router).unwrap();
        scene.world.nft(router, &rules(wan)).unwrap();
        let path = |name: &str| scene.path(&format!("{router}.{name}"));
        let (conf, leases) = (path("conf"), path("leases"));
        fs::write(&leases, "").unwrap();
        let text = format!(
            "ext_ip={wan}\next_ifname=wan\nlistening_ip=lan\nport=5000\nhttp_port=5000\n\
             enable_natpmp=yes\nenable_upnp=yes\nsecure_mode=yes\nsystem_uptime=yes\n\
             uuid=11111111-2222-3333-4444-55555555555{lan}\nlease_file={}\n\
             upnp_table_name=filter\nupnp_nat_table_name=filter\n\
             upnp_forward_chain=miniupnpd\nupnp_nat_chain=prerouting_miniupnpd\n\
             upnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             allow 1024-65535 192.168.{lan}.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n",
            leases.display()
        );
        fs::write(&conf, text).unwrap();
        let mut command = scene.world.command(router, "miniupnpd").unwrap();
        command.arg("-d").arg("-f").arg(&conf);
        command.arg("-P").arg(path("pid"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Self(command.spawn().unwrap());
        let host = match router {
            "red" => "alice",
            "blue" => "bob",
            _ => "carol",
        };
        let end = Instant::now() + STARTING;
        while !answers(scene.postern(host, "map")) {
            assert!(Instant::now() < end, "miniupnpd does not answer");
            thread::sleep(GLANCE);
        }
        daemon
    }

    /// How many ports are open.
    pub(crate) fn mappings(scene: &Scene, router: &str) -> usize {
        let mut command = scene.world.command(router, "nft").unwrap();
        let chain = ["list", "chain", "inet", "filter", "prerouting_miniupnpd"];
        let output = command.args(chain).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("dnat")).count()
    }
}

fn answers(mut map: Command) -> bool {
    map.arg("external").output().unwrap().status.success()
}

/// What the daemon puts its rules into, in place of the router's own translator and firewall.
fn rules(wan: Ipv4Addr) -> String {
    format!(
        r#"
delete table ip nat
delete table ip firewall
table inet filter {{
  chain miniupnpd {{ }}
  chain prerouting_miniupnpd {{ }}
  chain postrouting_miniupnpd {{ }}
  chain input {{ type filter hook input priority 0; policy accept;
    iifname "wan" ct state new drop
  }}
  chain forward {{ type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "wan" accept
    jump miniupnpd
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept;
    jump prerouting_miniupnpd
  }}
  chain postrouting {{ type nat hook postrouting priority 100; policy accept;
    jump postrouting_miniupnpd
    oifname "wan" meta l4proto udp snat ip to {wan}:1024-65535 fully-random
    meta nfproto ipv4 oifname "wan" masquerade
  }}
}}
"#
    )
}
