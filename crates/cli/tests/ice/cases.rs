//! Host, server-reflexive and relayed candidates; one component and two.

use postern_lab::netns::Case;
use postern_lab::sim::{Filtering, Mapping, Nat};
use serde_json::Value;

use crate::scene::{Means, Scene};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "hosts_connect_in_both_roles",
        run: hosts_connect_in_both_roles,
    },
    Case {
        name: "homes_connect_by_their_reflexive_candidates_in_both_roles",
        run: homes_connect_by_their_reflexive_candidates_in_both_roles,
    },
    Case {
        name: "homes_that_cannot_meet_connect_by_relays_in_both_roles",
        run: homes_that_cannot_meet_connect_by_relays_in_both_roles,
    },
    Case {
        name: "two_components_connect_in_both_roles",
        run: two_components_connect_in_both_roles,
    },
];

pub(crate) const PLAIN: Means = Means {
    stun: false,
    turn: false,
    components: 1,
    mdns: false,
};

pub(crate) const ROLES: [bool; 2] = [true, false];

fn hosts_connect_in_both_roles() {
    let scene = Scene::public();
    for we_control in ROLES {
        let pairs = scene.meet(we_control, PLAIN, PLAIN);
        assert_eq!(kinds(&pairs[0]), ["host", "host"]);
    }
}

fn homes_connect_by_their_reflexive_candidates_in_both_roles() {
    let scene = Scene::homes(Nat::default());
    let stun = Means {
        stun: true,
        ..PLAIN
    };
    for we_control in ROLES {
        let pairs = scene.meet(we_control, stun, stun);
        for kind in kinds(&pairs[0]) {
            assert!(["srflx", "prflx"].contains(&kind), "{pairs:?}");
        }
    }
}

/// A relay of ours alone, of theirs alone, and of both.
fn homes_that_cannot_meet_connect_by_relays_in_both_roles() {
    let scene = Scene::homes(Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    ));
    let stun = Means {
        stun: true,
        ..PLAIN
    };
    let turn = Means {
        turn: true,
        ..PLAIN
    };
    for (ours, theirs) in [(turn, stun), (stun, turn), (turn, turn)] {
        for we_control in ROLES {
            let pairs = scene.meet(we_control, ours, theirs);
            assert!(kinds(&pairs[0]).contains(&"relay"), "{pairs:?}");
        }
    }
}

fn two_components_connect_in_both_roles() {
    let scene = Scene::homes(Nat::default());
    let two = Means {
        stun: true,
        components: 2,
        ..PLAIN
    };
    for we_control in ROLES {
        let pairs = scene.meet(we_control, two, two);
        let components: Vec<_> = pairs.iter().map(|pair| &pair["component"]).collect();
        assert_eq!(components, [1, 2]);
        assert_ne!(pairs[0]["remote"], pairs[1]["remote"]);
    }
}

pub(crate) fn kinds(pair: &Value) -> [&str; 2] {
    ["local_kind", "remote_kind"].map(|side| pair[side].as_str().unwrap())
}
