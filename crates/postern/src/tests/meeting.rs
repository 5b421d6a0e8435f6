//! Two endpoints on the simulated internet, and how they meet.

use std::time::Duration;

use noq::AsyncUdpSocket;
use postern_lab::sim::Nat;
use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::PeerMessage;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::internet::{Internet, SimSocket};
use crate::endpoint::Endpoint;
use crate::net::{AddressFilter, Sockets};
use crate::rendezvous::Signalling;
use crate::session::Outcome;

/// Each peer is so far from the core, so that one way between the two takes 30 ms.
pub(super) const TO_CORE: Duration = Duration::from_millis(15);

/// One way between the two peers, through the server as well as directly.
pub(super) const ONE_WAY: Duration = Duration::from_millis(30);

/// How long both sides wait for each other before they meet: gathering is over by then.
pub(super) const BEFORE: Duration = Duration::from_secs(2);

pub(super) fn endpoint(sockets: impl IntoIterator<Item = SimSocket>) -> Endpoint {
    let boxed = |socket| -> Box<dyn AsyncUdpSocket> { Box::new(socket) };
    let sockets = sockets.into_iter().map(boxed).collect();
    let sockets = Sockets::from_abstract(sockets).unwrap();
    Endpoint::with_sockets(sockets, AddressFilter::Network).unwrap()
}

/// Signalling as two authenticated sides have it: messages take `ONE_WAY`, and the
/// creator is authenticated that much earlier than the joiner.
fn signalling() -> (Signalling, Signalling) {
    let (creator_out, to_joiner) = mpsc::channel(128);
    let (joiner_out, to_creator) = mpsc::channel(128);
    let creator = carry(to_creator, BEFORE);
    let joiner = carry(to_joiner, BEFORE + ONE_WAY);
    let side = |outgoing, events| Signalling { outgoing, events };
    (side(creator_out, creator), side(joiner_out, joiner))
}

/// Greets, waits until `authenticated`, and passes on what the other side says. What was
/// said before arrives with the authentication, as sealed messages do.
fn carry(
    mut messages: mpsc::Receiver<PeerMessage>,
    authenticated: Duration,
) -> mpsc::Receiver<RendezvousEvent> {
    let (events, receiver) = mpsc::channel(128);
    let met = tokio::time::Instant::now() + authenticated;
    tokio::spawn(async move {
        let stun = vec![format!("stun:{}", Internet::STUN)];
        let _ = events.send(RendezvousEvent::Welcome { stun }).await;
        sleep_until(met).await;
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
    let (creator, joiner) = signalling();
    let creator = left.begin(true, creator, None).unwrap();
    let joiner = right.begin(false, joiner, None).unwrap();
    let both = async { tokio::join!(creator, joiner) };
    let (creator, joiner) = timeout(Duration::from_secs(60), both)
        .await
        .expect("no hang");
    (creator.unwrap(), joiner.unwrap())
}
