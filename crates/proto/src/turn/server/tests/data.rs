//! Data between client and peer.

use postern_wire::stun::{AttributeType, Builder, Class, Method, TransactionId};
use postern_wire::turn::{ChannelData, Data, DontFragment, Icmp, XorPeerAddress};

use super::super::*;
use super::world::*;

fn permitted() -> World {
    let mut world = World::new();
    world.allocate(&alice());
    world.permit(&alice(), &[PEER]);
    world
}

fn indication(fill: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
    let id = TransactionId([5; 12]);
    fill(Builder::new(Class::Indication, Method::SEND, id)).build()
}

#[test]
fn a_send_indication_goes_to_its_peer_from_the_relay() {
    let mut world = permitted();
    let forward = world.send(&alice(), PEER).unwrap();
    assert_eq!(forward.peer, peer(PEER));
    assert_eq!(forward.relay, world.last_relay());
    assert_eq!(forward.own, None);
    assert!(!forward.dont_fragment);
}

#[test]
fn the_df_bit_is_set_when_it_is_asked_for() {
    let mut world = permitted();
    let bytes = indication(|message| {
        message
            .attribute(&XorPeerAddress(addr(PEER)))
            .attribute(&DontFragment)
            .attribute(&Data(b"data"))
    });
    assert!(world.forwarded(&alice().at, &bytes).unwrap().dont_fragment);
}

#[test]
fn an_indication_that_is_not_complete_or_not_understood_is_dropped() {
    let mut world = permitted();
    let peer = XorPeerAddress(addr(PEER));
    let messages = [
        indication(|message| message),
        indication(|message| message.attribute(&peer)),
        indication(|message| message.attribute(&Data(b"data"))),
        indication(|message| {
            message
                .attribute(&peer)
                .attribute(&Data(b"data"))
                .raw_attribute(AttributeType(0x7abc), b"")
        }),
    ];
    for bytes in messages {
        assert!(world.forwarded(&alice().at, &bytes).is_none());
        assert_eq!(world.server.poll_transmit(), None);
    }
}

#[test]
fn channel_data_that_is_cut_short_or_on_no_channel_is_dropped() {
    let mut world = permitted();
    world.bind(&alice(), 0x4000, PEER);
    assert!(world.channel_data(&alice(), 0x4000).is_some());
    assert!(world.channel_data(&alice(), 0x4001).is_none());
    let bytes = ChannelData {
        channel: channel(0x4000),
        data: b"data",
    }
    .to_datagram();
    assert!(world.forwarded(&alice().at, &bytes[..7]).is_none());
    assert!(world.forwarded(&bob().at, &bytes).is_none());
}

#[test]
fn data_of_a_peer_comes_on_its_channel_or_in_an_indication() {
    let mut world = permitted();
    let relay = world.last_relay();
    let backward = world.peer_sends(relay, PEER).unwrap();
    assert_eq!(backward.client, alice().at);
    assert_eq!(backward.framing, Framing::Indication(peer(PEER)));
    world.bind(&alice(), 0x4000, PEER);
    let framing = world.peer_sends(relay, PEER).unwrap().framing;
    assert_eq!(framing, Framing::Channel(channel(0x4000)));
    let framing = world.peer_sends(relay, "8.8.8.8:4001").unwrap().framing;
    assert_eq!(framing, Framing::Indication(peer("8.8.8.8:4001")));
}

#[test]
fn a_relay_that_was_closed_gives_nothing_also_when_its_number_lives_on() {
    let mut world = permitted();
    let old = world.last_relay();
    world.refresh(&alice(), 0);
    assert!(world.peer_sends(old, PEER).is_none());
    world.allocate(&alice());
    world.permit(&alice(), &[PEER]);
    let new = world.last_relay();
    assert_eq!(old.allocation.index(), new.allocation.index());
    assert!(world.peer_sends(old, PEER).is_none());
    assert!(world.peer_sends(new, PEER).is_some());
}

#[test]
fn two_clients_of_one_server_reach_each_other_in_process() {
    let mut world = World::new();
    let a = world.allocate(&alice()).relayed();
    let a_relay = world.last_relay();
    let b = world.allocate(&bob()).relayed();
    let b_relay = world.last_relay();
    assert_eq!(world.bind(&alice(), 0x4000, &b.to_string()), 0);
    let forward = world.channel_data(&alice(), 0x4000).unwrap();
    assert_eq!(forward.own, Some(b_relay));
    assert_eq!(forward.source, RelayedAddr(a));
    let source = PeerAddr(forward.source.0);
    assert_eq!(
        world
            .server
            .peer_data(world.now, b_relay, source, Load::one(4)),
        None
    );
    assert_eq!(world.bind(&bob(), 0x4000, &a.to_string()), 0);
    let backward = world
        .server
        .peer_data(world.now, b_relay, source, Load::one(4));
    assert_eq!(backward.unwrap().client, bob().at);
    let back = world.channel_data(&bob(), 0x4000).unwrap();
    assert_eq!(back.own, Some(a_relay));
}

#[test]
fn an_icmp_error_reaches_the_client_if_the_peer_is_permitted() {
    let mut world = permitted();
    let (relay, icmp) = (world.last_relay(), Icmp::new(3, 4, 1400).unwrap());
    world
        .server
        .handle_icmp(world.now, relay, peer(OTHER_PEER), icmp);
    assert_eq!(world.server.poll_transmit(), None);
    world.server.handle_icmp(world.now, relay, peer(PEER), icmp);
    let transmit = world.server.poll_transmit().unwrap();
    assert_eq!(transmit.client, alice().at);
    let reply = Reply(transmit.payload);
    let message = reply.message();
    assert_eq!(message.method(), Method::DATA);
    assert_eq!(message.get(), Ok(Some(icmp)));
    assert_eq!(message.get(), Ok(Some(XorPeerAddress(addr(PEER)))));
}

#[test]
fn messages_that_nobody_fetches_do_not_pile_up() {
    let mut world = permitted();
    let (relay, icmp) = (world.last_relay(), Icmp::new(3, 1, 0).unwrap());
    for _ in 0..2 * MAX_QUEUED {
        world.server.handle_icmp(world.now, relay, peer(PEER), icmp);
    }
    assert_eq!(world.server.transmits.len(), MAX_QUEUED);
}
