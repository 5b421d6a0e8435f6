//! A TURN client without manners, and the server it meets: it says what a test wants to say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_wire::stun::{
    Builder, Class, ErrorCode, Message, Method, Nonce, Realm, TransactionId, Username,
    long_term_key_md5,
};
use postern_wire::turn::{
    ConnectionId, RequestedTransport, StreamFrame, XorPeerAddress, XorRelayedAddress, split_stream,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Trust;
use crate::server::{Server, ServerConfig, TurnConfig};

pub(super) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Longer than anything takes on a busy machine.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// What comes in time.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap()
}

/// A server that relays to loopback until it is dropped.
pub(super) struct Relay {
    task: JoinHandle<()>,
    pub(super) tcp: SocketAddr,
    /// The signalling port, and the TLS port of TURN.
    pub(super) secure: [SocketAddr; 2],
    trust: Trust,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    pub(super) fn start(turn: TurnConfig) -> Self {
        let config = ServerConfig {
            listen: vec![LOCALHOST],
            port: 0,
            stun_port: 0,
            turn: Some(TurnConfig {
                users: vec![("user".to_owned(), "pass".to_owned())],
                allow_peers: vec!["127.0.0.0/8".parse().unwrap()],
                tls_port: 0,
                ..turn
            }),
            unproven_rate: None,
            ..ServerConfig::default()
        };
        // The TCP port is that of UDP, and may be another test's.
        let bound = (0..20).find_map(|_| Server::bind(config.clone()).ok());
        let server = bound.unwrap();
        let at = |scheme| {
            let uris = server.turn_uris().iter();
            uris.filter_map(move |uri: &String| {
                let address = uri.strip_prefix(scheme)?;
                address.strip_suffix("?transport=tcp")?.parse().ok()
            })
        };
        let secure: Vec<_> = at("turns:").collect();
        Self {
            tcp: at("turn:").next().unwrap(),
            secure: secure.try_into().unwrap(),
            trust: Trust::Pinned(server.url().pin().unwrap()),
            task: tokio::spawn(server.run()),
        }
    }

    pub(super) async fn tls(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let config = self.trust.client_config(&[]).unwrap();
        let stream = TcpStream::connect(address).await?;
        let name = "127.0.0.1".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    /// An allocation of TCP over TCP.
    pub(super) async fn allocation(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.tcp).await.unwrap();
        Client::allocate(stream).await.unwrap()
    }
}

/// A client's stream, and what it signs with.
pub(super) struct Client<S> {
    pub(super) stream: S,
    pub(super) signer: Signer,
    pub(super) relayed: SocketAddr,
}

/// The credentials, after a challenge.
#[derive(Clone)]
pub(super) struct Signer {
    realm: String,
    nonce: String,
    key: [u8; 16],
}

impl Signer {
    fn new(challenge: &[u8]) -> Self {
        let message = Message::parse(challenge).unwrap();
        let realm: Realm<'_> = message.get().unwrap().unwrap();
        let nonce: Nonce<'_> = message.get().unwrap().unwrap();
        Self {
            key: long_term_key_md5("user", realm.as_str(), "pass"),
            realm: realm.as_str().to_owned(),
            nonce: nonce.as_str().to_owned(),
        }
    }

    pub(super) fn sign(&self, request: Builder) -> Vec<u8> {
        request
            .attribute(&Username::new("user").unwrap())
            .attribute(&Realm::new(&self.realm).unwrap())
            .attribute(&Nonce::new(&self.nonce).unwrap())
            .message_integrity(&self.key)
            .build()
    }

    pub(super) fn bind(&self, id: u32) -> Vec<u8> {
        self.sign(request(Method::CONNECTION_BIND).attribute(&ConnectionId(id)))
    }
}

/// Starts a request.
pub(super) fn request(method: Method) -> Builder {
    Builder::new(Class::Request, method, TransactionId(rand_id()))
}

fn rand_id() -> [u8; 12] {
    let seed = crate::entropy::seed().unwrap();
    *seed.first_chunk().unwrap()
}

/// Reads one message, and nothing beyond it.
pub(super) async fn message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).await?;
    loop {
        let needed = match split_stream(&bytes).unwrap() {
            StreamFrame::Incomplete { needed } => needed,
            StreamFrame::Stun { length } if length > bytes.len() => length,
            StreamFrame::Stun { .. } => return Ok(bytes),
            StreamFrame::ChannelData { .. } => panic!("data instead of an answer"),
        };
        let have = bytes.len();
        bytes.resize(needed, 0);
        stream.read_exact(&mut bytes[have..]).await?;
    }
}

/// The code of an error response, 0 of a success.
pub(super) fn code(answer: &[u8]) -> u16 {
    let message = Message::parse(answer).unwrap();
    let code: Option<ErrorCode<'_>> = message.get().unwrap();
    assert_eq!(code.is_none(), message.class() == Class::Success);
    code.map_or(0, |code| code.code())
}

/// The CONNECTION-ID of a response or indication.
pub(super) fn connection_id(answer: &[u8]) -> u32 {
    let id: Option<ConnectionId> = Message::parse(answer).unwrap().get().unwrap();
    id.unwrap().0
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Allocates a TCP relay.
    pub(super) async fn allocate(mut stream: S) -> io::Result<Self> {
        let allocate = || request(Method::ALLOCATE).attribute(&RequestedTransport::TCP);
        stream.write_all(&allocate().build()).await?;
        let signer = Signer::new(&soon(message(&mut stream)).await?);
        stream.write_all(&signer.sign(allocate())).await?;
        let answer = soon(message(&mut stream)).await?;
        let relayed: XorRelayedAddress = Message::parse(&answer).unwrap().get().unwrap().unwrap();
        Ok(Self {
            stream,
            signer,
            relayed: relayed.0,
        })
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&mut self, request: Builder) -> Vec<u8> {
        let request = self.signer.sign(request);
        self.stream.write_all(&request).await.unwrap();
        soon(message(&mut self.stream)).await.unwrap()
    }

    /// The answer to a Connect request.
    pub(super) async fn connect(&mut self, peer: SocketAddr) -> Vec<u8> {
        self.ask(request(Method::CONNECT).attribute(&XorPeerAddress(peer)))
            .await
    }

    pub(super) async fn permit(&mut self, peer: SocketAddr) {
        let permit = request(Method::CREATE_PERMISSION).attribute(&XorPeerAddress(peer));
        assert_eq!(code(&self.ask(permit).await), 0);
    }
}
