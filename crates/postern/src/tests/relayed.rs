//! Where no direct path exists, and until there is one: the relay.

use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use postern_proto::connect::PathPolicy;
use tokio::time::{sleep, timeout};

use super::internet::Internet;
use super::meeting::{ONE_WAY, TO_CORE, endpoint, endpoint_with, meet_with};
use super::paths::carries_data;
use super::relay::Relay;
use crate::connection::PathKind;
use crate::endpoint::EndpointConfig;
use crate::session::EstablishError;

/// Between two of these no direct path can be made.
fn strict() -> Nat {
    let (mapping, filtering) = (
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    Nat::new(mapping, filtering)
}

fn only(policy: PathPolicy) -> EndpointConfig {
    EndpointConfig {
        policy,
        ..EndpointConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn two_strict_nats_are_connected_through_the_relay() {
    let internet = Internet::start(1);
    let left = endpoint([internet.home(1, strict(), TO_CORE)]);
    let right = endpoint([internet.home(2, strict(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    assert_eq!(creator.path().kind, PathKind::Relayed);
    assert_eq!(joiner.path().kind, PathKind::Relayed);
    carries_data(&creator, &joiner).await;
    carries_data(&joiner, &creator).await;
    assert!(internet.relayed() > 2500, "the data passed the relay");
}

#[tokio::test(start_paused = true)]
async fn a_relayed_connection_outlives_permissions_and_channels() {
    let internet = Internet::start(1);
    let left = endpoint([internet.home(1, strict(), TO_CORE)]);
    let right = endpoint([internet.home(2, strict(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(30 * 60)).await;
    carries_data(&creator, &joiner).await;
}

#[tokio::test(start_paused = true)]
async fn a_direct_path_replaces_the_relay_where_there_is_one() {
    let internet = Internet::start(1);
    let left = endpoint([internet.home(1, Nat::default(), TO_CORE)]);
    let right = endpoint([internet.home(2, Nat::default(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(creator.path().kind, PathKind::Direct);
    assert_eq!(joiner.path().kind, PathKind::Direct);
    let before = internet.relayed();
    carries_data(&creator, &joiner).await;
    assert!(
        internet.relayed() < before + 100,
        "the data passed the relay"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_the_relay_only_gets_no_direct_path() {
    let internet = Internet::start(1);
    let config = only(PathPolicy::RelayOnly);
    let left = endpoint_with([internet.home(1, Nat::default(), TO_CORE)], config);
    let right = endpoint([internet.home(2, Nat::default(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(20)).await;
    assert_eq!(creator.path().kind, PathKind::Relayed);
    carries_data(&creator, &joiner).await;
    assert_eq!(creator.path().kind, PathKind::Relayed);
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_direct_paths_only_gets_no_relay() {
    let internet = Internet::start(1);
    let config = only(PathPolicy::DirectOnly);
    let left = endpoint_with([internet.home(1, strict(), TO_CORE)], config);
    let right = endpoint([internet.home(2, strict(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, _joiner) = meet_with(&left, &right, &relays).await;
    assert!(
        matches!(creator, Err(EstablishError::NoPath(_))),
        "{creator:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_relay_takes_over_when_the_direct_path_dies() {
    let internet = Internet::start(1);
    let left = endpoint([internet.home(1, Nat::default(), TO_CORE)]);
    let right = endpoint([internet.home(2, Nat::default(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(creator.path().kind, PathKind::Direct);
    internet.cut_between(1, 2);
    let data = carries_data(&creator, &joiner);
    assert!(timeout(Duration::from_secs(60), data).await.is_ok());
    assert_eq!(creator.path().kind, PathKind::Relayed);
}

#[tokio::test(start_paused = true)]
async fn a_relayed_path_carries_data_within_five_round_trips_of_authentication() {
    let internet = Internet::start(1);
    let left = endpoint([internet.home(1, strict(), TO_CORE)]);
    let right = endpoint([internet.home(2, strict(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    for path in [creator.unwrap().path(), joiner.unwrap().path()] {
        assert!(path.elapsed <= ONE_WAY * 10, "{path:?}");
    }
}
