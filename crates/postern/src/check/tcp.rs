//! What NATs do with TCP connections: STUN over TCP (RFC 8489 section 6.2.2) from one port to
//! several servers, and from several ports to one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use postern_proto::punch::{Classifier, Sample};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::binding::{Binding, Seen};
use super::facts::TcpFacts;
use super::udp::route_to;
use crate::clock;
use crate::turn::MessageReader;

/// A connection and its answer may take so long.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Ports besides the first one, which tell how the ports of connections are given.
const SAMPLES: usize = 8;

/// One connection's answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) sample: Sample,
    other: Option<SocketAddr>,
    round_trip: Duration,
}

/// What servers saw of connections.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The port from which all of them were asked; `None` if nobody was.
    pub(super) main: Option<SocketAddr>,
    answers: Vec<Answer>,
}

/// Asks the servers, all of one family. Through a proxy TCP is the proxy's, and nothing is
/// known.
pub(super) async fn look(servers: &[SocketAddr], proxied: bool) -> Looked {
    if proxied {
        return Looked::default();
    }
    let Some(ip) = route_to(servers).await else {
        return Looked::default();
    };
    let Some(port) = free_port(ip) else {
        return Looked::default();
    };
    let main = SocketAddr::new(ip, port);
    let first = join_all(servers.iter().map(|server| ask(main, *server))).await;
    let mut answers: Vec<Answer> = first.into_iter().flatten().collect();
    // The one that knows more, as with UDP.
    let best = answers.iter().find(|answer| answer.other.is_some());
    let Some(first) = best.or_else(|| answers.first()) else {
        return Looked::default();
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
    Looked {
        main: Some(main),
        answers,
    }
}

impl Looked {
    /// What the main port is mapped to, by who saw it.
    pub(super) fn of_main(&self) -> impl Iterator<Item = &Sample> {
        let samples = self.answers.iter().map(|answer| &answer.sample);
        samples.filter(|sample| Some(sample.local) == self.main)
    }

    /// The shortest time in which a connection was made.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.answers.iter().map(|answer| answer.round_trip).min()
    }

    /// What that tells.
    pub(super) fn facts(&self) -> TcpFacts {
        let Some(main) = self.main else {
            return TcpFacts::default();
        };
        let mut classifier = Classifier::default();
        let mut mapped = Vec::new();
        for Answer { sample, .. } in &self.answers {
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
            simultaneous_open: None,
        }
    }
}

/// A port that several sockets may share afterwards.
fn free_port(ip: IpAddr) -> Option<u16> {
    let socket = socket(SocketAddr::new(ip, 0)).ok()?;
    Some(socket.local_addr().ok()?.port())
}

pub(super) fn socket(local: SocketAddr) -> io::Result<TcpSocket> {
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

async fn exchange(local: SocketAddr, server: SocketAddr) -> io::Result<Option<Answer>> {
    let (_, answer) = connect(local, server).await?;
    Ok(answer)
}

async fn connect(local: SocketAddr, server: SocketAddr) -> io::Result<(TcpStream, Option<Answer>)> {
    let socket = socket(local)?;
    let local = socket.local_addr()?;
    let sent = clock::now();
    let mut stream = socket.connect(server).await?;
    let round_trip = clock::now().saturating_duration_since(sent);
    let binding = Binding::new()?;
    stream.write_all(&binding.request).await?;
    let message = MessageReader::new(&mut stream).next().await?;
    let seen = message.and_then(|message| binding.read(server, &message));
    let answer = seen.map(|Seen { mapped, other }| Answer {
        sample: Sample {
            local,
            server,
            mapped,
            sent,
        },
        other,
        round_trip,
    });
    Ok((stream, answer))
}
