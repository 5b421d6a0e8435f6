//! Clients of the relay that take their time, do not listen, or are too many: bounds hold,
//! and others are served.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern_wire::stun::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, pause, resume, sleep, timeout};

use super::turn_client::{LOCALHOST, Relay, code, connection_id, message, request, soon};
use crate::server::TurnConfig;

/// Another source.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Streams of one source that have not proven anything: `MAX_PER_SOURCE` of the server.
const STRANGERS: usize = 64;

/// No limit is longer, nor this much.
const LONG: Duration = Duration::from_secs(200);

async fn from(source: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether a stranger is served.
async fn is_served(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let request = request(Method::BINDING).build();
    if stream.write_all(&request).await.is_err() {
        return false;
    }
    soon(message(stream))
        .await
        .is_ok_and(|answer| code(&answer) == 0)
}

/// Whether the server has hung up.
fn has_ended(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 100]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// How long, in virtual time, a stream lasts whose client says a byte every second.
async fn dribbled(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> Duration {
    pause();
    let started = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let dribble = async {
        for byte in bytes {
            if writing.write_all(&[*byte]).await.is_err() || writing.flush().await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        sleep(LONG).await;
    };
    let hang_up = async { while !matches!(reading.read(&mut [0; 100]).await, Ok(0) | Err(_)) {} };
    tokio::select! {
        () = hang_up => {}
        () = dribble => {}
    }
    resume();
    started.elapsed()
}

/// A ClientHello, as far as it is needed: a record and a message of which most is to come.
fn half_a_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(200, 0x55);
    hello
}

/// A message of which most is to come.
fn half_a_request() -> Vec<u8> {
    let mut request = request(Method::ALLOCATE).build();
    request[2..4].copy_from_slice(&1000_u16.to_be_bytes());
    request.resize(200, 0);
    request
}

/// The server's time runs before virtual time does: some of it is over on a busy machine.
fn assert_about(seconds: u64, lasted: Duration) {
    let range = Duration::from_secs(seconds / 2)..Duration::from_secs(seconds + 5);
    assert!(range.contains(&lasted), "{lasted:?}");
}

#[tokio::test]
async fn a_request_may_not_take_for_ever_over_tcp() {
    let relay = Relay::start(TurnConfig::default());
    let mut stream = TcpStream::connect(relay.tcp).await.unwrap();
    assert!(is_served(&mut stream).await);
    assert_about(30, dribbled(&mut stream, &half_a_request()).await);
}

#[tokio::test]
async fn a_request_may_not_take_for_ever_over_tls() {
    let relay = Relay::start(TurnConfig::default());
    for address in relay.secure {
        let mut stream = relay.tls(address).await.unwrap();
        assert!(is_served(&mut stream).await);
        assert_about(30, dribbled(&mut stream, &half_a_request()).await);
    }
}

#[tokio::test]
async fn a_handshake_may_not_take_for_ever() {
    let relay = Relay::start(TurnConfig::default());
    for address in relay.secure {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_about(10, dribbled(&mut stream, &half_a_hello()).await);
    }
}

#[tokio::test]
async fn the_first_byte_of_the_one_port_may_not_be_waited_for_for_ever() {
    let relay = Relay::start(TurnConfig::default());
    let mut stream = relay.tls(relay.secure[0]).await.unwrap();
    assert_about(10, dribbled(&mut stream, &[]).await);
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_cut_off() {
    let relay = Relay::start(TurnConfig::default());
    let mut streams: Vec<Box<dyn Both>> =
        vec![Box::new(TcpStream::connect(relay.tcp).await.unwrap())];
    for address in relay.secure {
        streams.push(Box::new(relay.tls(address).await.unwrap()));
    }
    let requests = request(Method::BINDING).build().repeat(1000);
    for mut stream in streams {
        pause();
        while stream.write_all(&requests).await.is_ok() {}
        resume();
        let mut other = TcpStream::connect(relay.tcp).await.unwrap();
        assert!(is_served(&mut other).await);
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Both for S {}

#[tokio::test]
async fn a_flood_of_connections_has_its_share_and_others_are_served() {
    let relay = Relay::start(TurnConfig::default());
    for address in [relay.tcp, relay.secure[0], relay.secure[1]] {
        let mut flood = Vec::new();
        for _ in 0..300 {
            flood.push(from(LOCALHOST, address).await);
        }
        // It is accepted in order: when one of another source is served, all have been.
        let mut other = from(OTHER, relay.tcp).await;
        assert!(is_served(&mut other).await);
        let left = soon(async {
            loop {
                let left = flood.iter().filter(|stream| !has_ended(stream)).count();
                if left <= STRANGERS {
                    return left;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        let left = left.await;
        assert!(left > 0, "all were refused at {address}");
        drop(flood);
        // The places come back.
        soon(async {
            loop {
                let mut stream = from(LOCALHOST, relay.tcp).await;
                if is_served(&mut stream).await {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// Writes until nothing more is taken; how many bytes were.
async fn fill(stream: &mut TcpStream) -> usize {
    let chunk = vec![0x5a; 64 * 1024];
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write(&chunk)).await {
        taken += written.unwrap();
    }
    taken
}

#[tokio::test]
async fn a_peers_bytes_wait_for_a_slow_client_at_the_peer_and_others_pass() {
    /// What sockets of the system and a pipe hold.
    const HELD: usize = 64 << 20;
    let relay = Relay::start(TurnConfig::default());
    let mut client = relay.allocation().await;
    let tls = relay.tls(relay.secure[1]).await.unwrap();
    let tcp = TcpStream::connect(relay.tcp).await.unwrap();
    let streams: [Box<dyn Both>; 2] = [Box::new(tcp), Box::new(tls)];
    for mut slow in streams {
        let (mut peer, id) = called(&mut client).await;
        slow.write_all(&client.signer.bind(id)).await.unwrap();
        assert_eq!(code(&soon(message(&mut slow)).await.unwrap()), 0);
        let taken = fill(&mut peer).await;
        assert!(taken < HELD, "{taken} bytes");
        // Another connection of the same allocation.
        let (mut other, id) = called(&mut client).await;
        let mut quick = TcpStream::connect(relay.tcp).await.unwrap();
        quick.write_all(&client.signer.bind(id)).await.unwrap();
        assert_eq!(code(&soon(message(&mut quick)).await.unwrap()), 0);
        other.write_all(b"quick").await.unwrap();
        let mut got = [0; 5];
        soon(quick.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"quick");
        // Nothing of what was taken is lost.
        peer.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon(slow.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest.len(), taken);
    }
}

/// A peer that has connected to the relay, and the CONNECTION-ID that it was given.
async fn called(client: &mut super::turn_client::Client<TcpStream>) -> (TcpStream, u32) {
    let somewhere = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    client.permit(somewhere.local_addr().unwrap()).await;
    let peer = TcpStream::connect(client.relayed).await.unwrap();
    let attempt = soon(message(&mut client.stream)).await.unwrap();
    (peer, connection_id(&attempt))
}
