//! TURN and STUN: a shard for UDP and all allocations, and tasks for streams.
//!
//! Each shard has a thread, a machine, and sockets at all listening addresses, over which the
//! system spreads clients. The machines are one server: what comes to one and is another
//! one's business is passed on.

mod batch;
mod client;
mod commands;
mod config;
mod connections;
mod data;
mod dtls;
mod joined;
mod pipes;
mod shard;
mod sockets;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Poll;
use postern_proto::signal::{OfferedServer, RelayOffer};
use postern_proto::stun::{Alternate, Credentials};
use postern_proto::turn::server::{Config, Server, ShardIndex};
use postern_wire::signal::{MAX_RELAY_WAYS, MAX_RELAYS};
use tokio::sync::mpsc;

pub use config::{
    Cidr, CidrError, DEFAULT_QUOTA_ADDRESS, DEFAULT_REALM, DEFAULT_TLS_PORT, TooLong, TurnConfig,
};
pub use postern_proto::stun::TimeLimited;
pub use postern_proto::turn::server::Alternates;

pub(super) use client::serve as serve_client;
pub(super) use commands::{Change, Remote};
pub(super) use config::peer_policy;
pub(super) use dtls::{Dtls, DtlsIdentity, Wire};

use commands::{Command, Link};

use crate::clock;
use crate::os::trains::{Inbox, Role, TrainSocket};
use crate::server::sockets::share;
use batch::Batch;
use connections::Connections;
use shard::Shard;
use sockets::Sockets;
use streams::Streams;

/// Issues credentials for this server's relays.
#[derive(Debug, Clone)]
pub struct Issuer(Credentials);

impl Issuer {
    /// A user name and a password that are good for `lifetime`; `id` tells in the server's
    /// accounts whom they were given to.
    #[must_use]
    pub fn issue(&self, lifetime: Duration, id: Option<&str>) -> Option<TimeLimited> {
        self.0.issue(config::unix_now(), lifetime, id)
    }

    /// What is offered to those who meet on this server: relays at these addresses over UDP,
    /// and over streams at those, with their URIs.
    pub(super) fn offer(self, udp: &[SocketAddr], streams: &[(SocketAddr, String)]) -> RelayOffer {
        let server = |address: &SocketAddr| OfferedServer {
            uri: format!("turn:{address}"),
            also: streams
                .iter()
                .filter(|(stream, _)| nearest(udp, *stream) == Some(*address))
                .map(|(_, uri)| uri.clone())
                .take(MAX_RELAY_WAYS)
                .collect(),
        };
        RelayOffer {
            servers: udp.iter().take(MAX_RELAYS).map(server).collect(),
            credentials: self.0,
            epoch: (clock::now(), config::unix_now()),
        }
    }
}

/// The one of `addresses` that is of the same machine as `stream`, as far as one can tell.
fn nearest(addresses: &[SocketAddr], stream: SocketAddr) -> Option<SocketAddr> {
    let mut addresses = addresses.iter().copied();
    let same = addresses
        .clone()
        .find(|address| address.ip() == stream.ip());
    same.or_else(|| addresses.find(|address| address.is_ipv4() == stream.is_ipv4()))
}

/// What the machine of a server is to be, and who issues credentials for it.
pub(super) struct Plan {
    machine: Config,
    relays: bool,
    threads: Option<NonZeroUsize>,
}

impl Plan {
    /// Without relays: only STUN is answered.
    pub(super) fn stun(unproven_allowance: Option<u64>) -> Self {
        let machine = Config {
            unproven_allowance,
            ..Config::default()
        };
        Self {
            machine,
            relays: false,
            threads: None,
        }
    }

    /// With relays.
    pub(super) fn relays(
        config: &TurnConfig,
        own: &Own,
        unproven_allowance: Option<u64>,
    ) -> Result<(Self, Issuer), TooLong> {
        let credentials = config.credentials(&own.secret)?;
        let issuer = Issuer(credentials.clone());
        let mut machine = config.machine(credentials, &own.listen, &own.public);
        machine.unproven_allowance = unproven_allowance;
        let plan = Self {
            machine,
            relays: true,
            threads: config.threads,
        };
        Ok((plan, issuer))
    }

    /// Lets clients discover how their NATs behave (RFC 5780).
    pub(super) fn discover(&mut self, alternates: Vec<Alternate>) {
        self.machine.discovery = alternates;
    }

    /// Where the server itself listens: relays do not reach it.
    pub(super) fn listen(&mut self, endpoints: impl IntoIterator<Item = SocketAddr>) {
        self.machine.own_endpoints.extend(endpoints);
    }
}

/// What a server has that its configuration does not say.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// Of credentials, where the configuration has none.
    pub(super) secret: [u8; 32],
    /// Where clients come, without unspecified addresses.
    pub(super) listen: Vec<SocketAddr>,
    /// How clients call it.
    pub(super) public: Vec<IpAddr>,
}

impl Own {
    /// What becomes of a new configuration while the relay runs, and who issues
    /// credentials from now on.
    pub(super) fn change(&self, config: &TurnConfig) -> Result<(Change, Issuer), TooLong> {
        let credentials = config.credentials(&self.secret)?;
        let issuer = Issuer(credentials.clone());
        let change = config.change(credentials, &self.listen, &self.public);
        Ok((change, issuer))
    }
}

/// The most threads that relay: beyond, they wait for the system more than they work.
const MAX_THREADS: usize = 64;

/// Running shards. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    remote: Remote,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts the threads. Must be called inside a tokio runtime.
    pub(super) fn start(listeners: Vec<UdpSocket>, seed: [u8; 32], plan: Plan) -> io::Result<Self> {
        if plan.relays {
            crate::os::raise_file_limit();
        }
        let count = threads(plan.threads);
        let sets = shared(listeners, count)?;
        let machines = Server::shards(clock::now(), seed, plan.machine, count);
        let polls = sets.iter().map(|_| Poll::new());
        let polls = polls.collect::<io::Result<Vec<_>>>()?;
        let (links, receivers) = links(&polls)?;
        let mut links = links.into_iter();
        let first = links.next().ok_or(io::ErrorKind::InvalidInput)?;
        let mut running = Self {
            remote: Remote::new(first, links.collect()),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let parts = machines.into_iter().zip(sets).zip(polls).zip(receivers);
        for (((machine, listeners), poll), commands) in parts {
            let shard = running.shard(machine, listeners, poll, commands, plan.relays)?;
            let name = format!("relay-{}", running.threads.len());
            let thread = std::thread::Builder::new().name(name);
            running.threads.push(thread.spawn(move || shard.run())?);
        }
        Ok(running)
    }

    fn shard(
        &self,
        machine: Server,
        listeners: Vec<UdpSocket>,
        poll: Poll,
        commands: mpsc::Receiver<Command>,
        relays: bool,
    ) -> io::Result<Shard> {
        let listeners = listeners.into_iter();
        let listeners: io::Result<_> = listeners
            .map(|socket| TrainSocket::new(socket, Role::Listener))
            .collect();
        let streams = if machine.index() == ShardIndex::default() {
            Streams::Here(BTreeMap::new())
        } else {
            Streams::Elsewhere(self.remote.clone())
        };
        let runtime = tokio::runtime::Handle::current();
        Ok(Shard {
            sockets: Sockets::new(poll.registry().try_clone()?, listeners?)?,
            poll,
            machine,
            relays,
            inbox: Arc::new(Inbox::new()),
            batch: Batch::new(),
            streams,
            connections: Connections::new(runtime, self.remote.clone()),
            commands,
            remote: self.remote.clone(),
            ready: BTreeSet::new(),
            stop: self.stop.clone(),
        })
    }

    /// What tasks speak to them with.
    pub(super) const fn remote(&self) -> &Remote {
        &self.remote
    }
}

/// How many shards there are to be.
fn threads(wish: Option<NonZeroUsize>) -> u16 {
    if !cfg!(target_os = "linux") {
        return 1;
    }
    let all = std::thread::available_parallelism().ok();
    let count = wish.or(all).map_or(1, NonZeroUsize::get);
    u16::try_from(count.min(MAX_THREADS)).unwrap_or(1)
}

/// The listeners of each shard.
fn shared(listeners: Vec<UdpSocket>, count: u16) -> io::Result<Vec<Vec<UdpSocket>>> {
    let mut sets = Vec::new();
    for _ in 1..count {
        let set: io::Result<Vec<_>> = listeners.iter().map(share).collect();
        sets.push(set?);
    }
    sets.push(listeners);
    Ok(sets)
}

type Links = (Vec<Link>, Vec<mpsc::Receiver<Command>>);

fn links(polls: &[Poll]) -> io::Result<Links> {
    let links = polls.iter().map(Link::new);
    Ok(links.collect::<io::Result<Vec<_>>>()?.into_iter().unzip())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.remote.wake_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the relay panicked");
            }
        }
    }
}
