//! Several machines that are one server.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use postern_wire::stun::{Builder, Class, Method, TransactionId};
use postern_wire::turn::{EvenPort, MobilityTicket, RequestedTransport, ReservationToken};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::world::*;

const NEW_PLACE: &str = "198.20.0.1:1111";

fn two(config: Config) -> [World; 2] {
    World::shards(config, 2).try_into().unwrap()
}

fn at(address: &str) -> Client {
    client(Transport::Udp, address, "alice")
}

fn ticket(world: &mut World, from: &Client) -> Vec<u8> {
    let fill = |request: Builder| {
        request
            .attribute(&RequestedTransport::UDP)
            .attribute(&MobilityTicket(&[]))
    };
    world.ask(from, Method::ALLOCATE, fill).unwrap().ticket()
}

fn refresh_with(ticket: &[u8]) -> Vec<u8> {
    Builder::new(Class::Request, Method::REFRESH, TransactionId([9; 12]))
        .attribute(&MobilityTicket(ticket))
        .build()
}

fn follow(world: &mut World, from: &Client, ticket: &[u8]) -> Reply {
    let fill = |request: Builder| request.attribute(&MobilityTicket(ticket));
    world.ask(from, Method::REFRESH, fill).unwrap()
}

/// An allocation of the first shard whose client has moved.
fn moved() -> ([World; 2], Client) {
    let [mut home, other] = two(config());
    let ticket = ticket(&mut home, &alice());
    home.permit(&alice(), &[PEER]);
    assert_eq!(follow(&mut home, &at(NEW_PLACE), &ticket).code(), 0);
    ([home, other], at(NEW_PLACE))
}

#[test]
fn a_ticket_is_for_the_shard_that_gave_it() {
    let [mut home, mut other] = two(config());
    let from = at(NEW_PLACE).at;
    let first = ticket(&mut home, &alice());
    let second = ticket(&mut other, &bob());
    for world in [&home, &other] {
        let owner = |ticket| world.server.elsewhere(&from, &refresh_with(ticket));
        let mine = world.server.index();
        let others = [ShardIndex(0), ShardIndex(1)].map(|index| (index != mine).then_some(index));
        assert_eq!([owner(&first), owner(&second)], others);
        assert_eq!(owner(&[]), None);
    }
}

#[test]
fn all_from_where_a_client_moved_to_is_for_the_shard_of_its_allocation() {
    let ([mut home, other], client) = moved();
    assert_eq!(
        other.server.elsewhere(&client.at, b"@"),
        Some(ShardIndex(0))
    );
    assert_eq!(home.server.elsewhere(&client.at, b"@"), None);
    assert!(home.send(&client, PEER).is_some());
    // Nothing is left of it when the allocation has ended.
    assert_eq!(home.refresh(&client, 0).code(), 0);
    assert_eq!(other.server.elsewhere(&client.at, b"@"), None);
    assert!(home.server.shared.is_empty());
}

#[test]
fn the_place_that_a_client_has_left_is_the_next_ones() {
    let ([mut home, mut other], client) = moved();
    let third = at("198.20.0.2:1");
    let id = home.last_relay().allocation;
    let ticket = home.server.ticket(id).unwrap();
    assert_eq!(follow(&mut home, &third, &ticket).code(), 0);
    assert!(home.send(&third, PEER).is_some());
    assert_eq!(other.server.elsewhere(&client.at, b"@"), None);
    other.allocate(&client);
}

#[test]
fn quotas_are_those_of_all_shards() {
    let mut config = config();
    config.quotas.user.allocations = 2;
    let [mut first, mut second] = two(config);
    first.allocate(&alice());
    second.allocate(&at(NEW_PLACE));
    assert_eq!(first.try_allocate(&at("198.20.0.2:1")).code(), 486);
    assert_eq!(second.try_allocate(&at("198.20.0.2:1")).code(), 486);
    assert_eq!(first.server.allocations(), 2);
    first.refresh(&alice(), 0);
    second.allocate(&at("198.20.0.2:1"));
}

#[test]
fn a_rate_is_that_of_all_shards() {
    let mut config = config();
    config.quotas.user.bytes_per_second = 1000;
    let [mut first, mut second] = two(config);
    for (world, client) in [(&mut first, &alice()), (&mut second, &at(NEW_PLACE))] {
        world.allocate(client);
        world.bind(client, 0x4000, PEER);
    }
    let spend = |world: &mut World, client: &Client, bytes| {
        let now = world.now;
        world
            .server
            .client_data(now, &client.at, channel(0x4000), Load::one(bytes))
    };
    assert!(spend(&mut first, &alice(), 2000).is_some());
    assert!(spend(&mut second, &at(NEW_PLACE), 1).is_none());
}

#[test]
fn what_a_network_may_be_sent_counts_for_all_shards() {
    let [mut first, mut second] = two(config());
    let from = client(Transport::Udp, "203.0.113.5:1", "x").at;
    let request = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
    let answers = |world: &mut World| {
        (0..4000)
            .filter(|_| world.raw(&from, &request).is_some())
            .count()
    };
    let (most, rest) = (answers(&mut first), answers(&mut second));
    // What is refused earns its own size: 20 of 32 bytes.
    let allowance = 16 * 1024;
    assert!((most + rest) * 32 <= 8000 * 20 + allowance, "{most} {rest}");
}

#[test]
fn a_nonce_of_one_shard_is_good_at_another() {
    let [mut first, mut second] = two(config());
    let nonce = first.nonce(&alice().at);
    second.nonces_known(&alice().at, &nonce);
    assert_eq!(second.try_allocate(&alice()).code(), 0);
}

#[test]
fn a_reserved_port_is_given_by_any_shard() {
    let [mut first, mut second] = two(config());
    let pair = EvenPort { reserve_next: true };
    let reply = first.ask(&alice(), Method::ALLOCATE, |request| {
        request.attribute(&RequestedTransport::UDP).attribute(&pair)
    });
    let reply = reply.unwrap();
    let token = reply.message().get::<ReservationToken>().unwrap().unwrap();
    let redeem = |world: &mut World, from: &str| {
        let fill = |request: Builder| {
            request
                .attribute(&RequestedTransport::UDP)
                .attribute(&token)
        };
        world.ask(&at(from), Method::ALLOCATE, fill).unwrap()
    };
    let second_half = redeem(&mut second, NEW_PLACE);
    assert_eq!(second_half.relayed().port(), reply.relayed().port() + 1);
    assert_eq!(redeem(&mut first, "198.20.0.2:1").code(), 508);
    // The shard that made the reservation does not give the port back.
    first.pass(60);
    assert!(second.server.shared.reservations().is_empty());
    assert_eq!(second.refresh(&at(NEW_PLACE), 600).code(), 0);
}

#[test]
fn a_relay_of_another_shard_is_a_peer_with_the_same_checks() {
    let [mut first, mut second] = two(config());
    let mine = first.allocate(&alice()).relayed();
    let theirs = second.allocate(&bob()).relayed();
    assert_eq!(first.permit(&alice(), &[&theirs.to_string()]), 0);
    let forward = first.send(&alice(), &theirs.to_string()).unwrap();
    let relay = forward.own.unwrap();
    assert_eq!(relay.allocation.shard(), ShardIndex(1));
    let now = first.now;
    let source = PeerAddr(forward.source.0);
    assert_eq!(source.0, mine);
    // Not before Bob has permitted it; never at the wrong shard.
    assert!(
        second
            .server
            .peer_data(now, relay, source, Load::one(4))
            .is_none()
    );
    assert_eq!(second.permit(&bob(), &[&mine.to_string()]), 0);
    assert!(
        first
            .server
            .peer_data(now, relay, source, Load::one(4))
            .is_none()
    );
    let backward = second
        .server
        .peer_data(now, relay, source, Load::one(4))
        .unwrap();
    assert_eq!(backward.client, bob().at);
    // And the host's other ports stay out of reach.
    second.refresh(&bob(), 0);
    assert!(first.send(&alice(), &theirs.to_string()).is_none());
}

proptest! {
    #[test]
    fn no_port_is_given_twice_and_all_come_back(
        steps in vec((0_usize..3, 0_u16..12, any::<bool>()), 1..60),
    ) {
        let mut config = config();
        config.ports = 50_000..=50_007;
        config.quotas = Quotas::default();
        let mut worlds = World::shards(config, 3);
        let mut live: BTreeSet<(usize, u16, SocketAddr)> = BTreeSet::new();
        for (shard, port, end) in steps {
            let from = at(&format!("198.20.0.7:{}", 1000 + port));
            let had = live.iter().find(|entry| (entry.0, entry.1) == (shard, port)).copied();
            let world = &mut worlds[shard];
            match (had, end) {
                (Some(entry), true) => {
                    prop_assert_eq!(world.refresh(&from, 0).code(), 0);
                    live.remove(&entry);
                }
                (None, false) => {
                    let reply = world.try_allocate(&from);
                    if live.len() == 8 {
                        prop_assert_eq!(reply.code(), 508);
                    } else if reply.code() == 0 {
                        let relayed = reply.relayed();
                        prop_assert!(live.iter().all(|entry| entry.2 != relayed));
                        live.insert((shard, port, relayed));
                    }
                }
                _ => {}
            }
            prop_assert_eq!(worlds[0].server.allocations() as usize, live.len());
        }
        for world in &mut worlds {
            world.pass(4000);
        }
        prop_assert!(worlds[0].server.shared.is_empty());
    }
}
