//! Having the server look from outside, at ports that this machine has just sent from: what it
//! sends comes from another port of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use postern_proto::punch::{Allocation, Mapping, NatReport};
use postern_proto::stun::behaviour::filtering;
use postern_wire::probe::CROSSING_PORTS;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::binding::Binding;
use super::facts::{TcpFacts, Unsolicited};
use super::tcp::{self, Looked};
use super::udp::route_to;
use crate::entropy;
use crate::probe::{Answer, Line, Nonce, Outcome, ProbeError, Request, ask};
use crate::server_url::ServerUrl;

/// One datagram may be lost, and hardly two.
const TRIES: usize = 2;

/// How long a STUN server is waited for.
const PATIENCE: Duration = Duration::from_millis(700);

/// No test lasts longer.
const LONGEST: Duration = Duration::from_secs(4);

/// Round trips of less leave no time for packets to meet.
const LONG_WAY: Duration = Duration::from_millis(10);

/// How often a connection that both ends open is tried: for about two seconds.
const CALLS: usize = 48;

/// What the probe of the server came to, from its own side. It has seen a datagram come back, or
/// a connection open, only if that was let in.
fn outcome(answer: Result<Answer, ProbeError>) -> Option<Unsolicited> {
    let answer = answer
        .inspect_err(|error| tracing::debug!(%error, "the server does not look from outside"))
        .ok()?;
    match answer.outcome()? {
        Outcome::Connected | Outcome::Echoed => Some(Unsolicited::Accept),
        Outcome::Refused => Some(Unsolicited::Reset),
        Outcome::Silent => Some(Unsolicited::Drop),
        Outcome::Unreachable => Some(Unsolicited::Icmp),
        Outcome::Unknown => None,
    }
}

/// What becomes of connections from outside, and of one that both ends open: the rest of what is
/// known about TCP.
pub(super) async fn over_tcp(server: &ServerUrl, stun: &[SocketAddr], looked: &Looked) -> TcpFacts {
    let facts = looked.facts();
    let Some(ip) = looked.main.map(|main| main.ip()) else {
        return facts;
    };
    let other_port = called(server, ip, stun, |port| Request::Tcp { port });
    let other_address = called(server, ip, stun, |port| Request::TcpAlternate { port });
    let crossed = crossing(server, looked);
    let (other_port, other_address, crossed) = tokio::join!(other_port, other_address, crossed);
    let came = |what: Option<Unsolicited>| Some(what? == Unsolicited::Accept);
    // That nothing comes from an address that this machine cannot speak with says nothing.
    let mut ends = looked.of_main().map(|sample| sample.server.ip());
    let first = ends.next();
    let speaks_with_both = ends.any(|ip| Some(ip) != first);
    let from_address = came(other_address).filter(|came| *came || speaks_with_both);
    TcpFacts {
        nat: facts.nat.map(|nat| NatReport {
            filtering: filtering(from_address, came(other_port)),
            ..nat
        }),
        unsolicited: other_port,
        simultaneous_open: crossed.and_then(|crossed| crossed.works(other_port)),
        ..facts
    }
}

/// A connection to a port that has one to the server already.
async fn called(
    server: &ServerUrl,
    ip: IpAddr,
    stun: &[SocketAddr],
    request: impl Fn(u16) -> Request,
) -> Option<Unsolicited> {
    let calling = async {
        let line = Line::open(server, Some(ip)).await.ok()?;
        // What comes from there is from another port only if the mapping is one towards there.
        let mut stun = stun.to_vec();
        let there = line.peer().ok()?;
        stun.sort_by_key(|server| server.ip() != there);
        // The listener keeps the port, and the connection the mapping.
        let (_listener, _connection, mapped) = tcp::listen_and_connect(ip, &stun).await?;
        outcome(line.ask(&request(mapped.port())).await)
    };
    timeout(LONGEST, calling).await.ok()?
}

/// What came of a connection that both ends opened.
struct Crossed {
    outcome: Unsolicited,
    /// The server called the right port.
    certain: bool,
    round_trip: Duration,
}

impl Crossed {
    fn works(&self, unsolicited: Option<Unsolicited>) -> Option<bool> {
        if self.outcome == Unsolicited::Accept {
            return Some(true);
        }
        // Calls that are turned away must meet on their way, which short ways make unlikely.
        let met = unsolicited == Some(Unsolicited::Drop) || self.round_trip >= LONG_WAY;
        (self.certain && met).then_some(false)
    }
}

/// Both ends open a connection at the same time, neither of them listening, as those do who punch
/// holes.
async fn crossing(server: &ServerUrl, looked: &Looked) -> Option<Crossed> {
    let (main, round_trip) = looked.main.zip(looked.round_trip())?;
    let line = timeout(LONGEST, Line::open(server, Some(main.ip()))).await;
    let line = line.ok()?.ok()?;
    let there = line.peer().ok()?;
    let (mapped, certain) = towards(looked, there)?;
    let from = dynamic_port()?;
    let request = Request::TcpCrossing {
        port: mapped.port(),
        from,
    };
    let target = SocketAddr::new(there, from);
    let calling = async {
        // The request has arrived by then, and the server calls, too.
        sleep(round_trip / 2).await;
        call(main, target).await;
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = timeout(LONGEST, line.ask(&request)) => answer.ok()?,
        () = calling => return None,
    };
    Some(Crossed {
        outcome: outcome(answer)?,
        certain,
        round_trip,
    })
}

/// Where another port of this address will see the main one, and whether that is certain.
fn towards(looked: &Looked, there: IpAddr) -> Option<(SocketAddr, bool)> {
    let nat = looked.facts().nat?;
    let known = looked.of_main().find(|sample| sample.server.ip() == there);
    let (sample, certain) = match nat.mapping {
        Mapping::EndpointIndependent => (looked.of_main().next(), true),
        Mapping::AddressDependent | Mapping::PortIndependent => (known, true),
        Mapping::Unknown if nat.allocation == Allocation::Preserving => (known, false),
        Mapping::Unknown | Mapping::AddressAndPortDependent | Mapping::EndpointDependent => {
            (None, false)
        }
    };
    Some((sample?.mapped, certain))
}

fn dynamic_port() -> Option<u16> {
    let [a, b, ..] = entropy::seed().ok()?;
    let random = u16::from_be_bytes([a, b]);
    let (first, last) = CROSSING_PORTS.into_inner();
    Some(first.saturating_add(random % (last - first + 1)))
}

/// Calls again whenever it is turned away.
async fn call(main: SocketAddr, target: SocketAddr) {
    for pause in (20..=60).step_by(8).cycle().take(CALLS) {
        let Ok(socket) = tcp::socket(main) else {
            return;
        };
        if socket.connect(target).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(pause)).await;
    }
}

/// A datagram to a port that has sent one to the server already.
pub(super) async fn over_udp(server: &ServerUrl, stun: &[SocketAddr]) -> Option<Unsolicited> {
    let ip = route_to(stun).await?;
    let tries = (0..TRIES).map(|_| datagram(server, ip, stun));
    let came: Vec<_> = join_all(tries).await.into_iter().flatten().collect();
    let heard = came.iter().find(|what| **what != Unsolicited::Drop);
    heard.or_else(|| came.first()).copied()
}

async fn datagram(server: &ServerUrl, ip: IpAddr, stun: &[SocketAddr]) -> Option<Unsolicited> {
    let socket = UdpSocket::bind((ip, 0)).await.ok()?;
    let seed = entropy::seed().ok()?;
    let mapped = mapped(&socket, stun).await?;
    let nonce = Nonce(seed.get(16..)?.try_into().ok()?);
    let request = Request::Udp {
        port: mapped.port(),
        nonce,
    };
    let expected = nonce.datagram();
    let mut asking = std::pin::pin!(ask(server, Some(ip), &request));
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            answer = &mut asking => return outcome(answer),
            Ok((length, from)) = socket.recv_from(&mut buffer) => {
                if buffer.get(..length) == Some(&expected[..]) {
                    let _ = socket.send_to(&expected, from).await;
                }
            }
        }
    }
}

/// Where the first STUN server that answers sees the socket.
async fn mapped(socket: &UdpSocket, stun: &[SocketAddr]) -> Option<SocketAddr> {
    let binding = Binding::new().ok()?;
    for server in stun {
        socket.send_to(&binding.request, server).await.ok()?;
        let mut buffer = [0; 512];
        let Ok(Ok((length, from))) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await else {
            continue;
        };
        let seen = binding.read(*server, buffer.get(..length)?);
        if let Some(seen) = seen.filter(|_| from == *server) {
            return Some(seen.mapped);
        }
    }
    None
}
