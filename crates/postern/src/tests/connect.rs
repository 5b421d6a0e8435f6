//! How long it takes to connect, and how it ends.

use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use tokio::time::timeout;

use super::meeting::{BEFORE, ONE_WAY, connect};
use crate::clock;
use crate::session::EstablishError;

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
        let Err(EstablishError::NoPath(explanation)) = outcome else {
            panic!("{outcome:?}");
        };
        let sentence = explanation.reason();
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
