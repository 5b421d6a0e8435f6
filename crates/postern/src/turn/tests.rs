//! The client against the server of this crate, on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern_wire::uri::{Host, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::Trust;
use crate::server::{self, ServerConfig, TurnConfig};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Everything that is waited for comes sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that relays to loopback, and the ways to it.
struct World {
    task: JoinHandle<()>,
    servers: Vec<Server>,
}

impl World {
    fn new() -> Self {
        Self::with(TurnConfig {
            users: vec![("user".to_owned(), "pass".to_owned())],
            secrets: vec!["s3cret".to_owned()],
            allow_peers: vec!["127.0.0.0/8".parse().unwrap()],
            tls_port: 0,
            relay_ports: 20_000..=30_000,
            ..TurnConfig::default()
        })
    }

    fn with(turn: TurnConfig) -> Self {
        let config = ServerConfig {
            listen: vec![LOCALHOST],
            port: 0,
            stun_port: 0,
            turn: Some(turn),
            unproven_rate: None,
            ..ServerConfig::default()
        };
        let server = server::Server::bind(config).unwrap();
        let trust = Trust::Pinned(server.url().pin().unwrap());
        let uris = server.turn_uris().iter();
        let servers = uris.map(|uri| at(&uri.parse().unwrap(), &trust)).collect();
        Self {
            task: tokio::spawn(server.run()),
            servers,
        }
    }

    fn over(&self, way: &str) -> Server {
        let mut servers = self.servers.iter();
        servers.find(|server| server.way() == way).unwrap().clone()
    }

    async fn allocate(&self, way: &str, options: &Options) -> Allocation {
        Allocation::request(&[self.over(way)], options)
            .await
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn at(uri: &ServerUri, trust: &Trust) -> Server {
    let Host::Ip(ip) = uri.host else {
        panic!("{uri} is no address");
    };
    let target = Target::new(SocketAddr::new(ip, uri.port()));
    Server {
        transport: uri.transport.unwrap(),
        target: Target {
            tls: uri.scheme.is_secure().then(|| trust.clone()),
            ..target
        },
    }
}

fn options() -> Options {
    Options {
        credentials: Some(Credentials::new("user", "pass").unwrap()),
        ..Options::default()
    }
}

fn tcp_relay() -> Options {
    Options {
        relay: Relay::Tcp,
        ..options()
    }
}

/// Datagrams there and back: the first in an indication, the later ones in a channel.
async fn exchange(allocation: &Allocation) {
    let all = timeout(PATIENCE, exchange_all(allocation)).await;
    all.expect("no datagram is lost on loopback");
}

async fn exchange_all(allocation: &Allocation) {
    let peer = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let address = peer.local_addr().unwrap();
    for round in 0..20_u8 {
        allocation.send_to(&[round; 3], address).await.unwrap();
        let mut buffer = [0; 100];
        let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&[round; 3][..], allocation.relayed())
        );
        peer.send_to(&[round; 5], from).await.unwrap();
        let received = allocation.recv_from().await.unwrap();
        assert_eq!(received, (vec![round; 5], address));
    }
}

#[tokio::test]
async fn datagrams_pass_over_every_transport() {
    let world = World::new();
    for way in ["udp", "tcp", "tls"] {
        let allocation = world.allocate(way, &options()).await;
        exchange(&allocation).await;
        allocation.close().await;
    }
}

#[tokio::test]
async fn connections_are_made_through_tcp_relays_in_both_directions() {
    let world = World::new();
    for way in ["tcp", "tls"] {
        let allocation = world.allocate(way, &tcp_relay()).await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let early = async {
            let (mut peer, from) = listener.accept().await.unwrap();
            assert_eq!(from, allocation.relayed());
            peer.write_all(b"early").await.unwrap();
            peer
        };
        let (stream, mut peer) = tokio::join!(allocation.connect(address), early);
        check(stream.unwrap(), &mut peer, b"early").await;

        allocation.permit(LOCALHOST).await.unwrap();
        let mut peer = TcpStream::connect(allocation.relayed()).await.unwrap();
        peer.write_all(b"first").await.unwrap();
        let stream = allocation.accept().await.unwrap();
        assert_eq!(stream.peer(), peer.local_addr().unwrap());
        check(stream, &mut peer, b"first").await;
        allocation.close().await;
    }
}

/// The peer's first bytes arrive, many bytes pass, and the end of one is the end of the other.
async fn check(mut stream: RelayedStream, peer: &mut TcpStream, first: &[u8]) {
    let mut got = vec![0; first.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, first);
    let many: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let send = async {
        stream.write_all(&many).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let receive = peer.read_to_end(&mut got);
    let ((), received) = tokio::join!(send, receive);
    received.unwrap();
    assert!(got == many, "{} bytes came", got.len());
}

#[tokio::test]
async fn what_a_tcp_relay_cannot_do_is_told() {
    let world = World::new();
    let nobody = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let allocation = world.allocate("tcp", &tcp_relay()).await;
    let refused = allocation.connect(address).await.unwrap_err();
    let expected = Failure::ConnectionFailed;
    assert!(
        matches!(refused, ConnectError::Refused(failure) if failure == expected),
        "{refused:?}"
    );
    let again = allocation.connect(address).await.unwrap_err();
    let expected = ConnectRefusal::TooEarly;
    assert!(
        matches!(again, ConnectError::Impossible(error) if error == expected),
        "{again:?}"
    );
    let private = "10.0.0.1:80".parse().unwrap();
    let forbidden = allocation.connect(private).await.unwrap_err();
    let expected = Failure::Forbidden;
    assert!(matches!(forbidden, ConnectError::Refused(failure) if failure == expected));
    let over_udp = Allocation::request(&[world.over("udp")], &tcp_relay()).await;
    assert_eq!(refusal(over_udp), Failure::NeedsStream);
}

fn refusal(result: Result<Allocation, AllocateError>) -> Failure {
    match result {
        Err(AllocateError::Refused { failure, .. }) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_the_server_refuses_concerns_no_other() {
    let world = World::new();
    let allocation = world.allocate("udp", &options()).await;
    let private = "192.168.1.1".parse().unwrap();
    let refused = PeerError::Refused(Failure::Forbidden);
    assert_eq!(allocation.permit(private).await, Err(refused));
    assert_eq!(allocation.permit(private).await, Err(refused), "known");
    assert_eq!(allocation.permit(LOCALHOST).await, Ok(()));
    assert_eq!(allocation.permit(LOCALHOST).await, Ok(()), "known");
    exchange(&allocation).await;
}

#[tokio::test]
async fn an_allocation_moves_to_another_socket() {
    let world = World::new();
    let mobile = Options {
        mobility: true,
        ..options()
    };
    for way in ["udp", "tcp", "tls"] {
        let allocation = world.allocate(way, &mobile).await;
        exchange(&allocation).await;
        allocation.rebind().await.unwrap();
        exchange(&allocation).await;
        allocation.close().await;
    }
    let immobile = world.allocate("udp", &options()).await;
    let refused = immobile.rebind().await.unwrap_err();
    let expected = Failure::Immobile;
    assert!(
        matches!(refused, MoveError::Ended(failure) if failure == expected),
        "{refused:?}"
    );
    assert_eq!(immobile.recv_from().await, Err(PeerError::Ended(expected)));
}

#[tokio::test]
async fn credentials_are_checked_and_may_have_a_time_limit() {
    let world = World::new();
    let with = |credentials| Options {
        credentials: Some(credentials),
        ..Options::default()
    };
    let hour = Duration::from_secs(3600);
    let limited = with(time_limited("s3cret", Some("me"), hour).unwrap());
    world.allocate("udp", &limited).await.close().await;
    for wrong in [
        with(Credentials::new("user", "wrong").unwrap()),
        with(time_limited("other", Some("me"), hour).unwrap()),
        with(time_limited("s3cret", Some("me"), Duration::ZERO).unwrap()),
    ] {
        let refused = Allocation::request(&[world.over("udp")], &wrong).await;
        assert_eq!(refusal(refused), Failure::Unauthenticated);
    }
    let none = Allocation::request(&[world.over("tcp")], &Options::default()).await;
    assert_eq!(refusal(none), Failure::NoCredentials);
}

#[tokio::test]
async fn a_reserved_port_is_the_next_one() {
    let world = World::new();
    let even = Options {
        even_port: Some(true),
        dont_fragment: true,
        ..options()
    };
    let first = world.allocate("udp", &even).await;
    let next = Options {
        reservation: first.granted().reservation,
        ..options()
    };
    assert!(next.reservation.is_some());
    let second = world.allocate("tcp", &next).await;
    assert_eq!(first.relayed().port() % 2, 0);
    assert_eq!(second.relayed().port(), first.relayed().port() + 1);
    exchange(&second).await;
}

/// A socket that takes what comes and says nothing.
async fn silent() -> (UdpSocket, Server) {
    let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let target = Target::new(socket.local_addr().unwrap());
    let transport = Transport::Udp;
    (socket, Server { transport, target })
}

#[tokio::test]
async fn a_silent_server_and_one_that_is_not_there_cost_little() {
    let world = World::new();
    let (_socket, silent) = silent().await;
    let (gone, missing) = self::silent().await;
    drop(gone);
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let closed = Server {
        transport: Transport::Tcp,
        target: Target::new(listener.local_addr().unwrap()),
    };
    drop(listener);
    let servers = [missing, closed, silent, world.over("tls")];
    let allocation = Allocation::request(&servers, &options()).await.unwrap();
    assert_eq!(allocation.server(), &servers[3]);
    let nobody = Allocation::request(&servers[..2], &options()).await;
    let unreachable = matches!(
        &nobody,
        Err(AllocateError::Transport(TransportError::Unreachable { .. }))
    );
    assert!(unreachable, "{nobody:?}");
    let wrong = Options {
        credentials: Some(Credentials::new("user", "wrong").unwrap()),
        ..Options::default()
    };
    let servers = [world.over("udp"), servers[1].clone()];
    let refused = Allocation::request(&servers, &wrong).await;
    assert_eq!(refusal(refused), Failure::Unauthenticated, "says more");
}

#[tokio::test]
async fn what_is_given_to_nobody_goes_back() {
    let world = World::with(TurnConfig {
        users: vec![("user".to_owned(), "pass".to_owned())],
        quota_user: 1,
        tls_port: 0,
        ..TurnConfig::default()
    });
    drop(world.allocate("udp", &options()).await);
    for _ in 0..100 {
        match Allocation::request(&[world.over("tcp")], &options()).await {
            Ok(allocation) => {
                allocation.close().await;
                return;
            }
            Err(error) => assert!(matches!(
                error,
                AllocateError::Refused {
                    failure: Failure::QuotaReached,
                    ..
                }
            )),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the first allocation never went back");
}

#[tokio::test]
async fn what_is_no_turn_server_is_told_apart() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let server = Server {
        transport: Transport::Tcp,
        target: Target::new(listener.local_addr().unwrap()),
    };
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
        stream.write_all(b"\xff\xfb\x01login: ").await.unwrap();
        drop(stream);
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
    };
    let options = options();
    let servers = [server];
    let ask = async {
        let first = Allocation::request(&servers, &options).await;
        assert_eq!(refusal(first), Failure::Malformed);
        Allocation::request(&servers, &options).await
    };
    let (second, ()) = tokio::join!(ask, answer);
    assert!(
        matches!(second, Err(AllocateError::HungUp { .. })),
        "{second:?}"
    );
}
