//! TCP relays (RFC 6062) on loopback: what becomes of the bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_wire::uri::ServerUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Trust;
use crate::server::{Server, ServerConfig, TurnConfig};
use crate::turn::{Allocation, Credentials, Options, Relay, RelayedStream, Target};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A server, and an allocation for TCP over one of its transports.
struct Scene {
    server: JoinHandle<()>,
    allocation: Option<Allocation>,
    listener: TcpListener,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Scene {
    async fn new(way: &str, max_rate: u64) -> Self {
        let config = ServerConfig {
            listen: vec![LOCALHOST],
            port: 0,
            stun_port: 0,
            turn: Some(TurnConfig {
                users: vec![("user".to_owned(), "pass".to_owned())],
                allow_peers: vec!["127.0.0.0/8".parse().unwrap()],
                tls_port: 0,
                max_rate,
                ..TurnConfig::default()
            }),
            unproven_rate: None,
            ..ServerConfig::default()
        };
        // The TCP port is that of UDP, and may be another test's.
        let bound = (0..20).find_map(|_| Server::bind(config.clone()).ok());
        let server = bound.unwrap();
        let trust = Trust::Pinned(server.url().pin().unwrap());
        let uris = server.turn_uris().iter();
        let mut servers = uris.map(|uri| at(&uri.parse().unwrap(), &trust));
        let over = servers.find(|server| server.way() == way).unwrap();
        let server = tokio::spawn(server.run());
        let options = Options {
            credentials: Some(Credentials::new("user", "pass").unwrap()),
            relay: Relay::Tcp,
            ..Options::default()
        };
        Self {
            server,
            allocation: Some(Allocation::request(&[over], &options).await.unwrap()),
            listener: TcpListener::bind((LOCALHOST, 0)).await.unwrap(),
        }
    }

    fn allocation(&self) -> &Allocation {
        self.allocation.as_ref().unwrap()
    }

    /// A connection with a peer, both ends.
    async fn connection(&self) -> (RelayedStream, TcpStream) {
        let to = self.listener.local_addr().unwrap();
        let both = async { tokio::join!(self.allocation().connect(to), self.listener.accept()) };
        let (stream, peer) = timeout(LIMIT, both).await.unwrap();
        (stream.unwrap(), peer.unwrap().0)
    }
}

fn at(uri: &ServerUri, trust: &Trust) -> crate::turn::Server {
    let postern_wire::uri::Host::Ip(ip) = uri.host else {
        panic!("{uri} is no address");
    };
    crate::turn::Server {
        transport: uri.transport.unwrap(),
        target: Target {
            tls: uri.scheme.is_secure().then(|| trust.clone()),
            ..Target::new(SocketAddr::new(ip, uri.port()))
        },
    }
}

fn bytes(length: u32) -> Vec<u8> {
    (0..length)
        .map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()[0])
        .collect()
}

#[tokio::test]
async fn bytes_pass_both_ways_at_once_and_a_side_that_has_said_all_still_hears() {
    for way in ["tcp", "tls"] {
        let scene = Scene::new(way, 0).await;
        let (stream, peer) = scene.connection().await;
        let (mut from_relay, mut to_relay) = tokio::io::split(stream);
        let (mut from_peer, mut to_peer) = peer.into_split();
        let (there, back) = (bytes(3_000_001), bytes(5_000_003));
        let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
        let send = async {
            to_relay.write_all(&there).await.unwrap();
            to_relay.shutdown().await.unwrap();
        };
        // The peer answers only when it has heard all.
        let answer = async {
            from_peer.read_to_end(&mut got_there).await.unwrap();
            to_peer.write_all(&back).await.unwrap();
            drop(to_peer);
        };
        let hear = from_relay.read_to_end(&mut got_back);
        let all = async { tokio::join!(send, answer, hear) };
        timeout(LIMIT, all).await.unwrap().2.unwrap();
        assert!(got_there == there, "{way}: {} bytes", got_there.len());
        assert!(got_back == back, "{way}: {} bytes", got_back.len());
    }
}

#[tokio::test]
async fn the_end_of_the_allocation_ends_its_connections() {
    for way in ["tcp", "tls"] {
        let mut scene = Scene::new(way, 0).await;
        let (mut stream, mut peer) = scene.connection().await;
        stream.write_all(b"last words").await.unwrap();
        let mut word = [0; 10];
        timeout(LIMIT, peer.read_exact(&mut word))
            .await
            .unwrap()
            .unwrap();
        scene.allocation.take().unwrap().close().await;
        let ended = timeout(LIMIT, peer.read(&mut word)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let ended = timeout(LIMIT, stream.read(&mut word)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}

#[tokio::test]
async fn a_rate_holds_for_tcp_relays_and_no_byte_is_lost() {
    let scene = Scene::new("tcp", 200_000).await;
    let (mut stream, mut peer) = scene.connection().await;
    let many = bytes(600_000);
    let started = Instant::now();
    let send = async {
        stream.write_all(&many).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(send, peer.read_to_end(&mut got)) };
    timeout(LIMIT, both).await.unwrap().1.unwrap();
    assert!(got == many, "{} bytes", got.len());
    // A second's worth, and one chunk, may go ahead.
    assert!(
        started.elapsed() > Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn many_connections_at_once_carry_each_its_own_bytes() {
    let scene = Scene::new("tcp", 0).await;
    let mut connections = Vec::new();
    for n in 0..50_u8 {
        // One more stream to the server each: a source has 64.
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let both = async { tokio::join!(scene.allocation().connect(to), listener.accept()) };
        let (stream, peer) = timeout(LIMIT, both).await.unwrap();
        let (mut stream, peer) = (stream.unwrap(), peer.unwrap().0);
        stream.write_all(&[n; 1000]).await.unwrap();
        connections.push((n, stream, peer));
    }
    for (n, _stream, peer) in &mut connections {
        let mut got = [0; 1000];
        timeout(LIMIT, peer.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got, [*n; 1000]);
    }
}

#[tokio::test]
async fn a_peer_without_permission_is_hung_up_on() {
    let scene = Scene::new("tcp", 0).await;
    let mut peer = TcpStream::connect(scene.allocation().relayed())
        .await
        .unwrap();
    let ended = timeout(LIMIT, peer.read(&mut [0])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
