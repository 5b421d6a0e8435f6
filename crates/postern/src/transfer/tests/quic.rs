//! Transfers over real QUIC streams on the loopback interface.

use super::*;
use noq::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Two connected endpoints: client, server.
async fn connected() -> [(Endpoint, Connection); 2] {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let certified = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let server = Endpoint::server(config, any).unwrap();
    let client = Endpoint::client(any).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    client.set_default_client_config(config);
    let connecting = client
        .connect(server.local_addr().unwrap(), "peer")
        .unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    [(client, connected.unwrap()), (server, accepted)]
}

async fn send_over(connection: &Connection, source: Source) -> Result<Summary, SendError> {
    let (mut out, stream) = connection.open_bi().await.unwrap();
    send(source, &mut out, stream, |_| {}).await
}

async fn receive_over(connection: &Connection, output: OutputDir) -> Result<Summary, ReceiveError> {
    let (mut out, stream) = connection.accept_bi().await.unwrap();
    let policy = ReceivePolicy::default();
    receive(output, policy, async |_| true, &mut out, stream, |_| {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_arrive_over_quic() {
    let dirs = Dirs::new();
    let bytes = noise(64 << 20);
    let source = Source::prepare([dirs.write("big", &bytes), dirs.write("small", b"x")]).unwrap();
    let [(_client, left), (_server, right)] = connected().await;
    let before = Instant::now();
    let output = dirs.output();
    let receiver = tokio::spawn(async move { receive_over(&right, output).await });
    send_over(&left, source).await.unwrap();
    let took = before.elapsed();
    left.close(0u32.into(), b"done");
    receiver.await.unwrap().unwrap();
    println!("{:.0} MB/s", bytes.len() as f64 / 1e6 / took.as_secs_f64());
    assert!(dirs.received("big") == bytes);
    assert_eq!(dirs.names(), ["big", "small"]);
}

#[tokio::test]
async fn a_refusal_is_heard_over_quic() {
    let dirs = Dirs::new();
    std::fs::write(dirs.to.path().join("a"), b"old").unwrap();
    let source = Source::prepare([dirs.write("a", b"new")]).unwrap();
    let [(_client, left), (_server, right)] = connected().await;
    let before = Instant::now();
    let (sent, received) = tokio::join!(
        send_over(&left, source),
        receive_over(&right, dirs.output())
    );
    assert_eq!(sent.unwrap_err().kind(), "exists");
    assert_eq!(received.unwrap_err().kind(), "exists");
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "nobody waits in vain"
    );
}

#[tokio::test]
async fn a_connection_that_is_closed_ends_both_sides() {
    let dirs = Dirs::new();
    let source = Source::prepare([dirs.write("a", &noise(64 << 20))]).unwrap();
    let [(_client, left), (_server, right)] = connected().await;
    let close = async {
        while dirs.names().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        left.close(7u32.into(), b"gone");
    };
    let (sent, received, ()) = tokio::join!(
        send_over(&left, source),
        receive_over(&right, dirs.output()),
        close
    );
    assert_eq!(sent.unwrap_err().kind(), "disconnected");
    assert_eq!(received.unwrap_err().kind(), "disconnected");
    assert_eq!(dirs.names(), [""; 0]);
}
