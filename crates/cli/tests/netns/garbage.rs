//! Floods of nonsense while a transfer runs.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::{Filtering, Mapping, Nat};
use serde_json::Value;

use crate::scene::{Scene, contents};

pub(crate) const CASES: &[Case] = postern_lab::cases!(
    a_transfer_bears_a_flood_of_datagrams_from_everywhere,
    a_server_bears_nonsense_on_its_ports,
    a_server_bears_many_who_connect_and_say_nothing,
);

/// Datagrams that one flooder sends.
const DATAGRAMS: usize = 20_000;

/// Datagrams sent at once, with a pause after them: a flood, and bounded.
const BURST: usize = 100;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Routers that let in strangers, a neighbour in Alice's home, and one in a third home.
fn open_homes() -> Topology {
    let open = Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    let mut topology = Topology::two_homes(open, open);
    topology.homes[0].hosts.push("carol".to_owned());
    topology.homes.push(Home::new("green", &["eve"], 3, open));
    topology
}

fn a_transfer_bears_a_flood_of_datagrams_from_everywhere() {
    let scene = Scene::of(&open_homes());
    let file = scene.sparse_file("film", 300_000_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    let (from, to) = (sender.event("path"), receiver.event("path"));
    let server = SocketAddr::new(scene.world.ipv4("server").unwrap().into(), 3478);
    let floods = [
        flood(&scene, "server", address(&from, "remote")),
        flood(&scene, "eve", address(&to, "remote")),
        flood(&scene, "eve", server),
        flood(&scene, "carol", address(&from, "local")),
    ];
    receiver.succeeds();
    sender.succeeds();
    for flood in floods {
        flood.join().unwrap();
    }
    scene.assert_arrived(&[file]);
    scene.assert_still_works();
}

fn a_server_bears_nonsense_on_its_ports() {
    let mut scene = Scene::of(&open_homes());
    let noise = contents(64_000);
    let upgrade = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let hello = [
        b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc\x03\x03",
        &noise[..9000],
    ]
    .concat();
    let endless = b"\x16\x03\x01\xff\xff";
    for bytes in [&noise[..], upgrade, &hello, endless, b""] {
        scene.world.run("eve", || shout(bytes)).unwrap();
    }
    assert!(scene.server.as_mut().unwrap().is_running());
    scene.assert_still_works();
}

fn a_server_bears_many_who_connect_and_say_nothing() {
    let scene = Scene::of(&open_homes());
    let connect = || -> Vec<TcpStream> {
        let streams = (0..300).map(|_| TcpStream::connect(("45.45.1.2", 8443)));
        streams.map_while(Result::ok).collect()
    };
    let silent = scene.world.run("eve", connect).unwrap();
    assert_eq!(silent.len(), 300);
    scene.assert_still_works();
}

/// Sends bytes to the server and reads until it has enough.
fn shout(bytes: &[u8]) {
    let mut stream = TcpStream::connect(("45.45.1.2", 8443)).unwrap();
    let patience = Some(Duration::from_secs(12));
    stream.set_read_timeout(patience).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.take(100_000).read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("the server keeps a connection that says nothing sensible")
        }
        _ => {}
    }
}

fn flood(scene: &Scene, host: &str, target: SocketAddr) -> JoinHandle<()> {
    let socket = scene.world.udp(host, ANY).unwrap();
    thread::spawn(move || send_nonsense(&socket, target))
}

/// Noise, and noise that begins as STUN and QUIC messages begin.
fn send_nonsense(socket: &UdpSocket, target: SocketAddr) {
    let noise = contents(DATAGRAMS + 1500);
    for index in 0..DATAGRAMS {
        let length = 1 + index * 7 % 1400;
        let mut datagram = noise[index..index + length].to_vec();
        disguise(&mut datagram, index);
        // A full queue on the way is no failure of a flood.
        let _ = socket.send_to(&datagram, target);
        if index % BURST == 0 {
            thread::sleep(Duration::from_millis(3));
        }
    }
}

fn disguise(datagram: &mut [u8], index: usize) {
    let length = u16::try_from(datagram.len().saturating_sub(20)).unwrap();
    let [high, low] = length.to_be_bytes();
    let beginning: &[u8] = match index % 6 {
        // Binding requests and a success response (RFC 8489 section 5), long enough or not.
        0 => &[0, 1, high, low, 0x21, 0x12, 0xa4, 0x42],
        1 => &[1, 1, high, low, 0x21, 0x12, 0xa4, 0x42],
        2 => &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
        // A QUIC Initial, a short header (RFC 9000 section 17).
        3 => &[0xc3, 0, 0, 0, 1, 8],
        4 => &[0x41],
        _ => &[],
    };
    let count = beginning.len().min(datagram.len());
    datagram[..count].copy_from_slice(&beginning[..count]);
}

fn address(path: &Value, field: &str) -> SocketAddr {
    path[field].as_str().unwrap().parse().unwrap()
}
