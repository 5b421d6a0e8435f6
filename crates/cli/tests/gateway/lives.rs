//! What happens to leases when the gateway, its firewall or its line does not stay as it is.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postern_lab::netns::Case;
use postern_wire::natpmp;
use postern_wire::pcp::{self, Options};

use crate::house::{
    ALICE, EVERYWHERE, House, LIMIT, NOWHERE, OUTSIDE, ROUTER, SERVER, SILENCE, Tcp, URL, Udp, map,
};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    leases_outlive_the_gateway_and_are_known_to_the_next_one,
    what_somebody_else_takes_away_is_back_within_a_second,
    who_asks_while_many_leases_are_brought_in_is_answered_as_ever,
    a_start_is_announced_before_anybody_asks,
    another_outside_address_is_announced_and_leads_in,
    a_line_that_comes_back_has_its_leases,
    nothing_is_heard_outside,
];

/// What is promised within a second; the machine may be busy.
pub(crate) const A_SECOND: Duration = Duration::from_secs(1);

fn leases_outlive_the_gateway_and_are_known_to_the_next_one() {
    let mut house = House::new();
    let add = format!("{URL} -e game -a {ALICE} 4000 4001 tcp 6000");
    house.run("alice", "upnpc", &add);
    house.pcp(map(Udp, 4000, 4001), 600, Options::default());
    // The file follows within a second.
    thread::sleep(A_SECOND);
    let before = house.ask_json(&["list"]);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        house.stop(signal);
        assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE, "{signal}");
        assert_eq!(house.start(&[])["leases"], 2);
        assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE, "{signal}");
        assert_eq!(house.reached_from(Udp, 4001, 4000), EVERYWHERE, "{signal}");
        let after = house.ask_json(&["list"]);
        for (before, after) in before.iter().zip(&after) {
            for what in ["protocol", "external_port", "internal_port", "description"] {
                assert_eq!(before[what], after[what]);
            }
            assert!(after["lifetime"].as_u64() <= before["lifetime"].as_u64());
        }
    }
    // PCP's nonce is kept: the owner ends its mapping, another nonce does not.
    let mut other = map(Udp, 4000, 0);
    other.nonce.0[0] = 8;
    let refused = house.pcp(other, 0, Options::default());
    assert_eq!(refused.result, pcp::ResultCode::NOT_AUTHORIZED);
    house.pcp(map(Udp, 4000, 0), 0, Options::default());
    assert_eq!(house.reached_from(Udp, 4001, 4000), NOWHERE);

    // A crash before the file is written: the kernel knows.
    house.pcp(map(Udp, 4002, 4003), 600, Options::default());
    house.stop(Signal::SIGKILL);
    assert_eq!(house.start(&[])["leases"], 2);
    assert_eq!(house.reached_from(Udp, 4003, 4002), EVERYWHERE);
}

fn what_somebody_else_takes_away_is_back_within_a_second() {
    let house = House::new();
    house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    for harm in [
        "delete table inet postern\n",
        "flush table inet postern\n",
        "flush map inet postern tcp4\n",
        "delete element inet postern inside { \"lan\" }\n",
    ] {
        house.world.nft("router", harm).unwrap();
        let begin = Instant::now();
        while house.reached_from(Tcp, 4001, 4000) != EVERYWHERE {
            assert!(begin.elapsed() < A_SECOND, "after {harm}");
        }
    }
}

/// The table is made anew a part at a time, and what changes meanwhile is changed once.
fn who_asks_while_many_leases_are_brought_in_is_answered_as_ever() {
    const MANY: u16 = 3000;
    let mut house = House::without_gateway();
    let unlimited = ["--quota-host", "0", "--quota-total", "16384", "--rate", "0"];
    house.start(&unlimited);
    let grant = |port| house.pcp(map(Udp, port, port), 600, Options::default());
    for port in 30_000..30_000 + MANY {
        assert_eq!(grant(port).result, pcp::ResultCode::SUCCESS, "{port}");
    }
    thread::sleep(A_SECOND);
    house.stop(Signal::SIGKILL);
    assert_eq!(house.start(&unlimited)["leases"], MANY);
    let last = 30_000 + MANY - 1;
    // The last ones are brought in last: one is renewed, one is taken back, one is wanted by
    // somebody else.
    let renewed = house.pcp(map(Udp, last, last), 1200, Options::default());
    assert_eq!(renewed.lifetime, 1200);
    house.pcp(map(Udp, last - 1, 0), 0, Options::default());
    let taken = house.pcp(map(Udp, 4000, last - 2), 600, Options::default());
    let Some(pcp::Operation::Map(other)) = taken.operation else {
        panic!("{taken:?}")
    };
    assert_ne!(other.external_port, last - 2);
    let led = |port, to| house.reached_from(Udp, port, to);
    wait_for(|| led(last - 2, last - 2) == EVERYWHERE);
    assert_eq!(led(last, last), EVERYWHERE);
    assert_eq!(led(last - 1, last - 1), NOWHERE);
    assert_eq!(led(other.external_port, 4000), EVERYWHERE);
    let listed = house.run("router", "nft", "list map inet postern udp4");
    assert_eq!(listed.matches("45.45.2.2 . ").count(), usize::from(MANY));
    assert_eq!(house.ask_json(&["list"]).len(), usize::from(MANY));
    assert_eq!(house.ask_json(&["flush"])[0]["count"], MANY);
    assert_eq!(led(last, last), NOWHERE);
    assert_eq!(house.ask_json(&["list"]).len(), 0);
}

fn a_start_is_announced_before_anybody_asks() {
    let mut house = House::without_gateway();
    let alice = group(&house, Ipv4Addr::new(224, 0, 0, 1), 5350);
    let searcher = group(&house, Ipv4Addr::new(239, 255, 255, 250), 1900);
    house.start(&[]);
    assert_announced(&alice, OUTSIDE);
    let (text, from) = receive(&searcher);
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("NOTIFY * HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("ssdp:alive"), "{text}");
    assert_eq!(from, SocketAddr::from((ROUTER, 1900)));

    house.stop(Signal::SIGTERM);
    let goodbye =
        |(text, _): (Vec<u8>, SocketAddr)| String::from_utf8(text).unwrap().contains("ssdp:byebye");
    assert!((0..200).any(|_| goodbye(receive(&searcher))));
}

/// A socket of Alice that hears what is sent to a group.
fn group(house: &House, group: Ipv4Addr, port: u16) -> UdpSocket {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let socket = house.world.udp("alice", any).unwrap();
    socket.join_multicast_v4(&group, &ALICE).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

/// NAT-PMP and PCP both say that the epoch has begun, and NAT-PMP the address.
fn assert_announced(socket: &UdpSocket, external: Ipv4Addr) {
    let address = natpmp::Answer::ExternalAddress(external);
    let nat_pmp = loop {
        let (payload, from) = receive(socket);
        assert_eq!(from, SocketAddr::from((ROUTER, natpmp::GATEWAY_PORT)));
        // Those of another address, and of PCP, may still be under way.
        let heard = natpmp::Response::parse(&payload).ok();
        if let Some(heard) = heard.filter(|heard| heard.outcome == Ok(address)) {
            break heard;
        }
    };
    assert!(nat_pmp.epoch <= 1, "{nat_pmp:?}");
    let pcp = pcp::Response::parse(&receive(socket).0).unwrap();
    assert_eq!(pcp.operation, Some(pcp::Operation::Announce));
    assert!(pcp.epoch <= 1, "{pcp:?}");
}

fn another_outside_address_is_announced_and_leads_in() {
    let house = House::new();
    house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    let subscriber = Subscriber::new(&house);
    let event = subscriber.event();
    assert!(event.contains(&format!(">{OUTSIDE}<")), "{event}");
    let alice = group(&house, Ipv4Addr::new(224, 0, 0, 1), 5350);

    let begin = Instant::now();
    let change = "addr del 45.45.2.2/24 dev wan\naddr add 45.45.2.9/24 dev wan\n\
                  route replace default via 45.45.2.1\n";
    house.world.ip("router", change).unwrap();
    let another = Ipv4Addr::new(45, 45, 2, 9);
    assert_announced(&alice, another);
    let event = subscriber.event();
    assert!(event.contains(&format!(">{another}<")), "{event}");
    assert!(begin.elapsed() < A_SECOND, "{:?}", begin.elapsed());
    let to = SocketAddr::from((another, 4001));
    assert!(house.reaches(Tcp, ("server", SERVER.into()), to, 4000));
    assert_eq!(house.ask_json(&["list"]).len(), 1);
}

fn a_line_that_comes_back_has_its_leases() {
    let house = House::new();
    house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    house.world.ip("router", "addr flush dev wan\n").unwrap();
    wait_for(|| house.ask_json(&["status"])[0]["external_address"].is_null());
    assert_eq!(house.ask_json(&["list"]).len(), 1);
    let up = "addr add 45.45.2.2/24 dev wan\nroute replace default via 45.45.2.1\n";
    house.world.ip("router", up).unwrap();
    wait_for(|| house.reached_from(Tcp, 4001, 4000) == EVERYWHERE);
}

fn wait_for(what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < LIMIT, "it does not happen");
    }
}

/// Somebody who hears of changes over UPnP (GENA).
struct Subscriber(TcpListener);

impl Subscriber {
    fn new(house: &House) -> Self {
        let listener = house
            .world
            .run("alice", || TcpListener::bind((ALICE, 0)).unwrap());
        let listener = listener.unwrap();
        let callback = listener.local_addr().unwrap();
        let request = format!(
            "SUBSCRIBE /event/WANIPConn1 HTTP/1.1\r\nHOST: {ROUTER}:5000\r\n\
             CALLBACK: <http://{callback}/>\r\nNT: upnp:event\r\nTIMEOUT: Second-1800\r\n\
             Connection: close\r\n\r\n"
        );
        let connect = || TcpStream::connect((ROUTER, 5000)).unwrap();
        let mut stream = house.world.run("alice", connect).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Self(listener)
    }

    fn event(&self) -> String {
        let (mut stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while !text.contains("</e:propertyset>") {
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        text
    }
}

fn nothing_is_heard_outside() {
    let house = House::new();
    // Without its firewall the router lets everything in that its sockets take.
    for table in ["ip firewall", "ip6 firewall"] {
        let delete = format!("delete table {table}\n");
        house.world.nft("router", &delete).unwrap();
    }
    let outside6 = house.world.addresses("router").unwrap()[1];
    for router in [IpAddr::from(OUTSIDE), ROUTER.into(), outside6] {
        let to = SocketAddr::new(router, 5000);
        let connect = || TcpStream::connect_timeout(&to, SILENCE);
        assert!(house.world.run("server", connect).unwrap().is_err(), "{to}");
    }
    let search = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\
                  MAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n";
    let address_request = [0, 0];
    let map = natpmp::Request::Map(natpmp::Map {
        transport: postern_wire::transport::Transport::Udp,
        internal_port: 4000,
        external_port: 4001,
        lifetime: 600,
    });
    for (payload, port) in [
        (search.as_bytes(), 1900),
        (&address_request, 5351),
        (&map.to_bytes(), 5351),
    ] {
        for router in [OUTSIDE, ROUTER] {
            let socket = house.world.udp("server", (SERVER, 0).into()).unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket.send_to(payload, (router, port)).unwrap();
            assert!(socket.recv_from(&mut [0; 64]).is_err(), "{router}:{port}");
        }
    }
    assert_eq!(house.ask_json(&["list"]).len(), 0);
}
