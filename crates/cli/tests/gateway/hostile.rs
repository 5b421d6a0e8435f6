//! Hosts inside that ask for too much, while others want something.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use postern_lab::netns::Case;
use postern_wire::pcp::{Options, ResultCode};

use crate::house::{House, LIMIT, OUTSIDE, ROUTER, Udp, connect, map};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    ten_thousand_idle_connections_of_one_host_keep_nobody_waiting,
    ten_thousand_idle_connections_of_many_hosts_keep_nobody_waiting,
    a_gateway_without_descriptors_answers_again,
    bodies_and_heads_without_end_are_refused_and_not_kept,
    a_request_that_trickles_in_is_given_up,
];

const MANY: usize = 10_000;

/// Half a request.
const HALF: &[u8] = b"POST /control/WANIPConn1 HTTP/1.1\r\nHOST: 192.168.1.1:5000\r\n";

const UPNP: SocketAddr = SocketAddr::new(IpAddr::V4(ROUTER), 5000);

/// What Carol is answered when she asks for the outside address.
fn assert_carol_is_answered(house: &House) {
    let urn = "urn:schemas-upnp-org:service:WANIPConnection:1";
    let body = format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">\
         <s:Body><u:GetExternalIPAddress xmlns:u=\"{urn}\"/></s:Body></s:Envelope>"
    );
    let request = format!(
        "POST /control/WANIPConn1 HTTP/1.1\r\nHOST: {UPNP}\r\nCONTENT-TYPE: text/xml\r\n\
         SOAPACTION: \"{urn}#GetExternalIPAddress\"\r\nConnection: close\r\n\
         CONTENT-LENGTH: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = house
        .world
        .run("carol", || ask(request.as_bytes()))
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&OUTSIDE.to_string()), "{answer}");
}

fn ask(request: &[u8]) -> String {
    let mut stream = TcpStream::connect(UPNP).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The end may come before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Connections of Alice from these addresses, each with half a request.
fn idle(house: &House, sources: &[Ipv4Addr], count: usize) -> Vec<TcpStream> {
    let open = || {
        let sources = sources.iter().cycle().take(count);
        let open = |source: &Ipv4Addr| {
            let mut stream = connect((*source).into(), UPNP)?;
            stream.write_all(HALF).map(|()| stream)
        };
        // One that was closed before it could write is one of too many.
        sources.flat_map(open).collect()
    };
    house.world.run("alice", open).unwrap()
}

fn raise_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

fn idle_connections_keep_nobody_waiting(house: &House, sources: &[Ipv4Addr]) {
    raise_limit();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.extend(idle(house, sources, MANY / 10));
        assert_carol_is_answered(house);
    }
    assert!(held.len() > MANY / 2, "{} were accepted", held.len());
    let granted = house.pcp(map(Udp, 4000, 4001), 600, Options::default());
    assert_eq!(granted.result, ResultCode::SUCCESS);
    let answered = house.ask_json(&["list"]);
    assert_eq!(answered.len(), 1);
}

fn ten_thousand_idle_connections_of_one_host_keep_nobody_waiting() {
    let house = House::new();
    idle_connections_keep_nobody_waiting(&house, &[crate::house::ALICE]);
}

fn ten_thousand_idle_connections_of_many_hosts_keep_nobody_waiting() {
    let house = House::new();
    idle_connections_keep_nobody_waiting(&house, &many_addresses(&house));
}

/// Two hundred hosts, all of them Alice.
fn many_addresses(house: &House) -> Vec<Ipv4Addr> {
    let addresses: Vec<_> = (20..220).map(|n| Ipv4Addr::new(192, 168, 1, n)).collect();
    let add = |address: &Ipv4Addr| format!("addr add {address}/24 dev eth0\n");
    let batch: String = addresses.iter().map(add).collect();
    house.world.ip("alice", &batch).unwrap();
    addresses
}

fn a_gateway_without_descriptors_answers_again() {
    let mut house = House::without_gateway();
    house.start_under(&["prlimit", "--nofile=64:64"], &[]);
    let sources = many_addresses(&house);
    let held = idle(&house, &sources, 200);
    assert_carol_is_answered(&house);
    let granted = house.pcp(map(Udp, 4000, 4001), 600, Options::default());
    assert_eq!(granted.result, ResultCode::SUCCESS);
    drop(held);
}

fn bodies_and_heads_without_end_are_refused_and_not_kept() {
    let house = House::new();
    let head = [HALF, b"CONTENT-LENGTH: 67108864\r\n\r\n"].concat();
    let line = b"GET /rootDesc.xml HTTP/1.1\r\nX: ";
    for (begin, length, status) in [(&head[..], 64 << 20, "413"), (line, 16 << 20, "431")] {
        let refused = house.world.run("alice", || ask(begin));
        let refused = refused.unwrap();
        let whole = [begin, &vec![b'x'; length]].concat();
        let flooded = house.world.run("alice", || ask(&whole)).unwrap();
        // An answer may be lost when it comes before the request has been written.
        for answer in [refused, flooded] {
            let said = format!("HTTP/1.1 {status}");
            assert!(answer.is_empty() || answer.starts_with(&said), "{answer}");
        }
        assert_carol_is_answered(&house);
    }
    let id = house.gateway.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak < 64 << 10, "{peak} kB");
}

fn a_request_that_trickles_in_is_given_up() {
    let house = House::new();
    let trickle = || {
        let mut stream = TcpStream::connect(UPNP).unwrap();
        let pause = Duration::from_millis(100);
        let patience = LIMIT.as_millis() / pause.as_millis();
        (0..patience).any(|_| {
            std::thread::sleep(pause);
            stream.write_all(b"X").is_err()
        })
    };
    let given_up = house.world.run("alice", trickle).unwrap();
    assert!(given_up);
    assert_carol_is_answered(&house);
}
