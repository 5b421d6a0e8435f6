//! How long it takes to connect, and over what.

use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::PeerMessage;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::internet::{Internet, SimSocket};
use crate::clock;
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::net::{AddressFilter, Sockets};
use crate::rendezvous::Signalling;
use crate::session::EstablishError;

/// Each peer is so far from the core, so that one way between the two takes 30 ms.
const TO_CORE: Duration = Duration::from_millis(15);

/// One way between the two peers, through the server as well as directly.
const ONE_WAY: Duration = Duration::from_millis(30);

/// How long both sides wait for each other before they meet: gathering is over by then.
const BEFORE: Duration = Duration::from_secs(2);

type Outcome = Result<Connection, EstablishError>;

fn endpoint(socket: SimSocket) -> Endpoint {
    let sockets = Sockets::from_abstract(vec![Box::new(socket)]).unwrap();
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
async fn connect(seed: u8, left: Nat, right: Nat) -> (Outcome, Outcome) {
    let internet = Internet::start(seed);
    let left = endpoint(internet.home(1, left, TO_CORE));
    let right = endpoint(internet.home(2, right, TO_CORE));
    let (creator, joiner) = signalling();
    let creator = left.begin(true, creator, None).unwrap();
    let joiner = right.begin(false, joiner, None).unwrap();
    let both = async { tokio::join!(creator, joiner) };
    let (creator, joiner) = timeout(Duration::from_secs(60), both)
        .await
        .expect("no hang");
    (creator.unwrap(), joiner.unwrap())
}

#[tokio::test(start_paused = true)]
async fn quic_carries_data_within_four_round_trips_of_authentication() {
    let mut slowest = Duration::ZERO;
    for seed in 0..20 {
        let (creator, joiner) = connect(seed, Nat::default(), Nat::default()).await;
        let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
        slowest = slowest
            .max(creator.path().elapsed)
            .max(joiner.path().elapsed);
    }
    println!(
        "slowest of 20: {slowest:?}, {:.2} round trips",
        slowest.as_secs_f64() / 0.06
    );
    assert!(slowest <= ONE_WAY * 8, "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn bytes_cross_in_both_directions() {
    let (creator, joiner) = connect(1, Nat::default(), Nat::default()).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    let (mut send, mut receive) = creator.open_bi().await.unwrap();
    send.write_all(b"ping").await.unwrap();
    let (mut back, mut there) = joiner.accept_bi().await.unwrap();
    let mut four = [0; 4];
    there.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    back.write_all(b"pong").await.unwrap();
    receive.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
}

#[tokio::test(start_paused = true)]
async fn two_strict_nats_end_in_a_sentence_within_15_s() {
    let strict = Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    let began = clock::now();
    let (creator, joiner) = connect(1, strict, strict).await;
    assert!(clock::now() - began <= BEFORE + Duration::from_secs(15));
    for outcome in [creator, joiner] {
        let Err(EstablishError::NoPath(sentence)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(
            sentence.contains("the other side's let UDP out"),
            "{sentence}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_tells_the_other_side() {
    let (creator, joiner) = connect(1, Nat::default(), Nat::default()).await;
    let joiner = joiner.unwrap();
    drop(creator);
    let began = clock::now();
    let closed = timeout(Duration::from_secs(60), joiner.closed()).await;
    assert!(closed.is_ok());
    assert!(clock::now() - began < Duration::from_secs(1));
}
