//! Probes of clients' ports, over the port of the WebSocket: `POST /probe`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use postern_proto::probe::{Config, Probe, ProbeId, Server, Stats};
use postern_proto::turn::server::PeerPolicy;
use postern_wire::probe::{self as wire, Answer, Nonce, Outcome, Request, Verdict};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::ServerConfig;
use super::turn::{Cidr, peer_policy};
use super::web::{Guest, Web};
use crate::clock;
use crate::entropy;

/// How often a connection that both ends open is tried.
const CALLS: usize = 10;

/// Whom a server probes at their wish.
#[derive(Debug, Clone, Default)]
pub struct ProbeConfig {
    /// Clients that are probed, though they are not on the public internet.
    pub allow: Vec<Cidr>,
    /// Clients that are not.
    pub deny: Vec<Cidr>,
}

impl ProbeConfig {
    /// This machine is out of bounds, with whatever address it is called.
    fn policy(&self, own: &Own) -> PeerPolicy {
        peer_policy((&self.allow, &self.deny), &own.listen, &own.public)
    }
}

/// The machine that decides, for all connections.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    machine: Arc<Mutex<Server>>,
    own: Arc<Own>,
}

/// How the server is called.
#[derive(Debug)]
struct Own {
    listen: Vec<SocketAddr>,
    public: Vec<IpAddr>,
}

impl Prober {
    /// If clients may ask for probes; `listen` is where they come to.
    pub(super) fn of(config: &ServerConfig, listen: Vec<SocketAddr>) -> Option<Self> {
        let probe = config.probe.as_ref()?;
        let own = Own {
            listen,
            public: config.public.clone(),
        };
        let settings = Config {
            policy: probe.policy(&own),
            alternates: config.alternate_ips.clone(),
            ..Config::default()
        };
        let machine = Server::new(clock::now(), settings);
        Some(Self {
            machine: Arc::new(Mutex::new(machine)),
            own: Arc::new(own),
        })
    }

    pub(super) fn change(&self, probe: &ProbeConfig) {
        self.machine().set_policy(probe.policy(&self.own));
    }

    pub(super) fn stats(&self) -> Stats {
        self.machine().stats().clone()
    }

    fn machine(&self) -> MutexGuard<'_, Server> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `at` is where the request came to.
    async fn answer(&self, client: IpAddr, at: IpAddr, body: &[u8]) -> Answer {
        let request = Request::parse(body).ok();
        let begun = self.machine().handle_request(clock::now(), client, request);
        let verdict = match begun {
            Ok(probe) => Verdict::Outcome(self.carry_out(probe, at.to_canonical()).await),
            Err(refusal) => Verdict::Error(refusal),
        };
        Answer {
            address: client.to_canonical(),
            verdict,
        }
    }

    async fn carry_out(&self, probe: Probe, at: IpAddr) -> Outcome {
        let mut running = Running {
            prober: self,
            id: probe.id,
            outcome: None,
        };
        let from = probe.from.unwrap_or(at);
        let outcome = match probe.request {
            Request::Tcp { .. } | Request::TcpAlternate { .. } => {
                connect(probe, SocketAddr::new(from, 0)).await
            }
            Request::TcpCrossing { from: port, .. } => {
                cross(probe, SocketAddr::new(from, port)).await
            }
            Request::Udp { nonce, .. } => echo(probe, nonce).await,
        };
        running.outcome = Some(outcome);
        outcome
    }
}

/// Tells the machine of the end of a probe, also when its client goes away.
struct Running<'a> {
    prober: &'a Prober,
    id: ProbeId,
    outcome: Option<Outcome>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut machine = self.prober.machine();
        machine.handle_outcome(self.id, self.outcome);
    }
}

/// Answers a request. One that names another type may be a web page's, of whoever visits it:
/// a browser lets it ask so without asking us first.
pub(super) async fn answer(
    State(web): State<Web>,
    Extension(guest): Extension<Guest>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(prober) = &web.prober else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let told = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    if told != Some(wire::CONTENT_TYPE.as_bytes()) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let answer = prober.answer(guest.address, guest.at, &body).await;
    let status = match answer.verdict {
        Verdict::Outcome(_) => StatusCode::OK,
        Verdict::Error(refusal) => {
            StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    let headers = [(CONTENT_TYPE, wire::CONTENT_TYPE)];
    (status, headers, answer.to_json()).into_response()
}

async fn connect(probe: Probe, from: SocketAddr) -> Outcome {
    match timeout(probe.patience, open(from, probe.target)).await {
        Ok(Ok(_)) => Outcome::Connected,
        Ok(Err(error)) => failed(&error),
        Err(_) => Outcome::Silent,
    }
}

/// Calls again and again, because whoever calls first may be turned away; after a while that
/// nobody can foresee, so that two who call each other do not miss each other for ever.
async fn cross(probe: Probe, from: SocketAddr) -> Outcome {
    let mut last = Outcome::Silent;
    let calling = async {
        for pause in pauses() {
            match open(from, probe.target).await {
                Ok(_) => return true,
                Err(error) => last = failed(&error),
            }
            sleep(pause).await;
        }
        false
    };
    match timeout(probe.patience, calling).await {
        Ok(true) => Outcome::Connected,
        Ok(false) | Err(_) => last,
    }
}

/// Between one call and the next.
fn pauses() -> impl Iterator<Item = Duration> {
    let seed = entropy::seed().unwrap_or_default();
    let random = seed.into_iter().take(CALLS);
    random.map(|byte| Duration::from_millis(40 + u64::from(byte) / 2))
}

async fn open(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match from {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    socket.connect(to).await
}

async fn echo(probe: Probe, nonce: Nonce) -> Outcome {
    match timeout(probe.patience, send_and_wait(probe.target, nonce)).await {
        Ok(Ok(())) => Outcome::Echoed,
        Ok(Err(error)) => failed(&error),
        Err(_) => Outcome::Silent,
    }
}

async fn send_and_wait(target: SocketAddr, nonce: Nonce) -> io::Result<()> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    let datagram = nonce.datagram();
    socket.send(&datagram).await?;
    let mut buffer = [0; 128];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..length) == Some(&datagram[..]) {
            return Ok(());
        }
    }
}

fn failed(error: &io::Error) -> Outcome {
    use io::ErrorKind as E;
    if matches!(error.kind(), E::ConnectionRefused | E::ConnectionReset) {
        Outcome::Refused
    } else if error.kind() == E::TimedOut {
        Outcome::Silent
    } else if matches!(error.kind(), E::AddrInUse | E::AddrNotAvailable) {
        // It has nothing to do with the client.
        Outcome::Unknown
    } else {
        Outcome::Unreachable
    }
}

#[cfg(test)]
mod tests;
