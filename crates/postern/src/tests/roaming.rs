//! Networks that change under a connection. Each case says how long nothing arrived.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_lab::sim::{Filtering, Mapping, Nat};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::internet::{Internet, SimSocket};
use super::meeting::{TO_CORE, endpoint, endpoint_with, meet_with};
use super::relay::Relay;
use crate::connection::{Connection, PathKind, PathProtocol};
use crate::endpoint::EndpointConfig;

/// A piece of data is sent so often.
const BEAT: Duration = Duration::from_millis(20);

/// Bytes of a piece.
const PIECE: usize = 2000;

/// A path that falls silent while data is in flight is left within 3 s. Where two have to meet
/// again at the server, or the first path that is tried instead is dead as well, that comes
/// on top.
const GOAL: Duration = Duration::from_secs(6);

/// Data that flows all the time, and when it arrived.
struct Flow {
    sending: JoinHandle<()>,
    receiving: JoinHandle<()>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
}

fn piece(number: u32) -> Vec<u8> {
    let byte = |n: usize| (number as usize * 31 + n * 7) as u8;
    (0..PIECE).map(byte).collect()
}

impl Flow {
    /// From one side to the other, for so long.
    async fn begin(from: &Connection, to: &Connection, lasts: Duration) -> Self {
        let (mut send, _back) = from.open_bi().await.unwrap();
        let pieces = (lasts.as_millis() / BEAT.as_millis()) as u32;
        let sending = tokio::spawn(async move {
            for number in 0..pieces {
                send.write_all(&piece(number)).await.unwrap();
                sleep(BEAT).await;
            }
            send.finish().unwrap();
            let _ = send.stopped().await;
        });
        let (_there, mut receive) = to.accept_bi().await.unwrap();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let noting = Arc::clone(&arrivals);
        let receiving = tokio::spawn(async move {
            for number in 0..pieces {
                let mut arrived = vec![0; PIECE];
                receive.read_exact(&mut arrived).await.unwrap();
                assert!(arrived == piece(number), "piece {number} is another");
                noting.lock().unwrap().push(Instant::now());
            }
            assert!(receive.read_to_end(1).await.unwrap().is_empty());
        });
        Self {
            sending,
            receiving,
            arrivals,
        }
    }

    /// Waits for the end: everything has arrived, in order. The longest time without anything.
    async fn gap(self, what: &str) -> Duration {
        let both = async { tokio::join!(self.sending, self.receiving) };
        let (sent, received) = timeout(Duration::from_secs(300), both).await.expect(what);
        sent.expect(what);
        received.expect(what);
        let arrivals = self.arrivals.lock().unwrap();
        let gaps = arrivals.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = gaps.max().unwrap();
        println!("{what}: nothing arrived for {longest:?}");
        longest
    }
}

/// Two who are connected, each on a socket that can roam.
struct Pair {
    internet: Internet,
    sockets: [SimSocket; 2],
    sides: [Connection; 2],
}

impl Pair {
    async fn new(nats: [Nat; 2], relay: bool) -> Self {
        Self::with(nats, relay, EndpointConfig::default()).await
    }

    async fn with(nats: [Nat; 2], relay: bool, config: EndpointConfig) -> Self {
        let pair = Self::at_once(nats, relay, config).await;
        sleep(Duration::from_secs(8)).await;
        pair
    }

    /// Connected a moment ago.
    async fn at_once(nats: [Nat; 2], relay: bool, config: EndpointConfig) -> Self {
        let internet = Internet::start(1);
        let home = |number, nat| internet.home(number, nat, TO_CORE).anywhere();
        let sockets = [home(1, nats[0]), home(2, nats[1])];
        let [left, right] = sockets
            .clone()
            .map(|socket| endpoint_with([socket], config.clone()));
        let relays: Vec<_> = relay
            .then(|| Relay::offer(Internet::STUN))
            .into_iter()
            .collect();
        let (creator, joiner) = meet_with(&left, &right, &relays).await;
        Self {
            internet,
            sockets,
            sides: [creator.unwrap(), joiner.unwrap()],
        }
    }

    /// Data flows one way and the other, one after the other, and something happens meanwhile: the
    /// longer gap of the two.
    async fn gap_when(&self, what: &str, happens: impl Fn(&Self, u8)) -> Duration {
        let [creator, joiner] = &self.sides;
        let mut longest = Duration::ZERO;
        for (round, (from, to)) in [(creator, joiner), (joiner, creator)]
            .into_iter()
            .enumerate()
        {
            let flow = Flow::begin(from, to, Duration::from_secs(30)).await;
            sleep(Duration::from_secs(3)).await;
            happens(self, 10 * (round as u8 + 1));
            let way = ["the creator sends", "the joiner sends"][round];
            longest = longest.max(flow.gap(&format!("{what}, {way}")).await);
        }
        longest
    }

    fn kinds(&self) -> [PathKind; 2] {
        [0, 1].map(|side| self.sides[side].path().kind)
    }
}

fn strict() -> Nat {
    let hardest = Mapping::AddressAndPortDependent;
    Nat::new(hardest, Filtering::AddressAndPortDependent)
}

fn easy() -> Nat {
    Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent)
}

#[tokio::test(start_paused = true)]
async fn roaming_during_a_transfer() {
    for side in [0, 1] {
        for relay in [false, true] {
            let pair = Pair::new([Nat::default(); 2], relay).await;
            let what = format!("side {side} roams, relay {relay}");
            let gap = pair
                .gap_when(&what, |pair, number| {
                    let home = number + side as u8;
                    pair.internet
                        .roam(&pair.sockets[side], home, Nat::default());
                })
                .await;
            assert!(gap < GOAL, "{what}: {gap:?}");
            assert_eq!(pair.kinds(), [PathKind::Direct; 2], "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_be_reached_from_anywhere_needs_no_server_when_the_other_roams() {
    for side in [0, 1] {
        let mut nats = [Nat::default(); 2];
        nats[1 - side] = easy();
        let pair = Pair::new(nats, false).await;
        let what = format!("side {side} roams to one who lets strangers in");
        let gap = pair
            .gap_when(&what, |pair, number| {
                pair.internet
                    .roam(&pair.sockets[side], number, Nat::default());
            })
            .await;
        assert!(gap < Duration::from_secs(3), "{what}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn router_reboot_during_a_transfer() {
    for side in [0, 1] {
        for relay in [false, true] {
            let pair = Pair::new([Nat::default(); 2], relay).await;
            let what = format!("the router of side {side} comes back elsewhere, relay {relay}");
            let gap = pair
                .gap_when(&what, |pair, number| {
                    pair.internet
                        .reboot(&pair.sockets[side], number + side as u8);
                })
                .await;
            assert!(gap < GOAL, "{what}: {gap:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_roam_at_once() {
    for relay in [false, true] {
        let pair = Pair::new([Nat::default(); 2], relay).await;
        let what = format!("both roam, relay {relay}");
        let gap = pair
            .gap_when(&what, |pair, number| {
                for (side, socket) in pair.sockets.iter().enumerate() {
                    pair.internet
                        .roam(socket, number + side as u8, Nat::default());
                }
            })
            .await;
        assert!(gap < GOAL, "{what}: {gap:?}");
        assert_eq!(pair.kinds(), [PathKind::Direct; 2], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn roaming_where_only_a_relay_works() {
    for side in [0, 1] {
        let pair = Pair::new([strict(); 2], true).await;
        assert_eq!(pair.kinds(), [PathKind::Relayed; 2]);
        let what = format!("side {side} roams, relayed");
        let before = pair.internet.relayed();
        let gap = pair
            .gap_when(&what, |pair, number| {
                pair.internet.roam(&pair.sockets[side], number, strict());
            })
            .await;
        assert!(gap < GOAL, "{what}: {gap:?}");
        assert!(pair.internet.relayed() > before + 2000, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn relay_death_during_a_transfer() {
    let pair = Pair::new([strict(); 2], true).await;
    assert_eq!(pair.kinds(), [PathKind::Relayed; 2]);
    let what = "the relay forgets everybody";
    let gap = pair
        .gap_when(what, |pair, _| pair.internet.restart_relay())
        .await;
    assert!(gap < Duration::from_secs(8), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn one_sides_udp_blocked_half_way() {
    for side in [0, 1] {
        let pair = Pair::new([Nat::default(); 2], true).await;
        assert_eq!(pair.kinds(), [PathKind::Direct; 2]);
        let what = format!("side {side} loses UDP");
        let gap = pair
            .gap_when(&what, |pair, _| {
                pair.internet.block_udp(&pair.sockets[side])
            })
            .await;
        assert!(gap < Duration::from_secs(10), "{what}: {gap:?}");
        let path = pair.sides[side].path();
        assert_eq!(path.kind, PathKind::Relayed, "{what}");
        assert_eq!(path.protocol, PathProtocol::Tcp, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_stolen() {
    let pair = Pair::new([easy(); 2], false).await;
    let [creator, joiner] = &pair.sides;
    let flow = Flow::begin(joiner, creator, Duration::from_secs(20)).await;
    sleep(Duration::from_secs(3)).await;
    // The creator is in another home; somebody else has its address, and its router still has
    // the mapping that leads there.
    let before = pair.sockets[0].clone();
    let usurper = pair.internet.usurp_after_roaming(&before, 11, easy());
    let gap = flow.gap("the address is another's").await;
    assert!(gap < GOAL, "{gap:?}");
    let stolen = usurper.arrived();
    assert!(!stolen.is_empty(), "something went to the old address");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(usurper.arrived().len(), 0, "and then nothing did");
    assert_eq!(creator.path().local.ip().to_string(), "192.168.11.10");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_black_holes_large_packets() {
    let pair = Pair::new([Nat::default(); 2], false).await;
    let what = "what is longer than 1,280 bytes gets lost";
    let gap = pair
        .gap_when(what, |pair, _| pair.internet.black_hole(1280))
        .await;
    assert!(gap < GOAL, "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn clock_jumps() {
    // A machine that sleeps for ten seconds sends nothing, and what comes is lost.
    let internet = Internet::start(1);
    let asleep = Duration::from_secs(15)..Duration::from_secs(25);
    let left = internet.home(1, Nat::default(), TO_CORE);
    let left = endpoint([left.silent(asleep.start, asleep.end)]);
    let right = endpoint([internet.home(2, Nat::default(), TO_CORE)]);
    let (creator, joiner) = meet_with(&left, &right, &[]).await;
    let (creator, joiner) = (creator.unwrap(), joiner.unwrap());
    let flow = Flow::begin(&creator, &joiner, Duration::from_secs(40)).await;
    let gap = flow.gap("one side sleeps for 10 s").await;
    assert!(gap < Duration::from_secs(10) + GOAL, "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_a_path_keeps_nothing_at_the_server() {
    let pair = Pair::new([Nat::default(); 2], false).await;
    assert_eq!(pair.internet.with_server(|server| server.count()), 0);
    pair.gap_when("a roams", |pair, number| {
        pair.internet.roam(&pair.sockets[0], number, Nat::default());
    })
    .await;
    let (met, left) = pair
        .internet
        .with_server(|server| (server.met(), server.count()));
    assert!(met >= 1, "they met again");
    assert_eq!(left, 0, "and left");
}

#[tokio::test(start_paused = true)]
async fn a_better_interface_that_appears_takes_over_without_a_gap() {
    for side in [0, 1] {
        let pair = Pair::new([Nat::default(); 2], false).await;
        let [creator, joiner] = &pair.sides;
        let flow = Flow::begin(creator, joiner, Duration::from_secs(20)).await;
        sleep(Duration::from_secs(3)).await;
        let near = Duration::from_millis(1);
        pair.internet
            .plug_in(&pair.sockets[side], 11, Nat::default(), near);
        let what = format!("side {side} gets another interface");
        let gap = flow.gap(&what).await;
        assert!(gap < Duration::from_millis(300), "{what}: {gap:?}");
        let local = pair.sides[side].path().local.ip().to_string();
        assert_eq!(local, "192.168.11.10", "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_better_interface_that_appears_just_after_the_beginning_takes_over() {
    for side in [0, 1] {
        let pair = Pair::at_once([Nat::default(); 2], false, EndpointConfig::default()).await;
        let [creator, joiner] = &pair.sides;
        let flow = Flow::begin(creator, joiner, Duration::from_secs(10)).await;
        sleep(Duration::from_secs(1)).await;
        let near = Duration::from_millis(1);
        pair.internet
            .plug_in(&pair.sockets[side], 11, Nat::default(), near);
        let what = format!("side {side} gets another interface at once");
        let gap = flow.gap(&what).await;
        assert!(gap < Duration::from_millis(300), "{what}: {gap:?}");
        let local = pair.sides[side].path().local.ip().to_string();
        assert_eq!(local, "192.168.11.10", "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_flaps_ends_no_connection() {
    for side in [0, 1] {
        let pair = Pair::new([Nat::default(); 2], false).await;
        let [creator, joiner] = &pair.sides;
        let flow = Flow::begin(creator, joiner, Duration::from_secs(20)).await;
        sleep(Duration::from_secs(3)).await;
        for up in [false, true].repeat(10) {
            pair.internet.set_running(&pair.sockets[side], up);
            sleep(Duration::from_millis(500)).await;
        }
        let what = format!("the interface of side {side} flaps");
        let gap = flow.gap(&what).await;
        assert!(gap < Duration::from_secs(3), "{what}: {gap:?}");
        assert_eq!(
            pair.internet.with_server(|server| server.met()),
            0,
            "{what}"
        );
    }
}
