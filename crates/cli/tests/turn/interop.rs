//! turnutils_uclient against `postern server`.
//!
//! A client's exit code says nothing; what it prints at the end does. Its clients wait for
//! seconds more than they work, so those of one case run at the same time.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use postern_lab::netns::{Case, Program, World};

use crate::scene::{
    ALL_ARRIVED, DISCOVERY, LIMIT, POSTERN, SERVER_ADDRESS, STUN_CLIENT, client, hear, hear_for,
    peer, world,
};

/// What has not ended so long after all others waits for ever.
const MOMENT: Duration = Duration::from_secs(1);

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "data_arrives_over_every_transport",
        run: data_arrives_over_every_transport,
    },
    Case {
        name: "data_arrives_over_tcp_relays",
        run: data_arrives_over_tcp_relays,
    },
    Case {
        name: "clients_that_misbehave_do_not_disturb_others",
        run: clients_that_misbehave_do_not_disturb_others,
    },
    Case {
        name: "relays_reach_ipv6_peers",
        run: relays_reach_ipv6_peers,
    },
    Case {
        name: "clients_get_relays_of_both_families_at_once",
        run: clients_get_relays_of_both_families_at_once,
    },
    Case {
        name: "clients_discover_how_their_nats_behave",
        run: clients_discover_how_their_nats_behave,
    },
    Case {
        name: "peers_off_the_public_internet_are_forbidden",
        run: peers_off_the_public_internet_are_forbidden,
    },
    Case {
        name: "strangers_get_nothing",
        run: strangers_get_nothing,
    },
];

fn data_arrives_over_every_transport() {
    let scene = Scene::new();
    scene.expect(
        ALL_ARRIVED,
        &[
            "-u user -w pass -c -e PEER -r 3480",
            "-u user -w pass -c -s -e PEER -r 3480",
            "-u user -w pass -c -y",
            "-u user -w pass -c -t -e PEER -r 3480",
            "-u user -w pass -c -t -S -p 5349 -e PEER -r 3480",
            "-u user -w pass -c -S -p 5349 -e PEER -r 3480",
            "-u user -w pass -c -t -S -p 8443 -e PEER -r 3480",
            "-u user -w pass -c -M -e PEER -r 3480",
            "-u joe -W s3cret -c -e PEER -r 3480",
        ],
    );
}

fn data_arrives_over_tcp_relays() {
    let scene = Scene::new();
    scene.expect(
        ALL_ARRIVED,
        &["-u user -w pass -T", "-u user -w pass -T -S -p 5349"],
    );
    drop(scene);
    // The client is its own peer at 127.0.0.1. The mark is the tool's own: half of what it
    // counts is never sent.
    let allowed = [
        "--allow-peer",
        "127.0.0.0/8",
        "--allow-peer",
        SERVER_ADDRESS,
    ];
    let scene = Scene::with("server", &allowed);
    scene.expect("Total lost packets 20 (50", &["-u user -w pass -P"]);
}

/// Those that send nonsense (`-R`) wait for ever for what they spoilt in half of the runs,
/// with coturn's server as with this one; those that end lose nothing.
fn clients_that_misbehave_do_not_disturb_others() {
    let scene = Scene::with("client", &["--unproven-rate", "0"]);
    let nonsense: Vec<_> = (0..3)
        .map(|_| scene.start("-u user -w pass -R -c -y"))
        .collect();
    scene.expect(
        ALL_ARRIVED,
        &[
            "-u user -w pass -N -c -y",
            "-u user -w pass -B -c -y",
            "-u user -w pass -G -c -y",
            "-u user -w pass -c -e PEER -r 3480",
            "-u user -w pass -c -t -e PEER -r 3480",
        ],
    );
    for mut client in nonsense {
        let said = hear_for(&mut client, "Total lost packets", MOMENT);
        let ended = said.contains("Total lost packets");
        assert!(!ended || said.contains(ALL_ARRIVED), "-R said:\n{said}");
    }
}

fn relays_reach_ipv6_peers() {
    let scene = Scene::new();
    let six = format!("-u user -w pass -x -c -e {} -r 3480", scene.peer_v6());
    scene.expect(ALL_ARRIVED, &[&six]);
}

/// Debian's client asks with the attribute types of the drafts of RFC 8656.
fn clients_get_relays_of_both_families_at_once() {
    let scene = Scene::new();
    let six = format!("-u user -w pass -Z -c -e {} -r 3480", scene.peer_v6());
    let clients = [
        "-u user -w pass -Z -c -e PEER -r 3480",
        "-u user -w pass -Z -c -t -e PEER -r 3480",
        "-u user -w pass -Z -c -y",
        &six,
    ];
    scene.expect(ALL_ARRIVED, &clients);
}

fn clients_discover_how_their_nats_behave() {
    let scene = Scene::of_two_addresses();
    let said = scene.ask(STUN_CLIENT, &["-f", SERVER_ADDRESS]);
    let origins: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_once("Response origin: : "))
        .map(|(_, origin)| origin)
        .collect();
    let (asked, other) = ("45.45.1.2:3478", "45.45.1.3:3479");
    assert_eq!(origins, [asked, asked, other, other], "{said}");
    let said = scene.ask(DISCOVERY, &["-m", "-f", "-p", "3478", SERVER_ADDRESS]);
    for verdict in [
        "NAT with Endpoint Independent Mapping!",
        "NAT with Endpoint Independent Filtering!",
    ] {
        assert!(said.contains(verdict), "{said}");
    }
}

fn peers_off_the_public_internet_are_forbidden() {
    let scene = Scene::new();
    scene.expect(
        "error 403",
        &[
            "-u user -w pass -c -e 127.0.0.1 -r 3480",
            "-u user -w pass -c -s -e 10.0.0.1 -r 3480",
            "-u user -w pass -c -e 45.45.1.2 -r 8443",
        ],
    );
}

fn strangers_get_nothing() {
    let scene = Scene::new();
    scene.expect(
        "Cannot complete Allocation",
        &[
            "-u user -w wrong -c -e PEER -r 3480",
            "-u joe -W wrong -c -e PEER -r 3480",
            // Third-party authorisation (RFC 7635), which this server does not do.
            "-J -c -e PEER -r 3480",
        ],
    );
}

/// A server, a client's host and a peer, all with public addresses.
struct Scene {
    _server: Program,
    _peer: Program,
    world: World,
    host: &'static str,
}

impl Scene {
    fn new() -> Self {
        Self::with("client", &[])
    }

    /// Clients run on this host, and the server has these options, too.
    fn with(host: &'static str, options: &[&str]) -> Self {
        let world = world(1);
        let addresses = world.addresses("server").unwrap().to_vec();
        Self::serve(world, host, &addresses, options)
    }

    /// The server listens at one address and has another one for discovery.
    fn of_two_addresses() -> Self {
        let first = SERVER_ADDRESS.parse().unwrap();
        let options = ["--alternate-ip", "45.45.1.3"];
        Self::serve(world(2), "client", &[first], &options)
    }

    fn serve(world: World, host: &'static str, listen: &[IpAddr], options: &[&str]) -> Self {
        let mut command = serving(&world, listen);
        command.args(options);
        let mut server = Program::start(command).unwrap();
        let ready = server.event("ready", LIMIT).unwrap();
        assert_eq!(ready["turn"][0], "turn:45.45.1.2:3478?transport=udp");
        Self {
            _server: server,
            _peer: Program::start(peer(&world)).unwrap(),
            world,
            host,
        }
    }

    /// What a program on the client's host says until it ends.
    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.world.command(self.host, program).unwrap();
        command.args(arguments);
        hear(&mut Program::start(command).unwrap(), "\n")
    }

    fn peer_v6(&self) -> IpAddr {
        let peer = self.world.addresses("peer").unwrap();
        *peer.iter().find(|ip| ip.is_ipv6()).unwrap()
    }

    /// Runs clients with these arguments, and waits until each has said `verdict`.
    fn expect(&self, verdict: &str, clients: &[&str]) {
        let start = |arguments| (arguments, self.start(arguments));
        let started: Vec<_> = clients.iter().copied().map(start).collect();
        for (arguments, mut client) in started {
            let said = hear(&mut client, verdict);
            assert!(said.contains(verdict), "{arguments} said:\n{said}");
        }
    }

    fn start(&self, arguments: &str) -> Program {
        client(&self.world, self.host, &format!("{arguments} -n 20 -z 5"))
    }
}

fn serving(world: &World, listen: &[IpAddr]) -> Command {
    let mut command = world.command("server", POSTERN).unwrap();
    command.args(["server", "--json", "--realm", "example.org"]);
    command.args(["--user", "user:pass", "--turn-secret", "s3cret"]);
    for address in listen {
        command.args(["--listen", &address.to_string()]);
    }
    command
}
