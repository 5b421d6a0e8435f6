//! Drives a discovery of one address family.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use postern_proto::Datagram;
use postern_proto::stun::behaviour::{Discovery, Event, Findings};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CheckError, LONGEST};
use crate::clock::{self, until};
use crate::entropy;

/// The longest datagram that a STUN server sends: fragments test.
const LARGEST: usize = 4096;

/// Datagrams that wait to be looked at.
const QUEUE: usize = 128;

struct Arrived {
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
}

/// What stands between this machine and these servers, all of one family. Without servers, or
/// without a way to them, nothing is known.
pub(super) async fn discover(
    servers: &[SocketAddr],
    sockets: usize,
) -> Result<Findings, CheckError> {
    let Some(ip) = route_to(servers).await else {
        return Ok(Findings::default());
    };
    let sockets = Sockets::bind(ip, sockets).await?;
    let discovery = Discovery::new(clock::now(), entropy::seed()?, sockets.addresses(), servers);
    Ok(sockets.drive(discovery).await)
}

/// The address from which packets to one of the servers leave.
pub(super) async fn route_to(servers: &[SocketAddr]) -> Option<IpAddr> {
    for server in servers {
        let any: SocketAddr = if server.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        // Connecting sends nothing: it asks the system which way it would take.
        let socket = UdpSocket::bind(any).await.ok()?;
        if socket.connect(server).await.is_ok()
            && let Ok(local) = socket.local_addr()
        {
            return Some(local.ip());
        }
    }
    None
}

struct Sockets {
    sockets: Vec<(SocketAddr, Arc<UdpSocket>)>,
    arrivals: mpsc::Receiver<Arrived>,
    _readers: JoinSet<()>,
}

impl Sockets {
    async fn bind(ip: IpAddr, count: usize) -> io::Result<Self> {
        let (sender, arrivals) = mpsc::channel(QUEUE);
        let mut sockets = Vec::new();
        let mut readers = JoinSet::new();
        for _ in 0..count {
            let socket = Arc::new(UdpSocket::bind((ip, 0)).await?);
            let local = socket.local_addr()?;
            readers.spawn(read(local, socket.clone(), sender.clone()));
            sockets.push((local, socket));
        }
        Ok(Self {
            sockets,
            arrivals,
            _readers: readers,
        })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(local, _)| *local).collect()
    }

    async fn drive(mut self, mut discovery: Discovery) -> Findings {
        let end = async {
            loop {
                while let Some(transmit) = discovery.poll_transmit() {
                    self.send(transmit.local, transmit.remote, &transmit.payload)
                        .await;
                }
                while let Some(event) = discovery.poll_event() {
                    if let Event::Done(findings) = event {
                        return *findings;
                    }
                }
                tokio::select! {
                    biased;
                    () = until(discovery.poll_timeout()) => discovery.handle_timeout(clock::now()),
                    Some(arrived) = self.arrivals.recv() => {
                        let datagram = Datagram {
                            local: arrived.local,
                            remote: arrived.remote,
                            payload: &arrived.payload,
                        };
                        discovery.handle_input(clock::now(), datagram);
                    }
                }
            }
        };
        match timeout(LONGEST, end).await {
            Ok(findings) => findings,
            Err(_) => discovery.findings(),
        }
    }

    /// A refusal shows as silence.
    async fn send(&self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let socket = self.sockets.iter().find(|(address, _)| *address == local);
        if let Some((_, socket)) = socket
            && let Err(error) = socket.send_to(payload, remote).await
        {
            tracing::debug!(%error, %remote, "a test was not sent");
        }
    }
}

async fn read(local: SocketAddr, socket: Arc<UdpSocket>, sender: mpsc::Sender<Arrived>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        // Errors are those of earlier datagrams: ports that nobody listens at.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let payload = buffer.get(..length).unwrap_or_default().to_vec();
        let arrived = Arrived {
            local,
            remote,
            payload,
        };
        if sender.send(arrived).await.is_err() {
            return;
        }
    }
}
