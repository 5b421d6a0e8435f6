//! Refreshes of the allocation, permissions and channels.

use super::*;

#[test]
fn the_allocation_is_refreshed_before_it_ends_with_time_to_spare() {
    let mut world = World::allocated();
    world.run(secs(3600));
    assert!(world.client.allocation().is_some());
    let refreshes = world.done(Method::REFRESH);
    assert!((6..=7).contains(&refreshes.len()), "{refreshes:?}");
    for pair in refreshes.windows(2) {
        assert!((505..=540).contains(&(pair[1] - pair[0])), "{refreshes:?}");
    }
}

#[test]
fn a_short_lifetime_is_refreshed_at_its_half() {
    let mut world = World::new(Auth::Open, config());
    world.server.lifetime = 20;
    world.run(secs(100));
    assert_eq!(world.failure(), None);
    assert!(world.done(Method::REFRESH).len() >= 9);
}

#[test]
fn an_allocation_that_nobody_refreshes_expires() {
    let mut world = World::allocated();
    world.server.deaf.insert(Method::REFRESH.number());
    world.run(secs(700));
    assert_eq!(world.failure(), Some(Failure::Expired));
    let (at, _) = world.events.last().unwrap();
    assert_eq!(at.as_secs(), 600);
}

#[test]
fn a_server_that_fails_for_the_moment_is_asked_again() {
    let mut world = World::allocated();
    world.server.errors.push_back((Method::REFRESH, 500));
    world.run(secs(590));
    assert_eq!(world.done(Method::REFRESH).len(), 2);
    assert_eq!(world.failure(), None);
}

#[test]
fn a_server_that_forgot_the_allocation_ends_it() {
    let mut world = World::permitted();
    world.server.client = None;
    world.run(secs(300));
    assert_eq!(world.failure(), Some(Failure::AllocationMismatch));
}

#[test]
fn a_permission_in_use_is_refreshed_every_four_minutes() {
    let mut world = World::permitted();
    for _ in 0..60 {
        world.data_from(PEER, b"data");
        world.run(secs(60));
    }
    let created = world.done(Method::CREATE_PERMISSION);
    assert_eq!(created.len(), 16);
    assert!(created.windows(2).all(|w| w[1] - w[0] == 240));
    let permitted = Event::Permitted(at(PEER).ip());
    let news = world.events.iter().filter(|(_, e)| *e == permitted);
    assert_eq!(news.count(), 1);
}

#[test]
fn a_permission_that_nobody_uses_ends() {
    let mut world = World::permitted();
    world.run(secs(1500));
    assert!(!world.client.is_permitted(at(PEER).ip()));
    assert_eq!(world.done(Method::CREATE_PERMISSION).len(), 3);
}

#[test]
fn a_channel_in_use_is_refreshed_and_an_idle_one_cools_down() {
    let mut world = World::permitted();
    world.send(PEER, b"1");
    for _ in 0..20 {
        world.send(PEER, b"data");
        world.run(secs(60));
    }
    let (channel, peer) = (ChannelNumber::MIN, at(PEER));
    let bound = Event::ChannelBound { peer, channel };
    assert!(world.has(&bound));
    assert_eq!(world.done(Method::CHANNEL_BIND).len(), 3);
    world.run(secs(900));
    assert!(world.has(&Event::ChannelEnded { peer, channel }));
    assert_eq!(world.client.channel_of(world.now, peer), None);
    world
        .client
        .permit(world.now, at("203.0.113.6:1").ip())
        .unwrap();
    world.run(secs(1));
    world.send("203.0.113.6:7000", b"other");
    let other = world.client.channel_of(world.now, at("203.0.113.6:7000"));
    assert_eq!(other, ChannelNumber::new(0x4001).ok(), "0x4000 cools down");
    world.run(secs(301));
    world.send("203.0.113.6:7001", b"third");
    world.run(secs(1));
    let third = world.client.channel_of(world.now, at("203.0.113.6:7001"));
    assert_eq!(third, Some(ChannelNumber::MIN), "it has cooled down");
}

#[test]
fn a_lost_refresh_of_permission_and_channel_does_no_harm() {
    let mut world = World::permitted();
    world.send(PEER, b"1");
    world.server.deaf.insert(Method::CREATE_PERMISSION.number());
    world.server.deaf.insert(Method::CHANNEL_BIND.number());
    for _ in 0..6 {
        world.send(PEER, b"data");
        world.run(secs(40));
    }
    world.server.deaf.clear();
    for _ in 0..30 {
        world.send(PEER, b"data");
        world.run(secs(30));
    }
    assert!(world.server.relayed.last().unwrap().2, "in the channel");
    assert_eq!(world.failure(), None);
}
