//! The task that owns the machine and the kernel's table.

mod ending;
mod next;
mod restore;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_proto::Datagram;
use postern_proto::gateway::{
    self as machine, ChangeError, Client, Event, ExchangeId, Identity, LeaseId, Opening, Place,
};
use postern_wire::upnp::http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval};

use super::config::{GatewayConfig, GatewayError};
use super::control::{GOODBYE, Handle, LeaseInfo, Status, describe_obstacle};
use super::firewalls::Others;
use super::http;
use super::kernel::{self, Kernel, KernelError};
use super::legacy::{Legacy, Wanted};
use super::links::{self, Links};
use super::metrics::{self, Numbers, Served};
use super::neighbours::mac_of;
use super::placement::Placement;
use super::rules::Rules;
use super::sockets::Sockets;
use super::startup::{identity, load, machine, machine_config, open_store, rules};
use super::store::Saved;
use super::supervisor::Supervisor;
use super::upstream::{News, Upstream};
use super::watch::{changed, waitable};
use super::writer::{Writer, written};
use crate::clock::{self, until};
use ending::Ending;

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
    /// Of the next router with this number.
    Upstream(u64, News),
}

/// What an operator asks.
#[derive(Debug)]
pub(super) enum Command {
    Status(oneshot::Sender<Status>),
    Numbers(oneshot::Sender<Numbers>),
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
    /// Leases that the kernel's table does not have yet.
    restoring: BTreeSet<LeaseId>,
    ending: Ending,
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
    /// How it stands with other firewalls.
    others: Others,
    legacy: Legacy,
    /// The next router, if it has to open ports as well, and how many there have been.
    upstream: Option<Upstream>,
    upstreams: u64,
    /// Where Prometheus asks.
    metrics: Option<TcpListener>,
    served: Served,
    /// When it was last looked at how much the line has carried.
    line_read: Option<Instant>,
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
            restoring: BTreeSet::new(),
            ending: Ending::default(),
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
            others: Others::default(),
            legacy: Legacy::default(),
            upstream: None,
            upstreams: 0,
            metrics: metrics::bind(&config)?,
            served: Served::default(),
            line_read: None,
            config,
        };
        gateway.machine.set_identity(gateway.identity.clone());
        // First: where another gateway has the ports, its table is not to be touched.
        gateway.bind(now)?;
        gateway
            .install(now)
            .map_err(|error| GatewayError::Kernel(error.into()))?;
        let wanted = gateway.wanted_of_legacy();
        gateway.legacy.look(now, wanted);
        gateway.look_at_others();
        if gateway.others.obstacles.is_empty() {
            gateway.warn_of_obstacles();
        }
        gateway.follow_line(now);
        gateway.machine.announce_start(now);
        Ok(gateway)
    }

    /// How others ask this gateway.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.sender.clone())
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
        let mut metrics = JoinSet::new();
        if let Some(listener) = self.metrics.take() {
            metrics.spawn(metrics::serve(listener, self.handle()));
        }
        loop {
            let write = self.writer.as_ref().and_then(Writer::due);
            let ending = self.ending.due(clock::now());
            let timeout = [self.machine.poll_timeout(), write, ending];
            let timeout = timeout.into_iter().flatten().min();
            tokio::select! {
                biased;
                () = &mut end => break,
                () = changed(watched.as_ref().ok()) => {}
                _ = look.tick() => self.look(),
                _ = alive.tick() => self.say("WATCHDOG=1"),
                () = until(timeout) => {}
                () = written(self.writer.as_mut()) => {}
                changed = self.legacy.changed() => if changed {
                    self.warn_of_obstacles();
                },
                Some(input) = self.inputs.recv() => self.take(input),
                () = yield_now(), if !self.restoring.is_empty() => {}
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
        if let Err(error) = self.kernel.withdraw() {
            tracing::warn!(%error, "the rules in other tables stay there");
        }
        std::mem::take(&mut self.legacy).withdraw().await;
        // Its mappings end with us.
        self.upstream = None;
        self.end_flows(clock::now());
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
        self.end_flows_if_due(now);
        self.restore_next(now);
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
                self.served.mapping += 1;
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
                self.served.search += 1;
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
                self.served.http += 1;
                self.look_at_line(now);
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
            Input::Upstream(number, news) => self.on_news(now, number, news),
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
                let there = self.there(remove.as_ref());
                let result = self.change(there, add.as_ref());
                let result = result.map_err(|error| refusal(&error));
                let added = add.as_ref().map(|(opening, _)| opening);
                match result {
                    Ok(()) => {
                        self.note_change(remove.as_ref().or(added));
                        self.served.changes += 1;
                    }
                    Err(_) => self.served.failed_changes += 1,
                }
                if result.is_err() || !self.waits_for_upstream(now, id, remove, added) {
                    self.machine.handle_changed(now, id, result);
                }
            }
            Event::EndFlows(opening) => {
                self.ending.extend([opening]);
                self.end_flows_if_due(now);
            }
            Event::KeepFlow(opening, life) => self.keep_flow(&opening, life),
            Event::Store => {
                self.settle_upstream();
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
                let packets = self.kernel.packets(&opening).unwrap_or_default();
                self.machine.handle_counted(opening.lease.id, packets);
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

    fn keep_flow(&mut self, opening: &Opening, life: Duration) {
        if let Err(error) = self.kernel.keep_flows(opening, life) {
            tracing::debug!(%error, "the time of a flow could not be set");
        }
    }

    fn reinstall(&mut self, now: Instant, why: &str) {
        self.served.reinstalled += 1;
        tracing::info!(why, "the rules are made anew");
        if let Err(error) = self.install(now) {
            tracing::warn!(%error, "the rules could not be made");
        }
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
        if config.integrate != self.config.integrate {
            self.kernel.others_changed = true;
        }
        self.config = config;
        self.machine.set_identity(self.identity.clone());
        self.machine
            .set_config(machine_config(&self.config, &self.links, Duration::ZERO));
        self.machine.set_external(now, self.links.external);
        self.follow_line(now);
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

    /// Looks for firewalls that drop what we let in, and sees to those that are to know us.
    fn look_at_others(&mut self) {
        let mark = self.config.mark;
        match self.kernel.look_at_others(&self.config.integrate, mark) {
            Ok(Some(found)) if found != self.others => {
                self.others = found;
                self.warn_of_obstacles();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "other tables cannot be looked at"),
        }
    }

    fn wanted_of_legacy(&self) -> Wanted {
        Wanted::of(&self.config.integrate, self.config.mark)
    }

    fn warn_of_obstacles(&self) {
        for chain in self
            .others
            .obstacles
            .iter()
            .chain(&self.legacy.seen.obstacles)
        {
            tracing::warn!("{}", describe_obstacle(chain, self.config.mark));
        }
    }

    /// Looks at the interfaces, and follows what has changed.
    fn look(&mut self) {
        self.look_at_others();
        self.legacy.begin(clock::now(), self.wanted_of_legacy());
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
        self.follow_line(now);
        if moved && let Err(error) = self.bind(now) {
            tracing::warn!(%error, "the addresses inside changed, and cannot be listened on");
        }
        self.drain(now);
    }

    fn bind(&mut self, now: Instant) -> Result<(), GatewayError> {
        // The old sockets have the ports.
        self.sockets = Sockets::default();
        let (places, inputs) = (self.http.clone(), self.sender.clone());
        let serve = |tasks: &mut JoinSet<()>, listener| {
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

fn refusal(error: &KernelError) -> ChangeError {
    tracing::debug!(%error, "the kernel refused a change");
    match kernel::is_full(error) {
        true => ChangeError::Full,
        false => ChangeError::Failed,
    }
}
