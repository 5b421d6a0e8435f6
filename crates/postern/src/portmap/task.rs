//! The task that drives the machine: receive, stamp, call, drain, arm the timer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;

use postern_proto::portmap::{
    self as machine, Event, Exchange, ExchangeId, MappingId, Probe, ProbeId, Probed,
};
use postern_proto::{Datagram, Transmit};
use postern_wire::upnp::http::{Bounds, Collector, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::{
    Arguments, Change, Config, Entry, Failure, Found, Journal, Link, PortMapping, Protocols, Reply,
    StartError, Survey, sockets, verify,
};
use crate::server_url::ServerUrl;
use crate::{clock, entropy};

/// The most bytes of a datagram that is read.
const MAX_DATAGRAM: usize = 2048;
/// Answers of connections that wait.
const MAX_ANSWERS: usize = 64;

/// Probes that were carried out and wait.
const MAX_PROBED: usize = 64;

/// Of an exchange: the response, if there was one.
type Answer = (ExchangeId, Option<Response>);
type Said = (ProbeId, Probed);
type Changes = mpsc::Sender<Change>;
type Listed = oneshot::Sender<Result<Vec<Entry>, Failure>>;
type Called = oneshot::Sender<Result<Reply, Failure>>;
type Removed = oneshot::Sender<Result<(), Failure>>;

/// What handles want of the task.
pub(super) enum Command {
    Map(machine::Wish, Changes, oneshot::Sender<MappingId>),
    Adopt(
        machine::Wish,
        PortMapping,
        Changes,
        oneshot::Sender<MappingId>,
    ),
    Remove(machine::Wish, PortMapping, Removed),
    Unmap(MappingId, Option<Removed>),
    Leave(MappingId, oneshot::Sender<()>),
    Heal(MappingId),
    Survey(oneshot::Sender<Survey>),
    External(oneshot::Sender<Option<Found>>),
    List(Listed),
    Choose(oneshot::Sender<Vec<Found>>),
    CallService(machine::ServiceAt, String, Arguments, Called),
    Call(String, Arguments, Called),
    Close(oneshot::Sender<()>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// The task.
pub(super) struct Task {
    machine: machine::Client,
    local: SocketAddr,
    socket: UdpSocket,
    heard: Vec<(SocketAddr, UdpSocket)>,
    commands: mpsc::Receiver<Command>,
    journal: Option<Journal>,
    verify: Option<ServerUrl>,
    probed: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
    exchanges: JoinSet<()>,
    running: BTreeMap<ExchangeId, AbortHandle>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    owners: BTreeMap<MappingId, Changes>,
    removals: BTreeMap<MappingId, Removed>,
    surveys: Vec<oneshot::Sender<Survey>>,
    externals: Vec<oneshot::Sender<Option<Found>>>,
    lists: Vec<Listed>,
    choices: Vec<oneshot::Sender<Vec<Found>>>,
    calls: std::collections::VecDeque<Called>,
    closing: Vec<oneshot::Sender<()>>,
}

impl Task {
    pub(super) fn new(
        link: &Link,
        mut config: Config,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, StartError> {
        let socket = sockets::own(link)?;
        let local = socket.local_addr()?;
        let known = std::mem::take(&mut config.known).into_iter();
        let settings = machine::Config {
            local,
            prefix: link.prefix,
            scope: link.index,
            gateway: link.gateway,
            protocols: config.protocols.unwrap_or(Protocols::ALL),
            verify: config.verify.is_some(),
            search: config.location.is_none(),
            only_gateway: config.gateway.is_some(),
            location: config.location,
            known: known.filter_map(|known| known.on(link)).next(),
        };
        let machine = machine::Client::new(clock::now(), entropy::seed()?, settings);
        Ok(Self {
            machine,
            local,
            socket,
            heard: sockets::heard(link),
            commands,
            journal: config.journal,
            verify: config.verify,
            probed: mpsc::channel(MAX_PROBED),
            exchanges: JoinSet::new(),
            running: BTreeMap::new(),
            answers: mpsc::channel(MAX_ANSWERS),
            owners: BTreeMap::new(),
            removals: BTreeMap::new(),
            surveys: Vec::new(),
            externals: Vec::new(),
            lists: Vec::new(),
            choices: Vec::new(),
            calls: std::collections::VecDeque::new(),
            closing: Vec::new(),
        })
    }

    /// Runs until nobody wants anything and nothing stands.
    pub(super) async fn run(mut self) {
        let mut wanted = true;
        let mut own = [0; MAX_DATAGRAM];
        loop {
            self.drain().await;
            if self.machine.is_clear() {
                for reply in self.closing.drain(..) {
                    let _ = reply.send(());
                }
            }
            if !wanted && self.machine.is_idle() {
                return;
            }
            let deadline = self.machine.poll_timeout();
            let timer = pin!(clock::until(deadline));
            let mut told = [0; MAX_DATAGRAM];
            tokio::select! {
                command = self.commands.recv(), if wanted => match command {
                    Some(command) => self.obey(command),
                    None => {
                        wanted = false;
                        self.machine.close(clock::now());
                    }
                },
                Some((id, response)) = self.answers.1.recv() => {
                    self.running.remove(&id);
                    self.machine.handle_response(clock::now(), id, response);
                }
                Some((id, probed)) = self.probed.1.recv() => {
                    self.machine.handle_probed(clock::now(), id, probed);
                }
                arrived = self.socket.recv_from(&mut own) => {
                    if let Ok((length, remote)) = arrived {
                        let local = self.local;
                        self.input(local, remote, own.get(..length).unwrap_or_default());
                    }
                }
                (local, length, remote) = hear(&self.heard, &mut told) => {
                    self.input(local, remote, told.get(..length).unwrap_or_default());
                }
                () = timer => self.machine.handle_timeout(clock::now()),
            }
        }
    }

    fn input(&mut self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let datagram = Datagram {
            local,
            remote,
            payload,
        };
        self.machine.handle_input(clock::now(), datagram);
    }

    fn obey(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Map(wish, changes, reply) => {
                let id = self.machine.map(now, wish);
                self.owners.insert(id, changes);
                let _ = reply.send(id);
            }
            Command::Adopt(wish, mapping, changes, reply) => {
                let id = self.machine.adopt(now, wish, mapping);
                self.owners.insert(id, changes);
                let _ = reply.send(id);
            }
            Command::Remove(wish, mapping, reply) => {
                let id = self.machine.remove_foreign(now, wish, mapping);
                self.removals.insert(id, reply);
            }
            Command::Unmap(id, reply) => {
                self.owners.remove(&id);
                if let Some(reply) = reply {
                    self.removals.insert(id, reply);
                }
                self.machine.unmap(now, id);
            }
            Command::Leave(id, reply) => {
                self.owners.remove(&id);
                self.machine.release(id);
                let _ = reply.send(());
            }
            Command::Close(reply) => {
                self.closing.push(reply);
                self.machine.close(now);
            }
            Command::Heal(id) => self.machine.heal(now, id),
            Command::Survey(reply) => {
                self.surveys.push(reply);
                self.machine.survey(now);
            }
            Command::External(reply) => {
                self.externals.push(reply);
                self.machine.survey(now);
            }
            Command::List(reply) => {
                self.lists.push(reply);
                self.machine.list(now);
            }
            Command::Choose(reply) => {
                self.choices.push(reply);
                self.machine.choose_gateway(now);
            }
            Command::CallService(service, action, arguments, reply) => {
                self.calls.push_back(reply);
                self.machine.call_service(now, &service, &action, arguments);
            }
            Command::Call(action, arguments, reply) => {
                self.calls.push_back(reply);
                self.machine.call_action(now, &action, arguments);
            }
        }
    }

    /// Carries out what the machine wants.
    async fn drain(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            self.on_event(event);
        }
        while let Some(Transmit {
            remote, payload, ..
        }) = self.machine.poll_transmit()
        {
            // A datagram that cannot be sent is lost, and is sent again.
            if let Err(error) = self.socket.send_to(&payload, remote).await {
                tracing::debug!(%error, "a question could not be sent");
            }
        }
        if !self.externals.is_empty()
            && let Some(found) = self
                .machine
                .found()
                .into_iter()
                .find(|f| f.external_address.is_some())
        {
            for reply in self.externals.drain(..) {
                let _ = reply.send(Some(found.clone()));
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Exchange(exchange) => self.begin(exchange),
            Event::Probe(probe) => self.probe(probe),
            Event::Abandoned(id) => {
                if let Some(handle) = self.running.remove(&id) {
                    handle.abort();
                }
            }
            Event::Endless(_, mapping) => {
                if let Some(journal) = &mut self.journal {
                    journal(&mapping);
                }
            }
            Event::Made(id, mapping) => self.tell(id, Change::Made(mapping)),
            Event::Renewed(id, mapping) => self.tell(id, Change::Renewed(mapping)),
            Event::Moved(id, mapping) => self.tell(id, Change::Moved(mapping)),
            Event::Healed(id, mapping) => self.tell(id, Change::Healed(mapping)),
            Event::Lost(id, why) | Event::Failed(id, why) => self.tell(id, Change::Lost(why)),
            Event::Removed(id, result) => {
                self.owners.remove(&id);
                if let Some(reply) = self.removals.remove(&id) {
                    let _ = reply.send(result);
                }
            }
            Event::Surveyed(survey) => {
                for reply in self.externals.drain(..) {
                    let told = survey
                        .found
                        .iter()
                        .find(|found| found.external_address.is_some());
                    let _ = reply.send(told.cloned());
                }
                for reply in self.surveys.drain(..) {
                    let _ = reply.send(survey.clone());
                }
            }
            Event::Listed(entries) => {
                for reply in self.lists.drain(..) {
                    let _ = reply.send(entries.clone());
                }
            }
            Event::Chosen(found) => {
                for reply in self.choices.drain(..) {
                    let _ = reply.send(found.clone());
                }
            }
            Event::Called(reply) => {
                if let Some(caller) = self.calls.pop_front() {
                    let _ = caller.send(reply);
                }
            }
        }
    }

    fn tell(&self, id: MappingId, change: Change) {
        if let Some(owner) = self.owners.get(&id) {
            let _ = owner.try_send(change);
        }
    }

    /// Beside everything else; what nobody waits for any longer is not heard.
    fn probe(&mut self, probe: Probe) {
        let Some(server) = self.verify.clone() else {
            return;
        };
        let (said, own) = (self.probed.0.clone(), self.local.ip());
        self.exchanges.spawn(async move {
            let probed = verify::probe(&server, own, probe).await;
            let _ = said.send((probe.id, probed)).await;
        });
    }

    fn begin(&mut self, exchange: Exchange) {
        let id = exchange.id;
        let answers = self.answers.0.clone();
        let handle = self.exchanges.spawn(async move {
            let response = exchange_once(&exchange).await;
            let _ = answers.send((exchange.id, response)).await;
        });
        self.running.insert(id, handle);
        while self.exchanges.try_join_next().is_some() {}
    }
}

/// Waits for what is told to everybody.
async fn hear(
    sockets: &[(SocketAddr, UdpSocket)],
    buffer: &mut [u8],
) -> (SocketAddr, usize, SocketAddr) {
    let readable = sockets.iter().map(|(group, socket)| {
        Box::pin(async move {
            let _ = socket.readable().await;
            (*group, socket)
        })
    });
    let readable: Vec<_> = readable.collect();
    if readable.is_empty() {
        return std::future::pending().await;
    }
    let ((group, socket), ..) = futures_util::future::select_all(readable).await;
    match socket.try_recv_from(buffer) {
        Ok((length, remote)) => (group, length, remote),
        Err(_) => (group, 0, group),
    }
}

/// One request and its answer; `None` if that did not work.
async fn exchange_once(exchange: &Exchange) -> Option<Response> {
    let socket = if exchange.from.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.ok()?;
    socket.bind(SocketAddr::new(exchange.from, 0)).ok()?;
    let mut stream = socket.connect(exchange.to).await.ok()?;
    stream.write_all(&exchange.request).await.ok()?;
    let mut collector = Collector::response(Bounds::default());
    let mut buffer = vec![0; 16 << 10];
    while !collector.is_complete() {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => collector.push(buffer.get(..length)?).ok()?,
        }
    }
    collector.into_response().ok()
}
