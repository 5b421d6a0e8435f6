//! The TCP connections of one session that no relay carries: the ports it listens on, and what the
//! agent wants of them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Aborted, abortable};
use futures_util::stream::FuturesUnordered;
use postern_proto::ice::tcp::{TcpAction, TcpEnds, TcpEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::net::{AddressPair, Inlets, Streams, tcp};

/// Accepted connections that wait for the session; whoever brings more waits at the system's door.
const ACCEPTED: usize = 8;

/// Ends of connections that wait for the session: as many as an agent has.
const ENDED: usize = 32;

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Dial =
    Pin<Box<dyn Future<Output = (TcpEnds, bool, Result<io::Result<TcpStream>, Aborted>)> + Send>>;

type Accepted = (TcpEnds, TcpStream);

/// What happened.
pub(crate) enum TcpNews {
    /// A port has accepted a connection.
    Accepted(TcpEnds, TcpStream),
    /// One that was to be opened is there, or could not be. Says whether it is framed.
    Dialled(TcpEnds, bool, io::Result<TcpStream>),
    /// The one with this base has ended.
    Ended(SocketAddr),
    /// Another port is listened on.
    Listening(SocketAddr),
}

/// Ports, attempts and connections; all are closed when it is dropped.
pub(crate) struct Tcp {
    streams: Streams,
    inlets: Inlets,
    hosts: Vec<SocketAddr>,
    renewed: VecDeque<SocketAddr>,
    accepting: JoinSet<()>,
    accepted: (mpsc::Sender<Accepted>, mpsc::Receiver<Accepted>),
    dials: FuturesUnordered<Dial>,
    dialling: BTreeMap<TcpEnds, AbortHandle>,
    open: BTreeMap<TcpEnds, SocketAddr>,
    ended: (mpsc::Sender<SocketAddr>, mpsc::Receiver<SocketAddr>),
}

impl Tcp {
    /// Listens at these addresses of the machine; nothing is listened on without any. Must be called
    /// inside a tokio runtime.
    pub(crate) fn listen(ips: &[IpAddr], streams: Streams, inlets: Inlets) -> Self {
        let mut this = Self {
            streams,
            inlets,
            hosts: Vec::new(),
            renewed: VecDeque::new(),
            accepting: JoinSet::new(),
            accepted: mpsc::channel(ACCEPTED),
            dials: FuturesUnordered::new(),
            dialling: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: mpsc::channel(ENDED),
        };
        this.hosts = this.listen_at(ips);
        this
    }

    /// Listens on a port of these addresses; where that is.
    fn listen_at(&mut self, ips: &[IpAddr]) -> Vec<SocketAddr> {
        let (listeners, hosts) = tcp::listen(ips);
        for listener in listeners {
            self.accepting
                .spawn(accept(listener, self.accepted.0.clone()));
        }
        hosts
    }

    /// Where this side can be connected to.
    pub(crate) fn hosts(&self) -> &[SocketAddr] {
        &self.hosts
    }

    /// Does what the agent wants; [`Tcp::next`] has the outcome.
    pub(crate) fn obey(&mut self, action: TcpAction) {
        match action {
            TcpAction::Connect { ends, framed } => self.dial(ends, framed),
            TcpAction::Close(ends) => self.close(ends),
            TcpAction::Renew(host) => {
                let hosts = self.listen_at(&[host.ip()]);
                self.renewed.extend(hosts);
            }
        }
    }

    fn dial(&mut self, ends: TcpEnds, framed: bool) {
        let (connecting, abort) = abortable(tcp::connect(ends));
        self.dialling.insert(ends, abort);
        self.dials
            .push(Box::pin(async move { (ends, framed, connecting.await) }));
    }

    fn close(&mut self, ends: TcpEnds) {
        if let Some(dialling) = self.dialling.remove(&ends) {
            dialling.abort();
        }
        if let Some(base) = self.open.remove(&ends) {
            self.streams.close(base);
        }
    }

    /// What happens next.
    pub(crate) async fn next(&mut self) -> TcpNews {
        loop {
            if let Some(host) = self.renewed.pop_front() {
                return TcpNews::Listening(host);
            }
            tokio::select! {
                Some((ends, framed, result)) = self.dials.next() => {
                    // One that was given up is of no interest.
                    if let Ok(result) = result {
                        self.dialling.remove(&ends);
                        return TcpNews::Dialled(ends, framed, result);
                    }
                }
                Some(base) = self.ended.1.recv() => return TcpNews::Ended(base),
                Some((ends, stream)) = self.accepted.1.recv() => return TcpNews::Accepted(ends, stream),
                else => std::future::pending().await,
            }
        }
    }

    /// Begins to use a connection to which the agent has given a base.
    pub(crate) fn begin(
        &mut self,
        ends: TcpEnds,
        base: SocketAddr,
        stream: TcpStream,
        framed: bool,
    ) {
        let path = AddressPair {
            local: base,
            remote: ends.remote,
        };
        let ended = self.ended.0.clone();
        self.streams.open(stream, path, framed, &self.inlets, ended);
        self.open.insert(ends, base);
    }

    /// The connection with this base has ended: which one that was, if it was of interest.
    pub(crate) fn end(&mut self, base: SocketAddr) -> Option<TcpEnds> {
        let mut open = self.open.iter();
        let (ends, _) = open.find(|(_, known)| **known == base)?;
        let ends = *ends;
        self.close(ends);
        Some(ends)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        for base in self.open.values() {
            self.streams.close(*base);
        }
    }
}

/// What the agent is told of an attempt that failed.
pub(crate) fn failure(error: &io::Error) -> TcpEvent {
    // A RST, or an ICMP message: the NAT or the firewall on the other side does not know of what
    // is sent there yet.
    let refusals = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::HostUnreachable,
    ];
    match refusals.contains(&error.kind()) {
        true => TcpEvent::Refused,
        false => TcpEvent::Failed,
    }
}

async fn accept(listener: TcpListener, accepted: mpsc::Sender<(TcpEnds, TcpStream)>) {
    loop {
        let next = listener.accept().await;
        let new = next.and_then(|(stream, remote)| {
            tcp::prepare(&stream)?;
            let ends = TcpEnds {
                local: unscoped(stream.local_addr()?),
                remote: unscoped(remote),
            };
            Ok((ends, stream))
        });
        match new {
            Ok(new) => {
                if accepted.send(new).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn unscoped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
