//! Where no direct path exists, and until there is one: the relay.

use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use postern_proto::connect::{PathPolicy, RelayTransport, RelayTransports};
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

fn over(udp: bool, tcp: bool, tls: bool) -> EndpointConfig {
    EndpointConfig {
        relay_transports: RelayTransports { udp, tcp, tls },
        policy: PathPolicy::RelayOnly,
        ..EndpointConfig::default()
    }
}

/// Two endpoints behind strict NATs whose relay is reached as their settings say, and the
/// transports that it was reached by.
async fn transports(
    blocked: [bool; 2],
    configs: [EndpointConfig; 2],
) -> [(Option<RelayTransport>, Duration); 2] {
    let internet = Internet::start(1);
    let homes = [1, 2].map(|number| internet.home(number, strict(), TO_CORE));
    for (home, blocked) in homes.iter().zip(blocked) {
        if blocked {
            internet.block_udp(home);
        }
    }
    let mut endpoints = homes
        .into_iter()
        .zip(configs)
        .map(|(home, config)| endpoint_with([home], config));
    let (left, right) = (endpoints.next().unwrap(), endpoints.next().unwrap());
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    carries_data(&creator, &joiner).await;
    carries_data(&joiner, &creator).await;
    [creator, joiner].map(|connection| {
        assert_eq!(connection.path().kind, PathKind::Relayed);
        (connection.path().relay, connection.path().elapsed)
    })
}

#[tokio::test(start_paused = true)]
async fn a_side_that_gets_no_udp_out_reaches_the_relay_over_tcp() {
    let [(left, took), (right, _)] = transports(
        [true, false],
        [EndpointConfig::default(), only(PathPolicy::RelayOnly)],
    )
    .await;
    assert_eq!(left, Some(RelayTransport::Tcp));
    assert_eq!(right, Some(RelayTransport::Udp));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn two_sides_that_get_no_udp_out_meet_at_the_relay_over_tcp() {
    let configs = [EndpointConfig::default(), EndpointConfig::default()];
    for (transport, took) in transports([true, true], configs).await {
        assert_eq!(transport, Some(RelayTransport::Tcp));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_transport_to_the_relay_can_be_chosen() {
    let found = transports(
        [false, false],
        [over(false, false, true), over(true, false, false)],
    );
    let [(left, _), (right, _)] = found.await;
    assert_eq!(left, Some(RelayTransport::Tls));
    assert_eq!(right, Some(RelayTransport::Udp));
}

#[tokio::test(start_paused = true)]
async fn without_udp_there_is_still_the_relay() {
    let without = EndpointConfig {
        udp: false,
        ..EndpointConfig::default()
    };
    let [(left, _), (right, _)] = transports([true, true], [without.clone(), without]).await;
    assert_eq!([left, right], [Some(RelayTransport::Tcp); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_relay_behind_a_stream_takes_over_when_the_direct_path_dies() {
    let internet = Internet::start(1);
    let tls = EndpointConfig {
        policy: PathPolicy::Any,
        ..over(false, false, true)
    };
    let left = endpoint_with([internet.home(1, Nat::default(), TO_CORE)], tls.clone());
    let right = endpoint_with([internet.home(2, Nat::default(), TO_CORE)], tls);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(creator.path().kind, PathKind::Direct);
    internet.cut_between(1, 2);
    let data = carries_data(&creator, &joiner);
    assert!(timeout(Duration::from_secs(60), data).await.is_ok());
    // One relay or both.
    let relays = [creator.path().relay, joiner.path().relay];
    assert!(relays.contains(&Some(RelayTransport::Tls)), "{relays:?}");
}

#[tokio::test(start_paused = true)]
async fn two_connections_of_an_endpoint_each_have_an_allocation() {
    let internet = Internet::start(1);
    let home = |number| {
        let socket = internet.home(number, strict(), TO_CORE);
        endpoint_with([socket], only(PathPolicy::RelayOnly))
    };
    let (left, right, third) = (home(1), home(2), home(3));
    let relays = [Relay::offer(Internet::STUN)];
    let first = meet_with(&left, &right, &relays).await;
    let second = meet_with(&left, &third, &relays).await;
    for (creator, joiner) in [first, second] {
        let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
        carries_data(&creator, &joiner).await;
        carries_data(&joiner, &creator).await;
        for connection in [creator, joiner] {
            assert_eq!(connection.path().kind, PathKind::Relayed);
        }
    }
}

/// The end of a server over UDP shows in nothing but silence.
#[tokio::test(start_paused = true)]
async fn a_relay_that_starts_anew_is_asked_again_as_soon_as_nothing_comes_back() {
    let internet = Internet::start(1);
    let open = Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    let udp = over(true, false, false);
    let left = endpoint_with([internet.home(1, strict(), TO_CORE)], udp);
    let right = endpoint([internet.home(2, open, TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(10)).await;
    let before = creator.path();
    internet.restart_relay();
    let data = carries_data(&creator, &joiner);
    assert!(timeout(Duration::from_secs(4), data).await.is_ok());
    let after = creator.path();
    assert_eq!(
        (before.kind, after.kind),
        (PathKind::Relayed, PathKind::Relayed)
    );
    assert_ne!(before.local, after.local, "the allocation is another one");
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
