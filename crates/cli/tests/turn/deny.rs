//! Whom a real server's relays do not reach. What each request and each packet meets is
//! shown by the machine's own tests; these show that the program has that policy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern::turn::{Allocation, ConnectError, Failure, Options, PeerError, Relay};
use postern_lab::netns::Case;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::time::timeout;

use crate::client::{LOCALHOST, Running, Subject, options, run};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "nobody_off_the_public_internet_is_a_peer",
        run: nobody_off_the_public_internet_is_a_peer,
    },
    Case {
        name: "what_the_server_listens_at_is_no_peer_where_its_host_is",
        run: what_the_server_listens_at_is_no_peer_where_its_host_is,
    },
    Case {
        name: "who_is_denied_cannot_connect_to_a_relay",
        run: who_is_denied_cannot_connect_to_a_relay,
    },
];

/// One of every denied prefix, and every disguise.
const DENIED: &[&str] = &[
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.0.0.2",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

const USER: [&str; 2] = ["--user", "user:pass"];

/// Loopback is allowed, but for one address.
const LOOPBACK: [&str; 6] = [
    "--user",
    "user:pass",
    "--allow-peer",
    "127.0.0.0/8",
    "--deny-peer",
    "127.0.0.9",
];

const EXCEPTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// The ports of signalling, of STUN and TURN, and of TURN over TLS and DTLS.
const PORTS: [u16; 3] = [8443, 3478, 5349];

/// An answer on loopback would have come.
const MOMENT: Duration = Duration::from_millis(500);

/// A STUN Binding request, which the server answers to whoever reaches it.
const BINDING: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];

fn start(options: &[&str]) -> Running {
    Running::with(Subject::Postern, Ipv4Addr::LOCALHOST, options)
}

async fn relay(server: &Running, relay: Relay, additional_ipv6: bool) -> Allocation {
    let wishes = Options {
        relay,
        additional_ipv6,
        ..options()
    };
    server.allocate("tcp", &wishes).await.unwrap()
}

async fn expect_no_permission(allocation: &Allocation, peer: IpAddr) {
    let answer = allocation.permit(peer).await;
    let forbidden = PeerError::Refused(Failure::Forbidden);
    assert_eq!(answer, Err(forbidden), "CreatePermission {peer}");
}

async fn expect_no_connection(allocation: &Allocation, peer: SocketAddr, expected: Failure) {
    match allocation.connect(peer).await {
        Err(ConnectError::Refused(failure)) => assert_eq!(failure, expected, "{peer}"),
        Err(error) => panic!("{peer}: {error}"),
        Ok(_) => panic!("{peer} was connected to"),
    }
}

fn nobody_off_the_public_internet_is_a_peer() {
    let families = ["--relay-ip", "127.0.0.1", "--relay-ip", "::1"];
    let server = start(&[&USER[..], &families].concat());
    run(async {
        let udp = relay(&server, Relay::Udp, true).await;
        let tcp = relay(&server, Relay::Tcp, true).await;
        // A port for each row: disguises of one address are one peer to the client.
        for (row, port) in DENIED.iter().zip(80..) {
            let peer: IpAddr = row.parse().unwrap();
            expect_no_permission(&udp, peer).await;
            expect_no_permission(&tcp, peer).await;
            expect_no_connection(&tcp, (peer, port).into(), Failure::Forbidden).await;
        }
    });
}

fn what_the_server_listens_at_is_no_peer_where_its_host_is() {
    let server = start(&LOOPBACK);
    run(async {
        let tcp = relay(&server, Relay::Tcp, false).await;
        for port in PORTS {
            expect_no_connection(&tcp, (LOCALHOST, port).into(), Failure::Forbidden).await;
        }
        let other = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = other.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(tcp.connect(address), other.accept());
        assert_eq!(stream.unwrap().peer(), address);
        assert_eq!(accepted.unwrap().1, tcp.relayed());
        let udp = relay(&server, Relay::Udp, false).await;
        reaches_no_stun(&udp).await;
    });
}

/// The permission is for all ports of the host; the server's own are none of them.
async fn reaches_no_stun(udp: &Allocation) {
    let other = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let address = other.local_addr().unwrap();
    for port in PORTS {
        let own = SocketAddr::new(LOCALHOST, port);
        udp.send_to(&BINDING, own).await.unwrap();
    }
    udp.send_to(&BINDING, address).await.unwrap();
    let mut buffer = [0; 100];
    let (length, from) = other.recv_from(&mut buffer).await.unwrap();
    assert_eq!(buffer[..length], BINDING);
    other.send_to(b"answer", from).await.unwrap();
    let answer = udp.recv_from().await.unwrap();
    assert_eq!(answer, (b"answer".to_vec(), address));
    // By now there is a permission for sure.
    for port in PORTS {
        let own = SocketAddr::new(LOCALHOST, port);
        udp.send_to(&BINDING, own).await.unwrap();
    }
    let late = timeout(MOMENT, udp.recv_from()).await;
    assert!(late.is_err(), "{late:?}");
}

fn who_is_denied_cannot_connect_to_a_relay() {
    let server = start(&LOOPBACK);
    run(async {
        let tcp = relay(&server, Relay::Tcp, false).await;
        tcp.permit(LOCALHOST).await.unwrap();
        expect_no_permission(&tcp, EXCEPTED).await;
        let denied = TcpSocket::new_v4().unwrap();
        denied.bind((EXCEPTED, 0).into()).unwrap();
        let mut denied = denied.connect(tcp.relayed()).await.unwrap();
        // The end, or a reset where the greeting had arrived already.
        let _ = denied.write_all(b"let me in").await;
        let read = denied.read(&mut [0; 10]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        let allowed = TcpSocket::new_v4().unwrap();
        let allowed = allowed.connect(tcp.relayed()).await.unwrap();
        let came = tcp.accept().await.unwrap();
        assert_eq!(came.peer(), allowed.local_addr().unwrap());
    });
}
