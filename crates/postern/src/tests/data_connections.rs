//! Data connections of TCP relays (RFC 6062), byte for byte: what clients and peers say too
//! early, too often or about nothing.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use postern_wire::stun::Method;
use postern_wire::turn::Lifetime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, pause, timeout};

use super::turn_client::{
    Client, LOCALHOST, Relay, Signer, code, connection_id, message, request, soon,
};
use crate::server::TurnConfig;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A relay, an allocation of TCP, and a peer.
struct Scene {
    relay: Relay,
    client: Client<TcpStream>,
    listener: TcpListener,
    peer: SocketAddr,
}

impl Scene {
    async fn new() -> Self {
        Self::with(TurnConfig::default()).await
    }

    async fn with(config: TurnConfig) -> Self {
        let relay = Relay::start(config);
        let client = relay.allocation().await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let peer = listener.local_addr().unwrap();
        Self {
            relay,
            client,
            listener,
            peer,
        }
    }

    /// A connection with the peer that nobody has bound.
    async fn unbound(&mut self) -> (u32, TcpStream) {
        let answer = self.client.connect(self.peer).await;
        assert_eq!(code(&answer), 0);
        let (peer, _) = soon(self.listener.accept()).await.unwrap();
        (connection_id(&answer), peer)
    }

    async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.relay.tcp).await.unwrap()
    }

    /// Streams over TCP, and over TLS at both ports.
    async fn streams(&self) -> Vec<Box<dyn Stream>> {
        let mut streams: Vec<Box<dyn Stream>> = vec![Box::new(self.stream().await)];
        for address in self.relay.secure {
            streams.push(Box::new(self.relay.tls(address).await.unwrap()));
        }
        streams
    }
}

/// What the server says to a request.
async fn asked(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> Vec<u8> {
    stream.write_all(request).await.unwrap();
    soon(message(stream)).await.unwrap()
}

async fn bound(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), signer: &Signer, id: u32) {
    assert_eq!(code(&asked(stream, &signer.bind(id)).await), 0);
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    soon(stream.read_exact(&mut got)).await.unwrap();
    assert!(got == bytes);
}

/// Waits until nothing more comes.
async fn end(stream: &mut (impl AsyncRead + Unpin)) {
    while !matches!(soon(stream.read(&mut [0; 100])).await, Ok(0) | Err(_)) {}
}

fn binding() -> Vec<u8> {
    request(Method::BINDING).build()
}

#[tokio::test]
async fn a_second_connection_with_a_peer_is_446() {
    let mut scene = Scene::new().await;
    let (_, _peer) = scene.unbound().await;
    let again = scene.client.connect(scene.peer).await;
    assert_eq!(code(&again), 446);
}

#[tokio::test]
async fn a_peer_that_refuses_is_447() {
    let mut scene = Scene::new().await;
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind((LOCALHOST, 0).into()).unwrap();
    let refused = scene.client.connect(deaf.local_addr().unwrap()).await;
    assert_eq!(code(&refused), 447);
    // It is no reason to refuse others.
    scene.unbound().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pair_of_addresses_that_is_in_use_is_447() {
    let mut scene = Scene::new().await;
    // Somebody else's connection has the relayed address and the peer's.
    let other = TcpSocket::new_v4().unwrap();
    other.set_reuseaddr(true).unwrap();
    other.set_reuseport(true).unwrap();
    other.bind(scene.client.relayed).unwrap();
    let other = other.connect(scene.peer).await.unwrap();
    let refused = scene.client.connect(scene.peer).await;
    assert_eq!(code(&refused), 447);
    drop(other);
}

#[tokio::test]
async fn a_used_or_unknown_connection_id_is_400_and_the_stream_goes_on() {
    let mut scene = Scene::new().await;
    let (id, mut peer) = scene.unbound().await;
    let signer = scene.client.signer.clone();
    let mut first = scene.stream().await;
    let unknown = signer.bind(id.wrapping_add(1));
    assert_eq!(code(&asked(&mut first, &unknown).await), 400);
    assert_eq!(code(&asked(&mut first, &binding()).await), 0);
    bound(&mut first, &signer, id).await;
    for mut late in scene.streams().await {
        assert_eq!(code(&asked(&mut late, &signer.bind(id)).await), 400);
        assert_eq!(code(&asked(&mut late, &binding()).await), 0);
    }
    first.write_all(b"unharmed").await.unwrap();
    expect(&mut peer, b"unharmed").await;
    drop(first);
    end(&mut peer).await;
    let mut late = scene.stream().await;
    assert_eq!(code(&asked(&mut late, &signer.bind(id)).await), 400);
    assert_eq!(code(&asked(&mut late, &binding()).await), 0);
}

#[tokio::test]
async fn what_a_client_sends_right_behind_connection_bind_is_the_peers() {
    let mut scene = Scene::new().await;
    // Bytes that would be a message of their own, and some that never are.
    let data = [binding(), vec![0xff; 70_000]].concat();
    for mut stream in scene.streams().await {
        let (id, mut peer) = scene.unbound().await;
        let said = [binding(), scene.client.signer.bind(id), data.clone()].concat();
        stream.write_all(&said).await.unwrap();
        for _ in 0..2 {
            assert_eq!(code(&soon(message(&mut stream)).await.unwrap()), 0);
        }
        expect(&mut peer, &data).await;
        peer.write_all(b"heard").await.unwrap();
        expect(&mut stream, b"heard").await;
        drop(stream);
        end(&mut peer).await;
        // The relay's end of it is in the way of the next connection with the same peer.
        scene.listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        scene.peer = scene.listener.local_addr().unwrap();
    }
}

#[tokio::test]
async fn what_a_client_sends_right_behind_a_refused_connection_bind_is_answered() {
    let scene = Scene::new().await;
    for mut stream in scene.streams().await {
        let said = [scene.client.signer.bind(1), binding()].concat();
        stream.write_all(&said).await.unwrap();
        for expected in [400, 0] {
            let answer = soon(message(&mut stream)).await.unwrap();
            assert_eq!(code(&answer), expected);
        }
    }
}

#[tokio::test]
async fn what_a_peer_says_before_anybody_listens_is_kept() {
    let mut scene = Scene::new().await;
    let early: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    scene.client.permit(scene.peer).await;
    for mut stream in scene.streams().await {
        // It calls, says all, and leaves.
        let mut peer = TcpStream::connect(scene.client.relayed).await.unwrap();
        peer.write_all(&early).await.unwrap();
        peer.shutdown().await.unwrap();
        let attempt = soon(message(&mut scene.client.stream)).await.unwrap();
        let id = connection_id(&attempt);
        bound(&mut stream, &scene.client.signer, id).await;
        let mut got = Vec::new();
        soon(stream.read_to_end(&mut got)).await.unwrap();
        assert!(got == early, "{} bytes", got.len());
        stream.write_all(b"thanks").await.unwrap();
        expect(&mut peer, b"thanks").await;
    }
}

#[tokio::test]
async fn two_hundred_connections_of_one_client_do_not_fill_the_place_of_strangers() {
    let mut scene = Scene::new().await;
    let mut made = Vec::new();
    for _ in 0..200 {
        let (id, peer) = scene.unbound().await;
        made.push((id, peer));
        // One connection with a peer is enough: the next one is to another.
        scene.listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        scene.peer = scene.listener.local_addr().unwrap();
    }
    let (signer, scene) = (&scene.client.signer, &scene);
    let bind = |(id, peer): (u32, TcpStream)| async move {
        let mut stream = scene.stream().await;
        bound(&mut stream, signer, id).await;
        (id, stream, peer)
    };
    // Until it is bound, each has a place among the strangers of its source.
    let bound = stream::iter(made).map(bind).buffer_unordered(32);
    let mut joined: Vec<_> = bound.collect().await;
    for (id, stream, _) in &mut joined {
        stream.write_all(&id.to_be_bytes()).await.unwrap();
    }
    for (id, _, peer) in &mut joined {
        expect(peer, &id.to_be_bytes()).await;
    }
    let mut stranger = scene.stream().await;
    assert_eq!(code(&asked(&mut stranger, &binding()).await), 0);
}

#[tokio::test]
async fn the_quota_bounds_data_connections() {
    let config = TurnConfig {
        quota_address: 1,
        ..TurnConfig::default()
    };
    let mut scene = Scene::with(config).await;
    let mut made = Vec::new();
    let refused = loop {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let answer = scene.client.connect(listener.local_addr().unwrap()).await;
        if code(&answer) != 0 {
            break code(&answer);
        }
        made.push(listener);
        assert!(made.len() < 100);
    };
    assert_eq!((refused, made.len()), (508, 16));
}

#[tokio::test]
async fn a_side_that_has_said_all_is_not_waited_with_for_ever() {
    let mut scene = Scene::new().await;
    let (id, mut peer) = scene.unbound().await;
    let mut stream = scene.stream().await;
    bound(&mut stream, &scene.client.signer, id).await;
    stream.shutdown().await.unwrap();
    assert_eq!(soon(peer.read(&mut [0])).await.unwrap(), 0);
    pause();
    let started = Instant::now();
    let ended = timeout(Duration::from_secs(600), stream.read(&mut [0])).await;
    assert!(matches!(ended.unwrap(), Ok(0) | Err(_)));
    let waited = started.elapsed().as_secs();
    // Some of the 30 s may be over before virtual time begins.
    assert!((15..35).contains(&waited), "{waited} s");
}

#[tokio::test]
async fn a_side_that_leaves_without_a_word_is_told_of_to_the_other() {
    let mut scene = Scene::new().await;
    for mut stream in scene.streams().await {
        let (id, mut peer) = scene.unbound().await;
        bound(&mut stream, &scene.client.signer, id).await;
        stream.write_all(b"last words").await.unwrap();
        // No close_notify over TLS, and a reset where something was not read.
        peer.write_all(b"unheard").await.unwrap();
        expect(&mut peer, b"last words").await;
        drop(stream);
        end(&mut peer).await;
        drop(peer);
        scene.listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        scene.peer = scene.listener.local_addr().unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_allocation_ends_connections_that_nobody_bound() {
    let mut scene = Scene::new().await;
    let (_, mut peer) = scene.unbound().await;
    let caller = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    scene.client.permit(caller.local_addr().unwrap()).await;
    let mut calling = TcpStream::connect(scene.client.relayed).await.unwrap();
    soon(message(&mut scene.client.stream)).await.unwrap();
    let refresh = request(Method::REFRESH).attribute(&Lifetime(0));
    assert_eq!(code(&scene.client.ask(refresh).await), 0);
    end(&mut peer).await;
    end(&mut calling).await;
    // The connections may end before the port is closed.
    let closed = async {
        while TcpStream::connect(scene.client.relayed).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(closed).await;
}

#[tokio::test]
async fn the_end_of_the_control_connection_ends_the_data_connections() {
    let mut scene = Scene::new().await;
    for mut stream in scene.streams().await {
        let (id, mut peer) = scene.unbound().await;
        bound(&mut stream, &scene.client.signer, id).await;
        scene.client = scene.relay.allocation().await;
        end(&mut peer).await;
        end(&mut stream).await;
    }
}
