//! Every kind of world: the sentence that people read first, the exit code, and what programs are
//! told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use postern_lab::netns::Case;
use postern_lab::sim::{Allocation, Filtering, Mapping, Nat, Ports};
use serde_json::{Value, json};

use crate::house::{Checked, House, each};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    each_router_reads_its_own_sentence,
    where_udp_is_blocked_tcp_or_a_relay_is_left,
    where_only_a_proxy_leads_out_the_relay_is_reached_through_it,
    where_nothing_leads_out_it_is_said_why,
    whoever_stands_in_place_of_the_server_is_told_apart,
    two_routers_and_a_carriers_are_known_by_the_address_outside,
    a_router_that_opens_ports_is_asked_and_named,
    ipv6_and_its_firewall_are_told,
    tunnels_and_second_routers_are_named,
    names_that_do_not_resolve_and_nat64_are_told,
    a_clock_that_is_wrong_is_said_to_be,
];

/// What `postern check` shall come to: the first sentences, the exit code, and fields of the JSON
/// object by their pointers.
struct Expected<'a> {
    summary: &'a str,
    code: i32,
    fields: &'a [(&'a str, Value)],
}

impl Expected<'_> {
    fn see(&self, checked: &Checked) {
        let told = checked.json();
        assert_eq!(told["summary"], self.summary, "{told}");
        assert_eq!(checked.code, self.code, "{told}");
        for (pointer, value) in self.fields {
            assert_eq!(told.pointer(pointer), Some(value), "{pointer}: {told}");
        }
    }
}

const BY_ITSELF: &str = "Your router does not open ports by itself.";
const MOST: &str = "You can be reached directly from most networks.";
const EVERYWHERE: &str = "You can be reached directly from everywhere.";
const ORDINARY: &str = "You can be reached directly from networks with ordinary routers, but not from networks as strict as this one.";

fn each_router_reads_its_own_sentence() {
    use Filtering::{AddressAndPortDependent as Port, AddressDependent as Address};
    let independent = Mapping::EndpointIndependent;
    let block = Nat {
        allocation: Allocation::Random(Ports {
            first: 40_960,
            last: 41_983,
        }),
        ..Nat::new(Mapping::AddressAndPortDependent, Port)
    };
    let open = Nat::new(independent, Filtering::EndpointIndependent);
    let rows = [
        (Nat::new(independent, Port), MOST, "direct"),
        (Nat::new(independent, Address), MOST, "direct"),
        (open, EVERYWHERE, "open"),
        (
            Nat::new(Mapping::AddressDependent, Address),
            ORDINARY,
            "strict",
        ),
        (
            Nat::new(Mapping::AddressAndPortDependent, Port),
            ORDINARY,
            "strict",
        ),
        (block, MOST, "direct"),
    ];
    each(&rows, |(nat, sentence, reach)| {
        let house = House::behind(*nat);
        let fields = [
            ("/reach", json!(reach)),
            ("/udp/reachable", json!(true)),
            ("/tcp/reachable", json!(true)),
            ("/ipv6/reachable", Value::Null),
            ("/port_mapping", json!([])),
            ("/server/reachable", json!(true)),
            ("/relays", json!([])),
            ("/router", json!("192.168.1.1")),
            ("/interfaces/0/name", json!("eth0")),
            ("/interfaces/0/way_out", json!(true)),
        ];
        let expected = Expected {
            summary: &format!("{sentence} {BY_ITSELF}"),
            code: 0,
            fields: &fields,
        };
        expected.see(&house.check_on("alice", &["--json"]));
    });
}

/// What a router lets out of what hosts send: nftables statements that accept, before everything
/// is dropped.
fn only(accepted: &str) -> String {
    format!(
        "table inet block {{\nchain forward {{\ntype filter hook forward priority -10\n\
         iifname != \"lan\" accept\n{accepted}\ndrop\n}}\n}}\n"
    )
}

/// An HTTP proxy on a host, which lives as long as this process.
fn run_proxy(house: &House, host: &str) {
    let serve = |mut client: TcpStream| {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut target = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if target.is_empty() {
                target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut server = TcpStream::connect(&target)?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let mut to_server = server.try_clone()?;
        thread::spawn(move || std::io::copy(&mut reader, &mut to_server));
        std::io::copy(&mut server, &mut client).map(drop)
    };
    listen(house, host, 3128, serve);
}

/// Answers every connection to a port of a host in a thread of its own.
fn listen(
    house: &House,
    host: &str,
    port: u16,
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Copy + 'static,
) {
    let bind = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let listener = house.world.run(host, bind).unwrap().unwrap();
    let accept = move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve(client));
        }
    };
    house.world.spawn(host, accept).unwrap();
}

const NO_UDP: &str = "Connections work only through a relay: this network lets no UDP out.";

fn where_udp_is_blocked_tcp_or_a_relay_is_left() {
    // TCP that gets everywhere can be opened from both sides.
    let mut free = House::without_server(Nat::default());
    let second = free.addresses()[1].clone();
    free.serve(&["--relay", "--alternate-ip", &second]);
    free.world
        .nft("red", &only("meta l4proto tcp accept"))
        .unwrap();
    let mut https = House::without_server(Nat::default());
    https.serve(&["--relay", "--port", "443"]);
    https
        .world
        .nft("red", &only("tcp dport 443 accept"))
        .unwrap();
    let mut bare = House::without_server(Nat::default());
    bare.serve(&["--port", "443"]);
    bare.world
        .nft("red", &only("tcp dport 443 accept"))
        .unwrap();
    let rows = [
        (
            &free,
            Expected {
                summary: "You can be reached directly over TCP only, and not from everywhere: this network lets no UDP out. The relay works (over TCP, TLS).",
                code: 0,
                fields: &[
                    ("/reach", json!("tcp")),
                    ("/udp/reachable", json!(false)),
                    ("/tcp/mapping", json!("endpoint-independent")),
                    ("/odds/1/probability", json!(0.7)),
                    ("/odds/3/probability", json!(0.0)),
                ],
            },
        ),
        (
            &https,
            Expected {
                summary: &format!("{NO_UDP} The relay works (over TLS)."),
                code: 5,
                fields: &[
                    ("/reach", json!("relay")),
                    ("/udp/reachable", json!(false)),
                    ("/udp/mapping", Value::Null),
                    ("/server/reachable", json!(true)),
                    ("/odds/0/probability", json!(0.0)),
                ],
            },
        ),
        (
            &bare,
            Expected {
                summary: &format!("{NO_UDP} This server offers no relay."),
                code: 5,
                fields: &[("/relays", json!([]))],
            },
        ),
    ];
    each(&rows, |(house, expected)| {
        expected.see(&house.check_on("alice", &["--json"]));
    });
}

fn where_only_a_proxy_leads_out_the_relay_is_reached_through_it() {
    let mut house = House::without_server(Nat::default());
    house.serve(&["--relay"]);
    house.world.nft("red", &only("")).unwrap();
    run_proxy(&house, "red");
    let expected = Expected {
        summary: "Connections work only through a relay: all that leads out of this network is a proxy. The relay works (over TCP, TLS).",
        code: 5,
        fields: &[
            ("/proxy", json!("192.168.1.1:3128")),
            ("/server/reachable", json!(true)),
            ("/udp/reachable", json!(false)),
        ],
    };
    let proxy = ["--json", "--proxy", "http://192.168.1.1:3128"];
    expected.see(&house.check_on("alice", &proxy));
    // The environment names it as well.
    let mut command = house.command("alice", "check");
    command.args(["--server", &house.url, "--json"]);
    expected.see(&Checked::of(
        command.env("HTTPS_PROXY", "http://192.168.1.1:3128"),
    ));
    let without = house.check_on("alice", &["--json"]);
    assert_eq!(without.code, 6, "{}", without.text);
}

fn where_nothing_leads_out_it_is_said_why() {
    let block = House::behind(Nat::default());
    block.world.nft("red", &only("")).unwrap();
    let route = House::behind(Nat::default());
    route.world.ip("alice", "route del default\n").unwrap();
    let mut refused = House::behind(Nat::default());
    refused.stop_server();
    let rows = [
        (
            &block,
            Expected {
                summary: "Nothing gets out: neither UDP nor TCP reached the server (45.45.1.2 did not answer within 4 s).",
                code: 6,
                fields: &[
                    ("/reach", json!("nothing")),
                    ("/server/kind", json!("silent")),
                    ("/udp/mapping", Value::Null),
                    ("/tcp/reachable", json!(false)),
                    ("/relays", Value::Null),
                ],
            },
        ),
        (
            &route,
            Expected {
                summary: "This machine has no way out: it has an address, but knows no router.",
                code: 6,
                fields: &[("/server/kind", json!("no_route")), ("/routers", json!([]))],
            },
        ),
        (
            &refused,
            Expected {
                summary: "Nothing answers: the server refuses connections, because it does not run, or a firewall refuses in its name.",
                code: 6,
                fields: &[("/server/kind", json!("refused"))],
            },
        ),
    ];
    each(&rows, |(house, expected)| {
        expected.see(&house.check_on("alice", &["--json"]));
    });
    route
        .world
        .ip("alice", "link set dev eth0 down\naddr flush dev eth0\n")
        .unwrap();
    let none = route.check_on("alice", &["--json"]);
    assert_eq!(none.code, 1);
    let told = none.json();
    assert_eq!(told["error"]["kind"], "no_network", "{told}");
}

const LOG_IN: &str =
    "This network has a log-in page, and lets nothing else out until somebody has logged in there.";

fn whoever_stands_in_place_of_the_server_is_told_apart() {
    let portal = House::behind(Nat::default());
    portal.world.nft("red", &only("")).unwrap();
    let redirect = "table ip portal {\nchain prer {\ntype nat hook prerouting priority -110\n\
                    iifname \"lan\" tcp dport 80 redirect to :8080\n}\n}\n";
    portal.world.nft("red", redirect).unwrap();
    listen(&portal, "red", 8080, |mut client| {
        let mut request = [0; 1024];
        let _ = client.read(&mut request)?;
        client.write_all(
            b"HTTP/1.1 302 Found\r\nLocation: http://login.hotel.example/\r\nContent-Length: 0\r\n\r\n",
        )
    });
    let expected = Expected {
        summary: LOG_IN,
        code: 6,
        fields: &[
            ("/portal/url", json!("http://login.hotel.example/")),
            (
                "/advice/0",
                json!("Open http://login.hotel.example/ in a browser, log in, and check again."),
            ),
        ],
    };
    expected.see(&portal.check_on("alice", &["--json"]));

    let mut opened = House::behind(Nat::default());
    let second = opened.addresses()[1].clone();
    opened.serve_stranger(&second);
    let elsewhere = format!(
        "table ip opened {{\nchain prer {{\ntype nat hook prerouting priority -110\n\
         iifname \"lan\" tcp dport 8443 dnat to {second}:8443\n}}\n}}\n"
    );
    opened.world.nft("red", &elsewhere).unwrap();
    let expected = Expected {
        summary: &format!(
            "{MOST} {BY_ITSELF} But the server cannot be used: somebody else answers in place of the server, or it was set up anew: what answers is not what its URL names."
        ),
        code: 0,
        fields: &[
            ("/server/intercepted", json!(true)),
            ("/server/kind", json!("stranger")),
            ("/portal", Value::Null),
        ],
    };
    expected.see(&opened.check_on("alice", &["--json"]));
}

fn two_routers_and_a_carriers_are_known_by_the_address_outside() {
    let mut double = House::behind_another();
    double.serve_with_both_addresses();
    double.run_gateway("red");
    let mut carrier = House::behind_another();
    carrier
        .world
        .ip("outer", "addr add 100.64.0.1/24 dev lan\n")
        .unwrap();
    carrier
        .world
        .ip(
            "red",
            "addr flush dev wan\naddr add 100.64.0.10/24 dev wan\nroute replace default via 100.64.0.1\n",
        )
        .unwrap();
    carrier.serve_with_both_addresses();
    carrier.run_gateway("red");
    let rows = [
        (
            &double,
            Expected {
                summary: &format!(
                    "{MOST} There are two routers in a row that translate addresses; opening ports of the inner one does not help."
                ),
                code: 0,
                fields: &[
                    ("/double_nat", json!(true)),
                    ("/layers", json!(2)),
                    ("/external_address", json!("192.168.9.11")),
                    (
                        "/advice/0",
                        json!(
                            "Set the inner router to work as a bridge or access point, or let the outer one send everything to 192.168.9.11 (\"exposed host\" or \"DMZ\")."
                        ),
                    ),
                ],
            },
        ),
        (
            &carrier,
            Expected {
                summary: &format!(
                    "{MOST} Your provider shares one public address among several customers, so opening ports of your own router does not help."
                ),
                code: 0,
                fields: &[
                    ("/double_nat", json!(true)),
                    ("/external_address", json!("100.64.0.10")),
                    (
                        "/advice/0",
                        json!(
                            "Ask your provider for a public IPv4 address of your own, or for IPv6."
                        ),
                    ),
                ],
            },
        ),
    ];
    each(&rows, |(house, expected)| {
        expected.see(&house.check_on("alice", &["--json"]));
    });
}

fn a_router_that_opens_ports_is_asked_and_named() {
    let strict = Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    let mut ours = House::behind(strict);
    ours.run_gateway("red");
    let mut theirs = House::behind(Nat::default());
    theirs.run_miniupnpd();
    let rows = [&ours, &theirs];
    each(&rows, |house| {
        let expected = Expected {
            summary: &format!(
                "{MOST} Your router opens ports when programs ask it (PCP, NAT-PMP, UPnP)."
            ),
            code: 0,
            fields: &[
                ("/port_mapping", json!(["pcp", "natpmp", "upnp"])),
                ("/double_nat", json!(false)),
                ("/layers", json!(1)),
                ("/external_address", json!("45.45.2.2")),
                ("/odds/3/probability", json!(1.0)),
            ],
        };
        expected.see(&house.check_on("alice", &["--json"]));
    });
}

fn ipv6_and_its_firewall_are_told() {
    let mut both = House::with_ipv6();
    both.serve_over_both();
    let mut only_six = House::with_ipv6();
    only_six.serve_over_both();
    let six = format!("[{}]", only_six.ipv6_address());
    only_six.url = only_six.url.replace("45.45.1.2", &six);
    only_six
        .world
        .ip("alice", "addr del 192.168.1.10/24 dev eth0\n")
        .unwrap();
    let mut open = House::with_ipv6();
    open.serve_over_both();
    open.world
        .nft("red", "delete table ip6 firewall\n")
        .unwrap();
    let rows = [
        (
            &open,
            Expected {
                summary: &format!("{MOST} {BY_ITSELF}"),
                code: 0,
                fields: &[
                    ("/ipv6/reachable", json!(true)),
                    ("/ipv6/unsolicited", json!("accept")),
                    ("/ipv6/filtering", Value::Null),
                ],
            },
        ),
        (
            &both,
            Expected {
                summary: &format!("{MOST} {BY_ITSELF}"),
                code: 0,
                fields: &[
                    ("/ipv6/reachable", json!(true)),
                    ("/ipv6/mapping", json!("none")),
                    ("/ipv6/filtering", json!("address-and-port-dependent")),
                    ("/ipv6/unsolicited", json!("drop")),
                    ("/odds/4/peer", json!("ipv6")),
                    ("/odds/4/probability", json!(1.0)),
                ],
            },
        ),
        (
            &only_six,
            Expected {
                summary: "You can be reached directly by those who have IPv6, and through a relay by others.",
                code: 0,
                fields: &[
                    ("/udp/reachable", json!(false)),
                    ("/ipv6/reachable", json!(true)),
                ],
            },
        ),
    ];
    each(&rows, |(house, expected)| {
        expected.see(&house.check_on("alice", &["--json"]));
    });
}

fn tunnels_and_second_routers_are_named() {
    let house = House::behind(Nat::default());
    let more = "link add name wg0 type veth peer name other\nlink set dev other up\naddr add 10.8.0.2/24 dev wg0\nlink set dev wg0 up\n\
                route add default via 192.168.1.254 metric 200\n";
    house.world.ip("alice", more).unwrap();
    let checked = house.check_on("alice", &[]);
    for part in [
        "tunnels               wg0; the server is not reached through it",
        "ways out              192.168.1.1 at eth0, 192.168.1.254 at eth0",
        "This machine knows 2 routers that lead out, and only one is used (now 192.168.1.1)",
    ] {
        assert!(checked.text.contains(part), "{part}: {}", checked.text);
    }
    assert!(
        checked.text.starts_with(&format!("{MOST} {BY_ITSELF}\n")),
        "{}",
        checked.text
    );
    let through = "route replace default dev wg0 metric 0\n";
    house.world.ip("alice", through).unwrap();
    let told = house.check_on("alice", &["--json"]).json();
    assert_eq!(told["reach"], "nothing", "{told}");
    let tunnel = told["interfaces"].as_array().unwrap();
    let tunnel = tunnel.iter().find(|interface| interface["name"] == "wg0");
    assert_eq!(tunnel.unwrap()["tunnel"], true, "{told}");
    assert_eq!(tunnel.unwrap()["way_out"], true, "{told}");
}

fn names_that_do_not_resolve_and_nat64_are_told() {
    let house = House::behind(Nat::default());
    house.run_dns("red");
    let stun = format!("{}:3478", house.addresses()[0]);
    let url = "wss://postern.example:8443/";
    let resolver = "192.168.1.1";
    let checked = house.check_with_dns(resolver, &["--server", url, "--json", "--stun", &stun]);
    let expected = Expected {
        summary: &format!(
            "{MOST} {BY_ITSELF} But the server cannot be used: the name of the server, postern.example, cannot be resolved: there is no such name, or DNS does not work here."
        ),
        code: 0,
        fields: &[
            ("/server/kind", json!("name")),
            ("/nat64", json!("64:ff9b::/96")),
        ],
    };
    expected.see(&checked);
    // A resolver that does not answer.
    let dead = house.check_with_dns("192.168.1.77", &["--server", url, "--json"]);
    let expected = Expected {
        summary: "The name of the server, postern.example, cannot be resolved: there is no such name, or DNS does not work here.",
        code: 6,
        fields: &[("/server/kind", json!("name"))],
    };
    expected.see(&dead);
}

fn a_clock_that_is_wrong_is_said_to_be() {
    for (years, date, sentence, kind) in [
        (
            2040..2041,
            "Fri, 01 Jun 2040 00:00:00 GMT",
            "The clock of this machine is",
            "days behind, so that the certificate of the server does not count here.",
        ),
        (
            2001..2002,
            "now",
            "The certificate of the server has expired.",
            "",
        ),
    ] {
        let mut house = House::without_server(Nat::default());
        let authority = house.serve_with_clock(years, date);
        let mut command = house.command("alice", "check");
        let command = command.args(["--json", "--server", "wss://45.45.1.2:8443/"]);
        let checked = Checked::of(command.env("SSL_CERT_FILE", authority));
        let told = checked.json();
        let summary = told["summary"].as_str().unwrap();
        assert!(summary.starts_with(sentence), "{told}");
        assert!(summary.ends_with(kind), "{told}");
        assert_eq!(checked.code, 6, "{told}");
    }
}
