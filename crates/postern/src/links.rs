//! The links to relays of one session.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use postern_proto::connect::{LinkId, RelayTransport};
use tokio::sync::mpsc;

use crate::dialer::{Dialer, Introducer};
use crate::net::{Inlets, Link, LinkInput, Opened, Outlet};

/// Messages of relays that wait for the session; whoever brings more waits.
const QUEUE: usize = 64;

type Dialled = Pin<Box<dyn Future<Output = (LinkId, io::Result<Opened>)> + Send>>;

/// What happened to a link.
pub(crate) enum News {
    /// It has been opened, or cannot be.
    Dialled(LinkId, io::Result<Opened>),
    /// It brought something.
    Input(LinkInput),
}

/// Links that are open, or being opened.
pub(crate) struct Links {
    introducer: Introducer,
    /// `None` while it is being opened.
    links: BTreeMap<LinkId, Option<Arc<Link>>>,
    servers: BTreeMap<LinkId, SocketAddr>,
    dialling: FuturesUnordered<Dialled>,
    /// What they bring.
    inputs: (mpsc::Sender<LinkInput>, mpsc::Receiver<LinkInput>),
}

impl Links {
    pub(crate) fn new(introducer: Introducer) -> Self {
        Self {
            introducer,
            links: BTreeMap::new(),
            servers: BTreeMap::new(),
            dialling: FuturesUnordered::new(),
            inputs: mpsc::channel(QUEUE),
        }
    }

    /// Begins to open a link; [`Links::next`] has the outcome.
    pub(crate) fn dial(
        &mut self,
        dialer: &dyn Dialer,
        link: LinkId,
        transport: RelayTransport,
        server: SocketAddr,
    ) {
        let dialling = dialer.dial(&self.introducer, transport, server);
        self.links.insert(link, None);
        self.servers.insert(link, server);
        self.dialling
            .push(Box::pin(async move { (link, dialling.await) }));
    }

    /// What happens next.
    pub(crate) async fn next(&mut self) -> News {
        tokio::select! {
            Some((link, opened)) = self.dialling.next() => News::Dialled(link, opened),
            Some(input) = self.inputs.1.recv() => News::Input(input),
            else => std::future::pending().await,
        }
    }

    /// Begins to use a link; its own address. `None` if it is not wanted any more.
    pub(crate) fn opened(
        &mut self,
        link: LinkId,
        opened: io::Result<Opened>,
        inlets: &Inlets,
    ) -> io::Result<Option<SocketAddr>> {
        let (Some(place), Some(server)) = (self.links.get_mut(&link), self.servers.remove(&link))
        else {
            return Ok(None);
        };
        let outlet = Outlet {
            link,
            inlets: inlets.clone(),
            session: self.inputs.0.clone(),
        };
        let started = Arc::new(Link::start(opened?, server, outlet)?);
        let local = started.local();
        *place = Some(started);
        Ok(Some(local))
    }

    pub(crate) fn get(&self, link: LinkId) -> Option<Arc<Link>> {
        self.links.get(&link).cloned().flatten()
    }

    /// Forgets a link; it closes when nobody sends on it any more.
    pub(crate) fn close(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.servers.remove(&link);
    }
}
