//! Data, permissions and channels.

use postern_wire::turn::Icmp;

use super::*;

const OTHER: &str = "203.0.113.6:7000";

#[test]
fn data_waits_for_the_permission_and_then_goes_in_order() {
    let mut world = World::allocated();
    for data in [b"one", b"two"] {
        assert_eq!(world.client.send(world.now, at(PEER), data), Ok(None));
    }
    world.run(secs(1));
    let sent: Vec<_> = world
        .server
        .relayed
        .iter()
        .map(|(_, d, _)| &d[..])
        .collect();
    assert_eq!(sent, [b"one", b"two"]);
    assert_eq!(world.done(Method::CREATE_PERMISSION).len(), 1);
    assert!(world.has(&Event::Permitted(at(PEER).ip())));
}

#[test]
fn what_waits_for_a_permission_is_bounded() {
    let mut world = World::allocated();
    for _ in 0..1000 {
        _ = world.client.send(world.now, at(PEER), b"data");
    }
    world.run(secs(1));
    assert_eq!(world.server.relayed.len(), MAX_WAITING);
}

#[test]
fn the_second_datagram_goes_in_a_channel() {
    let mut world = World::permitted();
    world.send(PEER, b"one");
    world.send(PEER, b"two");
    let expected = [
        (at(PEER), b"one".to_vec(), false),
        (at(PEER), b"two".to_vec(), true),
    ];
    assert_eq!(world.server.relayed, expected);
    let channel = ChannelNumber::MIN;
    assert_eq!(world.client.channel_of(world.now, at(PEER)), Some(channel));
    assert_eq!(world.client.peer_of(channel), Some(at(PEER)));
    world.input(at(LOCAL), &channel_data(0x4000, b"back"));
    assert!(world.has(&Event::Data {
        peer: at(PEER),
        payload: b"back".to_vec()
    }));
}

#[test]
fn without_channels_all_goes_in_indications() {
    let mut config = config();
    config.channels = false;
    config.dont_fragment = true;
    let mut world = World::new(Auth::Sha256, config);
    world.run(secs(1));
    for _ in 0..3 {
        world.send(PEER, b"data");
    }
    assert!(world.server.relayed.iter().all(|(_, _, channel)| !channel));
    assert_eq!(world.server.relayed.len(), 3);
}

#[test]
fn a_refused_peer_concerns_that_address_alone() {
    let mut world = World::allocated();
    world.server.forbidden.insert(at(PEER).ip());
    for peer in [PEER, OTHER] {
        assert_eq!(world.client.send(world.now, at(peer), b"x"), Ok(None));
    }
    world.run(secs(1));
    let failure = Failure::Forbidden;
    let peer = at(PEER).ip();
    assert!(world.has(&Event::PeerRefused { peer, failure }));
    assert_eq!(
        world.client.send(world.now, at(PEER), b"x"),
        Err(SendError::Refused(failure))
    );
    world.send(OTHER, b"y");
    assert_eq!(world.server.relayed.len(), 2);
    world.server.forbidden.clear();
    world.run(secs(61));
    world.send(PEER, b"again");
    assert_eq!(world.server.relayed.len(), 3, "a minute later it is asked");
}

#[test]
fn a_refused_channel_leaves_indications() {
    let mut world = World::permitted();
    world.server.errors.push_back((Method::CHANNEL_BIND, 400));
    for _ in 0..5 {
        world.send(PEER, b"data");
    }
    assert_eq!(world.server.relayed.len(), 5);
    assert!(world.server.relayed.iter().all(|(_, _, channel)| !channel));
    assert_eq!(world.done(Method::CHANNEL_BIND).len(), 1);
}

#[test]
fn only_permitted_peers_are_heard() {
    let mut world = World::permitted();
    assert_eq!(world.data_from(OTHER, b"who?"), Verdict::Consumed);
    world.input(at(LOCAL), &channel_data(0x4000, b"no such channel"));
    assert!(
        !world
            .events
            .iter()
            .any(|(_, e)| matches!(e, Event::Data { .. }))
    );
    world.data_from(PEER, b"me");
    assert!(world.has(&Event::Data {
        peer: at(PEER),
        payload: b"me".to_vec()
    }));
}

#[test]
fn an_icmp_error_is_told() {
    let mut world = World::permitted();
    let icmp = Icmp::new(3, 4, 1280).unwrap();
    let peer = at(PEER);
    let indication = Builder::new(Class::Indication, Method::DATA, TransactionId([9; 12]))
        .attribute(&XorPeerAddress(peer))
        .attribute(&icmp)
        .build();
    world.input(at(LOCAL), &indication);
    assert!(world.has(&Event::Icmp { peer, icmp }));
}

#[test]
fn families_without_a_relayed_address_and_giants_are_refused() {
    let mut world = World::permitted();
    let (now, v6) = (world.now, at("[2001:db8::5]:1"));
    assert_eq!(world.client.send(now, v6, b"x"), Err(SendError::Family));
    assert_eq!(
        world.client.send(now, at(PEER), &[0; 65_501]),
        Err(SendError::TooLong)
    );
    let mapped = at("[::ffff:203.0.113.5]:7000");
    assert!(world.client.send(now, mapped, b"x").unwrap().is_some());
}

#[test]
fn permissions_are_bounded() {
    let mut world = World::allocated();
    let peers = (0..300_u32).map(|n| 0x0b00_0000 + n);
    let refused = peers.filter(|ip| {
        let ip = std::net::Ipv4Addr::from_bits(*ip);
        world.client.permit(world.now, ip.into()) == Err(SendError::TooManyPeers)
    });
    assert_eq!(refused.count(), 300 - MAX_PERMISSIONS);
}

#[test]
fn over_a_stream_channel_data_is_padded_and_may_come_in_pieces() {
    for piece in [1, 3, 7, usize::MAX] {
        let mut config = config();
        config.transport = Transport::Stream;
        let mut world = World::new(Auth::Sha256, config);
        world.piece = piece;
        world.run(secs(1));
        world.send(PEER, b"first");
        world.run(secs(1));
        let sent = world.client.send(world.now, at(PEER), b"12345").unwrap();
        assert_eq!(sent.unwrap().payload.len(), 12, "4 + 5 + 3");
        let mut stream = channel_data(0x4000, b"12345");
        stream.extend([0; 3]);
        stream.extend(channel_data(0x4000, b"1234"));
        for part in stream.chunks(piece) {
            world.input(at(LOCAL), part);
        }
        for payload in [&b"12345"[..], b"1234"] {
            assert!(world.has(&Event::Data {
                peer: at(PEER),
                payload: payload.to_vec()
            }));
        }
    }
}

#[test]
fn a_stream_that_is_out_of_step_is_the_end() {
    let mut config = config();
    config.transport = Transport::Stream;
    let mut world = World::new(Auth::Open, config);
    world.run(secs(1));
    world.input(at(LOCAL), b"\x95SSH-2.0-OpenSSH\r\n");
    assert_eq!(world.failure(), Some(Failure::Malformed));
}
