//! A port of the router that leads to the endpoint's socket, so that peers reach it from behind
//! any NAT. It is asked for while everything else goes on.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::portmap::{Change, Client, Config, Mapping, PortMapping, Transport, Wish};

/// For how long at a time, in seconds: so long it outlives a program that is killed.
const LIFETIME: u32 = 600;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// Routers are being asked.
    Pending,
    /// There is a port.
    At {
        /// Our address and the socket's port.
        base: SocketAddr,
        /// What leads there.
        external: SocketAddr,
    },
    /// There is none.
    Nowhere,
}

/// Keeps the port until it is ended or dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    state: watch::Receiver<Mapped>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Keeper {
    /// Begins to ask for a port that leads to this one. Must be called inside a tokio runtime.
    pub(crate) fn start(port: u16) -> Self {
        let (sender, state) = watch::channel(Mapped::Pending);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(keep(port, sender, stopped));
        Self {
            state,
            stop: Mutex::new(Some(stop)),
        }
    }

    /// Tells what is so at present, and what changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Mapped> {
        let mut state = self.state.clone();
        state.mark_changed();
        state
    }

    /// Gives the port back, and waits until that is done.
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

async fn keep(port: u16, state: watch::Sender<Mapped>, stop: oneshot::Receiver<()>) {
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
        () = follow(&client, port, &state) => {}
    }
    client.close().await;
}

/// Makes the mapping and tells what becomes of it.
async fn follow(client: &Client, port: u16, state: &watch::Sender<Mapped>) {
    let base = SocketAddr::new(client.link().address, port);
    let wish = Wish {
        lifetime: LIFETIME,
        must_end: true,
        ..Wish::new(Transport::Udp, port)
    };
    let mut mapping: Mapping = match client.map(wish).await {
        Ok(mapping) => mapping,
        Err(error) => {
            tracing::debug!(%error, "no router opens a port");
            let _ = state.send(Mapped::Nowhere);
            return;
        }
    };
    tell(state, base, mapping.current());
    loop {
        match mapping.changed().await {
            Change::Made(now) | Change::Renewed(now) | Change::Moved(now) | Change::Healed(now) => {
                tell(state, base, &now);
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
