//! How soon data passes a relay after two have met, in round trips of virtual time.

use std::net::IpAddr;
use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::{PeerMessage, RelayServer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::internet::Internet;
use super::meeting::{BEFORE, endpoint, introduced};
use super::relay::Relay;
use crate::connection::{Connection, PathKind};
use crate::rendezvous::Signalling;

/// When each side hears what, as the server and the two machines of signalling have it: the
/// second one has joined when both are offered relays; a way later the creator has its proof
/// and its hello, and another way later the joiner has the creator's.
fn signalling(one_way: Duration, relays: [RelayServer; 2]) -> [Signalling; 2] {
    let joined = Instant::now() + BEFORE;
    let (creator_out, to_joiner) = mpsc::channel(128);
    let (joiner_out, to_creator) = mpsc::channel(128);
    let [for_creator, for_joiner] = relays;
    let creator = carry(to_creator, joined, joined, one_way, for_creator);
    let joiner = carry(to_joiner, joined, joined + one_way, one_way, for_joiner);
    [
        introduced(creator_out, creator),
        introduced(joiner_out, joiner),
    ]
}

/// What one side hears: relays when the second one has joined, and what the other says, each
/// a way after it was said, or after the other could seal it.
fn carry(
    mut said: mpsc::Receiver<PeerMessage>,
    joined: Instant,
    sealed: Instant,
    one_way: Duration,
    relay: RelayServer,
) -> mpsc::Receiver<RendezvousEvent> {
    let (events, receiver) = mpsc::channel(128);
    let (under_way, mut arriving) = mpsc::channel(128);
    tokio::spawn(async move {
        while let Some(message) = said.recv().await {
            let arrives = Instant::now().max(sealed) + one_way;
            let _ = under_way.send((arrives, message)).await;
        }
        std::future::pending::<()>().await;
    });
    tokio::spawn(async move {
        let stun = vec![format!("stun:{}", Internet::STUN)];
        let _ = events.send(RendezvousEvent::Welcome { stun }).await;
        sleep_until(joined).await;
        let _ = events.send(RendezvousEvent::Relays(vec![relay])).await;
        let _ = events.send(RendezvousEvent::PeerJoined).await;
        sleep_until(sealed + one_way).await;
        let _ = events.send(RendezvousEvent::Authenticated).await;
        while let Some((arrives, message)) = arriving.recv().await {
            sleep_until(arrives).await;
            let _ = events.send(RendezvousEvent::Message(message)).await;
        }
    });
    receiver
}

/// Two endpoints that have met.
struct Met {
    internet: Internet,
    connections: [Connection; 2],
    /// From the moment when the later side has the other's hello to the first byte of the
    /// creator's at the joiner.
    first_byte: Duration,
}

/// Lets two endpoints meet, each `one_way` / 2 from the core.
async fn meet(one_way: Duration, nats: [Nat; 2], introduce: bool) -> Met {
    let internet = Internet::start(1);
    let [left, right] = [0, 1].map(|side: u8| {
        let nat = nats[usize::from(side)];
        endpoint([internet.home(side + 1, nat, one_way / 2)])
    });
    let relays = [1, 2].map(|home| {
        let client = IpAddr::from([45, 45, home, 1]);
        match introduce {
            true => Relay::introduce(Internet::STUN, client),
            false => Relay::offer(Internet::STUN),
        }
    });
    let answered = Instant::now() + BEFORE + one_way * 2;
    let [creator, joiner] = signalling(one_way, relays);
    let creator = left.begin(true, creator, None).unwrap();
    let joiner = right.begin(false, joiner, None).unwrap();
    let sends = async {
        let connection = creator.await.unwrap().unwrap();
        let (mut out, _) = connection.open_bi().await.unwrap();
        out.write_all(b"1").await.unwrap();
        connection
    };
    let receives = async {
        let connection = joiner.await.unwrap().unwrap();
        let (_, mut stream) = connection.accept_bi().await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        (connection, Instant::now() - answered)
    };
    let both = async { tokio::join!(sends, receives) };
    let (creator, (joiner, first_byte)) = timeout(Duration::from_secs(60), both).await.unwrap();
    Met {
        internet,
        connections: [creator, joiner],
        first_byte,
    }
}

fn strict() -> Nat {
    let (mapping, filtering) = (
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    Nat::new(mapping, filtering)
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn the_first_byte_through_a_relay_comes_within_two_round_trips_of_the_answer() {
    for one_way in [30 * MS, 60 * MS, 120 * MS] {
        let met = meet(one_way, [strict(), strict()], true).await;
        for connection in &met.connections {
            assert_eq!(connection.path().kind, PathKind::Relayed);
        }
        let round_trips = met.first_byte.as_secs_f64() / (one_way * 2).as_secs_f64();
        println!("{round_trips:.2} round trips of {:?}", one_way * 2);
        assert!(round_trips <= 2.0, "{round_trips} of {:?}", one_way * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_has_to_challenge_takes_half_a_round_trip_more_at_most() {
    let one_way = 60 * MS;
    let met = meet(one_way, [strict(), strict()], false).await;
    assert!(met.first_byte <= one_way * 5, "{:?}", met.first_byte);
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_can_meet_directly_leaves_the_relay_before_much_has_passed() {
    let met = meet(30 * MS, [Nat::default(), Nat::default()], true).await;
    sleep(Duration::from_secs(3)).await;
    for connection in &met.connections {
        assert_eq!(connection.path().kind, PathKind::Direct);
    }
    assert!(met.internet.relayed() < 100, "{}", met.internet.relayed());
}
