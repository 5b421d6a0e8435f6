//! An allocation at a TURN server, for its user.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use postern_proto::turn::client::{Allocation as Granted, Failure, Servers};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::driver::{Command, Data, Driver, Ends};
use super::error::{AllocateError, ConnectError, MoveError, PeerError};
use super::options::{Options, Server};
use super::relayed::RelayedStream;
use crate::clock::{self, until};

/// Datagrams, and other wishes of the user, that wait for the driver.
const COMMANDS: usize = 256;

/// Datagrams of peers that wait for the user; further ones are lost.
const DATA: usize = 512;

/// Connections of peers that wait to be accepted; further ones are closed.
const ACCEPTED: usize = 64;

/// An allocation at a TURN server: an address there at which peers reach this program.
///
/// Refreshes, permissions and channels are kept up by a task of its own. It ends with
/// [`Allocation::close`]; when it is dropped, the task ends it at the server in the
/// background. All methods can be called at the same time.
#[derive(Debug)]
pub struct Allocation {
    granted: Granted,
    server: Server,
    commands: mpsc::Sender<Command>,
    data: Mutex<mpsc::Receiver<Data>>,
    accepted: Mutex<mpsc::Receiver<RelayedStream>>,
    end: Arc<OnceLock<Failure>>,
    task: JoinHandle<()>,
}

impl Allocation {
    /// Asks servers for an allocation: the first one at once, each further one 250 ms later
    /// or when those before it have failed. The first answer wins; what others give goes
    /// back. At most eight addresses are asked.
    ///
    /// # Errors
    ///
    /// The [`AllocateError`] that says most, if all have failed: after 40 s at the latest
    /// from servers that do not answer.
    pub async fn request(servers: &[Server], options: &Options) -> Result<Self, AllocateError> {
        let servers: Vec<Server> = servers.iter().flat_map(Server::each_address).collect();
        let mut order = Servers::new(0..servers.len());
        order.begin(clock::now());
        let mut running = FuturesUnordered::new();
        let mut worst = AllocateError::NoServer;
        loop {
            while let Some(index) = order.poll_start(clock::now()) {
                let server = servers.get(index).ok_or(AllocateError::NoServer)?;
                running.push(async move { (index, Self::request_one(server, options).await) });
            }
            if running.is_empty() {
                return Err(worst);
            }
            tokio::select! {
                Some((index, result)) = running.next() => match result {
                    Ok(allocation) => return Ok(allocation),
                    Err(error) => {
                        order.on_failed(clock::now(), index);
                        if error.weight() > worst.weight() {
                            worst = error;
                        }
                    }
                },
                () = until(order.poll_timeout()) => {}
            }
        }
    }

    async fn request_one(server: &Server, options: &Options) -> Result<Self, AllocateError> {
        let seed = crate::entropy::seed()?;
        let (ready, answer) = oneshot::channel();
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (data, received) = mpsc::channel(DATA);
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        let end = Arc::<OnceLock<Failure>>::default();
        let ends = Ends {
            ready,
            commands: inbox,
            data,
            accepted,
            end: end.clone(),
        };
        let driver = Driver::run(server.clone(), options.clone(), seed, ends);
        let task = tokio::spawn(driver);
        let gone = |_| AllocateError::Refused {
            server: server.to_string(),
            failure: Failure::Expired,
        };
        let granted = answer.await.map_err(gone)??;
        Ok(Self {
            granted,
            server: server.clone(),
            commands,
            data: Mutex::new(received),
            accepted: Mutex::new(connections),
            end,
            task,
        })
    }

    /// What the server gave.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// The relayed transport address: where peers reach us.
    #[must_use]
    pub fn relayed(&self) -> SocketAddr {
        self.granted.relayed
    }

    /// The server that won, and the way to it. It may have sent us on to another one.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Lets peers at this address send to us, or connect to us, now and as long as it is used
    /// once in ten minutes.
    ///
    /// # Errors
    ///
    /// [`PeerError`]; if the server refuses the address, no other one is concerned.
    pub async fn permit(&self, peer: IpAddr) -> Result<(), PeerError> {
        self.permit_peer(SocketAddr::new(peer, 0)).await
    }

    /// The same. The port counts only if the address is the server's own: this one reaches
    /// the relay at that port, even where the server forbids to reach its host.
    ///
    /// # Errors
    ///
    /// As [`Allocation::permit`].
    pub async fn permit_peer(&self, peer: SocketAddr) -> Result<(), PeerError> {
        let (waiter, answer) = oneshot::channel();
        self.command(Command::Permit(peer, waiter)).await?;
        answer.await.map_err(|_| PeerError::Ended(self.end()))?
    }

    /// Sends a datagram to a peer; a permission is asked for first if there is none.
    ///
    /// As with every datagram, that it arrives is not said: one to an address that the server
    /// refuses is dropped. [`Allocation::permit`] tells.
    ///
    /// # Errors
    ///
    /// [`PeerError::Ended`].
    pub async fn send_to(&self, payload: &[u8], peer: SocketAddr) -> Result<(), PeerError> {
        Ok(self.command(Command::Send(peer, payload.to_vec())).await?)
    }

    /// The next datagram from a peer, and the peer.
    ///
    /// # Errors
    ///
    /// [`PeerError::Ended`].
    pub async fn recv_from(&self) -> Result<(Vec<u8>, SocketAddr), PeerError> {
        let received = self.data.lock().await.recv().await;
        let (peer, payload) = received.ok_or_else(|| PeerError::Ended(self.end()))?;
        Ok((payload, peer))
    }

    /// Has the server connect to a peer (RFC 6062).
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn connect(&self, peer: SocketAddr) -> Result<RelayedStream, ConnectError> {
        let (waiter, answer) = oneshot::channel();
        let asked = self.command(Command::Connect(peer, waiter)).await;
        asked.map_err(|Ended(failure)| ConnectError::Ended(failure))?;
        answer.await.map_err(|_| ConnectError::Ended(self.end()))?
    }

    /// The next connection from a peer that has been permitted (RFC 6062).
    ///
    /// # Errors
    ///
    /// [`PeerError::Ended`].
    pub async fn accept(&self) -> Result<RelayedStream, PeerError> {
        let accepted = self.accepted.lock().await.recv().await;
        accepted.ok_or_else(|| PeerError::Ended(self.end()))
    }

    /// Moves to a new socket, after our address has changed (RFC 8016). Data is lost
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`MoveError`]; without [`Options::mobility`], or if the server does not do it, the
    /// allocation ends with [`Failure::Immobile`].
    pub async fn rebind(&self) -> Result<(), MoveError> {
        let (waiter, answer) = oneshot::channel();
        let asked = self.command(Command::Move(waiter)).await;
        asked.map_err(|Ended(failure)| MoveError::Ended(failure))?;
        answer.await.map_err(|_| MoveError::Ended(self.end()))?
    }

    /// Ends the allocation at the server, so that it counts for nobody's quota any longer.
    /// Takes a few seconds if the server does not answer.
    pub async fn close(self) {
        drop(self.commands);
        drop(self.data);
        _ = self.task.await;
    }

    async fn command(&self, command: Command) -> Result<(), Ended> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| Ended(self.end()))
    }

    fn end(&self) -> Failure {
        self.end.get().copied().unwrap_or(Failure::Expired)
    }
}

/// There is no allocation any longer.
struct Ended(Failure);

impl From<Ended> for PeerError {
    fn from(Ended(failure): Ended) -> Self {
        Self::Ended(failure)
    }
}
