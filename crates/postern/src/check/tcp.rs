//! What NATs do with TCP connections: STUN over TCP (RFC 8489 section 6.2.2) from one port to
//! several servers, and from several ports to one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postern_proto::punch::{Classifier, Sample};
use postern_proto::stun::behaviour::is_other;
use postern_wire::stun::{
    Builder, Class, Message, Method, OtherAddress, TransactionId, XorMappedAddress,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::facts::TcpFacts;
use super::udp::route_to;
use crate::clock;
use crate::entropy;

/// A connection and its answer may take so long.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Ports besides the first one, which tell how the ports of connections are given.
const SAMPLES: usize = 8;

/// The longest answer of a STUN server that is read.
const LONGEST_ANSWER: usize = 1024;

/// One connection's answer.
struct Answer {
    sample: Sample,
    other: Option<SocketAddr>,
}

/// Asks the servers, all of one family. Through a proxy TCP is the proxy's, and nothing is
/// known.
pub(super) async fn look(servers: &[SocketAddr], proxied: bool) -> TcpFacts {
    let Some(ip) = route_to(servers).await else {
        return TcpFacts::default();
    };
    if proxied {
        return TcpFacts::default();
    }
    let Some(port) = free_port(ip) else {
        return TcpFacts::default();
    };
    let main = SocketAddr::new(ip, port);
    let first = join_all(servers.iter().map(|server| ask(main, *server))).await;
    let mut answers: Vec<Answer> = first.into_iter().flatten().collect();
    // The one that knows more, as with UDP.
    let best = answers.iter().find(|answer| answer.other.is_some());
    let Some(first) = best.or_else(|| answers.first()) else {
        return TcpFacts::default();
    };
    let server = first.sample.server;
    let others: Vec<SocketAddr> = match first.other {
        Some(other) => vec![
            SocketAddr::new(other.ip(), server.port()),
            other,
            SocketAddr::new(server.ip(), other.port()),
        ],
        None => Vec::new(),
    };
    let others = join_all(others.iter().map(|end| ask(main, *end)));
    let samples = join_all((0..SAMPLES).map(|_| ask(SocketAddr::new(ip, 0), server)));
    let (others, samples) = tokio::join!(others, samples);
    answers.extend(others.into_iter().chain(samples).flatten());
    facts(main, &answers)
}

fn facts(main: SocketAddr, answers: &[Answer]) -> TcpFacts {
    let mut classifier = Classifier::default();
    let mut mapped = Vec::new();
    for Answer { sample, .. } in answers {
        classifier.add(*sample);
        if sample.local == main && !mapped.contains(&sample.mapped) {
            mapped.push(sample.mapped);
        }
    }
    TcpFacts {
        reachable: true,
        nat: classifier.report(),
        translated: mapped.first().map(|mapped| *mapped != main),
        mapped,
        unsolicited: None,
    }
}

/// A port that several sockets may share afterwards.
fn free_port(ip: IpAddr) -> Option<u16> {
    let socket = socket(SocketAddr::new(ip, 0)).ok()?;
    Some(socket.local_addr().ok()?.port())
}

fn socket(local: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match local {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(local)?;
    Ok(socket)
}

async fn ask(local: SocketAddr, server: SocketAddr) -> Option<Answer> {
    let exchanged = timeout(PATIENCE, exchange(local, server)).await;
    exchanged.ok()?.ok()?
}

/// A port that listens, a connection from it, and where the server sees that come from.
pub(super) async fn listen_and_connect(
    ip: IpAddr,
    servers: &[SocketAddr],
) -> Option<(TcpListener, TcpStream, SocketAddr)> {
    let listening = socket(SocketAddr::new(ip, 0)).ok()?;
    let local = listening.local_addr().ok()?;
    for server in servers
        .iter()
        .filter(|server| server.ip().is_ipv4() == ip.is_ipv4())
    {
        let connecting = timeout(PATIENCE, connect(local, *server)).await;
        if let Ok(Ok((stream, Some(answer)))) = connecting {
            let listener = listening.listen(1).ok()?;
            return Some((listener, stream, answer.sample.mapped));
        }
    }
    None
}

async fn exchange(local: SocketAddr, server: SocketAddr) -> std::io::Result<Option<Answer>> {
    let (_, answer) = connect(local, server).await?;
    Ok(answer)
}

async fn connect(
    local: SocketAddr,
    server: SocketAddr,
) -> std::io::Result<(TcpStream, Option<Answer>)> {
    let socket = socket(local)?;
    let local = socket.local_addr()?;
    let sent = clock::now();
    let mut stream = socket.connect(server).await?;
    let seed = entropy::seed().map_err(std::io::Error::other)?;
    let mut id = [0; 12];
    id.copy_from_slice(seed.get(..12).unwrap_or(&[0; 12]));
    let id = TransactionId(id);
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    stream.write_all(&request).await?;
    let mut answer = vec![0; 20];
    stream.read_exact(&mut answer).await?;
    let length = usize::from(u16::from_be_bytes([
        answer.get(2).copied().unwrap_or(0),
        answer.get(3).copied().unwrap_or(0),
    ]));
    if length > LONGEST_ANSWER {
        return Ok((stream, None));
    }
    answer.resize(20_usize.saturating_add(length), 0);
    if let Some(rest) = answer.get_mut(20..) {
        stream.read_exact(rest).await?;
    }
    let answer = parse(&answer, id, local, server, sent);
    Ok((stream, answer))
}

fn parse(
    answer: &[u8],
    id: TransactionId,
    local: SocketAddr,
    server: SocketAddr,
    sent: Instant,
) -> Option<Answer> {
    let message = Message::parse(answer).ok()?;
    if message.transaction_id() != id || message.class() != Class::Success {
        return None;
    }
    let XorMappedAddress(mapped) = message.get::<XorMappedAddress>().ok()??;
    let other = message.get::<OtherAddress>().ok().flatten();
    let other = other.map(|OtherAddress(other)| other);
    let sample = Sample {
        local,
        server,
        mapped,
        sent,
    };
    Some(Answer {
        sample,
        other: other.filter(|other| is_other(server, *other)),
    })
}
