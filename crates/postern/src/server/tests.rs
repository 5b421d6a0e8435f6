//! The server on loopback sockets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::signal::{Failure, RendezvousEvent};
use postern_wire::signal::{CloseReason, Fingerprint};
use postern_wire::stun::{Builder, Class, Message, Method, TransactionId, XorMappedAddress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::{advance, pause, resume, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Server, ServerConfig, TurnConfig};
use crate::dialer::Introducer;
use crate::quic::Identity;
use crate::rendezvous::{self, Side, Signalling};
use crate::server_url::ServerUrl;
use crate::tls;
use crate::trust::Trust;

/// A server that runs until it is dropped.
struct Running {
    url: ServerUrl,
    stun: Vec<String>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(listen: &[&str]) -> Self {
        let config = ServerConfig {
            listen: listen.iter().map(|ip| ip.parse().unwrap()).collect(),
            port: 0,
            stun_port: 0,
            ..ServerConfig::default()
        };
        let server = Server::bind(config).unwrap();
        Self {
            url: server.url().clone(),
            stun: server.stun_uris().to_vec(),
            task: tokio::spawn(server.run()),
        }
    }

    async fn tcp(&self) -> TcpStream {
        let host: IpAddr = self.url.host().parse().unwrap();
        TcpStream::connect((host, self.url.port())).await.unwrap()
    }

    /// A WebSocket with a mailbox.
    async fn client(&self) -> Signalling {
        let wait = Duration::from_secs(3600);
        let introducer = Introducer {
            url: self.url.clone(),
            proxy: None,
        };
        let mut client = rendezvous::enter(introducer, Side::Create, wait)
            .await
            .unwrap();
        while !matches!(
            client.events.recv().await.unwrap(),
            RendezvousEvent::CodeReady(_)
        ) {}
        client
    }

    fn stun_port(&self) -> u16 {
        let (_, port) = self.stun[0].rsplit_once(':').unwrap();
        port.parse().unwrap()
    }
}

#[tokio::test]
async fn stun_is_answered_over_tcp_without_relays_and_nothing_else_is() {
    let server = Running::start(&["127.0.0.1"]);
    let address = ("127.0.0.1", server.stun_port());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = |method| Builder::new(Class::Request, method, TransactionId([7; 12])).build();
    // Without relays there is nothing to allocate: that is not answered.
    let both = [request(Method::ALLOCATE), request(Method::BINDING)].concat();
    stream.write_all(&both).await.unwrap();
    let mut answer = [0; 200];
    let length = stream.read(&mut answer).await.unwrap();
    let message = Message::parse(&answer[..length]).unwrap();
    assert_eq!(
        (message.method(), message.class()),
        (Method::BINDING, Class::Success)
    );
    let mapped: Option<XorMappedAddress> = message.get().unwrap();
    assert_eq!(mapped.unwrap().0, stream.local_addr().unwrap());
}

/// Whether the server has hung up.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_client_that_sends_requests_and_reads_no_answer_is_cut_off() {
    let server = Running::start(&["127.0.0.1"]);
    let (mut stream, _) = tls::connect(&server.url, None).await.unwrap();
    pause();
    let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    while stream.write_all(request.as_bytes()).await.is_ok() {}
}

#[tokio::test]
async fn a_web_socket_outlives_the_limit_on_its_setting_up() {
    let server = Running::start(&["127.0.0.1"]);
    let mut client = server.client().await;
    pause();
    advance(Duration::from_secs(15)).await;
    resume();
    let silence = timeout(Duration::from_millis(300), client.events.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_web_socket_keeps_its_place_and_gives_it_back() {
    let server = Running::start(&["127.0.0.1"]);
    let client = server.client().await;
    let mut idle = Vec::new();
    for _ in 0..63 {
        idle.push(server.tcp().await);
    }
    assert!(is_closed(&mut server.tcp().await).await);
    drop(idle);
    drop(client);
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.client().await;
}

#[tokio::test]
async fn all_addresses_of_both_families_can_be_listened_on() {
    let server = Running::start(&["0.0.0.0", "::"]);
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().unwrap(), server.url.port());
        TcpStream::connect(address).await.unwrap();
    }
    assert_eq!(server.stun.len(), 2);
}

#[tokio::test]
async fn stun_answers_from_the_address_that_was_asked() {
    let server = Running::start(&["0.0.0.0"]);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked: SocketAddr = format!("127.9.8.7:{}", server.stun_port()).parse().unwrap();
    let id = TransactionId([7; 12]);
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    client.send_to(&request, asked).await.unwrap();
    let mut buffer = [0; 1500];
    let answer = timeout(Duration::from_secs(5), client.recv_from(&mut buffer));
    let (length, from) = answer.await.unwrap().unwrap();
    assert_eq!(from, asked);
    let answer = Message::parse(&buffer[..length]).unwrap();
    assert_eq!(
        (answer.class(), answer.transaction_id()),
        (Class::Success, id)
    );
}

#[tokio::test]
async fn clients_are_told_the_public_address() {
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        public: vec!["192.0.2.7".parse().unwrap()],
        ..ServerConfig::default()
    };
    let server = Server::bind(config).unwrap();
    assert_eq!(server.url().host(), "192.0.2.7");
    assert!(server.stun_uris()[0].starts_with("stun:192.0.2.7:"));
}

#[tokio::test]
async fn without_relays_nobody_is_challenged_and_nothing_is_told() {
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        ..ServerConfig::default()
    };
    let server = Server::bind(config).unwrap();
    assert!(server.turn_uris().is_empty() && server.issuer().is_none());
    let asked = server.stun_uris()[0].trim_start_matches("stun:").to_owned();
    let _running = tokio::spawn(server.run());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for method in [Method::ALLOCATE, Method::BINDING] {
        let request = Builder::new(Class::Request, method, TransactionId([7; 12])).build();
        client.send_to(&request, &asked).await.unwrap();
    }
    let mut buffer = [0; 1500];
    let answer = timeout(Duration::from_secs(5), client.recv_from(&mut buffer));
    let (length, _) = answer.await.unwrap().unwrap();
    let answer = Message::parse(&buffer[..length]).unwrap();
    assert_eq!(answer.method(), Method::BINDING);
}

#[tokio::test]
async fn the_server_issues_credentials_for_its_relays() {
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        turn: Some(TurnConfig {
            tls_port: 0,
            ..TurnConfig::default()
        }),
        ..ServerConfig::default()
    };
    let server = Server::bind(config).unwrap();
    assert_eq!(server.turn_uris().len(), 5);
    let issued = server.issuer().unwrap();
    let issued = issued
        .issue(Duration::from_secs(60), Some("alice"))
        .unwrap();
    assert!(issued.username.ends_with(":alice") && !issued.password.is_empty());
}

/// The files of a certificate that names the loopback address.
fn certificate_files(directory: &std::path::Path) -> (super::CertificateFiles, Fingerprint) {
    let identity = Identity::generate(vec!["127.0.0.1".to_owned()]).unwrap();
    let pem = |label: &str, der: &[u8]| {
        let text = data_encoding::BASE64.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let files = super::CertificateFiles {
        chain: directory.join("chain.pem"),
        key: directory.join("key.pem"),
    };
    let chain = pem("CERTIFICATE", identity.chain().first().unwrap());
    std::fs::write(&files.chain, chain).unwrap();
    let key = pem("PRIVATE KEY", identity.key().secret_der());
    std::fs::write(&files.key, key).unwrap();
    (files, identity.fingerprint())
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (files, first) = certificate_files(directory.path());
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        certificate: Some(files.clone()),
        ..ServerConfig::default()
    };
    let server = Server::bind(config.clone()).unwrap();
    let (control, url) = (server.control(), server.url().clone());
    let _running = tokio::spawn(server.run());
    let pinned = |pin| {
        let host = url::Host::parse(&url.host()).unwrap();
        ServerUrl::new(host, url.port(), Some(pin))
    };
    tls::connect(&pinned(first), None).await.unwrap();
    let (_, second) = certificate_files(directory.path());
    control.reload(&config).await.unwrap();
    tls::connect(&pinned(second), None).await.unwrap();
    assert!(tls::connect(&pinned(first), None).await.is_err());
    std::fs::write(&files.chain, "nonsense").unwrap();
    let refused = control.reload(&config).await.unwrap_err();
    assert!(matches!(refused, super::ServerError::Certificate(_)));
    tls::connect(&pinned(second), None).await.unwrap();
}

#[tokio::test]
async fn those_who_wait_are_told_when_the_server_drains() {
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        ..ServerConfig::default()
    };
    let server = Server::bind(config).unwrap();
    let (control, url) = (server.control(), server.url().clone());
    let server = Running {
        url,
        stun: server.stun_uris().to_vec(),
        task: tokio::spawn(server.run()),
    };
    let mut client = server.client().await;
    let waits = control.usage().await;
    assert_eq!((waits.allocations, waits.meetings), (0, 1));
    control.drain(super::Alternates::default()).await;
    let told = client.events.recv().await.unwrap();
    let reason = CloseReason::Shutdown;
    let down = RendezvousEvent::Failed(Failure::ServerClosed { reason });
    assert_eq!(told, down);
    let left = timeout(Duration::from_secs(5), control.usage_but(waits));
    assert_eq!(left.await.unwrap(), super::Usage::NONE);
    control.farewell().await;
}

#[tokio::test]
async fn metrics_are_not_for_the_public_internet_unless_told() {
    let mut config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        metrics: Some("0.0.0.0:0".parse().unwrap()),
        ..ServerConfig::default()
    };
    let refused = Server::bind(config.clone()).unwrap_err();
    assert!(matches!(refused, super::ServerError::PublicMetrics(_)));
    config.metrics_public = true;
    assert!(Server::bind(config).unwrap().metrics_address().is_some());
}

/// A TLS stream to the one port of a server with relays, for a client that offers these.
async fn offering(
    address: SocketAddr,
    trust: &Trust,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = trust.client_config(protocols).unwrap();
    let stream = TcpStream::connect(address).await?;
    let name = "127.0.0.1".try_into().unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// ALPN as clients use it: none, coturn's, a browser's, and what nobody knows.
const OFFERS: [&[&[u8]]; 7] = [
    &[],
    &[b"http/1.1", b"stun.turn", b"stun.nat-discovery"],
    &[b"http/1.1"],
    &[b"stun.turn"],
    &[b"h2", b"http/1.1"],
    &[b"h2"],
    &[b"unheard-of"],
];

/// A server with relays, its one port, and the TLS port of the relay.
fn with_relays() -> (Running, SocketAddr, SocketAddr) {
    let config = ServerConfig {
        listen: vec!["127.0.0.1".parse().unwrap()],
        port: 0,
        stun_port: 0,
        turn: Some(TurnConfig {
            tls_port: 0,
            ..TurnConfig::default()
        }),
        ..ServerConfig::default()
    };
    // The TCP port is that of UDP, and may be another test's.
    let bound = (0..20).find_map(|_| Server::bind(config.clone()).ok());
    let server = bound.unwrap();
    let mut secure = server.turn_uris().iter().filter_map(|uri| {
        let address = uri.strip_prefix("turns:")?;
        address.strip_suffix("?transport=tcp")?.parse().ok()
    });
    let (web, tls) = (secure.next().unwrap(), secure.next().unwrap());
    let running = Running {
        url: server.url().clone(),
        stun: server.stun_uris().to_vec(),
        task: tokio::spawn(server.run()),
    };
    (running, web, tls)
}

/// What the answer to this begins with.
async fn answer(stream: &mut TlsStream<TcpStream>, said: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(said).await.unwrap();
    let mut got = vec![0; length];
    let read = timeout(Duration::from_secs(20), stream.read_exact(&mut got)).await;
    read.unwrap().unwrap();
    got
}

#[tokio::test]
async fn the_first_byte_decides_between_turn_and_http_whatever_is_offered() {
    let (server, web, tls) = with_relays();
    let trust = Trust::Pinned(server.url.pin().unwrap());
    let request = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
    let exchanges: [(_, &[u8], &[u8]); 5] = [
        (tls, &request, &[0x01, 0x01, 0x00]),
        (web, &request, &[0x01, 0x01, 0x00]),
        (web, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 4"),
        (
            web,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"HTTP/1.1 505",
        ),
        // ChannelData cannot come first.
        (web, &[0x40, 0, 0, 4, 1, 2, 3, 4], b"HTTP/1.1 400"),
    ];
    for protocols in OFFERS {
        for (address, said, begins) in exchanges {
            let mut stream = offering(address, &trust, protocols).await.unwrap();
            let got = answer(&mut stream, said, begins.len()).await;
            assert_eq!(got, begins, "{protocols:?}");
        }
    }
}

#[tokio::test]
async fn a_client_is_told_the_first_protocol_of_ours_that_it_offers_or_none() {
    let (server, web, tls) = with_relays();
    let trust = Trust::Pinned(server.url.pin().unwrap());
    let told: [Option<&[u8]>; 7] = [
        None,
        Some(b"stun.turn"),
        Some(b"http/1.1"),
        Some(b"stun.turn"),
        Some(b"http/1.1"),
        None,
        None,
    ];
    for (protocols, told) in OFFERS.into_iter().zip(told) {
        for address in [web, tls] {
            let stream = offering(address, &trust, protocols).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), told, "{protocols:?}");
        }
    }
}

#[tokio::test]
async fn who_speaks_http_2_gets_a_whole_answer_and_the_end() {
    let (server, web, _) = with_relays();
    let trust = Trust::Pinned(server.url.pin().unwrap());
    let mut stream = offering(web, &trust, &[b"h2"]).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(&preface[..]).await.unwrap();
    stream.write_all(&[0; 100]).await.unwrap();
    let mut answer = String::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.ends_with("\r\n\r\n"));
}
