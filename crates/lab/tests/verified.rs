//! The client of gateways looks at its mappings from outside, and heals those that are dead: in
//! virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and looks at one kind of event"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_lab::gateway::{
    Expected, Fault, Forwards, GATEWAY, Lease, NatPmp, Outside, Pcp, Personality, Play,
    personalities,
};
use postern_proto::portmap::{Event, Listener, Mapping, MappingId, Wish};
use postern_wire::transport::Transport;

/// A gateway of each protocol that does this with what is mapped.
fn gateways(forwards: Forwards) -> [Personality; 4] {
    let upnp = Personality {
        forwards,
        ..Personality::default()
    };
    let endless = Personality {
        lease: Lease::Only725,
        ..upnp.clone()
    };
    let datagrams = |pcp, natpmp| Personality {
        pcp,
        natpmp,
        upnp: false,
        ..upnp.clone()
    };
    [
        datagrams(Pcp::On, NatPmp::Off),
        datagrams(Pcp::Off, NatPmp::On),
        upnp.clone(),
        endless,
    ]
}

fn play(personality: Personality) -> Play {
    Play::verified(Instant::now(), vec![(GATEWAY, personality)])
}

/// The mapping that is told first.
fn made(play: &mut Play, wish: Wish) -> (MappingId, Mapping) {
    let id = play.map(wish);
    (id, play.outcome().unwrap().unwrap())
}

fn healed(play: &Play) -> Vec<&Mapping> {
    fn of(event: &Event) -> Option<&Mapping> {
        match event {
            Event::Healed(_, mapping) => Some(mapping),
            _ => None,
        }
    }
    play.events.iter().filter_map(of).collect()
}

/// The last that is told of a mapping which stands.
fn last(play: &Play) -> &Mapping {
    fn of(event: &Event) -> Option<&Mapping> {
        match event {
            Event::Made(_, mapping)
            | Event::Renewed(_, mapping)
            | Event::Moved(_, mapping)
            | Event::Healed(_, mapping) => Some(mapping),
            _ => None,
        }
    }
    play.events.iter().rev().find_map(of).unwrap()
}

#[test]
fn every_mapping_is_verified_but_behind_a_second_nat_and_where_nothing_is_forwarded() {
    for role in personalities() {
        let Expected::Mapped { double_nat, .. } = role.expected else {
            continue;
        };
        let mut play = Play::verified(Instant::now(), role.gateways.clone());
        let (_, mapping) = made(&mut play, Play::wish());
        let forwards = |(_, personality): &(_, Personality)| personality.forwards;
        let is_deaf = role
            .gateways
            .iter()
            .map(forwards)
            .any(|f| f == Forwards::Never);
        let works = !double_nat && !is_deaf;
        let what = (mapping.verified, mapping.double_nat);
        assert_eq!(what, (Some(works), double_nat), "{}", role.name);
        assert_eq!(play.rows().len(), 1, "{}", role.name);
    }
}

#[test]
fn a_mapping_that_is_dead_from_the_start_is_made_again_before_it_is_told() {
    for personality in gateways(Forwards::AfterDeletion) {
        for transport in Transport::ALL {
            let mut play = play(personality.clone());
            let wish = Wish {
                transport,
                ..Play::wish()
            };
            let (_, mapping) = made(&mut play, wish);
            assert_eq!(mapping.verified, Some(true));
            assert_eq!(mapping.external_port, 4001);
            assert_eq!(play.outside.probes, 4, "three that fail, and one");
            assert!(play.rows()[0].2.works);
        }
    }
}

#[test]
fn a_gateway_that_never_forwards_is_told_and_not_asked_for_ever() {
    for personality in gateways(Forwards::Never) {
        let mut play = play(personality);
        let (id, mapping) = made(&mut play, Play::wish());
        assert_eq!(mapping.verified, Some(false));
        assert!(!mapping.double_nat);
        assert_eq!(play.outside.probes, 6, "it was healed once, in vain");
        play.run(Duration::from_secs(1200));
        assert_eq!(play.outside.probes, 6, "until it is renewed");
        play.run(Duration::from_secs(1500));
        assert_eq!(play.outside.probes, 12);
        assert_eq!(last(&play).verified, Some(false));
        assert!(healed(&play).is_empty());
        play.with_client(|client, now| client.unmap(now, id));
        play.run(Duration::from_secs(30));
        assert!(play.rows().is_empty());
    }
}

#[test]
fn a_mapping_that_dies_later_is_healed_at_the_next_renewal() {
    for personality in gateways(Forwards::Always) {
        let mut play = play(personality);
        let (_, mapping) = made(&mut play, Play::wish());
        assert_eq!(mapping.verified, Some(true));
        play.gateways[0].rot();
        play.run(Duration::from_secs(2400));
        assert!(play.rows()[0].2.works);
        let healed = healed(&play);
        assert_eq!(healed.len(), 1);
        assert_eq!(healed[0].verified, Some(true));
        assert_eq!(healed[0].external_port, mapping.external_port);
    }
}

#[test]
fn a_mapping_that_is_healed_at_wish_is_told_as_healed() {
    let mut play = play(Personality::default());
    let (id, _) = made(&mut play, Play::wish());
    play.gateways[0].rot();
    play.with_client(|client, now| client.heal(now, id));
    play.run(Duration::from_secs(5));
    assert_eq!(healed(&play).len(), 1);
    assert!(play.rows()[0].2.works);
}

#[test]
fn a_server_that_does_not_answer_says_nothing_and_nothing_is_deleted() {
    for personality in gateways(Forwards::Never) {
        let mut play = play(personality);
        play.outside.answers = false;
        let (_, mapping) = made(&mut play, Play::wish());
        assert_eq!(mapping.verified, None);
        assert_eq!(play.outside.probes, 3);
    }
}

#[test]
fn another_programs_port_is_healed_over_tcp_and_left_alone_over_udp() {
    for personality in gateways(Forwards::AfterDeletion) {
        for (transport, verified) in [(Transport::Tcp, Some(true)), (Transport::Udp, None)] {
            let mut play = play(personality.clone());
            play.outside.listener = Some(Listener::Another);
            let wish = Wish {
                transport,
                ..Play::wish()
            };
            let (_, mapping) = made(&mut play, wish);
            assert_eq!(mapping.verified, verified);
            assert_eq!(play.rows()[0].2.works, verified.is_some());
        }
    }
}

#[test]
fn where_nobody_listens_nothing_is_said_and_nothing_is_deleted() {
    let mut play = play(Personality {
        forwards: Forwards::Never,
        ..Personality::default()
    });
    play.outside.listener = Some(Listener::Nobody);
    let (_, mapping) = made(&mut play, Play::wish());
    assert_eq!((mapping.verified, play.outside.probes), (None, 1));
}

#[test]
fn an_address_outside_that_is_not_the_gateways_is_another_nat() {
    for personality in gateways(Forwards::Always) {
        let mut play = play(personality);
        let sees: IpAddr = [45, 45, 9, 9].into();
        play.outside = Outside {
            sees,
            ..Outside::default()
        };
        let (_, mapping) = made(&mut play, Play::wish());
        assert_eq!(mapping.external_address, Some([45, 45, 1, 1].into()));
        assert!(mapping.double_nat);
        assert_eq!(mapping.verified, Some(false));
        assert_eq!(play.outside.probes, 3, "making it again does not help");
    }
}

#[test]
fn a_mapping_for_another_host_is_looked_at_over_tcp_only() {
    for (transport, probes) in [(Transport::Tcp, 1), (Transport::Udp, 0)] {
        let mut play = play(Personality {
            secure: false,
            ..Personality::default()
        });
        play.outside.listener = Some(Listener::Another);
        let wish = Wish {
            transport,
            internal_host: Some([192, 168, 1, 20].into()),
            ..Play::wish()
        };
        let (_, mapping) = made(&mut play, wish);
        assert_eq!(play.outside.probes, probes);
        let verified = (probes > 0).then_some(true);
        assert_eq!(mapping.verified, verified);
    }
}

#[test]
fn what_is_given_up_while_it_is_looked_at_is_removed_and_never_told() {
    for personality in gateways(Forwards::Never) {
        for wait in [0, 50, 500, 2100, 4000, 7700, 9000] {
            let mut play = play(personality.clone());
            let id = play.map(Play::wish());
            play.run_until(Duration::from_secs(20), |play| play.outside.probes > 0);
            play.run(Duration::from_millis(wait));
            let told = play.events.len();
            play.with_client(|client, now| client.unmap(now, id));
            play.run(Duration::from_secs(60));
            assert!(play.rows().is_empty(), "{wait}");
            let mut rest = play.events.iter().skip(told);
            let standing = |event: &Event| matches!(event, Event::Made(..) | Event::Healed(..));
            assert!(!rest.any(standing), "{wait}");
            assert!(play.client.is_idle());
        }
    }
}

#[test]
fn no_fault_while_a_mapping_is_healed_leaves_one_without_an_end() {
    let endless = |play: &mut Play| {
        let now = play.now;
        let is_endless = |ends: Option<Instant>| ends.is_none_or(|ends| ends > now + WEEK);
        play.rows().iter().any(|(_, _, row)| is_endless(row.ends))
    };
    const WEEK: Duration = Duration::from_secs(604_800);
    for personality in gateways(Forwards::AfterDeletion) {
        for message in 0..60 {
            for fault in [Fault::Drop, Fault::Garbage, Fault::Kill] {
                let mut play = play(personality.clone());
                play.inject(message, fault);
                let id = play.map(Play::wish());
                _ = play.outcome();
                if play.is_dead() {
                    play.run(Duration::from_secs(1));
                    let journal = std::mem::take(&mut play.journal);
                    play.revive();
                    for mapping in journal {
                        let wish = Play::wish();
                        play.with_client(|client, now| client.remove_foreign(now, wish, mapping));
                    }
                } else {
                    play.with_client(|client, now| client.unmap(now, id));
                }
                play.run(Duration::from_secs(60));
                assert!(!endless(&mut play), "{fault:?} at message {message}");
            }
        }
    }
}
