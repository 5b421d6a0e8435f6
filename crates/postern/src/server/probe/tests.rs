//! Probes over loopback, which is allowed here.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::probe::{ProbeError, Refusal, ask};
use crate::server::{Server as WholeServer, ServerConfig};
use crate::server_url::ServerUrl;
use crate::tls;

struct Running {
    url: ServerUrl,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn start(probe: Option<ProbeConfig>) -> Running {
    start_with(probe, Vec::new())
}

fn start_with(probe: Option<ProbeConfig>, alternate_ips: Vec<IpAddr>) -> Running {
    let config = ServerConfig {
        listen: vec![HERE],
        port: 0,
        stun_port: 0,
        probe,
        alternate_ips,
        alternate_port: Some(0),
        ..ServerConfig::default()
    };
    let server = WholeServer::bind(config).unwrap();
    Running {
        url: server.url().clone(),
        task: tokio::spawn(server.run()),
    }
}

fn for_loopback() -> Running {
    start(Some(loopback()))
}

fn loopback() -> ProbeConfig {
    ProbeConfig {
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        ..ProbeConfig::default()
    }
}

async fn outcome(server: &Running, request: Request) -> Outcome {
    let answer = ask(&server.url, Some(HERE), &request).await.unwrap();
    assert_eq!(answer.address, HERE);
    answer.outcome().unwrap()
}

#[tokio::test]
async fn a_port_over_tcp_is_open_or_closed() {
    let server = for_loopback();
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = Request::Tcp { port };
    assert_eq!(outcome(&server, request).await, Outcome::Connected);
    let (_, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), HERE);
    drop(listener);
    assert_eq!(outcome(&server, request).await, Outcome::Refused);
}

#[tokio::test]
async fn a_datagram_comes_back_or_not() {
    let server = for_loopback();
    let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let nonce = Nonce([7; 16]);
    let request = Request::Udp { port, nonce };
    let echo = async {
        let mut buffer = [0; 128];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], nonce.datagram());
        // What is not it does not count.
        socket.send_to(b"postern-probe", from).await.unwrap();
        socket.send_to(&buffer[..length], from).await.unwrap();
    };
    let (came, ()) = tokio::join!(outcome(&server, request), echo);
    assert_eq!(came, Outcome::Echoed);
    assert_eq!(outcome(&server, request).await, Outcome::Silent);
    drop(socket);
    assert_eq!(outcome(&server, request).await, Outcome::Refused);
}

#[tokio::test]
async fn who_is_not_on_the_public_internet_is_told_so_and_where_it_is_seen() {
    let server = start(Some(ProbeConfig::default()));
    let answer = ask(&server.url, None, &Request::Tcp { port: 1 }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.address, HERE);
    assert_eq!(answer.verdict, Verdict::Error(Refusal::Address));
}

#[tokio::test]
async fn a_server_that_does_not_probe_says_that_there_is_nothing() {
    let server = start(None);
    let answer = ask(&server.url, None, &Request::Tcp { port: 1 }).await;
    assert!(matches!(answer, Err(ProbeError::Unsupported(404))));
}

/// What the server answers to this, as far as the first line.
async fn status(server: &Running, content_type: &str, body: &str) -> String {
    let mut stream = tls::connect_from(&server.url, None).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_a_web_page_cannot_ask() {
    let server = for_loopback();
    let sound = r#"{"transport":"tcp","port":1}"#;
    let json = "application/json";
    assert_eq!(status(&server, json, sound).await, "HTTP/1.1 200 OK");
    let bad = "HTTP/1.1 400 Bad Request";
    assert_eq!(status(&server, json, "{}").await, bad);
    let mail = r#"{"transport":"tcp","port":25}"#;
    assert_eq!(status(&server, json, mail).await, "HTTP/1.1 403 Forbidden");
    let plain = "HTTP/1.1 415 Unsupported Media Type";
    assert_eq!(status(&server, "text/plain", sound).await, plain);
    let long = " ".repeat(wire::MAX_BODY + 1);
    let too_large = "HTTP/1.1 413 Payload Too Large";
    assert_eq!(status(&server, json, &long).await, too_large);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_place() {
    let server = for_loopback();
    let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let nonce = Nonce([9; 16]);
    let request = Request::Udp { port, nonce };
    // Four may be under way.
    for _ in 0..6 {
        let asking = ask(&server.url, None, &request);
        let mut buffer = [0; 128];
        tokio::select! {
            answer = asking => panic!("nothing came back: {answer:?}"),
            arrived = socket.recv_from(&mut buffer) => drop(arrived.unwrap()),
        }
        sleep(Duration::from_millis(50)).await;
    }
    let answer = ask(&server.url, None, &Request::Tcp { port: 1 }).await;
    assert_eq!(answer.unwrap().outcome(), Some(Outcome::Refused));
}

#[tokio::test]
async fn the_second_address_calls_if_there_is_one() {
    let second: IpAddr = [127, 0, 0, 2].into();
    let server = start_with(Some(loopback()), vec![second]);
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (request, from) in [
        (Request::Tcp { port }, HERE),
        (Request::TcpAlternate { port }, second),
    ] {
        assert_eq!(outcome(&server, request).await, Outcome::Connected);
        let (_, caller) = listener.accept().await.unwrap();
        assert_eq!(caller.ip(), from);
    }
    let server = for_loopback();
    let refused = ask(&server.url, Some(HERE), &Request::TcpAlternate { port }).await;
    let expected = Verdict::Error(Refusal::Alternate);
    assert_eq!(refused.unwrap().verdict, expected);
}

/// That both open it takes a way on which packets can meet, which loopback is not.
#[tokio::test]
async fn the_server_calls_from_the_port_that_the_client_names_and_calls_again() {
    let server = for_loopback();
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let from = 49_152 + port % 16_000;
    let request = Request::TcpCrossing { port, from };
    assert_eq!(outcome(&server, request).await, Outcome::Connected);
    let (_, caller) = listener.accept().await.unwrap();
    assert_eq!(caller, SocketAddr::new(HERE, from));
    drop(listener);
    let from = from + 1;
    let request = Request::TcpCrossing { port, from };
    assert_eq!(outcome(&server, request).await, Outcome::Refused);
}
