//! The next router, where this one is behind another NAT: what is opened here is asked for
//! there as well, so that it leads in from the internet (RFC 6970 says how for PCP).
//!
//! One task keeps the client of the next router ([`crate::portmap`]), and one each mapping.
//! What they learn comes to the gateway's task as [`News`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use postern_proto::gateway::{ChangeError, ChangeId, Kind, Lease, Opening};
use postern_wire::transport::Transport;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::driver::Input;
use crate::portmap::{Change, Client, Config, Failure, Wish};

/// How often the next router is asked for its address, and for what it would not give.
const RETRY: Duration = Duration::from_secs(60);

/// Orders that wait: more are refused, as if the next router were full.
const MAX_ORDERS: usize = 256;

/// A port outside.
pub(super) type Key = (Transport, u16);

/// What was learnt of the next router.
#[derive(Debug)]
pub(super) enum News {
    /// Its address outside.
    Address(Option<Ipv4Addr>),
    /// The port leads here.
    Made(Key),
    /// It would give only this port in its place; nothing leads here.
    Instead(Key, u16),
    /// It would not give the port.
    Refused(Key, Failure),
}

/// A change that is made here, and waits for the next router.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: ChangeId,
    /// What was there before.
    pub(super) remove: Option<Opening>,
    pub(super) add: Opening,
}

/// What is wanted of the next router.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The interface and the address that it is asked from.
    line: (String, Ipv4Addr),
    /// Tells the news of this from those of an earlier one.
    pub(super) number: u64,
    wanted: BTreeMap<Key, Wanted>,
    orders: mpsc::Sender<Order>,
    /// The address that it has told.
    pub(super) address: Option<Ipv4Addr>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Wanted {
    stands: bool,
    waiting: Vec<Waiting>,
    /// Dropped, it ends the mapping.
    _end: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Order {
    key: Key,
    /// Whether it is asked for again when it is refused.
    patient: bool,
    end: oneshot::Receiver<()>,
}

impl Upstream {
    /// Begins to look for the next router on this line.
    pub(super) fn new(line: (String, Ipv4Addr), number: u64, inputs: mpsc::Sender<Input>) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let mut task = JoinSet::new();
        let teller = Teller { inputs, number };
        task.spawn(keep(line.0.clone(), inbox, teller));
        Self {
            line,
            number,
            wanted: BTreeMap::new(),
            orders,
            address: None,
            _task: task,
        }
    }

    /// Whether it is about this line.
    pub(super) fn is_on(&self, line: &(String, Ipv4Addr)) -> bool {
        self.line == *line
    }

    /// Whether the port leads here already.
    pub(super) fn stands(&self, key: Key) -> bool {
        self.wanted.get(&key).is_some_and(|wanted| wanted.stands)
    }

    /// Asks for a port, and keeps who waits for it; gives it back if there is no room.
    pub(super) fn ask(&mut self, key: Key, waiting: Waiting) -> Option<Waiting> {
        if !self.wanted.contains_key(&key) && !self.order(key, false) {
            return Some(waiting);
        }
        match self.wanted.get_mut(&key) {
            Some(wanted) => {
                wanted.waiting.push(waiting);
                None
            }
            None => Some(waiting),
        }
    }

    fn order(&mut self, key: Key, patient: bool) -> bool {
        let (end, ended) = oneshot::channel();
        let order = Order {
            key,
            patient,
            end: ended,
        };
        let taken = self.orders.try_send(order).is_ok();
        if taken {
            let wanted = Wanted {
                stands: false,
                waiting: Vec::new(),
                _end: end,
            };
            self.wanted.insert(key, wanted);
        }
        taken
    }

    /// Forgets ports that no lease has, and asks for those that leases have.
    pub(super) fn settle<'a>(&mut self, leases: impl Iterator<Item = &'a Lease>) {
        let keys: BTreeSet<Key> = leases.filter_map(key_of).collect();
        self.wanted
            .retain(|key, wanted| keys.contains(key) || !wanted.waiting.is_empty());
        for key in keys {
            if !self.wanted.contains_key(&key) {
                self.order(key, true);
            }
        }
    }

    /// The port leads here; who has waited for it.
    pub(super) fn made(&mut self, key: Key) -> Vec<Waiting> {
        let Some(wanted) = self.wanted.get_mut(&key) else {
            return Vec::new();
        };
        wanted.stands = true;
        std::mem::take(&mut wanted.waiting)
    }

    /// The port does not lead here; who has waited for it.
    pub(super) fn failed(&mut self, key: Key) -> Vec<Waiting> {
        let wanted = self.wanted.remove(&key);
        wanted.map(|wanted| wanted.waiting).unwrap_or_default()
    }

    /// Who waits, when it is given up.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = Waiting> {
        self.wanted.into_values().flat_map(|wanted| wanted.waiting)
    }
}

/// The port outside of a lease that the next router has to open as well.
pub(super) fn key_of(lease: &Lease) -> Option<Key> {
    match lease.kind {
        Kind::Mapping { external_port } if lease.enabled => Some((lease.transport, external_port)),
        Kind::Mapping { .. } | Kind::Peer { .. } | Kind::Pinhole | Kind::PeerPinhole { .. } => None,
    }
}

/// What a refusal of the next router means here.
pub(super) const fn error_of(why: Failure) -> ChangeError {
    match why {
        Failure::PortTaken | Failure::PortUnsupported => ChangeError::Taken,
        Failure::NoGateway
        | Failure::Silent
        | Failure::Garbled
        | Failure::Refused(_)
        | Failure::NatBetween
        | Failure::OtherHost
        | Failure::Unsupported
        | Failure::TooMany => ChangeError::Failed,
    }
}

/// Tells the gateway's task.
#[derive(Debug, Clone)]
struct Teller {
    inputs: mpsc::Sender<Input>,
    number: u64,
}

impl Teller {
    /// Fails only when the gateway has ended, and then nobody wants to know.
    async fn tell(&self, news: News) {
        let _ = self.inputs.send(Input::Upstream(self.number, news)).await;
    }
}

/// Keeps the client of the next router. Mappings end when this is dropped.
async fn keep(interface: String, mut orders: mpsc::Receiver<Order>, teller: Teller) {
    let client = loop {
        let config = Config {
            interface: Some(interface.clone()),
            ..Config::default()
        };
        match Client::start(config).await {
            Ok(client) => break client,
            Err(error) => tracing::warn!(%error, "the next router cannot be asked"),
        }
        sleep(RETRY).await;
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(look(client.clone(), teller.clone()));
    while let Some(order) = orders.recv().await {
        tasks.spawn(hold(client.clone(), order, teller.clone()));
        while tasks.try_join_next().is_some() {}
    }
}

/// Asks for the address outside, again and again.
async fn look(client: Client, teller: Teller) {
    loop {
        let found = client.external().await.ok().flatten();
        if let Some(found) = found {
            teller.tell(News::Address(v4(found.external_address))).await;
        }
        sleep(RETRY).await;
    }
}

/// Makes one mapping, and keeps it until its end is wanted.
async fn hold(client: Client, mut order: Order, teller: Teller) {
    let (transport, port) = order.key;
    let wish = Wish {
        external_port: port,
        description: "postern gateway".to_owned(),
        ..Wish::new(transport, port)
    };
    let mut mapping = loop {
        let made = tokio::select! {
            _ = &mut order.end => return,
            made = client.map(wish.clone()) => made,
        };
        match made {
            Ok(mapping) => break mapping,
            Err(why) if order.patient => {
                tracing::warn!(%why, port, "the next router does not open a port of the last run");
            }
            Err(why) => return teller.tell(News::Refused(order.key, why)).await,
        }
        tokio::select! {
            _ = &mut order.end => return,
            () = sleep(RETRY) => {}
        }
    };
    loop {
        let current = mapping.current().clone();
        if current.external_port != port {
            // Only then is it free for whoever asks for it in its place.
            if let Err(error) = mapping.remove().await {
                tracing::debug!(%error, port, "the next router may keep a port");
            }
            return teller
                .tell(News::Instead(order.key, current.external_port))
                .await;
        }
        teller
            .tell(News::Address(v4(current.external_address)))
            .await;
        teller.tell(News::Made(order.key)).await;
        loop {
            let change = tokio::select! {
                _ = &mut order.end => return,
                change = mapping.changed() => change,
            };
            match change {
                Change::Made(_) | Change::Moved(_) | Change::Healed(_) => break,
                Change::Renewed(_) => {}
                Change::Lost(why) => {
                    tracing::warn!(%why, port, "the next router has lost a port; it is asked again");
                }
            }
        }
    }
}

fn v4(address: Option<IpAddr>) -> Option<Ipv4Addr> {
    match address? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
