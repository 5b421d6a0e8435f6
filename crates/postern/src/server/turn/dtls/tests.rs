//! DTLS on loopback sockets.

use std::net::SocketAddr;
use std::time::Duration;

use postern_wire::stun::{Builder, Class, Message, Method, TransactionId};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::DtlsSocket;
use crate::server::{Server, ServerConfig, TurnConfig};
use crate::trust::Trust;

/// Longer than an answer takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    trust: Trust,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start() -> Self {
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
        let uri = |uri: &String| {
            let address = uri.strip_prefix("turns:")?.strip_suffix("?transport=udp")?;
            address.parse().ok()
        };
        Self {
            address: server.turn_uris().iter().find_map(uri).unwrap(),
            trust: Trust::Pinned(server.url().pin().unwrap()),
            task: tokio::spawn(server.run()),
        }
    }

    async fn socket(&self, from: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(from).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    async fn client(&self, socket: UdpSocket) -> DtlsSocket {
        let connecting = DtlsSocket::connect(socket, "127.0.0.1", &self.trust);
        timeout(LIMIT, connecting).await.unwrap().unwrap()
    }
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The class of the answer to a Binding request.
async fn bind(client: &mut DtlsSocket, id: u8) -> Class {
    let request = Builder::new(Class::Request, Method::BINDING, TransactionId([id; 12]));
    client.send(&request.build()).unwrap();
    let answer = timeout(LIMIT, client.recv()).await.unwrap();
    let answer = answer.unwrap().unwrap();
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.transaction_id(), TransactionId([id; 12]));
    answer.class()
}

#[tokio::test]
async fn what_a_stranger_sends_in_a_clients_name_does_not_disturb_its_session() {
    let server = Running::start();
    let socket = server.socket(ANY).await.into_std().unwrap();
    let stranger = socket.try_clone().unwrap();
    let mut client = server.client(UdpSocket::from_std(socket).unwrap()).await;
    assert_eq!(bind(&mut client, 1).await, Class::Success);

    let hello = [
        22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 12, 1, 0, 0, 0, 0, 0,
    ];
    let hello = [&hello[..], &[0; 6]].concat();
    let alert = records::alert(&hello, 40).unwrap();
    let data = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 32];
    let data = [&data[..], &[7; 32]].concat();
    for datagram in [&hello, &alert, &data] {
        stranger.send(datagram).unwrap();
    }
    assert_eq!(bind(&mut client, 2).await, Class::Success);
}

#[tokio::test]
async fn a_client_that_begins_anew_at_the_same_address_replaces_its_session() {
    let server = Running::start();
    let socket = server.socket(ANY).await;
    let from = socket.local_addr().unwrap();
    let mut client = server.client(socket).await;
    assert_eq!(bind(&mut client, 1).await, Class::Success);
    drop(client);
    for id in 2..5 {
        let mut client = server.client(server.socket(from).await).await;
        assert_eq!(bind(&mut client, id).await, Class::Success);
    }
}

#[tokio::test]
async fn a_source_has_its_share_of_the_sessions() {
    let server = Running::start();
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = server.client(server.socket(ANY).await).await;
        assert_eq!(bind(&mut client, 1).await, Class::Success);
        clients.push(client);
    }
    let mut refused = server.client(server.socket(ANY).await).await;
    let request = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12]));
    refused.send(&request.build()).unwrap();
    let silence = timeout(Duration::from_millis(300), refused.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    clients.remove(0).close();
    sleep(Duration::from_millis(300)).await;
    let mut client = server.client(server.socket(ANY).await).await;
    assert_eq!(bind(&mut client, 1).await, Class::Success);
}
