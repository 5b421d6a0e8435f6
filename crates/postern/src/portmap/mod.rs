//! Ports of the home router that lead here: UPnP-IGD, NAT-PMP and PCP, whichever it speaks.
//!
//! ```no_run
//! use postern::portmap::{Client, Config, Transport, Wish};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::start(Config::default()).await?;
//! let mapping = client.map(Wish::new(Transport::Tcp, 22)).await?;
//! println!("port {} outside", mapping.current().external_port);
//! mapping.remove().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Mapping`] is renewed, made again after the gateway has restarted, and removed when it
//! is dropped. [`Mapping::changed`] tells what happens to it.
//!
//! What the protocols decide is decided in `postern_proto::portmap`; this is its driver.

mod guard;
mod links;
mod sockets;
mod task;
mod verify;

pub use guard::GUARD;
pub(crate) use guard::forbids as is_forbidden;
pub use links::Link;
pub(crate) use links::default_routers;
pub use postern_proto::portmap::{
    Failure, Found, Mapping as PortMapping, Protocol, Protocols, Refusal, ServiceAt, Survey,
    Ticket, is_public,
};
pub use postern_wire::pcp::Nonce;
pub use postern_wire::transport::Transport;
pub use postern_wire::upnp::igd::{Entry, listing_from_xml};
pub use postern_wire::upnp::soap::{Arguments, Reply};
pub use postern_wire::upnp::url::HttpUrl;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use postern_proto::portmap as machine;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::server_url::ServerUrl;
use task::{Command, Task};

/// Commands that wait for the task.
const MAX_COMMANDS: usize = 64;
/// How long a gateway's word on a removal is waited for; it is asked for longer.
const REMOVAL: Duration = Duration::from_secs(10);
/// Changes of a mapping that wait for its owner; the oldest are those that count, and what
/// stands is in [`Mapping::current`].
const MAX_CHANGES: usize = 64;

/// What shall be reachable.
#[derive(Debug, Clone)]
pub struct Wish {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port of this machine, or of the host at `internal_host`; not zero.
    pub internal_port: u16,
    /// The port outside; zero if any will do. Another one is taken if it cannot be had, unless
    /// `exact` says that it would be of no use.
    pub external_port: u16,
    /// Whether another external port is no use.
    pub exact: bool,
    /// For how long at a time, in seconds.
    pub lifetime: u32,
    /// Whether it is no use if the gateway makes only mappings that do not end.
    pub must_end: bool,
    /// What the gateway's list says about it: 32 ASCII characters are used.
    pub description: String,
    /// The host that is meant, if it is not this one.
    pub internal_host: Option<IpAddr>,
    /// The nonce of an earlier mapping of the same port, by PCP: with another one it is not renewed,
    /// but refused. A new one if there is none.
    pub nonce: Option<Nonce>,
}

impl Wish {
    /// Any external port, for two hours at a time.
    #[must_use]
    pub fn new(transport: Transport, internal_port: u16) -> Self {
        Self {
            transport,
            internal_port,
            external_port: 0,
            exact: false,
            lifetime: 7200,
            must_end: false,
            description: "postern".to_owned(),
            internal_host: None,
            nonce: None,
        }
    }

    fn to_machine(&self) -> machine::Wish {
        machine::Wish {
            transport: self.transport,
            internal_port: self.internal_port,
            external_port: self.external_port,
            exact: self.exact,
            lifetime: self.lifetime,
            must_end: self.must_end,
            description: self.description.clone(),
            internal_host: self.internal_host,
            nonce: self.nonce,
        }
    }
}

/// Is told of every mapping that no lease ends, before it is made: whoever writes it down can
/// remove it even if this process dies.
pub type Journal = Box<dyn FnMut(&PortMapping) + Send>;

/// Where to look for gateways, and how.
#[derive(Default)]
pub struct Config {
    /// The interface, by its name or an address that it has; the one of the default route if
    /// there is none.
    pub interface: Option<String>,
    /// What worked before, on this link or others: it spares the search if it works still.
    pub known: Vec<Known>,
    /// The gateway to ask, and nobody else; the default router, and whoever answers, if there is
    /// none. It must be on the link.
    pub gateway: Option<IpAddr>,
    /// Where the description of a UPnP gateway is, if that is known: nothing is searched then.
    pub location: Option<HttpUrl>,
    /// Whether it is about pinholes in an IPv6 firewall.
    pub pinholes: bool,
    /// Which protocols are used; all if there is none.
    pub protocols: Option<Protocols>,
    /// A server that looks at mappings from outside when they are made and renewed; those that
    /// are dead are removed and made again. [`PortMapping::verified`] says what came of it. The
    /// port inside is opened for the look if no program has it.
    pub verify: Option<ServerUrl>,
    /// Is told of mappings that do not end.
    pub journal: Option<Journal>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("interface", &self.interface)
            .field("gateway", &self.gateway)
            .field("pinholes", &self.pinholes)
            .finish_non_exhaustive()
    }
}

/// What has worked on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The interface.
    pub interface: String,
    /// The router of its default route.
    pub router: Option<IpAddr>,
    /// The protocol that was used.
    pub protocol: Protocol,
    /// Where a UPnP gateway described itself.
    pub location: Option<HttpUrl>,
}

impl Known {
    /// For the machine, if it is about this link.
    fn on(self, link: &Link) -> Option<machine::Known> {
        let is_here = self.interface == link.interface && self.router == link.gateway;
        is_here.then_some(machine::Known {
            protocol: self.protocol,
            location: self.location,
        })
    }
}

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No interface has an address and a default route.
    #[error("there is no network interface with a default route; name one with an address")]
    NoInterface,
    /// The interface that was named is not there, or has no address.
    #[error("there is no network interface `{0}` with an IPv4 address")]
    UnknownInterface(String),
    /// The gateway that was named is not on the networks of this machine.
    #[error("{0} is on no network of this machine; gateways are asked on the link only")]
    NotOnLink(IpAddr),
    /// The interface has no public IPv6 address to open.
    #[error("this machine has no public IPv6 address")]
    NoIpv6,
    /// The guard of tests: this is the machine's own network.
    #[error("this is the machine's own network, and tests may only search in namespaces")]
    Guarded,
    /// The system refused a socket.
    #[error("a socket cannot be opened")]
    Socket(#[from] io::Error),
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// A client of the gateways on one link. Its task ends, and with it what it holds, when the
/// client and all its mappings are dropped.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    link: Link,
}

impl Client {
    /// Opens the sockets and begins to look around.
    ///
    /// # Errors
    ///
    /// Says what is missing on this machine.
    #[expect(
        clippy::unused_async,
        reason = "must be called on a runtime, and says so"
    )]
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if guard::forbids() {
            return Err(StartError::Guarded);
        }
        let link = links::choose(&config)?;
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let task = Task::new(&link, config, inbox)?;
        tokio::spawn(task.run());
        Ok(Self { commands, link })
    }

    /// The link that it is on.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// Makes a mapping and keeps it.
    ///
    /// # Errors
    ///
    /// Says why no gateway made it, after three seconds if there is none.
    pub async fn map(&self, wish: Wish) -> Result<Mapping, Failure> {
        let (changes, receiver) = mpsc::channel(MAX_CHANGES);
        let wish = wish.to_machine();
        let id = self.ask(|reply| Command::Map(wish, changes, reply)).await;
        Mapping::wait(id?, receiver, self.commands.clone()).await
    }

    /// Takes over a mapping that another process made, and keeps it.
    ///
    /// # Errors
    ///
    /// As [`Client::map`].
    pub async fn adopt(&self, wish: Wish, mapping: PortMapping) -> Result<Mapping, Failure> {
        let (changes, receiver) = mpsc::channel(MAX_CHANGES);
        let wish = wish.to_machine();
        let id = self
            .ask(|reply| Command::Adopt(wish, mapping, changes, reply))
            .await;
        Mapping::wait(id?, receiver, self.commands.clone()).await
    }

    /// Removes a mapping that another process made.
    ///
    /// # Errors
    ///
    /// Says why it may still be there.
    pub async fn remove(&self, wish: Wish, mapping: PortMapping) -> Result<(), Failure> {
        let wish = wish.to_machine();
        self.ask(|reply| Command::Remove(wish, mapping, reply))
            .await?
    }

    /// Everybody who answers, after up to 2.7 s.
    ///
    /// # Errors
    ///
    /// None but that the runtime is ending.
    pub async fn survey(&self) -> Result<Survey, Failure> {
        self.ask(Command::Survey).await
    }

    /// The first gateway that tells an external address; `None` if nobody does.
    ///
    /// # Errors
    ///
    /// None but that the runtime is ending.
    pub async fn external(&self) -> Result<Option<Found>, Failure> {
        self.ask(Command::External).await
    }

    /// The table of the best UPnP gateway.
    ///
    /// # Errors
    ///
    /// There is none, or it does not answer.
    pub async fn list(&self) -> Result<Vec<Entry>, Failure> {
        self.ask(Command::List).await?
    }

    /// The UPnP gateways, the best first, as soon as one may be used; none if nobody answers.
    /// Slower ones may be missing.
    ///
    /// # Errors
    ///
    /// None but that the runtime is ending.
    pub async fn gateways(&self) -> Result<Vec<Found>, Failure> {
        self.ask(Command::Choose).await
    }

    /// Calls an action of a service of one of the gateways that were found.
    ///
    /// # Errors
    ///
    /// It does not answer, or was not found by this client.
    pub async fn call_service(
        &self,
        service: &ServiceAt,
        action: &str,
        arguments: Arguments,
    ) -> Result<Reply, Failure> {
        let (service, action) = (service.clone(), action.to_owned());
        self.ask(|reply| Command::CallService(service, action, arguments, reply))
            .await?
    }

    /// Calls an action of the best UPnP gateway.
    ///
    /// # Errors
    ///
    /// There is none, or it does not answer.
    pub async fn call(&self, action: &str, arguments: Arguments) -> Result<Reply, Failure> {
        let action = action.to_owned();
        self.ask(|reply| Command::Call(action, arguments, reply))
            .await?
    }

    /// Removes all mappings that were made through this client and its clones, and waits for the
    /// gateways' word: ten seconds at most.
    pub async fn close(self) {
        let _ = timeout(REMOVAL, self.ask(Command::Close)).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| Failure::Silent)?;
        answer.await.map_err(|_| Failure::Silent)
    }
}

/// What happened to a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It stands, for the first time or again.
    Made(PortMapping),
    /// It stands for another while.
    Renewed(PortMapping),
    /// Its address or port outside, or its gateway, is another one.
    Moved(PortMapping),
    /// It was dead, was removed, and stands again.
    Healed(PortMapping),
    /// It does not stand; it is tried again.
    Lost(Failure),
}

/// A port outside that leads here, until this is dropped.
#[derive(Debug)]
pub struct Mapping {
    id: machine::MappingId,
    current: PortMapping,
    changes: mpsc::Receiver<Change>,
    commands: mpsc::Sender<Command>,
    /// Whether it stays when this is dropped.
    left: bool,
}

impl Mapping {
    async fn wait(
        id: machine::MappingId,
        mut changes: mpsc::Receiver<Change>,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self, Failure> {
        let forget = |why| {
            let _ = commands.try_send(Command::Unmap(id, None));
            Err(why)
        };
        match changes.recv().await {
            Some(
                Change::Made(current)
                | Change::Renewed(current)
                | Change::Moved(current)
                | Change::Healed(current),
            ) => Ok(Self {
                id,
                current,
                changes,
                commands,
                left: false,
            }),
            Some(Change::Lost(why)) => forget(why),
            None => forget(Failure::Silent),
        }
    }

    /// As it stands, or stood before it was lost.
    #[must_use]
    pub const fn current(&self) -> &PortMapping {
        &self.current
    }

    /// What happens next to it. May be cancelled.
    pub async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => {
                if let Change::Made(mapping)
                | Change::Renewed(mapping)
                | Change::Moved(mapping)
                | Change::Healed(mapping) = &change
                {
                    self.current = mapping.clone();
                }
                change
            }
            None => std::future::pending().await,
        }
    }

    /// Removes it and makes it again, because it does not work.
    pub async fn heal(&self) {
        let _ = self.commands.send(Command::Heal(self.id)).await;
    }

    /// Removes it, and waits for the gateway's word: ten seconds at most.
    ///
    /// # Errors
    ///
    /// The gateway does not answer or refuses; the mapping ends with its lease.
    pub async fn remove(mut self) -> Result<(), Failure> {
        self.left = true;
        let (reply, answer) = oneshot::channel();
        let command = Command::Unmap(self.id, Some(reply));
        let removal = async {
            let sent = self.commands.send(command).await;
            sent.map_err(|_| Failure::Silent)?;
            answer.await.map_err(|_| Failure::Silent)?
        };
        timeout(REMOVAL, removal)
            .await
            .unwrap_or(Err(Failure::Silent))
    }

    /// Leaves it to its lease: it is neither renewed nor removed, whatever becomes of the
    /// client. It is removed if this is cancelled before the client has taken note.
    pub async fn leave(mut self) -> PortMapping {
        let (reply, answer) = oneshot::channel();
        let command = Command::Leave(self.id, reply);
        if self.commands.send(command).await.is_ok() {
            let _ = answer.await;
        }
        self.left = true;
        self.current.clone()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.left {
            let _ = self.commands.try_send(Command::Unmap(self.id, None));
        }
    }
}
