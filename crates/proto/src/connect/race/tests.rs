//! A race against a real server machine, with a clock that the test moves.

#![expect(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    reason = "a test's clock begins somewhere, and a test may panic"
)]

use rand_core::SeedableRng;

use super::*;
use crate::stun::Credentials as Users;
use crate::turn::server::{self, ClientAddr, Config, FiveTuple, RelayAddress, Server, Transport};

const MS: Duration = Duration::from_millis(1);

/// A race, the server, and which transports lead to it.
struct Scene {
    start: Instant,
    now: Instant,
    rng: ChaCha20Rng,
    book: Book,
    race: Race,
    server: Server,
    /// Those on which the server answers.
    works: Vec<RelayTransport>,
    links: Vec<(LinkId, RelayTransport)>,
    /// What happened, with the milliseconds since the start.
    told: Vec<(u128, Event)>,
}

fn way(transport: RelayTransport) -> Way {
    Way {
        transport,
        server: server_address(),
        credentials: Credentials::new("user", "pass").unwrap(),
        challenge: None,
    }
}

fn server_address() -> SocketAddr {
    ([45, 45, 0, 1], 3478).into()
}

fn server(now: Instant) -> Server {
    let users = Users::new("example.org").unwrap();
    let config = Config {
        credentials: users.with_user("user", "pass").unwrap(),
        relay_v4: Some(RelayAddress::new([45, 45, 0, 1].into())),
        ..Config::default()
    };
    Server::new(now, [5; 32], config)
}

const ALL: [RelayTransport; 3] = [
    RelayTransport::Tls,
    RelayTransport::Udp,
    RelayTransport::Tcp,
];

impl Scene {
    fn new(works: &[RelayTransport]) -> Self {
        let now = Instant::now();
        let mut book = Book::default();
        let race = Race::new(now, ALL.map(way).to_vec(), &mut book);
        let mut scene = Self {
            start: now,
            now,
            rng: ChaCha20Rng::from_seed([7; 32]),
            book,
            race,
            server: server(now),
            works: works.to_vec(),
            links: Vec::new(),
            told: Vec::new(),
        };
        scene.settle();
        scene
    }

    /// Everything that happens without time passing.
    fn settle(&mut self) {
        loop {
            while let Some((link, payload)) = self.race.poll_output() {
                self.answer(link, &payload);
            }
            let Some(event) = self.race.poll_event(self.now, &mut self.book) else {
                return;
            };
            if let Event::Open {
                link, transport, ..
            } = event
            {
                self.links.push((link, transport));
                let local = client_at(self.links.len());
                self.race
                    .opened(self.now, &mut self.rng, (link, local), &mut self.book);
            }
            let at = (self.now - self.start).as_millis();
            self.told.push((at, event));
        }
    }

    fn answer(&mut self, link: LinkId, payload: &[u8]) {
        let place = self.links.iter().position(|(known, _)| *known == link);
        let place = place.unwrap();
        let transport = self.links[place].1;
        if !self.works.contains(&transport) {
            return;
        }
        let client = FiveTuple {
            transport: match transport {
                RelayTransport::Udp => Transport::Udp,
                RelayTransport::Tcp | RelayTransport::Tls => Transport::Tcp,
            },
            client: ClientAddr(client_at(place + 1)),
            server: server_address(),
        };
        self.server.handle_input(self.now, &client, payload);
        loop {
            while let Some(transmit) = self.server.poll_transmit() {
                self.race.input(self.now, link, &transmit.payload);
            }
            match self.server.poll_event() {
                Some(server::Event::OpenRelay { relay, .. }) => {
                    self.server.handle_relay_opened(self.now, relay, Ok(()));
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Time passes, a millisecond after the other.
    fn wait(&mut self, milliseconds: u32) {
        for _ in 0..milliseconds {
            self.now += MS;
            self.race.handle_timeout(self.now, &mut self.book);
            self.settle();
        }
    }

    /// The links that were opened: when, and over what.
    fn opened(&self) -> Vec<(u128, RelayTransport)> {
        let opened = self.told.iter().filter_map(|(at, event)| {
            let Event::Open { transport, .. } = event else {
                return None;
            };
            Some((*at, *transport))
        });
        opened.collect()
    }

    fn allocated(&self) -> Vec<(u128, RelayTransport)> {
        let allocated = self.told.iter().filter_map(|(at, event)| {
            let Event::Allocated(relay) = event else {
                return None;
            };
            Some((*at, relay.transport))
        });
        allocated.collect()
    }

    /// The relayed address that counts.
    fn relayed(&self) -> SocketAddr {
        self.race.allocation().unwrap().relayed.unwrap()
    }

    fn ended(&self) -> usize {
        let ended = |(_, event): &&(u128, Event)| matches!(event, Event::Ended { .. });
        self.told.iter().filter(ended).count()
    }
}

fn client_at(place: usize) -> SocketAddr {
    ([45, 45, 1, 1], u16::try_from(place).unwrap()).into()
}

#[test]
fn the_ways_begin_one_after_the_other_the_best_one_first() {
    let mut scene = Scene::new(&[]);
    scene.wait(2000);
    let expected = [
        (0, RelayTransport::Udp),
        (250, RelayTransport::Tcp),
        (500, RelayTransport::Tls),
    ];
    assert_eq!(scene.opened(), expected);
    assert!(scene.race.is_gathering());
}

/// Whoever lets out TLS only is not served by the second address of each other transport.
#[test]
fn all_ways_to_one_address_of_a_server_come_before_those_to_the_next() {
    let at = |address: u8, transport| Way {
        server: ([45, 45, 0, address], 3478).into(),
        ..way(transport)
    };
    let ways = [1, 2].map(|address| ALL.map(|transport| at(address, transport)));
    let order = ranked(ways.concat()).into_iter();
    let order: Vec<_> = order.map(|way| (way.server, way.transport)).collect();
    let sorted = [
        RelayTransport::Udp,
        RelayTransport::Tcp,
        RelayTransport::Tls,
    ];
    let expected = [1, 2].map(|address| sorted.map(|t| (at(address, t).server, t)));
    assert_eq!(order, expected.concat());
}

#[test]
fn a_way_that_works_at_once_is_the_only_one() {
    let mut scene = Scene::new(&ALL);
    scene.wait(2000);
    assert_eq!(scene.opened(), [(0, RelayTransport::Udp)]);
    assert_eq!(scene.allocated(), [(0, RelayTransport::Udp)]);
}

#[test]
fn a_way_that_fails_makes_the_next_one_begin_at_once() {
    let mut scene = Scene::new(&[RelayTransport::Tcp]);
    scene.wait(10);
    let udp = scene.links[0].0;
    scene.race.closed(scene.now, udp, &mut scene.book);
    scene.settle();
    assert_eq!(scene.allocated(), [(10, RelayTransport::Tcp)]);
}

#[test]
fn a_better_way_that_works_within_the_grace_replaces_a_worse_one() {
    let mut scene = Scene::new(&[RelayTransport::Tcp]);
    scene.wait(300);
    scene.works = ALL.to_vec();
    scene.wait(1000);
    let expected = [(250, RelayTransport::Tcp), (500, RelayTransport::Udp)];
    assert_eq!(scene.allocated(), expected);
    assert_eq!(scene.ended(), 1);
}

#[test]
fn a_better_way_that_works_later_is_too_late() {
    let mut scene = Scene::new(&[RelayTransport::Tcp]);
    scene.wait(1300);
    scene.works = ALL.to_vec();
    scene.wait(10_000);
    assert_eq!(scene.allocated(), [(250, RelayTransport::Tcp)]);
}

#[test]
fn an_allocation_in_use_is_not_replaced() {
    let mut scene = Scene::new(&[RelayTransport::Tcp]);
    scene.wait(300);
    let relayed = scene.relayed();
    scene.race.keep(relayed);
    scene.works = ALL.to_vec();
    scene.wait(10_000);
    assert_eq!(scene.relayed(), relayed);
    assert_eq!(scene.ended(), 0);
}

#[test]
fn a_lost_allocation_is_made_anew_and_the_ways_race_again() {
    let mut scene = Scene::new(&[RelayTransport::Tcp]);
    scene.wait(5000);
    let tcp = scene.links[1].0;
    scene.race.closed(scene.now, tcp, &mut scene.book);
    scene.settle();
    assert_eq!(scene.ended(), 1);
    scene.wait(3000);
    // UDP begins after 250 ms, and TCP after another 250.
    let expected = [(250, RelayTransport::Tcp), (5500, RelayTransport::Tcp)];
    assert_eq!(scene.allocated(), expected);
}

#[test]
fn where_udp_falls_silent_tcp_is_tried_in_less_than_a_second() {
    let mut scene = Scene::new(&ALL);
    scene.wait(5000);
    scene.works = vec![RelayTransport::Tcp, RelayTransport::Tls];
    scene.race.doubt(scene.now);
    scene.wait(700);
    let opened = [
        (0, RelayTransport::Udp),
        (5600, RelayTransport::Udp),
        (5600, RelayTransport::Tcp),
    ];
    assert_eq!(scene.opened(), opened);
    let allocated = [(0, RelayTransport::Udp), (5600, RelayTransport::Tcp)];
    assert_eq!(scene.allocated(), allocated);
    // One that answers is not left.
    scene.race.doubt(scene.now);
    scene.wait(5000);
    assert_eq!(scene.allocated(), allocated);
}

#[test]
fn a_server_that_was_away_is_found_within_three_seconds_of_its_return() {
    let mut scene = Scene::new(&[RelayTransport::Tls]);
    scene.wait(5000);
    let tls = scene.links[2].0;
    scene.works.clear();
    scene.race.closed(scene.now, tls, &mut scene.book);
    scene.settle();
    scene.wait(20_000);
    scene.server = server(scene.now);
    scene.works = vec![RelayTransport::Tls];
    scene.wait(4000);
    let (at, _) = scene.allocated()[1];
    assert!((25_000..28_500).contains(&at), "{at} ms");
}

#[test]
fn a_server_that_stays_away_is_asked_ever_less() {
    let mut scene = Scene::new(&[RelayTransport::Udp]);
    scene.wait(100);
    let udp = scene.links[0].0;
    scene.works.clear();
    scene.race.closed(scene.now, udp, &mut scene.book);
    scene.wait(60_000);
    let before = scene.opened().len();
    scene.wait(60_000);
    assert!(
        scene.opened().len() - before <= 3 * 3,
        "two or three rounds"
    );
}

#[test]
fn nothing_begins_again_after_the_end() {
    let mut scene = Scene::new(&ALL);
    scene.wait(100);
    scene.race.close(scene.now);
    scene.settle();
    let udp = scene.links[0].0;
    scene.race.closed(scene.now, udp, &mut scene.book);
    scene.wait(10_000);
    assert_eq!(scene.opened().len(), 1);
}
