//! What is counted: flows, packets and bytes of every lease, and what Prometheus is told.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use postern_lab::netns::Case;
use postern_wire::pcp::Options;
use serde_json::Value;

use crate::house::{ALICE6, EVERYWHERE, House, LIMIT, ROUTER6, Tcp, map};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    what_crosses_is_counted_and_a_renewal_counts_on,
    what_crosses_a_pinhole_is_counted,
    prometheus_is_told,
    metrics_are_not_for_the_internet,
];

fn count(lease: &Value, what: &str) -> u64 {
    lease[what].as_u64().unwrap()
}

fn what_crosses_is_counted_and_a_renewal_counts_on() {
    let house = House::new();
    let grant = || house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    let listed = || house.ask_json(&["list"]).swap_remove(0);
    grant();
    for what in ["flows", "packets", "bytes"] {
        assert_eq!(count(&listed(), what), 0, "{what}");
    }
    assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
    let first = listed();
    assert_eq!(count(&first, "flows"), 3);
    // Each connection: a handshake, five bytes each way, and its end.
    assert!(count(&first, "packets") >= 3 * 8, "{first}");
    assert!(count(&first, "bytes") >= 3 * 8 * 40, "{first}");
    grant();
    assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
    let second = listed();
    assert_eq!(count(&second, "flows"), 6);
    assert!(
        count(&second, "bytes") >= 2 * 3 * 8 * 40,
        "{first} {second}"
    );
    // What comes to no mapping is nobody's.
    house.reached_from(Tcp, 4002, 4000);
    assert_eq!(count(&listed(), "flows"), 6);
    let lines = String::from_utf8(house.ask(&["list"]).stdout).unwrap();
    let bytes = format!("6 flows, {} bytes", count(&listed(), "bytes"));
    assert!(lines.contains(&bytes), "{lines}");
}

fn what_crosses_a_pinhole_is_counted() {
    let house = House::new();
    let mut pinhole = map(Tcp, 4000, 4000);
    pinhole.external_address = [0_u16; 8].into();
    let (alice, router) = (ALICE6.parse().unwrap(), ROUTER6.parse().unwrap());
    house.ask_pcp(alice, router, pinhole, 600, Options::default());
    let server = ("server", house.world.addresses("server").unwrap()[2]);
    let to = SocketAddr::new(ALICE6.parse::<IpAddr>().unwrap(), 4000);
    assert!(house.reaches(Tcp, server, to, 4000));
    let listed = house.ask_json(&["list"]).swap_remove(0);
    assert_eq!(count(&listed, "flows"), 1, "{listed}");
    assert!(count(&listed, "packets") >= 8, "{listed}");
    assert!(count(&listed, "bytes") >= 8 * 60, "{listed}");
}

fn prometheus_is_told() {
    let mut house = House::without_gateway();
    house.start(&["--metrics", "127.0.0.1:9101"]);
    house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    house.pcp(map(Tcp, 4000, 80), 600, Options::default());
    let scrape = || {
        let mut stream = TcpStream::connect("127.0.0.1:9101").unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = house.world.run("router", scrape).unwrap();
    for line in [
        "postern_gateway_leases{protocol=\"pcp\",transport=\"tcp\"} 1",
        "postern_gateway_requests_total{protocol=\"natpmp_pcp\"} 2",
        "postern_gateway_changes_total{result=\"failed\"} 0",
        "postern_gateway_double_nat 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|said| said == line), "{line}\n{text}");
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

fn metrics_are_not_for_the_internet() {
    let house = House::without_gateway();
    let mut command = house.postern();
    command.args(["--wan", "wan", "--lan", "lan", "--metrics", "0.0.0.0:9101"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("choose a private address"), "{said}");
}
