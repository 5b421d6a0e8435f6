//! The client, as a program and as a library, against this server and coturn's.
//!
//! Both run on the loopback of the test's own network. What a case expects of both is in one
//! list; what only one of them does says so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use postern::Trust;
use postern::turn::{
    AllocateError, Allocation, ConnectError, Credentials, Failure, Options, Relay, RelayedStream,
    Resolver, Server, Transport, time_limited,
};
use postern_lab::netns::{Case, Program};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A server is there, and a test is over, within so long.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "our_client_measures_relays_over_every_transport",
        run: our_client_measures_relays_over_every_transport,
    },
    Case {
        name: "our_client_takes_the_uris_that_the_server_prints",
        run: our_client_takes_the_uris_that_the_server_prints,
    },
    Case {
        name: "our_client_says_what_is_wrong",
        run: our_client_says_what_is_wrong,
    },
    Case {
        name: "our_client_has_time_limited_credentials",
        run: our_client_has_time_limited_credentials,
    },
    Case {
        name: "our_client_relays_tcp_both_ways_with_early_data",
        run: our_client_relays_tcp_both_ways_with_early_data,
    },
    Case {
        name: "our_client_asks_for_even_ports_and_reservations",
        run: our_client_asks_for_even_ports_and_reservations,
    },
    Case {
        name: "our_client_moves_to_another_socket",
        run: our_client_moves_to_another_socket,
    },
    Case {
        name: "our_client_goes_where_coturn_sends_it",
        run: our_client_goes_where_coturn_sends_it,
    },
    Case {
        name: "our_client_passes_an_http_proxy",
        run: our_client_passes_an_http_proxy,
    },
];

/// A server that is tested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Postern,
    Coturn,
}

const BOTH: [Subject; 2] = [Subject::Postern, Subject::Coturn];

/// A running server, and what clients need.
pub(crate) struct Running {
    _program: Program,
    directory: TempDir,
    ip: Ipv4Addr,
    /// What it printed when it was ready, if it is ours.
    ready: Value,
}

impl Running {
    /// At 127.0.0.1, with a user, relaying to loopback.
    fn start(subject: Subject) -> Self {
        let options: &[&str] = match subject {
            Subject::Postern => &["--user", "user:pass", "--allow-peer", "127.0.0.0/8"],
            Subject::Coturn => &["--user", "user:pass"],
        };
        Self::with(subject, Ipv4Addr::LOCALHOST, options)
    }

    pub(crate) fn with(subject: Subject, ip: Ipv4Addr, options: &[&str]) -> Self {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success(), "a new network's loopback is down");
        let directory = tempfile::tempdir().unwrap();
        make_certificate(directory.path(), ip);
        let mut command = match subject {
            Subject::Postern => postern(directory.path(), ip),
            Subject::Coturn => coturn(directory.path(), ip),
        };
        command.args(options);
        let mut program = Program::start(command).unwrap();
        let ready = match subject {
            Subject::Postern => program.event("ready", LIMIT).unwrap(),
            Subject::Coturn => Value::Null,
        };
        let running = Self {
            _program: program,
            directory,
            ip,
            ready,
        };
        running.await_port(3478);
        running.await_port(5349);
        running
    }

    fn await_port(&self, port: u16) {
        let end = Instant::now() + LIMIT;
        while std::net::TcpStream::connect((self.ip, port)).is_err() {
            assert!(
                Instant::now() < end,
                "nothing listens at {}:{port}",
                self.ip
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn certificate(&self) -> String {
        own(self.directory.path(), "cert.pem")
    }

    /// The URI of a way to it.
    fn uri(&self, way: &str) -> String {
        let ip = self.ip;
        match way {
            "udp" => format!("turn:{ip}:3478?transport=udp"),
            "tcp" => format!("turn:{ip}:3478?transport=tcp"),
            "tls" => format!("turns:{ip}:5349?transport=tcp"),
            "dtls" => format!("turns:{ip}:5349?transport=udp"),
            _ => panic!("{way} is no way"),
        }
    }

    async fn servers(&self, way: &str) -> Vec<Server> {
        let uri = self.uri(way).parse().unwrap();
        let trust = Trust::authorities(Path::new(&self.certificate())).unwrap();
        let ways = [Transport::Udp, Transport::Tcp];
        let found = Resolver::system().resolve(&uri, &ways, &trust).await;
        found.unwrap()
    }

    pub(crate) async fn allocate(
        &self,
        way: &str,
        options: &Options,
    ) -> Result<Allocation, AllocateError> {
        Allocation::request(&self.servers(way).await, options).await
    }

    /// Runs `postern relay test` with these options, for a second at most.
    fn test(&self, options: &[&str]) -> Tested {
        let mut command = Command::new(POSTERN);
        command.args(["relay", "test", "--json", "--duration", "1"]);
        command.args(["--ca", &self.certificate()]).args(options);
        command.env_remove("HTTPS_PROXY").env_remove("https_proxy");
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        Tested {
            code: output.status.code().unwrap(),
            object: serde_json::from_str(&line).unwrap(),
            line,
        }
    }
}

struct Tested {
    code: i32,
    line: String,
    object: Value,
}

impl Tested {
    fn expect_relay(&self, transport: &str, relay: &str) {
        let Self { code, line, object } = self;
        assert_eq!(*code, 0, "{line}");
        assert!(line.starts_with("{\"allocate_ms\":"), "{line}");
        assert_eq!(object["transport"], transport, "{line}");
        assert_eq!(object["relay"], relay, "{line}");
        for number in [
            &object["allocate_ms"],
            &object["rtt_ms"]["p50"],
            &object["rtt_ms"]["p99"],
            &object["mbytes_per_s"],
        ] {
            assert!(number.as_f64().unwrap() > 0.0, "{line}");
        }
    }

    fn expect_error(&self, kind: &str, word: &str) {
        let Self { code, line, object } = self;
        assert_eq!(*code, if kind == "usage" { 2 } else { 1 }, "{line}");
        assert_eq!(object["kind"], kind, "{line}");
        let message = object["message"].as_str().unwrap();
        assert!(message.contains(word), "{message}");
    }
}

fn own(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

/// A self-signed certificate on P-256 for the address, and its key.
fn make_certificate(directory: &Path, ip: Ipv4Addr) {
    let made = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

fn postern(directory: &Path, ip: Ipv4Addr) -> Command {
    let mut command = Command::new(POSTERN);
    command.args(["server", "--json", "--listen", &ip.to_string()]);
    command.args(["--realm", "example.org", "--unproven-rate", "0"]);
    command.args(["--cert", &own(directory, "cert.pem")]);
    command.args(["--key", &own(directory, "key.pem")]);
    command
}

fn coturn(directory: &Path, ip: Ipv4Addr) -> Command {
    let mut command = Command::new("turnserver");
    command.args(["-n", "-c", "/dev/null", "-p", "3478"]);
    command.args(["-L", &ip.to_string(), "-E", &ip.to_string()]);
    command.args([
        "--tls-listening-port",
        "5349",
        "--alt-listening-port",
        "3479",
    ]);
    command.args(["--allow-loopback-peers", "--no-cli", "--lt-cred-mech"]);
    command.args(["-r", "example.org", "--mobility", "--simple-log"]);
    command.args(["--cert", &own(directory, "cert.pem")]);
    command.args(["--pkey", &own(directory, "key.pem")]);
    command.args(["--min-port", "20000", "--max-port", "30000"]);
    command.args(["--log-file", &own(directory, "log")]);
    command.args(["--pidfile", &own(directory, "pid")]);
    command.args(["--userdb", &own(directory, "users")]);
    command
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.unwrap() });
}

pub(crate) fn options() -> Options {
    Options {
        credentials: Some(Credentials::new("user", "pass").unwrap()),
        ..Options::default()
    }
}

/// Over TCP coturn 4.6.1 answers a move with the tail of a message; its own client fails there,
/// too.
fn our_client_moves_to_another_socket() {
    let ways: [(Subject, &[&str]); 2] = [
        (Subject::Postern, &["udp", "tcp", "tls", "dtls"]),
        (Subject::Coturn, &["udp"]),
    ];
    for (subject, ways) in ways {
        let server = Running::start(subject);
        for &way in ways {
            run(async {
                let options = Options {
                    mobility: true,
                    ..options()
                };
                let allocation = server.allocate(way, &options).await.unwrap();
                echo(&allocation).await;
                let moved = allocation.rebind().await;
                assert!(moved.is_ok(), "{subject:?} {way}: {moved:?}");
                echo(&allocation).await;
            });
        }
    }
}

/// Data goes to a peer and back.
async fn echo(allocation: &Allocation) {
    let peer = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    allocation
        .send_to(b"there", peer.local_addr().unwrap())
        .await
        .unwrap();
    let mut buffer = [0; 16];
    let (length, relay) = peer.recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"there");
    peer.send_to(b"back", relay).await.unwrap();
    let (data, _) = allocation.recv_from().await.unwrap();
    assert_eq!(&data[..], b"back");
}

fn our_client_measures_relays_over_every_transport() {
    for subject in BOTH {
        let server = Running::start(subject);
        for way in ["udp", "tcp", "tls", "dtls"] {
            let tested = server.test(&[&server.uri(way), "--user", "user:pass"]);
            tested.expect_relay(way, "udp");
        }
        for way in ["tcp", "tls"] {
            let uri = server.uri(way);
            let tested = server.test(&[&uri, "--user", "user:pass", "--tcp-relay"]);
            tested.expect_relay(way, "tcp");
        }
    }
}

/// Without --allow-peer a relay reaches other relays of the server and nothing else here.
fn our_client_takes_the_uris_that_the_server_prints() {
    let user = ["--user", "user:pass"];
    let server = Running::with(Subject::Postern, Ipv4Addr::LOCALHOST, &user);
    let uris = server.ready["turn"].as_array().unwrap();
    assert!(uris.len() >= 4, "{uris:?}");
    for uri in uris {
        let uri = uri.as_str().unwrap();
        let tested = server.test(&[uri, "--user", "user:pass"]);
        assert_eq!(tested.code, 0, "{uri}: {}", tested.line);
    }
    let file = own(server.directory.path(), "user");
    std::fs::write(&file, "user:pass\n").unwrap();
    let address = format!("turn:{}", server.ip);
    let tested = server.test(&[&address, "--user-file", &file, "--transport", "tls"]);
    tested.expect_relay("tls", "udp");
}

fn our_client_says_what_is_wrong() {
    for subject in BOTH {
        let server = Running::start(subject);
        let udp = &*server.uri("udp");
        let error = |options: &[&str], kind, word| server.test(options).expect_error(kind, word);
        error(
            &[udp, "--user", "user:wrong"],
            "relay_credentials",
            "password",
        );
        error(&[udp], "relay_credentials", "--user");
        let late = "1000000000:user:pass";
        error(&[udp, "--user", late], "relay_credentials", "time ended");
        error(&[udp, "--user", "user:pass", "--tcp-relay"], "usage", "TCP");
        let tls = &*server.uri("tls");
        let digits = "00".repeat(32);
        let mut other = Command::new(POSTERN);
        other.args(["relay", "test", "--json", tls, "--user", "user:pass"]);
        let output = other.args(["--pin", &digits]).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.contains("server_certificate"), "{line}");
        assert!(line.contains("pinned"), "{line}");
    }
    let server = Running::start(Subject::Postern);
    let nobody = "turn:127.0.0.1:1?transport=udp";
    let error = |uri: &str, kind, word| {
        server
            .test(&[uri, "--user", "user:pass"])
            .expect_error(kind, word);
    };
    error(nobody, "server_unreachable", "127.0.0.1:1");
    error(
        "turn:127.0.0.1:1?transport=tcp",
        "server_unreachable",
        "TCP",
    );
    error("turn:127.0.0.1:8443?transport=tcp", "relay", "TURN server");
    error("stun:127.0.0.1", "usage", "turn:");
}

fn our_client_has_time_limited_credentials() {
    for subject in BOTH {
        let options: &[&str] = match subject {
            Subject::Postern => &["--turn-secret", "s3cret"],
            Subject::Coturn => &["--use-auth-secret", "--static-auth-secret=s3cret"],
        };
        let server = Running::with(subject, Ipv4Addr::LOCALHOST, options);
        let udp = server.uri("udp");
        let tested = server.test(&[&udp, "--secret", "s3cret", "--user", "me"]);
        tested.expect_relay("udp", "udp");
        let wrong = server.test(&[&udp, "--secret", "other"]);
        wrong.expect_error("relay_credentials", "secret");
        run(async {
            let over = time_limited("s3cret", Some("me"), Duration::ZERO).unwrap();
            let over = Options {
                credentials: Some(over),
                ..Options::default()
            };
            // It ends with the second in which it was made.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            expect_refusal(
                server.allocate("tcp", &over).await,
                Failure::Unauthenticated,
            );
        });
    }
}

fn expect_refusal(result: Result<Allocation, AllocateError>, expected: Failure) {
    match result {
        Err(AllocateError::Refused { failure, .. }) => assert_eq!(failure, expected),
        other => panic!("{other:?}"),
    }
}

fn our_client_relays_tcp_both_ways_with_early_data() {
    for subject in BOTH {
        let server = Running::start(subject);
        for way in ["tcp", "tls"] {
            run(relay_tcp(&server, way));
        }
    }
}

async fn relay_tcp(server: &Running, way: &str) {
    let relaying = Options {
        relay: Relay::Tcp,
        ..options()
    };
    let allocation = server.allocate(way, &relaying).await.unwrap();
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let early = async {
        let (mut peer, from) = listener.accept().await.unwrap();
        assert_eq!(from, allocation.relayed(), "RFC 6062 section 5.2");
        peer.write_all(b"early").await.unwrap();
        peer
    };
    let (stream, mut peer) = tokio::join!(allocation.connect(address), early);
    converse(stream.unwrap(), &mut peer, b"early").await;

    allocation.permit(LOCALHOST).await.unwrap();
    let mut peer = TcpStream::connect(allocation.relayed()).await.unwrap();
    peer.write_all(b"first").await.unwrap();
    let stream = allocation.accept().await.unwrap();
    assert_eq!(stream.peer(), peer.local_addr().unwrap());
    converse(stream, &mut peer, b"first").await;

    let nobody = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let refused = allocation.connect(address).await.unwrap_err();
    let failure = Failure::ConnectionFailed;
    assert!(
        matches!(refused, ConnectError::Refused(f) if f == failure),
        "{refused:?}"
    );
    allocation.close().await;
}

/// The peer's first bytes arrive, then many from each to the other.
async fn converse(mut stream: RelayedStream, peer: &mut TcpStream, first: &[u8]) {
    let mut got = vec![0; first.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, first);
    let many: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut got = vec![0; many.len()];
    let (sent, received) = tokio::join!(stream.write_all(&many), peer.read_exact(&mut got));
    sent.unwrap();
    received.unwrap();
    assert!(got == many, "to the peer");
    let mut got = vec![0; many.len()];
    let (sent, received) = tokio::join!(peer.write_all(&many), stream.read_exact(&mut got));
    sent.unwrap();
    received.unwrap();
    assert!(got == many, "from the peer");
}

/// Datagrams there and back: the first in an indication, the later ones in a channel.
async fn exchange(allocation: &Allocation) {
    let peer = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let address = peer.local_addr().unwrap();
    for round in 0..20_u8 {
        allocation.send_to(&[round; 3], address).await.unwrap();
        let mut buffer = [0; 100];
        let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], [round; 3]);
        assert_eq!(from, allocation.relayed());
        peer.send_to(&[round; 5], from).await.unwrap();
        let received = allocation.recv_from().await.unwrap();
        assert_eq!(received, (vec![round; 5], address));
    }
}

fn our_client_asks_for_even_ports_and_reservations() {
    for subject in BOTH {
        let server = Running::start(subject);
        run(async {
            let even = Options {
                even_port: Some(true),
                dont_fragment: true,
                ..options()
            };
            let first = server.allocate("udp", &even).await.unwrap();
            let next = Options {
                reservation: first.granted().reservation,
                ..options()
            };
            assert!(next.reservation.is_some());
            let second = server.allocate("tcp", &next).await.unwrap();
            assert_eq!(first.relayed().port() % 2, 0);
            assert_eq!(second.relayed().port(), first.relayed().port() + 1);
            exchange(&first).await;
            exchange(&second).await;
        });
    }
}

fn our_client_goes_where_coturn_sends_it() {
    let server = Running::start(Subject::Postern);
    let sender = Ipv4Addr::new(127, 0, 0, 4);
    let to = format!("--alternate-server={}:3478", server.ip);
    let to_tls = format!("--tls-alternate-server={}:5349", server.ip);
    let redirecting = ["--user", "user:pass", &to, &to_tls];
    let other = Running::with(Subject::Coturn, sender, &redirecting);
    run(async {
        for way in ["udp", "tcp"] {
            let allocation = other.allocate(way, &options()).await.unwrap();
            assert_eq!(allocation.relayed().ip(), IpAddr::from(server.ip), "{way}");
            exchange(&allocation).await;
            allocation.close().await;
        }
    });
}

/// The proxy asks for a password, and connects to whatever it is told.
fn our_client_passes_an_http_proxy() {
    let server = Running::start(Subject::Coturn);
    let listener = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || proxy(listener));
    let tls = server.uri("tls");
    let with = |url: String, options: &[&str]| {
        let arguments = [&[&*tls, "--user", "user:pass", "--proxy", &url], options];
        server.test(&arguments.concat())
    };
    let known = || format!("http://me:pw@{address}");
    with(known(), &[]).expect_relay("tls", "udp");
    with(known(), &["--tcp-relay"]).expect_relay("tls", "tcp");
    let unknown = format!("http://{address}");
    with(unknown, &[]).expect_error("server_unreachable", "asks for a user");
    with("http://127.0.0.1:1".to_owned(), &[]).expect_error("server_unreachable", "proxy");
}

fn proxy(listener: std::net::TcpListener) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client));
        }
    });
}

async fn pass(mut client: TcpStream) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(client.read_u8().await.unwrap());
    }
    let asked = String::from_utf8(asked).unwrap();
    if !asked.contains("Proxy-Authorization: Basic bWU6cHc=\r\n") {
        client
            .write_all(b"HTTP/1.1 407 Who?\r\n\r\n")
            .await
            .unwrap();
        return;
    }
    let to: SocketAddr = asked.split(' ').nth(1).unwrap().parse().unwrap();
    let mut server = TcpStream::connect(to).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
