//! A plain ICE session with any standard agent (RFC 8445), over UDP.
//!
//! An [`Endpoint`](crate::Endpoint) needs none of this. It is for programs that talk to agents of
//! other make and bring signalling and a data protocol of their own.
//!
//! 1. [`Session::gather`] binds sockets on the addresses of this machine, and asks STUN and TURN
//!    servers.
//! 2. [`Session::description`] is to be told to the peer, and what it tells goes to
//!    [`Session::connect`].
//! 3. [`Session::next`] makes everything happen: call it again and again.
//! 4. [`Session::send`] sends a datagram on a path that [`Event::Connected`] or [`Event::Data`] named.
//!
//! Candidates of the peer whose address is a multicast DNS name are looked up on the links of this
//! machine; with [`Options::mdns`] its own private addresses are told by such names.
//!
//! What is sent is as open as the network: the data protocol encrypts.

mod names;
mod options;
mod sockets;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use postern_proto::ice::{Agent, Candidate, Event as Happened, NamedCandidate, Nat64Prefix};
use postern_proto::{Datagram, Verdict};

pub(crate) use sockets::send_limited;

pub use crate::mdns::NamesError;
pub use options::{Description, DescriptionError, GatherError, Options};
pub use postern_proto::ice::{CandidateKind, Credentials, MAX_COMPONENTS, Path, Role};

use crate::clock::{self, until};
use crate::net::Advertised;
use names::Names;
use sockets::{Arrived, Sockets};

/// One ICE session.
#[derive(Debug)]
pub struct Session {
    agent: Agent,
    sockets: Sockets,
    description: Description,
    events: VecDeque<Event>,
    /// From where the peer's data comes: ways that a check has taken. The agent bounds them.
    admitted: BTreeSet<(SocketAddr, SocketAddr)>,
    names: Names,
    /// What routers say about a NAT64, and the prefix of one that only the resolver knows.
    advertised: Advertised,
    resolved: Option<Nat64Prefix>,
    gathered: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This path is selected for its component. A better one may follow.
    Connected {
        /// The component.
        component: u16,
        /// The path.
        path: Path,
    },
    /// The peer has sent this.
    Data {
        /// How to answer.
        way: Way,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// The path does not work any longer; another is looked for.
    Lost(Path),
    /// No path works: the session is over.
    Failed,
}

/// Where a datagram comes from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Our socket, or our address at a relay.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
}

impl From<Path> for Way {
    fn from(path: Path) -> Self {
        Self {
            local: path.local,
            remote: path.remote,
        }
    }
}

impl Session {
    /// Binds and asks, until all servers have answered or been given up: 8 s at most for STUN servers, 40 s
    /// for TURN servers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`GatherError`].
    pub async fn gather(options: Options) -> Result<Self, GatherError> {
        let names = match options.mdns {
            true => Names::hiding()?,
            false => Names::default(),
        };
        let seed = crate::entropy::seed()?;
        let agent = Agent::new(clock::now(), seed, options.role, options.config());
        let description = Description {
            ufrag: agent.local_credentials().ufrag.clone(),
            pwd: agent.local_credentials().pwd.clone(),
            candidates: Vec::new(),
            lite: false,
        };
        let mut session = Self {
            sockets: Sockets::bind(&options).await?,
            agent,
            description,
            events: VecDeque::new(),
            admitted: BTreeSet::new(),
            names,
            advertised: Advertised::listen(),
            resolved: None,
            gathered: false,
        };
        session.names.hide(session.sockets.hosts())?;
        session.add_candidates(&options).await?;
        session.drain().await;
        while !session.gathered {
            session.step().await;
        }
        Ok(session)
    }

    async fn add_candidates(&mut self, options: &Options) -> Result<(), GatherError> {
        let hosts = self.sockets.hosts();
        let addresses: Vec<_> = hosts.iter().map(|(_, address)| *address).collect();
        let prefix = self.advertised.find(&addresses).await;
        self.resolved = prefix.filter(|_| self.advertised.current().is_none());
        for (component, address) in hosts {
            self.agent.add_host_of(clock::now(), component, address);
        }
        self.agent.set_nat64_prefix(clock::now(), prefix);
        for server in &options.stun {
            self.agent.add_stun_server(clock::now(), *server);
        }
        for relay in self.sockets.allocate(options).await? {
            let now = clock::now();
            self.agent
                .add_relayed(now, relay.base, relay.relayed, relay.server);
        }
        self.agent.end_of_hosts(clock::now());
        Ok(())
    }

    /// What the peer has to know.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Takes the peer's description; checks begin. Candidates that cannot be used are skipped.
    ///
    /// # Errors
    ///
    /// [`DescriptionError`]: nothing has begun.
    pub fn connect(&mut self, peer: &Description) -> Result<(), DescriptionError> {
        let credentials = peer.credentials()?;
        let now = clock::now();
        if peer.lite {
            self.agent.set_peer_lite(now);
        }
        for line in &peer.candidates {
            match line.parse::<Candidate>() {
                Ok(candidate) => self.agent.add_remote_candidate(now, candidate),
                Err(error) => match line.parse::<NamedCandidate>() {
                    Ok(named) => self.agent.add_named_candidate(named),
                    Err(_) => tracing::debug!(%error, "skipped a candidate"),
                },
            }
        }
        self.agent.set_remote_credentials(now, credentials);
        self.agent.end_of_remote_candidates(now);
        Ok(())
    }

    /// The next event. May be dropped and called again at any time.
    pub async fn next(&mut self) -> Event {
        loop {
            self.drain().await;
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.step().await;
        }
    }

    /// Sends a datagram. Like every datagram it may be lost.
    pub async fn send(&mut self, way: Way, payload: &[u8]) {
        self.sockets.send(way, payload).await;
    }

    /// The component that a path belongs to.
    #[must_use]
    pub fn component_of(&self, path: &Path) -> u16 {
        self.agent.component_of(path)
    }

    /// Whether every component has a selected path.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.agent.is_connected()
    }

    /// Gives relays back.
    pub async fn close(self) {
        self.sockets.close().await;
    }

    async fn step(&mut self) {
        tokio::select! {
            Some(arrived) = self.sockets.next() => self.on_arrived(arrived),
            (name, address) = self.names.next() => {
                self.agent.name_resolved(clock::now(), &name, address);
            }
            prefix = self.advertised.changed() => {
                self.agent.set_nat64_prefix(clock::now(), prefix.or(self.resolved));
            }
            () = until(self.agent.poll_timeout()) => self.agent.handle_timeout(clock::now()),
        }
        self.drain().await;
    }

    fn on_arrived(&mut self, arrived: Arrived) {
        let Arrived {
            way: Way { local, remote },
            payload,
        } = arrived;
        let datagram = Datagram {
            local,
            remote,
            payload: &payload,
        };
        let verdict = self.agent.handle_input(clock::now(), datagram);
        if verdict == Verdict::NotMine && self.admitted.contains(&(local, remote)) {
            let way = Way { local, remote };
            self.events.push_back(Event::Data { way, payload });
        }
    }

    async fn drain(&mut self) {
        while let Some(event) = self.agent.poll_event() {
            self.on_event(event);
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            let way = Way {
                local: transmit.local,
                remote: transmit.remote,
            };
            self.sockets.send(way, &transmit.payload).await;
        }
    }

    fn on_event(&mut self, event: Happened) {
        match event {
            Happened::LocalCandidate(candidate) if !self.gathered => {
                let line = self.names.line(candidate);
                self.description.candidates.push(line);
            }
            Happened::EndOfLocalCandidates => self.gathered = true,
            Happened::PeerSeen(path) | Happened::Valid { path, .. } => {
                self.admitted.insert((path.local, path.remote));
            }
            Happened::Selected(path) => {
                let component = self.agent.component_of(&path);
                self.events.push_back(Event::Connected { component, path });
            }
            Happened::Lost(path) => {
                self.admitted.remove(&(path.local, path.remote));
                self.events.push_back(Event::Lost(path));
            }
            Happened::Failed(_) => self.events.push_back(Event::Failed),
            Happened::ResolveName(name) => {
                if !self.names.ask(&name) {
                    self.agent.name_resolved(clock::now(), &name, None);
                }
            }
            Happened::SendLimited { transmit, ttl } => self.sockets.send_limited(&transmit, ttl),
            // The description is told once; the others come with punching only.
            Happened::LocalCandidate(_)
            | Happened::Heard { .. }
            | Happened::OpenSockets { .. }
            | Happened::CloseSockets(_)
            | Happened::AttemptEnded
            | Happened::TellPeer(_) => {}
        }
    }
}
