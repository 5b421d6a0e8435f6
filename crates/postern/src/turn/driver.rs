//! The task of one allocation: moves bytes and time between the machine and the system.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use postern_proto::turn::client::{Allocation, Client, Event, Failure};
use postern_proto::{Datagram, Transmit};
use postern_wire::turn::ConnectionId;
use postern_wire::uri::Transport;
use tokio::sync::{mpsc, oneshot};

use super::error::{AllocateError, ConnectError, MoveError, PeerError};
use super::link::Link;
use super::options::{Options, Server};
use super::relayed::{Connected, DataConnections, RelayedStream, Step, Waiter};
use super::transport::{ServerStream, Target, TransportError};
use crate::clock::{self, until};

/// What is read or sent before the others get their turn.
const BATCH: usize = 64;

/// Data from a peer.
pub(super) type Data = (SocketAddr, Vec<u8>);

/// Gets the allocation, or why there is none.
pub(super) type Ready = oneshot::Sender<Result<Allocation, AllocateError>>;

/// What the user wants.
#[derive(Debug)]
pub(super) enum Command {
    Send(SocketAddr, Vec<u8>),
    Permit(SocketAddr, oneshot::Sender<Result<(), PeerError>>),
    Connect(SocketAddr, Connected),
    Move(oneshot::Sender<Result<(), MoveError>>),
}

/// The driver's ends of what leads to the user.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) ready: Ready,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) data: mpsc::Sender<Data>,
    pub(super) accepted: mpsc::Sender<RelayedStream>,
    /// Why it is over.
    pub(super) end: Arc<OnceLock<Failure>>,
}

/// A new way to the server that is being opened.
struct Opening {
    link: BoxFuture<'static, Result<Link, TransportError>>,
    redirected: bool,
    waiter: Option<oneshot::Sender<Result<(), MoveError>>>,
}

pub(super) struct Driver {
    machine: Client,
    server: Server,
    mobile: bool,
    /// Gone once it has failed.
    link: Option<Link>,
    lost: Option<io::Error>,
    opening: Option<Opening>,
    moving: Option<oneshot::Sender<Result<(), MoveError>>>,
    permits: Vec<(IpAddr, oneshot::Sender<Result<(), PeerError>>)>,
    connections: DataConnections,
    ready: Option<Ready>,
    commands: Option<mpsc::Receiver<Command>>,
    data: mpsc::Sender<Data>,
    accepted: mpsc::Sender<RelayedStream>,
    end: Arc<OnceLock<Failure>>,
    /// Why it is over.
    over: Option<Failure>,
}

/// One thing that the driver waited for.
enum Input {
    Ready(io::Result<()>),
    Command(Option<Command>),
    Opened(Result<Link, TransportError>),
    Connection(Option<Step>),
    Timeout,
    /// Nobody waits for the allocation any more.
    Unwanted,
}

impl Driver {
    /// Opens the way to the server, asks for an allocation, and keeps it until it is over.
    pub(super) async fn run(server: Server, options: Options, seed: [u8; 32], ends: Ends) {
        let mut ends = ends;
        let opened = tokio::select! {
            opened = Link::open(&server, None) => opened,
            () = ends.ready.closed() => return,
        };
        let link = match opened {
            Ok(link) => link,
            Err(error) => {
                _ = ends.ready.send(Err(error.into()));
                return;
            }
        };
        let config = options.config(link.local(), link.server(), server.transport);
        let driver = Self {
            mobile: config.mobility,
            machine: Client::new(clock::now(), seed, config),
            server,
            link: Some(link),
            lost: None,
            opening: None,
            moving: None,
            permits: Vec::new(),
            connections: DataConnections::default(),
            ready: Some(ends.ready),
            commands: Some(ends.commands),
            data: ends.data,
            accepted: ends.accepted,
            end: ends.end,
            over: None,
        };
        driver.drive().await;
    }

    async fn drive(mut self) {
        loop {
            while let Some(event) = self.machine.poll_event() {
                self.obey(event);
            }
            self.flush();
            if let Some(failure) = self.over {
                return self.finish(failure);
            }
            match self.next_input().await {
                Input::Ready(result) => self.on_ready(result),
                Input::Command(Some(command)) => self.on_commands(command),
                Input::Command(None) | Input::Unwanted => self.leave(),
                Input::Opened(result) => self.on_opened(result),
                Input::Connection(Some(step)) => self.on_step(step),
                Input::Connection(None) => {}
                Input::Timeout => self.machine.handle_timeout(clock::now()),
            }
        }
    }

    async fn next_input(&mut self) -> Input {
        let room = self.link.as_ref().is_none_or(Link::has_room);
        let settled = self.ready.is_none() && self.opening.is_none();
        let timeout = self.machine.poll_timeout();
        tokio::select! {
            result = ready(&mut self.link) => Input::Ready(result),
            command = next_command(&mut self.commands), if room && settled => Input::Command(command),
            link = open(&mut self.opening) => Input::Opened(link),
            Some(step) = self.connections.next() => Input::Connection(Some(step)),
            () = until(timeout) => Input::Timeout,
            () = unwanted(&mut self.ready) => Input::Unwanted,
        }
    }

    /// Sends what the machine wants sent to the server.
    fn flush(&mut self) {
        while let Some(Transmit { payload, .. }) = self.machine.poll_transmit() {
            if let Some(link) = &mut self.link {
                link.send(payload);
            }
        }
    }

    fn on_ready(&mut self, result: io::Result<()>) {
        let read = result.and_then(|()| self.read());
        let Err(error) = read else {
            return;
        };
        let harmless = self.link.as_ref().is_some_and(Link::is_connectionless);
        if harmless && self.machine.allocation().is_some() {
            tracing::debug!(%error, "the network refused a datagram to the server");
            return;
        }
        self.on_lost(error);
    }

    /// Hands the machine what has arrived.
    fn read(&mut self) -> io::Result<()> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let (local, remote) = (link.local(), link.server());
        for _ in 0..BATCH {
            let Some(payload) = link.read()? else {
                return Ok(());
            };
            let datagram = Datagram {
                local,
                remote,
                payload,
            };
            self.machine.handle_input(clock::now(), datagram);
        }
        Ok(())
    }

    /// The way to the server is gone: an allocation that can move gets another one.
    fn on_lost(&mut self, error: io::Error) {
        tracing::debug!(%error, "the way to the server is lost");
        self.link = None;
        self.lost = Some(error);
        if self.opening.is_some() {
            return;
        }
        if self.mobile && self.machine.allocation().is_some() {
            self.reopen(None);
        } else {
            self.machine.disconnected();
        }
    }

    /// Opens another way to the same server.
    fn reopen(&mut self, waiter: Option<oneshot::Sender<Result<(), MoveError>>>) {
        let (server, at) = (self.server.clone(), self.machine.server());
        self.opening = Some(Opening {
            link: Box::pin(async move { Link::open(&server, Some(at)).await }),
            redirected: false,
            waiter,
        });
    }

    fn redirect(&mut self, at: SocketAddr, domain: Option<String>) {
        let target = &self.server.target;
        self.server.target = Target {
            host: domain.unwrap_or_else(|| target.host.clone()),
            port: at.port(),
            addresses: vec![at],
            ..target.clone()
        };
        let server = self.server.clone();
        self.link = None;
        self.opening = Some(Opening {
            link: Box::pin(async move { Link::open(&server, Some(at)).await }),
            redirected: true,
            waiter: None,
        });
    }

    fn on_opened(&mut self, result: Result<Link, TransportError>) {
        let Some(opening) = self.opening.take() else {
            return;
        };
        let now = clock::now();
        match (result, opening.waiter) {
            (Ok(link), waiter) => {
                let local = link.local();
                self.link = Some(link);
                self.lost = None;
                self.moving = waiter;
                if opening.redirected {
                    self.machine.reconnected(now, local);
                } else {
                    self.machine.moved(now, local);
                }
            }
            // The old way may be there still.
            (Err(error), Some(waiter)) if self.link.is_some() => {
                _ = waiter.send(Err(error.into()));
            }
            (Err(error), waiter) => {
                self.tell(Err(AllocateError::from(error)));
                drop(waiter);
                self.machine.disconnected();
                self.machine.close(now);
            }
        }
    }

    fn on_commands(&mut self, first: Command) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(command) = next else {
                return;
            };
            self.on_command(command);
            self.flush();
            let room = self.link.as_ref().is_some_and(Link::has_room) && self.opening.is_none();
            let commands = self.commands.as_mut().filter(|_| room);
            next = commands.and_then(|commands| commands.try_recv().ok());
        }
        if let Some(command) = next {
            self.on_command(command);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send(peer, payload) => self.send(peer, &payload),
            Command::Permit(peer, waiter) => self.permit(peer, waiter),
            Command::Connect(peer, waiter) => self.connect(peer, waiter),
            Command::Move(waiter) if self.moving.is_some() => {
                _ = waiter.send(Err(MoveError::Busy));
            }
            Command::Move(waiter) => self.reopen(Some(waiter)),
        }
    }

    fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        match self.machine.send(clock::now(), peer, payload) {
            Ok(Some(transmit)) => {
                if let Some(link) = &mut self.link {
                    link.send(transmit.payload);
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a datagram to a peer was dropped"),
        }
    }

    fn permit(&mut self, peer: SocketAddr, waiter: oneshot::Sender<Result<(), PeerError>>) {
        let asked = self.machine.permit_peer(clock::now(), peer);
        let peer = peer.ip().to_canonical();
        let known = match (asked, self.machine.refusal(peer)) {
            (Err(error), _) => Some(Err(error.into())),
            (Ok(()), Some(failure)) => Some(Err(PeerError::Refused(failure))),
            (Ok(()), None) => self.machine.is_permitted(peer).then_some(Ok(())),
        };
        match known {
            Some(known) => _ = waiter.send(known),
            None => self.permits.push((peer, waiter)),
        }
    }

    fn settle(&mut self, peer: IpAddr, result: Result<(), PeerError>) {
        let waiting = std::mem::take(&mut self.permits);
        for (ip, waiter) in waiting {
            if ip == peer {
                _ = waiter.send(result);
            } else {
                self.permits.push((ip, waiter));
            }
        }
    }

    fn connect(&mut self, peer: SocketAddr, waiter: Connected) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        match self.machine.connect(clock::now(), peer) {
            Ok(()) => _ = self.connections.asked.insert(peer, waiter),
            Err(error) => _ = waiter.send(Err(error.into())),
        }
    }

    /// Does what an event asks for.
    fn obey(&mut self, event: Event) {
        match event {
            Event::Allocated(allocation) => self.tell(Ok(allocation)),
            Event::Redirected { server, domain } => self.redirect(server, domain),
            Event::Moved => {
                if let Some(waiter) = self.moving.take() {
                    _ = waiter.send(Ok(()));
                }
            }
            // A reader that is too slow loses datagrams, as with a socket.
            Event::Data { peer, payload } => _ = self.data.try_send((peer, payload)),
            Event::Permitted(peer) => self.settle(peer, Ok(())),
            Event::PeerRefused { peer, failure } => {
                self.settle(peer, Err(PeerError::Refused(failure)));
            }
            Event::Connected { peer, id } => match self.connections.asked.remove(&peer) {
                Some(waiter) => self.open(id, Waiter::Connect(waiter)),
                None => self.machine.abandon_connection(id),
            },
            Event::ConnectionAttempt { id, .. } => self.open(id, Waiter::Accept),
            Event::ConnectionBound {
                id, peer, early, ..
            } => self.on_bound(id, peer, early),
            Event::ConnectionFailed {
                peer,
                id: None,
                failure,
            } => self.connections.refuse(peer, failure),
            Event::ConnectionFailed {
                id: Some(id),
                failure,
                ..
            } => self.connections.fail(id, ConnectError::Refused(failure)),
            Event::Icmp { peer, icmp } => tracing::debug!(%peer, ?icmp, "the way to a peer"),
            Event::ChannelBound { .. } | Event::ChannelEnded { .. } => {}
            Event::Failed(failure) => self.over = Some(failure),
            Event::Closed => self.over = Some(Failure::Expired),
        }
    }

    fn open(&mut self, id: ConnectionId, waiter: Waiter) {
        let at = self.machine.server();
        self.connections.open(id, waiter, &self.server, at);
    }

    fn on_step(&mut self, step: Step) {
        match step {
            Step::Opened(id, _) | Step::Read(id, ..) if !self.connections.is_wanted(id) => {
                self.machine.abandon_connection(id);
            }
            Step::Opened(id, Err(error)) => {
                self.machine.abandon_connection(id);
                self.connections.fail(id, error.into());
            }
            Step::Opened(id, Ok(stream)) => {
                let local = stream.local();
                match self.machine.bind_connection(clock::now(), id, local) {
                    Ok(()) => self.converse(id, stream),
                    Err(error) => self.connections.fail(id, error.into()),
                }
            }
            Step::Read(id, _, Err(error)) => {
                tracing::debug!(%error, "a data connection ended before it was bound");
                self.machine.abandon_connection(id);
                let failure = ConnectError::Refused(Failure::TimedOut);
                self.connections.fail(id, failure);
            }
            Step::Read(id, stream, Ok(bytes)) => {
                let datagram = Datagram {
                    local: stream.local(),
                    remote: self.machine.server(),
                    payload: &bytes,
                };
                self.machine.handle_input(clock::now(), datagram);
                self.converse(id, stream);
            }
        }
    }

    /// Lets the machine speak on a data connection, and listens to it as long as it is one
    /// that is not bound.
    fn converse(&mut self, id: ConnectionId, stream: ServerStream) {
        let local = stream.local();
        self.connections.hold(id, stream);
        let mut request = Vec::new();
        while let Some(transmit) = self.machine.poll_transmit() {
            if transmit.local == local {
                request.extend(transmit.payload);
            } else if let Some(link) = &mut self.link {
                link.send(transmit.payload);
            }
        }
        // The machine may have bound it: then the event takes the stream away.
        while let Some(event) = self.machine.poll_event() {
            self.obey(event);
        }
        self.connections.resume(id, request);
    }

    fn on_bound(&mut self, id: ConnectionId, peer: SocketAddr, early: Vec<u8>) {
        match self.connections.bound(id, peer, early) {
            Some((Waiter::Connect(waiter), stream)) => _ = waiter.send(Ok(stream)),
            // A user that accepts too slowly loses it: the peer sees it closed.
            Some((Waiter::Accept, stream)) => _ = self.accepted.try_send(stream),
            None => {}
        }
    }

    /// The user wants no more of it.
    fn leave(&mut self) {
        self.commands = None;
        self.ready = None;
        self.machine.close(clock::now());
    }

    fn tell(&mut self, result: Result<Allocation, AllocateError>) {
        if let Some(ready) = self.ready.take()
            && ready.send(result).is_err()
        {
            self.leave();
        }
    }

    /// Those who wait learn from the closed channels that it is over, and from `end` why.
    fn finish(mut self, failure: Failure) {
        let _ = self.end.set(failure);
        if let Some(link) = &mut self.link {
            link.close();
        }
        let server = self.server.to_string();
        let plain = self.server.transport == Transport::Udp && self.server.target.tls.is_none();
        let error = match self.lost.take() {
            Some(source) if !plain => AllocateError::HungUp { server, source },
            Some(source) => AllocateError::Transport(TransportError::Unreachable {
                server: self.server.target.to_string(),
                transport: "UDP",
                source,
            }),
            None => AllocateError::Refused { server, failure },
        };
        self.tell(Err(error));
    }
}

async fn ready(link: &mut Option<Link>) -> io::Result<()> {
    match link {
        Some(link) => link.ready().await,
        None => pending().await,
    }
}

/// Once there are no more commands that is told once.
async fn next_command(commands: &mut Option<mpsc::Receiver<Command>>) -> Option<Command> {
    match commands {
        Some(commands) => commands.recv().await,
        None => pending().await,
    }
}

async fn open(opening: &mut Option<Opening>) -> Result<Link, TransportError> {
    match opening {
        Some(opening) => opening.link.as_mut().await,
        None => pending().await,
    }
}

async fn unwanted(ready: &mut Option<Ready>) {
    match ready {
        Some(ready) => ready.closed().await,
        None => pending().await,
    }
}
