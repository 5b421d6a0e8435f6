//! TURN and STUN: a shard for UDP and all allocations, and tasks for streams.
//!
//! One shard has all listening addresses: the quotas, the pool of ports and the way from
//! one client's relay to another's are then one.

mod batch;
mod client;
mod commands;
mod config;
mod connections;
mod data;
mod dtls;
mod shard;
mod sockets;
mod streams;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Poll;
use postern_proto::signal::{OfferedServer, RelayOffer};
use postern_proto::stun::{Alternate, Credentials};
use postern_proto::turn::server::{Config, Server};
use postern_wire::signal::{MAX_RELAY_WAYS, MAX_RELAYS};

pub use config::{
    Cidr, CidrError, DEFAULT_QUOTA_ADDRESS, DEFAULT_REALM, DEFAULT_TLS_PORT, TooLong, TurnConfig,
};
pub use postern_proto::stun::TimeLimited;
pub use postern_proto::turn::server::Alternates;

pub(super) use client::serve as serve_client;
pub(super) use commands::{Change, Remote};
pub(super) use dtls::{Dtls, DtlsIdentity, Wire};

use crate::clock;
use crate::os::trains::{Inbox, Role, TrainSocket};
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
        };
        Ok((plan, issuer))
    }

    /// Lets clients discover how their NATs behave (RFC 5780).
    pub(super) fn discover(&mut self, alternates: Vec<Alternate>) {
        self.machine.discovery = alternates;
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

/// A running shard. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    remote: Remote,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the thread. Must be called inside a tokio runtime.
    pub(super) fn start(
        listeners: Vec<std::net::UdpSocket>,
        seed: [u8; 32],
        plan: Plan,
    ) -> io::Result<Self> {
        if plan.relays {
            crate::os::raise_file_limit();
        }
        let poll = Poll::new()?;
        let (remote, commands) = Remote::new(&poll)?;
        let listeners = listeners.into_iter();
        let listeners: io::Result<_> = listeners
            .map(|socket| TrainSocket::new(socket, Role::Listener))
            .collect();
        let stop = Arc::<AtomicBool>::default();
        let runtime = tokio::runtime::Handle::current();
        let shard = Shard {
            sockets: Sockets::new(poll.registry().try_clone()?, listeners?)?,
            poll,
            machine: Server::new(clock::now(), seed, plan.machine),
            relays: plan.relays,
            inbox: Arc::new(Inbox::new()),
            batch: Batch::new(),
            streams: Streams::default(),
            connections: Connections::new(runtime, remote.clone()),
            commands,
            ready: BTreeSet::new(),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name("relay".to_owned());
        let thread = thread.spawn(move || shard.run())?;
        Ok(Self {
            remote,
            stop,
            thread: Some(thread),
        })
    }

    /// What tasks speak to it with.
    pub(super) const fn remote(&self) -> &Remote {
        &self.remote
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.remote.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the relay's thread panicked");
        }
    }
}
