//! The cases.

use std::sync::Mutex;

use postern_lab::netns::{Case, run_twin};
use postern_lab::sim::matrix::{Cell, End, Situation, situations};

/// Every case.
pub(crate) const ALL: &[Case] = &[Case {
    name: "real_nats_and_simulated_ones_let_the_same_pairs_meet_in_the_same_way",
    run: real_nats_and_simulated_ones_let_the_same_pairs_meet_in_the_same_way,
}];

/// Of each kind of situation a few, the hopeless ones first: they take longest.
const SAMPLE: [(&str, &str); 20] = [
    ("APDM/APDF", "APDM/APDF"),
    ("APDM/APDF", "ADM/APDF"),
    ("same carrier", "no hairpin"),
    ("block 800", "block 800"),
    ("EIM/APDF", "EIM/APDF"),
    ("ADM/ADF", "EIM/ADF"),
    ("APDM/EIF", "APDM/APDF"),
    ("EIM/APDF", "APDM/APDF"),
    ("EIM/APDF", "APDM/ADF"),
    ("ADM/APDF", "EIM/APDF"),
    ("ADM/ADF", "APDM/APDF"),
    ("APDM/ADF", "APDM/APDF"),
    ("APDM/ADF", "ADM/APDF"),
    ("EIM/APDF", "seq"),
    ("EIM/APDF", "seq, 20/s"),
    ("two NATs", "EIM/APDF"),
    ("two NATs", "APDM/APDF"),
    ("IPv6 firewall", "IPv6 firewall"),
    ("same router", "same router"),
    ("same carrier", "hairpin"),
];
/// Worlds at a time.
const WORLDS: usize = 6;
/// Meetings behind real NATs where the first one was a surprise: a birthday may fail.
const MORE: u64 = 2;

fn real_nats_and_simulated_ones_let_the_same_pairs_meet_in_the_same_way() {
    let all = situations();
    let find = |(left, right): &(&str, &str)| {
        let named = |s: &&Situation| (s.left.as_str(), s.right.as_str()) == (*left, *right);
        all.iter().find(named).unwrap()
    };
    let waiting = Mutex::new(SAMPLE.iter().map(find).rev().collect::<Vec<_>>());
    let surprises = Mutex::new(Vec::new());
    let work = || {
        while let Some(situation) = next(&waiting) {
            let found = surprise(situation);
            surprises.lock().unwrap().extend(found);
        }
    };
    std::thread::scope(|scope| (0..WORLDS).for_each(|_| drop(scope.spawn(work))));
    let surprises = surprises.into_inner().unwrap();
    assert!(surprises.is_empty(), "{surprises:#?}");
}

fn next<'a>(waiting: &Mutex<Vec<&'a Situation>>) -> Option<&'a Situation> {
    waiting.lock().unwrap().pop()
}

fn surprise(situation: &Situation) -> Option<String> {
    let simulated = Cell::measure(&situation.homes, 0..3).end();
    let real = |number| run_twin(&situation.homes, number).unwrap().run.end();
    let mut ends: Vec<End> = vec![real(0)];
    if ends != [simulated] {
        ends.extend((1..=MORE).map(real));
    }
    let agree = ends.iter().filter(|end| **end == simulated).count();
    let (left, right) = (&situation.left, &situation.right);
    (agree * 2 <= ends.len())
        .then(|| format!("{left} x {right}: {ends:?}, in the simulator {simulated:?}"))
}
