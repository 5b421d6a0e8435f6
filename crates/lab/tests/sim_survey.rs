//! Random worlds: the agents do what is possible in each.

use postern_lab::sim::survey::Survey;
use std::thread;

/// Worlds of the survey; their seeds are 0 and up. `make sim` has more.
const WORLDS: u64 = 2000;
/// Threads that share them.
const SHARES: u64 = 4;

#[test]
fn in_2000_random_worlds_two_peers_find_the_paths_that_are_possible() {
    let share = |first: u64| {
        let mut survey = Survey::default();
        survey.extend((0..WORLDS).filter(|number| number % SHARES == first));
        survey
    };
    let mut survey = Survey::default();
    thread::scope(|scope| {
        let shares: Vec<_> = (0..SHARES)
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        for part in shares {
            survey.merge(part.join().unwrap_or_default());
        }
    });
    for (class, tally) in survey.tallies() {
        let (rate, low, high) = tally.rate();
        println!(
            "{:<26} {:>5} worlds, direct {rate:.3} ({low:.3} – {high:.3}), possible {:.3?}, {:?}",
            class.as_str(),
            tally.runs,
            tally.expected(),
            tally.ends
        );
    }
    let visited: u32 = survey.tallies().map(|(_, tally)| tally.runs).sum();
    assert_eq!(u64::from(visited), WORLDS);
    assert_eq!(
        survey.surprises(),
        [],
        "postern lab random --seed NUMBER tells why"
    );
    let unlikely: Vec<_> = survey.unlikely().collect();
    assert!(unlikely.is_empty(), "{unlikely:#?}");
}
