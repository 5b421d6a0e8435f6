//! An endpoint: the sockets of this program, and the way to make connections.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use noq::TokioRuntime;
use postern_proto::connect::{PathPolicy, RelayTransports};
use postern_proto::ice::Nat64Prefix;
use postern_proto::ice::tcp::is_base;
use postern_proto::punch::{HostBudget, Technique, Techniques};
use postern_wire::signal::{Code, Fingerprint};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::connection::Connection;
use crate::dialer::{self, Dialer, Introducer};
use crate::mapped::{Keeper, Mapped};
use crate::net::watch::{self as changes, Hints};
use crate::net::{
    AddressFilter, AddressPair, Advertised, Inlets, Mux, PathTable, PunchedSockets, RelayTable,
    Sender, SessionId, Sockets, Streams, StunDatagram, has_ipv6_alone, of_resolver, solicit,
};
use crate::portmap::is_public;
use crate::quic::{self, Identity};
use crate::rendezvous::{self, Side, Signalling};
use crate::server_url::ServerUrl;
use crate::session::{EstablishError, Inbox, Listener, Outcome, Session};
use crate::turn::Proxy;

/// STUN datagrams waiting for one session.
const STUN_QUEUE: usize = 64;

/// QUIC handshakes waiting for one session: honest peers make one.
const INCOMING_QUEUE: usize = 4;

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No UDP socket could be made.
    #[error("no UDP socket could be opened")]
    Sockets(#[source] io::Error),
    /// No key could be made.
    #[error("no key for encrypted connections could be made")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What an endpoint offers and uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Offer loopback addresses as well: for peers and servers on the same machine.
    pub loopback: bool,
    /// Which paths its connections may use.
    pub policy: PathPolicy,
    /// Whether to send any UDP at all. Without, direct paths are over TCP, and the relay is reached
    /// over TCP or TLS.
    pub udp: bool,
    /// Whether direct paths may be over TCP.
    pub tcp: bool,
    /// How relays may be reached.
    pub relay_transports: RelayTransports,
    /// The HTTP proxy through which servers are reached over TCP and TLS.
    pub proxy: Option<Proxy>,
    /// STUN servers to ask besides those that the server names, at most 8 in all: one at
    /// another address shows whether the NAT uses another port for each address.
    pub stun: Vec<SocketAddr>,
    /// Techniques that are not used, of those that [have a
    /// switch](postern_proto::punch::Technique::has_switch). Without
    /// [`Mapped`](postern_proto::punch::Technique::Mapped) no router is asked for a port, which
    /// is done otherwise where this machine has no public IPv4 address.
    pub disabled: Techniques,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            loopback: false,
            policy: PathPolicy::default(),
            udp: true,
            tcp: true,
            relay_transports: RelayTransports::default(),
            proxy: None,
            stun: Vec::new(),
            disabled: Techniques::NONE,
        }
    }
}

impl EndpointConfig {
    fn relay_transports(&self) -> RelayTransports {
        let udp = self.udp && self.relay_transports.udp;
        RelayTransports {
            udp,
            ..self.relay_transports
        }
    }
}

/// The sockets of this program. Cheap to clone; every connection shares them.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use postern::{Endpoint, ServerUrl};
///
/// let server: ServerUrl = "wss://example.org:8443/".parse()?;
/// let invitation = Endpoint::bind()?.invite(&server, Duration::from_secs(600)).await?;
/// println!("tell the other side: {}", invitation.code());
/// let connection = invitation.connection().await?;
/// let (mut send, _receive) = connection.open_bi().await?;
/// send.write_all(b"hello").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Endpoint(Arc<Shared>);

/// A code that waits for the other side.
#[derive(Debug)]
pub struct Invitation {
    code: Code,
    result: oneshot::Receiver<Outcome>,
}

impl Invitation {
    /// The code for the other side.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Waits for the other side, and makes the connection. Dropping the future gives up.
    ///
    /// # Errors
    ///
    /// When the other side does not come in time, uses a wrong code, or cannot be
    /// reached.
    pub async fn connection(self) -> Result<Connection, EstablishError> {
        self.result.await.unwrap_or(Err(EstablishError::Ended))
    }
}

impl Endpoint {
    /// Binds one UDP socket per address family. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When there is no socket or no key to be had.
    pub fn bind() -> Result<Self, BindError> {
        Self::bind_with(EndpointConfig::default())
    }

    /// As [`Endpoint::bind`], with other settings.
    ///
    /// # Errors
    ///
    /// When there is no socket or no key to be had.
    pub fn bind_with(config: EndpointConfig) -> Result<Self, BindError> {
        let sockets = match config.udp {
            true => Sockets::bind().map_err(BindError::Sockets)?,
            false => Sockets::none(),
        };
        Self::with_sockets(sockets, Arc::new(dialer::System), config)
    }

    pub(crate) fn with_sockets(
        mut sockets: Sockets,
        dialer: Arc<dyn Dialer>,
        config: EndpointConfig,
    ) -> Result<Self, BindError> {
        let filter = match config.loopback {
            true => AddressFilter::WithLoopback,
            false => AddressFilter::Network,
        };
        let identity =
            Identity::of_endpoint().map_err(|error| BindError::Identity(error.into()))?;
        let addresses = sockets.addresses().to_vec();
        let table = PathTable::default();
        let sender = sockets.sender();
        let relays = RelayTable::default();
        let punched = PunchedSockets::beside(sockets.take_controls());
        let streams = Streams::default();
        let (mux, outlets) = Mux::new(
            sockets,
            table.clone(),
            relays.clone(),
            punched.clone(),
            streams.clone(),
        );
        let nobody = accept_nobody(&identity).map_err(|error| BindError::Identity(error.into()))?;
        let quic = noq::Endpoint::new_with_abstract_socket(
            quic::endpoint_config(),
            Some(nobody),
            Box::new(mux),
            Arc::new(TokioRuntime),
        );
        let shared = Arc::new(Shared {
            quic: quic.map_err(BindError::Sockets)?,
            paths: table,
            relays,
            punched,
            streams,
            budget: Mutex::default(),
            inlets: outlets.inlets,
            dialer,
            config,
            identity,
            addresses,
            filter,
            sender: Arc::new(AsyncMutex::new(sender)),
            sessions: Mutex::default(),
            next: AtomicU64::new(1),
            attempts: watch::Sender::new(0),
            hosts: watch::Sender::default(),
            routers: OnceLock::new(),
            nat64: watch::Sender::default(),
            keeper: OnceLock::new(),
        });
        shared.look();
        let hints = shared.dialer.hints();
        let routers = [
            tokio::spawn(follow_addresses(Arc::downgrade(&shared), hints)),
            tokio::spawn(follow_nat64(
                Arc::downgrade(&shared),
                shared.host_addresses(),
            )),
            tokio::spawn(route_stun(Arc::downgrade(&shared), outlets.stun)),
            tokio::spawn(route_incoming(Arc::downgrade(&shared), shared.quic.clone())),
        ];
        let _ = shared.routers.set(routers.map(|task| task.abort_handle()));
        Ok(Self(shared))
    }

    /// Makes a mailbox on the server and a code for it. The other side has `wait` to
    /// come.
    ///
    /// # Errors
    ///
    /// When the server cannot be used.
    pub async fn invite(
        &self,
        server: &ServerUrl,
        wait: Duration,
    ) -> Result<Invitation, EstablishError> {
        let introducer = self.introducer(server);
        let entering = rendezvous::enter(introducer, Side::Create, wait);
        let (signalling, ()) = tokio::join!(entering, self.0.look_for_nat64());
        let signalling = signalling?;
        let (code_sender, code) = oneshot::channel();
        let mut result = self.begin(true, signalling, Some(code_sender))?;
        tokio::select! {
            code = code => match code {
                Ok(code) => Ok(Invitation { code, result }),
                Err(_) => Err(result.await.map_or(EstablishError::Ended, failure)),
            },
            early = &mut result => Err(early.map_or(EstablishError::Ended, failure)),
        }
    }

    /// Goes to the mailbox that the code names, and connects to whoever made it.
    ///
    /// # Errors
    ///
    /// When the code is wrong, nobody waits there, or no path is found.
    pub async fn join(
        &self,
        server: &ServerUrl,
        code: Code,
        wait: Duration,
    ) -> Result<Connection, EstablishError> {
        let introducer = self.introducer(server);
        let entering = rendezvous::enter(introducer, Side::Join(code), wait);
        let (signalling, ()) = tokio::join!(entering, self.0.look_for_nat64());
        let signalling = signalling?;
        let result = self.begin(false, signalling, None)?;
        result.await.unwrap_or(Err(EstablishError::Ended))
    }

    /// Waits until no attempt at connecting is left, every connection has told its peer that it
    /// is over, and the router's port is given back. To be called before the program ends.
    pub async fn finish(&self) {
        let mut attempts = self.0.attempts.subscribe();
        let _ = attempts.wait_for(|count| *count == 0).await;
        let given_back = async {
            if let Some(keeper) = self.0.keeper.get() {
                keeper.end().await;
            }
        };
        tokio::join!(self.0.quic.wait_idle(), given_back);
    }

    fn introducer(&self, server: &ServerUrl) -> Introducer {
        Introducer {
            url: server.clone(),
            proxy: self.0.config.proxy.clone(),
        }
    }

    /// Starts a session over the given signalling.
    pub(crate) fn begin(
        &self,
        is_creator: bool,
        signalling: Signalling,
        code: Option<oneshot::Sender<Code>>,
    ) -> Result<oneshot::Receiver<Outcome>, EstablishError> {
        let (outcome, result) = oneshot::channel();
        let inbox = self.0.register();
        let listener = Listener { code, outcome };
        let session = Session::new(self.0.clone(), inbox, is_creator, signalling, listener)?;
        tokio::spawn(session.run());
        Ok(result)
    }
}

fn failure(result: Outcome) -> EstablishError {
    result.err().unwrap_or(EstablishError::Ended)
}

/// The configuration for handshakes that no session claims: it demands the endpoint's
/// own certificate, which nobody else has.
fn accept_nobody(identity: &Identity) -> Result<noq::ServerConfig, rustls::Error> {
    quic::server_config(identity, identity.fingerprint(), Duration::from_millis(100))
}

/// How to reach a session.
#[derive(Debug)]
struct Mailbag {
    stun: mpsc::Sender<StunDatagram>,
    incoming: mpsc::Sender<noq::Incoming>,
}

/// One attempt at connecting that goes on.
#[derive(Debug)]
pub(crate) struct Attempt(watch::Sender<usize>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// The prefix of the NAT64 in front of this machine, by who has told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nat64 {
    advertised: Option<Nat64Prefix>,
    /// At the latest meeting.
    resolved: Option<Nat64Prefix>,
}

impl Nat64 {
    /// Routers are believed first: no resolver in between can be another network's.
    pub(crate) fn prefix(self) -> Option<Nat64Prefix> {
        self.advertised.or(self.resolved)
    }
}

/// What the sessions of an endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    quic: noq::Endpoint,
    paths: PathTable,
    relays: RelayTable,
    punched: PunchedSockets,
    streams: Streams,
    budget: Mutex<HostBudget<SessionId>>,
    inlets: Inlets,
    dialer: Arc<dyn Dialer>,
    config: EndpointConfig,
    identity: Identity,
    addresses: Vec<SocketAddr>,
    filter: AddressFilter,
    sender: Arc<AsyncMutex<Sender>>,
    sessions: Mutex<BTreeMap<SessionId, Mailbag>>,
    next: AtomicU64,
    attempts: watch::Sender<usize>,
    /// The addresses from which this machine can be reached.
    hosts: watch::Sender<Vec<SocketAddr>>,
    routers: OnceLock<[AbortHandle; 4]>,
    nat64: watch::Sender<Nat64>,
    /// Begun by the first session that has a use for it.
    keeper: OnceLock<Keeper>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for router in self.routers.get().into_iter().flatten() {
            router.abort();
        }
    }
}

impl Shared {
    pub(crate) fn quic(&self) -> &noq::Endpoint {
        &self.quic
    }

    pub(crate) fn paths(&self) -> &PathTable {
        &self.paths
    }

    pub(crate) fn relays(&self) -> &RelayTable {
        &self.relays
    }

    pub(crate) fn policy(&self) -> PathPolicy {
        self.config.policy
    }

    /// STUN servers to ask besides those that the server names.
    pub(crate) fn stun_servers(&self) -> Vec<SocketAddr> {
        self.config.stun.clone()
    }

    /// Techniques that are not used.
    pub(crate) fn disabled(&self) -> Techniques {
        let mut disabled = self.config.disabled;
        if !self.config.tcp {
            disabled.insert(Technique::Tcp);
        }
        disabled
    }

    pub(crate) fn relay_transports(&self) -> RelayTransports {
        self.config.relay_transports()
    }

    pub(crate) fn dialer(&self) -> &dyn Dialer {
        &*self.dialer
    }

    /// Where what comes over links goes.
    pub(crate) fn inlets(&self) -> &Inlets {
        &self.inlets
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// Whether the endpoint offers addresses that only this machine can reach.
    pub(crate) fn uses_loopback(&self) -> bool {
        let bound = self
            .addresses
            .iter()
            .any(|address| address.ip().is_loopback());
        bound || self.filter == AddressFilter::WithLoopback
    }

    /// The sockets that attempts to punch have opened.
    pub(crate) fn punched(&self) -> &PunchedSockets {
        &self.punched
    }

    /// The TCP connections that no relay carries.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The addresses of this machine at which connections over TCP may be accepted.
    pub(crate) fn tcp_addresses(&self) -> Vec<IpAddr> {
        let direct = self.config.policy != PathPolicy::RelayOnly;
        let tcp = !self.disabled().contains(Technique::Tcp);
        if !direct || !tcp || !self.dialer.opens_sockets() {
            return Vec::new();
        }
        let mut addresses = self.dialer.addresses(self.filter).unwrap_or_default();
        let ipv6 = !self.disabled().contains(Technique::Ipv6);
        addresses.retain(|ip| ipv6 || ip.is_ipv4());
        addresses
    }

    /// Whether connections may punch.
    pub(crate) fn may_punch(&self) -> bool {
        self.config.udp && self.dialer.opens_sockets()
    }

    /// What becomes of a port of the router that leads here, if one is to be asked for: a machine
    /// with a public address needs none.
    pub(crate) fn mapped(&self) -> Option<watch::Receiver<Mapped>> {
        let config = &self.config;
        let disabled = config.disabled.contains(Technique::Mapped);
        let direct = config.policy != PathPolicy::RelayOnly;
        let wanted = direct && !disabled && self.may_punch();
        if !wanted || self.uses_loopback() {
            return None;
        }
        let hosts = self.find_addresses();
        let private = |host: &&SocketAddr| host.is_ipv4() && !is_public(host.ip());
        let port = hosts.iter().find(private)?.port();
        let start = || Keeper::start(port, self.host_addresses());
        let keeper = self.keeper.get_or_init(start);
        Some(keeper.subscribe())
    }

    /// The same of a port that leads to one of these for TCP, of a session that asks for as long as
    /// it listens.
    pub(crate) fn mapped_tcp(&self, hosts: &[SocketAddr]) -> Option<watch::Receiver<Mapped>> {
        let private = |host: &&SocketAddr| host.is_ipv4() && !is_public(host.ip());
        let port = hosts.iter().find(private)?.port();
        Some(self.keeper.get()?.map_tcp(port, hosts))
    }

    /// What this host allows in attempts to punch.
    pub(crate) fn punch_budget(&self) -> MutexGuard<'_, HostBudget<SessionId>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one STUN datagram.
    pub(crate) async fn send(&self, pair: AddressPair, payload: &[u8]) -> io::Result<()> {
        if is_base(pair.local) {
            self.streams.send(pair.local, payload);
            return Ok(());
        }
        if let Some(sent) = self.punched.send(pair, payload).await {
            return sent;
        }
        self.sender.lock().await.send(pair, payload).await
    }

    /// The NAT64 in front of this machine.
    pub(crate) fn nat64(&self) -> watch::Receiver<Nat64> {
        self.nat64.subscribe()
    }

    /// Asks the resolver, and lets routers advertise if they have not: what they say is noted
    /// whenever it comes.
    async fn look_for_nat64(&self) {
        let mut resolved = None;
        if has_ipv6_alone(&self.find_addresses()) {
            if self.nat64.borrow().advertised.is_none() {
                let _ = solicit();
            }
            resolved = of_resolver().await;
        }
        self.note_nat64(|nat64| nat64.resolved = resolved);
    }

    fn note_nat64(&self, change: impl FnOnce(&mut Nat64)) {
        self.nat64.send_if_modified(|nat64| {
            let before = *nat64;
            change(nat64);
            *nat64 != before
        });
    }

    /// The addresses from which this machine can be reached, each with the port of the
    /// socket that serves it.
    pub(crate) fn host_addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.hosts.subscribe()
    }

    /// Looks at the addresses as they are.
    fn look(&self) {
        let found = self.find_addresses();
        self.hosts.send_if_modified(|known| {
            let changed = *known != found;
            if changed {
                tracing::debug!(count = found.len(), "the addresses of this machine");
                *known = found;
            }
            changed
        });
    }

    fn find_addresses(&self) -> Vec<SocketAddr> {
        let wildcards = self
            .addresses
            .iter()
            .filter(|address| address.ip().is_unspecified());
        let specific = self
            .addresses
            .iter()
            .filter(|address| !address.ip().is_unspecified());
        let ips = self.dialer.addresses(self.filter).unwrap_or_default();
        let on_interfaces = wildcards.flat_map(|bound| {
            let same_family = ips.iter().filter(|ip| ip.is_ipv4() == bound.is_ipv4());
            same_family.map(|&ip| SocketAddr::new(ip, bound.port()))
        });
        specific.copied().chain(on_interfaces).collect()
    }

    /// Counts an attempt at connecting until it is dropped.
    pub(crate) fn attempt(&self) -> Attempt {
        self.attempts.send_modify(|count| *count += 1);
        Attempt(self.attempts.clone())
    }

    fn register(&self) -> Inbox {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (stun_sender, stun) = mpsc::channel(STUN_QUEUE);
        let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
        let mailbag = Mailbag {
            stun: stun_sender,
            incoming: incoming_sender,
        };
        self.sessions().insert(id, mailbag);
        Inbox { id, stun, incoming }
    }

    /// Ends what the endpoint keeps for a session.
    pub(crate) fn forget(&self, id: SessionId) {
        self.sessions().remove(&id);
        self.paths.forget(id);
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Mailbag>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whenever the addresses may have changed.
async fn follow_addresses(shared: Weak<Shared>, mut hints: Hints) {
    while changes::next(&mut hints).await.is_some() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.look();
    }
}

/// Notes what routers advertise, and forgets it when they are others.
async fn follow_nat64(shared: Weak<Shared>, mut hosts: watch::Receiver<Vec<SocketAddr>>) {
    let mut advertised = Advertised::listen();
    loop {
        let prefix = tokio::select! {
            prefix = advertised.changed() => prefix,
            changed = hosts.changed() => {
                if changed.is_err() {
                    return;
                }
                advertised.forget_strangers();
                advertised.current()
            }
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.note_nat64(|nat64| nat64.advertised = prefix);
    }
}

/// Offers each STUN datagram to every session: an agent takes what names its user
/// fragment or answers its request, and leaves the rest.
async fn route_stun(shared: Weak<Shared>, mut stun: mpsc::Receiver<StunDatagram>) {
    while let Some(datagram) = stun.recv().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for mailbag in shared.sessions().values() {
            // A session that is behind loses checks, which are repeated.
            let _ = mailbag.stun.try_send(datagram.clone());
        }
    }
}

/// Hands each incoming handshake to the newest session that admitted its path: older ones
/// have their connection.
async fn route_incoming(shared: Weak<Shared>, quic: noq::Endpoint) {
    while let Some(incoming) = quic.accept().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let sessions = shared.paths.sessions_at(incoming.remote_address());
        let mailbags = shared.sessions();
        match sessions.iter().find_map(|session| mailbags.get(session)) {
            Some(mailbag) => drop(mailbag.incoming.try_send(incoming)),
            None => incoming.ignore(),
        }
    }
}
