//! Searches of SSDP over real sockets.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns::Case;
use postern_wire::upnp::ssdp::{GROUP_V4, Message, PORT};

use crate::house::{ALICE, House, LIMIT, ROUTER, SILENCE};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    a_search_for_everything_is_answered_once_each_and_spread,
    a_flood_of_searches_gets_little_back,
    who_is_not_on_the_link_gets_nothing,
];

fn search(mx: u8) -> Vec<u8> {
    let text = format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\
         MX: {mx}\r\nST: ssdp:all\r\n\r\n"
    );
    text.into_bytes()
}

/// A socket of Alice that sends to groups, too.
fn searcher(house: &House, address: Ipv4Addr) -> UdpSocket {
    let socket = house.world.udp("alice", (address, 0).into()).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

/// What comes, and when, until nothing has come for a while.
fn answers(socket: &UdpSocket, begin: Instant, least: Duration) -> Vec<(Duration, Vec<u8>)> {
    let mut answers = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                assert_eq!(from, SocketAddr::from((ROUTER, PORT)));
                answers.push((begin.elapsed(), buffer[..length].to_vec()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if begin.elapsed() > least {
                    return answers;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn a_search_for_everything_is_answered_once_each_and_spread() {
    let house = House::new();
    let socket = searcher(&house, ALICE);
    let begin = Instant::now();
    socket.send_to(&search(3), (GROUP_V4, PORT)).unwrap();
    let mx = Duration::from_secs(3);
    let answers = answers(&socket, begin, mx + SILENCE);
    let mut told = BTreeSet::new();
    for (_, answer) in &answers {
        let Ok(Message::Response(answer)) = Message::parse(answer) else {
            panic!("{}", String::from_utf8_lossy(answer))
        };
        assert_eq!(answer.location, "http://192.168.1.1:5000/rootDesc.xml");
        assert!(told.insert(answer.usn.clone()), "{} twice", answer.usn);
    }
    for target in [
        "upnp:rootdevice",
        "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
        "urn:schemas-upnp-org:device:WANDevice:2",
        "urn:schemas-upnp-org:device:WANConnectionDevice:2",
        "urn:schemas-upnp-org:service:Layer3Forwarding:1",
        "urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1",
        "urn:schemas-upnp-org:service:WANIPConnection:2",
        "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
    ] {
        assert!(
            told.iter().any(|usn| usn.ends_with(target)),
            "{target}: {told:?}"
        );
    }
    // One for the root, two for each device, one for each service.
    assert_eq!(told.len(), 11, "{told:?}");
    let times: Vec<Duration> = answers.iter().map(|(time, _)| *time).collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(last < mx + SILENCE, "{times:?}");
    // Eleven moments of three seconds are not all in one half of a second.
    assert!(last - first > Duration::from_millis(500), "{times:?}");
}

fn a_flood_of_searches_gets_little_back() {
    let house = House::new();
    let socket = searcher(&house, ALICE);
    let begin = Instant::now();
    let mut sent = 0;
    thread::scope(|scope| {
        let heard = scope.spawn(|| answers(&socket, begin, Duration::from_secs(12)));
        let search = search(1);
        for number in 0..1000 {
            // Half of them to the router itself, which costs it less to be asked.
            let to = if number % 2 == 0 { GROUP_V4 } else { ROUTER };
            sent += socket.send_to(&search, (to, PORT)).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        let heard = heard.join().unwrap();
        let bytes: usize = heard.iter().map(|(_, answer)| answer.len()).sum();
        assert!(bytes > 0 && bytes <= 3 * sent, "{bytes} for {sent}");
    });
    // Who has not flooded is answered as always.
    let other = house.world.udp("carol", ([192, 168, 1, 11], 0).into());
    let other = other.unwrap();
    other.set_read_timeout(Some(LIMIT)).unwrap();
    other.send_to(&search(1), (GROUP_V4, PORT)).unwrap();
    assert!(other.recv_from(&mut [0; 2048]).is_ok());
}

fn who_is_not_on_the_link_gets_nothing() {
    let house = House::new();
    let elsewhere = Ipv4Addr::new(10, 9, 9, 9);
    let address = format!("addr add {elsewhere}/24 dev eth0\n");
    house.world.ip("alice", &address).unwrap();
    // An answer would find its way.
    let route = "route add 10.9.9.0/24 dev lan\n";
    house.world.ip("router", route).unwrap();
    let socket = searcher(&house, elsewhere);
    for to in [GROUP_V4, ROUTER] {
        let begin = Instant::now();
        socket.send_to(&search(1), (to, PORT)).unwrap();
        let heard = answers(&socket, begin, Duration::from_millis(1300));
        assert!(heard.is_empty(), "{} from {to}", heard.len());
    }
    let near = searcher(&house, ALICE);
    let begin = Instant::now();
    near.send_to(&search(1), (GROUP_V4, PORT)).unwrap();
    assert!(!answers(&near, begin, Duration::from_millis(1300)).is_empty());
}
