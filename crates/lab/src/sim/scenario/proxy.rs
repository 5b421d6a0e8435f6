//! An HTTP proxy that opens tunnels (RFC 9110 section 9.3.6).

use crate::sim::tcp::{TcpCall, TcpEvent};
use postern_proto::Verdict;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// The answer to a tunnel that is there.
pub(super) const OPENED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\n\r\n";
/// The first port of its own connections.
const FIRST_PORT: u16 = 20_000;

/// The two ends of a connection, the proxy's first.
type Ends = (SocketAddr, SocketAddr);

/// What a client asks for.
pub(super) fn request(target: SocketAddr) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes()
}

fn target(request: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(request).ok()?;
    let rest = text.strip_prefix("CONNECT ")?;
    rest.split(' ').next()?.parse().ok()
}

/// Joins connections of its clients with those that it opens for them.
#[derive(Debug)]
pub struct Proxy {
    local: SocketAddr,
    opened: u16,
    /// Both ways.
    joined: BTreeMap<Ends, Ends>,
    calls: VecDeque<TcpCall>,
}

impl Proxy {
    /// One that listens at `local`.
    #[must_use]
    pub fn new(local: SocketAddr) -> Self {
        Self {
            local,
            opened: 0,
            joined: BTreeMap::new(),
            calls: VecDeque::from([TcpCall::Listen(local)]),
        }
    }

    /// Something about a connection of the host.
    pub(super) fn handle_tcp(&mut self, ends: Ends, event: &TcpEvent) -> Verdict {
        let from_client = ends.0 == self.local;
        match (self.joined.get(&ends).copied(), event) {
            (None, TcpEvent::Message(message)) if from_client => self.open(ends, message),
            (Some(other), TcpEvent::Message(message)) => self.send(other, message),
            (Some(client), TcpEvent::Connected) => self.send(client, OPENED),
            (Some(client), TcpEvent::Failed(_)) => {
                self.send(client, REFUSED);
                self.part(ends);
            }
            (Some(_), TcpEvent::Closed) => self.part(ends),
            (None, _) | (Some(_), TcpEvent::Accepted) => {}
        }
        Verdict::Consumed
    }

    pub(super) fn poll_tcp(&mut self) -> Option<TcpCall> {
        self.calls.pop_front()
    }

    fn open(&mut self, client: Ends, message: &[u8]) {
        let Some(target) = target(message) else {
            return self.calls.push_back(TcpCall::Close(client.0, client.1));
        };
        let own = SocketAddr::new(self.local.ip(), FIRST_PORT + self.opened);
        self.opened += 1;
        self.joined.insert(client, (own, target));
        self.joined.insert((own, target), client);
        self.calls.push_back(TcpCall::Connect(own, target));
    }

    fn send(&mut self, (local, remote): Ends, message: &[u8]) {
        let call = TcpCall::Send(local, remote, message.to_vec());
        self.calls.push_back(call);
    }

    fn part(&mut self, ends: Ends) {
        if let Some(other) = self.joined.remove(&ends) {
            self.joined.remove(&other);
            self.calls.push_back(TcpCall::Close(other.0, other.1));
        }
    }
}
