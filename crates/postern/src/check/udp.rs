//! Drives a discovery of one address family.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_proto::ice::Nat64Prefix;
use postern_proto::stun::behaviour::{Discovery, Event, Findings, Lifetime, LifetimeEvent};
use postern_proto::{Datagram, Transmit};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{CheckError, LONGEST};
use crate::clock::{self, until};
use crate::entropy;
use crate::ice::send_limited;
use crate::os::trains::{self, IcmpError};

/// The longest datagram that a STUN server sends: fragments test.
const LARGEST: usize = 4096;

/// Datagrams that wait to be looked at.
const QUEUE: usize = 128;

/// Routers take so much longer to say that a packet has died than to forward one.
const SLOW_ROUTER: Duration = Duration::from_millis(100);

/// The address of a host behind a NAT64 towards IPv4 (RFC 7335): nobody else's.
const BEHIND_NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

/// Sockets of a measurement of lifetimes.
const PATIENT_SOCKETS: usize = 10;

struct Arrived {
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
}

/// What stands between this machine and these servers, all of one family; those of IPv4 may be behind
/// a NAT64. Without servers, or without a way to them, nothing is known.
pub(super) async fn discover(
    servers: &[SocketAddr],
    sockets: usize,
    nat64: Option<Nat64Prefix>,
) -> Result<Findings, CheckError> {
    let Some(mut sockets) = Sockets::towards(servers, sockets, nat64).await? else {
        return Ok(Findings::default());
    };
    let discovery = Discovery::new(clock::now(), entropy::seed()?, sockets.addresses(), servers);
    let mut discovery = discovery;
    if timeout(LONGEST, sockets.drive(&mut discovery))
        .await
        .is_err()
    {
        tracing::debug!("a discovery has taken too long");
    }
    sleep(
        discovery
            .findings()
            .round_trip
            .unwrap_or_default()
            .max(SLOW_ROUTER),
    )
    .await;
    for (local, router) in sockets.hops() {
        discovery.handle_hop(local, router);
    }
    Ok(discovery.findings())
}

/// How long an idle mapping lives, by this server; see [`Lifetime`].
pub(super) async fn lifetime(
    server: SocketAddr,
    nat64: Option<Nat64Prefix>,
    waited: impl Fn(LifetimeEvent),
) -> Result<LifetimeEvent, CheckError> {
    let sockets = Sockets::towards(&[server], PATIENT_SOCKETS, nat64).await?;
    let Some(mut sockets) = sockets else {
        return Ok(LifetimeEvent::Failed);
    };
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
    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        None
    }
    fn poll_end(&mut self) -> Option<Self::End>;
    fn poll_timeout(&self) -> Option<Instant>;
}

impl Ends for Discovery {
    type End = ();

    fn handle_input(&mut self, now: Instant, datagram: Datagram<'_>) {
        Self::handle_input(self, now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        Self::poll_transmit(self)
    }

    fn poll_limited(&mut self) -> Option<(Transmit, u8)> {
        Self::poll_limited(self)
    }

    fn poll_end(&mut self) -> Option<()> {
        while let Some(event) = self.poll_event() {
            if matches!(event, Event::Done(_)) {
                return Some(());
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

/// Between the addresses that a machine speaks of and those of packets. Behind a NAT64 it is told
/// of IPv4 only, as on a host with a translator of its own (464XLAT, RFC 6877).
#[derive(Debug, Clone, Copy)]
struct Translator(Option<Nat64Prefix>);

impl Translator {
    /// Only for servers of IPv4.
    fn towards(servers: &[SocketAddr], nat64: Option<Nat64Prefix>) -> Self {
        let v4 = servers.iter().all(SocketAddr::is_ipv4);
        Self(nat64.filter(|_| v4))
    }

    /// What a socket of ours is called.
    fn own(self, local: SocketAddr) -> SocketAddr {
        match self.0 {
            Some(_) => SocketAddr::new(BEHIND_NAT64.into(), local.port()),
            None => local,
        }
    }

    fn outward(self, to: SocketAddr) -> SocketAddr {
        match (self.0, to.ip()) {
            (Some(prefix), IpAddr::V4(ip)) => {
                SocketAddr::new(prefix.synthesise(ip).into(), to.port())
            }
            _ => to,
        }
    }

    /// `None` for what has not come through the NAT64.
    fn inward(self, from: IpAddr) -> Option<IpAddr> {
        match (self.0, from) {
            (Some(prefix), IpAddr::V6(ip)) => prefix.extract(ip).map(IpAddr::V4),
            (Some(_), IpAddr::V4(_)) => None,
            (None, from) => Some(from),
        }
    }
}

struct Sockets {
    /// By what they are called.
    sockets: Vec<(SocketAddr, Arc<UdpSocket>)>,
    translator: Translator,
    arrivals: mpsc::Receiver<Arrived>,
    _readers: JoinSet<()>,
}

impl Sockets {
    /// Sockets from which packets to these servers leave, if there is a way.
    async fn towards(
        servers: &[SocketAddr],
        count: usize,
        nat64: Option<Nat64Prefix>,
    ) -> io::Result<Option<Self>> {
        let translator = Translator::towards(servers, nat64);
        let servers = servers.iter().map(|server| translator.outward(*server));
        let Some(ip) = route_to(&servers.collect::<Vec<_>>()).await else {
            return Ok(None);
        };
        Self::bind(ip, count, translator).await.map(Some)
    }

    async fn bind(ip: IpAddr, count: usize, translator: Translator) -> io::Result<Self> {
        let (sender, arrivals) = mpsc::channel(QUEUE);
        let mut sockets = Vec::new();
        let mut readers = JoinSet::new();
        for _ in 0..count {
            let socket = Arc::new(UdpSocket::bind((ip, 0)).await?);
            let local = translator.own(socket.local_addr()?);
            // Who cannot, sees no routers.
            let _ = trains::keep_errors(&socket);
            readers.spawn(read(local, socket.clone(), translator, sender.clone()));
            sockets.push((local, socket));
        }
        Ok(Self {
            sockets,
            translator,
            arrivals,
            _readers: readers,
        })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(local, _)| *local).collect()
    }

    /// The routers that said that a packet has lived its time, and the socket that sent it.
    fn hops(&self) -> Vec<(SocketAddr, IpAddr)> {
        let mut hops = Vec::new();
        for (local, socket) in &self.sockets {
            let is_ipv4 = local.is_ipv4() && self.translator.0.is_none();
            while let Some(error) = trains::next_error(socket) {
                if is_expiry(&error, is_ipv4) {
                    let router = error.by.and_then(|router| self.translator.inward(router));
                    hops.extend(router.map(|router| (*local, router)));
                }
            }
        }
        hops
    }

    async fn drive<M: Ends>(&mut self, machine: &mut M) -> M::End {
        loop {
            while let Some((transmit, ttl)) = machine.poll_limited() {
                self.send_limited(&transmit, ttl);
            }
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

    fn socket(&self, local: SocketAddr) -> Option<&UdpSocket> {
        let mut sockets = self.sockets.iter();
        let (_, socket) = sockets.find(|(address, _)| *address == local)?;
        Some(socket)
    }

    /// A refusal shows as silence; the first may be about an earlier packet, of which a router
    /// has told.
    async fn send(&self, transmit: &Transmit) {
        let Some(socket) = self.socket(transmit.local) else {
            return;
        };
        let to = self.translator.outward(transmit.remote);
        for _ in 0..2 {
            match socket.send_to(&transmit.payload, to).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, remote = %transmit.remote, "a test was not sent");
                }
            }
        }
    }

    fn send_limited(&self, transmit: &Transmit, ttl: u8) {
        let outward = Transmit {
            remote: self.translator.outward(transmit.remote),
            ..transmit.clone()
        };
        if let Some(socket) = self.socket(transmit.local)
            && let Err(error) = send_limited(socket, &outward, ttl)
        {
            tracing::debug!(%error, ttl, "a packet that is to die was not sent");
        }
    }
}

fn is_expiry(error: &IcmpError, ipv4: bool) -> bool {
    const TIME_EXCEEDED: u8 = 11;
    const TIME_EXCEEDED_V6: u8 = 3;
    error.kind
        == if ipv4 {
            TIME_EXCEEDED
        } else {
            TIME_EXCEEDED_V6
        }
}

async fn read(
    local: SocketAddr,
    socket: Arc<UdpSocket>,
    translator: Translator,
    sender: mpsc::Sender<Arrived>,
) {
    let mut buffer = vec![0; LARGEST];
    loop {
        // Errors are those of earlier datagrams: ports that nobody listens at.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(ip) = translator.inward(remote.ip()) else {
            continue;
        };
        let payload = buffer.get(..length).unwrap_or_default().to_vec();
        let arrived = Arrived {
            local,
            remote: match translator.0 {
                Some(_) => SocketAddr::new(ip, remote.port()),
                None => remote,
            },
            payload,
        };
        if sender.send(arrived).await.is_err() {
            return;
        }
    }
}
