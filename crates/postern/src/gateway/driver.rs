//! The task that owns the machine and the kernel's table.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_proto::Datagram;
use postern_proto::gateway::{
    self as machine, ChangeError, Client, Config, Event, ExchangeId, Identity, LeaseId, Opening,
    Place,
};
use postern_wire::upnp::http::{Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::config::{GatewayConfig, GatewayError};
use super::control::{GOODBYE, Handle, LeaseInfo, Status, describe_obstacle, is_behind_nat};
use super::http;
use super::kernel::{self, Kernel, KernelError};
use super::links::{self, Links};
use super::neighbours::mac_of;
use super::placement::Placement;
use super::rules::Rules;
use super::sockets::Sockets;
use super::store::{Saved, Store};
use super::supervisor::Supervisor;
use super::watch::{changed, waitable};
use super::writer::{Writer, written};
use crate::clock::{self, until};
use crate::entropy;

/// What waits for the task: senders wait, too, when there is more.
const WAITING: usize = 256;

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_millis(400);

/// What comes to the task.
#[derive(Debug)]
pub(super) enum Input {
    /// To port 5351.
    Mapping {
        local: SocketAddr,
        remote: SocketAddr,
        payload: Vec<u8>,
    },
    /// To port 1900.
    Search {
        place: Place,
        local: SocketAddr,
        remote: SocketAddr,
        payload: Vec<u8>,
    },
    Request {
        local: SocketAddr,
        remote: SocketAddr,
        request: Request,
        answer: oneshot::Sender<Response>,
    },
    Delivered {
        subscription: machine::SubscriptionId,
        taken: bool,
    },
    Command(Command),
}

/// What an operator asks.
#[derive(Debug)]
pub(super) enum Command {
    Status(oneshot::Sender<Status>),
    List(oneshot::Sender<Vec<LeaseInfo>>),
    Revoke(u64, oneshot::Sender<bool>),
    Flush(oneshot::Sender<usize>),
    Reload(Box<GatewayConfig>, oneshot::Sender<Result<(), String>>),
}

/// A gateway: its rules are in the kernel, and its sockets are bound.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    rules: Rules,
    machine: machine::Gateway,
    kernel: Kernel,
    links: Links,
    sockets: Sockets,
    http: http::Places,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    exchanges: BTreeMap<ExchangeId, oneshot::Sender<Response>>,
    next_exchange: u64,
    writer: Option<Writer>,
    identity: Identity,
    supervisor: Option<Supervisor>,
    /// Chains of other tables that drop what we let in.
    obstacles: Vec<String>,
}

impl Gateway {
    /// Reads the leases of the last run, makes the rules in the kernel and binds the sockets.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Every [`GatewayError`].
    pub fn start(config: GatewayConfig) -> Result<Self, GatewayError> {
        links::check(&config)?;
        crate::os::raise_file_limit();
        let links = Links::look(&config).map_err(GatewayError::Interfaces)?;
        let store = open_store(&config)?;
        let saved = load(store.as_ref())?;
        let now = clock::now();
        let identity = identity(&config, saved.as_ref())?;
        let mut kernel = Kernel::open().map_err(|error| GatewayError::Kernel(error.into()))?;
        let machine = machine(now, &config, &links, saved.as_ref(), &mut kernel)?;
        let (sender, inputs) = mpsc::channel(WAITING);
        let mut gateway = Self {
            rules: rules(&config),
            machine,
            kernel,
            links,
            sockets: Sockets::default(),
            http: http::Places::default(),
            inputs,
            sender,
            exchanges: BTreeMap::new(),
            next_exchange: 0,
            writer: store.map(Writer::new),
            identity,
            supervisor: Supervisor::of_environment(),
            obstacles: Vec::new(),
            config,
        };
        gateway.machine.set_identity(gateway.identity.clone());
        gateway
            .install(now)
            .map_err(|error| GatewayError::Kernel(error.into()))?;
        gateway.bind(now)?;
        gateway.look_at_others();
        gateway.machine.announce_start(now);
        Ok(gateway)
    }

    /// How others ask this gateway.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.sender.clone())
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let external_address = self.links.external;
        Status {
            external_address,
            double_nat: external_address.is_some_and(is_behind_nat),
            leases: self.machine.leases().count(),
            epoch: self.machine.epoch(clock::now()).as_secs(),
            obstacles: self.obstacles.clone(),
        }
    }

    /// Answers until `end` comes, then takes leave. The rules stay in the kernel, and end there
    /// with their leases.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        self.say("READY=1");
        self.drain(clock::now());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = interval(self.watchdog());
        let mut end = std::pin::pin!(end);
        let watched = self.kernel.watched().and_then(waitable);
        loop {
            let write = self.writer.as_ref().and_then(Writer::due);
            let timeout = [self.machine.poll_timeout(), write];
            let timeout = timeout.into_iter().flatten().min();
            tokio::select! {
                biased;
                () = &mut end => break,
                () = changed(watched.as_ref().ok()) => {}
                _ = look.tick() => self.look(),
                _ = alive.tick() => self.say("WATCHDOG=1"),
                () = until(timeout) => {}
                () = written(self.writer.as_mut()) => {}
                Some(input) = self.inputs.recv() => self.take(input),
            }
            self.work();
        }
        self.leave().await;
    }

    fn watchdog(&self) -> Duration {
        let interval = self.supervisor.as_ref().and_then(Supervisor::interval);
        interval.unwrap_or(Duration::from_secs(3600))
    }

    fn say(&self, what: &str) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.say(what);
        }
    }

    async fn leave(mut self) {
        self.say("STOPPING=1");
        self.machine.say_goodbye();
        self.drain(clock::now());
        let saved = self.saved(clock::now());
        if let Some(writer) = self.writer {
            writer.finish(saved).await;
        }
        tokio::time::sleep(GOODBYE).await;
    }

    /// What is due after whatever woke the task.
    fn work(&mut self) {
        let now = clock::now();
        match self.kernel.was_disturbed() {
            Ok(false) => {}
            Ok(true) => self.reinstall(now, "somebody else changed the table"),
            Err(error) => tracing::warn!(%error, "changes of nftables are not seen"),
        }
        self.machine.handle_timeout(now);
        self.drain(now);
        let due = self.writer.as_ref().and_then(Writer::due);
        if due.is_some_and(|due| due <= now) {
            let saved = self.saved(now);
            if let Some(writer) = &mut self.writer {
                writer.begin(saved);
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = clock::now();
        match input {
            Input::Mapping {
                local,
                remote,
                payload,
            } => {
                let client = self.client(remote);
                let datagram = Datagram {
                    local,
                    remote,
                    payload: &payload,
                };
                self.machine.handle_input(now, client, datagram);
            }
            Input::Search {
                place,
                local,
                remote,
                payload,
            } => {
                let datagram = Datagram {
                    local,
                    remote,
                    payload: &payload,
                };
                self.machine.handle_search(now, place, datagram);
            }
            Input::Request {
                local,
                remote,
                request,
                answer,
            } => {
                let client = self.client(remote);
                self.next_exchange += 1;
                let exchange = ExchangeId(self.next_exchange);
                self.exchanges.insert(exchange, answer);
                self.machine
                    .handle_request(now, exchange, client, local, &request);
            }
            Input::Delivered {
                subscription,
                taken,
            } => self.machine.handle_delivered(subscription, taken),
            Input::Command(command) => self.obey(now, command),
        }
        self.drain(now);
    }

    /// Hardware addresses are looked up only where a rule asks for them.
    fn client(&self, remote: SocketAddr) -> Client {
        let address = remote.ip().to_canonical();
        let asked = self.config.rules.iter().any(|rule| rule.mac.is_some());
        Client {
            address,
            mac: asked.then(|| mac_of(address)).flatten(),
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        // Whoever asked may have gone meanwhile.
        match command {
            Command::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Command::List(answer) => {
                let _ = answer.send(self.list(now));
            }
            Command::Revoke(id, answer) => {
                let found = self.machine.leases().find(|lease| lease.id.number() == id);
                let found = found.map(|lease| lease.id);
                let found = found.is_some_and(|id| self.machine.revoke(id));
                let _ = answer.send(found);
            }
            Command::Flush(answer) => {
                let all: Vec<LeaseId> = self.machine.leases().map(|lease| lease.id).collect();
                for id in &all {
                    self.machine.revoke(*id);
                }
                let _ = answer.send(all.len());
            }
            Command::Reload(config, answer) => {
                let reloaded = self.reload(now, *config);
                let _ = answer.send(reloaded.map_err(|error| error.to_string()));
            }
        }
    }

    fn list(&mut self, now: Instant) -> Vec<LeaseInfo> {
        let flows = self.kernel.flows_by_lease().unwrap_or_default();
        let leases = self.machine.leases();
        leases
            .map(|lease| LeaseInfo::new(now, lease, flows.get(&lease.id.number()).copied()))
            .collect()
    }

    /// Does what the machine wants.
    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.machine.poll_event() {
            self.carry_out(now, event);
        }
        while let Some(transmit) = self.machine.poll_transmit() {
            self.sockets
                .send(transmit.local, transmit.remote, &transmit.payload);
        }
    }

    fn carry_out(&mut self, now: Instant, event: Event) {
        match event {
            Event::Change { id, remove, add } => {
                let result = self.change(remove.as_ref(), add.as_ref());
                let result = result.map_err(|error| refusal(&error));
                self.machine.handle_changed(now, id, result);
            }
            Event::EndFlows(opening) => self.end_flows(&opening),
            Event::KeepFlow(opening, life) => self.keep_flow(&opening, life),
            Event::Store => {
                if let Some(writer) = &mut self.writer {
                    writer.want(now);
                }
            }
            Event::Reinstall => self.reinstall(now, "the outside address changed"),
            Event::Respond { exchange, response } => {
                if let Some(answer) = self.exchanges.remove(&exchange) {
                    drop(answer.send(response));
                }
            }
            Event::Deliver {
                subscription,
                to,
                request,
            } => {
                let sender = self.sender.clone();
                tokio::spawn(async move {
                    let taken = http::deliver(to, request).await;
                    let delivered = Input::Delivered {
                        subscription,
                        taken,
                    };
                    drop(sender.send(delivered).await);
                });
            }
            Event::Count(opening) => {
                let flows = self.kernel.flows_by_lease().unwrap_or_default();
                let id = opening.lease.id;
                let count = flows.get(&id.number()).copied().unwrap_or_default();
                self.machine.handle_counted(id, count);
            }
        }
    }

    fn change(
        &mut self,
        remove: Option<&Opening>,
        add: Option<&(Opening, Duration)>,
    ) -> Result<(), KernelError> {
        let removed = remove.map(Placement::of);
        let added = add.map(|(opening, life)| (Placement::of(opening), *life));
        let added = added.as_ref().map(|(placement, life)| (placement, *life));
        self.kernel.change(removed.as_ref(), added)
    }

    fn end_flows(&mut self, opening: &Opening) {
        if let Err(error) = self.kernel.end_flows(opening) {
            tracing::debug!(%error, "the flows of a mapping could not be ended");
        }
    }

    fn keep_flow(&mut self, opening: &Opening, life: Duration) {
        if let Err(error) = self.kernel.keep_flows(opening, life) {
            tracing::debug!(%error, "the time of a flow could not be set");
        }
    }

    fn reinstall(&mut self, now: Instant, why: &str) {
        tracing::info!(why, "the rules are made anew");
        if let Err(error) = self.install(now) {
            tracing::warn!(%error, "the rules could not be made");
        }
    }

    fn install(&mut self, now: Instant) -> Result<(), KernelError> {
        self.kernel.install(&self.rules)?;
        let openings = self.machine.openings(now);
        let placed = openings.map(|(opening, life)| (Placement::of(&opening), life));
        self.kernel.restore(placed)
    }

    /// Takes another configuration: the interfaces may be others, too.
    fn reload(&mut self, now: Instant, config: GatewayConfig) -> Result<(), GatewayError> {
        links::check(&config)?;
        let links = Links::look(&config).map_err(GatewayError::Interfaces)?;
        let rules = rules(&config);
        let other_rules = rules != self.rules;
        let other_sockets =
            links.inside != self.links.inside || listened(&config) != listened(&self.config);
        (self.links, self.rules) = (links, rules);
        self.identity.name.clone_from(&config.name);
        self.config = config;
        self.machine.set_identity(self.identity.clone());
        self.machine
            .set_config(machine_config(&self.config, &self.links, Duration::ZERO));
        self.machine.set_external(now, self.links.external);
        if other_rules {
            self.reinstall(now, "the configuration is another one");
        }
        // What comes while sockets are made anew is lost.
        if other_sockets {
            self.bind(now)
        } else {
            Ok(())
        }
    }

    /// Looks for firewalls that drop what we let in.
    fn look_at_others(&mut self) {
        match self.kernel.obstacles() {
            Ok(Some(found)) if found != self.obstacles => {
                for chain in &found {
                    let mark = self.config.mark;
                    tracing::warn!("{}", describe_obstacle(chain, mark));
                }
                self.obstacles = found;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "other tables cannot be looked at"),
        }
    }

    /// Looks at the interfaces, and follows what has changed.
    fn look(&mut self) {
        self.look_at_others();
        let links = match Links::look(&self.config) {
            Ok(links) => links,
            Err(error) => return tracing::warn!(%error, "the interfaces cannot be listed"),
        };
        if links == self.links {
            return;
        }
        let now = clock::now();
        let moved = links.inside != self.links.inside;
        self.links = links;
        self.machine
            .set_config(machine_config(&self.config, &self.links, Duration::ZERO));
        self.machine.set_external(now, self.links.external);
        if moved && let Err(error) = self.bind(now) {
            tracing::warn!(%error, "the addresses inside changed, and cannot be listened on");
        }
        self.drain(now);
    }

    fn bind(&mut self, now: Instant) -> Result<(), GatewayError> {
        // The old sockets have the ports.
        self.sockets = Sockets::default();
        let (places, inputs) = (self.http.clone(), self.sender.clone());
        let serve = |tasks: &mut tokio::task::JoinSet<()>, listener| {
            tasks.spawn(http::serve(listener, places.clone(), inputs.clone()));
        };
        self.sockets = Sockets::bind(&self.config, &self.links, &self.sender, serve)?;
        self.machine.set_announced(self.sockets.announced.clone());
        self.machine
            .announce_device(now, self.sockets.places.clone());
        Ok(())
    }

    /// What is written down of the leases.
    fn saved(&self, now: Instant) -> Saved {
        let identity = (
            self.identity.boot_id,
            format!("{:032x}", self.identity.uuid),
        );
        let epoch = self.machine.epoch(now);
        Saved::new(now, epoch, identity, self.machine.leases())
    }
}

/// What the sockets depend on, beside the addresses.
fn listened(config: &GatewayConfig) -> (bool, bool, u16) {
    let mapping = config.nat_pmp || config.pcp;
    (mapping, config.upnp, config.http_port)
}

fn rules(config: &GatewayConfig) -> Rules {
    Rules {
        outside: config.wan.clone(),
        inside: config.lan.clone(),
        mark: config.mark,
    }
}

fn open_store(config: &GatewayConfig) -> Result<Option<Store>, GatewayError> {
    let open = |directory: &std::path::PathBuf| {
        Store::open(directory).map_err(|source| GatewayError::State {
            path: directory.clone(),
            source,
        })
    };
    config.state.as_ref().map(open).transpose()
}

fn load(store: Option<&Store>) -> Result<Option<Saved>, GatewayError> {
    let Some(store) = store else {
        return Ok(None);
    };
    store.load().map_err(|source| GatewayError::State {
        path: store.path().to_owned(),
        source,
    })
}

fn identity(config: &GatewayConfig, saved: Option<&Saved>) -> Result<Identity, GatewayError> {
    let random = entropy::seed().map_err(GatewayError::Entropy)?;
    let (drawn, _) = random.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let kept = saved.and_then(|saved| u128::from_str_radix(&saved.uuid, 16).ok());
    let boot_id = saved.map_or(0, |saved| saved.boot_id);
    Ok(Identity {
        uuid: kept.unwrap_or_else(|| u128::from_be_bytes(*drawn)),
        name: config.name.clone(),
        boot_id: boot_id.wrapping_add(1) & 0x7fff_ffff,
    })
}

/// A machine with the leases of the last run: those of the file, and those that only the
/// kernel has, because the last run ended before it wrote them down.
fn machine(
    now: Instant,
    config: &GatewayConfig,
    links: &Links,
    saved: Option<&Saved>,
    kernel: &mut Kernel,
) -> Result<machine::Gateway, GatewayError> {
    let epoch = saved.map_or(Duration::ZERO, Saved::epoch);
    let config = machine_config(config, links, epoch);
    let seed = entropy::seed().map_err(GatewayError::Entropy)?;
    let mut machine = machine::Gateway::new(now, seed, config);
    for lease in saved.map(|saved| saved.leases(now)).unwrap_or_default() {
        machine.restore(now, lease);
    }
    for lease in kernel.leases(now).unwrap_or_default() {
        machine.restore(now, lease);
    }
    Ok(machine)
}

fn machine_config(config: &GatewayConfig, links: &Links, epoch: Duration) -> Config {
    Config {
        inside: links.networks(),
        own: links.own.clone(),
        external: links.external,
        rules: config.rules.clone(),
        quotas: config.quotas,
        max_lease: config.max_lease,
        third_party: config.third_party,
        nat_pmp: config.nat_pmp,
        pcp: config.pcp,
        upnp: config.upnp,
        epoch,
    }
}

fn refusal(error: &KernelError) -> ChangeError {
    tracing::debug!(%error, "the kernel refused a change");
    match kernel::is_full(error) {
        true => ChangeError::Full,
        false => ChangeError::Failed,
    }
}
