//! Looking at a mapping from outside: the port is opened for the probe if nobody has it, and a
//! server is asked.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use postern_proto::portmap::{Listener, Probe, Probed};
use postern_wire::transport::Transport;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::entropy;
use crate::probe::{Answer, Nonce, Outcome, Request, ask};
use crate::server_url::ServerUrl;

/// How long the system may take to hand over a connection that the server has made.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long another program may take to accept a connection from this machine, or a host of
/// this network one from here.
const INSIDE: Duration = Duration::from_secs(1);

/// Carries out a probe. The server is asked from the address `own`, which is the one that the
/// gateway knows.
pub(super) async fn probe(server: &ServerUrl, own: IpAddr, probe: Probe) -> Probed {
    let nobody = Probed {
        listener: Listener::Nobody,
        answer: None,
    };
    let Ok(seed) = entropy::seed() else {
        return nobody;
    };
    let (nonce, _) = seed.split_at(16);
    let nonce = Nonce(nonce.try_into().unwrap_or([0; 16]));
    match probe.transport {
        Transport::Tcp => over_tcp(server, own, probe).await,
        Transport::Udp if probe.is_ours => over_udp(server, own, probe, nonce).await,
        Transport::Udp => nobody,
    }
}

async fn over_tcp(server: &ServerUrl, own: IpAddr, probe: Probe) -> Probed {
    let port = probe.external_port;
    let request = Request::Tcp { port };
    let listener = match probe.is_ours {
        true => TcpListener::bind(probe.internal).await,
        false => Err(io::ErrorKind::AddrInUse.into()),
    };
    let Ok(listener) = listener else {
        let connecting = timeout(INSIDE, TcpStream::connect(probe.internal));
        let listener = match connecting.await {
            Ok(Ok(_)) => Listener::Another,
            Ok(Err(_)) | Err(_) => Listener::Nobody,
        };
        let answer = tell(ask(server, Some(own), &request).await);
        return Probed { listener, answer };
    };
    let mut accepting = std::pin::pin!(listener.accept());
    let mut asking = std::pin::pin!(ask(server, Some(own), &request));
    let mut arrived = false;
    let answer = loop {
        tokio::select! {
            accepted = &mut accepting, if !arrived => arrived = accepted.is_ok(),
            answer = &mut asking => break tell(answer),
        }
    };
    let is_made = answer.is_some_and(|answer| answer.outcome() == Some(Outcome::Connected));
    if is_made && !arrived {
        arrived = matches!(timeout(HANDOVER, accepting).await, Ok(Ok(_)));
    }
    Probed {
        listener: Listener::Ours { arrived },
        answer,
    }
}

/// The datagram goes back to where it came from, so that the server sees it, too.
async fn over_udp(server: &ServerUrl, own: IpAddr, probe: Probe, nonce: Nonce) -> Probed {
    let socket = match UdpSocket::bind(probe.internal).await {
        Ok(socket) => socket,
        Err(error) => {
            let listener = if error.kind() == io::ErrorKind::AddrInUse {
                Listener::Another
            } else {
                Listener::Nobody
            };
            let answer = None;
            return Probed { listener, answer };
        }
    };
    let port = probe.external_port;
    let request = Request::Udp { port, nonce };
    let mut asking = std::pin::pin!(ask(server, Some(own), &request));
    let mut arrived = false;
    let answer = loop {
        tokio::select! {
            came = echo(&socket, nonce) => arrived |= came,
            answer = &mut asking => break tell(answer),
        }
    };
    Probed {
        listener: Listener::Ours { arrived },
        answer,
    }
}

/// Waits for a datagram; whether it was the one.
async fn echo(socket: &UdpSocket, nonce: Nonce) -> bool {
    let mut buffer = [0; 128];
    let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
        return false;
    };
    let datagram = nonce.datagram();
    let is_it = buffer.get(..length) == Some(&datagram[..]);
    if is_it {
        let _ = socket.send_to(&datagram, from).await;
    }
    is_it
}

fn tell(answer: Result<Answer, crate::probe::ProbeError>) -> Option<Answer> {
    answer
        .inspect_err(|error| tracing::warn!(%error, "a mapping cannot be verified"))
        .ok()
}
