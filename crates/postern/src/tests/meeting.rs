//! Two endpoints on the simulated internet, and how they meet.

use std::sync::Arc;
use std::time::Duration;

use noq::AsyncUdpSocket;
use postern_lab::sim::Nat;
use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::{PeerMessage, RelayServer};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::internet::{Internet, SimDialer, SimSocket};
use crate::dialer::Introducer;
use crate::endpoint::{Endpoint, EndpointConfig};
use crate::net::Sockets;
use crate::rendezvous::Signalling;
use crate::session::Outcome;

/// Each peer is so far from the core, so that one way between the two takes 30 ms.
pub(super) const TO_CORE: Duration = Duration::from_millis(15);

/// One way between the two peers, through the server as well as directly.
pub(super) const ONE_WAY: Duration = Duration::from_millis(30);

/// How long both sides wait for each other before they meet: gathering is over by then.
pub(super) const BEFORE: Duration = Duration::from_secs(2);

pub(super) fn endpoint(sockets: impl IntoIterator<Item = SimSocket>) -> Endpoint {
    endpoint_with(sockets, EndpointConfig::default())
}

pub(super) fn endpoint_with(
    sockets: impl IntoIterator<Item = SimSocket>,
    config: EndpointConfig,
) -> Endpoint {
    let sockets: Vec<_> = sockets.into_iter().collect();
    let dialer = Arc::new(SimDialer(sockets[0].clone()));
    let boxed = |socket| -> Box<dyn AsyncUdpSocket> { Box::new(socket) };
    let sockets = match config.udp {
        true => Sockets::from_abstract(sockets.into_iter().map(boxed).collect()).unwrap(),
        false => Sockets::none(),
    };
    Endpoint::with_sockets(sockets, dialer, config).unwrap()
}

/// Signalling as two authenticated sides have it: messages take `ONE_WAY`, and the
/// creator is authenticated that much earlier than the joiner.
fn signalling(relays: &[RelayServer]) -> (Signalling, Signalling) {
    let (creator_out, to_joiner) = mpsc::channel(128);
    let (joiner_out, to_creator) = mpsc::channel(128);
    let creator = carry(to_creator, BEFORE, relays.to_vec());
    let joiner = carry(to_joiner, BEFORE + ONE_WAY, relays.to_vec());
    let creator = introduced(creator_out, creator);
    (creator, introduced(joiner_out, joiner))
}

/// One side's signalling.
pub(super) fn introduced(
    outgoing: mpsc::Sender<PeerMessage>,
    events: mpsc::Receiver<RendezvousEvent>,
) -> Signalling {
    Signalling {
        outgoing,
        events,
        introducer: Introducer {
            url: "wss://45.45.0.1:8443/".parse().unwrap(),
            proxy: None,
        },
    }
}

/// Greets, waits until `authenticated`, and passes on what the other side says. What was
/// said before arrives with the authentication, as sealed messages do.
fn carry(
    mut messages: mpsc::Receiver<PeerMessage>,
    authenticated: Duration,
    relays: Vec<RelayServer>,
) -> mpsc::Receiver<RendezvousEvent> {
    let (events, receiver) = mpsc::channel(128);
    let met = tokio::time::Instant::now() + authenticated;
    tokio::spawn(async move {
        let stun = vec![format!("stun:{}", Internet::STUN)];
        let _ = events.send(RendezvousEvent::Welcome { stun }).await;
        sleep_until(met).await;
        if !relays.is_empty() {
            let _ = events.send(RendezvousEvent::Relays(relays)).await;
        }
        let _ = events.send(RendezvousEvent::Authenticated).await;
        while let Some(message) = messages.recv().await {
            let due = tokio::time::Instant::now().max(met);
            if due > met {
                sleep_until(due + ONE_WAY).await;
            }
            if events
                .send(RendezvousEvent::Message(message))
                .await
                .is_err()
            {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    receiver
}

/// Two endpoints behind NATs, connected by their sessions.
pub(super) async fn connect(seed: u8, left: Nat, right: Nat) -> (Outcome, Outcome) {
    let internet = Internet::start(seed);
    let left = endpoint([internet.home(1, left, TO_CORE)]);
    let right = endpoint([internet.home(2, right, TO_CORE)]);
    meet(&left, &right).await
}

/// Lets two endpoints meet; the left one is the creator.
pub(super) async fn meet(left: &Endpoint, right: &Endpoint) -> (Outcome, Outcome) {
    meet_with(left, right, &[]).await
}

/// Lets two endpoints meet whom the server offers relays.
pub(super) async fn meet_with(
    left: &Endpoint,
    right: &Endpoint,
    relays: &[RelayServer],
) -> (Outcome, Outcome) {
    let (creator, joiner) = signalling(relays);
    let creator = left.begin(true, creator, None).unwrap();
    let joiner = right.begin(false, joiner, None).unwrap();
    let both = async { tokio::join!(creator, joiner) };
    let (creator, joiner) = timeout(Duration::from_secs(60), both)
        .await
        .expect("no hang");
    (creator.unwrap(), joiner.unwrap())
}
