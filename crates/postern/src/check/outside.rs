//! Having the server look from outside, at ports that this machine has just sent from: what it
//! sends comes from another port of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use postern_wire::stun::{Builder, Class, Message, Method, TransactionId, XorMappedAddress};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::facts::Unsolicited;
use super::tcp;
use super::udp::route_to;
use crate::entropy;
use crate::probe::{Answer, Nonce, Outcome, ProbeError, Request, ask};
use crate::server_url::ServerUrl;

/// One datagram may be lost, and hardly two.
const TRIES: usize = 2;

/// How long a STUN server is waited for.
const PATIENCE: Duration = Duration::from_millis(700);

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

/// A connection to a port that has one to the server already.
pub(super) async fn over_tcp(server: &ServerUrl, stun: &[SocketAddr]) -> Option<Unsolicited> {
    let ip = route_to(stun).await?;
    // The listener keeps the port, and the connection the mapping.
    let (_listener, _connection, mapped) = tcp::listen_and_connect(ip, stun).await?;
    let request = Request::Tcp {
        port: mapped.port(),
    };
    outcome(ask(server, Some(ip), &request).await)
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
    let mapped = mapped(&socket, stun, id_of(&seed)).await?;
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

fn id_of(seed: &[u8; 32]) -> TransactionId {
    let mut id = [0; 12];
    id.copy_from_slice(seed.get(..12).unwrap_or(&[0; 12]));
    TransactionId(id)
}

/// Where the first STUN server that answers sees the socket.
async fn mapped(socket: &UdpSocket, stun: &[SocketAddr], id: TransactionId) -> Option<SocketAddr> {
    let request = Builder::new(Class::Request, Method::BINDING, id).build();
    for server in stun {
        socket.send_to(&request, server).await.ok()?;
        let mut buffer = [0; 512];
        let Ok(Ok((length, from))) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await else {
            continue;
        };
        let message = Message::parse(buffer.get(..length)?).ok();
        let ours = message.filter(|message| message.transaction_id() == id && from == *server);
        let mapped = ours.and_then(|message| message.get::<XorMappedAddress>().ok().flatten());
        if let Some(XorMappedAddress(mapped)) = mapped {
            return Some(mapped);
        }
    }
    None
}
