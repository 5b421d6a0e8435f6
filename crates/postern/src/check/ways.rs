//! Which transports and ports get out of this network.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use postern_proto::connect::RelayTransport;
use postern_wire::stun::{Builder, Class, Message, Method, TransactionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::STUN_PORT;
use super::facts::{ServerFacts, Trouble};
use super::relays::{Relayed, Relaying};
use crate::entropy;

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_millis(1800);

/// When a datagram is sent again that was not answered.
const AGAIN: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(600)];

/// The port that hardly any network closes.
const HTTPS_PORT: u16 = 443;

/// Servers that are asked; each by four ways.
const MAX_SERVERS: usize = 8;

/// An attempt to reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Over what.
    pub transport: RelayTransport,
    /// The server.
    pub server: SocketAddr,
    /// Whether the server was said to listen there: if not, silence says nothing about the
    /// network.
    pub told: bool,
    /// What came of it.
    pub passage: Passage,
}

/// What came of an attempt to reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It answered, after so long.
    Open(Duration),
    /// Whatever is at that address refuses: packets get there, or a firewall answers in its place.
    Refused,
    /// A router or this machine itself says that there is no way.
    Rejected,
    /// A connection was made, and then nothing that a server would say came.
    Mute,
    /// Nothing came.
    Silent,
}

impl Passage {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Mute => "mute",
            Self::Silent => "silent",
        }
    }

    fn of(error: &io::Error) -> Self {
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            Self::Refused
        } else if kind == ErrorKind::TimedOut {
            Self::Silent
        } else if matches!(
            kind,
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
        ) {
            Self::Mute
        } else {
            Self::Rejected
        }
    }
}

/// Tries the servers where they are said to be, and at the usual ports of their addresses.
pub(super) async fn look(stun: &[SocketAddr]) -> Vec<Way> {
    let mut wanted: Vec<(RelayTransport, SocketAddr, bool)> = Vec::new();
    for server in stun.iter().take(MAX_SERVERS) {
        let at = |port| SocketAddr::new(server.ip(), port);
        let told = [*server].into_iter().map(|server| (server, true));
        let usual = [STUN_PORT, HTTPS_PORT].map(|port| (at(port), false));
        for (server, told) in told.chain(usual) {
            for transport in [RelayTransport::Udp, RelayTransport::Tcp] {
                let mut known = wanted.iter();
                if !known.any(|(over, at, _)| (*over, *at) == (transport, server)) {
                    wanted.push((transport, server, told));
                }
            }
        }
    }
    wanted.sort_by_key(|(transport, server, _)| (*transport, server.port()));
    let attempts = wanted.into_iter().map(|way| async move {
        let (transport, server, told) = way;
        let passage = match transport {
            RelayTransport::Udp => over_udp(server).await,
            RelayTransport::Tcp | RelayTransport::Tls => over_tcp(server, told).await,
        };
        Way {
            transport,
            server,
            told,
            passage,
        }
    });
    join_all(attempts).await
}

/// The way to the postern server itself.
pub(super) fn to_server(facts: &ServerFacts, ip: IpAddr) -> Option<Way> {
    let passage = match (facts.kind, facts.after) {
        (None, Some(after)) => Passage::Open(after),
        (Some(Trouble::Refused), _) => Passage::Refused,
        (Some(Trouble::NoRoute), _) => Passage::Rejected,
        (Some(Trouble::Silent), _) => Passage::Silent,
        (Some(Trouble::Mute), _) => Passage::Mute,
        (Some(Trouble::Name | Trouble::Stranger | Trouble::Untrusted | Trouble::Proxy), _)
        | (None, None) => return None,
    };
    Some(Way {
        transport: RelayTransport::Tls,
        server: SocketAddr::new(ip, facts.port),
        told: true,
        passage,
    })
}

/// The ways to relays that carry data.
pub(super) fn add_relays(ways: &mut Vec<Way>, relays: &[Relayed]) {
    for relay in relays {
        let (transport, server) = (relay.transport, relay.server);
        let mut known = ways.iter();
        let is_known = known.any(|way| (way.transport, way.server) == (transport, server));
        if let (false, Relaying::Works { after, .. }) = (is_known, &relay.outcome) {
            ways.push(Way {
                transport,
                server,
                told: true,
                passage: Passage::Open(*after),
            });
        }
    }
}

/// Over UDP, a few times.
pub(super) async fn over_udp(server: SocketAddr) -> Passage {
    let asking = timeout(PATIENCE, ask(server)).await;
    match asking {
        Ok(Ok(after)) => Passage::Open(after),
        Ok(Err(error)) => Passage::of(&error),
        Err(_) => Passage::Silent,
    }
}

/// A connected socket, which hears that nobody listens.
async fn ask(server: SocketAddr) -> io::Result<Duration> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (id, request) = request()?;
    let mut pauses = AGAIN.into_iter();
    let mut buffer = [0; 1024];
    loop {
        let sent = Instant::now();
        socket.send(&request).await?;
        let pause = pauses.next().unwrap_or(PATIENCE);
        let hearing = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if answers(buffer.get(..length).unwrap_or_default(), id) {
                    return io::Result::Ok(());
                }
            }
        };
        if let Ok(heard) = timeout(pause, hearing).await {
            return heard.map(|()| sent.elapsed());
        }
    }
}

/// A connection; where the server is told to speak STUN, its answer, too: many a network
/// accepts connections in the name of others.
async fn over_tcp(server: SocketAddr, told: bool) -> Passage {
    let began = Instant::now();
    let mut stream = match timeout(PATIENCE, TcpStream::connect(server)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Passage::of(&error),
        Err(_) => return Passage::Silent,
    };
    let after = began.elapsed();
    if !told {
        return Passage::Open(after);
    }
    let left = PATIENCE.saturating_sub(after);
    match timeout(left, exchange(&mut stream)).await {
        Ok(Ok(true)) => Passage::Open(after),
        Ok(Ok(false) | Err(_)) | Err(_) => Passage::Mute,
    }
}

async fn exchange(stream: &mut TcpStream) -> io::Result<bool> {
    let (id, request) = request()?;
    stream.write_all(&request).await?;
    let mut answer = vec![0; 20];
    stream.read_exact(&mut answer).await?;
    let length = answer.get(2..4).and_then(|length| length.try_into().ok());
    let length = u16::from_be_bytes(length.unwrap_or_default());
    answer.resize(20_usize.saturating_add(length.into()), 0);
    if let Some(rest) = answer.get_mut(20..) {
        stream.read_exact(rest).await?;
    }
    Ok(answers(&answer, id))
}

fn request() -> io::Result<(TransactionId, Vec<u8>)> {
    let seed = entropy::seed().map_err(io::Error::other)?;
    let mut id = [0; 12];
    id.copy_from_slice(seed.get(..12).unwrap_or(&[0; 12]));
    let id = TransactionId(id);
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    Ok((id, request))
}

/// Whether it is the server's answer: that it refuses is one, too.
fn answers(bytes: &[u8], id: TransactionId) -> bool {
    let message = Message::parse(bytes).ok();
    message.is_some_and(|message| {
        let answer = matches!(message.class(), Class::Success | Class::Error);
        answer && message.transaction_id() == id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_has_refuses_and_a_mute_one_is_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = listener.local_addr().unwrap();
        assert_eq!(over_tcp(mute, true).await, Passage::Mute);
        assert!(matches!(over_tcp(mute, false).await, Passage::Open(_)));
        drop(listener);
        assert_eq!(over_tcp(mute, true).await, Passage::Refused);
        assert_eq!(over_udp(mute).await, Passage::Refused);
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_counts() {
        let (id, request) = request().unwrap();
        assert!(!answers(&request, id), "a question is no answer");
        let answer = Builder::new(Class::Success, Method::BINDING, id).build();
        assert!(answers(&answer, id));
        assert!(!answers(&answer, TransactionId([0; 12])));
    }
}
