//! Ports of the router that lead here, so that peers reach us from behind any NAT: one to the
//! endpoint's socket, and one to the port for TCP of each session. They are asked for while
//! everything else goes on, and anew of the next router when this machine has moved to another network.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::portmap::{Change, Client, Config, Link, Mapping, PortMapping, Transport, Wish};

/// For how long at a time, in seconds: so long it outlives a program that is killed.
const LIFETIME: u32 = 600;

/// Sessions with a port for TCP at one time; those beyond do without, so that a router's table is
/// not filled.
const MAX_TCP: usize = 16;

/// When to look which router there is, after addresses have changed: routes come after them, and
/// nobody tells of those.
const LOOKS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(4),
];

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// Routers are being asked.
    Pending,
    /// There is a port.
    At {
        /// Our address and the port here.
        base: SocketAddr,
        /// What leads there.
        external: SocketAddr,
    },
    /// There is none.
    Nowhere,
}

/// Our addresses as they change, each with the endpoint's port.
pub(crate) type Hosts = watch::Receiver<Vec<SocketAddr>>;

/// A port, and whom to tell of it. Whoever asked has no interest any more when nobody listens.
#[derive(Debug, Clone)]
struct Request {
    transport: Transport,
    port: u16,
    /// What listens there; whatever address there is, if there is none.
    listens: Option<Vec<SocketAddr>>,
    state: watch::Sender<Mapped>,
}

/// Keeps the ports until it is ended or dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    state: watch::Receiver<Mapped>,
    requests: mpsc::Sender<Request>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Keeper {
    /// Begins to ask for a port that leads to this one over UDP. Must be called inside a tokio
    /// runtime.
    pub(crate) fn start(port: u16, hosts: Hosts) -> Self {
        let (sender, state) = watch::channel(Mapped::Pending);
        let (stop, stopped) = oneshot::channel();
        let (requests, inbox) = mpsc::channel(MAX_TCP);
        let own = Request {
            transport: Transport::Udp,
            port,
            listens: None,
            state: sender,
        };
        let keeping = Keeping {
            wanted: vec![own],
            inbox,
            looks: Looks {
                hosts,
                left: [].iter(),
            },
        };
        tokio::spawn(keeping.run(stopped));
        Self {
            state,
            requests,
            stop: Mutex::new(Some(stop)),
        }
    }

    /// Asks for a port that leads to this one over TCP, at one of these addresses, and keeps it as
    /// long as what is returned.
    pub(crate) fn map_tcp(&self, port: u16, listens: &[SocketAddr]) -> watch::Receiver<Mapped> {
        let (state, receiver) = watch::channel(Mapped::Pending);
        let request = Request {
            transport: Transport::Tcp,
            port,
            listens: Some(listens.to_vec()),
            state,
        };
        if let Err(refused) = self.requests.try_send(request) {
            refused.into_inner().tell(Mapped::Nowhere);
        }
        receiver
    }

    /// Tells what is so of UDP at present, and what changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Mapped> {
        let mut state = self.state.clone();
        state.mark_changed();
        state
    }

    /// Gives the ports back, and waits until that is done.
    pub(crate) async fn end(&self) {
        let stop = self
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(stop);
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }
}

impl Request {
    fn tell(&self, new: Mapped) {
        self.state
            .send_if_modified(|known| std::mem::replace(known, new) != new);
    }
}

/// What the task has to do.
struct Keeping {
    wanted: Vec<Request>,
    inbox: mpsc::Receiver<Request>,
    looks: Looks,
}

type Following<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl Keeping {
    /// Asks on whatever network this machine is, until it is stopped.
    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        let mut stop = pin!(async { drop(stopped.await) });
        loop {
            let client = tokio::select! {
                () = &mut stop => return,
                client = self.begin() => client,
            };
            tokio::select! {
                () = &mut stop => return client.close().await,
                () = self.serve(&client) => {}
            }
            tracing::debug!("the router is another one");
            // The one before may be out of reach, and would be waited for.
            tokio::spawn(async move { client.close().await });
            self.tell_of_nothing();
        }
    }

    fn tell_of_nothing(&self) {
        for request in &self.wanted {
            request.tell(Mapped::Nowhere);
        }
    }

    /// A client on the network that there is, as soon as there is one.
    async fn begin(&mut self) -> Client {
        loop {
            match Client::start(Config::default()).await {
                Ok(client) => return client,
                Err(error) => tracing::debug!(%error, "routers cannot be asked for a port"),
            }
            self.tell_of_nothing();
            tokio::select! {
                () = self.looks.next() => {}
                Some(request) = self.inbox.recv() => self.wanted.push(request),
            }
        }
    }

    /// Until the network is another one.
    async fn serve(&mut self, client: &Client) {
        self.wanted.retain(|request| !request.state.is_closed());
        let follow = |request: Request| -> Following<'_> { Box::pin(follow(client, request)) };
        let mut followed: FuturesUnordered<_> = self.wanted.iter().cloned().map(follow).collect();
        loop {
            tokio::select! {
                () = self.looks.next() => if is_elsewhere(client.link()) {
                    return;
                },
                Some(()) = followed.next() => {}
                Some(request) = self.inbox.recv(), if followed.len() <= MAX_TCP => {
                    self.wanted.retain(|request| !request.state.is_closed());
                    self.wanted.push(request.clone());
                    followed.push(follow(request));
                }
            }
        }
    }
}

/// Says when the router may have become another one.
struct Looks {
    hosts: Hosts,
    left: Iter<'static, Duration>,
}

impl Looks {
    async fn next(&mut self) {
        let changed = match self.left.next() {
            Some(pause) => timeout(*pause, self.hosts.changed()).await,
            None => Ok(self.hosts.changed().await),
        };
        match changed {
            Ok(Ok(())) => self.left = LOOKS.iter(),
            // There are no more changes, and soon nobody who wants a port.
            Ok(Err(_)) => pending().await,
            Err(_) => {}
        }
    }
}

/// Whether the default route leads another way now. Where there is none, the network may come back.
fn is_elsewhere(link: &Link) -> bool {
    Link::present().is_ok_and(|present| present != *link)
}

/// Keeps what was asked for, as long as somebody wants it.
async fn follow(client: &Client, request: Request) {
    tokio::select! {
        () = request.state.closed() => {}
        () = map(client, &request) => {}
    }
}

/// Makes the mapping and tells what becomes of it.
async fn map(client: &Client, request: &Request) {
    let (transport, port) = (request.transport, request.port);
    let base = SocketAddr::new(client.link().address, port);
    let listens = request.listens.as_ref();
    if listens.is_some_and(|listens| !listens.contains(&base)) {
        return request.tell(Mapped::Nowhere);
    }
    let wish = Wish {
        lifetime: LIFETIME,
        must_end: true,
        ..Wish::new(transport, port)
    };
    let mut mapping: Mapping = match client.map(wish).await {
        Ok(mapping) => mapping,
        Err(error) => {
            tracing::debug!(%error, %transport, "no router opens a port");
            return request.tell(Mapped::Nowhere);
        }
    };
    request.tell(at(base, mapping.current()));
    loop {
        match mapping.changed().await {
            Change::Made(now) | Change::Renewed(now) | Change::Moved(now) | Change::Healed(now) => {
                request.tell(at(base, &now));
            }
            // It is made again, and until then nothing better is known.
            Change::Lost(error) => tracing::debug!(%error, "the router's port is lost"),
        }
    }
}

fn at(base: SocketAddr, mapping: &PortMapping) -> Mapped {
    match mapping.external_address {
        Some(address) => Mapped::At {
            base,
            external: SocketAddr::new(address, mapping.external_port),
        },
        None => Mapped::Nowhere,
    }
}
