//! Candidates whose address is a multicast DNS name, of ours and of the other make.
//!
//! In each case one side is told of nothing but an address where nobody is, so that the two meet
//! only if the other has found the one behind the name that it was told.

use postern_lab::netns::{Case, Ipv6};
use serde_json::{Value, json};

use crate::cases::{PLAIN, ROLES};
use crate::scene::{Means, Scene};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a_name_of_ours_is_found_by_ours_in_both_roles",
        run: a_name_of_ours_is_found_by_ours_in_both_roles,
    },
    Case {
        name: "a_name_of_ours_is_found_over_ipv6",
        run: a_name_of_ours_is_found_over_ipv6,
    },
    Case {
        name: "a_name_of_ours_is_found_by_the_other_make_in_both_roles",
        run: a_name_of_ours_is_found_by_the_other_make_in_both_roles,
    },
    Case {
        name: "a_name_of_the_other_make_is_found_by_ours_in_both_roles",
        run: a_name_of_the_other_make_is_found_by_ours_in_both_roles,
    },
    Case {
        name: "reflexive_candidates_do_not_tell_what_names_hide",
        run: reflexive_candidates_do_not_tell_what_names_hide,
    },
];

const NAMED: Means = Means {
    mdns: true,
    ..PLAIN
};

fn a_name_of_ours_is_found_by_ours_in_both_roles() {
    let scene = Scene::one_home(Ipv6::None);
    for alice_controls in ROLES {
        let (mut alice, named) = scene.start_ours("alice", alice_controls, NAMED);
        let (mut bob, told) = scene.start_ours("bob", !alice_controls, PLAIN);
        assert_hidden(&named);
        alice.tell(&nowhere(&told));
        bob.tell(&named);
        let pair = bob.event("connected")["pair"].clone();
        assert_at(&pair["remote"], "192.168.1.");
        alice.event("connected");
    }
}

fn a_name_of_ours_is_found_over_ipv6() {
    let scene = Scene::one_home(Ipv6::Firewalled);
    let (mut alice, mut named) = scene.start_ours("alice", true, NAMED);
    let (mut bob, told) = scene.start_ours("bob", false, PLAIN);
    // What everybody can reach is no secret, and not what this is about.
    let public = lines(&named);
    let public = public.iter().filter(|line| line.contains(" 2a45:"));
    assert_eq!(public.count(), 1, "{named}");
    retain(&mut named, |line| line.contains(".local "));
    assert_eq!(lines(&named).len(), 2, "{named}");
    alice.tell(&nowhere(&told));
    bob.tell(&named);
    let pair = bob.event("connected")["pair"].clone();
    assert_at(&pair["remote"], "[fd");
    alice.event("connected");
}

fn a_name_of_ours_is_found_by_the_other_make_in_both_roles() {
    let scene = Scene::one_home(Ipv6::None);
    for we_control in ROLES {
        let (mut ours, named) = scene.start_ours("alice", we_control, NAMED);
        let (mut theirs, told) = scene.start_theirs(!we_control, PLAIN);
        assert_hidden(&named);
        ours.tell(&nowhere(&told));
        theirs.tell(&named);
        theirs.event("connected");
        assert_eq!(theirs.event("echoed")["count"], 20);
        ours.event("connected");
    }
}

fn a_name_of_the_other_make_is_found_by_ours_in_both_roles() {
    let scene = Scene::one_home(Ipv6::None);
    for we_control in ROLES {
        let (mut ours, told) = scene.start_ours("alice", we_control, PLAIN);
        let (mut theirs, named) = scene.start_theirs(!we_control, NAMED);
        assert_hidden(&named);
        ours.tell(&named);
        theirs.tell(&nowhere(&told));
        let pair = ours.event("connected")["pair"].clone();
        assert_at(&pair["remote"], "192.168.1.");
        theirs.event("connected");
        assert_eq!(theirs.event("echoed")["count"], 20);
    }
}

fn reflexive_candidates_do_not_tell_what_names_hide() {
    let scene = Scene::one_home(Ipv6::None);
    let means = Means {
        stun: true,
        turn: true,
        ..NAMED
    };
    let (_alice, told) = scene.start_ours("alice", true, means);
    assert_hidden(&told);
    let lines = lines(&told);
    let reflexive = lines.iter().find(|line| line.contains("typ srflx"));
    assert!(
        reflexive.is_some_and(|line| line.contains("raddr 0.0.0.0 rport 9")),
        "{told}"
    );
    assert!(
        lines.iter().any(|line| line.contains("typ relay")),
        "{told}"
    );
}

/// What an agent has told, with an address of its network where nobody is in place of its own.
fn nowhere(told: &Value) -> Value {
    let mut told = told.clone();
    told["candidates"] = json!(["candidate:1 1 udp 2130706431 192.168.1.99 9999 typ host"]);
    told
}

/// No line has an address of the home's network, and one has a name.
fn assert_hidden(told: &Value) {
    let lines = lines(told);
    assert!(lines.iter().any(|line| line.contains(".local ")), "{told}");
    assert!(
        !lines.iter().any(|line| line.contains("192.168.")),
        "{told}"
    );
}

fn assert_at(address: &Value, start: &str) {
    let address = address.as_str().unwrap();
    assert!(address.starts_with(start), "{address}");
}

fn lines(told: &Value) -> Vec<String> {
    serde_json::from_value(told["candidates"].clone()).unwrap()
}

fn retain(told: &mut Value, keep: impl Fn(&str) -> bool) {
    let mut lines = lines(told);
    lines.retain(|line| keep(line));
    told["candidates"] = json!(lines);
}
