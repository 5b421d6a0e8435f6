//! The sockets and relays of a session: one socket for each component on each address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::Transmit;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::options::{GatherError, Options};
use super::{MAX_COMPONENTS, Way};
use crate::net::{AddressFilter, host_addresses};
use crate::turn::Allocation;

/// Datagrams that wait for the session; further ones stay with the system.
const WAITING: usize = 64;

/// The largest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// What has arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) way: Way,
    pub(super) payload: Vec<u8>,
}

/// A relay and the host candidate that it belongs to.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) base: SocketAddr,
    pub(super) relayed: SocketAddr,
    pub(super) server: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Sockets {
    sockets: BTreeMap<SocketAddr, (u16, Arc<UdpSocket>)>,
    relays: BTreeMap<SocketAddr, Arc<Allocation>>,
    inbox: mpsc::Receiver<Arrived>,
    sender: mpsc::Sender<Arrived>,
    /// They end with the session.
    readers: JoinSet<()>,
}

impl Sockets {
    pub(super) async fn bind(options: &Options) -> Result<Self, GatherError> {
        let filter = match options.loopback {
            true => AddressFilter::WithLoopback,
            false => AddressFilter::Network,
        };
        let addresses = host_addresses(filter).map_err(GatherError::Sockets)?;
        let (sender, inbox) = mpsc::channel(WAITING);
        let mut sockets = Self {
            sockets: BTreeMap::new(),
            relays: BTreeMap::new(),
            inbox,
            sender,
            readers: JoinSet::new(),
        };
        let mut failure = None;
        for component in 1..=options.components.clamp(1, MAX_COMPONENTS) {
            for ip in &addresses {
                if let Err(error) = sockets.add(component, SocketAddr::new(*ip, 0)).await {
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if sockets.sockets.is_empty() => Err(GatherError::Sockets(error)),
            None if sockets.sockets.is_empty() => Err(GatherError::NoAddress),
            _ => Ok(sockets),
        }
    }

    async fn add(&mut self, component: u16, address: SocketAddr) -> std::io::Result<()> {
        let socket = Arc::new(UdpSocket::bind(address).await?);
        let local = socket.local_addr()?;
        self.sockets.insert(local, (component, socket.clone()));
        self.readers.spawn(read(local, socket, self.sender.clone()));
        Ok(())
    }

    /// The component and address of each socket.
    pub(super) fn hosts(&self) -> Vec<(u16, SocketAddr)> {
        let all = self.sockets.iter();
        all.map(|(local, (component, _))| (*component, *local))
            .collect()
    }

    /// A relay for each component.
    pub(super) async fn allocate(&mut self, options: &Options) -> Result<Vec<Relay>, GatherError> {
        let mut relays = Vec::new();
        if options.turn.is_empty() {
            return Ok(relays);
        }
        for component in 1..=options.components.clamp(1, MAX_COMPONENTS) {
            let allocation = Allocation::request(&options.turn, &options.relay).await?;
            let relayed = allocation.relayed();
            let servers = allocation.server().target.addresses.clone();
            let mut bases = self.sockets.iter().filter(|(_, (c, _))| *c == component);
            let base = bases.next().map(|(local, _)| *local);
            if let (Some(base), Some(server)) = (base, servers.first().copied()) {
                relays.push(Relay {
                    base,
                    relayed,
                    server,
                });
            }
            let allocation = Arc::new(allocation);
            self.readers
                .spawn(read_relay(allocation.clone(), self.sender.clone()));
            self.relays.insert(relayed, allocation);
        }
        Ok(relays)
    }

    pub(super) async fn next(&mut self) -> Option<Arrived> {
        self.inbox.recv().await
    }

    pub(super) async fn send(&self, way: Way, payload: &[u8]) {
        let sent = if let Some(relay) = self.relays.get(&way.local) {
            let sent = relay.send_to(payload, way.remote).await;
            sent.map_err(|error| error.to_string())
        } else if let Some((_, socket)) = self.sockets.get(&way.local) {
            let sent = socket.send_to(payload, way.remote).await;
            sent.map(drop).map_err(|error| error.to_string())
        } else {
            Ok(())
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "a datagram was not sent");
        }
    }

    /// Sends one that is not to arrive.
    pub(super) fn send_limited(&self, transmit: &Transmit, ttl: u8) {
        if let Some((_, socket)) = self.sockets.get(&transmit.local)
            && let Err(error) = send_limited(socket, transmit, ttl)
        {
            tracing::trace!(%error, "a datagram was not sent");
        }
    }

    /// Gives the relays back.
    pub(super) async fn close(mut self) {
        self.readers.shutdown().await;
        for (_, relay) in std::mem::take(&mut self.relays) {
            if let Some(relay) = Arc::into_inner(relay) {
                relay.close().await;
            }
        }
    }
}

/// Sends with a time to live of its own.
pub(crate) fn send_limited(
    socket: &UdpSocket,
    transmit: &Transmit,
    ttl: u8,
) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    let to = transmit.remote.into();
    if transmit.remote.is_ipv4() {
        let usual = socket.ttl_v4()?;
        socket.set_ttl_v4(ttl.into())?;
        let sent = socket.send_to(&transmit.payload, &to);
        socket.set_ttl_v4(usual)?;
        return sent.map(drop);
    }
    let usual = socket.unicast_hops_v6()?;
    socket.set_unicast_hops_v6(ttl.into())?;
    let sent = socket.send_to(&transmit.payload, &to);
    socket.set_unicast_hops_v6(usual)?;
    sent.map(drop)
}

async fn read(local: SocketAddr, socket: Arc<UdpSocket>, sender: mpsc::Sender<Arrived>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // An error is an ICMP message about an earlier datagram: the agent's timers see to that.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let arrived = Arrived {
            way: Way { local, remote },
            payload: buffer.get(..length).unwrap_or_default().to_vec(),
        };
        if sender.send(arrived).await.is_err() {
            return;
        }
    }
}

async fn read_relay(allocation: Arc<Allocation>, sender: mpsc::Sender<Arrived>) {
    let local = allocation.relayed();
    while let Ok((payload, remote)) = allocation.recv_from().await {
        let way = Way { local, remote };
        if sender.send(Arrived { way, payload }).await.is_err() {
            return;
        }
    }
}
