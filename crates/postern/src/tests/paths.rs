//! Several paths: which one is used, and what happens when one dies.

use std::time::Duration;

use postern_lab::sim::Nat;
use tokio::time::{sleep, timeout};

use super::internet::{Internet, SimSocket};
use super::meeting::{BEFORE, TO_CORE, endpoint, meet};
use crate::connection::Connection;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(1000);

/// A creator with two interfaces, the first one preferred, and a joiner with one. Each
/// is behind a router of its own.
async fn two_ways(
    latencies: [u64; 2],
    first: impl FnOnce(SimSocket) -> SimSocket,
    second: impl FnOnce(SimSocket) -> SimSocket,
) -> (Connection, Connection) {
    let internet = Internet::start(1);
    let home = |number, latency| internet.home(number, Nat::default(), latency);
    let first = first(home(1, Duration::from_millis(latencies[0])));
    let second = second(home(3, Duration::from_millis(latencies[1])));
    let left = endpoint([first, second]);
    let right = endpoint([home(2, TO_CORE)]);
    let (creator, joiner) = meet(&left, &right).await;
    (creator.unwrap(), joiner.unwrap())
}

fn as_it_is(socket: SimSocket) -> SimSocket {
    socket
}

/// The third number of the local address in use: the home's.
fn home_of(connection: &Connection) -> u8 {
    match connection.path().local.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[2],
        std::net::IpAddr::V6(_) => unreachable!("there is no IPv6 in this world"),
    }
}

/// Sends two megabytes from one side to the other and compares them.
async fn carries_data(from: &Connection, to: &Connection) {
    let data: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut send, _back) = from.open_bi().await.unwrap();
    let expected = data.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&data).await.unwrap();
        send.finish().unwrap();
        let _ = send.stopped().await;
    });
    let (_there, mut receive) = to.accept_bi().await.unwrap();
    let received = timeout(Duration::from_secs(60), receive.read_to_end(usize::MAX)).await;
    assert!(received.unwrap().unwrap() == expected);
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_path_that_answers_late_does_not_replace_the_selected_one() {
    let (creator, joiner) = two_ways([15, 60], as_it_is, as_it_is).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(home_of(&creator), 1);
    carries_data(&creator, &joiner).await;
    assert_eq!(home_of(&creator), 1);
}

#[tokio::test(start_paused = true)]
async fn a_preferred_path_that_is_found_later_takes_over_without_losing_a_byte() {
    // The second path is faster and shakes hands before the first one has answered.
    let (creator, joiner) = two_ways([60, 15], as_it_is, as_it_is).await;
    assert_eq!(home_of(&creator), 3);
    carries_data(&creator, &joiner).await;
    sleep(Duration::from_secs(2)).await;
    carries_data(&joiner, &creator).await;
    assert_eq!(home_of(&creator), 1);
    assert_eq!(joiner.path().remote.ip().to_string(), "45.45.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_dies_is_replaced_by_one_that_lives() {
    let death = BEFORE + Duration::from_secs(8);
    let dying = |socket: SimSocket| socket.silent(death, FOR_EVER);
    let (creator, joiner) = two_ways([15, 60], dying, as_it_is).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(home_of(&creator), 1);
    sleep(Duration::from_secs(14)).await;
    assert_eq!(home_of(&creator), 3);
    carries_data(&creator, &joiner).await;
    carries_data(&joiner, &creator).await;
}

#[tokio::test(start_paused = true)]
async fn the_death_of_a_path_that_is_not_used_changes_nothing() {
    let death = BEFORE + Duration::from_secs(8);
    let dying = |socket: SimSocket| socket.silent(death, FOR_EVER);
    let (creator, joiner) = two_ways([15, 60], as_it_is, dying).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(home_of(&creator), 1);
    carries_data(&creator, &joiner).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_first_path_dies_during_the_handshake_the_other_one_connects() {
    for dies in [60, 90, 120, 150, 180, 210] {
        let death = BEFORE + Duration::from_millis(dies);
        let dying = |socket: SimSocket| socket.silent(death, FOR_EVER);
        let (creator, joiner) = two_ways([15, 60], dying, as_it_is).await;
        sleep(Duration::from_secs(12)).await;
        assert_eq!(home_of(&creator), 3, "died {dies} ms after the meeting");
        carries_data(&creator, &joiner).await;
    }
}
