//! Every pair of NAT behaviours, and bad networks.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test may panic on overflow"
)]

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::net::{Cut, DependsOn, Nat, Pair};
use super::{ms, secs};

/// Mapping and filtering.
type Behaviour = (DependsOn, DependsOn);

fn behaviours() -> Vec<Behaviour> {
    let all = DependsOn::ALL.into_iter();
    all.flat_map(|mapping| DependsOn::ALL.map(|filtering| (mapping, filtering)))
        .collect()
}

/// What checks alone can connect: one side lets everything in, or one side has one mapping for
/// all and filters by address at most, or both have one mapping for all.
fn can_connect(a: Behaviour, b: Behaviour) -> bool {
    use DependsOn::{AddressAndPort, Nothing};
    let open = |(_, filtering)| filtering == Nothing;
    let easy = |(mapping, filtering)| mapping == Nothing && filtering != AddressAndPort;
    let steady = |(mapping, _)| mapping == Nothing;
    open(a) || open(b) || easy(a) || easy(b) || (steady(a) && steady(b))
}

fn behind(a: Behaviour, b: Behaviour) -> Pair {
    Pair::behind(
        Nat::at("45.45.1.1:40000").mapping(a.0).filtering(a.1),
        Nat::at("45.45.2.2:50000").mapping(b.0).filtering(b.1),
    )
}

#[test]
fn exactly_the_57_of_81_pairs_of_nats_connect_that_checks_can_connect() {
    let mut connected = 0;
    for a in behaviours() {
        for b in behaviours() {
            let mut pair = behind(a, b);
            pair.link();
            pair.run(secs(41));
            let selected = [&pair.a, &pair.b].map(|peer| peer.agent.selected().is_some());
            let can = can_connect(a, b);
            assert_eq!(selected, [can, can], "{a:?} {b:?}");
            assert_eq!(pair.a.failed_at().is_none(), can);
            connected += u32::from(can);
        }
    }
    assert_eq!(connected, 57);
}

/// Two homes, of which one learns the other's credentials later.
fn staggered(first: bool, stagger: Duration, cut: Cut) -> Pair {
    let home = (DependsOn::Nothing, DependsOn::AddressAndPort);
    let mut pair = behind(home, home);
    pair.cut = cut;
    if first {
        pair.link_a()
    } else {
        pair.link_b()
    }
    pair.run(stagger);
    if first {
        pair.link_b()
    } else {
        pair.link_a()
    }
    pair
}

#[test]
fn a_stagger_of_any_length_costs_nothing() {
    for stagger in (0..10_000).step_by(37).map(ms) {
        for first in [true, false] {
            let mut pair = staggered(first, stagger, Box::new(|_, _, _| false));
            let start = pair.elapsed();
            pair.run_until_selected();
            let valid = pair.a.valid_at().max(pair.b.valid_at());
            assert!(valid.unwrap() - start <= ms(180), "{stagger:?}");
        }
    }
}

#[test]
fn two_homes_connect_within_10_s_when_a_tenth_of_the_packets_is_lost() {
    for seed in 0..=255 {
        let mut random = ChaCha20Rng::from_seed([seed; 32]);
        let stagger = ms(u64::from(random.next_u32() % 1000));
        let cut = Box::new(move |_, _, _| random.next_u32() % 10 == 0);
        let mut pair = staggered(seed % 2 == 0, stagger, cut);
        let start = pair.elapsed();
        pair.run_until_selected();
        assert!(pair.elapsed() - start < secs(10), "seed {seed}");
    }
}

#[test]
fn both_sides_agree_on_a_path_whatever_is_lost_delayed_and_reordered() {
    for seed in 0..=255 {
        let mut pair = Pair::new();
        for n in 1..4 {
            pair.host_a(&format!("45.45.1.{n}:1000"));
            pair.host_b(&format!("45.45.2.{n}:2000"));
        }
        let mut delays = ChaCha20Rng::from_seed([seed; 32]);
        let mut losses = ChaCha20Rng::from_seed([seed; 32]);
        pair.delay = Box::new(move || ms(u64::from(delays.next_u32() % 200)));
        pair.cut = Box::new(move |_, _, _| losses.next_u32() % 10 < 2);
        pair.link();
        pair.run_until_selected();
        pair.run(secs(1));
        let (a, b) = (pair.a.agent.selected(), pair.b.agent.selected());
        let mirrored = b.map(|path| (path.remote, path.local));
        assert_eq!(
            a.map(|path| (path.local, path.remote)),
            mirrored,
            "seed {seed}"
        );
    }
}
