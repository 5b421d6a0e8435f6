//! How soon a silent path is left, with nothing lost: relay to direct, and back.

use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use postern_proto::connect::{PathPolicy, RelayTransports};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::internet::Internet;
use super::meeting::{TO_CORE, endpoint, endpoint_with, meet_with};
use super::relay::Relay;
use crate::connection::{Connection, PathKind};
use crate::endpoint::EndpointConfig;

/// Longer than any step takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What flows in a piece, one every 20 ms: half a megabyte a second.
const PIECE: usize = 10_000;

/// So many pieces flow before something happens.
const BEFORE: u32 = 50;

/// A stream of bytes that a peer sends without end, and the other one checks.
pub(super) struct Flow {
    stop: tokio::sync::oneshot::Sender<()>,
    sending: JoinHandle<usize>,
    receiving: JoinHandle<usize>,
}

impl Flow {
    pub(super) async fn begin(from: &Connection, to: &Connection) -> Self {
        let (mut send, _) = from.open_bi().await.unwrap();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while stopped.try_recv().is_err() {
                let piece: Vec<u8> = (sent..sent + PIECE).map(byte_at).collect();
                send.write_all(&piece).await.unwrap();
                sent += PIECE;
                sleep(Duration::from_millis(20)).await;
            }
            send.finish().unwrap();
            let _ = send.stopped().await;
            sent
        });
        let (_, mut receive) = to.accept_bi().await.unwrap();
        let receiving = tokio::spawn(async move {
            let mut received = 0;
            let mut buffer = vec![0; PIECE];
            while let Some(length) = receive.read(&mut buffer).await.unwrap() {
                for (place, byte) in buffer[..length].iter().enumerate() {
                    assert_eq!(*byte, byte_at(received + place));
                }
                received += length;
            }
            received
        });
        sleep(Duration::from_millis(20) * BEFORE).await;
        Self {
            stop,
            sending,
            receiving,
        }
    }

    /// Ends it; every byte has arrived.
    pub(super) async fn end(self) {
        self.stop.send(()).unwrap();
        let (sent, received) = (self.sending.await.unwrap(), self.receiving.await.unwrap());
        assert_eq!(received, sent);
    }
}

fn byte_at(place: usize) -> u8 {
    (place % 251) as u8
}

/// How long it takes until a connection uses a path of this kind.
pub(super) async fn comes_to(connection: &Connection, kind: PathKind) -> Duration {
    let began = Instant::now();
    let mut paths = connection.paths();
    let change = paths.wait_for(|path| path.kind == kind);
    timeout(LIMIT, change).await.expect("in time").unwrap();
    began.elapsed()
}

async fn met(internet: &Internet) -> (Connection, Connection) {
    let left = endpoint([internet.home(1, Nat::default(), TO_CORE)]);
    let right = endpoint([internet.home(2, Nat::default(), TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(creator.path().kind, PathKind::Direct);
    (creator, joiner)
}

/// Both sides come to a path of this kind: the longer time.
async fn both_come_to(sides: [&Connection; 2], kind: PathKind) -> Duration {
    let [one, other] = sides.map(|side| comes_to(side, kind));
    let (one, other) = tokio::join!(one, other);
    one.max(other)
}

#[tokio::test(start_paused = true)]
async fn with_data_in_flight_a_silent_path_is_left_within_two_seconds() {
    for from_creator in [true, false] {
        let internet = Internet::start(1);
        let (creator, joiner) = met(&internet).await;
        let flow = match from_creator {
            true => Flow::begin(&creator, &joiner).await,
            false => Flow::begin(&joiner, &creator).await,
        };
        internet.cut_between(1, 2);
        let took = both_come_to([&creator, &joiner], PathKind::Relayed).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        flow.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_words_into_a_silent_path_arrive_within_three_seconds() {
    let internet = Internet::start(1);
    let (creator, joiner) = met(&internet).await;
    internet.cut_between(1, 2);
    let began = Instant::now();
    let (mut send, _) = creator.open_bi().await.unwrap();
    send.write_all(b"a few words").await.unwrap();
    send.finish().unwrap();
    let (_, mut receive) = joiner.accept_bi().await.unwrap();
    assert_eq!(receive.read_to_end(100).await.unwrap(), b"a few words");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_silent_path_is_left_within_ten_seconds() {
    let internet = Internet::start(1);
    let (creator, joiner) = met(&internet).await;
    internet.cut_between(1, 2);
    let took = both_come_to([&creator, &joiner], PathKind::Relayed).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn when_the_direct_path_is_back_it_carries_the_data_again() {
    let internet = Internet::start(1);
    let (creator, joiner) = met(&internet).await;
    let flow = Flow::begin(&creator, &joiner).await;
    for _ in 0..2 {
        internet.cut_between(1, 2);
        let took = both_come_to([&creator, &joiner], PathKind::Relayed).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        sleep(Duration::from_secs(5)).await;
        internet.mend();
        let took = both_come_to([&creator, &joiner], PathKind::Direct).await;
        assert!(took < Duration::from_secs(35), "{took:?}");
    }
    flow.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_connection_breaks_is_reached_again_without_losing_a_byte() {
    let internet = Internet::start(1);
    let strict = Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    let config = EndpointConfig {
        relay_transports: RelayTransports {
            udp: false,
            ..RelayTransports::default()
        },
        policy: PathPolicy::RelayOnly,
        ..EndpointConfig::default()
    };
    let left = endpoint_with([internet.home(1, strict, TO_CORE)], config);
    let right = endpoint([internet.home(2, strict, TO_CORE)]);
    let relays = [Relay::offer(Internet::STUN)];
    let (creator, joiner) = meet_with(&left, &right, &relays).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    sleep(Duration::from_secs(10)).await;
    let old = creator.path().local;
    let flow = Flow::begin(&joiner, &creator).await;
    internet.hang_up();
    let began = Instant::now();
    let mut paths = creator.paths();
    let change = paths.wait_for(|path| path.local != old);
    timeout(LIMIT, change).await.expect("in time").unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    flow.end().await;
}
