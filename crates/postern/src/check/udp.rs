//! Drives a discovery of one address family.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use postern_proto::stun::behaviour::{Discovery, Event, Findings, Lifetime, LifetimeEvent};
use postern_proto::{Datagram, Transmit};
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

/// Sockets of a measurement of lifetimes.
const PATIENT_SOCKETS: usize = 10;

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
    let mut discovery = discovery;
    let found = timeout(LONGEST, sockets.drive(&mut discovery)).await;
    Ok(found.unwrap_or_else(|_| discovery.findings()))
}

/// How long an idle mapping lives, by this server; see [`Lifetime`].
pub(super) async fn lifetime(
    server: SocketAddr,
    waited: impl Fn(LifetimeEvent),
) -> Result<LifetimeEvent, CheckError> {
    let Some(ip) = route_to(&[server]).await else {
        return Ok(LifetimeEvent::Failed);
    };
    let sockets = Sockets::bind(ip, PATIENT_SOCKETS).await?;
    let seed = entropy::seed()?;
    let machine = Lifetime::new(clock::now(), seed, sockets.addresses(), server);
    Ok(sockets.drive(&mut Patient { machine, waited }).await)
}

/// A machine that comes to an end.
trait Ends {
    type End;
    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_transmit(&mut self) -> Option<Transmit>;
    fn poll_end(&mut self) -> Option<Self::End>;
    fn poll_timeout(&self) -> Option<Instant>;
}

impl Ends for Discovery {
    type End = Findings;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) {
        Self::handle_input(self, now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        Self::poll_transmit(self)
    }

    fn poll_end(&mut self) -> Option<Findings> {
        while let Some(event) = self.poll_event() {
            if let Event::Done(findings) = event {
                return Some(*findings);
            }
        }
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Self::poll_timeout(self)
    }
}

/// A measurement that takes minutes, and who wants to know how far it is.
struct Patient<F> {
    machine: Lifetime,
    waited: F,
}

impl<F: Fn(LifetimeEvent)> Ends for Patient<F> {
    type End = LifetimeEvent;

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) {
        self.machine.handle_input(now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.machine.poll_transmit()
    }

    fn poll_end(&mut self) -> Option<LifetimeEvent> {
        while let Some(event) = self.machine.poll_event() {
            match event {
                LifetimeEvent::Waited { .. } => (self.waited)(event),
                LifetimeEvent::Done { .. } | LifetimeEvent::Failed => return Some(event),
            }
        }
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }
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

    async fn drive<M: Ends>(mut self, machine: &mut M) -> M::End {
        loop {
            while let Some(transmit) = machine.poll_transmit() {
                self.send(&transmit).await;
            }
            if let Some(end) = machine.poll_end() {
                return end;
            }
            tokio::select! {
                biased;
                () = until(machine.poll_timeout()) => machine.handle_timeout(clock::now()),
                Some(arrived) = self.arrivals.recv() => {
                    let datagram = Datagram {
                        local: arrived.local,
                        remote: arrived.remote,
                        payload: &arrived.payload,
                    };
                    machine.handle_input(clock::now(), datagram);
                }
            }
        }
    }

    /// A refusal shows as silence.
    async fn send(&self, transmit: &Transmit) {
        let mut sockets = self.sockets.iter();
        let socket = sockets.find(|(address, _)| *address == transmit.local);
        if let Some((_, socket)) = socket
            && let Err(error) = socket.send_to(&transmit.payload, transmit.remote).await
        {
            tracing::debug!(%error, remote = %transmit.remote, "a test was not sent");
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
