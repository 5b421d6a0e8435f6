//! Two ICE agents in the simulated internet.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it has measured"
)]

use postern_lab::sim::scenario::{Home, Layer, Meeting, Outcome, Signalling, TwoHomes, describe};
use postern_lab::sim::{
    Allocation, Filtering, Firewall, Gate, Hairpin, Mapping, Nat, Pipe, Ports, Unsolicited, seed,
};
use postern_proto::ice::{CandidateKind, Config};
use std::fmt::Write;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RANDOM_WORLDS: u64 = 2000;
const MS: Duration = Duration::from_millis(1);

const MAPPINGS: [(&str, Mapping); 3] = [
    ("EIM", Mapping::EndpointIndependent),
    ("ADM", Mapping::AddressDependent),
    ("APDM", Mapping::AddressAndPortDependent),
];
const FILTERINGS: [(&str, Filtering); 3] = [
    ("EIF", Filtering::EndpointIndependent),
    ("ADF", Filtering::AddressDependent),
    ("APDF", Filtering::AddressAndPortDependent),
];

/// The nine kinds of NATs. Endpoint-independent ones preserve the port, the others draw
/// random ones from the full range.
fn kinds() -> Vec<(String, Nat)> {
    let all = MAPPINGS.iter().flat_map(|m| FILTERINGS.map(|f| (*m, f)));
    all.map(|((m, mapping), (f, filtering))| (format!("{m}/{f}"), Nat::new(mapping, filtering)))
        .collect()
}

/// Agents that give up after 12 s, which keeps the failures short.
fn impatient(left: Nat, right: Nat) -> TwoHomes {
    TwoHomes {
        config: Config {
            patience: Duration::from_secs(12),
            ..Config::default()
        },
        ..TwoHomes::new(Home::behind(left), Home::behind(right))
    }
}

fn run(homes: &TwoHomes, number: u64) -> (Meeting, Outcome) {
    let mut meeting = Meeting::new(homes, Instant::now(), seed(number));
    let outcome = meeting.run(LIMIT);
    (meeting, outcome)
}

fn assert_connects(homes: &TwoHomes, number: u64) -> (Meeting, Outcome) {
    let (meeting, outcome) = run(homes, number);
    if !outcome.is_connected() {
        panic!("seed {number}: {outcome:#?}\n{}", story(homes, number));
    }
    (meeting, outcome)
}

/// What happened, packet by packet, for people to read.
fn story(homes: &TwoHomes, number: u64) -> String {
    let mut meeting = Meeting::new(homes, Instant::now(), seed(number));
    meeting.world().trace(describe);
    meeting.run(LIMIT);
    meeting.world().trace_lines().join("\n")
}

/// Whether the pair connects, the same in every seed and for both sides, with candidates
/// trickled in the even seeds and exchanged all together in the odd ones.
fn verdict(left: Nat, right: Nat) -> bool {
    let connects = |number| {
        let mut homes = impatient(left, right);
        if number % 2 == 1 {
            let stagger = MS * 10 * u32::try_from(number).unwrap();
            homes.signalling = Signalling::Together { stagger };
        }
        let (mut meeting, outcome) = run(&homes, number);
        assert!(outcome.is_connected() || outcome.is_failed(), "{outcome:?}");
        assert!(
            outcome.is_failed() || meeting.agrees_on_the_path(),
            "{outcome:?}"
        );
        outcome.is_connected()
    };
    let first = connects(0);
    for number in 1..5 {
        assert_eq!(connects(number), first, "{left:?} {right:?} seed {number}");
    }
    first
}

#[test]
fn plain_ice_connects_57_of_the_81_pairs_of_nats() {
    let mut table = String::from("left \\ right");
    for (name, _) in kinds() {
        write!(table, " {name:>9}").unwrap();
    }
    let mut connected = 0;
    for (name, left) in kinds() {
        write!(table, "\n{name:<12}").unwrap();
        for (_, right) in kinds() {
            let ok = verdict(left, right);
            connected += u32::from(ok);
            write!(table, " {:>9}", if ok { "ok" } else { "no" }).unwrap();
        }
    }
    write!(table, "\n\nconnected: {connected} of 81").unwrap();
    insta::assert_snapshot!(table);
    assert_eq!(connected, 57);
}

/// When both sides have a valid pair, for 200 seeds and every stagger up to 30 ms, sorted.
fn times_to_valid(home: &Home) -> Vec<Duration> {
    let time = |number: u64| {
        let stagger = MS * u32::try_from(number % 31).unwrap();
        let homes = TwoHomes {
            signalling: Signalling::Together { stagger },
            ..TwoHomes::new(home.clone(), home.clone())
        };
        let (_, outcome) = assert_connects(&homes, number);
        outcome.both_valid_after().unwrap()
    };
    let mut times: Vec<_> = (0..200).map(time).collect();
    times.sort_unstable();
    println!(
        "p50 {:?}, p99 {:?}, max {:?}",
        times[99], times[197], times[199]
    );
    times
}

#[test]
fn a_path_is_valid_within_180_ms_of_authentication_when_peers_are_30_ms_apart() {
    let times = times_to_valid(&Home::behind(Nat::default()));
    assert!(times[199] <= MS * 180, "{:?}", times[199]);
}

#[test]
fn bridges_that_lead_nowhere_do_not_delay_it_past_180_ms() {
    for bridges in [1, 2] {
        let home = Home {
            bridges,
            ..Home::behind(Nat::default())
        };
        let times = times_to_valid(&home);
        assert!(times[199] <= MS * 180, "{:?}", times[199]);
    }
}

#[test]
fn in_random_worlds_ice_connects_where_it_can_and_nowhere_else() {
    let mut connected = 0;
    for number in 0..RANDOM_WORLDS {
        let mut homes = TwoHomes::random(seed(number));
        homes.config.patience = Duration::from_secs(20);
        let (mut meeting, outcome) = run(&homes, number);
        connected += u32::from(outcome.is_connected());
        let mut carries_data = || (0..10).any(|_| meeting.carries_data());
        assert!(!outcome.is_connected() || carries_data(), "seed {number}");
        let expected = match homes.plain_ice_connects() {
            Some(true) => outcome.is_connected(),
            Some(false) => outcome.is_failed(),
            None => outcome.is_connected() || outcome.is_failed(),
        };
        if !expected {
            panic!(
                "seed {number}: {homes:#?} {outcome:#?}\n{}",
                story(&homes, number)
            );
        }
    }
    println!("{connected} of {RANDOM_WORLDS} random worlds connect");
}

#[test]
fn two_hosts_in_one_home_connect_without_their_router() {
    let homes = TwoHomes {
        carrier: Some(Layer {
            v4: Gate::Nat(Nat::default()),
            ..Layer::default()
        }),
        ..TwoHomes::new(neighbour(), neighbour())
    };
    let (_, outcome) = assert_connects(&homes, 1);
    assert_eq!(
        outcome.sides[0].selected.unwrap().remote_kind,
        CandidateKind::Host
    );
}

fn neighbour() -> Home {
    Home {
        routers: Vec::new(),
        ..Home::behind(Nat::default())
    }
}

#[test]
fn two_homes_of_one_carrier_need_its_hairpin() {
    let connects = |hairpin| {
        let carrier = Nat {
            hairpin,
            ..Nat::default()
        };
        let homes = TwoHomes {
            carrier: Some(Layer {
                v4: Gate::Nat(carrier),
                ..Layer::default()
            }),
            ..impatient(Nat::default(), Nat::default())
        };
        run(&homes, 1).1.is_connected()
    };
    assert!(connects(Hairpin::ExternalSource));
    assert!(!connects(Hairpin::InternalSource));
    assert!(!connects(Hairpin::Off));
}

#[test]
fn ipv6_peers_connect_through_stateful_firewalls() {
    for number in 0..20 {
        let home = Home {
            routers: vec![Layer {
                v4: Gate::Closed,
                v6: Gate::Firewall(Firewall::default()),
            }],
            ipv4: false,
            ipv6: true,
            ..Home::behind(Nat::default())
        };
        let (_, outcome) = assert_connects(&TwoHomes::new(home.clone(), home), number);
        let path = outcome.sides[0].selected.unwrap();
        assert!(path.remote.is_ipv6());
        assert_eq!(path.local_kind, CandidateKind::Host);
    }
}

#[test]
fn dual_stack_peers_select_ipv6() {
    for number in 0..20 {
        let home = Home {
            routers: vec![Layer {
                v4: Gate::Nat(Nat::default()),
                v6: Gate::Firewall(Firewall::default()),
            }],
            ipv6: true,
            ..Home::behind(Nat::default())
        };
        let (_, outcome) = assert_connects(&TwoHomes::new(home.clone(), home), number);
        assert!(outcome.sides[0].selected.unwrap().remote.is_ipv6());
    }
}

#[test]
fn peers_behind_two_nats_each_connect() {
    for number in 0..20 {
        let home = || Home::behind(Nat::default()).and_behind(Nat::default());
        assert_connects(&TwoHomes::new(home(), home()), number);
    }
}

#[test]
fn a_peer_on_the_open_internet_connects_to_every_kind_of_nat() {
    for (_, nat) in kinds() {
        let open = neighbour();
        assert_connects(&TwoHomes::new(Home::behind(nat), open.clone()), 1);
        assert_connects(&TwoHomes::new(open, Home::behind(nat)), 2);
    }
}

#[test]
fn homes_with_the_same_private_addresses_connect() {
    for number in 0..20 {
        let homes = TwoHomes {
            same_addresses: true,
            ..TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()))
        };
        assert_connects(&homes, number);
    }
}

#[test]
fn peers_connect_in_100_seeds_when_each_access_link_loses_a_tenth() {
    for number in 0..100 {
        let mut homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
        for home in &mut homes.homes {
            home.access.loss = 0.1;
        }
        let (_, outcome) = run(&homes, number);
        assert!(outcome.is_connected(), "seed {number}: {outcome:?}");
    }
}

#[test]
fn peers_connect_over_links_that_jitter_reorder_and_duplicate() {
    for number in 0..50 {
        let mut homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
        for home in &mut homes.homes {
            home.access = Pipe {
                jitter: MS * 40,
                reordering: true,
                duplication: 0.2,
                ..home.access
            };
        }
        assert_connects(&homes, number);
    }
}

#[test]
fn peers_connect_when_one_direction_is_slow_and_lossy() {
    for number in 0..50 {
        let mut homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
        let slow = Pipe {
            latency: MS * 200,
            loss: 0.05,
            ..Pipe::default()
        };
        homes.homes[0].back = Some(slow);
        let (_, outcome) = assert_connects(&homes, number);
        let time = outcome.both_valid_after().unwrap();
        assert!(
            time >= MS * 230,
            "no answer is faster than the slow way: {time:?}"
        );
    }
}

#[test]
fn without_any_way_both_sides_give_up_when_their_patience_ends() {
    let blocked = Home {
        routers: vec![Layer::default()],
        ..Home::behind(Nat::default())
    };
    let homes = TwoHomes {
        homes: [blocked, Home::behind(Nat::default())],
        ..impatient(Nat::default(), Nat::default())
    };
    let (_, outcome) = run(&homes, 1);
    let [left, right] = outcome.sides.map(|side| side.failed.unwrap());
    assert_eq!(left.stun_servers_answered, 0, "{left:?}");
    assert_eq!(right.stun_servers_answered, 1, "{right:?}");
}

#[test]
fn an_idle_connection_outlives_the_timeouts_of_its_nats() {
    let homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
    let (mut meeting, before) = assert_connects(&homes, 1);
    let after = meeting.run_on(Duration::from_secs(600));
    assert_eq!(after, before);
    assert!(meeting.agrees_on_the_path());
}

#[test]
fn a_connection_survives_the_reboot_of_a_router_that_preserves_ports() {
    let homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
    let (mut meeting, before) = assert_connects(&homes, 1);
    let router = meeting.routers(0)[0];
    meeting.world().reboot(router);
    let after = meeting.run_on(Duration::from_secs(60));
    assert_eq!(after, before);
    assert!(meeting.agrees_on_the_path());
}

#[test]
fn a_connection_that_was_cut_for_45_s_is_found_again() {
    for number in 0..20 {
        let homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
        let (mut meeting, _) = assert_connects(&homes, number);
        let router = meeting.routers(0)[0];
        let wire = meeting.world().outer(router);
        meeting.world().set_running(wire, false);
        let cut = meeting.run_on(Duration::from_secs(45));
        assert!(!cut.is_connected(), "{cut:?}");
        meeting.world().set_running(wire, true);
        let again = meeting.run_on(Duration::from_secs(30));
        assert!(again.is_connected(), "seed {number}: {again:?}");
        assert!(meeting.agrees_on_the_path());
    }
}

#[test]
fn a_router_that_reboots_to_other_ports_is_found_at_the_new_ones() {
    let nat = Nat {
        allocation: Allocation::Random(Ports::ALL),
        ..Nat::default()
    };
    for number in 0..20 {
        let homes = TwoHomes::new(Home::behind(nat), Home::behind(nat));
        let (mut meeting, before) = assert_connects(&homes, number);
        let router = meeting.routers(0)[0];
        meeting.world().reboot(router);
        let after = meeting.run_on(Duration::from_secs(75));
        assert!(after.is_connected(), "seed {number}: {after:?}");
        assert_ne!(after.sides[1].selected, before.sides[1].selected);
        assert!(meeting.agrees_on_the_path());
    }
}

#[test]
fn the_same_seed_gives_the_same_conversation() {
    let trace = |number| {
        let mut homes = TwoHomes::new(Home::behind(Nat::default()), Home::behind(Nat::default()));
        homes.homes[0].access.jitter = MS * 10;
        let mut meeting = Meeting::new(&homes, Instant::now(), seed(number));
        meeting.world().trace(|payload| format!("{payload:x?}"));
        meeting.run(LIMIT);
        meeting.world().trace_lines().to_vec()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

/// What the low-TTL primer of a later agent is for: the early check of the other side
/// poisons the mapping, and repeating only keeps it poisoned.
#[test]
fn a_router_that_accepts_strangers_defeats_the_later_side() {
    let accepting = Nat {
        unsolicited: Unsolicited::Accept,
        ..Nat::default()
    };
    let homes = TwoHomes {
        signalling: Signalling::Together { stagger: MS * 400 },
        ..impatient(accepting, accepting)
    };
    let (_, outcome) = run(&homes, 1);
    assert!(outcome.is_failed(), "{outcome:?}");
}
