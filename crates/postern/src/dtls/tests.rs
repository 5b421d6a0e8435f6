use std::net::SocketAddr;

use dimpl::{Config, Dtls, Output};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;
use crate::clock;
use crate::quic::Identity;
use crate::trust::Trust;

#[test]
fn the_cryptography_passes_the_test_vectors() {
    config().unwrap();
}

fn identity() -> Identity {
    Identity::generate(vec!["localhost".to_owned()]).unwrap()
}

fn server(config: Arc<Config>, identity: &Identity) -> Dtls {
    let own = certificate(&identity.chain()[0], &identity.key()).unwrap();
    Dtls::new_auto(config, own, clock::now())
}

/// A server that answers each datagram with the same one.
async fn echo(socket: UdpSocket, mut dtls: Dtls) {
    let mut input = vec![0; 65_536];
    let mut output = vec![0; 65_536];
    let (mut length, mut peer) = socket.recv_from(&mut input).await.unwrap();
    loop {
        dtls.handle_timeout(clock::now()).unwrap();
        dtls.handle_packet(&input[..length]).unwrap();
        let mut data = Vec::new();
        loop {
            match dtls.poll_output(&mut output) {
                Output::Packet(packet) => drop(socket.try_send_to(packet, peer)),
                Output::ApplicationData(bytes) => data.push(bytes.to_vec()),
                Output::Timeout(_) if data.is_empty() => break,
                Output::Timeout(_) => dtls
                    .send_application_data(&data.remove(0))
                    .map(drop)
                    .unwrap(),
                Output::BufferTooSmall { .. }
                | Output::Connected
                | Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::CloseNotify
                | _ => {}
            }
        }
        (length, peer) = socket.recv_from(&mut input).await.unwrap();
    }
}

async fn connected_to(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn serving(identity: &Identity) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let dtls = server(config().unwrap(), identity);
    (address, tokio::spawn(echo(socket, dtls)))
}

#[tokio::test]
async fn datagrams_reach_a_server_with_the_pinned_certificate() {
    let identity = identity();
    let (address, _task) = serving(&identity).await;
    let trust = Trust::Pinned(identity.fingerprint());
    let socket = connected_to(address).await;
    let mut client = DtlsSocket::connect(socket, "localhost", &trust)
        .await
        .unwrap();
    for length in [1, 1400, MAX_CONTENT] {
        let datagram = vec![7; length];
        client.send(&datagram).unwrap();
        assert_eq!(client.recv().await.unwrap().unwrap(), datagram);
    }
    assert!(client.send(&vec![0; MAX_CONTENT + 1]).is_err());
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_refused() {
    let (address, _task) = serving(&identity()).await;
    let trust = Trust::Pinned(identity().fingerprint());
    let error = DtlsSocket::connect(connected_to(address).await, "localhost", &trust).await;
    assert!(
        matches!(error, Err(DtlsError::WrongPin { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_certificate_is_good_for_its_own_name_only_and_if_somebody_vouches_for_it() {
    let identity = identity();
    let authority = Trust::Authorities(vec![identity.chain()[0].clone()]);
    for (trust, name, good) in [
        (&authority, "localhost", true),
        (&authority, "example.org", false),
        (&Trust::System, "localhost", false),
    ] {
        let (address, task) = serving(&identity).await;
        let connected = DtlsSocket::connect(connected_to(address).await, name, trust).await;
        task.abort();
        assert_eq!(connected.is_ok(), good, "{name}: {connected:?}");
        if let Err(error) = connected {
            assert!(matches!(error, DtlsError::Certificate { .. }), "{error:?}");
        }
    }
}

/// An OpenSSL server with an RSA certificate says this to a client that knows ECDSA only.
#[tokio::test]
async fn a_server_that_cannot_agree_has_an_rsa_certificate_the_error_says() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let refuse = async {
        let mut hello = vec![0; 2048];
        let (length, peer) = socket.recv_from(&mut hello).await.unwrap();
        let alert = records::alert(&hello[..length], 40).unwrap();
        socket.send_to(&alert, peer).await.unwrap();
    };
    let connect = async {
        let socket = connected_to(address).await;
        DtlsSocket::connect(socket, "localhost", &Trust::System).await
    };
    let (error, ()) = tokio::join!(connect, refuse);
    let error = error.unwrap_err();
    assert!(matches!(error, DtlsError::NotEcdsa { .. }), "{error:?}");
    assert!(error.to_string().contains("RSA"));
}

#[tokio::test]
async fn a_port_where_nobody_is_does_not_answer() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = socket.local_addr().unwrap();
    drop(socket);
    let connecting = DtlsSocket::connect(connected_to(nobody).await, "localhost", &Trust::System);
    let error = timeout(HANDSHAKE_TIMEOUT, connecting).await.unwrap();
    assert!(matches!(error, Err(DtlsError::Silent { .. })), "{error:?}");
}
