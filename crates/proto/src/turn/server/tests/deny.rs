//! The deny matrix: every denied address, named in every request, told to every relay,
//! when it is asked for and when the packet is sent.

use std::net::{IpAddr, SocketAddr};

use postern_wire::stun::{Builder, Method};
use postern_wire::turn::{
    AdditionalAddressFamily, AddressFamily, RequestedTransport, XorPeerAddress,
};

use super::super::*;
use super::policy::{ALLOWED, DENIED, cidr, ip};
use super::world::*;

const RELAYS: [RelayTransport; 2] = [RelayTransport::Udp, RelayTransport::Tcp];

fn everything() -> PeerPolicy {
    PeerPolicy::new()
        .allow(cidr("0.0.0.0/0"))
        .allow(cidr("::/0"))
}

fn with(policy: PeerPolicy) -> World {
    let mut config = config();
    config.policy = policy;
    World::with(config)
}

/// A UDP relay of Alice on UDP, and a TCP relay of Alice on TCP, of both families.
fn both_relays(policy: PeerPolicy) -> World {
    let mut world = with(policy);
    for transport in RELAYS {
        let requested = match transport {
            RelayTransport::Udp => RequestedTransport::UDP,
            RelayTransport::Tcp => RequestedTransport::TCP,
        };
        let reply = world.ask(&owner(transport), Method::ALLOCATE, |request| {
            request
                .attribute(&requested)
                .attribute(&AdditionalAddressFamily(AddressFamily::V6))
        });
        assert_eq!(reply.unwrap().all_relayed().len(), 2);
    }
    world
}

fn owner(transport: RelayTransport) -> Client {
    match transport {
        RelayTransport::Udp => alice(),
        RelayTransport::Tcp => alice_tcp(),
    }
}

fn connect(world: &mut World, to: &str) -> Option<u16> {
    let reply = world.ask(&alice_tcp(), Method::CONNECT, |request| {
        request.attribute(&XorPeerAddress(addr(to)))
    });
    reply.map(|reply| reply.code())
}

/// A peer comes to the TCP relay of its family.
fn attempt(world: &mut World, from: &str) -> Option<PeerConnection> {
    let allocation = tcp_allocation(world);
    let family = AddressFamily::of(addr(from).ip().to_canonical());
    let relay = RelayId { allocation, family };
    let now = world.now;
    world.server.handle_peer_connected(now, relay, peer(from))
}

/// The permission that a policy of the past gave is still there: the policy of now is
/// the only reason to refuse what it denies.
fn keep_permission(world: &mut World, transport: RelayTransport, ip: IpAddr) {
    let ends = world.now + std::time::Duration::from_secs(300);
    let id = world.server.table.of_client(&owner(transport).at).unwrap();
    let allocation = world.server.table.get_mut(id).unwrap();
    allocation.permissions.install(ip.to_canonical(), ends);
}

/// The addresses with a port each: disguises of one address are peers of their own.
fn rows(list: &[&str]) -> Vec<String> {
    list.iter()
        .zip(4000..)
        .map(|(row, port)| SocketAddr::new(ip(row), port).to_string())
        .collect()
}

#[test]
fn every_row_is_refused_by_every_request_and_in_every_packet() {
    let mut world = both_relays(PeerPolicy::new());
    for row in rows(DENIED) {
        for transport in RELAYS {
            let code = world.permit(&owner(transport), &[&row]);
            assert_eq!(code, 403, "CreatePermission {transport:?} {row}");
        }
        let mixed = world.permit(&alice(), &[PEER, &row]);
        assert_eq!(mixed, 403, "CreatePermission with another peer {row}");
        let bound = world.bind(&alice(), 0x4000, &row);
        assert_eq!(bound, 403, "ChannelBind {row}");
        assert!(world.channel_data(&alice(), 0x4000).is_none(), "{row}");
        assert!(world.send(&alice(), &row).is_none(), "Send {row}");
        assert_eq!(connect(&mut world, &row), Some(403), "Connect {row}");
    }
    assert!(world.send(&alice(), PEER).is_none(), "all peers or none");
    assert!(!has_connected(&world));
}

fn has_connected(world: &World) -> bool {
    let is_connect = |event: &Event| matches!(event, Event::Connect { .. });
    world.events.iter().any(is_connect)
}

#[test]
fn every_row_that_comes_to_a_tcp_relay_is_turned_away_for_the_policy_alone() {
    let mut denying = both_relays(PeerPolicy::new());
    let mut allowing = both_relays(everything());
    let mut come = |row: &str| {
        [&mut denying, &mut allowing].map(|world| {
            keep_permission(world, RelayTransport::Tcp, addr(row).ip());
            attempt(world, row).is_some()
        })
    };
    for row in rows(DENIED) {
        assert_eq!(come(&row), [false, true], "{row}");
    }
    for row in rows(ALLOWED) {
        assert_eq!(come(&row), [true, true], "{row}");
    }
}

#[test]
fn every_row_is_out_of_reach_from_when_a_policy_denies_it() {
    let mut world = both_relays(everything());
    let rows = rows(DENIED);
    for (row, number) in rows.iter().zip(0x4000..) {
        assert_eq!(world.bind(&alice(), number, row), 0, "{row}");
        assert!(world.channel_data(&alice(), number).is_some(), "{row}");
        assert!(world.send(&alice(), row).is_some(), "{row}");
        assert_eq!(world.permit(&alice_tcp(), &[row]), 0, "{row}");
        assert!(attempt(&mut world, row).is_some(), "{row}");
    }
    let connections = world.server.connections_of(tcp_allocation(&world)).len();
    assert_eq!(connections, rows.len());
    let now = world.now;
    world.server.set_policy(now, PeerPolicy::new());
    world.drain();
    assert_eq!(world.closed_connections().len(), connections);
    for (row, number) in rows.iter().zip(0x4000..) {
        assert!(world.channel_data(&alice(), number).is_none(), "{row}");
        assert!(world.send(&alice(), row).is_none(), "{row}");
        assert!(attempt(&mut world, row).is_none(), "{row}");
        assert_eq!(world.bind(&alice(), number, row), 403, "{row}");
        assert_eq!(connect(&mut world, row), Some(403), "{row}");
    }
    assert!(!has_connected(&world));
}

fn tcp_allocation(world: &World) -> AllocationId {
    world.server.table.of_client(&alice_tcp().at).unwrap()
}

#[test]
fn a_connection_that_is_being_made_ends_when_a_policy_denies_its_peer() {
    let mut world = both_relays(everything());
    assert_eq!(connect(&mut world, "10.0.0.1:80"), None);
    let connection = world.connecting();
    let now = world.now;
    world.server.set_policy(now, PeerPolicy::new());
    world.drain();
    assert_eq!(world.closed_connections(), [connection]);
    world.server.handle_connected(now, connection, Ok(()));
    world.drain();
    assert!(!matches!(world.events.last(), Some(Event::Splice { .. })));
}

#[test]
fn an_own_address_is_out_of_reach_from_when_no_rule_allows_it() {
    let other = "198.20.0.9";
    let own = || PeerPolicy::new().own(ip(other));
    let target = format!("{other}:22");
    let mut world = both_relays(own().allow(cidr("198.20.0.0/16")));
    assert_eq!(world.bind(&alice(), 0x4000, &target), 0);
    assert!(world.channel_data(&alice(), 0x4000).is_some());
    assert_eq!(connect(&mut world, &target), None);
    let now = world.now;
    world.server.set_policy(now, own());
    world.drain();
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    assert!(world.send(&alice(), &target).is_none());
    assert_eq!(world.closed_connections(), [world.connecting()]);
    assert_eq!(connect(&mut world, &target), Some(403));
}

#[test]
fn a_new_policy_ends_what_it_forbids_and_nothing_else() {
    let mut world = World::new();
    world.allocate(&alice());
    world.bind(&alice(), 0x4000, PEER);
    world.bind(&alice(), 0x4001, OTHER_PEER);
    let policy = PeerPolicy::new().deny(cidr("8.8.8.8"));
    world.server.set_policy(world.now, policy);
    assert!(world.channel_data(&alice(), 0x4000).is_none());
    assert!(world.channel_data(&alice(), 0x4001).is_some());
    assert_eq!(world.bind(&alice(), 0x4000, PEER), 403);
}

#[test]
fn nobody_is_at_port_zero() {
    let mut world = both_relays(everything());
    for host in [
        "8.8.8.8:0",
        "10.0.0.1:0",
        "[2600::1]:0",
        "[::ffff:8.8.8.8]:0",
    ] {
        // A permission is for all ports of the address.
        assert_eq!(world.permit(&alice(), &[host]), 0, "{host}");
        assert_eq!(world.bind(&alice(), 0x4000, host), 403, "{host}");
        assert!(world.send(&alice(), host).is_none(), "{host}");
        assert_eq!(connect(&mut world, host), Some(403), "{host}");
    }
}

#[test]
fn a_test_on_loopback_gets_through_an_allow_rule() {
    let mut config = config();
    config.relay_v4 = Some(RelayAddress::new(ip("127.0.0.1")));
    config.policy = PeerPolicy::new().allow(cidr("127.0.0.0/8"));
    let mut world = World::with(config);
    world.allocate(&alice());
    assert_eq!(world.permit(&alice(), &["127.0.0.1:3480"]), 0);
    assert!(world.send(&alice(), "127.0.0.1:3480").is_some());
    assert_eq!(world.permit(&alice(), &["192.168.0.1:3480"]), 403);
}

#[test]
fn only_the_relayed_addresses_of_the_host_are_peers() {
    let mut world = World::new();
    world.allocate(&alice());
    let theirs = world.allocate(&bob()).relayed().to_string();
    let host = format!("{RELAY_V4}:22");
    assert_eq!(world.permit(&alice(), &[&host]), 403);
    assert_eq!(world.bind(&alice(), 0x4001, &host), 403);
    assert_eq!(world.permit(&alice(), &[&theirs]), 0);
    assert!(world.send(&alice(), &theirs).is_some());
    assert!(world.send(&alice(), &host).is_none());
    world.refresh(&bob(), 0);
    assert!(world.send(&alice(), &theirs).is_none());
    assert_eq!(world.permit(&alice(), &[&theirs]), 403);
}

/// Loopback is allowed, and all own addresses; the server listens at these.
const LISTENERS: [&str; 4] = [
    "0.0.0.0:8443",
    "127.0.0.1:9641",
    "198.51.100.1:3478",
    "[::]:5349",
];

fn listening() -> Config {
    let mut config = config();
    config.own_endpoints = LISTENERS.iter().map(|at| addr(at)).collect();
    config.policy = everything().own(ip("198.20.0.9"));
    config
}

/// The ports of the server's own, by every address that leads there.
const OWN: &[&str] = &[
    "127.0.0.1:8443",
    "127.8.9.10:8443",
    "0.0.0.0:8443",
    "198.51.100.1:8443",
    "198.20.0.9:8443",
    "[::1]:8443",
    "[::ffff:127.0.0.1]:8443",
    "[::127.0.0.1]:8443",
    "[64:ff9b::7f00:1]:8443",
    "[2002:7f00:1::]:8443",
    "127.0.0.1:9641",
    "0.0.0.0:9641",
    "[::]:9641",
    "[::ffff:127.0.0.1]:9641",
    "[64:ff9b::7f00:1]:9641",
    "198.51.100.1:3478",
    "[2001:db8::1]:5349",
    "127.0.0.1:5349",
];

/// Other programs there, and other hosts.
const OTHERS: &[&str] = &[
    "127.0.0.1:3480",
    "127.0.0.1:3478",
    "127.0.0.2:9641",
    "198.20.0.9:9641",
    "198.51.100.1:22",
    "8.8.8.8:8443",
    "[::1]:8444",
    "[2600::1]:5349",
];

#[test]
fn no_rule_allows_what_the_server_itself_listens_at() {
    let mut world = World::with(listening());
    both_families(&mut world);
    for own in OWN {
        for transport in RELAYS {
            assert_eq!(world.permit(&owner(transport), &[own]), 403, "{own}");
            keep_permission(&mut world, transport, addr(own).ip());
        }
        assert_eq!(world.bind(&alice(), 0x4000, own), 403, "{own}");
        assert!(world.send(&alice(), own).is_none(), "{own}");
        assert_eq!(connect(&mut world, own), Some(403), "{own}");
        assert!(attempt(&mut world, own).is_none(), "{own}");
    }
    for (other, number) in OTHERS.iter().zip(0x4100..) {
        assert_eq!(world.permit(&alice(), &[other]), 0, "{other}");
        assert_eq!(world.bind(&alice(), number, other), 0, "{other}");
        assert!(world.channel_data(&alice(), number).is_some(), "{other}");
        assert!(world.send(&alice(), other).is_some(), "{other}");
        assert_eq!(connect(&mut world, other), None, "{other}");
    }
}

fn both_families(world: &mut World) {
    for (client, transport) in [
        (alice(), RequestedTransport::UDP),
        (alice_tcp(), RequestedTransport::TCP),
    ] {
        let fill = |request: Builder| {
            request
                .attribute(&transport)
                .attribute(&AdditionalAddressFamily(AddressFamily::V6))
        };
        assert_eq!(
            world.ask(&client, Method::ALLOCATE, fill).unwrap().code(),
            0
        );
    }
}

#[test]
fn a_new_policy_does_not_open_what_the_server_listens_at() {
    let mut world = World::with(listening());
    both_families(&mut world);
    let now = world.now;
    world.server.set_policy(now, everything());
    assert_eq!(connect(&mut world, "127.0.0.1:9641"), Some(403));
    assert_eq!(world.permit(&alice(), &["127.0.0.1:3480"]), 0);
    assert!(world.send(&alice(), "127.0.0.1:9641").is_none());
    assert!(world.send(&alice(), "127.0.0.1:3480").is_some());
}

#[test]
fn what_listens_behind_a_nat_is_out_of_reach_in_front_of_it_too() {
    let mut config = listening();
    let public = ip("198.20.0.1");
    config.relay_v4 = Some(RelayAddress {
        bind: ip(RELAY_V4),
        advertised: public,
    });
    let mut world = World::with(config);
    both_families(&mut world);
    for own in ["198.20.0.1:3478", "198.20.0.1:8443"] {
        assert_eq!(connect(&mut world, own), Some(403), "{own}");
    }
    assert_eq!(connect(&mut world, "198.20.0.1:22"), None);
}

/// A listener of another transport has the number of a relay's port.
#[test]
fn a_live_relayed_address_is_a_peer_also_with_the_port_of_a_listener() {
    let mut config = listening();
    config.ports = 8443..=8444;
    let mut world = World::with(config);
    let mut relays = [alice(), bob()].map(|client| (world.allocate(&client).relayed(), client));
    relays.sort_by_key(|(relayed, _)| *relayed);
    let [(theirs, them), (_, me)] = relays;
    let theirs = theirs.to_string();
    assert_eq!(theirs, "198.51.100.1:8443");
    assert_eq!(world.permit(&me, &[&theirs]), 0);
    assert!(world.send(&me, &theirs).unwrap().own.is_some());
    world.refresh(&them, 0);
    assert!(world.send(&me, &theirs).is_none());
    assert_eq!(world.permit(&me, &[&theirs]), 403);
}
