//! Ports of the router that lead here, so that peers reach us from behind any NAT: one to the
//! endpoint's socket, and one to the port for TCP of each session. They are asked for while
//! everything else goes on.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};

use crate::portmap::{Change, Client, Config, Mapping, PortMapping, Transport, Wish};

/// For how long at a time, in seconds: so long it outlives a program that is killed.
const LIFETIME: u32 = 600;

/// Sessions with a port for TCP at one time; those beyond do without, so that a router's table is
/// not filled.
const MAX_TCP: usize = 16;

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

/// A session's port, and whom to tell of it. Whoever asked has no interest any more when nobody
/// listens.
#[derive(Debug)]
struct Request {
    port: u16,
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
    pub(crate) fn start(port: u16) -> Self {
        let (sender, state) = watch::channel(Mapped::Pending);
        let (stop, stopped) = oneshot::channel();
        let (requests, inbox) = mpsc::channel(MAX_TCP);
        tokio::spawn(keep(port, sender, inbox, stopped));
        Self {
            state,
            requests,
            stop: Mutex::new(Some(stop)),
        }
    }

    /// Asks for a port that leads to this one over TCP, and keeps it as long as what is returned.
    pub(crate) fn map_tcp(&self, port: u16) -> watch::Receiver<Mapped> {
        let (state, receiver) = watch::channel(Mapped::Pending);
        if let Err(refused) = self.requests.try_send(Request { port, state }) {
            let request = refused.into_inner();
            request.state.send_replace(Mapped::Nowhere);
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

async fn keep(
    port: u16,
    state: watch::Sender<Mapped>,
    requests: mpsc::Receiver<Request>,
    stop: oneshot::Receiver<()>,
) {
    let client = match Client::start(Config::default()).await {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(%error, "routers cannot be asked for a port");
            let _ = state.send(Mapped::Nowhere);
            return;
        }
    };
    let stop = async { drop(stop.await) };
    tokio::select! {
        () = stop => {}
        () = serve(&client, port, &state, requests) => {}
    }
    client.close().await;
}

type Following<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Until no port is left.
async fn serve(
    client: &Client,
    port: u16,
    state: &watch::Sender<Mapped>,
    mut requests: mpsc::Receiver<Request>,
) {
    let own = Request {
        port,
        state: state.clone(),
    };
    let mut followed: FuturesUnordered<Following<'_>> = FuturesUnordered::new();
    followed.push(Box::pin(follow(client, Transport::Udp, own)));
    loop {
        tokio::select! {
            over = followed.next() => if over.is_none() {
                return;
            },
            Some(request) = requests.recv(), if followed.len() <= MAX_TCP => {
                followed.push(Box::pin(async move {
                    let state = request.state.clone();
                    tokio::select! {
                        () = state.closed() => {}
                        () = follow(client, Transport::Tcp, request) => {}
                    }
                }));
            }
        }
    }
}

/// Makes the mapping and tells what becomes of it.
async fn follow(client: &Client, transport: Transport, Request { port, state }: Request) {
    let base = SocketAddr::new(client.link().address, port);
    let wish = Wish {
        lifetime: LIFETIME,
        must_end: true,
        ..Wish::new(transport, port)
    };
    let mut mapping: Mapping = match client.map(wish).await {
        Ok(mapping) => mapping,
        Err(error) => {
            tracing::debug!(%error, %transport, "no router opens a port");
            let _ = state.send(Mapped::Nowhere);
            return;
        }
    };
    tell(&state, base, mapping.current());
    loop {
        match mapping.changed().await {
            Change::Made(now) | Change::Renewed(now) | Change::Moved(now) | Change::Healed(now) => {
                tell(&state, base, &now);
            }
            // It is made again, and until then nothing better is known.
            Change::Lost(error) => tracing::debug!(%error, "the router's port is lost"),
        }
    }
}

fn tell(state: &watch::Sender<Mapped>, base: SocketAddr, mapping: &PortMapping) {
    let Some(address) = mapping.external_address else {
        let _ = state.send(Mapped::Nowhere);
        return;
    };
    let external = SocketAddr::new(address, mapping.external_port);
    let new = Mapped::At { base, external };
    state.send_if_modified(|known| std::mem::replace(known, new) != new);
}
