//! The client of gateways against every personality, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a test may panic, looks at one kind of event, and says how many it looked at"
)]

use std::time::{Duration, Instant};

use postern_lab::gateway::{
    Expected, Fault, GATEWAY, Lease, NatPmp, OTHER_GATEWAY, Pcp, Personality, Play, Role, Row,
    ServiceAt, personalities,
};
use postern_proto::portmap::{Event, Known, MAX_ENTRIES, Protocol, Protocols, Wish};
use postern_wire::upnp::ssdp::NotifyKind;

fn start(role: &Role) -> Play {
    Play::new(Instant::now(), role.gateways.clone())
}

/// What is wrong with a role's mapping, if anything is.
fn complaint(role: &Role) -> Option<String> {
    let mut play = start(role);
    let id = play.map(Play::wish());
    let outcome = play.outcome();
    let mapping = match (outcome, role.expected) {
        (Some(Err(why)), Expected::Failed(expected)) => {
            let wrong = why != expected || !play.rows().is_empty();
            return wrong.then(|| format!("failed with {why:?}, rows {:?}", play.rows()));
        }
        (Some(Ok(mapping)), Expected::Mapped { .. }) => mapping,
        (outcome, _) => return Some(format!("{outcome:?}")),
    };
    let Expected::Mapped {
        protocol,
        gateway,
        port,
        lifetime,
        double_nat,
    } = role.expected
    else {
        return Some("not expected".to_owned());
    };
    let right = mapping.protocol == protocol
        && mapping.gateway == gateway
        && port.map_or(mapping.external_port != 4001, |port| {
            port == mapping.external_port
        })
        && mapping.lifetime.abs_diff(lifetime) <= 1
        && mapping.double_nat == double_nat;
    if !right {
        return Some(format!("{mapping:?}"));
    }
    // It stands for three hours, and then it is gone.
    for _ in 0..18 {
        play.run(Duration::from_secs(600));
        let rows = play.rows();
        let ours = rows
            .iter()
            .filter(|(_, port, row)| *port == mapping.external_port && row.internal_port == 4000);
        if ours.count() != 1 || rows.len() != 1 {
            return Some(format!("not kept: {rows:?}"));
        }
    }
    play.with_client(|client, now| client.unmap(now, id));
    play.run(Duration::from_secs(30));
    let rows = play.rows();
    let violations: Vec<_> = play
        .gateways
        .iter()
        .flat_map(|g| g.violations().to_vec())
        .collect();
    let removed = play
        .events
        .iter()
        .any(|event| matches!(event, Event::Removed(_, Ok(()))));
    (!rows.is_empty() || !violations.is_empty() || !removed)
        .then(|| format!("left {rows:?}, {violations:?}, removed {removed}"))
}

#[test]
fn every_personality_is_understood() {
    let roles = personalities();
    assert!(roles.len() >= 40, "{}", roles.len());
    let wrong: Vec<String> = roles
        .iter()
        .filter_map(|role| complaint(role).map(|why| format!("{}: {why}", role.name)))
        .collect();
    println!("{} of {} right", roles.len() - wrong.len(), roles.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tables_end_however_they_end() {
    for role in personalities() {
        let mut play = start(&role);
        if !role.gateways.iter().any(|(_, p)| p.upnp) {
            continue;
        }
        play = Play::with(
            play.now,
            role.gateways.clone(),
            Protocols::only(Protocol::Upnp),
        );
        play.map(Play::wish());
        let made = matches!(play.outcome(), Some(Ok(_)));
        play.with_client(|client, now| client.list(now));
        let listed = |event: &Event| match event {
            Event::Listed(entries) => Some(entries.clone()),
            _ => None,
        };
        assert!(
            play.run_until(Duration::from_secs(3600), |play| play
                .events
                .iter()
                .any(|e| listed(e).is_some())),
            "{}",
            role.name
        );
        let entries = play.events.iter().find_map(listed).unwrap().unwrap();
        let most = if role.name.contains("without an end") {
            MAX_ENTRIES
        } else {
            1
        };
        assert_eq!(entries.len(), if made { most } else { 0 }, "{}", role.name);
    }
}

/// From a wish to a mapping and to its end, with one fault; how many messages there were, and
/// whether anything is left that does not end.
fn with_fault(role: &Role, message: usize, fault: Fault) -> (usize, bool) {
    let mut play = start(role);
    play.inject(message, fault);
    let id = play.map(Play::wish());
    _ = play.outcome();
    if !play.is_dead() {
        play.with_client(|client, now| client.unmap(now, id));
        play.run_until(Duration::from_secs(60), |play| {
            play.is_dead() || play.client.is_idle()
        });
    }
    if play.is_dead() {
        play.run(Duration::from_secs(1));
        if !play.journal.is_empty() {
            let journal = std::mem::take(&mut play.journal);
            play.revive();
            for mapping in journal {
                play.with_client(|client, now| client.remove_foreign(now, Play::wish(), mapping));
            }
            play.run(Duration::from_secs(60));
        }
    }
    let now = play.now;
    let endless = |row: &Row| {
        row.ends
            .is_none_or(|ends| ends > now + Duration::from_secs(604_800))
    };
    let left = play.rows().iter().any(|(_, _, row)| endless(row));
    (play.messages, left)
}

#[test]
fn no_fault_at_any_message_leaves_a_mapping_without_an_end() {
    let mut played = 0;
    for role in personalities() {
        let (messages, left) = with_fault(&role, usize::MAX, Fault::Drop);
        assert!(!left, "{} without a fault", role.name);
        for message in 0..messages.min(120) {
            for fault in [Fault::Drop, Fault::Garbage, Fault::Kill] {
                let (_, left) = with_fault(&role, message, fault);
                assert!(!left, "{}: {fault:?} at message {message}", role.name);
                played += 1;
            }
        }
    }
    println!("{played} faults");
    assert!(played > 3000, "{played}");
}

fn plain(pcp: Pcp, natpmp: NatPmp, upnp: bool) -> Personality {
    Personality {
        pcp,
        natpmp,
        upnp,
        ..Personality::default()
    }
}

/// How long after its gateway has restarted and said so a mapping stands again.
fn after_reboot(
    personality: Personality,
    tell: impl Fn(&Play) -> Vec<(std::net::SocketAddr, std::net::SocketAddr, Vec<u8>)>,
) -> Duration {
    let mut play = Play::new(Instant::now(), vec![(GATEWAY, personality)]);
    play.map(Play::wish());
    assert!(play.outcome().unwrap().is_ok());
    play.run(Duration::from_secs(900));
    let now = play.now;
    play.gateways[0].reboot(now);
    assert!(play.rows().is_empty());
    play.run(Duration::from_secs(3));
    let said = tell(&play);
    let then = play.now;
    play.send(said);
    for _ in 0..600 {
        if !play.rows().is_empty() {
            break;
        }
        play.run(Duration::from_millis(50));
    }
    play.now - then
}

#[test]
fn a_mapping_is_made_again_within_six_seconds_of_an_announcement() {
    for (pcp, natpmp) in [
        (Pcp::On, NatPmp::Off),
        (Pcp::Off, NatPmp::On),
        (Pcp::On, NatPmp::On),
    ] {
        let took = after_reboot(plain(pcp, natpmp, false), |play| {
            play.gateways[0].announcements(play.now)
        });
        assert!(
            took < Duration::from_secs(6),
            "{pcp:?} {natpmp:?}: {took:?}"
        );
    }
}

#[test]
fn a_mapping_is_made_again_within_six_seconds_of_a_notification() {
    let took = after_reboot(plain(Pcp::Off, NatPmp::Off, true), |play| {
        play.gateways[0].notifications(NotifyKind::Alive)
    });
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_changed_epoch_in_an_answer_makes_all_mappings_again() {
    let mut play = Play::new(
        Instant::now(),
        vec![(GATEWAY, plain(Pcp::On, NatPmp::Off, false))],
    );
    let wishes = [4000, 4100].map(|internal_port| Wish {
        internal_port,
        external_port: internal_port,
        ..Play::wish()
    });
    let ids = wishes.map(|wish| play.map(wish));
    play.run(Duration::from_secs(900));
    assert_eq!(play.rows().len(), 2);
    let now = play.now;
    play.gateways[0].reboot(now);
    // The next answer, to whatever, tells.
    play.with_client(|client, now| client.heal(now, ids[0]));
    play.run(Duration::from_secs(6));
    assert_eq!(play.rows().len(), 2);
}

#[test]
fn a_forged_announcement_of_another_host_is_not_heard() {
    let mut play = Play::new(
        Instant::now(),
        vec![(GATEWAY, plain(Pcp::On, NatPmp::Off, false))],
    );
    play.map(Play::wish());
    assert!(play.outcome().unwrap().is_ok());
    play.run(Duration::from_secs(900));
    let messages = play.messages;
    let mut forged = play.gateways[0].announcements(play.now - Duration::from_secs(890));
    for (from, ..) in &mut forged {
        from.set_ip([192, 168, 1, 66].into());
    }
    play.send(forged);
    play.run(Duration::from_secs(10));
    assert_eq!(play.messages, messages + 1);
}

#[test]
fn a_mapping_that_is_listed_and_dead_is_healed() {
    for personality in [
        plain(Pcp::Off, NatPmp::Off, true),
        Personality {
            lease: Lease::Only725,
            ..Personality::default()
        },
    ] {
        let mut play = Play::new(Instant::now(), vec![(GATEWAY, personality)]);
        let id = play.map(Play::wish());
        assert!(play.outcome().unwrap().is_ok());
        play.gateways[0].rot();
        play.run(Duration::from_secs(7200));
        assert!(!play.rows()[0].2.works, "renewing does not help");
        play.with_client(|client, now| client.heal(now, id));
        play.run(Duration::from_secs(5));
        assert!(play.rows()[0].2.works);
    }
}

#[test]
fn what_another_process_made_at_the_second_service_is_deleted_there() {
    let cast = personalities();
    let role = cast
        .iter()
        .find(|role| role.name == "both services say up, one works");
    let mut play = start(role.unwrap());
    play.map(Play::wish());
    let mapping = play.outcome().unwrap().unwrap();
    play.revive();
    play.with_client(|client, now| client.remove_foreign(now, Play::wish(), mapping));
    play.run(Duration::from_secs(5));
    assert!(play.rows().is_empty());
    let removed = |event: &Event| matches!(event, Event::Removed(_, Ok(())));
    assert!(play.events.iter().any(removed));
}

#[test]
fn what_one_of_two_gateways_has_made_is_deleted_there() {
    let cast = personalities();
    let two = cast
        .iter()
        .find(|role| role.name == "two gateways, one behind another NAT")
        .unwrap();
    // The other one is slow: whoever is ready first is not the one.
    let mut gateways = two.gateways.clone();
    gateways[1].1.delay = Duration::from_millis(40);
    let mut play = Play::new(Instant::now(), gateways);
    play.map(Play::wish());
    let mapping = play.outcome().unwrap().unwrap();
    assert_eq!(mapping.gateway, OTHER_GATEWAY);
    play.revive();
    play.with_client(|client, now| client.remove_foreign(now, Play::wish(), mapping));
    play.run(Duration::from_secs(5));
    assert!(play.rows().is_empty());
}

#[test]
fn a_gateway_that_is_known_is_used_without_waiting_for_others() {
    let took = |known: Option<Known>| {
        let other = Personality {
            services: vec![ServiceAt {
                external: "10.0.0.2",
                ..ServiceAt::default()
            }],
            ..Personality::default()
        };
        let gateways = vec![(GATEWAY, other), (OTHER_GATEWAY, Personality::default())];
        let mut play = Play::knowing(Instant::now(), gateways, known);
        let start = play.now;
        play.map(Play::wish());
        let mapping = play.outcome().unwrap().unwrap();
        assert_eq!(mapping.gateway, OTHER_GATEWAY);
        play.now - start
    };
    let known = |location: &str| {
        Some(Known {
            protocol: Protocol::Upnp,
            location: Some(location.parse().unwrap()),
        })
    };
    let most = Duration::from_millis(10);
    assert!(took(known("http://192.168.1.2:5000/root.xml")) < most);
    assert!(took(None) > most);
    // One that is not there any longer is no obstacle.
    let stale = took(known("http://192.168.1.2:5001/gone.xml"));
    assert!(stale < Duration::from_millis(700), "{stale:?}");
}

#[test]
fn without_a_gateway_the_answer_comes_within_three_seconds() {
    let mut play = Play::new(
        Instant::now(),
        vec![(GATEWAY, plain(Pcp::Off, NatPmp::Off, false))],
    );
    let start = play.now;
    play.map(Play::wish());
    assert!(play.outcome().unwrap().is_err());
    assert!(play.now - start <= Duration::from_secs(3));
}

#[test]
fn two_services_with_a_public_address_are_told_from_private_ones() {
    let private = Personality {
        natpmp: NatPmp::On,
        services: vec![ServiceAt {
            external: "10.0.0.2",
            ..ServiceAt::default()
        }],
        ..Personality::default()
    };
    let mut play = Play::new(Instant::now(), vec![(GATEWAY, private)]);
    play.with_client(|client, now| client.survey(now));
    play.run(Duration::from_secs(3));
    let Some(Event::Surveyed(survey)) =
        play.events.iter().find(|e| matches!(e, Event::Surveyed(_)))
    else {
        panic!("no survey");
    };
    let names: Vec<_> = survey
        .found
        .iter()
        .map(|found| found.protocol.as_str())
        .collect();
    assert_eq!(names, ["natpmp", "upnp"]);
    assert_eq!(survey.found[1].model, "Lab Fake & Sons 1");
}

#[test]
fn pinholes_are_made_kept_and_removed_by_pcp_and_by_upnp() {
    let firewall = ServiceAt {
        urn: "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
        ..ServiceAt::default()
    };
    let upnp = Personality {
        services: vec![firewall],
        ..Personality::default()
    };
    for personality in [upnp, plain(Pcp::On, NatPmp::On, false)] {
        let mut play = Play::v6(Instant::now(), personality);
        let wish = Wish {
            external_port: 0,
            ..Play::wish()
        };
        let id = play.map(wish);
        let mapping = play.outcome().unwrap().unwrap();
        assert_eq!(mapping.external_port, 4000);
        assert_eq!(mapping.external_address, Some(mapping.internal_address));
        assert!(!mapping.double_nat);
        play.run(Duration::from_secs(9000));
        assert_eq!(play.rows().len(), 1);
        play.with_client(|client, now| client.unmap(now, id));
        play.run(Duration::from_secs(5));
        assert!(play.rows().is_empty());
    }
}
